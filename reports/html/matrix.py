"""Every claim on every model, dataset and metric at a glance: ours beside the published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from kvcore.verdict import Cell, Judgement
from reports.grouping import Groups
from reports.html.facets import Facets
from reports.html.templates import render

WIDEST = 7
"""Columns of one table, about; further models and datasets go into a table under it."""

_METRICS = ("nll", "nll_tail")
_OTHER = "other"


@dataclass(frozen=True)
class Column:
    """A model, a dataset and a metric; what few claims are measured by shares ``other``."""

    model: str
    dataset: str
    dtype: str
    metric: str

    @classmethod
    def of(cls, cell: Cell) -> Column:
        """Return the column a cell stands in."""
        metric = cell.metric if cell.metric in _METRICS else _OTHER
        return cls(cell.model, cell.dataset, cell.dtype, metric)

    @property
    def place(self) -> tuple[str, str, str]:
        """Model, dataset and dtype, whose metrics stand side by side."""
        return self.model, self.dataset, self.dtype

    @property
    def mixed(self) -> bool:
        """Whether it holds several metrics, which have to be named."""
        return self.metric == _OTHER


def columns(judgements: Iterable[Judgement]) -> list[Column]:
    """Return every column: models, then their datasets, as they first appear; then metrics."""
    distinct = list(dict.fromkeys(Column.of(j.cell) for j in judgements))
    places = [
        list(dict.fromkeys(names)) for names in zip(*(c.place for c in distinct), strict=True)
    ]
    metrics = (*_METRICS, _OTHER)

    def rank(column: Column) -> list[int]:
        first_seen = (names.index(part) for names, part in zip(places, column.place, strict=True))
        return [*first_seen, metrics.index(column.metric)]

    return sorted(distinct, key=rank)


def blocks(ordered: Sequence[Column]) -> list[list[Column]]:
    """Cut columns into tables, never between the metrics of one model and dataset."""
    tables: list[list[Column]] = []
    for _, group in groupby(ordered, key=lambda column: column.place):
        place = list(group)
        if tables and len(tables[-1]) + len(place) <= WIDEST:
            tables[-1] += place
        else:
            tables.append(place)
    return tables


def section(
    judgements: Sequence[Judgement], groups: Groups, facets: Facets, *, folded: bool = False
) -> str:
    """Return the matrix with its key, in as many tables as keep each one readable.

    The groups are the judgements once more, claim by claim: a row each. Several tables, and one
    where that is asked for, are folded.
    """
    tables = [_table(block, groups, facets) for block in blocks(columns(judgements))]
    return render("matrix.html", blocks=tables, folds=folded or len(tables) > 1)


def _table(block: Sequence[Column], groups: Groups, facets: Facets) -> dict[str, Any]:
    spans = Counter(column.place for column in block)
    rows = [group for group in groups if any(Column.of(j.cell) in block for j in group)]
    cells = dict.fromkeys(f"{model} × {dataset}" for model, dataset, _ in spans)
    return {
        "title": f"{', '.join(cells)}: {len(rows)} claims",
        "columns": block,
        "places": list(spans.items()),
        "several_dtypes": len({column.dtype for column in block}) > 1,
        "rows": [
            _row(group, block) | {"place": facets.places[group[0].claim.id]} for group in rows
        ],
    }


def _row(group: Sequence[Judgement], block: Sequence[Column]) -> dict[str, Any]:
    cells = [(column, [j for j in group if Column.of(j.cell) == column]) for column in block]
    return {
        "claim": group[0].claim,
        "unit": group[0].estimate.unit,
        "verdicts": [j.verdict for j in group],
        "cells": [(column, _shade(inside), inside) for column, inside in cells],
    }


def _shade(judgements: Sequence[Judgement]) -> str:
    """Return the verdict that a cell is shaded as: inconclusive where its judgements differ."""
    verdicts = {j.verdict for j in judgements}
    return "inconclusive" if len(verdicts) > 1 else "".join(verdicts)
