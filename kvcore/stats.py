"""Estimates with honest intervals: paired effects, correlations, proportions, noise floors.

Everything is paired and every interval can be clustered: samples that share a cluster (a module,
a query) are resampled together. The resampling is SciPy's; what it is handed are per-cluster
sums (count, sum of x, sum of squares, ...), from which the statistic of any resample follows
exactly, so that 10,000 resamples of 1,000 samples take a fraction of a second. With one sample
per cluster this is the plain bootstrap.

Order: resamples are drawn over clusters sorted by label, so pass sample ids (or the clusters of
the samples) as ``clusters`` and the order of the rows never changes a number.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy
from numpy.typing import ArrayLike, NDArray
from scipy import stats as sps

from kvcore.errors import KvError, unknown

FloatArray = NDArray[np.float64]
Clusters = ArrayLike | None
Statistic = Callable[..., FloatArray]

RESAMPLES = 10_000
# Numbers drawn at a time (8 MB per array): bounds memory whatever the number of samples.
_BATCH_ELEMENTS = 2**20
# Below this share of the sum of squares a variance is what rounding leaves of zero.
_ROUNDING = 1e-12
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def to_plain(value: Any) -> Any:
    """Turn numbers, arrays, tuples and mappings into what strict JSON can hold.

    NaN and the infinities become the reserved strings ``"NaN"``, ``"Infinity"``, ``"-Infinity"``;
    `from_plain` turns them back.
    """
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return to_plain(value.tolist())
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def from_plain(value: Any) -> Any:
    """Undo `to_plain`; lists stay lists."""
    if isinstance(value, Mapping):
        return {key: from_plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_plain(item) for item in value]
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Estimate:
    """A number measured on samples, with its confidence interval.

    Parameters
    ----------
    value, ci_low, ci_high : float
        Point estimate and interval, in ``unit``. An interval that the data cannot bound is
        infinite (or the whole range of the statistic), never NaN unless given so.
    confidence : float
        Level of the interval, in (0, 1).
    method : str
        How the interval was made, degenerate cases included.
    n, clusters : int
        Samples used and independent units resampled, ``clusters <= n``.
    unit : str
        ``"d"``, ``"nats/token"``, ``"r"``, ``"proportion"``, ``"d difference"``, ``"d of groups"``
        or a ranking metric, ``"AUC"``, ``"MRR"``, ..., ``"AUC difference"``, ....
    sd : float or None
        What turns nats per token into ``unit`` (nats / sd); None where nothing does.
    """

    value: float
    ci_low: float
    ci_high: float
    confidence: float
    method: str
    n: int
    clusters: int
    unit: str
    sd: float | None = None

    def __post_init__(self) -> None:
        if self.ci_low > self.ci_high:
            raise KvError(
                f"estimate: ci_low={self.ci_low} exceeds ci_high={self.ci_high}; swap them."
            )

    @property
    def half_width(self) -> float:
        """Half the width of the interval, in the estimate's unit."""
        return (self.ci_high - self.ci_low) / 2

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as strict JSON can hold them."""
        plain: dict[str, Any] = to_plain(asdict(self))
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Estimate:
        """Rebuild an estimate from `to_dict`."""
        return cls(**from_plain({field.name: data[field.name] for field in fields(cls)}))


@dataclass(frozen=True, eq=False)
class PairedEffect:
    """What a condition does to a baseline, sample by sample; positive means it helps.

    ``d``, ``mean`` (nats/token) and ``win_rate`` carry intervals that respect the clusters;
    ``t``, ``p_t`` and ``p_wilcoxon`` are the plain paired tests, which do not. ``win_rate``
    leaves exact ties out, as the sign test does. ``differences`` holds the complete pairs,
    baseline - condition; ``excluded`` counts the pairs with a NaN.
    """

    d: Estimate
    mean: Estimate
    win_rate: Estimate
    median: float
    t: float
    p_t: float
    p_wilcoxon: float
    differences: FloatArray
    excluded: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as strict JSON can hold them."""
        plain: dict[str, Any] = to_plain({f.name: getattr(self, f.name) for f in fields(self)})
        estimates = ("d", "mean", "win_rate")
        return plain | {name: getattr(self, name).to_dict() for name in estimates}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PairedEffect:
        """Rebuild a paired effect from `to_dict`."""
        plain = from_plain({f.name: data[f.name] for f in fields(cls)})
        for name in ("d", "mean", "win_rate"):
            plain[name] = Estimate.from_dict(data[name])
        plain["differences"] = np.asarray(plain["differences"], dtype=np.float64)
        return cls(**plain)


# --- input -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """How to resample: level of the interval, seed, number of resamples."""

    confidence: float
    seed: int
    resamples: int

    def __post_init__(self) -> None:
        _check_confidence(self.confidence)
        if self.resamples < 2:
            raise KvError(f"resamples={self.resamples} is too few; pass at least 2.")


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise KvError(f"confidence={confidence} is no level; pass one between 0 and 1, e.g. 0.95.")


def _vector(name: str, values: ArrayLike) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise KvError(f"{name} has {array.ndim} dimensions; pass one number per sample.")
    if np.isinf(array).any():
        at = int(np.flatnonzero(np.isinf(array))[0])
        raise KvError(f"{name}[{at}] is infinite; drop that sample or pass NaN to exclude it.")
    return array


def _labels(clusters: Clusters, n: int) -> NDArray[np.intp]:
    """Number the clusters 0, 1, ... in the order of their sorted labels; one integer a sample."""
    if clusters is None:
        return np.arange(n)
    labels = np.asarray(clusters)
    if labels.shape != (n,):
        raise KvError(f"clusters has shape {labels.shape}; pass one label for each of {n} samples.")
    if bool(pd.isna(labels).any()):
        at = int(np.flatnonzero(pd.isna(labels))[0])
        raise KvError(f"clusters[{at}] is missing; give every sample a label, e.g. its own id.")
    inverse: NDArray[np.intp] = np.unique(labels.astype(str), return_inverse=True)[1]
    return inverse


@dataclass(frozen=True, eq=False)
class _Complete:
    """Rows without NaN: columns (k, n), cluster numbers (n,) from 0 without gaps."""

    columns: FloatArray
    labels: NDArray[np.intp]

    @property
    def n(self) -> int:
        return int(self.labels.size)

    @property
    def clusters(self) -> int:
        return int(self.labels.max()) + 1 if self.labels.size else 0

    def sums(self, *weights: FloatArray) -> FloatArray:
        """Per-cluster count followed by per-cluster sums of each weight, (1 + k, clusters)."""
        columns = (np.ones(self.n), *weights)
        return np.stack([np.bincount(self.labels, w, minlength=self.clusters) for w in columns])


def _columns(**named: ArrayLike) -> FloatArray:
    """Check the columns against each other and stack them, (k, n)."""
    indexes = [v.index for v in named.values() if isinstance(v, pd.Series)]
    if any(not index.equals(indexes[0]) for index in indexes[1:]):
        names = " and ".join(named)
        raise KvError(f"{names} are indexed by different samples; align them before comparing.")
    columns = [_vector(name, values) for name, values in named.items()]
    sizes = {name: c.size for name, c in zip(named, columns, strict=True)}
    if len(set(sizes.values())) > 1:
        raise KvError(f"lengths differ: {sizes}; pass values of the same samples, in one order.")
    return np.stack(columns)


def _complete(clusters: Clusters, **named: ArrayLike) -> _Complete:
    """Keep the rows in which no column is NaN."""
    columns = _columns(**named)
    keep = ~np.isnan(columns).any(axis=0)
    labels = _labels(clusters, keep.size)[keep]
    # Renumber: a cluster whose samples were all excluded must not be drawn.
    dense: NDArray[np.intp] = np.unique(labels, return_inverse=True)[1]
    return _Complete(columns[:, keep], dense)


# --- resampling --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Interval:
    low: float
    high: float
    method: str


def _intervals(rows: _Complete, sums: FloatArray, statistic: Statistic, plan: _Plan,
               bounds: tuple[float, float] = (-math.inf, math.inf)) -> list[_Interval]:
    """Bootstrap intervals of a vector-valued statistic of per-cluster sums.

    Parameters
    ----------
    rows : _Complete
        Whose clusters are resampled.
    sums : array, (k, clusters)
        What each cluster contributes.
    statistic : callable
        Takes the k rows, each (..., clusters), and ``axis``; returns (m, ...).
    plan : _Plan
        Level, seed and number of resamples.
    bounds : (float, float)
        What an interval is when the data bound nothing.

    Returns
    -------
    list of _Interval
        One for each of the m statistics, all from the same resamples: BCa, or percentile where
        BCa is undefined.
    """
    if rows.clusters < 2:
        return [_Interval(*bounds, f"none: {rows.clusters} independent unit(s), 2 needed")] * int(
            statistic(*sums, axis=-1).shape[0]
        )
    bca, percentile = _scipy_bootstrap(sums, statistic, plan)
    over = f" over {rows.clusters} clusters" if rows.clusters < rows.n else ""
    drawn = f"{over}, {plan.resamples} resamples, seed {plan.seed}"
    return [
        _Interval(*first, f"BCa bootstrap{drawn}") if np.isfinite(first).all()
        else _Interval(*second, f"percentile bootstrap (BCa undefined){drawn}")
        if np.isfinite(second).all()
        else _Interval(*bounds, f"none: the bootstrap is undefined{drawn}")
        for first, second in zip(bca, percentile, strict=True)
    ]


def _scipy_bootstrap(sums: FloatArray, statistic: Statistic,
                     plan: _Plan) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """BCa and percentile intervals from one set of resamples; not finite where undefined."""

    def run(method: str, resamples: int, before: Any) -> Any:
        return sps.bootstrap(
            tuple(sums), statistic, paired=True, vectorized=True, method=method,
            n_resamples=resamples, bootstrap_result=before, confidence_level=plan.confidence,
            batch=max(1, _BATCH_ELEMENTS // sums.shape[1]), rng=np.random.default_rng(plan.seed),
        )

    def pairs(result: Any) -> list[tuple[float, float]]:
        interval = result.confidence_interval
        return [(float(low), float(high)) for low, high in zip(*interval, strict=True)]

    # Degenerate resamples (a cluster drawn over and over) are expected and handled by value.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", sps.DegenerateDataWarning)
        first = run("BCa", plan.resamples, None)
        return pairs(first), pairs(run("percentile", 0, first))


def _variance(n: FloatArray, s: FloatArray, ss: FloatArray) -> FloatArray:
    """Sample variance (ddof 1) from count, sum and sum of squares; rounding never leaves < 0."""
    variance = (ss - s * s / n) / (n - 1)
    return np.where(variance <= _ROUNDING * ss, 0.0, variance)


def _ratio(mean: FloatArray, sd: FloatArray) -> FloatArray:
    """Cohen's d; 0 where both are 0, infinite where only the SD is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((sd == 0) & (mean == 0), 0.0, mean / sd)


@dataclass(frozen=True)
class _Scale:
    """Centre and scale of a column: sums of standardised numbers lose nothing to rounding."""

    mean: float
    sd: float

    @classmethod
    def of(cls, x: FloatArray) -> _Scale:
        return cls(float(np.mean(x)), float(np.std(x, ddof=1)))

    def apply(self, x: FloatArray) -> FloatArray:
        return (x - self.mean) / self.sd

    def effect(self, n: FloatArray, s: FloatArray, ss: FloatArray) -> FloatArray:
        """Cohen's d of the original column from the sums of the standardised one."""
        return _ratio(self.mean / self.sd + s / n, np.sqrt(_variance(n, s, ss)))


# --- any statistic of clusters -----------------------------------------------------------------


def resampled(
    statistic: Callable[[FloatArray], FloatArray],
    clusters: ArrayLike,
    *,
    unit: str,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    sd: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Bootstrap a statistic that can be computed from how often each cluster was drawn.

    Parameters
    ----------
    statistic : callable
        Takes counts, (..., k), one per cluster in the order of the sorted labels, and returns
        (...). All ones give the value itself.
    clusters : sequence, (n,)
        Label of the unit each sample is resampled with.
    unit : str
        Of the statistic.
    bounds : (float, float)
        Its whole range: the interval where fewer than two clusters bound nothing.
    sd : float, optional
        As `Estimate.sd`.
    confidence : float
        Level of the interval.
    seed, resamples : int
        Of the bootstrap.

    Returns
    -------
    Estimate
        NaN where the statistic is undefined. Where every resample gives the same number the
        interval is that number.

    Raises
    ------
    KvError
        A missing label, a confidence outside (0, 1) or fewer than 2 resamples.
    """
    plan = _Plan(confidence, seed, resamples)
    labels = np.asarray(clusters)
    rows = _Complete(np.empty((0, labels.size)), _labels(labels, labels.size))
    if not rows.n:
        return _estimate(math.nan, _Interval(*bounds, "none: no samples"), rows, plan, unit, sd)

    def drawn(indices: FloatArray, axis: int) -> FloatArray:
        return statistic(_counts(np.moveaxis(indices, axis, -1), rows.clusters))[None]

    indices = np.arange(rows.clusters, dtype=np.float64)[None]
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(np.ones(rows.clusters)))
        interval = _intervals(rows, indices, drawn, plan, bounds)[0]
    return _estimate(value, interval, rows, plan, unit, sd)


def _counts(indices: FloatArray, k: int) -> FloatArray:
    """How often each of k clusters stands in the last axis, (..., draws) to (..., k)."""
    flat = indices.reshape(-1, indices.shape[-1]).astype(np.intp)
    offset = np.arange(len(flat))[:, None] * k
    counted = np.bincount((flat + offset).ravel(), minlength=len(flat) * k)
    return counted.reshape(*indices.shape[:-1], k).astype(np.float64)


def ratio_of_means(
    values: ArrayLike,
    null: ArrayLike,
    clusters: Clusters = None,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """How many times as large a mean is as that of a null, on the same samples.

    Parameters
    ----------
    values, null : array, (n,)
        Both of every sample, 0 or more; pairs with a NaN are left out.
    clusters, confidence, seed, resamples
        As `paired_effect` takes them; both means are taken over the same resample.

    Returns
    -------
    Estimate
        Unit ``"ratio"``; NaN where the null's mean is 0.
    """
    rows = _complete(clusters, values=values, null=null)
    sums = rows.sums(*rows.columns)[1:]

    def ratio(counts: FloatArray) -> FloatArray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((counts @ sums[0]) / (counts @ sums[1]))

    return resampled(ratio, rows.labels, unit="ratio", bounds=(0.0, math.inf),
                     confidence=confidence, seed=seed, resamples=resamples)


def interval_widths(
    values: ArrayLike,
    sizes: Sequence[int],
    draws: int,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = 1000,
) -> FloatArray:
    """Widths of the mean's interval for samples of several sizes, drawn without replacement.

    Parameters
    ----------
    values : array, (n,)
        Without NaN; at least as many as the largest size.
    sizes : sequence of int
        2 or more each.
    draws : int
        How often each size is drawn.
    confidence, seed, resamples
        As `mean_difference` takes them.

    Returns
    -------
    (draws, len(sizes)) float64
    """
    x = _vector("values", values)
    if np.isnan(x).any() or min(sizes) < 2 or max(sizes) > x.size:
        raise KvError(f"interval_widths: sizes {min(sizes)} to {max(sizes)} of {x.size} values; "
                      "pass values without NaN, and sizes from 2 to their number.")
    rng = np.random.default_rng(seed)
    widths = [[2 * mean_difference(rng.choice(x, n, replace=False), confidence=confidence,
                                   seed=seed, resamples=resamples).half_width
               for n in sizes] for _ in range(draws)]
    return np.array(widths)


# --- paired effects ----------------------------------------------------------------------------


def paired_effect(
    baseline: ArrayLike,
    condition: ArrayLike,
    clusters: Clusters = None,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> PairedEffect:
    """Compare two conditions measured on the same samples.

    Parameters
    ----------
    baseline, condition : array, (n,)
        NLL in nats per token, sample by sample. A pair with a NaN is excluded and counted.
    clusters : sequence, (n,), optional
        Label of the unit each sample is resampled with; None means every sample is its own.
    confidence : float
        Level of the intervals.
    seed, resamples : int
        Of the bootstrap.

    Returns
    -------
    PairedEffect
        Benefit = baseline - condition: positive means the condition helps.

    Raises
    ------
    KvError
        Lengths or indexes that differ, infinite values, missing cluster labels.

    Notes
    -----
    Fewer than about 20 clusters make any bootstrap interval too narrow.
    """
    plan = _Plan(confidence, seed, resamples)
    rows = _complete(clusters, baseline=baseline, condition=condition)
    differences = rows.columns[0] - rows.columns[1]
    d, mean = _effect(_Complete(differences[None], rows.labels), plan)
    t, p_t, p_wilcoxon = _tests(differences)
    return PairedEffect(
        d=d,
        mean=mean,
        win_rate=_win_rate(differences, rows.labels, confidence),
        median=float(np.median(differences)) if rows.n else math.nan,
        t=t,
        p_t=p_t,
        p_wilcoxon=p_wilcoxon,
        differences=differences,
        excluded=int(np.asarray(baseline).size) - rows.n,
    )


def effect_size(
    differences: ArrayLike,
    clusters: Clusters = None,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Cohen's d (mean / SD, ddof 1) of paired differences, given as baseline - condition."""
    rows = _complete(clusters, differences=differences)
    return _effect(rows, _Plan(confidence, seed, resamples))[0]


def mean_difference(
    differences: ArrayLike,
    clusters: Clusters = None,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Mean of paired differences in nats per token, given as baseline - condition."""
    rows = _complete(clusters, differences=differences)
    return _effect(rows, _Plan(confidence, seed, resamples))[1]


def _effect(rows: _Complete, plan: _Plan) -> tuple[Estimate, Estimate]:
    """d and mean of one column of differences, from the same resamples."""
    x = rows.columns[0]
    if rows.n < 2:
        alone = _Interval(-math.inf, math.inf, f"none: {rows.n} sample(s), 2 needed")
        mean = float(x[0]) if rows.n else math.nan
        return (_estimate(math.nan, alone, rows, plan, "d", None),
                _estimate(mean, alone, rows, plan, "nats/token", None))
    if np.ptp(x) == 0:
        return _constant_effect(rows, plan)
    scale = _Scale.of(x)

    def statistic(n: FloatArray, s: FloatArray, ss: FloatArray, some: FloatArray, axis: int
                  ) -> FloatArray:
        n, s, ss = n.sum(axis), s.sum(axis), ss.sum(axis)
        # Where few samples differ at all, resamples may hold none of them: no difference, not
        # one divided by the rounding of its own SD.
        d = np.where(some.sum(axis) == 0, 0.0, scale.effect(n, s, ss))
        return np.stack([d, scale.mean + scale.sd * s / n])

    z = scale.apply(x)
    d, mean_ci = _intervals(rows, rows.sums(z, z * z, x != 0), statistic, plan)
    return (_estimate(scale.mean / scale.sd, d, rows, plan, "d", scale.sd),
            _estimate(scale.mean, mean_ci, rows, plan, "nats/token", scale.sd))


def _constant_effect(rows: _Complete, plan: _Plan) -> tuple[Estimate, Estimate]:
    """All differences equal: the mean is that number; d is 0 for 0 and undefined for the rest."""
    value = float(rows.columns[0, 0])
    exact = _Interval(value, value, "exact: all differences are equal")
    mean = _estimate(value, exact, rows, plan, "nats/token", 0.0)
    if value == 0:
        return _estimate(0.0, _Interval(0.0, 0.0, exact.method), rows, plan, "d", 0.0), mean
    unbounded = _Interval(-math.inf, math.inf, "none: all differences are equal and not 0")
    return _estimate(math.copysign(math.inf, value), unbounded, rows, plan, "d", 0.0), mean


def _estimate(value: float, interval: _Interval, rows: _Complete, plan: _Plan, unit: str,
              sd: float | None) -> Estimate:
    return Estimate(
        value=float(value), ci_low=interval.low, ci_high=interval.high,
        confidence=plan.confidence, method=interval.method, n=rows.n, clusters=rows.clusters,
        unit=unit, sd=sd,
    )


def _tests(differences: FloatArray) -> tuple[float, float, float]:
    """Paired t, its p and Wilcoxon's p; identical conditions give 0, 1, 1 and n < 2 NaN."""
    if differences.size < 2:
        return math.nan, math.nan, math.nan
    if not differences.any():
        return 0.0, 1.0, 1.0
    with warnings.catch_warnings():
        # SciPy warns on nearly constant differences and on exact p values with ties.
        warnings.simplefilter("ignore")
        t = sps.ttest_rel(differences, np.zeros_like(differences))
        wilcoxon = sps.wilcoxon(differences)
    return float(t.statistic), float(t.pvalue), float(wilcoxon.pvalue)


def effect_difference(
    diff_a: ArrayLike,
    diff_b: ArrayLike,
    clusters: Clusters = None,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Cohen's d of one set of paired differences minus that of another, over the same samples.

    Both d come from the same resamples, so what the two share cancels. ``sd`` of the result is
    ``1 / (1/sd_a + 1/sd_b)``: an error of e nats in both means moves the result by e / sd at most.
    """
    plan = _Plan(confidence, seed, resamples)
    rows = _complete(clusters, diff_a=diff_a, diff_b=diff_b)
    if rows.n >= 2 and np.array_equal(*rows.columns):
        same = _Interval(0.0, 0.0, "exact: both sets of differences are identical")
        sd = float(np.std(rows.columns[0], ddof=1)) / 2
        return _estimate(0.0, same, rows, plan, "d difference", sd)
    if rows.n < 2 or (np.ptp(rows.columns, axis=1) == 0).any():
        nothing = _Interval(-math.inf, math.inf, "none: fewer than 2 samples or no variance")
        return _estimate(math.nan, nothing, rows, plan, "d difference", None)
    a, b = (_Scale.of(column) for column in rows.columns)

    def statistic(n: FloatArray, *parts: FloatArray, axis: int) -> FloatArray:
        n = n.sum(axis)
        sa, saa, sb, sbb = (part.sum(axis) for part in parts)
        return np.stack([a.effect(n, sa, saa) - b.effect(n, sb, sbb)])

    za, zb = a.apply(rows.columns[0]), b.apply(rows.columns[1])
    interval = _intervals(rows, rows.sums(za, za * za, zb, zb * zb), statistic, plan)[0]
    sd = 1 / (1 / a.sd + 1 / b.sd)
    return _estimate(a.mean / a.sd - b.mean / b.sd, interval, rows, plan, "d difference", sd)


# --- correlations ------------------------------------------------------------------------------


def correlation(
    x: ArrayLike,
    y: ArrayLike,
    clusters: Clusters = None,
    *,
    kind: Literal["pearson", "spearman"] = "pearson",
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Correlate two measurements of the same samples.

    Spearman's is Pearson's of the ranks; the ranks are taken once, over all samples. Where either
    side is constant the correlation is undefined: value NaN, interval [-1, 1].
    """
    if kind not in ("pearson", "spearman"):
        raise unknown("correlation", kind, ("pearson", "spearman"))
    plan = _Plan(confidence, seed, resamples)
    rows = _complete(clusters, x=x, y=y)
    if rows.n < 2 or (np.ptp(rows.columns, axis=1) == 0).any():
        nothing = _Interval(-1.0, 1.0, "none: fewer than 2 samples or no variance")
        return _estimate(math.nan, nothing, rows, plan, "r", None)
    ranked = sps.rankdata(rows.columns, axis=1) if kind == "spearman" else rows.columns
    value = _scipy_correlation(rows.columns, kind)
    u, v = (_Scale.of(column).apply(column) for column in ranked)
    sums = rows.sums(u, v, u * u, v * v, u * v)
    interval = _intervals(rows, sums, _pearson, plan, bounds=(-1.0, 1.0))[0]
    named = _Interval(interval.low, interval.high, f"{kind.capitalize()}, {interval.method}")
    return _estimate(value, named, rows, plan, "r", None)


def _scipy_correlation(columns: FloatArray, kind: str) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sps.NearConstantInputWarning)
        return float((sps.spearmanr if kind == "spearman" else sps.pearsonr)(*columns).statistic)


def _pearson(n: FloatArray, *parts: FloatArray, axis: int) -> FloatArray:
    """Pearson's r from counts, sums, sums of squares and sum of products; 0 without variance."""
    n = n.sum(axis)
    sx, sy, sxx, syy, sxy = (part.sum(axis) for part in parts)
    spread = np.sqrt(_variance(n, sx, sxx) * _variance(n, sy, syy)) * (n - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.where(spread > 0, (sxy - sx * sy / n) / spread, 0.0)
    return np.stack([np.clip(r, -1.0, 1.0)])


def oldham(
    baseline: ArrayLike,
    condition: ArrayLike,
    clusters: Clusters = None,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Correlate benefit with hardness free of arithmetic coupling, by Oldham's method.

    Benefit (baseline - condition) against the mean of the two: 0 where the condition changes
    nothing but noise, whereas benefit against the baseline alone is then positive by construction.
    Equal to comparing the variances of the two conditions.
    """
    first, second = _columns(baseline=baseline, condition=condition)
    return correlation(first - second, (first + second) / 2, clusters, confidence=confidence,
                       seed=seed, resamples=resamples)


# --- quartiles of hardness ---------------------------------------------------------------------


def quartile_effect(
    hardness: ArrayLike,
    differences: ArrayLike,
    quartile: Literal[1, 2, 3, 4],
    clusters: Clusters = None,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Cohen's d of paired differences within one quartile of hardness.

    Parameters
    ----------
    hardness : array, (n,)
        Should be measured independently of the differences (NLL from the query alone, or other
        tokens of the answer): with the baseline itself the extremes regress to the mean.
    differences : array, (n,)
        Benefit, baseline - condition, nats per token.
    quartile : int
        1 (easiest) to 4 (hardest). Ties with a cut point fall below it.

    Notes
    -----
    The cut points are taken as given: the interval does not include their sampling error.
    """
    if quartile not in (1, 2, 3, 4):
        raise KvError(f"quartile={quartile} does not exist; pass 1 (easiest) to 4 (hardest).")
    rows = _complete(clusters, hardness=hardness, differences=differences)
    inside = _quartiles(rows.columns[0]) == quartile
    return effect_size(rows.columns[1, inside], rows.labels[inside], confidence=confidence,
                       seed=seed, resamples=resamples)


def quartile_table(
    hardness: ArrayLike,
    differences: ArrayLike,
    clusters: Clusters = None,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> pd.DataFrame:
    """Benefit by quartile of hardness, 1 (easiest) to 4 (hardest); see `quartile_effect`.

    Returns
    -------
    DataFrame
        quartile, n, hardness and benefit (means, nats per token), d, d_low, d_high, win_rate,
        win_low, win_high.
    """
    rows = _complete(clusters, hardness=hardness, differences=differences)
    quartiles = _quartiles(rows.columns[0])
    table = []
    for quartile in (1, 2, 3, 4):
        inside = quartiles == quartile
        hard, x = rows.columns[:, inside]
        d = effect_size(x, rows.labels[inside], confidence=confidence, seed=seed,
                        resamples=resamples)
        win = _win_rate(x, rows.labels[inside], confidence)
        table.append({
            "quartile": quartile, "n": d.n,
            "hardness": float(hard.mean()) if d.n else math.nan,
            "benefit": float(x.mean()) if d.n else math.nan,
            "d": d.value, "d_low": d.ci_low, "d_high": d.ci_high,
            "win_rate": win.value, "win_low": win.ci_low, "win_high": win.ci_high,
        })
    return pd.DataFrame(table)


def _quartiles(hardness: FloatArray) -> NDArray[np.intp]:
    """Number the quartile of each sample, 1 to 4."""
    if not hardness.size:
        return np.zeros(0, dtype=np.intp)
    cuts = np.quantile(hardness, [0.25, 0.5, 0.75])
    return np.searchsorted(cuts, hardness, side="left") + 1


# --- proportions -------------------------------------------------------------------------------


def proportion(successes: int, n: int, confidence: float = 0.95) -> Estimate:
    """Share of successes among independent trials, with the exact Clopper-Pearson interval."""
    _check_confidence(confidence)
    if not 0 <= successes <= n:
        raise KvError(f"successes={successes} of n={n}: pass 0 <= successes <= n.")
    if n == 0:
        return Estimate(math.nan, 0.0, 1.0, confidence, "none: no trials", 0, 0, "proportion")
    interval = sps.binomtest(int(successes), int(n)).proportion_ci(confidence, method="exact")
    return Estimate(successes / n, float(interval.low), float(interval.high), confidence,
                    "Clopper-Pearson", int(n), int(n), "proportion")


def clustered_proportion(
    outcomes: ArrayLike, clusters: Clusters, *, confidence: float = 0.95
) -> Estimate:
    """Share of true outcomes where trials of one cluster go together.

    Clopper-Pearson at the effective number of trials (Korn and Graubard 1998, Survey Methodology
    24): the variance between clusters says how many independent trials the data are worth. Plain
    Clopper-Pearson with one trial per cluster.

    Parameters
    ----------
    outcomes : array of 0 / 1 or bool, (n,)
        NaN is excluded.
    clusters : sequence, (n,)
        Label of the unit of each trial.
    """
    rows = _complete(clusters, outcomes=outcomes)
    if not np.isin(rows.columns[0], (0, 1)).all():
        raise KvError("outcomes must be 0 or 1 (or bool); threshold them first.")
    plain = proportion(int(rows.columns[0].sum()), rows.n, confidence)
    if rows.clusters == rows.n:
        return plain
    n = _effective_trials(rows, plain.value, confidence)
    tail, wins = (1 - confidence) / 2, plain.value * n
    low = 0.0 if plain.value == 0 else float(sps.beta.ppf(tail, wins, n - wins + 1))
    high = 1.0 if plain.value == 1 else float(sps.beta.ppf(1 - tail, wins + 1, n - wins))
    method = f"Clopper-Pearson at {n:.1f} effective trials, {rows.clusters} clusters"
    return Estimate(plain.value, low, high, confidence, method, rows.n, rows.clusters, "proportion")


def _effective_trials(rows: _Complete, p: float, confidence: float) -> float:
    """Korn and Graubard's effective number of trials, from 1 to n."""
    k = rows.clusters
    if k < 2 or p in (0.0, 1.0):
        # Nothing varies between clusters: what can be counted on is one trial each.
        return float(k)
    count, wins = rows.sums(rows.columns[0])
    variance = k / (k - 1) * float(np.sum((wins - p * count) ** 2)) / rows.n**2
    if variance == 0:
        return float(rows.n)
    tail = (1 - confidence) / 2
    few = float(sps.t.ppf(tail, rows.n - 1) / sps.t.ppf(tail, k - 1)) ** 2
    return min(float(rows.n), max(1.0, p * (1 - p) / variance * few))


def _win_rate(differences: FloatArray, labels: NDArray[np.intp], confidence: float) -> Estimate:
    decided = differences != 0
    return clustered_proportion(differences[decided] > 0, labels[decided], confidence=confidence)


# --- noise floor -------------------------------------------------------------------------------


def noise_floor(
    *controls: ArrayLike,
    clusters: Clusters = None,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> float:
    """Largest mean difference, in nats per token, that measuring alone may produce.

    Parameters
    ----------
    *controls : array, (n,)
        Paired differences between a condition and itself measured another way (another batch
        composition, keys rotated there and back).

    Returns
    -------
    float
        The end of the mean difference's interval that is farther from 0, the farthest over all
        controls; infinite for fewer than two samples.
    """
    if not controls:
        raise KvError("noise_floor: no control given; pass the differences of at least one A/A.")
    means = [
        mean_difference(control, clusters, confidence=confidence, seed=seed, resamples=resamples)
        for control in controls
    ]
    return max(max(abs(mean.ci_low), abs(mean.ci_high)) for mean in means)


def floor_on_scale(estimate: Estimate, floor_nats: float) -> float:
    """Express a floor in nats per token in the unit of an estimate.

    0 for units that nats do not turn into (correlations, proportions), and where every difference
    is exactly 0, so that noise has nothing to hide; infinite for a d without variance.
    """
    if not floor_nats >= 0:
        raise KvError(f"floor_nats={floor_nats} is no floor; pass a number of nats >= 0.")
    if estimate.unit == "nats/token":
        return floor_nats
    scaled = ("d", "d difference", "d of groups")
    if estimate.unit not in scaled or estimate.value == 0 == estimate.sd:
        return 0.0
    return floor_nats / estimate.sd if estimate.sd else (math.inf if floor_nats else 0.0)


# --- estimates kept on disk --------------------------------------------------------------------


def estimate_key(rows_hash: str, function: str, parameters: Mapping[str, Any]) -> str:
    """Hash everything an estimate depends on: its rows, its function, its parameters, this code.

    Parameters
    ----------
    rows_hash : str
        Hash of the rows that go in.
    function : str
        Name of what is computed.
    parameters : mapping
        JSON-safe (`to_plain`); the order of keys does not matter.
    """
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    parts = [rows_hash, function, to_plain(parameters), code, scipy.__version__, np.__version__]
    return _digest(parts)


def cached_json(
    cache_dir: str | Path, key_hash: str, compute: Callable[[], Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what is stored under a key, else compute and store it.

    Parameters
    ----------
    cache_dir : path
        Made when missing. One that cannot be written costs time, not the result.
    key_hash : str
        From `estimate_key`; letters, digits and ``-`` only, it becomes a file name.
    compute : callable
        Returns a JSON-safe mapping. Called when nothing is stored or what is stored is damaged.
    """
    if not key_hash or not all(c.isascii() and (c.isalnum() or c == "-") for c in key_hash):
        raise KvError(f"cache key {key_hash!r} is no file name; pass what estimate_key returns.")
    path = Path(cache_dir) / f"{key_hash}.json"
    stored = _read_checked(path, key_hash)
    if stored is not None:
        return stored
    value: dict[str, Any] = to_plain(compute())
    _write_whole(path, {"key": key_hash, "sha256": _digest(value), "value": value})
    return value


def cached_estimate(
    cache_dir: str | Path, key_hash: str, compute: Callable[[], Estimate]
) -> Estimate:
    """Return the estimate stored under a key, else compute and store it; see `cached_json`."""
    return Estimate.from_dict(cached_json(cache_dir, key_hash, lambda: compute().to_dict()))


def cached_effect(
    cache_dir: str | Path, key_hash: str, compute: Callable[[], PairedEffect]
) -> PairedEffect:
    """Return the paired effect stored under a key, else compute and store it."""
    return PairedEffect.from_dict(cached_json(cache_dir, key_hash, lambda: compute().to_dict()))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _read_checked(path: Path, key_hash: str) -> dict[str, Any] | None:
    """Return the stored value; None where there is none or its checksum does not fit."""
    try:
        record = json.loads(path.read_bytes())
        value: dict[str, Any] = record["value"]
        fits = record["key"] == key_hash and record["sha256"] == _digest(value)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return value if fits else None


def _write_whole(path: Path, record: Mapping[str, Any]) -> None:
    """Write a file so that a reader sees all of it or none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    except OSError:
        return
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            json.dump(record, file, allow_nan=False)
        os.replace(name, path)
    except OSError:
        Path(name).unlink(missing_ok=True)
