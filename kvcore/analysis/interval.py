"""Bootstrap intervals of any statistic of clusters.

Every interval can be clustered: samples that share a cluster (a module, a query) are resampled
together. The resampling is SciPy's; what it is handed are per-cluster sums (count, sum of x, sum
of squares, ...), from which the statistic of any resample follows exactly, so that 10,000
resamples of 1,000 samples take a fraction of a second. With one sample per cluster this is the
plain bootstrap.

Order: resamples are drawn over clusters sorted by label, so pass sample ids (or the clusters of
the samples) as ``clusters`` and the order of the rows never changes a number.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats as sps

from kvcore.analysis.estimate import Estimate
from kvcore.analysis.samples import CompleteRows, FloatArray, cluster_numbers
from kvcore.errors import KvError

Statistic = Callable[..., FloatArray]
Pairs = list[tuple[float, float]]
UNBOUNDED = (-math.inf, math.inf)
# Numbers drawn at a time (8 MB per array): bounds memory whatever the number of samples.
_BATCH_ELEMENTS = 2**20


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

    def __post_init__(self) -> None:
        check_confidence(self.confidence)
        if self.seed < 0:
            raise KvError(f"seed must be 0 or more; got {self.seed}.")
        if self.resamples < 2:
            raise KvError(f"resamples must be at least 2; got {self.resamples}.")


DEFAULT_INTERVAL = IntervalSettings()


@dataclass(frozen=True)
class Interval:
    """Two ends, and how they were computed."""

    low: float
    high: float
    method: str


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
    return Estimate(float(value), *ends, rows.n, rows.clusters, unit, sd)


def bootstrap_intervals(
    rows: CompleteRows,
    sums: FloatArray,
    statistic: Statistic,
    settings: IntervalSettings,
    bounds: tuple[float, float] = UNBOUNDED,
) -> list[Interval]:
    """Bootstrap intervals of a vector-valued statistic of per-cluster sums, (k, clusters).

    The statistic takes the k sums, each (..., clusters), and ``axis``; it returns (m, ...). There
    is one interval for each of the m, all from the same resamples: BCa, percentile where BCa is
    undefined, the bounds where the data bound nothing.
    """
    if rows.clusters < 2:
        nothing = Interval(*bounds, f"none: {rows.clusters} independent unit(s), 2 needed")
        return [nothing] * int(statistic(*sums, axis=-1).shape[0])
    over = f" over {rows.clusters} clusters" if rows.clusters < rows.n else ""
    drawn = f"{over}, {settings.resamples} resamples, seed {settings.seed}"
    return [
        Interval(*bca, f"BCa bootstrap{drawn}")
        if np.isfinite(bca).all()
        else Interval(*percentile, f"percentile bootstrap (BCa undefined){drawn}")
        if np.isfinite(percentile).all()
        else Interval(*bounds, f"none: the bootstrap is undefined{drawn}")
        for bca, percentile in zip(*scipy_bootstrap(sums, statistic, settings), strict=True)
    ]


def scipy_bootstrap(
    sums: FloatArray, statistic: Statistic, settings: IntervalSettings
) -> tuple[Pairs, Pairs]:
    """BCa and percentile intervals from one set of resamples; not finite where undefined."""

    def run(method: str, resamples: int, before: Any) -> Any:
        return sps.bootstrap(
            tuple(sums),
            statistic,
            paired=True,
            vectorized=True,
            method=method,
            n_resamples=resamples,
            bootstrap_result=before,
            confidence_level=settings.confidence,
            batch=max(1, _BATCH_ELEMENTS // sums.shape[1]),
            rng=np.random.default_rng(settings.seed),
        )

    def pairs(result: Any) -> Pairs:
        interval = result.confidence_interval
        return [(float(low), float(high)) for low, high in zip(*interval, strict=True)]

    # Degenerate resamples (a cluster drawn over and over) are expected and handled by value.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", sps.DegenerateDataWarning)
        first = run("BCa", settings.resamples, None)
        return pairs(first), pairs(run("percentile", 0, first))


def resampled(
    statistic: Callable[[FloatArray], FloatArray],
    clusters: ArrayLike,
    interval: IntervalSettings = DEFAULT_INTERVAL,
    *,
    unit: str,
    bounds: tuple[float, float] = UNBOUNDED,
    sd: float | None = None,
) -> Estimate:
    """Bootstrap a statistic that can be computed from how often each cluster was drawn.

    The statistic takes counts, (..., k), one per cluster in the order of the sorted labels, and
    returns (...); all ones give the value itself. ``bounds`` is its whole range: the interval where
    fewer than two clusters bound nothing. NaN where the statistic is undefined; where every
    resample gives the same number the interval is that number. Raises KvError for a missing label.
    """
    labels = np.asarray(clusters)
    rows = CompleteRows(np.empty((0, labels.size)), cluster_numbers(labels, labels.size))
    if not rows.n:
        nothing = Interval(*bounds, "none: no samples")
        return as_estimate(math.nan, nothing, rows, interval, unit, sd)

    def drawn(indices: FloatArray, axis: int) -> FloatArray:
        return statistic(draw_counts(np.moveaxis(indices, axis, -1), rows.clusters))[None]

    indices = np.arange(rows.clusters, dtype=np.float64)[None]
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(np.ones(rows.clusters)))
        ci = bootstrap_intervals(rows, indices, drawn, interval, bounds)[0]
    return as_estimate(value, ci, rows, interval, unit, sd)


def draw_counts(indices: FloatArray, k: int) -> FloatArray:
    """How often each of k clusters stands in the last axis, (..., draws) to (..., k)."""
    flat = indices.reshape(-1, indices.shape[-1]).astype(np.intp)
    offset = np.arange(len(flat))[:, None] * k
    counted = np.bincount((flat + offset).ravel(), minlength=len(flat) * k)
    return counted.reshape(*indices.shape[:-1], k).astype(np.float64)
