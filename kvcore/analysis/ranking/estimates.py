"""Ranking metrics, their differences and their slopes, with intervals over queries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from kvcore.analysis.estimate import Estimate
from kvcore.analysis.interval import DEFAULT_INTERVAL, IntervalSettings, resampled
from kvcore.analysis.least_squares import slope_weights
from kvcore.analysis.moments import ROUNDING
from kvcore.analysis.proportions import proportion
from kvcore.analysis.ranking.metrics import (
    METRIC_KINDS,
    K,
    Metric,
    by_query,
    gap_metric,
    metric_kind,
    no_query,
)
from kvcore.analysis.ranking.tables import RankedLists, ranked_lists
from kvcore.analysis.samples import FloatArray
from kvcore.errors import KvError


def estimate(
    scored: pd.DataFrame,
    metric: str = "auc",
    interval: IntervalSettings = DEFAULT_INTERVAL,
    *,
    k: int = K,
) -> Estimate:
    """Compute one of `METRICS` with an interval over queries.

    ``n`` counts passages, ``clusters`` queries. Fewer than two queries bound nothing: the interval
    is the metric's whole range. Clopper-Pearson over queries for ``"hit"`` without ties.

    Raises KvError as `kvcore.analysis.ranking.value` does.
    """
    kind, lists = metric_kind(metric, k), ranked_lists(scored)
    if metric == "hit":
        hits = by_query(lists, lists.columns[0], k)["hit"]
        if hits.isin((0, 1)).all():
            return proportion(int(hits.sum()), lists.queries, interval.confidence)
    computed = kind.of(lists, lists.columns[0], k)
    sd = _sd(lists) if metric == "d" else None
    return resampled(computed, lists.ids, interval, unit=kind.unit, bounds=kind.bounds, sd=sd)


def difference(
    first: pd.DataFrame,
    second: pd.DataFrame,
    metric: str = "auc",
    interval: IntervalSettings = DEFAULT_INTERVAL,
    *,
    k: int = K,
) -> Estimate:
    """Subtract a metric of the second score from that of the first, on the same lists.

    Queries count as wholes, both scores together, so that what the scores share cancels.

    Positive where the first score ranks better. Identical scores give exactly 0.

    Raises KvError as `kvcore.analysis.ranking.value` does, and where the tables hold different
    candidates.

    Parameters
    ----------
    first, second : DataFrame
        The same candidates, in any order.
    metric : str
        One of `METRICS`.
    interval : IntervalSettings
        Level and method (over queries).
    k : int
        Ranks that count, for ``"mrr"`` and ``"hit"``.
    """
    kind, lists = metric_kind(metric, k), ranked_lists(first, second)
    computed = minus(*(kind.of(lists, x, k) for x in lists.columns))
    width = kind.bounds[1] - kind.bounds[0]
    unit = f"{kind.unit} difference"
    change = resampled(computed, lists.ids, interval, unit=unit, bounds=(-width, width))
    if lists.queries > 1 and np.array_equal(*lists.columns):
        return replace(change, method="exact: both scores are identical")
    return change


def trend(
    tables: Mapping[float, pd.DataFrame],
    metric: str = "auc",
    interval: IntervalSettings = DEFAULT_INTERVAL,
    *,
    k: int = K,
) -> Estimate:
    """Least-squares slope of a metric over a number that the scores hang on.

    Returns the metric's change per unit of that number; queries count as wholes, all scores
    together.

    - `tables`: the same candidates, scored at each of two or more values of that number.
    - `metric`, `interval`, `k`: as `difference` takes them.

    Raises KvError as `difference` does, and for fewer than two values.
    """
    if len(tables) < 2:
        raise KvError(f"tables must be scores at two values or more; got {len(tables)}.")
    weights = slope_weights(list(tables)).tolist()
    slope = contrast(list(tables.values()), weights, metric, interval, k=k)
    return replace(slope, unit=f"{metric_kind(metric, k).unit} slope")


def contrast(
    tables: Sequence[pd.DataFrame],
    weights: Sequence[float],
    metric: str = "auc",
    interval: IntervalSettings = DEFAULT_INTERVAL,
    *,
    k: int = K,
) -> Estimate:
    """Weighted sum of a metric over several scores of the same candidates.

    Queries count as wholes, all scores together, so that what the scores share cancels.

    - `tables`: the same candidates in each.
    - `weights`: one for each table; they add up to 0, so that the sum compares.
    - `metric`, `interval`, `k`: as `difference` takes them.

    Raises KvError as `difference` does, and for weights that are not as many as tables or do not
    add up to 0.
    """
    if len(weights) != len(tables) or abs(sum(weights)) > ROUNDING:
        raise KvError(
            f"weights must be one a table and add up to 0; got {list(weights)} for "
            f"{len(tables)} tables."
        )
    kind, lists = metric_kind(metric, k), ranked_lists(*tables)
    metrics = [kind.of(lists, column, k) for column in lists.columns]

    def weighted(counts: FloatArray) -> FloatArray:
        return np.asarray(sum(w * one(counts) for w, one in zip(weights, metrics, strict=True)))

    return resampled(weighted, lists.ids, interval, unit=f"{kind.unit} difference")


def benefit_gap(
    baseline: pd.DataFrame,
    condition: pd.DataFrame,
    interval: IntervalSettings = DEFAULT_INTERVAL,
    *,
    standardized: bool = False,
) -> Estimate:
    """How much more a condition helps relevant passages than irrelevant ones.

    Returns the mean benefit of relevant minus that of irrelevant passages; about 0 where the
    condition cannot rank because it lowers the NLL of both alike.

    Parameters
    ----------
    baseline, condition : DataFrame
        Scores that are -NLL or PMI, so that benefit = score(condition) - score(baseline).
    interval : IntervalSettings
        Level and method (over queries).
    standardized : bool
        In SDs of the benefit (pooled within the two groups, ddof 1), not in nats per token.
    """
    lists = ranked_lists(baseline, condition)
    benefit = replace(lists, columns=np.diff(lists.columns, axis=0))
    unit = METRIC_KINDS["d" if standardized else "gap"].unit
    computed = gap_metric(benefit, benefit.columns[0], standardized) if lists.queries else no_query
    sd = _sd(benefit) if standardized else None
    return resampled(computed, lists.ids, interval, unit=unit, sd=sd)


def minus(first: Metric, second: Metric) -> Metric:
    """Subtract one metric from another, on the same counts."""
    return lambda counts: first(counts) - second(counts)


def _sd(lists: RankedLists) -> float | None:
    """What turns nats into d of groups: an error of e in both means moves it by e / sd at most."""
    if lists.columns.size < 3:
        return None
    relevant, irrelevant = lists.split(lists.columns[0])
    squares = sum(float(np.sum((x - x.mean()) ** 2)) for x in (relevant, irrelevant))
    return math.sqrt(squares / (lists.columns.size - 2)) / 2
