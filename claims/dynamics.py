"""Prefill dynamics in one cell: how its rows are measured.

Every row holds one text by one source; a list column holds one number per layer.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from claims.kinds import path_of
from claims.measured import Measured, check_gpu, stored_lists, with_lists
from claims.options import Settings
from kvcore.store import KEY, Store
from kvcore.text_rows import DYNAMICS, FOLDER

COUNTED = "texts"  # what has a row a condition


def measure(model: str, dataset: str, needs: Sequence[str], settings: Settings) -> Measured:
    """Return a cell's rows, measuring what the store lacks.

    Raises
    ------
    MissingResource
        If the model, the dataset or the GPU is not on this machine, or nothing is stored.
    """
    if settings.no_measure:
        return stored_lists(model, dataset, FOLDER, DYNAMICS, COUNTED, settings)
    return _filled(model, dataset, needs, settings)


def _filled(model: str, dataset: str, needs: Sequence[str], settings: Settings) -> Measured:
    from kvcore import text_rows, wanted
    from kvcore.corpora.texts import load_texts
    from kvcore.measure import fill
    from kvcore.models import locate

    check_gpu(model, settings)
    store = Store(settings.store / FOLDER, DYNAMICS)
    files = locate(model, settings.dtype)
    corpus = load_texts(path_of(dataset))
    texts = corpus.texts[: settings.limit]

    @functools.cache
    def load() -> Any:
        from kvcore.loading import load

        return load(model, device=settings.device, dtype=settings.dtype)

    keys = text_rows.rows(files, corpus.name, texts, needs, settings.seed)
    fill(store, keys, text_rows.scorer(load, texts, settings.store, settings.batch_tokens),
         meta=lambda: wanted.provenance(load()), progress=f"{model} on {dataset}")
    stored = store.read(model=model, dataset=corpus.name, seed=settings.seed)
    facts = {"texts available": len(corpus.texts), "corpus": corpus.note,
             "corpus revision": corpus.revision, "left out of the corpus": dict(corpus.dropped)}
    rows = stored.merge(keys[list(KEY)], on=list(KEY))
    return with_lists(model, dataset, rows, files.revision, DYNAMICS, COUNTED, facts)
