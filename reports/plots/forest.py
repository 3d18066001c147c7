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
from reports.plots.plot_helpers import draw_mark, padded_range
from reports.plots.svg import BAND, GRID, INK, MUTED, style, to_svg
from reports.text import one_line
from reports.words import VERDICT_STYLES, interval_words


@dataclass(frozen=True)
class _Row:
    """One line of a forest plot: a claim's statement in bold, a cell's name, or its interval."""

    y: float
    content: str | Judgement
    bold: bool = False


@dataclass(frozen=True)
class _Layout:
    """Sizes of a forest plot; a narrow one puts labels above the intervals."""

    width: float
    left: float
    right: float
    wrap: int
    narrow: bool


_WIDE = _Layout(width=10.9, left=3.45, right=2.5, wrap=100, narrow=False)
_NARROW = _Layout(width=3.55, left=0.12, right=0.12, wrap=40, narrow=True)
_LINE = 0.235  # inches


def forest(judgements: Sequence[Judgement], *, narrow: bool = False) -> str:
    """Draw one judgement or more of one unit as intervals, claim by claim, as an svg element.

    Disc, square and ring are the verdicts; the large open diamond is the published value; the pale
    band is where a claim is supported. A narrow one is for a phone, 340 px wide.
    """
    layout = _NARROW if narrow else _WIDE
    rows, height = _rows(judgements, layout)
    limits = _limits(judgements)
    with style(f"forest-{judgements[0].estimate.unit}-{narrow}"):
        inches = (height + 2.2) * _LINE
        figure = Figure(figsize=(layout.width, inches))
        left, bottom = layout.left / layout.width, 1.7 * _LINE / inches
        width = 1 - (layout.left + layout.right) / layout.width
        axes = figure.add_axes((left, bottom, width, height * _LINE / inches))
        _frame(axes, height, limits, judgements[0].estimate.unit, 5 if narrow else 9)
        for row in rows:
            _draw_row(axes, row, layout, limits)
        return to_svg(figure, f"Forest plot, {len(judgements)} estimates")


def _rows(judgements: Sequence[Judgement], layout: _Layout) -> tuple[list[_Row], float]:
    rows: list[_Row] = []
    y = 0.6
    for cells in by_claim(judgements):
        for line in textwrap.wrap(one_line(cells[0].claim.statement, 200), layout.wrap):
            rows.append(_Row(y, line, bold=True))
            y += 1
        for judgement in cells:
            if layout.narrow:
                rows.append(_Row(y, _cell_label(judgement)))
                y += 0.95
            rows.append(_Row(y, judgement))
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
        null = judgement.claim.prediction.bound
        values += [null, estimate.value, estimate.ci_low, estimate.ci_high]
        values += [] if published is None else [published.value]
    return padded_range(values, 0.05)


def _frame(axes: Axes, height: float, limits: tuple[float, float], unit: str, ticks: int) -> None:
    axes.set(xlim=limits, ylim=(height, 0), yticks=[])
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=ticks)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.axvline(0, color=MUTED, linewidth=0.9, zorder=1)
    axes.set_xlabel(one_line(unit), labelpad=1)


def _draw_row(axes: Axes, row: _Row, layout: _Layout, limits: tuple[float, float]) -> None:
    if isinstance(row.content, str):
        # on a phone the text stands inside the plot, so it covers the lines behind it
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 1} if layout.narrow else None
        weight = "bold" if row.bold else "normal"
        _beside(axes, 0.08 - layout.left, row.y, row.content, weight=weight, bbox=paper)
        return
    judgement = row.content
    _draw_interval(axes, judgement, row.y, limits)
    if not layout.narrow:
        verdict = VERDICT_STYLES[judgement.verdict]
        mark = " †" if judgement.hangs_on_method else ""
        words = f"{verdict.symbol} {interval_words(judgement.estimate)}{mark}"
        _beside(axes, 0.2 - layout.left, row.y, _cell_label(judgement))
        _beside(axes, 0.1, row.y, words, end=True, color=verdict.colour)


def _beside(
    axes: Axes, inches: float, y: float, text: str, *, end: bool = False, **properties: Any
) -> None:
    """Write text at a distance in inches from the left edge of the axes, or from the right one."""
    at: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    at |= {"xytext": (inches * 72, 0), "va": "center", "annotation_clip": False}
    axes.annotate(text, (1.0 if end else 0.0, y), fontsize=9, **at, **properties)


def _draw_interval(axes: Axes, judgement: Judgement, y: float, limits: tuple[float, float]) -> None:
    estimate, verdict = judgement.estimate, VERDICT_STYLES[judgement.verdict]
    for region in judgement.claim.prediction.holds_in:
        start, stop = np.clip([region.low, region.high], *limits)
        axes.fill_between([start, stop], y - 0.46, y + 0.46, color=BAND, linewidth=0, zorder=0.5)
    ends = np.clip([estimate.ci_low, estimate.ci_high], *limits)
    axes.plot(ends, [y, y], color=verdict.colour, linewidth=1.8, solid_capstyle="butt", zorder=3)
    for end, bound, arrow in zip(ends, (estimate.ci_low, estimate.ci_high), "<>", strict=True):
        if math.isinf(bound):
            axes.plot([end], [y], marker=arrow, color=verdict.colour, markersize=5, clip_on=False)
    if judgement.published is not None:
        look = {"markersize": 8, "markeredgewidth": 1.1, "zorder": 2.5}
        draw_mark(axes, judgement.published.value, y, "D", INK, False, **look)
    look = {"markersize": 5.5, "markeredgewidth": 1.3, "zorder": 4}
    draw_mark(axes, estimate.value, y, verdict.marker, verdict.colour, verdict.filled, **look)
