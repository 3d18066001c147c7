"""What belongs to a judgement on the page: its plots, as pictures or written as HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup

from kvcore.errors import KvError, unknown
from kvcore.verdict import Judgement
from reports.grouping import plot_parts
from reports.html.templates import render
from reports.plots.alternatives import PlotTable, table_of
from reports.plots.kinds import WIDTHS, draw, kind_of
from reports.words import VERDICT_STYLES, cell_words

Data = Mapping[str, Any]

SAMPLE_KINDS = ("paired", "scatter", "wins")
"""Plots of samples, from which a reader goes to the samples themselves."""
TOKEN_STYLES = 6
"""Classes of tokens with a style of their own; more begin again."""


def picture(judgement: Judgement) -> str:
    """Return what belongs to a judgement as SVG and HTML, or "" where there is nothing to show.

    Raises KvError for a kind of plot that does not exist, or that lacks what it needs.
    """
    parts = enumerate(plot_parts(judgement.plot))
    return Markup().join(_part(judgement, index, part) for index, part in parts)


def with_numbers(judgement: Judgement) -> str:
    """Return what `picture` does, each plot over its numbers as a table to unfold."""
    pieces = Markup()
    for index, part in enumerate(plot_parts(judgement.plot)):
        drawing = _part(judgement, index, part)
        pieces += Markup(drawing) + (numbers_table(table_of(part)) if drawing else Markup())
    return pieces


def numbers_table(table: PlotTable) -> str:
    """Return a table to unfold, "" for one without rows."""
    return render("plot_table.html", plot=table) if table.rows else Markup()


def of_samples(judgement: Judgement) -> bool:
    """Whether a plot of the judgement shows its samples one by one."""
    return any(part["kind"] in SAMPLE_KINDS for part in plot_parts(judgement.plot))


def _part(judgement: Judgement, index: int, part: Data) -> str:
    kind = kind_of(part)
    try:
        if kind.draw is None:
            return _WRITERS[part["kind"]](part)
        cell = judgement.cell
        return draw(
            part,
            salt=f"{judgement.claim.id}-{cell.slug}-{cell.dtype}-{index}",
            colour=VERDICT_STYLES[judgement.verdict].colour,
            label=f"{kind.caption} {cell_words(judgement)}",
        )
    except KeyError as missing:
        raise KvError(
            f"{judgement.claim.id}: a plot of kind {part['kind']} needs {missing}; "
            "add it to the plot's data."
        ) from missing


def captions(judgement: Judgement) -> list[str]:
    """Return what the plots of a judgement show, a sentence for each kind."""
    sentences = (kind_of(part).caption for part in plot_parts(judgement.plot))
    return list(dict.fromkeys(filter(None, sentences)))


def width(judgement: Judgement) -> str:
    """Return how much room the plots of a judgement take, one of `reports.plots.kinds.WIDTHS`."""
    needed = [WIDTHS.index(kind_of(part).width) for part in plot_parts(judgement.plot)]
    return WIDTHS[max(needed, default=0)]


def small_table(data: Data) -> str:
    """Return the table of a plot: ``columns`` are its heads, ``rows`` numbers and texts."""
    if not data["rows"]:
        return ""
    return render("small_table.html", head=data["columns"], rows=data["rows"])


def classed_tokens(data: Data) -> str:
    """Return a worked example: tokens in the style of their class, over what the classes mean.

    Raises KvError for a token of a class that is not described.
    """
    if not data["tokens"]:
        return ""
    styles = {name: index % TOKEN_STYLES for index, name in enumerate(data["classes"])}
    tokens = [(token["text"], token["class"]) for token in data["tokens"]]
    for _, name in tokens:
        if name not in styles:
            raise unknown("class of token", str(name), styles)
    return render("tokens.html", tokens=tokens, classes=data["classes"], token_styles=styles)


_WRITERS: Mapping[str, Callable[[Data], str]] = {"table": small_table, "tokens": classed_tokens}
