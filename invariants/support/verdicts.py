"""Made-up estimates to judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
from scipy import stats as sps

from kvcore.analysis import Estimate, effect_size
from kvcore.verdict import (
    Prediction,
    at_least,
    at_most,
    differs,
    does_not_help,
    helps,
    hurts,
    negligible,
)

WITH_MARGIN: list[Callable[..., Prediction]] = [helps, hurts, does_not_help, negligible, differs]
PREDICTIONS = [*(make(0.1) for make in WITH_MARGIN), at_least(0.2), at_most(0.2)]


def name_of(value: object) -> str | None:
    """Name a prediction in a test id."""
    return value.name.replace("_", "-") if isinstance(value, Prediction) else None


def interval(low: float, high: float, n: int = 100, unit: str = "d", **other: object) -> Estimate:
    """Return an estimate with this interval, its value in the middle."""
    value = low if low == high else (low + high) / 2
    plain = Estimate(value, low, high, 0.95, "made up", n, n, unit)
    return replace(plain, **other)  # type: ignore[arg-type]


def measured(value: float, se: float, n: int = 100, clusters: int = 0) -> Estimate:
    """Return an estimate with the jackknife's interval around a value, in as many clusters."""
    k = clusters or n
    half = float(sps.t(k - 1).isf(0.025)) * se
    ends = interval(value - half, value + half, n, method="jackknife-t", value=value)
    return replace(ends, clusters=k, se=se, informative=k, effective=float(k), df=k - 1)


@cache
def noise_estimates(mean: float, n: int = 80, draws: int = 400) -> tuple[Estimate, ...]:
    """d of unit-variance noise around a mean, one estimate per draw."""
    rng = np.random.default_rng(11)
    return tuple(effect_size(mean + rng.normal(size=n)) for _ in range(draws))
