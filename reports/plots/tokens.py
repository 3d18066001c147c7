"""Plots over the tokens of a sample: shares stacked, one value a token.

Each takes (figure, data, colour of the verdict) and leaves the figure empty where nothing is shown.
"""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from kvcore.errors import KvError
from reports.plots.plot_helpers import (
    BROAD_WIDTH,
    RASTER_FROM,
    Data,
    Size,
    draw_zero,
    few_ticks,
    finite,
    legend,
    numbers,
)
from reports.plots.svg import AREAS, GRID, MUTED, wrapped
from reports.text import one_line, token_text

TRACE_TOKENS = 24
"""Tokens in one row of a trace."""


def draw_stack(figure: Figure, data: Data, _: str) -> None:
    """Draw shares stacked over tokens, the first part at the bottom."""
    parts = data["parts"]
    columns = finite(*(part["y"] for part in parts)) if parts else []
    if not columns or not columns[0].size:
        return
    axes = figure.add_subplot()
    x = np.arange(1, len(columns[0]) + 1)
    fills = [AREAS[index % len(AREAS)] for index in range(len(columns))]
    dense = len(x) > RASTER_FROM
    handles = axes.stackplot(
        x, *columns, colors=fills, edgecolor="white", linewidth=0.3, step="mid", rasterized=dense
    )
    top = float(np.sum(columns, axis=0).max()) or 1.0
    axes.set(xlim=(0.5, len(x) + 0.5), ylim=(0, top))
    few_ticks(axes, whole=True)
    axes.set(xlabel=wrapped(data["x_label"]), ylabel=wrapped(data["y_label"]))
    # read from top to bottom, as the areas lie
    legend(figure, handles[::-1], [part["label"] for part in reversed(parts)])


def size_trace(data: Data) -> Size:
    """Return a size with one row for every `TRACE_TOKENS` tokens."""
    return BROAD_WIDTH, 0.2 + 1.45 * max(1, math.ceil(len(data["tokens"]) / TRACE_TOKENS))


def draw_trace(figure: Figure, data: Data, colour: str) -> None:
    """Draw one value a token, the tokens under it, a long sample in rows of one scale.

    Raises KvError where there are not as many values as tokens.
    """
    tokens, y = [token_text(token) for token in data["tokens"]], numbers(data["y"])
    if len(tokens) != len(y):
        raise KvError(
            f"trace: {len(tokens)} tokens and {len(y)} values; pass one value for each "
            "token, NaN where there is none."
        )
    if not np.isfinite(y).any():
        return
    starts = range(0, len(tokens), TRACE_TOKENS)
    rows = figure.subplots(len(starts), 1, sharey=True, squeeze=False)[:, 0]
    for axes, start in zip(rows, starts, strict=True):
        part = slice(start, start + TRACE_TOKENS)
        places = np.arange(start + 1, start + len(tokens[part]) + 1)
        axes.step(places, y[part], where="mid", color=colour, linewidth=1.1)
        axes.plot(places, y[part], marker="o", markersize=2.6, color=colour, linestyle="none")
        axes.set_xlim(start + 0.5, start + min(TRACE_TOKENS, max(len(tokens), 8)) + 0.5)
        labels = [one_line(token, 9) for token in tokens[part]]
        axes.set_xticks(places, labels, rotation=90, fontsize=7.5)
        axes.grid(axis="y", color=GRID, linewidth=0.6)
        draw_zero(axes)
    figure.supylabel(wrapped(data["y_label"]), fontsize=8, color=MUTED)
