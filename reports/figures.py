"""Pictures of numbers as small SVG strings, the same bytes for the same data.

Text stays text (no glyph outlines, no fonts), so a picture is small, searchable and takes the
page's own typeface; dense scatters become one bitmap inside the SVG.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kvcore.errors import unknown
from kvcore.verdict import Judgement
from reports.order import by_claim
from reports.text import escape, one_line
from reports.words import LOOKS, cell_words, interval_words

INK, MUTED, GRID, BAND = "#1c2430", "#5d6470", "#d9dde3", "#e3eef6"

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # ships with matplotlib: the layout never depends on the machine
    "font.size": 9,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "path.simplify": True,
}

FloatArray = NDArray[np.float64]


@contextmanager
def _style(salt: str) -> Iterator[None]:
    """Set the look and the seed of the ids inside the SVG; restore both afterwards."""
    settings: Any = {**_STYLE, "svg.hashsalt": salt}
    with mpl.rc_context(settings), warnings.catch_warnings():
        # the reader's browser has the glyphs that matplotlib's font lacks
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _to_svg(figure: Figure, label: str, dpi: int = 130) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", dpi=dpi, transparent=True, metadata={"Date": None})
    return _inline(buffer.getvalue(), label)


def _inline(svg: str, label: str) -> str:
    """Cut an SVG file down to what goes inside a page: no prolog, no metadata, no stray ids."""
    body = svg[svg.index("<svg"):]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # its `*` selector would reach the whole page; the root carries the same two properties
    body = re.sub(r"<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r"font: ([\d.]+)px 'DejaVu Sans'(?:, [^;\"]*)?", r"font-size: \1px", body)
    # inside tags only: hundredths of a point place a line, but text is a number someone reads
    body = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d{2})\d+", r"\1", tag.group()), body)
    body = re.sub(r">\s+<", "><", body)
    root = f'<svg role="img" aria-label="{escape(one_line(label))}" class="kv-figure" '
    root += 'style="stroke-linejoin:round;stroke-linecap:butt" '
    return body.replace("<svg ", root, 1).strip()


# --- forest ------------------------------------------------------------------------------------


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
        An ``<svg>`` element. Disc, square and ring are the verdicts; the large open diamond is the
        published value; the pale band is where a claim is supported.
    """
    layout = _NARROW if narrow else _WIDE
    rows, height = _rows(judgements, layout)
    low, high = _limits(judgements)
    with _style(f"forest-{judgements[0].estimate.unit}-{narrow}"):
        inches = (height + 2.2) * _LINE
        figure = Figure(figsize=(layout.width, inches))
        axes = figure.add_axes((
            layout.left / layout.width, 1.7 * _LINE / inches,
            1 - (layout.left + layout.right) / layout.width, height * _LINE / inches,
        ))
        _frame(axes, height, (low, high), judgements[0].estimate.unit, 5 if narrow else 9)
        for row in rows:
            _draw_row(axes, row, layout, (low, high))
        return _to_svg(figure, f"Forest plot, {len(judgements)} estimates")


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
    found: list[float] = []
    for judgement in judgements:
        estimate, published = judgement.estimate, judgement.published
        found += [judgement.claim.prediction.null]
        found += [estimate.value, estimate.ci_low, estimate.ci_high]
        found += [] if published is None else [published.value]
    finite = [value for value in found if math.isfinite(value)]
    low, high = min(finite), max(finite)
    room = 0.05 * (high - low) or 1.0
    return low - room, high + room


def _frame(axes: Axes, height: float, limits: tuple[float, float], unit: str, ticks: int) -> None:
    axes.set_xlim(*limits)
    axes.set_ylim(height, 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=ticks)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.axvline(0, color=MUTED, linewidth=0.9, zorder=1)
    axes.set_xlabel(unit, labelpad=1)


def _draw_row(axes: Axes, row: _Row, layout: _Layout, limits: tuple[float, float]) -> None:
    if row.judgement is None:
        weight = "bold" if row.heading else "normal"
        # on a phone the text stands inside the plot, so it covers the lines behind it
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 1} if layout.narrow else None
        _beside(axes, -layout.left + 0.08, row.y, row.heading or row.label, weight=weight,
                bbox=paper)
        return
    _draw_interval(axes, row.judgement, row.y, limits)
    look = LOOKS[row.judgement.verdict]
    if not layout.narrow:
        _beside(axes, -layout.left + 0.2, row.y, _cell_label(row.judgement))
        _beside(axes, 0.1, row.y, f"{look.symbol} {interval_words(row.judgement.estimate)}",
                end=True, color=look.colour)


def _beside(axes: Axes, inches: float, y: float, text: str, *, end: bool = False,
            **style: Any) -> None:
    """Write text at a distance in inches from the left edge of the axes, or from the right one."""
    axes.annotate(text, (1.0 if end else 0.0, y), xycoords=("axes fraction", "data"),
                  xytext=(inches * 72, 0), textcoords="offset points", va="center",
                  annotation_clip=False, fontsize=9, **style)


def _draw_interval(axes: Axes, judgement: Judgement, y: float, limits: tuple[float, float]) -> None:
    estimate, look = judgement.estimate, LOOKS[judgement.verdict]
    for region in judgement.claim.prediction.supported:
        start, stop = np.clip([region.low, region.high], *limits)
        axes.fill_between([start, stop], y - 0.46, y + 0.46, color=BAND, linewidth=0, zorder=0.5)
    ends = np.clip([estimate.ci_low, estimate.ci_high], *limits)
    axes.plot(ends, [y, y], color=look.colour, linewidth=1.8, solid_capstyle="butt", zorder=3)
    for end, bound, arrow in zip(ends, (estimate.ci_low, estimate.ci_high), "<>", strict=True):
        if math.isinf(bound):
            axes.plot([end], [y], marker=arrow, color=look.colour, markersize=5, clip_on=False)
    if judgement.published is not None:
        axes.plot([judgement.published.value], [y], marker="D", markersize=8, zorder=2.5,
                  markerfacecolor="white", markeredgecolor=INK, markeredgewidth=1.1)
    face = look.colour if look.filled else "white"
    axes.plot([estimate.value], [y], marker=look.marker, markersize=5.5, color=look.colour,
              markerfacecolor=face, markeredgewidth=1.3, zorder=4, linestyle="none")


# --- one claim in one cell ---------------------------------------------------------------------


def plot(judgement: Judgement) -> str:
    """Draw the picture that belongs to a judgement, or return "" where it has none.

    Raises
    ------
    KvError
        The judgement asks for a kind of picture that does not exist.
    """
    kind = str(judgement.plot.get("kind", "none"))
    if kind == "none":
        return ""
    draw = _KINDS.get(kind)
    if draw is None:
        raise unknown("kind of plot", kind, [*_KINDS, "none"])
    with _style(f"{judgement.claim.id}-{judgement.cell.slug}"):
        figure = Figure(figsize=(2.72, 1.95), layout="constrained")
        axes = figure.add_subplot()
        if not draw(axes, judgement.plot, LOOKS[judgement.verdict].colour):
            return ""
        if kind != "quartiles" and not judgement.plot.get("log"):
            axes.locator_params(axis="x", nbins=5)
        return _to_svg(figure, f"{caption(judgement)} {cell_words(judgement)}")


def caption(judgement: Judgement) -> str:
    """Return what the picture of a judgement shows, in one sentence."""
    return _CAPTIONS.get(str(judgement.plot.get("kind", "none")), "")


def _finite(*columns: Any) -> list[FloatArray]:
    """Return the columns without the rows in which any of them is missing."""
    table = np.array([np.asarray(column, dtype=float) for column in columns])
    return list(table[:, np.isfinite(table).all(axis=0)])


def _draw_paired(axes: Axes, data: Mapping[str, Any], colour: str) -> bool:
    (differences,) = _finite(data["differences"])
    if not differences.size:
        return False
    low, high = np.quantile(differences, [0.005, 0.995])
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    inside = np.clip(differences, low, high)
    bins = int(np.clip(math.ceil(2 * differences.size ** (1 / 3)) * 2, 10, 60))
    heights, edges = np.histogram(inside, bins=bins, range=(low, high))
    axes.stairs(heights, edges, fill=True, color="#c3cad3")
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.axvline(float(differences.mean()), color=colour, linewidth=1.8)
    axes.axvline(float(np.median(differences)), color=colour, linewidth=1.4, linestyle=(0, (2, 2)))
    axes.set_xlabel("benefit, nats per answer token")
    axes.set_ylabel("samples")
    return True


def _draw_scatter(axes: Axes, data: Mapping[str, Any], colour: str) -> bool:
    x, y = _finite(data["x"], data["y"])
    if not x.size:
        return False
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.scatter(x, y, s=7, color=MUTED, alpha=0.4, linewidths=0, rasterized=True)
    order = np.argsort(x, kind="stable")
    tenths = [part for part in np.array_split(order, 10) if part.size]
    axes.plot([x[part].mean() for part in tenths], [y[part].mean() for part in tenths],
              color=colour, linewidth=1.6, marker="o", markersize=3.5)
    low, high = np.quantile(y, [0.005, 0.995])
    if high > low:
        room = 0.08 * (high - low)
        axes.set_ylim(min(low, 0) - room, max(high, 0) + room)
    axes.set_xlabel(_wrapped(data.get("x_label", "hardness")))
    axes.set_ylabel(_wrapped(data.get("y_label", "benefit, nats per answer token")))
    return True


def _wrapped(label: object) -> str:
    return textwrap.fill(one_line(label, 90), 30)


def _draw_quartiles(axes: Axes, data: Mapping[str, Any], colour: str) -> bool:
    rows = data["rows"]
    if not rows:
        return False
    columns = ("quartile", "d", "d_low", "d_high")
    places, d, low, high = (np.array([float(row[name]) for row in rows]) for name in columns)
    axes.bar(places, d, width=0.62, color="#c3cad3")
    drawn = np.isfinite(low) & np.isfinite(high)
    axes.vlines(places[drawn], low[drawn], high[drawn], color=colour, linewidth=1.8)
    axes.plot(places, d, marker="o", markersize=4, color=colour, linestyle="none")
    axes.axhline(0, color=INK, linewidth=0.9)
    axes.set_xticks(places, [f"{_QUARTILES.get(int(row['quartile']), row['quartile'])}\n"
                             f"n = {int(row['n'])}" for row in rows])
    axes.set_ylabel("d in the quartile")
    return True


def _draw_curve(axes: Axes, data: Mapping[str, Any], colour: str) -> bool:
    x, d, low, high = _finite(data["x"], data["d"], data["low"], data["high"])
    if not x.size:
        return False
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(x, d, color=colour, linewidth=1.6, marker="o", markersize=3.5)
    if data.get("log"):
        axes.set_xscale("log", base=2)
        axes.set_xticks(x, [f"{value:,.0f}" for value in x])
    axes.set_xlabel(_wrapped(data.get("x_label", "")))
    axes.set_ylabel("d of the benefit")
    return True


_QUARTILES = {1: "easiest", 2: "2nd", 3: "3rd", 4: "hardest"}

_KINDS: dict[str, Callable[[Axes, Mapping[str, Any], str], bool]] = {
    "paired": _draw_paired,
    "scatter": _draw_scatter,
    "quartiles": _draw_quartiles,
    "curve": _draw_curve,
}

_CAPTIONS = {
    "paired": "Benefit sample by sample; solid line the mean, dotted the median; the outermost "
    "bars also hold the most extreme 1 %.",
    "scatter": "One point a sample; the line joins the means of ten groups of equal size; the "
    "most extreme 1 % lie outside.",
    "quartiles": "Effect by quartile of hardness, with its interval.",
    "curve": "Effect at each step, with its interval as a band.",
}
