"""What the kinds of plots share: missing numbers, axes with few ticks, legends, sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from reports.plots.svg import INK
from reports.text import one_line

Data = Mapping[str, Any]
FloatArray = NDArray[np.float64]
Size = tuple[float, float]
"""Width and height in inches."""

SMALL: Size = (2.72, 1.95)
BROAD_WIDTH = 3.55
LINE_HEIGHT = 0.17
"""Inches that one line of a legend or of labels takes."""
RASTER_FROM = 200
"""Points from which on an area is a bitmap."""


def numbers(values: Iterable[Any]) -> FloatArray:
    """Return numbers as an array, what is missing (None) as NaN."""
    return np.array([math.nan if value is None else float(value) for value in values])


def finite(*columns: Iterable[Any]) -> list[FloatArray]:
    """Return the columns without the rows in which any of them is missing."""
    table = np.array([numbers(column) for column in columns])
    return list(table[:, np.isfinite(table).all(axis=0)])


def padded_range(values: Iterable[float], share: float) -> tuple[float, float]:
    """Return the range of the finite values, wider at each end by a share of it."""
    known = [value for value in values if math.isfinite(value)]
    room = share * (max(known) - min(known)) or 1.0
    return min(known) - room, max(known) + room


def draw_mark(
    axes: Axes, x: float, y: float, marker: str, colour: str, filled: bool, **look: Any
) -> None:
    """Draw one mark, or its outline on white."""
    face = colour if filled else "white"
    axes.plot([x], [y], marker=marker, color=colour, markerfacecolor=face, linestyle="none", **look)


def few_ticks(axes: Axes, *, whole: bool = False) -> None:
    """Keep the labels under a narrow picture apart, and whole where only whole numbers count."""
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=whole))


def draw_zero(axes: Axes) -> None:
    """Draw a line at 0 where the picture reaches it."""
    low, high = axes.get_ylim()
    if low <= 0 <= high:
        axes.axhline(0, color=INK, linewidth=0.8, zorder=1)


def legend(figure: Figure, handles: Sequence[Artist], labels: Iterable[object]) -> None:
    """Name what is drawn, a line each under the picture, where it hides nothing."""
    look = {"handlelength": 2.4, "labelspacing": 0.2, "borderpad": 0.1}
    figure.legend(handles, [_label(text) for text in labels], loc="outside lower left", **look)


def _label(text: object) -> str:
    # matplotlib leaves labels that begin with an underscore out of its legends
    shown = one_line(text, 44)
    return f" {shown}" if shown.startswith("_") else shown


def size_small(_: Data) -> Size:
    """Return the size of a picture without a legend."""
    return SMALL


def size_legend(data: Data) -> Size:
    """Return the size of a picture with its legend."""
    lines = len(data.get("curves") or data.get("parts") or ())
    return SMALL[0], SMALL[1] + LINE_HEIGHT * lines
