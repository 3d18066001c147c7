"""Every judgement as an interval on one line of numbers, grouped by claim."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kvcore.verdict import Judgement
from reports.grouping import by_claim
from reports.plots.svg import BAND, GRID, INK, MUTED, style, to_svg
from reports.text import one_line
from reports.words import VERDICT_STYLES, interval_words


@dataclass(frozen=True)
class _Row:
    """One line of a forest plot: a claim's heading, or a cell's label, interval or both."""

    y: float
    heading: str = ""
    label: str = ""
    judgement: Judgement | None = None


@dataclass(frozen=True)
class _Layout:
    """Sizes of a forest plot; a narrow one puts labels above the intervals."""

    width: float
    left: float
    right: float
    wrap: int
    narrow: bool


_WIDE = _Layout(width=10.9, left=3.45, right=2.5, wrap=100, narrow=False)
_NARROW = _Layout(width=3.55, left=0.12, right=0.12, wrap=50, narrow=True)
_LINE = 0.235  # inches


def forest(judgements: Sequence[Judgement], *, narrow: bool = False) -> str:
    """Draw every judgement of one unit as an interval, grouped by claim.

    Parameters
    ----------
    judgements : sequence of Judgement
        At least one; all in the same unit. Drawn in the order given, claims together.
    narrow : bool
        For a phone: 340 px wide, labels above the intervals instead of beside them.

    Returns
    -------
    str
        An svg element. Disc, square and ring are the verdicts; the large open diamond is the
        published value; the pale band is where a claim is supported.
    """
    layout = _NARROW if narrow else _WIDE
    rows, height = _rows(judgements, layout)
    low, high = _limits(judgements)
    with style(f"forest-{judgements[0].estimate.unit}-{narrow}"):
        inches = (height + 2.2) * _LINE
        figure = Figure(figsize=(layout.width, inches))
        axes = figure.add_axes(
            (
                layout.left / layout.width,
                1.7 * _LINE / inches,
                1 - (layout.left + layout.right) / layout.width,
                height * _LINE / inches,
            )
        )
        _frame(axes, height, (low, high), judgements[0].estimate.unit, 5 if narrow else 9)
        for row in rows:
            _draw_row(axes, row, layout, (low, high))
        return to_svg(figure, f"Forest plot, {len(judgements)} estimates")


def _rows(judgements: Sequence[Judgement], layout: _Layout) -> tuple[list[_Row], float]:
    rows: list[_Row] = []
    y = 0.6
    for cells in by_claim(judgements):
        for line in textwrap.wrap(one_line(cells[0].claim.id), layout.wrap):
            rows.append(_Row(y, heading=line))
            y += 1
        for judgement in cells:
            if layout.narrow:
                rows.append(_Row(y, label=_cell_label(judgement)))
                y += 0.95
            rows.append(_Row(y, judgement=judgement))
            y += 1.1
        y += 0.45
    return rows, y - 0.2


def _cell_label(judgement: Judgement) -> str:
    # each part is cut by itself, so that a long model name never hides the metric
    cell = judgement.cell
    parts = (one_line(cell.model, 20), one_line(cell.dataset, 12), one_line(cell.metric, 10))
    return "{} × {} · {}".format(*parts)


def _limits(judgements: Sequence[Judgement]) -> tuple[float, float]:
    """Return the range of the axis: every finite estimate, interval, null and published value."""
    values: list[float] = []
    for judgement in judgements:
        estimate, published = judgement.estimate, judgement.published
        values += [judgement.claim.prediction.null]
        values += [estimate.value, estimate.ci_low, estimate.ci_high]
        values += [] if published is None else [published.value]
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite), max(finite)
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _frame(axes: Axes, height: float, limits: tuple[float, float], unit: str, ticks: int) -> None:
    axes.set_xlim(*limits)
    axes.set_ylim(height, 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=ticks)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.axvline(0, color=MUTED, linewidth=0.9, zorder=1)
    axes.set_xlabel(one_line(unit), labelpad=1)


def _draw_row(axes: Axes, row: _Row, layout: _Layout, limits: tuple[float, float]) -> None:
    if row.judgement is None:
        weight = "bold" if row.heading else "normal"
        # on a phone the text stands inside the plot, so it covers the lines behind it
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 1} if layout.narrow else None
        _beside(
            axes, -layout.left + 0.08, row.y, row.heading or row.label, weight=weight, bbox=paper
        )
        return
    _draw_interval(axes, row.judgement, row.y, limits)
    verdict = VERDICT_STYLES[row.judgement.verdict]
    if not layout.narrow:
        _beside(axes, -layout.left + 0.2, row.y, _cell_label(row.judgement))
        _beside(
            axes,
            0.1,
            row.y,
            f"{verdict.symbol} {interval_words(row.judgement.estimate)}",
            end=True,
            color=verdict.colour,
        )


def _beside(
    axes: Axes, inches: float, y: float, text: str, *, end: bool = False, **properties: Any
) -> None:
    """Write text at a distance in inches from the left edge of the axes, or from the right one."""
    axes.annotate(
        text,
        (1.0 if end else 0.0, y),
        xycoords=("axes fraction", "data"),
        xytext=(inches * 72, 0),
        textcoords="offset points",
        va="center",
        annotation_clip=False,
        fontsize=9,
        **properties,
    )


def _draw_interval(axes: Axes, judgement: Judgement, y: float, limits: tuple[float, float]) -> None:
    estimate, verdict = judgement.estimate, VERDICT_STYLES[judgement.verdict]
    for region in judgement.claim.prediction.supported:
        start, stop = np.clip([region.low, region.high], *limits)
        axes.fill_between([start, stop], y - 0.46, y + 0.46, color=BAND, linewidth=0, zorder=0.5)
    ends = np.clip([estimate.ci_low, estimate.ci_high], *limits)
    axes.plot(ends, [y, y], color=verdict.colour, linewidth=1.8, solid_capstyle="butt", zorder=3)
    for end, bound, arrow in zip(ends, (estimate.ci_low, estimate.ci_high), "<>", strict=True):
        if math.isinf(bound):
            axes.plot([end], [y], marker=arrow, color=verdict.colour, markersize=5, clip_on=False)
    if judgement.published is not None:
        axes.plot(
            [judgement.published.value],
            [y],
            marker="D",
            markersize=8,
            zorder=2.5,
            markerfacecolor="white",
            markeredgecolor=INK,
            markeredgewidth=1.1,
        )
    face = verdict.colour if verdict.filled else "white"
    axes.plot(
        [estimate.value],
        [y],
        marker=verdict.marker,
        markersize=5.5,
        color=verdict.colour,
        markerfacecolor=face,
        markeredgewidth=1.3,
        zorder=4,
        linestyle="none",
    )
