"""Earlier queries of a passage, where the data ask several of the same one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kvcore.data.files import PAST_QUERY
from kvcore.data.overlap import jaccard
from kvcore.data.sample import Sample


def with_past_queries(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """Give every sample the query, of the others asked of its passage, nearest to that passage.

    The order stays. Nearest is the largest Jaccard overlap of words, then the first by spelling; a
    sample whose passage nobody else asks, or asks otherwise, stays as it is.
    """
    queries_of: dict[str, set[str]] = {}
    for sample in samples:
        queries_of.setdefault(sample.passage, set()).add(sample.query)
    nearest_two = {
        passage: sorted(queries, key=lambda query: (-jaccard(query, passage), query))[:2]
        for passage, queries in queries_of.items()
        if len(queries) > 1
    }
    return tuple(
        replace(s, texts=(*s.texts, (PAST_QUERY, next(q for q in nearest if q != s.query))))
        if (nearest := nearest_two.get(s.passage))
        else s
        for s in samples
    )
