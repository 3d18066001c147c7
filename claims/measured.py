"""What was measured in one cell, and how it gets measured: the store first, then the engine."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from claims.cells import has_cuda
from claims.kinds import path_of
from claims.needs import (
    CONTROLS,
    EVERY_LAYER,
    Asked,
    Need,
    ask,
    base_of,
    dataset_of,
    place_of,
    plain,
)
from claims.options import Settings
from kvcore import loading
from kvcore.conditions.registry import STYLES
from kvcore.data.datasets import load_corpus
from kvcore.data.ranking_lists import ranking_lists
from kvcore.data.sample import Sample, choose_samples
from kvcore.errors import KvError, MissingResource
from kvcore.measurements import answer_nll_rows
from kvcore.measurements.explain import exposition
from kvcore.measurements.surrogate_store import with_surrogates
from kvcore.models.files import depth, locate, rope_bases
from kvcore.models.registry import entry_of
from kvcore.store.fill import measure_missing
from kvcore.store.schema import KEY, SCORES, TOLERANCES, RowSchema, clean, rows_hash
from kvcore.store.shards import Store
from kvcore.tokenization import TARGETS, Unusable

ONE_BASE = "one_base"
SHARD_ROWS = 1000  # about what may be lost when a run is killed
SEEDS = 3  # the run's own, and those of the needs ``@seed1`` and ``@seed2``


@dataclass(frozen=True, eq=False)
class Rows:
    """All samples of a cell under one condition, in the cell's sample order.

    Padded documents stand where the sample stands that they are made from, masked lists where
    the plain ones stand.

    Attributes
    ----------
    frame : DataFrame, indexed by sample id
        The stored columns; a sample that was not measured or was dropped is NaN throughout.
    metric : str
        Which column `values` gives.
    texts : callable
        Returns the samples themselves, in the same order; raises `MissingResource` where the
        corpus is not what was measured.
    parts : tuple of str
        What a mean over conditions is made from.
    """

    condition: str
    metric: str
    frame: pd.DataFrame
    clusters: tuple[str, ...]
    texts: Callable[[], tuple[Sample, ...]] = field(repr=False)
    parts: tuple[str, ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        """The needs that these rows rest on: their own, or those of a mean's parts."""
        return self.parts or (self.condition,)

    @property
    def values(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The metric, nats per answer token, NaN where there is none."""
        return np.asarray(self.frame[self.metric], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Measured:
    """Every stored row of one model on one dataset, and where they come from.

    Attributes
    ----------
    rows : DataFrame
        The store's columns; ``need`` and ``place`` as `claims.needs` has them, and ``sample``,
        the id that rows share which stand side by side.
    lacking : mapping of str to str
        Why the data cannot serve some needs.
    """

    model: str
    dataset: str
    rows: pd.DataFrame
    revision: str
    two_bases: bool
    sentencepiece: bool
    provenance: Mapping[str, Any] = field(default_factory=dict)
    lacking: Mapping[str, str] = field(default_factory=dict)
    kind: RowSchema = SCORES

    @property
    def score(self) -> str:
        """The column that a claim without a metric of its own rests on."""
        return self.kind.score

    def of(self, spelled: str, metric: str) -> Rows:
        """Return the rows of one need, ``bare`` or ``bare@256``.

        Raises
        ------
        MissingResource
            If the store holds none.
        """
        need = Need.read(spelled)
        own = self._by_need.get(str(need))
        if own is None:
            said = self.lacking.get(str(need))
            raise MissingResource(said or f"no measurable rows of {spelled!r} for {self.model} on "
                                  f"{self.dataset}; without --kv-no-measure they are measured.")
        clusters = self._clusters[need.place]
        order = sorted(clusters)
        frame = own.set_index("sample").reindex(order)

        def texts() -> tuple[Sample, ...]:
            return _texts(self.dataset, need, frame)

        return Rows(spelled, metric, frame, tuple(str(clusters[i]) for i in order), texts)

    @functools.cached_property
    def _by_need(self) -> Mapping[str, pd.DataFrame]:
        """The measurable rows of every need that has any."""
        good = self.rows[self.rows["status"] == "ok"]
        return {str(need): own for need, own in good.groupby("need", sort=False)}

    @functools.cached_property
    def _clusters(self) -> Mapping[str, Mapping[str, str]]:
        """The cluster of every sample, measurable or not, by place."""
        return {str(place): dict(zip(beside["sample"], beside["cluster"], strict=True))
                for place, beside in self.rows.groupby("place", sort=False)}

    def layers(self, pattern: str, metric: str) -> dict[int, Rows]:
        """Return the rows of a need for every layer, ``values_layer(static_fact,*)``."""
        before, after = pattern.split(EVERY_LAYER)
        found = {int(need[len(before): -len(after)]) for need in set(self.rows["need"])
                 if need.startswith(before) and need.endswith(after)
                 and need[len(before): -len(after)].isdigit()}
        return {layer: self.of(f"{before}{layer}{after}", metric) for layer in sorted(found)}

    def hash_of(self, conditions: Sequence[str]) -> str:
        """Return the hash of the rows that a claim on these conditions rests on."""
        names = {str(Need.read(name)) for name in conditions}
        return rows_hash(self.rows[self.rows["need"].isin([*names, *CONTROLS])], self.kind)


def measure(model: str, dataset: str, needs: Sequence[str], settings: Settings) -> Measured:
    """Return a cell's rows, measuring what the store lacks.

    Raises
    ------
    MissingResource
        If the model, the dataset or the GPU is not on this machine, or nothing is stored.
    """
    return _stored(model, dataset, settings) if settings.no_measure else _filled(
        model, dataset, needs, settings)


def _stored(model: str, dataset: str, settings: Settings) -> Measured:
    """Judge from what is there: the largest set of rows that one configuration measured."""
    dtype = settings.dtype or entry_of(model).dtype
    seeds = [settings.seed + offset for offset in range(SEEDS)]
    rows = Store(settings.store).read(model=model, dtype=dtype, seed=seeds)
    rows = rows[rows["template"].isin([answer_nll_rows.template(target) for target in TARGETS])]
    rows = _placed(rows, _dataset_key(dataset), settings.seed)
    rows, facts = largest_set(rows, SCORES, model, dtype, dataset, settings)
    two_bases = any(c.startswith(ONE_BASE) for c in rows["condition"])
    return _measured(model, dataset, rows, "as stored", two_bases, facts)


def stored_lists(model: str, dataset: str, folder: str, kind: RowSchema, counted: str,
                 settings: Settings) -> Measured:
    """Return what is stored of a kind with a store of its own; see `with_lists`.

    Raises
    ------
    MissingResource
        If nothing is stored for the cell.
    """
    dtype = settings.dtype or entry_of(model).dtype
    rows = Store(settings.store / folder, kind).read(
        model=model, dataset=Path(path_of(dataset)).stem, dtype=dtype, seed=settings.seed)
    rows, facts = largest_set(rows, kind, model, dtype, dataset, settings)
    return with_lists(model, dataset, rows, "as stored", kind, counted, facts)


def with_lists(model: str, dataset: str, rows: pd.DataFrame, revision: str, kind: RowSchema,
               counted: str, facts: Mapping[str, Any]) -> Measured:
    """Return a cell of rows with list columns; ``counted`` says what has one row a condition."""
    dropped = rows.loc[rows["status"] != "ok", "status"].value_counts().to_dict()
    said = {"model": model, "dataset": dataset, "revision": revision,
            "dtype": str(rows["dtype"].iloc[0]), counted: int(rows["sample_id"].nunique()),
            "not measurable": dropped or "none", **facts}
    rows = rows.assign(need=rows["condition"], sample=rows["sample_id"], place="samples")
    return Measured(model, dataset, rows, revision, False, False, said, kind=kind)


def largest_set(rows: pd.DataFrame, kind: RowSchema, model: str, dtype: str, dataset: str,
                settings: Settings) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the most rows that one configuration measured, and what the report says of them."""
    if rows.empty:
        raise MissingResource(f"no stored rows for {model} ({dtype}) on {dataset} in "
                              f"{settings.store.name}: measure them (without --kv-no-measure).")
    same = ["model_id", "tokenizer"]
    largest = rows.groupby(same).size().idxmax()
    rows = rows[(rows[same] == list(largest)).all(axis=1)]
    rows, said = one_version(rows.reset_index(drop=True), kind)
    return rows, {"read from": "store alone", "versions of the code": said}


def one_version(rows: pd.DataFrame, kind: RowSchema = SCORES) -> tuple[pd.DataFrame, str]:
    """Join what several versions of the code measured, where they agree on what both measured.

    Parameters
    ----------
    rows : DataFrame
        Of one model and tokenizer.

    Returns
    -------
    DataFrame
        Each key but for the code once, from the version with the most rows where it has it.
    str
        In words, for the report: how many rows were compared and how far they lie apart, or how
        many were left out because they disagree or nothing was measured twice.
    """
    rest = [name for name in KEY if name != "code"]
    versions = rows["code"].value_counts(sort=True).index
    kept, said = rows[rows["code"] == versions[0]], ["1"]
    for code in versions[1:]:
        other = rows[rows["code"] == code]
        both = kept.merge(other, on=rest, suffixes=("", "_other"))
        both = both[(both["status"] == "ok") & (both["status_other"] == "ok")]
        score = kind.score
        apart = (both[score] - both[f"{score}_other"]).abs() / both[score].clip(lower=1)
        tolerance = TOLERANCES[str(rows["dtype"].iloc[0])]
        if both.empty or apart.max() > tolerance:
            why = "none measured twice" if both.empty else f"they differ by {apart.max():.1e} nats"
            said.append(f"{len(other)} rows of {code} left out: {why}")
            continue
        new = other.merge(kept[rest], on=rest, how="left", indicator=True)
        new = new[new["_merge"] == "left_only"].drop(columns="_merge")
        said.append(f"{len(new)} rows of {code}, {len(both)} measured twice, at most "
                    f"{apart.max():.1e} apart")
        kept = pd.concat([kept, new], ignore_index=True)
    return kept.reset_index(drop=True), "; ".join(said)


def _filled(model: str, dataset: str, needs: Sequence[str], settings: Settings) -> Measured:
    check_gpu(model, settings)
    files = locate(model, settings.dtype)
    corpus = load_corpus(dataset)
    two_bases = rope_bases(files) > 1

    @functools.cache
    def load() -> Any:
        return loading.load(model, device=settings.device, dtype=settings.dtype)

    asked = ask([name for name in needs if two_bases or not name.startswith(ONE_BASE)], corpus,
                limit=settings.limit, seed=settings.seed, depth=depth(files),
                surrogates=lambda samples, styles: with_surrogates(
                    files, load, samples, styles, settings.store))
    name = _dataset_key(corpus.name)
    keys, samples = _keys(files, name, asked, settings.seed)
    store = Store(settings.store)
    measure_missing(store, keys, answer_nll_rows.scorer(load, samples, settings.batch_tokens),
         meta=lambda: answer_nll_rows.provenance(load()), progress=f"{model} on {dataset}",
         shard_samples=max(10, min(50, SHARD_ROWS // max(1, len(asked.samples)))))
    stored = store.read(model=model, dataset=list(samples), seed=sorted(set(keys["seed"])))
    rows = _placed(stored.merge(keys[list(KEY)], on=list(KEY)), name, settings.seed)
    facts = {"samples available": len(corpus.samples), "corpus": corpus.note,
             "corpus revision": corpus.revision, "clusters are": corpus.cluster_unit,
             "left out of the corpus": dict(corpus.dropped)}
    return _measured(model, dataset, rows, files.revision, two_bases, facts, asked.lacking)


def _keys(files: Any, dataset: str, asked: Asked, seed: int
          ) -> tuple[pd.DataFrame, dict[str, tuple[Sample, ...]]]:
    """Return the keys of all rows, and the samples by the dataset's name in the keys."""
    tables, samples = [], dict[str, tuple[Any, ...]]()
    for place in dict.fromkeys(need.place for need in asked.samples):
        of_place = {(need.condition, need.target): some for need, some in asked.samples.items()
                    if need.place == place}
        name, offset = dataset_of(dataset, place), Need("bare", place).seed
        tables.append(answer_nll_rows.rows(files, name, of_place, seed + offset))
        new = dict.fromkeys(sample for some in of_place.values() for sample in some)
        samples[name] = (*samples.get(name, ()), *new)
    return pd.concat(tables, ignore_index=True), samples


def _placed(rows: pd.DataFrame, dataset: str, seed: int) -> pd.DataFrame:
    """Add what tells needs apart to stored rows; leave out the rows of other datasets."""
    places = [place_of(dataset, str(stored), int(own) - seed)
              for stored, own in zip(rows["dataset"], rows["seed"], strict=True)]
    rows = rows.assign(place=pd.Series(places, index=rows.index, dtype=object))
    rows = rows[rows["place"].notna()].reset_index(drop=True)
    targets = [template.split(":")[0] for template in rows["template"]]
    spelled = [str(Need(*parts)) for parts in zip(
        rows["condition"], rows["place"], targets, strict=True)]
    base = [base_of(*parts) for parts in zip(rows["sample_id"], rows["place"], strict=True)]
    return rows.assign(need=pd.Series(spelled, dtype=object), sample=pd.Series(base, dtype=object))


def _measured(model: str, dataset: str, rows: pd.DataFrame, revision: str, two_bases: bool,
              facts: Mapping[str, Any], lacking: Mapping[str, str] | None = None) -> Measured:
    if rows.empty:
        raise MissingResource(f"{dataset} gives {model} nothing to measure: "
                              + "; ".join(dict.fromkeys((lacking or {}).values())))
    dropped = rows.loc[rows["status"] != "ok", "status"].value_counts().to_dict()
    own = rows.loc[rows["place"] == "samples", "sample"]
    said = {"model": model, "dataset": dataset, "revision": revision,
            "dtype": str(rows["dtype"].iloc[0]), "samples": int(own.nunique()),
            "not measurable": dropped or "none", **facts}
    return Measured(model, dataset, rows, revision, two_bases,
                    str(rows["tokenizer"].iloc[0]).startswith("sentencepiece"), said,
                    lacking or {})


def _texts(dataset: str, need: Need, frame: pd.DataFrame) -> tuple[Sample, ...]:
    """Return the samples behind some rows, from the corpus as it is now.

    Raises
    ------
    MissingResource
        If the corpus no longer holds them as they were measured.
    """
    known = {clean(s.id): s for s in every_sample(load_corpus(dataset), need, frame)}
    found = tuple(known[sample] for sample in frame.index if sample in known)
    same = [s.content_hash in (stored, None) for s, stored in zip(
        found, frame["sample_hash"].where(frame["sample_hash"].notna(), None), strict=False)]
    if len(found) < len(frame) or not all(same):
        raise MissingResource(f"{dataset} has changed since its rows were measured, and this claim "
                              "needs its texts: measure again.")
    return found


def every_sample(corpus: Any, need: Need, frame: pd.DataFrame) -> tuple[Sample, ...]:
    """Return the samples of a place: all of the corpus, or the lists of the rows' queries."""
    if need.place != "lists":
        return tuple(corpus.samples)
    seed = int(frame["seed"].dropna().iloc[0])
    made = ranking_lists(corpus, int(frame["cluster"].nunique()), seed)
    return tuple(candidate.sample for candidate in made)


def _dataset_key(name: str) -> str:
    return Path(name).stem


def check_gpu(model: str, settings: Settings) -> None:
    """Raise MissingResource for a model that needs a GPU on a machine without one."""
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
    lm = loading.load(model, device=settings.device, dtype=settings.dtype)
    samples = [_with_stand_ins(s) for s in choose_samples(load_corpus(dataset).samples, 20, settings.seed)]
    shown = [name.replace(EVERY_LAYER, "0") for name in plain(conditions)]
    for sample in sorted(samples, key=lambda s: len(s.passage)):
        try:
            found = [exposition(lm, sample, name, settings.seed) for name in shown]
        except Unusable:
            continue
        return tuple(
            {"model": model, "condition": one.condition, "text": one.text,
             "masks": [{"title": p.title, "slots": list(p.slots),
                        "mask": [list(row) for row in p.mask]} for p in one.panels]}
            for one in found)
    raise KvError(f"{dataset}: none of its first samples can be measured with {model}.")


def _with_stand_ins(sample: Sample) -> Sample:
    """Give a sample what it lacks of texts that are written elsewhere, for explanations."""
    known = dict(sample.texts)
    names = {"past_query": "an earlier question about this passage", **{
        f"surrogate({style})": f"what the model writes as a {style} for this passage"
        for style in STYLES}}
    added = tuple((name, text) for name, text in names.items() if name not in known)
    return replace(sample, texts=(*sample.texts, *added))
