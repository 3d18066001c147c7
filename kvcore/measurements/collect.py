"""The rows of one cell, a model on a dataset: measured where they are missing, or as stored."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kvcore.errors import MissingResource, StoreWarning
from kvcore.measurements.base import MeasurementKind, MeasurePlan, MeasureRequest
from kvcore.measurements.errands import Sender
from kvcore.measurements.looks import Record
from kvcore.measurements.needs import ONE_BASE, RANKED
from kvcore.measurements.provenance import provenance
from kvcore.measurements.shard_size import on_gpu
from kvcore.store import adoption, texts
from kvcore.store.adoption import Adoption
from kvcore.store.agreement import tolerance
from kvcore.store.fill import Executor, Shard, fill, here, plan, preparing_ahead
from kvcore.store.keys import row_keys
from kvcore.store.remote import short_name, shown
from kvcore.store.schema import CODE, KEY, RowSchema
from kvcore.store.shards import Store


@dataclass(frozen=True, eq=False)
class CollectedRows:
    """Every row of one cell, and where they come from.

    - `rows`: the schema's columns; ``need`` as claims spell it, ``sample_set``, and ``sample``, the
      id that rows share which stand side by side. Each key once.
    - `revision`: of the model, or ``"as stored"``.
    - `facts`: what the report says of model, data and rows.
    - `lacking`: why the data cannot serve some needs.
    - `two_bases`: whether the model has two rope bases.
    - `folder`: where the rows lie, and the texts behind them (`kvcore.store.texts`).
    """

    rows: pd.DataFrame
    revision: str
    facts: Mapping[str, Any]
    lacking: Mapping[str, str] = field(default_factory=dict)
    two_bases: bool = False
    folder: Path | None = None

    @property
    def sentencepiece(self) -> bool:
        """Whether the model's vocabulary marks words as SentencePiece does."""
        return str(self.rows["tokenizer"].iloc[0]).startswith("sentencepiece")


def collect_rows(
    kind: MeasurementKind,
    request: MeasureRequest,
    store: Path,
    *,
    progress: str | None,
    sender: Sender | None = None,
) -> CollectedRows:
    """Return a cell's rows, measuring what the store lacks.

    - `store`: the store's root.
    - `progress`: label of the progress bar on stderr, None for no bar.
    - `sender`: to the processes that measure; None measures in this one.

    Raises MissingResource if the data or the model is not on this machine, or the data gives
    nothing to measure.
    Warns StoreWarning where rows that other code measured do not agree with what this code
    measures.
    """
    planned = Collection.planned(kind, request, store, progress=progress, sender=sender)
    collection = planned.adopting()
    collection.measure(collection.keys)
    return collection.rows()


@dataclass(frozen=True, eq=False)
class Collection:
    """A cell that is measured piece by piece.

    - `keys`: of all its rows, arranged as stored rows are and with their ``cluster``.
    """

    kind: MeasurementKind
    request: MeasureRequest
    folder: Store
    plan: MeasurePlan
    keys: pd.DataFrame
    progress: str | None
    adoptions: tuple[Adoption, ...]
    sender: Sender | None = None

    @classmethod
    def planned(
        cls,
        kind: MeasurementKind,
        request: MeasureRequest,
        store: Path,
        *,
        progress: str | None,
        sender: Sender | None = None,
    ) -> Collection:
        """Plan a cell and measure nothing; stored rows of other code count where they are adopted.

        Parameters and errors are those of `collect_rows`.
        """
        if request.files.bos == "none" and not kind.without_bos:
            raise MissingResource(
                f"{kind.name} begins what it reads with BOS: leave --kv-bos=none out, which allows "
                "answer_nll, attention_sinks and divergence."
            )
        planned = kind.plan(request) if sender is None else sender.plan(kind, request)
        if planned.keys.empty:
            raise _nothing_to_measure(request, planned)
        keys = kind.arrange(planned.keys, Path(request.dataset).stem, request.seed)
        keys = keys.assign(cluster=cluster_of_keys(planned.clusters, keys))
        folder = kind.store(store)
        adopted = adoption.load(folder)
        return cls(kind, request, folder, planned, keys, progress, adopted, sender)

    def adopting(self) -> Collection:
        """Compare stored rows of other code with a few that are measured again.

        Warns StoreWarning where they differ; they are then measured anew.
        """
        return replace(self, adoptions=_adopt(self))

    def missing(self) -> pd.DataFrame:
        """Return the keys of the cell whose rows are neither stored nor adopted."""
        return _without(self.keys, self._accepted(self.keys))

    def shards(self, keys: pd.DataFrame) -> tuple[Shard, ...]:
        """Divide some of the cell's keys into the shards that they are measured in."""
        own = keys[list(self.plan.keys.columns)]
        return plan(own, self.plan.shard_samples, self.plan.shard_length)

    def measure(self, keys: pd.DataFrame) -> None:
        """Measure what the store lacks of some of the cell's keys."""
        stored = self._accepted(keys)
        self.measure_anew(_without(keys, stored[stored[CODE] != self.kind.code]))

    def measure_anew(self, keys: pd.DataFrame) -> None:
        """Measure some of the cell's keys, unless this very code has."""
        fill(
            self.folder,
            keys[list(self.plan.keys.columns)],
            self._executor,
            code=self.kind.code,
            shard_samples=self.plan.shard_samples,
            shard_length=self.plan.shard_length,
            progress=self.progress,
        )

    @functools.cached_property
    def _executor(self) -> Executor:
        """What measures: this process, or others, which are sent the samples once."""
        if self.sender is None:
            return self._in_this_process()
        return self.sender.executor(self.kind, self.request, self.plan)

    def _in_this_process(self) -> Executor:
        """On a GPU the next shard is prepared meanwhile; on a CPU that would take its cores."""
        prepare, measure = self.plan.prepare, self.plan.measure

        def recorded() -> Mapping[str, str]:
            return provenance(self.request.load())

        if prepare is None or not on_gpu(self.request):
            return here(measure, recorded)
        return preparing_ahead(prepare, measure, recorded)

    def rows(self) -> CollectedRows:
        """Return the rows that are stored of the cell's keys.

        Raises MissingResource if there are none.
        """
        from kvcore.models.files import rope_bases

        kind, request = self.kind, self.request
        rows = _each_key_once(self._accepted(self.keys))
        rows = kind.arrange(rows, Path(request.dataset).stem, request.seed)
        if rows.empty:
            raise _nothing_to_measure(request, self.plan)
        facts = {
            **_counts(kind, rows, request.files.name, request.dataset, request.files.revision),
            **self.plan.facts,
            **_adopted_facts(kind, rows, self.adoptions),
        }
        two_bases = rope_bases(request.files) > 1
        self.keep_texts()
        revision, lacking = request.files.revision, self.plan.lacking
        return CollectedRows(rows, revision, facts, lacking, two_bases, self.folder.root)

    def keep_texts(self) -> None:
        """Keep the texts of the cell's samples beside their rows."""
        texts.save(self.folder.root, self.plan.texts)

    def _accepted(self, keys: pd.DataFrame) -> pd.DataFrame:
        stored = _stored(self.folder, keys)
        return stored[adoption.is_accepted(stored, self.adoptions, self.kind.code)]


def cluster_of_keys(clusters: Mapping[str, str], keys: pd.DataFrame) -> list[str]:
    """Return the cluster of every arranged key, as its row will have it.

    A list to rank is a cluster of its own, and so is what the plan names no cluster of.
    """
    return [
        sample.split("#")[0] if sample_set in RANKED else clusters.get(sample, sample)
        for sample, sample_set in zip(keys["sample"], keys["sample_set"], strict=True)
    ]


def record_of(
    kind: MeasurementKind, store: Path, model: str, dtype: str, dataset: str, seed: int
) -> Record:
    """Return where the looks at a cell are recorded; arguments as `stored_rows` takes them."""
    return Record(kind.store(store), (model, dtype, Path(dataset).stem, str(seed)))


def stored_rows(
    kind: MeasurementKind, *, model: str, dtype: str, dataset: str, seed: int, store: Path
) -> CollectedRows:
    """Return a cell's rows from the store alone: the most that one model and tokenizer measured.

    Nothing is measured and no model is loaded. Rows by several hashes of the code are joined where
    they agree on what both measured; the facts say which hashes, and whether the code at hand has
    adopted them.

    - `dataset`: name or path, without the kind's prefix.
    - `store`: the store's root.

    Raises MissingResource if nothing is stored for the cell.
    """
    folder = kind.store(store)
    seeds = [seed + offset for offset in range(kind.seeds)]
    rows = folder.read(model=model, dtype=dtype, seed=seeds)
    rows = kind.arrange(_by_its_method(kind, rows), Path(dataset).stem, seed)
    if rows.empty:
        raise MissingResource(
            f"no stored rows for {model} ({dtype}) on {dataset} in {short_name(store)}: measure "
            "them (without --kv-no-measure)."
        )
    rows = _largest_set(rows)
    by_code = rows[CODE].value_counts().to_dict()
    rows, joined = join_code_versions(rows, kind.schema)
    facts = {
        **_counts(kind, rows, model, dataset, "as stored"),
        "read from": "store alone",
        "versions of the code": joined,
        "rows by code": _described_codes(kind, by_code, adoption.load(folder)),
    }
    two_bases = any(name.startswith(ONE_BASE) for name in rows["condition"])
    return CollectedRows(rows, "as stored", facts, {}, two_bases, folder.root)


def join_code_versions(rows: pd.DataFrame, schema: RowSchema) -> tuple[pd.DataFrame, str]:
    """Join what several versions of the code measured, where they agree on what both measured.

    `rows`: of one model and tokenizer.

    Returns
    -------
    DataFrame
        Each key once, from the version with the most rows where it has it.
    str
        In words, for the report: how many rows were compared and how far they lie apart, or how
        many were left out because they disagree or nothing was measured twice.
    """
    key, score = list(KEY), schema.score
    versions = rows[CODE].value_counts(sort=True).index
    joined, said = rows[rows[CODE] == versions[0]], ["1"]
    for code in versions[1:]:
        other = rows[rows[CODE] == code]
        both = joined.merge(other, on=key, suffixes=("", "_other"))
        both = both[(both["status"] == "ok") & (both["status_other"] == "ok")]
        apart = (both[score] - both[f"{score}_other"]).abs() / both[score].clip(lower=1)
        if both.empty or apart.max() > tolerance(str(rows["dtype"].iloc[0])):
            why = "none measured twice" if both.empty else f"they differ by {apart.max():.1e} nats"
            said.append(f"{len(other)} rows of {code} left out: {why}")
            continue
        new = _without(other, joined)
        said.append(
            f"{len(new)} rows of {code}, {len(both)} measured twice, at most "
            f"{apart.max():.1e} apart"
        )
        joined = pd.concat([joined, new], ignore_index=True)
    return joined.reset_index(drop=True), "; ".join(said)


# --- rows that other code measured ---------------------------------------------------------------


def _adopt(collection: Collection) -> tuple[Adoption, ...]:
    """Measure some of the rows of other code again and adopt those that agree."""
    kind, folder, keys = collection.kind, collection.folder, collection.plan.keys
    adoptions = adoption.load(folder)
    stored = _stored(folder, keys)
    accepted = adoption.is_accepted(stored, adoptions, kind.code)
    pending = _without(stored[~accepted], stored[accepted])
    if pending.empty:
        return adoptions
    sampled = adoption.rows_to_compare(stored[~accepted], pending)
    again = keys.merge(sampled[list(KEY)].drop_duplicates(), on=list(KEY))
    collection.measure_anew(again)
    measured = _stored(folder, again)
    measured = measured[measured[CODE] == kind.code]
    comparison = adoption.compare(sampled, measured, kind.schema, kind.code)
    for adopted in comparison.adoptions:
        adoption.save(folder, adopted)
    if comparison.rejected:
        groups = ", ".join(f"{n} of code {code}" for code, n in comparison.rejected.items())
        warnings.warn(
            f"store {shown(folder.root)}: {kind.name} rows measured again differ from those stored "
            f"(conditions: {groups}; first: {comparison.example}); these are measured anew.",
            StoreWarning,
            stacklevel=4,
        )
    return (*adoptions, *comparison.adoptions)


def _stored(folder: Store, keys: pd.DataFrame) -> pd.DataFrame:
    """Return the stored rows of some keys, by whatever code."""
    filters = {name: keys[name].unique().tolist() for name in ("model", "dataset", "seed")}
    rows, wanted = folder.read(**filters), set(row_keys(keys))
    own = np.fromiter((key in wanted for key in row_keys(rows)), dtype=bool, count=len(rows))
    return rows[own].reset_index(drop=True)


def _without(rows: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose key is not among others'."""
    other_keys = others[list(KEY)].drop_duplicates()
    marked = rows.merge(other_keys, on=list(KEY), how="left", indicator="_in")
    return marked[marked["_in"] == "left_only"].drop(columns="_in")


def _each_key_once(rows: pd.DataFrame) -> pd.DataFrame:
    """Return accepted rows, each key once, from the code that measured most of them."""
    counts = rows[CODE].map(rows[CODE].value_counts())
    order = counts.sort_values(ascending=False, kind="stable").index
    return rows.loc[order].drop_duplicates(list(KEY)).sort_index()


def _by_its_method(kind: MeasurementKind, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that the kind's version measured, under conditions as they are defined."""
    methods = {name: kind.method(name) for name in rows["condition"].unique()}
    return rows[rows["method"] == rows["condition"].map(methods)]


def _largest_set(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the most rows that one model id and tokenizer measured."""
    same = ["model_id", "tokenizer"]
    largest = rows.groupby(same).size().idxmax()
    return rows[(rows[same] == list(largest)).all(axis=1)].reset_index(drop=True)


# --- what the report says ------------------------------------------------------------------------


def _counts(
    kind: MeasurementKind, rows: pd.DataFrame, model: str, dataset: str, revision: str
) -> dict[str, Any]:
    dropped = rows.loc[rows["status"] != "ok", "status"].value_counts().to_dict()
    return {
        "model": model,
        "dataset": dataset,
        "revision": revision,
        "dtype": str(rows["dtype"].iloc[0]),
        kind.counted: counted(rows),
        **kind.described(rows),
        "not measurable": dropped or "none",
    }


def counted(rows: pd.DataFrame) -> int:
    """Return how many samples of the cell itself some arranged rows are of."""
    return int(rows.loc[rows["sample_set"] == "samples", "sample"].nunique())


def _adopted_facts(
    kind: MeasurementKind, rows: pd.DataFrame, adoptions: tuple[Adoption, ...]
) -> dict[str, str]:
    by_code = rows[CODE].value_counts().to_dict()
    if set(by_code) == {kind.code}:
        return {}
    return {"rows by code": _described_codes(kind, by_code, adoptions)}


def _described_codes(
    kind: MeasurementKind, by_code: Mapping[str, int], adoptions: tuple[Adoption, ...]
) -> str:
    """Say how many rows each hash has, and what the code at hand knows of it."""
    described = []
    for code, count in by_code.items():
        own = [a for a in adoptions if a.old == code and a.new == kind.code]
        others = [a for a in adoptions if a.old == code and a.new != kind.code]
        if code == kind.code:
            status = "this code"
        elif own:
            status = f"adopted: {_evidence(own)}"
        elif others:
            status = f"not compared with this code; adopted by {others[-1].new}: "
            status += _evidence([a for a in others if a.new == others[-1].new])
        else:
            status = "not compared with this code"
        described.append(f"{count} rows of {code} ({status})")
    return "; ".join(described)


def _evidence(adoptions: Sequence[Adoption]) -> str:
    compared, largest = sum(a.compared for a in adoptions), max(a.largest for a in adoptions)
    return f"{compared} measured again, at most {largest:.1e} apart"


def _nothing_to_measure(request: MeasureRequest, plan: MeasurePlan) -> MissingResource:
    reasons = "; ".join(dict.fromkeys(plan.lacking.values()))
    return MissingResource(
        f"{request.dataset} gives {request.files.name} nothing to measure: {reasons}"
    )
