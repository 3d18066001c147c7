"""What a terminal shows at the end of a run: one screen, and the table of verdicts with ``-v``."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kvcore.verdict import Judgement, Verdict
from reports import multiple
from reports.grouping import grouped
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
    return [*lines, "", _totals(judgements), multiple.standing(judgements).sentence]


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


# --- the end of a run, on one screen -------------------------------------------------------------

SCREEN = (80, 24)
"""Columns and lines of a terminal that does not say how large it is."""
AROUND = 6
"""Lines of a screen that are others': title, totals, pytest-html's two, a prompt, one to spare."""
_WRAPPING: Mapping[str, Any] = {"subsequent_indent": "  ", "break_on_hyphens": False}
LACKING = "no resource: "
FIRST = "priming"
"""The topic that is told first: the line of research began with it."""
MOST_REASONS = 4
COLOURS: Mapping[Verdict, str] = {"supported": "green", "refuted": "red"}


@dataclass(frozen=True)
class Line:
    """One line of a terminal, and its colour if it has one."""

    text: str
    colour: str | None = None


def closing(
    judgements: Sequence[Judgement],
    *,
    not_judged: Mapping[str, int],
    notes: Sequence[str],
    report: str,
    broken_off: bool = False,
    columns: int = SCREEN[0],
    rows: int = SCREEN[1],
) -> list[Line]:
    """Return the end of a run, no longer and no wider than a screen.

    - `not_judged`: how many tests told of no verdict, by the reason that they gave.
    - `notes`: what else is said, a line each.
    - `report`: where the report lies.
    - `broken_off`: whether the run did not come to its end.
    - `columns`, `rows`: of the terminal.
    """
    reasons = _reasons(not_judged)
    wrapped = [line for note in notes for line in textwrap.wrap(note, columns, **_WRAPPING)]
    last = [*map(Line, wrapped), Line(f"report: {report}")]
    if not judgements:
        nothing = Line("no claim was judged: the run fails", "red")
        if broken_off:
            nothing = Line("no claim was judged yet")
        return _cut([nothing, *reasons, *last], columns)
    head = [Line(_totals(judgements))]
    standing = multiple.standing(judgements)
    if standing.primary:
        head.append(Line(standing.short))
    room = rows - AROUND - len(head) - len(reasons) - len(last)
    return _cut([*head, *_decided(judgements, room), *reasons, *last], columns)


def _totals(judgements: Sequence[Judgement]) -> str:
    return ", ".join(f"{number} {verdict}" for verdict, number in counts(judgements).items())


def _decided(judgements: Sequence[Judgement], room: int) -> list[Line]:
    """Return the decided primary verdicts as sentences, cell by cell, in so many lines at most."""
    primary = sorted((j for j in judgements if j.primary), key=lambda j: j.claim.family != FIRST)
    groups = grouped(primary, lambda j: f"{j.cell.model} on {j.cell.dataset}")
    shares = _shares([_count_decided(group) for group in groups.values()], room - len(groups))
    lines = []
    for (cell, group), share in zip(groups.items(), shares, strict=True):
        lines.append(Line(f"{cell}: {_count_words(group)}"))
        decided = [j for j in group if j.verdict != "inconclusive"]
        shown = decided if len(decided) <= share else decided[: max(0, share - 1)]
        lines += [
            Line(
                f"  {VERDICT_STYLES[j.verdict].symbol} {one_line(j.claim.statement)}",
                COLOURS[j.verdict],
            )
            for j in shown
        ]
        if share and len(shown) < len(decided):
            lines.append(Line(f"    and {len(decided) - len(shown)} more in the report"))
    return lines if len(lines) <= room else lines[: max(1, room)]


def _count_decided(group: Sequence[Judgement]) -> int:
    return sum(j.verdict != "inconclusive" for j in group)


def _count_words(group: Sequence[Judgement]) -> str:
    """Say how many claims hold; of those that are open, how many samples would tell of the next."""
    by_verdict = counts(group)
    said = (
        f"{by_verdict['supported']} hold, {by_verdict['refuted']} do not, "
        f"{by_verdict['inconclusive']} open"
    )
    planned = [j.required_n for j in group if j.verdict == "inconclusive" and j.required_n]
    return f"{said} (one needs n ≈ {min(planned):,})" if planned else said


def _shares(wanted: Sequence[int], room: int) -> list[int]:
    """Divide lines among groups: each gets what it wants as long as there is room for all."""
    given = [0] * len(wanted)
    while room > 0 and (lacking := [i for i, n in enumerate(wanted) if given[i] < n]):
        for i in lacking[:room]:
            given[i] += 1
        room -= len(lacking)
    return given


def _reasons(not_judged: Mapping[str, int]) -> list[Line]:
    """Return why tests told of no verdict, a line for each reason, the most frequent first."""
    ordered = sorted(not_judged.items(), key=lambda item: -item[1])
    lines = [
        Line(f"not judged ({count}): {one_line(reason).removeprefix(LACKING)}")
        for reason, count in ordered
    ]
    if len(lines) > MOST_REASONS:
        rest = sum(count for _, count in ordered[MOST_REASONS - 1 :])
        lines[MOST_REASONS - 1 :] = [Line(f"not judged ({rest}): for other reasons, in the report")]
    return lines


def _cut(lines: Sequence[Line], columns: int) -> list[Line]:
    return [replace(line, text=shortened(line.text, columns)) for line in lines]


def shortened(text: str, columns: int) -> str:
    """Return a line no wider than so many columns, cut between words where it is longer."""
    if len(text) <= columns:
        return text
    head = text[: columns - 1]
    words, space, _ = head.rpartition(" ")
    kept = words if space and len(words) > columns // 2 else head
    return f"{kept.rstrip(' ,;:')}\u2026"
