"""From docstrings to clean samples: what is dropped, why, and how many."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
from scipy import sparse

from kvcore.data.docstrings.prose import DANGLING, Prose, read
from kvcore.data.overlap import words_of
from kvcore.data.sample import Sample

ANSWER_WORDS = (3, 25)
PASSAGE_WORDS = (40, 130)
SHARED_BY = 3  # a sentence in this many docstrings (names and numbers apart) is boilerplate
SHINGLE = 3  # words
NEAR_DUPLICATE = 0.15  # texts that share more of their shingles than this are near-duplicates
MIN_WORDLIKE = 0.75  # share of the tokens of a passage that are words or plain numbers

_WORD = re.compile(r"\w+")
# Filled in per object by SciPy's templates: never twice the same sentence, yet never written.
_GENERATED = re.compile(r"is identically equivalent to|uses routines from|as a shape parameter for")
_NOT_PLAIN = re.compile(r"[\\$`|^{}<>=]|::|https?:|[:,;]$|\.\.|->|%\(|\w\(\w*,|[a-z)]\. [a-z]")
_NUMBER = re.compile(r"\d+")
_WORDLIKE = re.compile(r"""^["'(\[]*[A-Za-z][A-Za-z.'\u2019/-]*[)\]"'.,;:!?]*$|^\d+[.,;:)]*$""")


@dataclass(frozen=True)
class Docstring:
    """A public callable: its name, defining module, raw docstring and what that says."""

    name: str
    module: str
    doc: str
    prose: Prose
    passage: str = ""


def n_words(text: str) -> int:
    """Count the white-space separated words of a text."""
    return len(text.split())


def template(sentence: str, name: str) -> str:
    """Return a sentence with the callable's own name and all numbers made anonymous."""
    own = set(name.split(".")[-2:])
    named = _WORD.sub(lambda word: "_" if word[0] in own else word[0], sentence.replace(name, "_"))
    return _NUMBER.sub("0", named).casefold()


def boilerplate(items: Iterable[Docstring]) -> frozenset[str]:
    """Return the sentence templates that at least ``SHARED_BY`` docstrings have in common."""
    shared: Counter[str] = Counter()
    for item in items:
        shared.update({template(sentence, item.name) for sentence in item.prose.sentences})
    return frozenset(key for key, count in shared.items() if count >= SHARED_BY)


def leading_sentences(sentences: Sequence[str], max_words: int) -> str:
    """Join the leading sentences that together have at most so many words."""
    lengths = accumulate(map(n_words, sentences))
    return " ".join(s for s, words in zip(sentences, lengths, strict=True) if words <= max_words)


def without_boilerplate(item: Docstring, shared: frozenset[str]) -> Docstring:
    """Return the docstring with its passage made of the sentences that are its own."""
    own = [
        text
        for text in item.prose.sentences
        if template(text, item.name) not in shared and not _GENERATED.search(text)
    ]
    return replace(item, passage=leading_sentences(own, PASSAGE_WORDS[1]))


def answer_of(item: Docstring) -> str:
    """Return the summary sentence without its full stop, as one would say it."""
    summary = item.prose.summary
    return summary[:-1] if summary.endswith(".") and not summary.endswith("..") else summary


def has_no_summary(item: Docstring) -> bool:
    """The docstring does not begin with a sentence of plain words that stands alone."""
    answer = answer_of(item)
    begins = re.match(r"[A-Z\"'(\d]", answer)
    return not begins or bool(_NOT_PLAIN.search(answer) or DANGLING.search(answer))


def has_odd_length(item: Docstring) -> bool:
    """The summary has fewer or more words than an answer should."""
    return not ANSWER_WORDS[0] <= n_words(answer_of(item)) <= ANSWER_WORDS[1]


def is_unrendered(item: Docstring) -> bool:
    """A template was never filled in, or an object's address stands in the text."""
    return bool(re.search(r"%\(\w+\)s|\bobject at 0x|\{\{\w+\}\}", item.doc))


def is_short(item: Docstring) -> bool:
    """Too little prose follows the summary."""
    return n_words(leading_sentences(item.prose.sentences, PASSAGE_WORDS[1])) < PASSAGE_WORDS[0]


def is_boilerplate(item: Docstring) -> bool:
    """Too little prose is left once sentences shared with other docstrings are gone."""
    return n_words(item.passage) < PASSAGE_WORDS[0]


def is_code(item: Docstring) -> bool:
    """Too much of the passage is names, formulas or symbols instead of words."""
    tokens = item.passage.split()
    return sum(bool(_WORDLIKE.match(token)) for token in tokens) < MIN_WORDLIKE * len(tokens)


def gives_away(item: Docstring) -> bool:
    """The answer stands in the passage, case, punctuation and endings apart."""
    return " ".join(words_of(answer_of(item))) in " ".join(words_of(item.passage))


RULES: Mapping[str, Callable[[Docstring], bool]] = {
    "no summary sentence": has_no_summary,
    "summary not 3 to 25 words": has_odd_length,
    "unrendered template": is_unrendered,
    "fewer than 40 words of prose": is_short,
    "fewer than 40 words without boilerplate": is_boilerplate,
    "passage mostly code": is_code,
    "answer in passage": gives_away,
}


def drop_reason(item: Docstring) -> str | None:
    """Return the first rule that drops a docstring, or None."""
    return next((name for name, drops in RULES.items() if drops(item)), None)


def repeated_answers(items: Sequence[Docstring]) -> frozenset[int]:
    """Return the indices of docstrings whose answer an earlier one already has."""
    first: dict[tuple[str, ...], int] = {}
    keys = [words_of(answer_of(item)) for item in items]
    return frozenset(i for i, key in enumerate(keys) if first.setdefault(key, i) != i)


def similarity(texts: Sequence[str]) -> sparse.csr_array:
    """Compute the Jaccard similarity of word shingles of every pair that shares any (exact).

    Shape (n, n), symmetric, 0 to 1, ones on the diagonal.
    """
    words = [words_of(text) for text in texts]
    sets = [{w[i : i + SHINGLE] for i in range(len(w) - SHINGLE + 1)} for w in words]
    column = {shingle: i for i, shingle in enumerate(sorted(set().union(*sets)))}
    lengths = np.array([len(shingles) for shingles in sets], dtype=np.int64)
    columns = np.array([column[s] for shingles in sets for s in sorted(shingles)], dtype=np.int64)
    rows = np.repeat(np.arange(len(sets)), lengths)
    present = sparse.csr_array(
        (np.ones(len(rows)), (rows, columns)), shape=(len(sets), max(len(column), 1))
    )
    common = (present @ present.T).tocoo()
    union = lengths[common.row] + lengths[common.col] - common.data
    return sparse.csr_array((common.data / union, (common.row, common.col)), shape=common.shape)


def near_duplicates(texts: Sequence[str]) -> frozenset[int]:
    """Return the indices of texts too similar to an earlier one that is kept."""
    pairs = similarity(texts).tocoo()
    close = pairs.data > NEAR_DUPLICATE
    earlier: dict[int, list[int]] = {}
    for row, col in zip(pairs.row[close].tolist(), pairs.col[close].tolist(), strict=True):
        if col < row:
            earlier.setdefault(row, []).append(col)
    dropped: set[int] = set()
    for row in sorted(earlier):
        if not dropped.issuperset(earlier[row]):
            dropped.add(row)
    return frozenset(dropped)


def by_prominence(item: Docstring) -> tuple[int, int, str]:
    """Order docstrings so that of two alike the one with the shorter path is kept."""
    return item.name.count("."), len(item.name), item.name


def excluding(items: Sequence[Docstring], indices: frozenset[int]) -> list[Docstring]:
    """Return the docstrings whose index is not among these."""
    return [item for i, item in enumerate(items) if i not in indices]


def clean(triples: Iterable[tuple[str, str, str]]) -> tuple[tuple[Sample, ...], dict[str, int]]:
    """Turn (name, module, docstring) triples into clean samples and counts of what was dropped.

    Returns
    -------
    samples : tuple of Sample
        Sorted by name; the same for any order of the input.
    dropped : dict of str to int
        Reason to count; with the samples they add up to the number of triples.
    """
    docs = [Docstring(name, module, doc, read(doc)) for name, module, doc in triples]
    ordered = sorted(docs, key=by_prominence)
    shared = boilerplate(ordered)
    items = [without_boilerplate(item, shared) for item in ordered]
    reasons = [drop_reason(item) for item in items]
    dropped = Counter(reason for reason in reasons if reason is not None)
    usable = [item for item, reason in zip(items, reasons, strict=True) if reason is None]
    repeats = repeated_answers(usable)
    distinct = excluding(usable, repeats)
    texts = [template(f"{answer_of(item)}. {item.passage}", item.name) for item in distinct]
    alike = near_duplicates(texts)
    dropped.update({"repeated answer": len(repeats), "near-duplicate": len(alike)})
    samples = sorted(map(sample_of, excluding(distinct, alike)), key=lambda sample: sample.id)
    return tuple(samples), {reason: n for reason, n in sorted(dropped.items()) if n}


def sample_of(item: Docstring) -> Sample:
    """Make the sample of a docstring that passed every rule."""
    query = f"what does {item.name} do"
    return Sample(query, item.passage, answer_of(item), id=item.name, cluster=item.module)
