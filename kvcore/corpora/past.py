"""Earlier queries of a passage, where the data ask several of the same one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kvcore.corpora.files import PAST_QUERY
from kvcore.corpora.sample import Sample


def with_past_queries(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """Give every sample the query, of the others asked of its passage, nearest to that passage.

    Returns
    -------
    tuple of Sample
        In the order given. Nearest is the largest Jaccard overlap of words, then the first by
        spelling; a sample whose passage nobody else asks, or asks otherwise, stays as it is.
    """
    asked: dict[str, set[str]] = {}
    for sample in samples:
        asked.setdefault(sample.passage, set()).add(sample.query)
    nearest = {passage: sorted(queries, key=lambda q: (-_overlap(q, passage), q))[:2]
               for passage, queries in asked.items() if len(queries) > 1}
    return tuple(_with(sample, nearest.get(sample.passage, ())) for sample in samples)


def _with(sample: Sample, nearest: Sequence[str]) -> Sample:
    other = next((query for query in nearest if query != sample.query), None)
    if other is None:
        return sample
    return replace(sample, texts=(*sample.texts, (PAST_QUERY, other)))


def _overlap(query: str, passage: str) -> float:
    from kvcore.corpora.clean import words_of  # brings SciPy, which a cached load does without

    a, b = frozenset(words_of(query)), frozenset(words_of(passage))
    return len(a & b) / len(a | b) if a | b else 0.0
