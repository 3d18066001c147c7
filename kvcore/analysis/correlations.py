"""Correlations of two measurements of the same samples."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats as sps

from kvcore.analysis import moments
from kvcore.analysis.estimate import Estimate
from kvcore.analysis.interval import (
    DEFAULT_INTERVAL,
    Interval,
    IntervalSettings,
    as_estimate,
    intervals,
)
from kvcore.analysis.samples import Clusters, FloatArray, aligned_columns, complete_rows


def correlation(
    x: ArrayLike,
    y: ArrayLike,
    clusters: Clusters = None,
    interval: IntervalSettings = DEFAULT_INTERVAL,
) -> Estimate:
    """Pearson's r of two measurements of the same samples, (n,); pairs with a NaN are left out.

    Where either side is constant the correlation is undefined: value NaN, interval [-1, 1].
    """
    rows = complete_rows(clusters, x=x, y=y)
    if rows.n < 2 or (np.ptp(rows.columns, axis=1) == 0).any():
        nothing = Interval(-1.0, 1.0, "none: fewer than 2 samples or no variance")
        return as_estimate(math.nan, nothing, rows, interval, "r")
    u, v = (moments.Standardization.of(column).apply(column) for column in rows.columns)
    sums = rows.sums(u, v, u * u, v * v, u * v)
    ci = intervals(rows, sums, _pearson, interval, (-1.0, 1.0), "fisher")[0]
    named = replace(ci, method=f"Pearson, {ci.method}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sps.NearConstantInputWarning)
        r = float(sps.pearsonr(*rows.columns).statistic)
    return as_estimate(r, named, rows, interval, "r")


def _pearson(n: FloatArray, *parts: FloatArray, axis: int) -> FloatArray:
    """Pearson's r from counts, sums, sums of squares and sum of products; 0 without variance."""
    n = n.sum(axis)
    sx, sy, sxx, syy, sxy = (part.sum(axis) for part in parts)
    spread = np.sqrt(moments.variance(n, sx, sxx) * moments.variance(n, sy, syy)) * (n - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.where(spread > 0, (sxy - sx * sy / n) / spread, 0.0)
    return np.stack([np.clip(r, -1.0, 1.0)])


def oldham(
    baseline: ArrayLike,
    condition: ArrayLike,
    clusters: Clusters = None,
    interval: IntervalSettings = DEFAULT_INTERVAL,
) -> Estimate:
    """Correlate benefit with hardness free of arithmetic coupling, by Oldham's method.

    Benefit (baseline - condition) against the mean of the two: 0 where the condition changes
    nothing but noise, whereas benefit against the baseline alone is then positive by construction.
    Equal to comparing the variances of the two conditions.
    """
    first, second = aligned_columns(baseline=baseline, condition=condition)
    return correlation(first - second, (first + second) / 2, clusters, interval)
