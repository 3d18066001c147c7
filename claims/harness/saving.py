"""What looks would have saved of rows that are stored, and whether they would have told the same.

The stored rows of every cell are taken for all that a limit would choose, and looked at as a run
would have; nothing is measured. `pytest claims --collect-only --kv-no-measure` gives the session.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from claims.harness import judging, looking
from claims.harness.claims import CellClaim, CellKey
from claims.harness.session import Session
from claims.harness.sources import StoredCell
from kvcore.errors import KvError, MissingResource
from kvcore.measurements.collect import counted
from kvcore.measurements.looks import planned
from kvcore.measurements.needs import CONTROLS
from kvcore.verdict import Look, Verdict


@dataclass(frozen=True)
class ClaimSaving:
    """How a claim comes out with looks, and as a fixed design on all rows."""

    claim: str
    cell: str
    look: Look
    verdict: Verdict
    fixed: Verdict


@dataclass(frozen=True)
class CellSaving:
    """Rows of a cell that its claims need: all of them, and those until each claim has stopped."""

    cell: CellKey
    claims: tuple[ClaimSaving, ...]
    rows: int
    rows_with_looks: int


def savings(session: Session, looks: int) -> list[CellSaving]:
    """Look at the stored rows of every cell of a session; cells without rows are left out.

    The session's store and seed are taken; it must be one with ``no_measure``. Claims that are not
    applicable, or whose estimand breaks, are left out too. Costs a jackknife for each look that a
    claim takes.
    """
    cells = (_saving(session, key, looks) for key in session.tests)
    return [cell for cell in cells if cell is not None]


def agreement(cells: Iterable[CellSaving]) -> float:
    """Return the share of claims with the same verdict with looks and without, in [0, 1]."""
    same = [claim.verdict == claim.fixed for cell in cells for claim in cell.claims]
    return sum(same) / len(same) if same else 1.0


def _saving(session: Session, key: CellKey, looks: int) -> CellSaving | None:
    try:
        collected = session.stored(key)
    except MissingResource:
        return None
    plan = planned(collected.rows, counted(collected.rows), looks, session.settings.seed)
    source = StoredCell(key, collected, plan)
    tests = session.tests[key]
    stops = looking.stops(tests, source, judging.judge_of(session))
    everything = source.at(None)
    claims: list[ClaimSaving] = []
    reached: dict[str, int] = {}
    for test, stop in zip(tests, stops, strict=True):
        if stop.look is None:
            continue
        claim = _claim(session, test, stop, looking.Stop(everything, None))
        if claim is not None:
            claims.append(claim)
            for need in looking.planned_needs(test, plan):
                reached[need] = max(stop.look.number, reached.get(need, 0))
    reached |= dict.fromkeys(set(CONTROLS) & set(plan.needs), reached.get("bare", 0))
    with_looks = sum(plan.count(need, look) for need, look in reached.items())
    rows = sum(plan.count(need, plan.looks) for need in reached)
    return CellSaving(key, tuple(claims), rows, with_looks)


def _claim(
    session: Session, test: CellClaim, stop: looking.Stop, fixed: looking.Stop
) -> ClaimSaving | None:
    """Judge a claim where it stopped and on all rows; None where it cannot be."""
    verdicts: list[Verdict] = []
    try:
        if test.spec.declared.applies(fixed.measured):
            return None
        for measured, look in (stop, fixed):
            judge = judging.CellJudge(test, measured, session, look, final=False)
            verdicts.append(judge.judge().verdict)
    except (KvError, ArithmeticError):
        return None
    look = stop.look
    if look is None:
        return None
    return ClaimSaving(test.spec.claim.id, str(test.cell), look, verdicts[0], verdicts[1])
