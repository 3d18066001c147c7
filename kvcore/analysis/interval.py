"""Intervals of any statistic of clusters: the jackknife that judges, the bootstrap beside it.

Samples that share a cluster (a module, a query) are left out, or resampled, together; with one
sample per cluster these are the plain jackknife and bootstrap.

Order: clusters are sorted by label, so pass sample ids (or the clusters of the samples) as
``clusters`` and the order of the rows never changes a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from kvcore.analysis.bootstrap import OfCounts, Statistic, bootstrap, of_sums
from kvcore.analysis.estimate import Beside, Estimate
from kvcore.analysis.jackknife import Jackknife, Scale, jackknife, leave_one_out
from kvcore.analysis.samples import CompleteRows, FloatArray, cluster_numbers
from kvcore.errors import KvError

Method = Literal["jackknife", "bca"]
METHODS: tuple[Method, ...] = get_args(Method)
UNBOUNDED = (-math.inf, math.inf)
SNAP = 1e-12
"""An end nearer to 0 than this share of the statistic's SD over clusters is 0: rounding."""


def check_confidence(confidence: float) -> None:
    """Raise KvError for a confidence level outside (0, 1)."""
    if not 0 < confidence < 1:
        raise KvError(f"confidence must be in (0, 1); got {confidence}.")


@dataclass(frozen=True)
class IntervalSettings:
    """How intervals are computed; raises KvError for a value out of range."""

    confidence: float = 0.95  # level of the interval, in (0, 1)
    seed: int = 0  # of the bootstrap, 0 or more
    resamples: int = 10_000  # of the bootstrap, 2 or more
    method: Method = "jackknife"  # of the interval; the BCa bootstrap falls back to percentiles
    beside: bool = False  # whether the other method's interval stands beside it

    def __post_init__(self) -> None:
        check_confidence(self.confidence)
        if self.seed < 0:
            raise KvError(f"seed must be 0 or more; got {self.seed}.")
        if self.resamples < 2:
            raise KvError(f"resamples must be at least 2; got {self.resamples}.")
        if self.method not in METHODS:
            raise KvError(f"method must be one of {', '.join(METHODS)}; got {self.method!r}.")

    @property
    def alone(self) -> IntervalSettings:
        """The same settings without the other method's interval beside: for secondary numbers."""
        return replace(self, beside=False)


DEFAULT_INTERVAL = IntervalSettings()


@dataclass(frozen=True)
class Interval:
    """Two ends, how they were computed, and what else is known of the statistic's spread."""

    low: float
    high: float
    method: str
    spread: Jackknife | None = None
    beside: Beside | None = None


def as_estimate(
    value: float,
    interval: Interval,
    rows: CompleteRows,
    settings: IntervalSettings,
    unit: str,
    sd: float | None = None,
) -> Estimate:
    """Join a value, its interval and the rows that it was computed from."""
    ends = (interval.low, interval.high, settings.confidence, interval.method)
    estimate = Estimate(float(value), *ends, rows.n, rows.clusters, unit, sd)
    spread = interval.spread
    if spread is None:
        return estimate
    return replace(
        estimate,
        se=spread.se,
        scale=spread.scale,
        informative=spread.informative,
        effective=spread.effective,
        df=spread.df,
        beside=interval.beside,
    )


def intervals(
    rows: CompleteRows,
    sums: FloatArray,
    statistic: Statistic,
    settings: IntervalSettings,
    bounds: tuple[float, float] = UNBOUNDED,
    scale: Scale = "identity",
    informative: int | None = None,
) -> list[Interval]:
    """Intervals of a vector-valued statistic of per-cluster sums, (k, clusters).

    The statistic takes the k sums, each (..., clusters), and ``axis``; it returns (m, ...), and
    there is one interval for each of the m. ``bounds`` is the statistic's whole range: the interval
    where the data bound nothing, and what no interval exceeds. ``informative`` is how many clusters
    tell of the statistic, where that is known better than from their influences.
    """
    with np.errstate(all="ignore"):
        values = statistic(*sums, axis=-1)
    if rows.clusters < 2:
        return [_nothing(rows, bounds)] * len(values)
    left_out = leave_one_out(sums, statistic)
    spreads = [jackknife(float(x), rest, scale) for x, rest in zip(values, left_out, strict=True)]
    if informative is not None:
        spreads = [replace(spread, informative=informative) for spread in spreads]
    return _intervals(rows, spreads, of_sums(sums, statistic), settings, bounds)


def _nothing(rows: CompleteRows, bounds: tuple[float, float]) -> Interval:
    return Interval(*bounds, f"none: {rows.clusters} independent unit(s), 2 needed")


def _intervals(
    rows: CompleteRows,
    spreads: Sequence[Jackknife],
    of_counts: OfCounts,
    settings: IntervalSettings,
    bounds: tuple[float, float],
) -> list[Interval]:
    """Intervals from jackknives, and from the bootstrap where it judges or stands beside."""
    over = f" over {rows.clusters} clusters" if rows.clusters < rows.n else ""
    first = [_jackknifed(spread, settings, bounds, over) for spread in spreads]
    second: Sequence[Beside | None] = [None] * len(first)
    if settings.beside or settings.method == "bca":
        second = _bootstrapped(of_counts, spreads, settings, bounds, over)
    return [
        ordered(own, other, spread, settings)
        for own, other, spread in zip(first, second, spreads, strict=True)
    ]


def ordered(
    jackknifed: Beside, drawn: Beside | None, spread: Jackknife, settings: IntervalSettings
) -> Interval:
    """The interval that judges, with the other one beside it where that is asked for."""
    own, other = jackknifed, drawn
    if settings.method == "bca" and drawn is not None:
        own, other = drawn, jackknifed
    beside = other if settings.beside else None
    return Interval(own.low, own.high, own.method, spread, beside)


def _jackknifed(
    spread: Jackknife, settings: IntervalSettings, bounds: tuple[float, float], over: str
) -> Beside:
    ends = spread.ends(settings.confidence)
    if not np.isfinite(ends).all():
        return Beside(*bounds, f"none: undefined where some cluster is left out{over}")
    z = " on Fisher's z" if spread.scale == "fisher" else ""
    low, high = (min(max(snapped(end, spread), bounds[0]), bounds[1]) for end in ends)
    return Beside(low, high, f"jackknife-t{z}{over}")


def _bootstrapped(
    of_counts: OfCounts,
    spreads: Sequence[Jackknife],
    settings: IntervalSettings,
    bounds: tuple[float, float],
    over: str,
) -> list[Beside]:
    """BCa intervals, percentile where BCa is undefined, the bounds where both are."""
    drawn = f"{over}, {settings.resamples} resamples, seed {settings.seed}"
    both = bootstrap(
        of_counts,
        spreads[0].clusters,
        confidence=settings.confidence,
        seed=settings.seed,
        resamples=settings.resamples,
    )
    return [
        Beside(snapped(bca[0], spread), snapped(bca[1], spread), f"BCa bootstrap{drawn}")
        if np.isfinite(bca).all()
        else Beside(*percentile, f"percentile bootstrap (BCa undefined){drawn}")
        if np.isfinite(percentile).all()
        else Beside(*bounds, f"none: the bootstrap is undefined{drawn}")
        for bca, percentile, spread in zip(*both, spreads, strict=True)
    ]


def snapped(end: float, spread: Jackknife) -> float:
    """Return an end of an interval, 0 where only rounding keeps it from 0."""
    rounding = SNAP * spread.se * math.sqrt(spread.clusters)
    return 0.0 if abs(end) <= rounding else end


def resampled(
    statistic: Callable[[FloatArray], FloatArray],
    clusters: ArrayLike,
    interval: IntervalSettings = DEFAULT_INTERVAL,
    *,
    unit: str,
    bounds: tuple[float, float] = UNBOUNDED,
    sd: float | None = None,
    scale: Scale = "identity",
) -> Estimate:
    """Estimate a statistic that can be computed from how often each cluster counts.

    The statistic takes counts, (..., k), one per cluster in the order of the sorted labels, and
    returns (...); all ones give the value itself, a 0 leaves a cluster out. ``bounds`` is its whole
    range: the interval where fewer than two clusters bound nothing. NaN where the statistic is
    undefined; where no cluster moves it the interval is the value. Raises KvError for a missing
    label.
    """
    labels = np.asarray(clusters)
    rows = CompleteRows(np.empty((0, labels.size)), cluster_numbers(labels, labels.size))
    if not rows.n:
        nothing = Interval(*bounds, "none: no samples")
        return as_estimate(math.nan, nothing, rows, interval, unit, sd)

    def of_counts(counts: FloatArray) -> FloatArray:
        return statistic(counts)[None]

    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(np.ones(rows.clusters)))
        if rows.clusters < 2:
            return as_estimate(value, _nothing(rows, bounds), rows, interval, unit, sd)
        spread = jackknife(value, statistic(1 - np.eye(rows.clusters)), scale)
        ci = _intervals(rows, [spread], of_counts, interval, bounds)[0]
    return as_estimate(value, ci, rows, interval, unit, sd)
