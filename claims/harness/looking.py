"""Looks at the claims of a cell: each stops when it is settled, its needs when nothing is open.

All claims of a cell are looked at together. At every look the needs of the open claims are measured
that far, and a claim stops where its repeated interval supports or refutes it, or where going on
would hardly settle it (futility, not binding: the bounds take no account of it). What a claim is
told hangs on its own rows alone, so that other claims of the run never change it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from scipy import stats as sps

from claims.harness.claims import CellClaim
from claims.harness.rows import Measured, layers_among
from kvcore.analysis import Estimate, IntervalSettings
from kvcore.analysis.jackknife import from_scale, to_scale
from kvcore.measurements.looks import LookPlan, Schedule
from kvcore.measurements.needs import Need, is_sweep
from kvcore.verdict import FUTILE, MIN_UNITS, Judgement, Look, read_interval
from kvcore.verdict.looks import Why, bounds, predictive_power

RESOLVED = 10
"""Resamples beyond each end of a bootstrap interval, at least: fewer place no end."""


class Source(Protocol):
    """Rows of one cell, to be measured or as stored."""

    @property
    def plan(self) -> LookPlan | None:
        """What was declared of the cell; None for stored rows of which nothing was."""

    def measure(self, needs: Iterable[str], look: int) -> None:
        """Measure what is missing of some needs up to a look, where anything is measured."""

    def at(self, look: int | None) -> Measured:
        """Return the rows up to a look; all that there are for None."""

    def missing(self, needs: Iterable[str], look: int) -> int:
        """Return how many rows of some needs are not there up to a look."""


class Stop(NamedTuple):
    """Where a claim stopped: the rows that it is judged on, and at which look."""

    measured: Measured
    look: Look | None


@dataclass(frozen=True)
class Judge:
    """How the claims of a run are judged at a look.

    - `judgement`: judges a claim on some rows at a look.
    - `level`: confidence of a claim's interval over all looks.
    - `interval`: settings of the intervals.
    """

    judgement: Callable[[CellClaim, Measured, Look], Judgement]
    level: Callable[[CellClaim], float]
    interval: IntervalSettings


@dataclass(frozen=True)
class _Open:
    """A claim that is still looked at."""

    place: int
    test: CellClaim
    needs: tuple[str, ...]
    schedule: Schedule
    bounds: tuple[float, ...]
    last: Stop | None = None


def stops(tests: Sequence[CellClaim], source: Source, judge: Judge) -> list[Stop]:
    """Look at the claims of a cell until each has stopped, and return where, in their order.

    A claim whose needs were not declared (of which the data lacks some, or which the record does
    not have) is judged on all rows of the cell, without looks.
    """
    plan = source.plan
    if plan is None:
        return [Stop(source.at(None), None)] * len(tests)
    opened = [_opened(place, test, plan, judge) for place, test in enumerate(tests)]
    remaining = [claim for claim in opened if claim is not None]
    stopped: dict[int, Stop] = {}
    for number in range(1, plan.looks + 1):
        taking = [claim for claim in remaining if number in claim.schedule.looks]
        if not taking:
            continue
        source.measure({need for claim in remaining for need in claim.needs}, number)
        measured = source.at(number)
        waiting = [claim for claim in remaining if number not in claim.schedule.looks]
        for claim in taking:
            stop, ended = _look(claim, number, measured, source, judge, plan)
            if ended:
                stopped[claim.place] = stop
            else:
                waiting.append(replace(claim, last=stop))
        remaining = waiting
    rest = [place for place in range(len(tests)) if place not in stopped]
    if rest:  # what can be had of their needs, in part, says why there is no more
        wanted = {need for place in rest for need in planned_needs(tests[place], plan)}
        source.measure(wanted & set(plan.needs), 1)
        stopped |= dict.fromkeys(rest, Stop(source.at(None), None))
    return [stopped[place] for place in range(len(tests))]


def plan_of(test: CellClaim, plans: Sequence[LookPlan]) -> LookPlan | None:
    """Return the first plan that has all needs of a claim, the first of all where none has."""
    own = (plan for plan in plans if plan.has(planned_needs(test, plan)))
    return next(own, plans[0] if plans else None)


def _opened(place: int, test: CellClaim, plan: LookPlan, judge: Judge) -> _Open | None:
    needs = planned_needs(test, plan)
    if not plan.has(needs):
        return None
    error = 1 - judge.level(test)
    schedule = plan.schedule(needs, MIN_UNITS)
    if judge.interval.method == "bca":
        schedule = resolved(schedule, error, judge.interval.resamples)
    return _Open(place, test, needs, schedule, bounds(error, schedule.fractions))


def planned_needs(test: CellClaim, plan: LookPlan) -> tuple[str, ...]:
    """Return the needs of a claim as plans have them: a sweep as the layers that are planned.

    Needs that are not planned are returned too, a sweep without layers as it is spelled.
    """
    names: list[str] = []
    for need in test.finding.needs:
        layers = layers_among(need, plan.needs).values() if is_sweep(need) else ()
        names += layers or [str(Need.read(need))]
    return tuple(dict.fromkeys(names))


def resolved(schedule: Schedule, error: float, resamples: int) -> Schedule:
    """Leave out the first looks, whose bounds a bootstrap of so many draws does not reach."""
    while len(schedule.looks) > 1:
        tail = float(sps.norm.sf(bounds(error, schedule.fractions)[0]))
        if tail * resamples >= RESOLVED:
            break
        schedule = Schedule(schedule.looks[1:], schedule.fractions[1:])
    return schedule


def _look(
    claim: _Open, number: int, measured: Measured, source: Source, judge: Judge, plan: LookPlan
) -> tuple[Stop, bool]:
    """Look at a claim; return how it would be judged here, and whether it stops."""
    fractions = claim.schedule.until(number)
    look = Look(number, plan.looks, fractions, plan.limit, note=plan.warning(claim.needs))
    if source.missing(claim.needs, number):
        last = claim.last or Stop(measured, look)
        return Stop(last.measured, replace(last.look or look, why="not measured further")), True
    if number == plan.looks:
        return Stop(measured, look), True
    why, power = settled(claim, measured, look, judge)
    ended = replace(look, why=why, power=power) if why else look
    return Stop(measured, ended), bool(why)


def settled(
    claim: _Open, measured: Measured, look: Look, judge: Judge
) -> tuple[Why | None, float | None]:
    """Return why a claim need not be looked at again, None where it must."""
    try:
        if claim.test.spec.declared.applies(measured):
            return "not applicable", None
        judgement = judge.judgement(claim.test, measured, look)
    except Exception:  # its own test tells what breaks, on all that the limit gives
        return None, None
    few = judgement.estimate.n < judgement.claim.min_n
    if judgement.verdict == "refuted" and few:  # no ledger would take it: go on, if it can
        return None, None
    if judgement.verdict != "inconclusive":
        return "decided", None
    power = power_at_limit(judgement, look.fractions[-1], claim.bounds[-1])
    return ("futile", power) if power is not None and power < FUTILE else (None, None)


def power_at_limit(judgement: Judgement, fraction: float, bound: float) -> float | None:
    """Return the predictive power of any verdict at the limit, None where too little is known.

    `fraction` of the limit's samples are in the judgement; `bound` is that of the last look.
    """
    estimate, prediction = judgement.estimate, judgement.claim.prediction
    error = standard_error_on_scale(estimate)
    centre = to_scale(estimate.value, estimate.scale)
    if judgement.why_open or not (0 < error < math.inf and math.isfinite(centre)):
        return None

    def decides(low: float, high: float) -> bool:
        ends = from_scale(low, estimate.scale), from_scale(high, estimate.scale)
        return read_interval(estimate, ends, prediction, judgement.floor).verdict != "inconclusive"

    return predictive_power(decides, centre, error, fraction, bound)


def standard_error_on_scale(estimate: Estimate) -> float:
    """Return the standard error on the scale of the estimate; of exact intervals about."""
    if estimate.se is not None:
        return estimate.se
    return estimate.half_width / float(sps.norm.ppf((1 + estimate.confidence) / 2))


# --- what a run saved ----------------------------------------------------------------------------


def lines(looks: Iterable[Look], measured: int, planned: int) -> list[str]:
    """Say in a line what stopped where, and how many rows that took; none for fixed designs."""
    counts: dict[tuple[int, int], int] = {}
    left = 0
    for look in looks:
        if look.of > 1 and look.why == "limit":
            left += 1
        elif look.of > 1:
            counts[look.number, look.of] = counts.get((look.number, look.of), 0) + 1
    if not counts and not left:
        return []
    parts = [f"{n} at look {number} of {of}" for (number, of), n in sorted(counts.items())]
    parts = [f"claims stopped: {', '.join(parts)}"] if parts else []
    parts += [f"{left} went to the limit"] if left else []
    return [f"looks: {'; '.join(parts)}; rows measured {measured:,} of {planned:,}"]
