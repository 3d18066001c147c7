"""Adaptation in one cell: how its rows are measured.

Every row holds one pair of problems by one way to switch; list columns hold one number per token
behind the switch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from claims.kinds import path_of
from claims.measured import Measured, check_gpu, stored_lists, with_lists
from claims.options import Settings
from kvcore.store import KEY, Store
from kvcore.switch_rows import ADAPTATION, FOLDER

COUNTED = "pairs"  # what has a row a condition


def measure(model: str, dataset: str, needs: Sequence[str], settings: Settings) -> Measured:
    """Return a cell's rows, measuring what the store lacks.

    Raises
    ------
    MissingResource
        If the model, the dataset or the GPU is not on this machine, or nothing is stored.
    """
    if settings.no_measure:
        return stored_lists(model, dataset, FOLDER, ADAPTATION, COUNTED, settings)
    return _filled(model, dataset, needs, settings)


def _filled(model: str, dataset: str, needs: Sequence[str], settings: Settings) -> Measured:
    from kvcore import switch_rows, wanted
    from kvcore.corpora.pairs import load_pairs
    from kvcore.measure import fill
    from kvcore.models import locate

    check_gpu(model, settings)
    store = Store(settings.store / FOLDER, ADAPTATION)
    files = locate(model, settings.dtype)
    corpus = load_pairs(path_of(dataset), settings.limit, settings.seed)

    @functools.cache
    def load() -> Any:
        from kvcore.loading import load

        return load(model, device=settings.device, dtype=settings.dtype)

    keys = switch_rows.rows(files, corpus.name, corpus.pairs, needs, settings.seed)
    fill(store, keys, switch_rows.scorer(load, corpus.pairs, settings.batch_tokens),
         meta=lambda: wanted.provenance(load()), progress=f"{model} on {dataset}",
         shard_samples=20)
    stored = store.read(model=model, dataset=corpus.name, seed=settings.seed)
    facts = {"pairs": len(corpus.pairs), "corpus": corpus.note,
             "corpus revision": corpus.revision, "left out of the corpus": dict(corpus.dropped)}
    rows = stored.merge(keys[list(KEY)], on=list(KEY))
    return with_lists(model, dataset, rows, files.revision, ADAPTATION, COUNTED, facts)
