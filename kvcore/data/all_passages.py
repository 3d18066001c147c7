"""Every passage of a query as a sample of its own, whether it answers the query or not."""

from __future__ import annotations

from dataclasses import replace

from kvcore.data.sample import Corpus, Sample
from kvcore.io import digest


def by_passage(corpus: Corpus, name: str) -> Corpus:
    """Return a corpus with a sample for each passage that the data names for each query.

    The true answer of the query is asked of every passage. A sample's id is ``query#passage``; its
    cluster is the query, of which all passages are chosen together.
    """
    samples: dict[str, Sample] = {}
    for query in corpus.samples:
        named = (
            query.passage,
            *corpus.relevant.get(query.id, ()),
            *corpus.others.get(query.id, ()),
        )
        for text in dict.fromkeys(filter(str.strip, named)):
            part = query.id if text == query.passage else f"p-{digest(text)[:16]}"
            id = f"{query.id}#{part}"
            samples[id] = Sample(query.query, text, query.answer, id, query.id)
    note = f"{corpus.note}; every passage of each query, relevant or not"
    return replace(
        corpus,
        name=name,
        samples=tuple(samples.values()),
        cluster_unit="query",
        note=note,
        others={},
        relevant={},
        whole_clusters=True,
    )
