"""Plots of samples: their differences, trends and quartiles, wins of queries, ways of measuring.

Each takes (figure, data, colour of the verdict) and leaves the figure empty where nothing is shown.
"""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.plots.plot_helpers import (
    BROAD_WIDTH,
    LINE_HEIGHT,
    SMALL,
    Data,
    FloatArray,
    Size,
    draw_mark,
    few_ticks,
    finite,
    numbers,
)
from reports.plots.svg import FILL, GRID, INK, LINES, MUTED, wrapped
from reports.text import one_line


def draw_paired(figure: Figure, data: Data, colour: str) -> None:
    """Draw the paired differences as a histogram, with their mean and median."""
    (differences,) = finite(data["differences"])
    if not differences.size:
        return
    axes = figure.add_subplot()
    low, high = np.quantile(differences, [0.005, 0.995])
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    inside = np.clip(differences, low, high)
    bins = int(np.clip(math.ceil(2 * differences.size ** (1 / 3)) * 2, 10, 60))
    heights, edges = np.histogram(inside, bins=bins, range=(low, high))
    axes.stairs(heights, edges, fill=True, color=FILL)
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.axvline(float(differences.mean()), color=colour, linewidth=1.8)
    axes.axvline(float(np.median(differences)), color=colour, linewidth=1.4, linestyle=(0, (2, 2)))
    axes.set(xlabel="benefit, nats per answer token", ylabel="samples")
    few_ticks(axes)


def draw_scatter(figure: Figure, data: Data, colour: str) -> None:
    """Draw one point a sample, and the means of ten groups of equal size."""
    x, y = finite(data["x"], data["y"])
    if not x.size:
        return
    axes = figure.add_subplot()
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.scatter(x, y, s=7, color=MUTED, alpha=0.4, linewidths=0, rasterized=True)
    order = np.argsort(x, kind="stable")
    tenths = [part for part in np.array_split(order, 10) if part.size]
    means = np.array([(x[part].mean(), y[part].mean()) for part in tenths])
    axes.plot(*means.T, color=colour, linewidth=1.6, marker="o", markersize=3.5)
    low, high = np.quantile(y, [0.005, 0.995])
    if high > low:
        room = 0.08 * (high - low)
        axes.set_ylim(min(low, 0) - room, max(high, 0) + room)
    axes.set_xlabel(wrapped(data.get("x_label", "hardness")))
    axes.set_ylabel(wrapped(data.get("y_label", "benefit, nats per answer token")))
    few_ticks(axes)


def draw_quartiles(figure: Figure, data: Data, colour: str) -> None:
    """Draw d in each quartile of hardness, with its interval."""
    rows = data["rows"]
    if not rows:
        return
    axes = figure.add_subplot()
    columns = ("quartile", "d", "d_low", "d_high")
    places, d, low, high = (numbers(row[name] for row in rows) for name in columns)
    axes.bar(places, d, width=0.62, color=FILL)
    drawn = np.isfinite(low) & np.isfinite(high)
    axes.vlines(places[drawn], low[drawn], high[drawn], color=colour, linewidth=1.8)
    axes.plot(places, d, marker="o", markersize=4, color=colour, linestyle="none")
    axes.axhline(0, color=INK, linewidth=0.9)
    names = [_QUARTILES.get(int(row["quartile"]), row["quartile"]) for row in rows]
    axes.set_xticks(
        places, [f"{name}\nn = {int(row['n'])}" for name, row in zip(names, rows, strict=True)]
    )
    axes.set_ylabel("d in the quartile")


_QUARTILES = {1: "easiest", 2: "2nd", 3: "3rd", 4: "hardest"}


def size_wins(_: Data) -> Size:
    """Return the size of bars with a stack of counts."""
    return SMALL[0], 2.35


def draw_wins(figure: Figure, data: Data, colour: str) -> None:
    """Draw each query's difference as a bar, the largest gain first, and the counts as a stack."""
    (differences,) = finite(data["differences"])
    counts = [int(data[name]) for name in ("wins", "ties", "losses")]
    if not differences.size or not sum(counts):
        return
    axes, stack = figure.subplots(2, 1, height_ratios=[1, 0.1])
    draw_bars(axes, differences, colour)
    axes.set(xlabel="queries, the largest gain first", ylabel=wrapped(data["label"], 26))
    starts = np.cumsum([0, *counts[:-1]])
    for (word, fill, place, side), start, count in zip(_OUTCOMES, starts, counts, strict=True):
        stack.barh(0, count, left=start, height=1, color=fill)
        at = {"xycoords": "axes fraction", "textcoords": "offset points", "xytext": (0, -3)}
        text = f"{count:,} {word}"
        stack.annotate(text, (place, 0), ha=side, va="top", fontsize=8, **at)
    stack.set_xlim(0, sum(counts))
    stack.set_axis_off()


_BETTER, _WORSE = LINES[0], LINES[1]
_OUTCOMES = (
    ("better", _BETTER, 0, "left"),
    ("alike", FILL, 0.5, "center"),
    ("worse", _WORSE, 1, "right"),
)


def draw_bars(axes: Axes, differences: FloatArray, colour: str) -> None:
    """Draw one bar a difference, the largest gain first, and a dotted line at the mean."""
    # queries of equal difference stand side by side, so each value is one wide bar
    values, lengths = np.unique(-differences, return_counts=True)
    edges = np.concatenate([[0], np.cumsum(lengths)])
    for side, fill in ((values < 0, _BETTER), (values > 0, _WORSE)):
        axes.stairs(np.where(side, -values, 0), edges, fill=True, color=fill)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.axhline(float(differences.mean()), color=colour, linewidth=1.2, linestyle=(0, (2, 2)))
    axes.set_xlim(0, edges[-1])
    few_ticks(axes, whole=True)


def specification_labels(data: Data) -> list[str]:
    """Return the labels of the ways of measuring, the largest value first, on several lines."""
    rows = sorted(data["rows"], key=lambda row: -numbers([row["value"]])[0])
    return [wrapped(one_line(row["label"], 50), 28) for row in rows]


def size_specifications(data: Data) -> Size:
    """Return a size with room for every label."""
    lines = sum(label.count("\n") + 1 for label in specification_labels(data))
    return BROAD_WIDTH, 0.75 + LINE_HEIGHT * lines


def draw_specifications(figure: Figure, data: Data, colour: str) -> None:
    """Draw one estimate a way of measuring, the largest first; the judged one is filled."""
    rows = [row for row in data["rows"] if np.isfinite(numbers([row["value"]])[0])]
    if not rows:
        return
    rows.sort(key=lambda row: -row["value"])
    labels = specification_labels({"rows": rows})
    lines = np.array([label.count("\n") + 1 for label in labels])
    places = np.cumsum(lines) - lines / 2
    axes = figure.add_subplot()
    axes.axvline(0, color=INK, linewidth=0.8, zorder=1)
    for place, row in zip(places, rows, strict=True):
        ink = colour if row["judged"] else MUTED
        axes.plot(numbers([row["low"], row["high"]]), [place, place], color=ink, linewidth=1.7)
        marker = "D" if row["judged"] else "o"
        draw_mark(axes, row["value"], place, marker, ink, row["judged"], markersize=5)
    axes.set_ylim(lines.sum(), 0)
    axes.set_yticks(places, labels)
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set(fontweight="bold" if row["judged"] else "normal", color=INK, linespacing=1.0)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    above = sum(numbers([row["low"]])[0] > 0 for row in rows)
    title = f"{above} of {len(rows)} intervals lie above 0"
    axes.set_title(title, fontsize=8, loc="left", color=INK)
    axes.set_xlabel(wrapped(data["unit"]))
    few_ticks(axes)
