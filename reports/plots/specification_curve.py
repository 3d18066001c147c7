"""The specification curve of a claim: every way of measuring it, and the choices behind way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kvcore.verdict import Judgement
from reports.plots.plot_helpers import BROAD_WIDTH, draw_mark, padded_range
from reports.plots.svg import BAND, GRID, INK, MUTED, style, to_svg
from reports.specifications import Specification, by_value, levels, specifications
from reports.text import one_line
from reports.words import VERDICT_STYLES

_TOP, _LEVEL = 0.95, 0.165  # inches of the curve, and of one line of dots under it


def specification_curve(group: Sequence[Judgement]) -> str:
    """Draw the specification curve of one claim: estimates by size, their choices under them.

    At least one estimate of the group has to be finite.
    """
    rows = levels(specifications(group))
    ways = by_value(specifications(group))
    height = _TOP + _LEVEL * len(rows) + 0.2
    with style(f"choices-{group[0].claim.id}"):
        figure = Figure(figsize=(BROAD_WIDTH, height))
        left, width = 1.42 / BROAD_WIDTH, (BROAD_WIDTH - 1.5) / BROAD_WIDTH
        top = figure.add_axes((left, 1 - (_TOP + 0.06) / height, width, _TOP / height))
        draw_estimates(top, ways, group[0])
        if rows:
            low = figure.add_axes((left, 0.05 / height, width, _LEVEL * len(rows) / height))
            draw_choices(low, ways, rows)
        said = f"Specification curve of {group[0].claim.id}, {len(ways)} ways of measuring"
        return to_svg(figure, said)


def draw_estimates(axes: Axes, ways: Sequence[Specification], judgement: Judgement) -> None:
    """Draw one interval a way, over the band where the claim of the judgement is supported."""
    null = judgement.claim.prediction.bound
    ends = [end for way in ways for end in (way.low, way.high, way.value)]
    limits = padded_range([*ends, null], 0.06)
    for region in judgement.claim.prediction.holds_in:
        axes.axhspan(*np.clip([region.low, region.high], *limits), color=BAND, linewidth=0)
    axes.axhline(null, color=INK, linewidth=0.8)
    for place, way in enumerate(ways):
        verdict = VERDICT_STYLES[way.verdict]
        interval = np.clip([way.low, way.high], *limits)
        axes.plot([place, place], interval, color=verdict.colour, linewidth=1.4)
        draw_mark(
            axes, place, way.value, verdict.marker, verdict.colour, verdict.filled, markersize=4
        )
    _frame(axes, len(ways))
    axes.set_ylim(*limits)
    axes.locator_params(axis="y", nbins=4)
    axes.set_ylabel(one_line(judgement.estimate.unit, 16))
    axes.spines["bottom"].set_visible(False)


def draw_choices(
    axes: Axes, ways: Sequence[Specification], rows: Sequence[tuple[str, str]]
) -> None:
    """Mark under each way which value of each choice it stands for."""
    for place, way in enumerate(ways):
        for row, (factor, level) in enumerate(rows):
            if way.choices[factor] == level:
                axes.plot([place], [row], marker="s", markersize=3.4, color=MUTED, linestyle="none")
    for row in range(1, len(rows)):
        if rows[row][0] != rows[row - 1][0]:
            axes.axhline(row - 0.5, color=GRID, linewidth=0.8)
    _frame(axes, len(ways))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    names = [one_line(level, 24) for _, level in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=7.5, color=INK)
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "bottom"]].set_visible(False)


def _frame(axes: Axes, count: int) -> None:
    # few ways stand on the left instead of far apart
    axes.set_xlim(-0.6, max(count, 8) - 0.4)
    axes.set_xticks([])
