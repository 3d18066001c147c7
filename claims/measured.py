"""What was measured in one cell, and how it gets measured: the store first, then the engine."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from claims.options import Settings
from kvcore.errors import KvError, MissingResource
from kvcore.store import KEY, Store, rows_hash

PADDED = re.compile(r"@(\d+)$")  # what a padded document's length is written as, in ids and needs
PADDED_SHARE, LAYER_SHARE = 5, 3  # long documents and sweeps of layers take fewer samples
CONTROLS = ("bare_again", "rope_roundtrip(random)")
CONTROL_SAMPLES = 64  # their differences are all rounding: more samples would not sharpen it
ONE_BASE = "one_base"
LAYER_SWEEP = re.compile(r"values_early_layers\(\w+,\d\.\d\)$")  # cutoffs in tenths of the depth
SHARD_ROWS = 1000  # about what may be lost when a run is killed


@dataclass(frozen=True, eq=False)
class Rows:
    """All samples of a cell under one condition, in the cell's sample order.

    Padded documents stand where the sample stands that they are made from.

    Attributes
    ----------
    frame : DataFrame, indexed by sample id
        The stored columns; a sample that was not measured or was dropped is NaN throughout.
    metric : str
        Which column `values` gives.
    """

    condition: str
    metric: str
    frame: pd.DataFrame
    clusters: tuple[str, ...]

    @property
    def values(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The metric, nats per answer token, NaN where there is none."""
        return np.asarray(self.frame[self.metric], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Measured:
    """Every stored row of one model on one dataset, and where they come from."""

    model: str
    dataset: str
    rows: pd.DataFrame
    revision: str
    two_bases: bool
    sentencepiece: bool
    provenance: Mapping[str, Any] = field(default_factory=dict)
    explanations: tuple[Mapping[str, Any], ...] = ()

    def of(self, condition: str, metric: str) -> Rows:
        """Return the rows of one condition, ``bare``, or of padded documents, ``bare@256``.

        Raises
        ------
        MissingResource
            If the store holds none.
        """
        own = self.rows[(self.rows["need"] == condition) & (self.rows["status"] == "ok")]
        if own.empty:
            raise MissingResource(f"no stored rows of {condition!r} for {self.model} on "
                                  f"{self.dataset}: measure them (without --kv-no-measure).")
        clusters = dict(zip(self.rows["sample"], self.rows["cluster"], strict=True))
        order = sorted(clusters)
        frame = own.set_index("sample").reindex(order)
        return Rows(condition, metric, frame, tuple(str(clusters[i]) for i in order))

    def hash_of(self, conditions: Sequence[str]) -> str:
        """Return the hash of the rows that a claim on these conditions rests on."""
        return rows_hash(self.rows[self.rows["need"].isin([*conditions, *CONTROLS])])


def measure(model: str, dataset: str, conditions: Sequence[str], settings: Settings) -> Measured:
    """Return a cell's rows, measuring what the store lacks.

    Raises
    ------
    MissingResource
        If the model, the dataset or the GPU is not on this machine, or nothing is stored.
    """
    return _stored(model, dataset, settings) if settings.no_measure else _filled(
        model, dataset, conditions, settings)


def _stored(model: str, dataset: str, settings: Settings) -> Measured:
    """Judge from what is there: the largest set of rows that one configuration measured."""
    from kvcore.models import entry_of

    dtype = settings.dtype or entry_of(model).dtype
    rows = Store(settings.store).read(model=model, dataset=_dataset_key(dataset), dtype=dtype,
                                      seed=settings.seed)
    if rows.empty:
        raise MissingResource(f"no stored rows for {model} ({dtype}) on {dataset} in "
                              f"{settings.store.name}: measure them (without --kv-no-measure).")
    configuration = ["model_id", "tokenizer", "template", "code"]
    rows = rows[rows["template"].str.startswith("answer:")]
    largest = rows.groupby(configuration).size().idxmax()
    rows = rows[(rows[configuration] == list(largest)).all(axis=1)].reset_index(drop=True)
    two_bases = any(c.startswith(ONE_BASE) for c in rows["condition"])
    return _measured(model, dataset, rows, "as stored", two_bases, {"read from": "store alone"})


def _filled(model: str, dataset: str, conditions: Sequence[str], settings: Settings) -> Measured:
    from claims.cells import has_cuda
    from kvcore import wanted
    from kvcore.corpora import choose, load_corpus
    from kvcore.measure import fill
    from kvcore.models import locate, rope_bases

    _check_gpu(model, settings)
    files = locate(model, settings.dtype)
    corpus = load_corpus(dataset)
    samples = choose(corpus.samples, settings.limit, settings.seed)
    two_bases = rope_bases(files) > 1
    needs = [name for name in conditions if two_bases or not name.startswith(ONE_BASE)]
    asked = _asked(needs, corpus, samples, settings.seed)
    every = tuple(dict.fromkeys(sample for some in asked.values() for sample in some))
    keys = wanted.rows(files, _dataset_key(corpus.name), asked, settings.seed)
    store = Store(settings.store)
    device = settings.device
    if device == "auto":  # what is recorded is where it ran, not what was asked for
        device = "cuda" if has_cuda() else "cpu"

    def load() -> Any:
        from kvcore.loading import load

        return load(model, device=settings.device, dtype=settings.dtype)

    fill(store, keys, wanted.scorer(load, every, settings.batch_tokens),
         meta=wanted.provenance(device), progress=f"{model} on {dataset}",
         shard_samples=max(10, min(50, SHARD_ROWS // len(asked))))
    stored = store.read(model=model, dataset=_dataset_key(corpus.name), seed=settings.seed)
    rows = stored.merge(keys[list(KEY)], on=list(KEY))
    facts = {"samples available": len(corpus.samples), "corpus": corpus.note,
             "corpus revision": corpus.revision, "clusters are": corpus.cluster_unit,
             "left out of the corpus": dict(corpus.dropped)}
    return _measured(model, dataset, rows, files.revision, two_bases, facts)


def _asked(needs: Sequence[str], corpus: Any, samples: Sequence[Any], seed: int
           ) -> dict[tuple[str, str], tuple[Any, ...]]:
    """Return the samples of every (condition, target): fewer where they cost more."""
    from kvcore.corpora.padding import lengthened

    padded = {}
    for length in sorted({int(m[1]) for need in needs if (m := PADDED.search(need))}):
        some = samples[: max(2, len(samples) // PADDED_SHARE)]
        padded[str(length)] = lengthened(some, corpus.samples, length, seed)
    asked: dict[tuple[str, str], tuple[Any, ...]] = {}
    for need in needs:
        found = PADDED.search(need)
        condition = PADDED.sub("", need)
        if found:
            some = padded[found[1]]
        elif LAYER_SWEEP.match(condition):
            some = samples[: max(2, len(samples) // LAYER_SHARE)]
        else:
            some = tuple(samples)
        asked[condition, "answer"] = asked.get((condition, "answer"), ()) + tuple(some)
    controls = {(name, "answer"): tuple(samples[:CONTROL_SAMPLES]) for name in CONTROLS}
    return asked | controls


def _measured(model: str, dataset: str, rows: pd.DataFrame, revision: str, two_bases: bool,
              facts: Mapping[str, Any]) -> Measured:
    ids = rows["sample_id"].astype(str)
    lengths = ids.str.extract(PADDED)[0].fillna("")
    rows = rows.assign(sample=ids.str.replace(PADDED, "", regex=True),
                       need=rows["condition"] + ("@" + lengths).where(lengths != "", ""))
    dropped = rows.loc[rows["status"] != "ok", "status"].value_counts().to_dict()
    said = {"model": model, "dataset": dataset, "revision": revision,
            "dtype": str(rows["dtype"].iloc[0]), "samples": int(rows["sample"].nunique()),
            "not measurable": dropped or "none", **facts}
    return Measured(model, dataset, rows, revision, two_bases,
                    str(rows["tokenizer"].iloc[0]).startswith("sentencepiece"), said)


def _dataset_key(name: str) -> str:
    from pathlib import Path

    return Path(name).stem


def _check_gpu(model: str, settings: Settings) -> None:
    from claims.cells import has_cuda
    from kvcore.models import entry_of

    if entry_of(model).gpu and settings.device in ("auto", "cuda") and not has_cuda():
        raise MissingResource(f"{model} needs a GPU and this machine has none; judge stored rows "
                              "with --kv-no-measure, or force it with --kv-device cpu.")


def explanations(model: str, dataset: str, conditions: Sequence[str], settings: Settings
                 ) -> tuple[Mapping[str, Any], ...]:
    """Explain every condition on the cell's first sample, as the page wants it.

    Raises
    ------
    KvError
        If no sample of the corpus can be measured under a condition.
    """
    from kvcore.corpora import choose, load_corpus
    from kvcore.explanation import exposition
    from kvcore.loading import load
    from kvcore.tokens import Unusable

    lm = load(model, device=settings.device, dtype=settings.dtype)
    samples = choose(load_corpus(dataset).samples, 20, settings.seed)
    for sample in sorted(samples, key=lambda s: len(s.passage)):
        try:
            plain = dict.fromkeys(PADDED.sub("", name) for name in conditions)
            found = [exposition(lm, sample, name, settings.seed) for name in plain]
        except Unusable:
            continue
        return tuple(
            {"model": model, "condition": one.condition, "text": one.text,
             "masks": [{"title": p.title, "slots": list(p.slots),
                        "mask": [list(row) for row in p.mask]} for p in one.panels]}
            for one in found)
    raise KvError(f"{dataset}: none of its first samples can be measured with {model}.")
