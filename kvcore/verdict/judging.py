"""Verdicts by geometry, and how many samples one would take."""

from __future__ import annotations

import math
from typing import Literal

from scipy import optimize
from scipy import stats as sps

from kvcore.analysis import Estimate
from kvcore.analysis.interval import check_confidence
from kvcore.errors import KvError
from kvcore.verdict.prediction import Prediction

Verdict = Literal["supported", "refuted", "inconclusive"]

MIN_UNITS = 10
"""A bootstrap over fewer units is far narrower than it says: 4 units give 78 % coverage, not 95."""
# Keeps the bracket of the power equation off 0 (where inf * 0 has no value) and clear of rounding.
_SLIVER = 1e-9


def familywise(confidence: float, m: int) -> float:
    """Widen a confidence level so that m intervals hold together (Bonferroni)."""
    check_confidence(confidence)
    if m < 1:
        raise KvError(f"m must be 1 or more intervals; got m={m}.")
    return 1 - (1 - confidence) / m


def _check_units(estimate: Estimate, prediction: Prediction) -> None:
    if estimate.unit != prediction.unit:
        raise KvError(
            f"{prediction.name} must predict in the estimate's unit; got {prediction.unit!r}, pass "
            f"unit={estimate.unit!r} to the prediction."
        )


def judge(estimate: Estimate, prediction: Prediction, floor: float = 0.0) -> Verdict:
    """Set an interval against a prediction, by the table of `kvcore.verdict.prediction`.

    The floor says how far measuring alone may move the estimate, in its own unit
    (`floor_on_scale`). Raises KvError for units that differ, a negative or NaN floor.
    """
    _check_units(estimate, prediction)
    supported, refuted = prediction.decisive(floor)
    if math.isnan(estimate.value) or estimate.clusters < MIN_UNITS:
        return "inconclusive"
    interval = (estimate.ci_low, estimate.ci_high)
    if any(region.holds(*interval) for region in supported):
        return "supported"
    return "refuted" if any(region.holds(*interval) for region in refuted) else "inconclusive"


def required_n(
    estimate: Estimate, prediction: Prediction, power: float = 0.8, floor: float = 0.0
) -> int | None:
    """How many samples would settle a claim, were the pre-registered effect the true one.

    The smallest n at which the interval falls inside the supported region (or the refuted one,
    where the pre-registered effect lies there) with the given power, in (0, 1). The estimate's
    width, taken to fall as 1 / sqrt(n), says how noisy a sample is; so the design effect of its
    clusters is included. Normal approximation; never below `MIN_UNITS` units, at the samples per
    unit observed. None where no n would do (the effect is on a bound, within the noise floor, or
    not given) and where the width is unknown.
    """
    _check_units(estimate, prediction)
    if not 0 < power < 1:
        raise KvError(f"power must be in (0, 1); got power={power}.")
    if prediction.effect is None or estimate.n < 1 or not math.isfinite(estimate.half_width):
        return None
    room = _room(prediction, prediction.effect, floor)
    if room is None:
        return None
    z = float(sps.norm.ppf((1 + estimate.confidence) / 2))
    noise = estimate.half_width * math.sqrt(estimate.n) / z
    settled = math.ceil((required_precision(*room, z, power) * noise) ** 2)
    return max(settled, math.ceil(MIN_UNITS * estimate.n / estimate.clusters))


def _room(prediction: Prediction, effect: float, floor: float) -> tuple[float, float] | None:
    """Distance from the effect down and up to the bounds of the region that settles it."""
    supported, refuted = prediction.decisive(floor)
    for region in (*supported, *refuted):
        if region.low < effect < region.high:
            return effect - region.low, region.high - effect
    return None


def required_precision(below: float, above: float, z: float, power: float) -> float:
    """1 / standard error at which an interval of z errors to either side fits with that power."""

    def excess(precision: float) -> float:
        fits = sps.norm.cdf(below * precision - z) + sps.norm.cdf(above * precision - z) - 1
        return float(fits - power)

    # There each tail misses with (1 - power) / 2, so together they miss with 1 - power at most.
    enough = (z + float(sps.norm.ppf((1 + power) / 2))) / min(below, above)
    return float(optimize.brentq(excess, _SLIVER * enough, enough * (1 + _SLIVER)))
