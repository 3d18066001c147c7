"""Which kinds of plots there are, and how each is drawn and explained.

A plot is plain data with a ``kind``; a missing number is None or NaN.

============== =====================================================================================
kind           what it holds
============== =====================================================================================
none           nothing
several        figures: plots, one under the other
paired         differences: one a sample
scatter        x, y: one a sample; x_label, y_label
quartiles      rows: quartile, n, d, d_low, d_high
curve          x, d, low, high; x_label, y_label (d of the benefit); log: x in powers of 2
layers         curves: label, x, y, low, high (these two optional); x_label, y_label
survival       curves as layers, y in [0, 1]; x_label, y_label (share left)
roc            curves: label, fpr, tpr, auc
wins           label; differences: one a query; wins, ties, losses: counts
specifications rows: label (``way, metric``), value, low, high, judged (one is true); unit
stack          parts: label, y: one a token; x_label, y_label
bars           parts: names; bars: label, y: shares of a whole, one a part, or missing: why there
               are none; x_label
trace          tokens: texts; y: one a token; y_label
tokens         tokens: text, class; classes: class to what it means
table          columns: texts; rows: numbers and texts
============== =====================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from matplotlib.figure import Figure

from kvcore.errors import unknown
from reports.plots import bars, curves, samples, tokens
from reports.plots.plot_helpers import Data, Size, size_legend, size_small
from reports.plots.svg import style, to_svg

WIDTHS = ("small", "broad", "fit", "full")
"""How wide a plot is shown: 260 px, 340 px, what it needs, or the whole page."""


@dataclass(frozen=True)
class PlotKind:
    """A kind of plot; one without ``draw`` is no picture: `reports.html.pictures` writes it."""

    caption: str  # what such a plot shows, in one sentence
    draw: Callable[[Figure, Data, str], None] | None = None  # figure, data, colour
    size: Callable[[Data], Size] = size_small  # in inches
    width: str = "small"  # one of `WIDTHS`


PLOT_KINDS: Mapping[str, PlotKind] = {
    "paired": PlotKind(
        "Benefit sample by sample; solid line the mean, dotted the median; the outermost bars "
        "also hold the most extreme 1 %.",
        samples.draw_paired,
    ),
    "scatter": PlotKind(
        "One point a sample; the line joins the means of ten groups of equal size; the most "
        "extreme 1 % lie outside.",
        samples.draw_scatter,
    ),
    "quartiles": PlotKind(
        "Effect by quartile of hardness, with its interval.", samples.draw_quartiles
    ),
    "curve": PlotKind("Effect at each step, with its interval as a band.", curves.draw_curve),
    "layers": PlotKind(
        "One line a curve, with its interval as a band.", curves.draw_layers, size_legend
    ),
    "survival": PlotKind(
        "Share that is left after each step, with its interval as a band.",
        curves.draw_survival,
        size_legend,
    ),
    "roc": PlotKind(
        "Share of right passages found over share of wrong ones let through, at every threshold.",
        curves.draw_roc,
        curves.size_roc,
    ),
    "wins": PlotKind(
        "One bar a query, the largest gain first; dotted line the mean; below, how "
        "many queries are ranked better, alike and worse.",
        samples.draw_wins,
        samples.size_wins,
    ),
    "specifications": PlotKind(
        "One estimate a way of measuring, the largest first; the filled diamond is the one that "
        "is judged.",
        samples.draw_specifications,
        samples.size_specifications,
        width="broad",
    ),
    "stack": PlotKind(
        "Shares over the tokens of a sample, one on the other.", tokens.draw_stack, size_legend
    ),
    "bars": PlotKind(
        "How a whole is divided, one bar a condition, parts in the order of the cache.",
        bars.draw_bars,
        bars.size_bars,
        width="broad",
    ),
    "trace": PlotKind(
        "One sample, one value a token; a long one goes on in the next row.",
        tokens.draw_trace,
        tokens.size_trace,
        width="broad",
    ),
    "tokens": PlotKind("One sample, its tokens by class.", width="full"),
    "table": PlotKind("", width="fit"),
}


def kind_of(part: Data) -> PlotKind:
    """Return the kind of one plot; raise KvError where there is no such kind."""
    name = str(part.get("kind"))
    if name not in PLOT_KINDS:
        raise unknown("kind of plot", name, [*PLOT_KINDS, "none", "several"])
    return PLOT_KINDS[name]


def draw(part: Data, *, salt: str, colour: str, label: str) -> str:
    """Draw one plot that is a picture: an svg element, or "" where there is nothing to draw.

    The salt makes the ids inside the picture, no two of a page may share it; the colour is the
    verdict's, the label is for those who cannot see the picture.
    """
    kind = kind_of(part)
    with style(salt):
        figure = Figure(figsize=kind.size(part), layout="constrained")
        if kind.draw is not None:
            kind.draw(figure, part, colour)
        return to_svg(figure, label) if figure.axes else ""
