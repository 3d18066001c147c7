"""Stacked bars: how a whole is divided, one bar a condition, parts in one order.

Each takes (figure, data, colour of the verdict) and leaves the figure empty where nothing is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.plots.plot_helpers import BROAD_WIDTH, LINE_HEIGHT, Data, Size, legend, numbers
from reports.plots.svg import AREAS, INK, MUTED, wrapped
from reports.text import number, one_line

FILLS = tuple(AREAS[i] for i in (0, 2, 3, 4, 1, 5))
"""Fills whose neighbours differ in lightness."""
DARK = (AREAS[0], AREAS[2], AREAS[4])
"""Fills on which numbers are white."""
BAR_HEIGHT = 0.42
"""Inches that one bar takes, with its name above it."""
HALF = 0.25
"""Half of a bar's height, bars being 1 apart."""
NUMBERED_FROM = 0.08
"""Smallest part of the whole that has room for its number."""

_NUMBER: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7}
_NAME: dict[str, Any] = {"fontsize": 8, "in_layout": False}  # a long one must not squeeze the bars


def size_bars(data: Data) -> Size:
    """Return a size with room for every bar and every name of a part."""
    lines = len(data["bars"]) * BAR_HEIGHT + len(data["parts"]) * LINE_HEIGHT
    return BROAD_WIDTH, 0.55 + lines


def draw_bars(figure: Figure, data: Data, _: str) -> None:
    """Draw one bar under the other, the first at the top, parts from left to right."""
    if not data["bars"]:
        return
    handles = draw_on(figure.add_subplot(), data["parts"], data["bars"], str(data["x_label"]))
    legend(figure, handles, data["parts"])


def draw_on(
    axes: Axes, parts: Sequence[str], bars: Sequence[Mapping[str, Any]], x_label: str
) -> list[Any]:
    """Draw stacked bars on axes and return what a legend names, one for each part.

    A bar without numbers says why, by its ``missing``.
    """
    places = range(len(bars))
    drawn: list[Any] = []
    left = [0.0] * len(bars)
    columns = [numbers(bar["y"]) if bar.get("y") else [0.0] * len(parts) for bar in bars]
    for part in range(len(parts)):
        fill, widths = FILLS[part % len(FILLS)], [float(column[part]) for column in columns]
        drawn.append(
            axes.barh(places, widths, HALF * 2, left, color=fill, edgecolor="white", linewidth=0.5)
        )
        for place, width in zip(places, widths, strict=True):
            if width >= NUMBERED_FROM:
                number_look = _NUMBER | {"color": "white" if fill in DARK else INK}
                axes.text(left[place] + width / 2, place, number(width, 2), **number_look)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for place, bar in zip(places, bars, strict=True):
        axes.text(0, place - HALF - 0.04, one_line(bar["label"], 44), va="bottom", **_NAME)
        if not bar.get("y"):
            axes.text(0.01, place, one_line(bar["missing"], 60), va="center", color=MUTED, **_NAME)
    axes.set(xlim=(0, 1), ylim=(len(bars) - 0.6, -0.75), yticks=[], xlabel=wrapped(x_label, 60))
    axes.spines["left"].set_visible(False)
    return drawn
