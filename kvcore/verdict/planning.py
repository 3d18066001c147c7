"""What it would take to settle a claim: planning, never a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy import stats as sps

from kvcore.analysis import Estimate
from kvcore.analysis.jackknife import degrees_of_freedom, excess_of, t_quantile
from kvcore.errors import KvError
from kvcore.verdict.judging import MIN_UNITS, check_units
from kvcore.verdict.prediction import Prediction
from kvcore.verdict.reading import Verdict, read, verdict_of

LARGEST = 10_000_000
"""Samples beyond which nobody plans: the effect is as good as on the margin."""

LIMIT = 0.75
"""Level of the upper confidence limit of the pilot's variance that is planned with."""


@dataclass(frozen=True)
class SampleSizePlan:
    """How many samples would settle a claim, were the pre-registered effect the true one."""

    n: int | None  # in the estimate's own samples; None where no n is known to do
    text: str  # with a place for n

    @property
    def words(self) -> str:
        """The plan in plain words."""
        return self.text.format(n=f"{self.n:,}") if self.n is not None else self.text

    def scaled(self, factor: float) -> SampleSizePlan:
        """Return the plan with n in a unit of which a sample takes ``factor``."""
        return self if self.n is None else SampleSizePlan(math.ceil(self.n * factor), self.text)


def plan(
    estimate: Estimate,
    prediction: Prediction,
    power: float = 0.8,
    floor: float = 0.0,
    confidence: float | None = None,
) -> SampleSizePlan:
    """Return how many samples would settle a claim with some power, in (0, 1).

    The standard error over clusters, taken to fall as 1 / sqrt(n) at the samples per cluster
    observed, says how noisy a sample is: its upper confidence limit, for a pilot that happens to
    vary little would advise too few (Browne 1995, Statistics in Medicine 14). Where the interval
    excludes the pre-registered effect, planning for it makes no sense and the words say so.
    ``confidence`` is that of the interval which is to settle it, by default the estimate's.
    """
    check_units(estimate, prediction)
    if not 0 < power < 1:
        raise KvError(f"power must be in (0, 1); got power={power}.")
    effect = prediction.effect
    if effect is None:
        return SampleSizePlan(None, "no effect was written down to plan for")
    if estimate.n < 1 or not math.isfinite(estimate.half_width) or math.isnan(estimate.value):
        return SampleSizePlan(None, "how noisy a sample is, is not known")
    what = f"{prediction.unit} = {effect:g}"
    if not estimate.ci_low <= effect <= estimate.ci_high:
        return SampleSizePlan(None, f"the data contradict {what}, so no n is planned for it")
    pilot = estimate.df or max(estimate.clusters - 1, 1)
    per_sample = standard_error(estimate) * math.sqrt(estimate.n) * noisier(pilot)
    excess = excess_of(max(estimate.clusters, 2), pilot)
    units = estimate.n / estimate.clusters
    level = estimate.confidence if confidence is None else confidence
    least = math.ceil(MIN_UNITS * units)

    def reached(n: int) -> bool:
        df = degrees_of_freedom(max(n / units, 2), excess)
        critical = t_quantile((1 + level) / 2, df)
        return settling(effect, per_sample / math.sqrt(n), critical, prediction, floor) >= power

    n = _smallest(reached, least)
    if n is None:
        return SampleSizePlan(None, f"no n is known to settle it if {what}, which lies on a margin")
    if n <= estimate.n:
        return SampleSizePlan(
            None, f"if {what}, the samples at hand would have settled it with {power:.0%}"
        )
    return SampleSizePlan(n, f"about {{n}} samples would settle it if {what}, at {power:.0%} power")


def noisier(df: float, level: float = LIMIT) -> float:
    """Return the upper confidence limit of a standard error with df degrees, as a factor of it."""
    return math.sqrt(df / float(sps.chi2.ppf(1 - level, df)))


def standard_error(estimate: Estimate) -> float:
    """Return the standard error of an estimate in its own unit."""
    if estimate.se is not None and math.isfinite(estimate.se):
        slope = 1 - estimate.value**2 if estimate.scale == "fisher" else 1.0
        return estimate.se * slope
    return estimate.half_width / float(sps.norm.ppf((1 + estimate.confidence) / 2))


def settling(
    effect: float, se: float, critical: float, prediction: Prediction, floor: float = 0.0
) -> float:
    """Return the probability of the verdict that is right for a true effect.

    For an estimate that is normal around it with that standard error, and an interval of
    ``critical`` errors to either side, read wider by the floor.
    """
    if se <= 0:
        return float(_verdict(effect, floor, prediction) == _verdict(effect, 0.0, prediction))
    x, half = effect * prediction.direction, critical * se + floor
    margin = prediction.margin

    def above(bound: float) -> float:
        return float(sps.norm.sf((bound - x) / se))

    def within(low: float, high: float) -> float:
        return max(0.0, above(low) - above(high))

    if prediction.delta is None:
        bound = prediction.bound * prediction.direction
        return above(bound + half) if x >= bound else 1 - above(bound - half)
    if prediction.name in ("helps", "hurts"):
        return above(max(half, margin - half)) if x >= margin else 1 - above(margin - half)
    if prediction.name == "does_not_help":
        return above(margin + half) if x >= margin else 1 - above(margin - half)
    inside = within(half - margin, margin - half)
    if prediction.name == "negligible":
        beyond = above(margin + half) + 1 - above(-margin - half)
        return inside if abs(x) < margin else beyond
    edge = max(half, margin - half)
    return inside if abs(x) < margin else above(edge) + 1 - above(-edge)


def _verdict(effect: float, floor: float, prediction: Prediction) -> Verdict:
    """Return the verdict on an effect known but for the floor."""
    low, high = effect - floor, effect + floor
    upper = high if prediction.direction > 0 else -low
    return verdict_of(read(low, high, prediction), upper, prediction)


def _smallest(reached: Callable[[int], bool], least: int) -> int | None:
    """Return the smallest n from ``least`` on that reaches the power, None beyond `LARGEST`."""
    high = max(least, 1)
    while not reached(high):
        high *= 2
        if high > LARGEST:
            return None
    low = max(least, high // 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle + 1, high)
    return high
