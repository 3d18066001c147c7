"""Where the looks at a cell get their rows from: measured as far as is asked for, or stored."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from claims.harness.claims import CellClaim, CellKey
from claims.harness.looking import Stop
from claims.harness.rows import Measured
from kvcore.measurements.collect import CollectedRows, Collection, counted, record_of
from kvcore.measurements.looks import LookPlan, Record, planned
from kvcore.measurements.needs import CONTROLS
from kvcore.measurements.registry import kind_of
from kvcore.store.pandas_line import pandas_line, spelled


@dataclass(frozen=True, eq=False)
class LookedAt:
    """A cell after all its claims have stopped.

    - `stops`: where each claim stopped.
    - `everything`: all rows of the cell.
    - `facts`: what the report says of model, data and rows.
    """

    stops: Mapping[tuple[str, str], Stop]
    everything: Measured
    facts: Mapping[str, Any]

    def stop_of(self, test: CellClaim) -> Stop:
        """Return where a claim stopped."""
        return self.stops[name_of(test)]


def name_of(test: CellClaim) -> tuple[str, str]:
    """Return what tells a claim of a cell from the others."""
    return test.spec.claim.id, str(test.cell)


@dataclass(frozen=True, eq=False)
class StoredCell:
    """A cell of which stored rows alone are judged, by the looks that were declared of it."""

    key: CellKey
    collected: CollectedRows
    plan: LookPlan | None

    def measure(self, needs: Iterable[str], look: int) -> None:
        """Measure nothing."""

    def at(self, look: int | None) -> Measured:
        """Return the stored rows up to a look; all for None."""
        return measured_at(self.key, self.collected, self.plan, look)

    def missing(self, needs: Iterable[str], look: int) -> int:
        """Return how many rows of some needs the store lacks up to a look."""
        return self.plan.missing(self._there, needs, look) if self.plan else 0

    @functools.cached_property
    def _there(self) -> frozenset[tuple[str, str]]:
        return need_samples(self.collected.rows)


@dataclass(frozen=True, eq=False)
class MeasuredCell:
    """A cell that is measured as far as its open claims need it."""

    key: CellKey
    collection: Collection
    plan: LookPlan
    record: Record

    @classmethod
    def declared(cls, key: CellKey, collection: Collection, looks: int) -> MeasuredCell:
        """Declare limit and looks of a cell, before anything of it is measured."""
        request, kind = collection.request, collection.kind
        files = request.files
        where = (files.row_name, files.dtype, request.dataset, request.seed)
        record = record_of(kind, request.store, *where)
        own = planned(collection.keys, request.limit, looks, request.seed)
        return cls(key, collection, record.declare(own), record)

    def measure(self, needs: Iterable[str], look: int) -> None:
        """Measure what the store lacks of some needs up to a look, controls with `bare`."""
        names = set(needs)
        names |= set(CONTROLS) if "bare" in names else set()
        keys = self.collection.keys
        keys = keys[keys["need"].isin(names)]
        self.collection.measure(self.plan.within(keys, look))
        self.record.mark_looked()

    def at(self, look: int | None) -> Measured:
        """Return what is stored of the cell's rows up to a look; all for None."""
        return measured_at(self.key, self.collection.rows(), self.plan, look)

    def missing(self, needs: Iterable[str], look: int) -> int:
        """Return 0: what was asked for is measured."""
        del needs, look
        return 0


def measured_at(
    key: CellKey, collected: CollectedRows, plan: LookPlan | None, look: int | None
) -> Measured:
    """Return the rows of a cell up to a look as claims get them; all for None."""
    kind = kind_of(key.kind)
    if plan is not None and look is not None:
        rows = plan.within(collected.rows, look)
        facts = {**collected.facts, kind.counted: counted(rows)}
        collected = replace(collected, rows=rows, facts=facts)
    return Measured(key.model, key.dataset, kind.schema, collected)


def need_samples(rows: pd.DataFrame) -> frozenset[tuple[str, str]]:
    """Return which needs are there of which samples."""
    return frozenset(zip(rows["need"], rows["sample"], strict=True))


def facts_of(
    key: CellKey, measured: Measured, plans: Sequence[LookPlan], store: Path
) -> dict[str, Any]:
    """Return what the report says of a cell: what was declared of it, and where its rows lie.

    `store`: the store's root.
    """
    folder = kind_of(key.kind).store(store).root
    facts = {
        **measured.facts,
        "rows": spelled(folder),
        "rows in pandas": pandas_line(folder, measured.rows),
    }
    looked = [plan for plan in plans if plan.looks > 1]
    if not looked:
        return facts
    rows = set().union(*(need_samples(plan.within(measured.rows, plan.looks)) for plan in looked))
    return {
        **facts,
        "looks": max(plan.looks for plan in looked),
        "limit": max(plan.limit for plan in looked),
        "rows measured": len(rows),
        "rows at the limit": len(frozenset().union(*(plan.keys for plan in looked))),
    }
