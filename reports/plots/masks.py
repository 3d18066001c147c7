"""Pictures of what each token may attend to."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from reports.plots.svg import INK, style, to_svg
from reports.text import one_line

Mask = Sequence[Sequence[int]]

_COLOURS = ListedColormap(["#f3f4f6", "#2f5d84"])  # blocked, allowed
_FRAME, _BOUNDARY = "#b8bec8", "#8a93a0"
_LONGER_SIDE = 300  # points of the picture, all sizes here; the page scales it
_LINES, _LINE, _LETTER = 2, 11, 5.6  # of names: how many, the height of one, the width of a letter


def mask_svg(mask: Mask, slots: Sequence[str], label: str) -> str:
    """Draw a mask, (queries, slots), 1 where a query may attend to a slot, as an svg element.

    A run of slots of one name is labelled once; no slots, no names. "" for a mask without rows or
    columns. About 3 kB for 100 tokens, and 30 ms the first time; conditions share most masks.
    """
    if not mask or not mask[0]:
        return ""
    return draw_mask(tuple(map(tuple, mask)), tuple(slots), label)


@lru_cache(maxsize=256)
def draw_mask(mask: tuple[tuple[int, ...], ...], slots: tuple[str, ...], label: str) -> str:
    """Draw a mask that has slots; the same picture is drawn once."""
    allowed = np.array(mask, dtype=bool)
    unit = _LONGER_SIDE / max(allowed.shape)
    height, width = (unit * count for count in allowed.shape)
    foot = 5 + _LINE * _LINES if slots else 1
    size = width + 2, height + foot + 1
    with style("mask"):
        figure = Figure(figsize=(size[0] / 72, size[1] / 72))
        axes = figure.add_axes((1 / size[0], foot / size[1], width / size[0], height / size[1]))
        box = (0, width, height, 0)
        image = axes.imshow(allowed, cmap=_COLOURS, vmin=0, vmax=1, extent=box, aspect="auto")
        image.set(interpolation="none", clip_on=False)
        axes.autoscale(enable=False)
        axes.set_axis_off()
        frame = Rectangle((0, 0), width, height, fill=False, edgecolor=_FRAME, linewidth=0.6)
        axes.add_patch(frame).set_clip_on(False)
        if slots:
            _name_slots(axes, slots, unit, width, height)
        return to_svg(figure, label, "kv-mask")


def _name_slots(axes: Axes, slots: Sequence[str], unit: float, width: float, height: float) -> None:
    """Draw a line and a name for each run of equally named slots, as far as names fit."""
    runs = [(name, len(list(run))) for name, run in groupby(one_line(slot, 24) for slot in slots)]
    ends = unit * np.cumsum([length for _, length in runs])
    # NaN lifts the pen: all boundaries are one path
    x, y = np.repeat(ends[:-1], 3), [0, height + 4, np.nan] * (len(runs) - 1)
    dashes = (0, (3.3, 3.3))
    axes.plot(x, y, linewidth=0.6, color=_BOUNDARY, linestyle=dashes, clip_on=False)
    occupied = [0.0] * _LINES  # up to where, a line of names
    for (name, length), end in zip(runs, ends, strict=True):
        half = _LETTER / 2 * len(name)
        place = max(min(end - length * unit / 2, width - half), half)
        line = next((i for i, taken in enumerate(occupied) if place - half >= taken), None)
        if line is not None:
            base = height + 13 + _LINE * line
            axes.text(place, base, name, fontsize=10, color=INK, ha="center", va="baseline")
            occupied[line] = place + half + 4
