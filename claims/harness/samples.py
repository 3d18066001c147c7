"""The samples behind stored rows, for the claims that look at texts and not at numbers alone."""

from __future__ import annotations

from typing import Any

import pandas as pd

from kvcore.data.datasets import load_corpus
from kvcore.data.ranking_lists import ranking_lists
from kvcore.data.sample import Sample
from kvcore.errors import MissingResource
from kvcore.measurements.needs import Need
from kvcore.store.schema import clean


def samples_behind(dataset: str, need: Need, frame: pd.DataFrame) -> tuple[Sample, ...]:
    """Return the samples behind some rows, from the corpus as it is now.

    Raises
    ------
    MissingResource
        If the corpus no longer holds them as they were measured.
    """
    known = {clean(s.id): s for s in every_sample(load_corpus(dataset), need, frame)}
    present = tuple(known[name] for name in frame.index if name in known)
    hashes = frame["sample_hash"].where(frame["sample_hash"].notna(), None)
    same = all(
        sample.content_hash in (stored, None)
        for sample, stored in zip(present, hashes, strict=False)
    )
    if len(present) < len(frame) or not same:
        raise MissingResource(
            f"{dataset} has changed since its rows were measured, and this claim needs its texts: "
            "measure again."
        )
    return present


def every_sample(corpus: Any, need: Need, frame: pd.DataFrame) -> tuple[Sample, ...]:
    """Return the samples of a need: all of the corpus, or the lists of the rows' queries."""
    if need.sample_set != "lists":
        return tuple(corpus.samples)
    seed = int(frame["seed"].dropna().iloc[0])
    lists = ranking_lists(corpus, int(frame["cluster"].nunique()), seed)
    return tuple(candidate.sample for candidate in lists)
