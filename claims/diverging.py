"""Divergence in one cell: how its rows are measured.

Every row holds one sample and one pair of conditions, ``bare~random``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from claims.measured import Measured, check_gpu, stored_lists, with_lists
from claims.options import Settings
from kvcore.pair_rows import DIVERGENCE, FOLDER
from kvcore.store import KEY, Store

COUNTED = "samples"  # what has a row a condition


def measure(model: str, dataset: str, needs: Sequence[str], settings: Settings) -> Measured:
    """Return a cell's rows, measuring what the store lacks.

    Raises
    ------
    MissingResource
        If the model, the dataset or the GPU is not on this machine, or nothing is stored.
    """
    if settings.no_measure:
        return stored_lists(model, dataset, FOLDER, DIVERGENCE, COUNTED, settings)
    return _filled(model, dataset, needs, settings)


def _filled(model: str, dataset: str, needs: Sequence[str], settings: Settings) -> Measured:
    from kvcore import pair_rows, wanted
    from kvcore.corpora import choose, load_corpus
    from kvcore.measure import fill
    from kvcore.models import locate

    check_gpu(model, settings)
    store = Store(settings.store / FOLDER, DIVERGENCE)
    files = locate(model, settings.dtype)
    corpus = load_corpus(dataset)
    samples = choose(corpus.samples, settings.limit, settings.seed)

    @functools.cache
    def load() -> Any:
        from kvcore.loading import load

        return load(model, device=settings.device, dtype=settings.dtype)

    keys = pair_rows.rows(files, Path(corpus.name).stem, samples, needs, settings.seed)
    fill(store, keys, pair_rows.scorer(load, samples, settings.batch_tokens),
         meta=lambda: wanted.provenance(load()), progress=f"{model} on {dataset}")
    stored = store.read(model=model, dataset=Path(corpus.name).stem, seed=settings.seed)
    facts = {"samples available": len(corpus.samples), "corpus": corpus.note,
             "corpus revision": corpus.revision, "clusters are": corpus.cluster_unit}
    rows = stored.merge(keys[list(KEY)], on=list(KEY))
    return with_lists(model, dataset, rows, files.revision, DIVERGENCE, COUNTED, facts)
