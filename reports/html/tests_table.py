"""The table of tests, which pytest-html puts under the report: its cells, and how it is folded."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import unescape
from typing import Any

from markupsafe import Markup

from kvcore.io import digest
from kvcore.verdict import Judgement
from kvcore.verdict.records import slugify
from reports.html.templates import render
from reports.text import encodable, one_line
from reports.words import cell_words, interval_words, verdict_words

# what pytest-html writes, which is only looked for
_CHECK_BOX = re.compile(r'([<]input [^>]*data-test-result="([a-z]+)")')
_TABLE = re.compile(r'([<]table id="results-table">.*?[<]/table>)', re.DOTALL)
_EMPTY_CELLS = re.compile(r"(?:[<]td>[<]/td>){2,}")


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
    whole = "-".join((judgement.claim.id, cell.slug, slugify(cell.dtype)))
    return f"test-{digest(whole)[:10]}"


def characters(name: str, row: Sequence[str]) -> int:
    """Return about how many characters of the page a test takes, by its name and its cells.

    Beside the row pytest-html's data has the name, two of the cells and its own words once more.
    """
    return sum(map(len, row)) + 2 * len(name) + 150


def cell(name: str, text: str | None, anchor: str = "") -> str:
    """Return a cell of the column of that name, empty for None."""
    return render("test_cell.html", name=name, text=text, anchor=anchor)


def folded(rest: Markup) -> Markup:
    """Fold pytest-html's table of tests, and name its check boxes for those who cannot see them."""
    parts = _TABLE.split(str(rest), maxsplit=1)
    if len(parts) != 3:
        return rest
    opening, table, after = parts
    opening = _CHECK_BOX.sub(r'\1 aria-label="show \2"', opening)
    after = re.sub(r'data-jsonblob="([^"]*)"', _requoted, after)
    return Markup(opening) + render("tests.html", table=Markup(table)) + Markup(after)


def _requoted(attribute: re.Match[str]) -> str:
    """Return pytest-html's data in single quotes, inside which only they and & are escaped.

    Without the environment, which stands under provenance and is written as broken lists, and
    without the names of tests as keys, which each row has too: a third of the characters.
    """
    blob = json.loads(unescape(attribute.group(1))) | {"environment": {}}
    tests = map(_shorter, blob["tests"].values())
    blob["tests"] = {str(index): rows for index, rows in enumerate(tests)}
    data = encodable(json.dumps(blob, ensure_ascii=False, separators=(",", ":")))
    for character, entity in (("&", "&amp;"), ("'", "&#39;")):
        data = data.replace(character, entity)
    return f"data-jsonblob='{data}'"


def _shorter(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of a test with their cells as one text, empty neighbours joined."""
    joined = ("".join(row["resultsTableRow"]) for row in rows)
    return [
        row | {"resultsTableRow": [_EMPTY_CELLS.sub(_spanning, cells)]}
        for row, cells in zip(rows, joined, strict=True)
    ]


def _spanning(empty: re.Match[str]) -> str:
    return render("empty_cells.html", count=empty.group().count("/"))
