"""Texts that follow from a sample and the corpus it stands in: keywords, sentences, other passages.

By name, as conditions read them from ``Sample.texts``:

=====================  =============================================================
name                   text
=====================  =============================================================
``keywords(query)``    the content words of the query, in its order; the query if it has none
``first_sentence``     the passage up to the first end of a sentence
``keywords(passage)``  the words of the passage that stand out in the corpus (TF-IDF)
``keywords(another)``  the same of another passage
``other_passage``      that other passage
``shuffled(style)``    the words of the sample's ``surrogate(style)``, shuffled
``another(style)``     the ``surrogate(style)`` of that other passage
=====================  =============================================================

The first two need the sample alone. The other passage is of another cluster; seed, sample id and
corpus choose it: neither order nor the number of samples that are measured changes it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from kvcore.data.overlap import words_of
from kvcore.data.sample import Sample
from kvcore.io import digest

OTHER_PASSAGE, FIRST_SENTENCE = "other_passage", "first_sentence"
OF_QUERY, OF_PASSAGE, OF_ANOTHER = "keywords(query)", "keywords(passage)", "keywords(another)"
OF_CORPUS = (OF_PASSAGE, OF_ANOTHER, OTHER_PASSAGE)
"""Texts that need no model, but the other samples."""
KEYWORDS = 5
"""How many words of a passage are its keywords."""
_SENTENCE_END = re.compile(r"[.!?](?=\s)")
_SURROGATE = re.compile(r"(shuffled|another)\((\w+)\)")
STOP_WORDS = frozenset(
    """a about above after again all also am an and any are as at be because been before being
    below between both but by can cannot could did do does doing done down during each few for
    from further get had has have having he her here hers him his how i if in into is it its just
    like many may me might more most much must my no nor not now of off on once one only or other
    our ours out over own per same shall she should so some such than that the their theirs them
    then there these they this those through to too under until up upon us use used using very
    was we were what when where which while who whom whose why will with would you your""".split()
)


def content_words(text: str) -> tuple[str, ...]:
    """Return the words of a text that are no stop words, in lower case, each once."""
    return tuple(dict.fromkeys(word for word in words_of(text) if word not in STOP_WORDS))


def first_sentence(text: str) -> str:
    """Return a text up to the first ``.``, ``!`` or ``?`` before white space, or all of it."""
    end = _SENTENCE_END.search(text)
    return text[: end.end()] if end else text


def own_texts(sample: Sample) -> tuple[tuple[str, str], ...]:
    """Return what follows from the sample alone."""
    return (
        (OF_QUERY, " ".join(content_words(sample.query)) or sample.query),
        (FIRST_SENTENCE, first_sentence(sample.passage)),
    )


def surrogate_style(name: str) -> str:
    """Return the style of the surrogate that a text is made from, "" for other texts."""
    match = _SURROGATE.fullmatch(name)
    return match[2] if match else ""


def of_another(name: str) -> bool:
    """Whether a text is taken from another sample."""
    return name in (OTHER_PASSAGE, OF_ANOTHER) or name.startswith("another(")


def keywords_in(passages: Sequence[str]) -> Callable[[str], str]:
    """Return what gives the words of a passage with the largest TF-IDF among these passages.

    A word weighs its count in the passage times the logarithm of the number of passages over the
    number of those that hold it. The heaviest come first, of equal ones the first in the passage.
    """
    holding = Counter(word for passage in passages for word in set(words_of(passage)))

    def keywords(passage: str) -> str:
        words = words_of(passage)
        counts = Counter(words)
        weights = {
            word: counts[word] * math.log(len(passages) / max(1, holding[word]))
            for word in content_words(passage)
        }
        heaviest = sorted(weights, key=lambda word: (-weights[word], words.index(word)))
        return " ".join(heaviest[:KEYWORDS])

    return keywords


def needs_corpus(name: str) -> bool:
    """Whether a text is made by `with_derived`."""
    return name in OF_CORPUS or bool(surrogate_style(name))


def others_of(
    samples: Sequence[Sample], corpus: Sequence[Sample], seed: int
) -> Mapping[str, Sample]:
    """Return for each sample's id another sample of the corpus, of another cluster.

    (seed, id) choose a place in the corpus, sorted by id; from there on the first of another
    cluster is taken. A sample without any is left out.
    """
    ordered = sorted(corpus, key=lambda sample: sample.id)
    others = {}
    for sample in samples:
        start = int(digest(str(seed), sample.id), 16) % len(ordered)
        places = (ordered[(start + step) % len(ordered)] for step in range(len(ordered)))
        other = next((other for other in places if other.cluster != sample.cluster), None)
        if other is not None:
            others[sample.id] = other
    return others


def shuffled(text: str, seed: int, sample_id: str) -> str:
    """Return a text with its words in an order that (seed, id) decide."""
    words = list(enumerate(text.split()))
    words.sort(key=lambda word: digest(str(seed), sample_id, str(word[0]), word[1]))
    return " ".join(word for _, word in words)


def with_derived(
    samples: Sequence[Sample],
    others: Mapping[str, Sample],
    keywords: Callable[[str], str],
    names: Sequence[str],
    seed: int,
) -> tuple[Sample, ...]:
    """Give samples the named texts, where they can be made; a text of that name is replaced.

    - `others`: the other sample of each, by the sample's id.
    - `keywords`: from `keywords_in`.
    """

    def text_of(sample: Sample, name: str) -> str:
        other = others.get(sample.id) if of_another(name) else sample
        style = surrogate_style(name)
        if other is None:
            return ""
        if style:
            written = dict(other.texts).get(f"surrogate({style})", "")
            return written if of_another(name) else shuffled(written, seed, sample.id)
        return other.passage if name == OTHER_PASSAGE else keywords(other.passage)

    return tuple(
        replace(
            sample,
            texts=(
                *(pair for pair in sample.texts if pair[0] not in names),
                *((name, text) for name in names if (text := text_of(sample, name))),
            ),
        )
        for sample in samples
    )
