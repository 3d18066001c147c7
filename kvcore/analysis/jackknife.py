"""The delete-one-cluster jackknife: the standard error by which claims are judged.

The variance is (k - 1) / k times the sum of squared changes that leaving out one of k clusters
makes (CV3 of MacKinnon, Nielsen and Webb, 2023, Journal of Applied Econometrics 38; Efron and Stein
1981 show that it errs upwards). The interval takes t with the degrees of freedom that such a
variance V has, 2 V^2 / Var(V) (Satterthwaite 1946, Biometrics Bulletin 2), where the variance of a
variance of k terms follows from their kurtosis (O'Neill 2014, The American Statistician 68): k - 1
for influences that spread as normal noise, fewer where some clusters are larger or tell far more
than the others. It is deterministic and holds its level with tens of clusters, where the bootstrap
falls short.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from kvcore.analysis.samples import FloatArray

Scale = Literal["identity", "fisher"]
"""Where an interval is symmetric: on the statistic itself, or on Fisher's z (arctanh) of it."""
_TO: dict[Scale, Callable[[float], float]] = {"identity": float, "fisher": math.atanh}
_FROM: dict[Scale, Callable[[float], float]] = {"identity": float, "fisher": math.tanh}
PERFECT = 1 - 1e-12
"""A correlation from here on is 1 but for rounding."""
ALIKE = 1e-9
"""Influences nearer to each other than this share of the largest one count as equal."""


@dataclass(frozen=True)
class Jackknife:
    """A statistic with its standard error over k clusters, and how many of them tell of it."""

    value: float
    se: float  # on `scale`; NaN where leaving out some cluster leaves the statistic undefined
    scale: Scale
    clusters: int
    # Clusters whose influence is not the commonest one: those that repeat it say nothing apart.
    informative: int
    # (sum v)^2 / sum v^2 of the squared influences v: k where all are alike, 1 where one decides,
    # about k / 3 for influences spread as normal noise.
    effective: float
    df: float  # of t: k - 1 at most

    def ends(self, confidence: float) -> tuple[float, float]:
        """Return value -+ t(df) standard errors, taken on the scale; NaN where undefined."""
        if not math.isfinite(self.se):
            return math.nan, math.nan
        half = t_quantile((1 + confidence) / 2, self.df) * self.se
        centre = to_scale(self.value, self.scale)
        return _FROM[self.scale](centre - half), _FROM[self.scale](centre + half)


def t_quantile(p: float, df: float) -> float:
    """Return a quantile of Student's t, as `scipy.stats.t` has it at a tenth of the time."""
    return float(special.stdtrit(df, p))


def to_scale(value: float, scale: Scale) -> float:
    """Return a value on a scale; the infinities where it lies outside or on the edge."""
    if scale == "fisher" and abs(value) >= 1:
        return math.copysign(math.inf, value)
    return _TO[scale](value)


def from_scale(value: float, scale: Scale) -> float:
    """Undo `to_scale`."""
    return _FROM[scale](value)


def jackknife(value: float, left_out: FloatArray, scale: Scale) -> Jackknife:
    """Return the jackknife of a statistic from its values with each of k clusters left out, (k,).

    On Fisher's scale a perfect correlation has no interval; where every cluster agrees on it, it
    is exact on the identity scale.
    """
    k = left_out.size
    if scale == "fisher" and (PERFECT <= abs(value) or (np.abs(left_out) >= PERFECT).any()):
        scale = "identity"
        value, left_out = float(np.round(value, 12)), np.round(left_out, 12)
    influence = value - left_out
    with np.errstate(invalid="ignore", over="ignore"):
        on_scale = np.arctanh(left_out) if scale == "fisher" else left_out
        squares = np.square(on_scale - to_scale(value, scale))
        se = math.sqrt((k - 1) / k * float(squares.sum()))
    finite = bool(np.isfinite(influence).all() and math.isfinite(se))
    informative = k - commonest(influence) if finite else 0
    effective = float(squares.sum() ** 2 / np.square(squares).sum()) if finite and se > 0 else 0.0
    se = se if finite else math.nan
    df = degrees_of_freedom(k, excess_kurtosis(on_scale) if finite else 0.0)
    return Jackknife(value, se, scale, k, informative, effective, df)


def excess_kurtosis(values: FloatArray) -> float:
    """Return the excess kurtosis of k values, 0 at least, and where it cannot be told.

    By the estimate that is unbiased for normal values (SciPy's with ``bias=False``); at most k.
    """
    k, squares = values.size, np.square(values - values.mean())
    if k < 4 or commonest(values - values.mean()) == k:
        return 0.0
    moments = k * float(np.square(squares).sum()) / float(squares.sum()) ** 2 - 3
    return max(0.0, (k - 1) / ((k - 2) * (k - 3)) * ((k + 1) * moments + 6))


def degrees_of_freedom(clusters: float, excess: float) -> float:
    """Return those of a variance over clusters whose influences have an excess kurtosis."""
    return 2 / (excess / clusters + 2 / (clusters - 1))


def excess_of(clusters: int, df: float) -> float:
    """Undo `degrees_of_freedom`: the excess kurtosis that leaves so many of k - 1."""
    return max(0.0, clusters * (2 / df - 2 / (clusters - 1)))


def commonest(influence: FloatArray) -> int:
    """Return how many clusters share the influence that most of them have."""
    step = ALIKE * float(np.abs(influence).max())
    if step == 0:
        return int(influence.size)
    starts = np.flatnonzero(np.diff(np.sort(influence), prepend=-math.inf) > step)
    return int(np.diff(starts, append=influence.size).max())


def leave_one_out(sums: FloatArray, statistic: Callable[..., FloatArray]) -> FloatArray:
    """Return a statistic's m values with each of the clusters left out, (m, clusters).

    The statistic is of per-cluster sums, (k, clusters), as `kvcore.analysis.bootstrap`
    has it.
    """
    rest = sums.sum(axis=1, keepdims=True) - sums
    with np.errstate(all="ignore"):
        return statistic(*rest[..., None], axis=-1)
