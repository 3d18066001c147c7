"""Variance and Cohen's d from counts, sums and sums of squares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kvcore.analysis.samples import FloatArray

ROUNDING = 1e-12
"""Below this share of the sum of squares a variance is what rounding leaves of zero."""


def variance(n: FloatArray, s: FloatArray, ss: FloatArray) -> FloatArray:
    """Sample variance (ddof 1) from count, sum and sum of squares; rounding never leaves < 0."""
    raw = (ss - s * s / n) / (n - 1)
    return np.where(raw <= ROUNDING * ss, 0.0, raw)


@dataclass(frozen=True)
class Standardization:
    """Centre and scale of a column: sums of standardised numbers lose nothing to rounding."""

    mean: float
    sd: float

    @classmethod
    def of(cls, x: FloatArray) -> Standardization:
        """Take mean and SD (ddof 1) of a column."""
        return cls(float(np.mean(x)), float(np.std(x, ddof=1)))

    def apply(self, x: FloatArray) -> FloatArray:
        """Centre and scale a column."""
        return (x - self.mean) / self.sd

    def effect(self, n: FloatArray, s: FloatArray, ss: FloatArray) -> FloatArray:
        """Cohen's d of the original column from the sums of the standardised one.

        0 where mean and SD are both 0, infinite where only the SD is.
        """
        mean, sd = self.mean / self.sd + s / n, np.sqrt(variance(n, s, ss))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where((sd == 0) & (mean == 0), 0.0, mean / sd)
