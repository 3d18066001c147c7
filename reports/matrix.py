"""Every claim on every model, dataset and metric at a glance: ours beside the published."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from kvcore.verdict import Cell, Judgement
from reports.elements import tally
from reports.text import escape, markup, number
from reports.words import LOOKS, end_words, is_signed

Groups = Sequence[Sequence[Judgement]]

WIDEST = 7
"""Columns of one table, about; further models and datasets go into a table under it."""

_METRICS = ("nll", "nll_tail")
_OTHER = "other"
_AGREES = {True: "≈&nbsp;", False: "≠&nbsp;", None: ""}


@dataclass(frozen=True)
class Column:
    """A model, a dataset and a metric; what few claims are measured by shares ``other``."""

    model: str
    dataset: str
    dtype: str
    metric: str

    @classmethod
    def of(cls, cell: Cell) -> Column:
        """Return the column a cell stands in."""
        metric = cell.metric if cell.metric in _METRICS else _OTHER
        return cls(cell.model, cell.dataset, cell.dtype, metric)


def columns(judgements: Iterable[Judgement]) -> list[Column]:
    """Return every column: models, then their datasets, as they first appear; then metrics."""
    found = list(dict.fromkeys(Column.of(j.cell) for j in judgements))
    models, datasets, dtypes = (list(dict.fromkeys(names)) for names in
                                zip(*map(_place, found), strict=True))
    metrics = (*_METRICS, _OTHER)
    return sorted(found, key=lambda c: (models.index(c.model), datasets.index(c.dataset),
                                        dtypes.index(c.dtype), metrics.index(c.metric)))


def blocks(found: Sequence[Column]) -> list[list[Column]]:
    """Cut columns into tables, never between the metrics of one model and dataset."""
    made: list[list[Column]] = []
    for _, group in groupby(found, key=_place):
        place = list(group)
        if made and len(made[-1]) + len(place) <= WIDEST:
            made[-1] += place
        else:
            made.append(place)
    return made


def _place(column: Column) -> tuple[str, str, str]:
    return column.model, column.dataset, column.dtype


def section(judgements: Sequence[Judgement], groups: Groups) -> str:
    """Return the matrix with its key, in as many tables as keep each one readable.

    Parameters
    ----------
    judgements : sequence of Judgement
        In the order in which they are read.
    groups : sequence of sequences of Judgement
        The same, claim by claim: a row each.
    """
    key = "".join(f'<span class="kv-{look.word}">{look.symbol}&nbsp;{look.word}</span>'
                  for look in LOOKS.values())
    return (
        '<h2 id="kv-matrix">Verdicts</h2>'
        f'<p class="kv-key">{key}<span>pub. ≈&nbsp;published value, consistent with ours</span>'
        "<span>pub. ≠&nbsp;not consistent</span><span>pub.&nbsp;not comparable</span></p>"
        + "".join(_block(block, groups) for block in blocks(columns(judgements)))
    )


def _block(block: Sequence[Column], groups: Groups) -> str:
    body = "".join(_row(index, group, block) for index, group in enumerate(groups)
                   if any(Column.of(j.cell) in block for j in group))
    return (f'<div class="kv-scroll"><table class="kv-table kv-matrix"><thead>{_head(block)}'
            f"</thead><tbody>{body}</tbody></table></div>")


def _head(block: Sequence[Column]) -> str:
    several = len({column.dtype for column in block}) > 1
    places = list(dict.fromkeys(map(_place, block)))
    tops = "".join(
        f'<th scope="colgroup" colspan="{sum(_place(column) == place for column in block)}">'
        f"{markup(place[0])} × {markup(place[1])}"
        + (f" <small>{markup(place[2])}</small>" if several else "") + "</th>"
        for place in places)
    lows = "".join(f'<th scope="col">{markup(column.metric)}</th>' for column in block)
    return f'<tr><th scope="col" rowspan="2">claim</th>{tops}</tr><tr>{lows}</tr>'


def _row(index: int, group: Sequence[Judgement], block: Sequence[Column]) -> str:
    claim = group[0].claim
    name = (f'<a href="#kv-claim-{index}">{markup(claim.id)}</a> '
            f"<small>{markup(group[0].estimate.unit)} · {tally(j.verdict for j in group)}</small>")
    cells = "".join(_cell(column, [j for j in group if Column.of(j.cell) == column])
                    for column in block)
    return f'<tr><td data-label="claim"><div>{name}</div></td>{cells}</tr>'


def _cell(column: Column, found: Sequence[Judgement]) -> str:
    label = f"{escape(column.model)} × {escape(column.dataset)} · {escape(column.metric)}"
    if not found:
        return f'<td data-label="{label}"><div><span class="kv-absent">–</span></div></td>'
    shade = found[0].verdict if len({j.verdict for j in found}) == 1 else "inconclusive"
    inside = "".join(_mark(j, column.metric == _OTHER) for j in found)
    return f'<td data-label="{label}" class="kv-shade-{shade}"><div>{inside}</div></td>'


def _mark(judgement: Judgement, named: bool) -> str:
    estimate, look = judgement.estimate, LOOKS[judgement.verdict]
    signed = is_signed(estimate.unit)
    low, high = (end_words(end, signed, 2) for end in (estimate.ci_low, estimate.ci_high))
    metric = f"<small>{markup(judgement.cell.metric)}</small>" if named else ""
    return (f'<b class="kv-{look.word}"><span role="img" aria-label="{look.word}" '
            f'title="{look.word}">{look.symbol}</span>&nbsp;'
            f"{number(estimate.value, 2, sign=signed)}</b>"
            f"<small>[{low}, {high}]</small>{_published(judgement)}{metric}")


def _published(judgement: Judgement) -> str:
    published = judgement.published
    if published is None:
        return ""
    shown = number(published.value, 2, sign=is_signed(judgement.estimate.unit))
    sign = _AGREES[judgement.consistent]
    return f'<small class="kv-published">pub.&nbsp;{sign}{shown}</small>'
