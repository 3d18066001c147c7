"""The numbers of a plot as a table: for those who cannot see it, and for the curves on screen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reports.plots.plot_helpers import Data, FloatArray, finite, numbers
from reports.text import token_text

Cell = object
MOST_ROWS = 60
"""Rows of one table; of longer curves every so many points are listed."""

_QUANTILES = (0, 1, 5, 25, 50, 75, 95, 99, 100)


@dataclass(frozen=True)
class PlotTable:
    """A plot's numbers: heads of the columns, and rows of numbers and texts.

    ``curves`` says that the columns after the first are curves over it, each with its two ends
    behind it where ``bands`` is true: such a plot can be drawn anew from its table.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    curves: bool = False
    bands: bool = False
    log: bool = False
    y_label: str = ""


def table_of(part: Data) -> PlotTable:
    """Return the numbers of one plot, empty for one that is a table or a text itself."""
    write = TABLES.get(str(part["kind"]))
    return write(part) if write else PlotTable((), ())


def _paired(part: Data) -> PlotTable:
    (x,) = finite(part["differences"])
    return _spread(x, "benefit, nats per answer token")


def _spread(x: FloatArray, name: str) -> PlotTable:
    """Return how some numbers, one a sample, are spread."""
    if not x.size:
        return PlotTable((), ())
    rows: list[list[Cell]] = [["samples", x.size], ["mean", float(x.mean())]]
    rows += [[f"{q} % lie below", float(np.percentile(x, q))] for q in _QUANTILES[1:-1]]
    rows += [["smallest", float(x.min())], ["largest", float(x.max())]]
    rows += [["share above 0", float((x > 0).mean())]]
    return PlotTable(("measure", name), rows)


def _scatter(part: Data) -> PlotTable:
    x, y = finite(part["x"], part["y"])
    order = np.argsort(x, kind="stable")
    tenths = [own for own in np.array_split(order, 10) if own.size]
    head = (
        "group, by the horizontal axis",
        "samples",
        f"mean of {part.get('x_label', 'hardness')}",
        f"mean of {part.get('y_label', 'benefit, nats per answer token')}",
    )
    means = [(float(x[own].mean()), float(y[own].mean())) for own in tenths]
    return PlotTable(
        head,
        [[i, own.size, *each] for i, (own, each) in enumerate(zip(tenths, means, strict=True), 1)],
    )


def _quartiles(part: Data) -> PlotTable:
    head = ("quartile of hardness, 1 the easiest", "n", "d", "low", "high")
    names = ("quartile", "n", "d", "d_low", "d_high")
    return PlotTable(head, [[row[name] for name in names] for row in part["rows"]])


def _curve(part: Data) -> PlotTable:
    y_label = str(part.get("y_label", "d of the benefit"))
    curve = {"label": y_label, **part, "y": part["d"]}
    return _named_curves({**part, "curves": [curve], "y_label": y_label})


def _named_curves(part: Data) -> PlotTable:
    """Return curves side by side, over every x that any of them has."""
    drawn = [curve for curve in part["curves"] if len(curve["x"])]
    columns = [_points(curve) for curve in drawn]
    every = sorted({x for column in columns for x in column})
    bands = any(curve.get("low") is not None for curve in drawn)
    width = 3 if bands else 1
    head = [str(part.get("x_label", "")) or "x"]
    for curve in drawn:
        label = str(curve.get("label", ""))
        head += [label, f"{label}, low", f"{label}, high"][:width]
    rows: list[list[Cell]] = [
        [x, *(v for column in columns for v in column.get(x, (None,) * 3)[:width])]
        for x in _thinned(every)
    ]
    log, y_label = bool(part.get("log")), str(part.get("y_label", "share left"))
    return PlotTable(head, rows, curves=True, bands=bands, log=log, y_label=y_label)


def _points(curve: Data) -> dict[float, tuple[float | None, ...]]:
    """Return a curve's (y, low, high) by x, None for what is missing."""
    missing = [None] * len(curve["x"])
    ends = (missing if curve.get(name) is None else curve[name] for name in ("low", "high"))
    columns = [numbers(column).tolist() for column in (curve["x"], curve["y"], *ends)]
    return {
        x: tuple(v if math.isfinite(v) else None for v in values)
        for x, *values in zip(*columns, strict=True)
        if math.isfinite(x)
    }


def _thinned(values: Sequence[Any], most: int = MOST_ROWS) -> list[Any]:
    """Return a sequence, or so many of it, evenly spread, with both ends."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def _roc(part: Data) -> PlotTable:
    rows: list[list[Cell]] = []
    for curve in part["curves"]:
        points = list(zip(curve["fpr"], curve["tpr"], strict=True))
        rows += [[curve["label"], curve["auc"], *point] for point in _thinned(points, 11)]
    return PlotTable(("curve", "AUC", "false positive rate", "true positive rate"), rows)


def _wins(part: Data) -> PlotTable:
    (x,) = finite(part["differences"])
    counted: list[list[Cell]] = [[name, part[name]] for name in ("wins", "ties", "losses")]
    spread = _spread(x, str(part["label"]))
    return PlotTable(("measure", str(part["label"])), [*counted, *spread.rows])


def _specifications(part: Data) -> PlotTable:
    rows = [
        [row["label"], row["value"], row["low"], row["high"], "yes" if row["judged"] else ""]
        for row in part["rows"]
    ]
    return PlotTable(("way", str(part["unit"]), "low", "high", "judged"), rows)


def _stack(part: Data) -> PlotTable:
    length = len(part["parts"][0]["y"]) if part["parts"] else 0
    rows: list[list[Cell]] = [
        [i + 1, *(each["y"][i] for each in part["parts"])] for i in _thinned(range(length))
    ]
    return PlotTable((str(part["x_label"]), *(str(p["label"]) for p in part["parts"])), rows)


def _bars(part: Data) -> PlotTable:
    further = [None] * (len(part["parts"]) - 1)
    rows: list[list[Cell]] = [
        [bar["label"], *(bar["y"] or [bar["missing"], *further])] for bar in part["bars"]
    ]
    return PlotTable((str(part["x_label"]), *map(str, part["parts"])), rows)


def _trace(part: Data) -> PlotTable:
    tokens = map(token_text, part["tokens"])
    rows = [[i, *row] for i, row in enumerate(zip(tokens, part["y"], strict=True), 1)]
    return PlotTable(("place", "token", str(part["y_label"])), rows)


TABLES: Mapping[str, Callable[[Data], PlotTable]] = {
    "paired": _paired,
    "scatter": _scatter,
    "quartiles": _quartiles,
    "curve": _curve,
    "layers": _named_curves,
    "survival": _named_curves,
    "roc": _roc,
    "wins": _wins,
    "specifications": _specifications,
    "stack": _stack,
    "bars": _bars,
    "trace": _trace,
}
