"""The cells of the table of tests, which pytest-html puts under the report."""

from __future__ import annotations

from kvcore.verdict import Judgement
from kvcore.verdict.records import slugify
from reports.html.templates import render
from reports.text import one_line
from reports.words import cell_words, interval_words, verdict_words


def heads() -> list[str]:
    """Return the heads of the columns that `cells` fills."""
    columns = {"Claim": "claim", "Cell": "", "Estimate": "", "n": "", "Verdict": "verdict"}
    return [
        render("test_head.html", title=title, sorted_by=name) for title, name in columns.items()
    ]


def cells(judgement: Judgement | None) -> list[str]:
    """Return the cells of a test that judged a claim, empty ones for a test that did not."""
    if judgement is None:
        return [cell("", None)] * len(heads())
    estimate = judgement.estimate
    return [
        cell("claim", judgement.claim.id),
        cell("cell", cell_words(judgement)),
        cell("estimate", f"{interval_words(estimate)} {one_line(estimate.unit)}"),
        cell("n", f"{estimate.n:,}"),
        cell("verdict", verdict_words(judgement)),
    ]


def anchor(judgement: Judgement) -> str:
    """Return the id of a judgement's row, to which its claim links."""
    cell = judgement.cell
    return "-".join(("test", judgement.claim.id, cell.slug, slugify(cell.dtype)))


def cell(name: str, text: str | None, anchor: str = "") -> str:
    """Return a cell of the column of that name, empty for None."""
    return render("test_cell.html", name=name, text=text, anchor=anchor)
