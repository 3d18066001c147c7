"""How many words two texts share: what a ranking by NLL may owe to mere repetition."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable

from kvcore.data.sample import Sample
from kvcore.errors import KvError

_WORD = re.compile(r"\w+")


def words_of(text: str) -> tuple[str, ...]:
    """Return the words of a text in lower case, without punctuation."""
    return tuple(_WORD.findall(text.casefold()))


def jaccard(a: str | Iterable[Hashable], b: str | Iterable[Hashable]) -> float:
    """Divide what two texts, or two sequences of token ids, have in common by all that they have.

    Returns 0 (nothing shared) to 1 (the same set), exact. Where either is empty nothing is shared:
    0, also for two empty ones.

    `a`, `b`: two texts, compared as sets of lower-cased words without punctuation, or two sequences
    of ids, compared as sets of ids.

    Raises KvError where one is a text and the other is not.

    Examples
    --------
    >>> jaccard("The mean, of entries", "the MEAN")
    0.5
    """
    if isinstance(a, str) != isinstance(b, str):
        raise KvError("jaccard: one is a text, the other is not; pass two texts or two id lists.")
    first, second = (frozenset(words_of(x) if isinstance(x, str) else x) for x in (a, b))
    union = first | second
    return len(first & second) / len(union) if union else 0.0


def answer_overlap(sample: Sample) -> float:
    """Return the Jaccard overlap, 0 to 1, of a sample's passage with its answer."""
    return jaccard(sample.passage, sample.answer)
