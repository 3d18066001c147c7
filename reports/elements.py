"""Pieces of HTML that several parts of the page are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kvcore.errors import unknown
from reports.text import escape, markup, number, token_text
from reports.words import LOOKS

TOKEN_LOOKS = 6
"""Classes of tokens with a look of their own; more begin again."""


def badge(verdict: str) -> str:
    """Return a verdict as symbol and word in its colour."""
    look = LOOKS[verdict]
    return f'<span class="kv-badge kv-{look.word}">{look.symbol}&nbsp;{look.word}</span>'


def tally(verdicts: Iterable[str]) -> str:
    """Return how often each verdict came out, as symbols and counts."""
    given = list(verdicts)
    return " ".join(
        f'<span class="kv-{look.word} kv-badge" title="{look.word}">{look.symbol}&nbsp;'
        f"{given.count(verdict)}</span>" for verdict, look in LOOKS.items() if verdict in given)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Return a table of ready HTML cells; on a phone each row becomes a card with labels."""
    titles = "".join(f'<th scope="col">{title}</th>' for title in head)
    body = "".join(
        "<tr>" + "".join(f'<td data-label="{title}"><div>{cell}</div></td>'
                         for title, cell in zip(head, row, strict=True)) + "</tr>"
        for row in rows
    )
    return (f'<div class="kv-scroll"><table class="kv-table {kind}"><thead><tr>{titles}</tr>'
            f"</thead><tbody>{body}</tbody></table></div>")


def value(item: Any, digits: int = 3) -> str:
    """Return a number, a text or nothing as the inside of a table's cell."""
    if item is None:
        return "–"
    if isinstance(item, float):
        return number(item, digits)
    return f"{item:,}" if isinstance(item, int) and not isinstance(item, bool) else markup(item)


def small_table(data: Mapping[str, Any]) -> str:
    """Return the table of a plot: ``columns`` are its heads, ``rows`` numbers and texts."""
    if not data["rows"]:
        return ""
    head = [escape(column) for column in data["columns"]]
    return table(head, ([value(item) for item in row] for row in data["rows"]), "kv-small-table")


def tokens(data: Mapping[str, Any]) -> str:
    """Return a worked example: tokens in the look of their class, over what the classes mean.

    Raises
    ------
    KvError
        A token is of a class that is not described.
    """
    if not data["tokens"]:
        return ""
    looks = {name: index % TOKEN_LOOKS for index, name in enumerate(data["classes"])}
    spans = "".join(_token(token, looks) for token in data["tokens"])
    key = "".join(f'<li><span class="kv-token kv-token-{look}">{markup(name)}</span> '
                  f'{markup(data["classes"][name])}</li>' for name, look in looks.items())
    return f'<p class="kv-tokens">{spans}</p><ul class="kv-token-key">{key}</ul>'


def _token(token: Mapping[str, Any], looks: Mapping[str, int]) -> str:
    if token["class"] not in looks:
        raise unknown("class of token", str(token["class"]), looks)
    ends_line = "<br/>" if str(token["text"]).endswith("\n") else ""
    return (f'<span class="kv-token kv-token-{looks[token["class"]]}">'
            f'{markup(token_text(token["text"]))}</span>{ends_line}')
