"""Made-up estimates to judge."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from kvcore.analysis import Estimate, effect_size


def interval(low: float, high: float, n: int = 100, unit: str = "d", **other: object) -> Estimate:
    """Return an estimate with this interval, its value in the middle."""
    value = low if low == high else (low + high) / 2
    plain = Estimate(value, low, high, 0.95, "made up", n, n, unit)
    return replace(plain, **other)  # type: ignore[arg-type]


@cache
def noise_estimates(mean: float, n: int = 80, draws: int = 400) -> tuple[Estimate, ...]:
    """d of unit-variance noise around a mean, one estimate per draw."""
    rng = np.random.default_rng(11)
    return tuple(effect_size(mean + rng.normal(size=n)) for _ in range(draws))
