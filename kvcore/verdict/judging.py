"""Verdicts on estimates: the reading of their interval, how sure it is, and what stands against."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import stats as sps

from kvcore.analysis import Estimate
from kvcore.analysis.interval import check_confidence
from kvcore.analysis.jackknife import to_scale
from kvcore.errors import KvError
from kvcore.verdict.prediction import Prediction
from kvcore.verdict.reading import Outcome, Verdict, read, verdict_of

MIN_UNITS = 20
"""Fewer clusters that tell of an effect settle nothing: any interval over them is too narrow."""


@dataclass(frozen=True)
class IntervalReading:
    """How an interval reads against a prediction, and the verdict that follows."""

    verdict: Verdict
    outcome: Outcome
    why_open: str = ""  # what keeps the interval from being read at all, "" where nothing does


def familywise(confidence: float, m: int) -> float:
    """Widen a confidence level so that m intervals hold together (Bonferroni)."""
    check_confidence(confidence)
    if m < 1:
        raise KvError(f"m must be 1 or more intervals; got m={m}.")
    return 1 - (1 - confidence) / m


def check_units(estimate: Estimate, prediction: Prediction) -> None:
    """Raise KvError where an estimate and a prediction are in different units."""
    if estimate.unit != prediction.unit:
        raise KvError(
            f"{prediction.name} must predict in the estimate's unit; got {prediction.unit!r}, pass "
            f"unit={estimate.unit!r} to the prediction."
        )


def judge(estimate: Estimate, prediction: Prediction, floor: float = 0.0) -> IntervalReading:
    """Read an estimate's interval against a prediction, by the table of `kvcore.verdict.reading`.

    The floor says how far measuring alone may move the estimate, in its own unit
    (`floor_on_scale`): the interval is read that much wider. Raises KvError for units that differ,
    a negative or NaN floor.
    """
    return read_interval(estimate, (estimate.ci_low, estimate.ci_high), prediction, floor)


def judge_beside(
    estimate: Estimate, prediction: Prediction, floor: float = 0.0
) -> IntervalReading | None:
    """Read the other method's interval of an estimate as `judge` reads its own, None without."""
    if estimate.beside is None:
        return None
    return read_interval(estimate, (estimate.beside.low, estimate.beside.high), prediction, floor)


def read_interval(
    estimate: Estimate, ends: tuple[float, float], prediction: Prediction, floor: float
) -> IntervalReading:
    """Read an interval of an estimate against a prediction; see `judge`."""
    check_units(estimate, prediction)
    if not floor >= 0:
        raise KvError(f"floor must be a number >= 0; got floor={floor}.")
    units = telling_units(estimate)
    if units < MIN_UNITS:
        return IntervalReading("inconclusive", "open", _too_few(estimate, units))
    if math.isnan(estimate.value) or math.isinf(floor):
        return IntervalReading("inconclusive", "open")
    low, high = ends[0] - floor, ends[1] + floor
    outcome = read(low, high, prediction)
    # The table is mirrored for `hurts`, where U of the mirror image is -L.
    upper = high if prediction.direction > 0 else -low
    return IntervalReading(verdict_of(outcome, upper, prediction), outcome)


def telling_units(estimate: Estimate) -> int:
    """Return how many clusters tell of an estimate; all where none or every one moves it."""
    return estimate.informative or estimate.clusters


def _too_few(estimate: Estimate, units: int) -> str:
    if estimate.clusters < MIN_UNITS:
        return f"no verdict below {MIN_UNITS} clusters; there are {estimate.clusters}"
    return (
        f"only {units} of {estimate.clusters} clusters tell of the effect; "
        f"{MIN_UNITS} are needed for a verdict"
    )


# --- p values ------------------------------------------------------------------------------------


def tails(estimate: Estimate, bound: float) -> tuple[float, float]:
    """One-sided p values: that the truth is ``bound`` or less, and that it is ``bound`` or more.

    By t over the jackknife's standard error; where the interval is another one (exact, bootstrap)
    approximate, by the normal distribution and the distance of the interval's end on that side.
    (1, 1) where the estimate has no value or no interval; an interval of no width is sure.
    """
    if math.isnan(estimate.value) or not math.isfinite(estimate.half_width):
        return 1.0, 1.0
    if estimate.se and math.isfinite(estimate.se) and "jackknife" in estimate.method:
        centre, edge = (to_scale(x, estimate.scale) for x in (estimate.value, bound))
        t, df = (centre - edge) / estimate.se, estimate.df or estimate.clusters - 1
        return float(sps.t.sf(t, df)), float(sps.t.cdf(t, df))
    end = estimate.ci_low if bound < estimate.value else estimate.ci_high
    width = abs(estimate.value - end)
    if width == 0:
        return float(estimate.value <= bound), float(estimate.value >= bound)
    z = (estimate.value - bound) / width * float(sps.norm.ppf((1 + estimate.confidence) / 2))
    return float(sps.norm.sf(z)), float(sps.norm.cdf(z))


def p_value(estimate: Estimate, prediction: Prediction, verdict: Verdict) -> float:
    """Two-sided p value of a verdict: 0.05 where an interval of 95 % only just gives it.

    That of *inconclusive* is the smaller of what supporting and refuting would have; 1 where too
    few clusters tell of the effect.
    """
    if telling_units(estimate) < MIN_UNITS:
        return 1.0
    support, refute = _one_sided(estimate, prediction)
    p = {"supported": support, "refuted": refute}.get(verdict, min(support, refute))
    return min(1.0, 2 * p)


def _one_sided(estimate: Estimate, prediction: Prediction) -> tuple[float, float]:
    """One-sided p values of supporting and of refuting a prediction."""
    sign, margin = prediction.direction, prediction.margin

    def towards(bound: float) -> tuple[float, float]:
        """P values that the truth is not beyond a bound, and not short of it, mirrored."""
        below, above = tails(estimate, sign * bound)
        return (below, above) if sign > 0 else (above, below)

    if prediction.delta is None:
        return towards(prediction.bound * sign)
    within = max(towards(margin)[1], towards(-margin)[0])
    beyond = min(towards(margin)[0], towards(-margin)[1])
    return {
        "helps": (towards(0.0)[0], towards(margin)[1]),
        "hurts": (towards(0.0)[0], towards(margin)[1]),
        "does_not_help": (towards(margin)[1], towards(margin)[0]),
        "negligible": (within, beyond),
        "differs": (min(towards(0.0)), within),
    }[prediction.name]
