"""The picture of a judgement: which kinds of plots there are, how they are drawn and explained.

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
trace          tokens: texts; y: one a token; y_label
tokens         tokens: text, class; classes: class to what it means
table          columns: texts; rows: numbers and texts
============== =====================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from matplotlib.figure import Figure

from kvcore.errors import KvError, unknown
from kvcore.verdict import Judgement
from reports import curves, elements, samples, sequences
from reports.canvas import Data, Size, size_legend, size_small
from reports.svg import style, to_svg
from reports.words import LOOKS, cell_words


@dataclass(frozen=True)
class Kind:
    """A kind of plot: drawn as a picture, or written as HTML.

    Parameters
    ----------
    caption : str
        What such a plot shows, in one sentence.
    draw : callable or None
        (figure, data, colour) to whether there was anything to draw.
    size : callable
        Data to inches.
    write : callable or None
        Data to HTML, "" where there is nothing to write.
    breadth : str
        ``""`` for a picture 260 px wide, ``"broad"`` for 340, ``"fit"`` for what it needs,
        ``"full"`` for the page's width.
    """

    caption: str
    draw: Callable[[Figure, Data, str], bool] | None = None
    size: Callable[[Data], Size] = size_small
    write: Callable[[Data], str] | None = None
    breadth: str = ""


KINDS: Mapping[str, Kind] = {
    "paired": Kind(
        "Benefit sample by sample; solid line the mean, dotted the median; the outermost bars "
        "also hold the most extreme 1 %.", samples.draw_paired),
    "scatter": Kind(
        "One point a sample; the line joins the means of ten groups of equal size; the most "
        "extreme 1 % lie outside.", samples.draw_scatter),
    "quartiles": Kind("Effect by quartile of hardness, with its interval.",
                      samples.draw_quartiles),
    "curve": Kind("Effect at each step, with its interval as a band.", curves.draw_curve),
    "layers": Kind("One line a curve, with its interval as a band.", curves.draw_layers,
                   size_legend),
    "survival": Kind("Share that is left after each step, with its interval as a band.",
                     curves.draw_survival, size_legend),
    "roc": Kind("Share of right passages found over share of wrong ones let through, at every "
                "threshold.", curves.draw_roc, curves.size_roc),
    "wins": Kind("One bar a query, the largest gain first; dotted line the mean; below, how many "
                 "queries are ranked better, alike and worse.", samples.draw_wins,
                 samples.size_wins),
    "specifications": Kind(
        "One estimate a way of measuring, the largest first; the filled diamond is the one that "
        "is judged.", samples.draw_specifications, samples.size_specifications, breadth="broad"),
    "stack": Kind("Shares over the tokens of a sample, one on the other.", sequences.draw_stack,
                  size_legend),
    "trace": Kind("One sample, one value a token; a long one goes on in the next row.",
                  sequences.draw_trace, sequences.size_trace, breadth="broad"),
    "tokens": Kind("One sample, its tokens by class.", write=elements.tokens, breadth="full"),
    "table": Kind("", write=elements.small_table, breadth="fit"),
}

_BREADTHS = ("", "broad", "fit", "full")


def parts(plot: Data) -> list[Data]:
    """Return the plots that a plot is made of: none, one, or several one under the other."""
    kind = plot.get("kind", "none")
    if kind == "several":
        return [part for each in plot["figures"] for part in parts(each)]
    return [] if kind == "none" else [plot]


def kind_of(part: Data) -> Kind:
    """Return the kind of one plot.

    Raises
    ------
    KvError
        There is no such kind.
    """
    name = str(part.get("kind"))
    if name not in KINDS:
        raise unknown("kind of plot", name, [*KINDS, "none", "several"])
    return KINDS[name]


def plot(judgement: Judgement) -> str:
    """Return what belongs to a judgement as SVG and HTML, or "" where there is nothing to show.

    Raises
    ------
    KvError
        The judgement asks for a kind of plot that does not exist, or leaves out what it needs.
    """
    return "".join(_part(judgement, index, part)
                   for index, part in enumerate(parts(judgement.plot)))


def _part(judgement: Judgement, index: int, part: Data) -> str:
    kind = kind_of(part)
    try:
        if kind.write is not None:
            return kind.write(part)
        return _drawn(kind, part, salt=f"{judgement.claim.id}-{judgement.cell.slug}-{index}",
                      colour=LOOKS[judgement.verdict].colour,
                      label=f"{kind.caption} {cell_words(judgement)}")
    except KeyError as missing:
        raise KvError(f"{judgement.claim.id}: a plot of kind {part['kind']} needs {missing}; "
                      "add it to the plot's data.") from missing


def _drawn(kind: Kind, part: Data, *, salt: str, colour: str, label: str) -> str:
    with style(salt):
        figure = Figure(figsize=kind.size(part), layout="constrained")
        drawn = kind.draw is not None and kind.draw(figure, part, colour)
        return to_svg(figure, label) if drawn else ""


def captions(judgement: Judgement) -> list[str]:
    """Return what the plots of a judgement show, a sentence for each kind."""
    found = (kind_of(part).caption for part in parts(judgement.plot))
    return list(dict.fromkeys(filter(None, found)))


def breadth(judgement: Judgement) -> str:
    """Return how much room the plots of a judgement take, as in `Kind`."""
    needed = [_BREADTHS.index(kind_of(part).breadth) for part in parts(judgement.plot)]
    return _BREADTHS[max(needed, default=0)]


