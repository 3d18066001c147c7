"""The table of verdicts at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence

from kvcore.verdict import Judgement
from reports import multiple
from reports.text import one_line
from reports.words import VERDICT_STYLES, counts, interval_words, required_words, verdict_words

_HEAD = ("claim", "cell", "estimate [CI]", "n", "verdict", "n needed")
_ALIGNMENT = ("<", "<", "<", ">", "<", ">")


def table(judgements: Sequence[Judgement]) -> list[str]:
    """Return the verdicts as lines of text, columns aligned, and what they come to in all."""
    rows = [_HEAD, *(_row(judgement) for judgement in judgements)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    formats = [f"{side}{width}" for side, width in zip(_ALIGNMENT, widths, strict=True)]
    lines = ["  ".join(map(format, row, formats)).rstrip() for row in rows]
    totals = ", ".join(f"{number} {verdict}" for verdict, number in counts(judgements).items())
    return [*lines, "", totals, multiple.standing(judgements).sentence]


def _row(judgement: Judgement) -> tuple[str, ...]:
    symbol, cell = VERDICT_STYLES[judgement.verdict].symbol, judgement.cell
    return (
        one_line(judgement.claim.id, 48),
        one_line(f"{cell.model}-{cell.dataset}-{cell.metric}", 48),
        f"{interval_words(judgement.estimate)} {one_line(judgement.estimate.unit)}",
        str(judgement.estimate.n),
        f"{symbol} {verdict_words(judgement)}",
        required_words(judgement),
    )
