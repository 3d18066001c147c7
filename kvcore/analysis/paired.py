"""Paired comparisons: what a condition does to a baseline on the same samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvcore.analysis.estimate import Estimate
from kvcore.analysis.interval import (
    DEFAULT_INTERVAL,
    UNBOUNDED,
    Interval,
    IntervalSettings,
    as_estimate,
    intervals,
    resampled,
)
from kvcore.analysis.moments import Standardization
from kvcore.analysis.proportions import clustered_proportion
from kvcore.analysis.samples import Clusters, CompleteRows, FloatArray, complete_rows, finite_vector
from kvcore.errors import KvError

WIDTH_INTERVAL = IntervalSettings(method="bca", resamples=1000)
"""How `interval_widths` bootstraps where nothing else is asked for: it draws many samples."""


@dataclass(frozen=True, eq=False)
class PairedEffect:
    """What a condition does to a baseline, sample by sample; positive means it helps.

    ``d``, ``mean`` (nats/token) and ``win_rate`` carry intervals that respect the clusters.
    ``win_rate`` leaves exact ties out, as the sign test does. ``differences`` holds the complete
    pairs, baseline - condition; ``excluded`` counts the pairs with a NaN.
    """

    d: Estimate
    mean: Estimate
    win_rate: Estimate
    median: float
    differences: FloatArray
    excluded: int


def paired_effect(
    baseline: ArrayLike,
    condition: ArrayLike,
    clusters: Clusters = None,
    interval: IntervalSettings = DEFAULT_INTERVAL,
) -> PairedEffect:
    """Compare two conditions, NLL in nats per token, (n,), measured on the same samples.

    Benefit = baseline - condition: positive means the condition helps. A pair with a NaN is
    excluded and counted. A cluster's samples count together; fewer than about 20 clusters make any
    interval too narrow. Raises KvError for lengths or indexes that differ, infinite values and
    missing cluster labels.
    """
    rows = complete_rows(clusters, baseline=baseline, condition=condition)
    differences = rows.columns[0] - rows.columns[1]
    d, mean = _effect(CompleteRows(differences[None], rows.labels), interval)
    return PairedEffect(
        d=d,
        mean=mean,
        win_rate=win_rate(differences, rows.labels, interval.confidence),
        median=float(np.median(differences)) if rows.n else math.nan,
        differences=differences,
        excluded=int(np.asarray(baseline).size) - rows.n,
    )


def effect_size(
    differences: ArrayLike, clusters: Clusters = None, interval: IntervalSettings = DEFAULT_INTERVAL
) -> Estimate:
    """Cohen's d (mean / SD, ddof 1) of paired differences, passed as baseline - condition."""
    return _effect(complete_rows(clusters, differences=differences), interval)[0]


def mean_difference(
    differences: ArrayLike, clusters: Clusters = None, interval: IntervalSettings = DEFAULT_INTERVAL
) -> Estimate:
    """Mean of paired differences in nats per token, passed as baseline - condition."""
    return _effect(complete_rows(clusters, differences=differences), interval)[1]


def win_rate(differences: FloatArray, labels: NDArray[np.intp], confidence: float) -> Estimate:
    """Share of positive differences among those that are not 0, with its clustered interval."""
    decided = differences != 0
    return clustered_proportion(differences[decided] > 0, labels[decided], confidence=confidence)


def _effect(rows: CompleteRows, settings: IntervalSettings) -> tuple[Estimate, Estimate]:
    """d and mean of one column of differences, from the same clusters."""
    x = rows.columns[0]
    if rows.n < 2:
        alone = Interval(*UNBOUNDED, f"none: {rows.n} sample(s), 2 needed")
        mean = float(x[0]) if rows.n else math.nan
        return (
            as_estimate(math.nan, alone, rows, settings, "d"),
            as_estimate(mean, alone, rows, settings, "nats/token"),
        )
    if np.ptp(x) == 0:
        return constant_effect(rows, settings)
    scale = Standardization.of(x)

    def statistic(
        n: FloatArray, s: FloatArray, ss: FloatArray, nonzero: FloatArray, axis: int
    ) -> FloatArray:
        n, s, ss = n.sum(axis), s.sum(axis), ss.sum(axis)
        # Where few samples differ at all, those left or drawn may hold none: no difference, not
        # one divided by the rounding of its own SD.
        d = np.where(nonzero.sum(axis) == 0, 0.0, scale.effect(n, s, ss))
        return np.stack([d, scale.mean + scale.sd * s / n])

    z = scale.apply(x)
    sums = rows.sums(z, z * z, x != 0)
    # A cluster in which the conditions do not differ at all says nothing of how they do.
    informative = int(np.count_nonzero(sums[3]))
    d, mean_ci = intervals(rows, sums, statistic, settings, informative=informative)
    return (
        as_estimate(scale.mean / scale.sd, d, rows, settings, "d", scale.sd),
        as_estimate(scale.mean, mean_ci, rows, settings, "nats/token", scale.sd),
    )


def constant_effect(rows: CompleteRows, settings: IntervalSettings) -> tuple[Estimate, Estimate]:
    """All differences equal: the mean is that number; d is 0 for 0 and undefined for the rest."""
    value = float(rows.columns[0, 0])
    exact = Interval(value, value, "exact: all differences are equal")
    mean = as_estimate(value, exact, rows, settings, "nats/token", 0.0)
    if value == 0:
        zero = Interval(0.0, 0.0, exact.method)
        return as_estimate(0.0, zero, rows, settings, "d", 0.0), mean
    unbounded = Interval(*UNBOUNDED, "none: all differences are equal and not 0")
    return as_estimate(math.copysign(math.inf, value), unbounded, rows, settings, "d", 0.0), mean


def effect_difference(
    diff_a: ArrayLike,
    diff_b: ArrayLike,
    clusters: Clusters = None,
    interval: IntervalSettings = DEFAULT_INTERVAL,
) -> Estimate:
    """Cohen's d of one set of paired differences minus that of another, over the same samples.

    Both d come over the same clusters, so what the two share cancels. ``sd`` of the result is
    ``1 / (1/sd_a + 1/sd_b)``: an error of e nats in both means moves the result by e / sd at most.
    """
    rows = complete_rows(clusters, diff_a=diff_a, diff_b=diff_b)
    unit = "d difference"
    if rows.n >= 2 and np.array_equal(*rows.columns):
        same = Interval(0.0, 0.0, "exact: both sets of differences are identical")
        sd = float(np.std(rows.columns[0], ddof=1)) / 2
        return as_estimate(0.0, same, rows, interval, unit, sd)
    if rows.n < 2 or (np.ptp(rows.columns, axis=1) == 0).any():
        nothing = Interval(*UNBOUNDED, "none: fewer than 2 samples or no variance")
        return as_estimate(math.nan, nothing, rows, interval, unit)
    a, b = (Standardization.of(column) for column in rows.columns)

    def statistic(n: FloatArray, *parts: FloatArray, axis: int) -> FloatArray:
        n = n.sum(axis)
        sa, saa, sb, sbb = (part.sum(axis) for part in parts)
        return np.stack([a.effect(n, sa, saa) - b.effect(n, sb, sbb)])

    za, zb = a.apply(rows.columns[0]), b.apply(rows.columns[1])
    sums = rows.sums(za, za * za, zb, zb * zb)
    ci = intervals(rows, sums, statistic, interval)[0]
    sd = 1 / (1 / a.sd + 1 / b.sd)
    return as_estimate(a.mean / a.sd - b.mean / b.sd, ci, rows, interval, unit, sd)


def ratio_of_means(
    values: ArrayLike,
    null: ArrayLike,
    clusters: Clusters = None,
    interval: IntervalSettings = DEFAULT_INTERVAL,
) -> Estimate:
    """How many times as large a mean is as that of a null, over the same samples.

    Both are (n,), 0 or more; pairs with a NaN are left out. NaN where the null's mean is 0.
    """
    rows = complete_rows(clusters, values=values, null=null)
    sums = rows.sums(*rows.columns)[1:]

    def ratio(counts: FloatArray) -> FloatArray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((counts @ sums[0]) / (counts @ sums[1]))

    return resampled(ratio, rows.labels, interval, unit="ratio", bounds=(0.0, math.inf))


def interval_widths(
    values: ArrayLike, sizes: Sequence[int], draws: int, interval: IntervalSettings = WIDTH_INTERVAL
) -> FloatArray:
    """Widths, (draws, sizes), of the mean's interval for samples drawn without replacement.

    Sizes are from 2 to the number of values, which hold no NaN, else KvError. The interval's seed
    draws the samples, too.
    """
    x = finite_vector("values", values)
    if np.isnan(x).any() or min(sizes) < 2 or max(sizes) > x.size:
        raise KvError(
            f"sizes must be from 2 to the number of values, which are without NaN; got sizes "
            f"{min(sizes)} to {max(sizes)} of {x.size} values, {int(np.isnan(x).sum())} NaN."
        )
    rng = np.random.default_rng(interval.seed)

    def width(n: int) -> float:
        return 2 * mean_difference(rng.choice(x, n, replace=False), interval=interval).half_width

    return np.array([[width(n) for n in sizes] for _ in range(draws)])
