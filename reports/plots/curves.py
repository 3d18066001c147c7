"""Plots of curves: an effect over a number, many curves over layers, survival, ROC.

Each takes (figure, data, colour of the verdict) and leaves the figure empty where nothing is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from reports.plots.plot_helpers import (
    LINE_HEIGHT,
    RASTER_FROM,
    SMALL,
    Data,
    FloatArray,
    Size,
    draw_zero,
    few_ticks,
    legend,
    numbers,
)
from reports.plots.svg import DASHES, INK, LINES, MUTED, wrapped
from reports.text import number, one_line

_MARKED_UP_TO = 40  # points of a curve whose points are marked


@dataclass(frozen=True)
class _Curve:
    """Points of one curve, (n,) each; low and high are NaN where there is no interval."""

    label: str
    x: FloatArray
    y: FloatArray
    low: FloatArray
    high: FloatArray


def _curve(curve: Data) -> _Curve:
    missing = [None] * len(curve["x"])
    ends = (missing if curve.get(name) is None else curve[name] for name in ("low", "high"))
    table = np.array([numbers(column) for column in (curve["x"], curve["y"], *ends)])
    return _Curve(str(curve.get("label", "")), *table[:, np.isfinite(table[:2]).all(axis=0)])


def _curves(curves: Iterable[Data]) -> list[_Curve]:
    return [drawn for drawn in map(_curve, curves) if drawn.x.size]


def _draw_lines(
    axes: Axes, curves: Sequence[_Curve], colour: str, *, steps: bool = False, marked: bool = True
) -> list[Artist]:
    """Draw curves with their bands; a single one has the verdict's colour."""
    handles: list[Artist] = []
    for index, curve in enumerate(curves):
        ink = colour if len(curves) == 1 else LINES[index % len(LINES)]
        known = np.isfinite(curve.low) & np.isfinite(curve.high)
        if known.any():
            band = (curve.x[known], curve.low[known], curve.high[known])
            fill = axes.fill_between(
                *band, color=ink, alpha=0.16, linewidth=0, step="post" if steps else None
            )
            fill.set_rasterized(bool(known.sum() > RASTER_FROM))
        marker = "o" if marked and curve.x.size <= _MARKED_UP_TO else ""
        look = {"linestyle": DASHES[index % len(DASHES)], "linewidth": 1.6, "markersize": 3.2}
        look |= {"drawstyle": "steps-post" if steps else "default", "marker": marker}
        handles += axes.plot(curve.x, curve.y, color=ink, **look)
    return handles


def draw_curve(figure: Figure, data: Data, colour: str) -> None:
    """Draw one effect over some number, with its interval; on a scale of powers of 2 by ``log``."""
    curves = _curves([{**data, "y": data["d"], "label": ""}])
    if not curves:
        return
    axes = figure.add_subplot()
    _draw_lines(axes, curves, colour)
    if "y_label" not in data:  # an effect is read against none; an AUC is not
        axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
    draw_zero(axes)
    if data.get("log"):
        _powers_of_two(axes, curves[0].x)
    else:
        few_ticks(axes, whole=_whole(curves))
    axes.set_xlabel(wrapped(data.get("x_label", "")))
    axes.set_ylabel(wrapped(data.get("y_label", "d of the benefit")))


def _whole(curves: Sequence[_Curve]) -> bool:
    return all(bool((curve.x % 1 == 0).all()) for curve in curves)


def _powers_of_two(axes: Axes, x: FloatArray) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(x, [f"{value:,.0f}" for value in x])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def draw_layers(figure: Figure, data: Data, colour: str) -> None:
    """Draw several curves over the same numbers, each with its band where it has one."""
    axes = _draw_named_curves(figure, data, colour)
    if axes is not None:
        draw_zero(axes)


def draw_survival(figure: Figure, data: Data, colour: str) -> None:
    """Draw steps: the share that is still left after each x."""
    data = {"y_label": "share left", **data}
    axes = _draw_named_curves(figure, data, colour, steps=True, marked=False)
    if axes is not None:
        axes.set_ylim(0, 1.03)


def _draw_named_curves(figure: Figure, data: Data, colour: str, **look: bool) -> Axes | None:
    """Draw curves over named axes, with a legend; None where there is no curve."""
    curves = _curves(data["curves"])
    if not curves:
        return None
    axes = figure.add_subplot()
    handles = _draw_lines(axes, curves, colour, **look)
    few_ticks(axes, whole=_whole(curves))
    axes.set(xlabel=wrapped(data["x_label"]), ylabel=wrapped(data["y_label"]))
    legend(figure, handles, [curve.label for curve in curves])
    return axes


def draw_roc(figure: Figure, data: Data, colour: str) -> None:
    """Draw ROC curves over the diagonal, which is chance; the legend gives each area."""
    curves = _curves(
        {
            "label": f"AUC {number(c['auc'])}, {one_line(c['label'], 30)}",
            "x": c["fpr"],
            "y": c["tpr"],
        }
        for c in data["curves"]
    )
    if not curves:
        return
    axes = figure.add_subplot()
    chance = axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (1, 1.5)))
    handles = [*chance, *_draw_lines(axes, curves, colour, marked=False)]
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), box_aspect=1)
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    few_ticks(axes)
    legend(figure, handles, ["AUC 0.500, chance", *(curve.label for curve in curves)])


def size_roc(data: Data) -> Size:
    """Return the size of a square with its legend, in which chance stands too."""
    return SMALL[0], SMALL[0] + LINE_HEIGHT * (len(data["curves"]) + 1)
