"""Ranking metrics: AUC, reciprocal rank, hit rate, d and gap of scores.

Ties are never broken by order: every number is the expectation over all orders of the tied
passages (for AUC: half a win, as `scipy.stats.mannwhitneyu` counts it).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy import stats as sps
from scipy.special import comb

from kvcore.analysis.interval import UNBOUNDED
from kvcore.analysis.moments import ROUNDING
from kvcore.analysis.ranking.tables import RankedLists, ranked_lists
from kvcore.analysis.samples import FloatArray
from kvcore.errors import KvError, unknown

K = 10
"""How many ranks count, where nothing else is asked for."""

Metric = Callable[[FloatArray], FloatArray]
"""From how often each query is drawn, (..., queries), to the metric, (...)."""


def auc_metric(
    lists: RankedLists,
    column: FloatArray,
    alike: FloatArray | None = None,
    within: float = math.inf,
) -> Metric:
    """Share of (relevant, irrelevant) pairs in the right order, over all queries drawn.

    Which query's relevant passage beats how many of which query's irrelevant ones is counted
    once, so that a resample is a quadratic form in the counts: exact, and one matrix product for
    all resamples. With ``alike`` only pairs count that differ by at most ``within`` in it.
    """
    wins, pairs = pair_counts(lists, column, alike, within)

    def metric(counts: FloatArray) -> FloatArray:
        won, all_pairs = (((counts @ m) * counts).sum(axis=-1) for m in (wins, pairs))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(won / all_pairs)

    return metric


def pair_counts(
    lists: RankedLists, column: FloatArray, alike: FloatArray | None, within: float
) -> tuple[FloatArray, FloatArray]:
    """Wins (a tie is half a win) and pairs by query of the relevant and of the irrelevant one."""
    k = lists.queries
    wins, pairs = np.zeros((k, k)), np.zeros((k, k))
    others, below = lists.query[~lists.relevant], column[~lists.relevant]
    counted = np.ones(below.size)
    for row in np.flatnonzero(lists.relevant):
        if alike is not None:
            apart = np.abs(alike[row] - alike[~lists.relevant])
            counted = (apart <= within).astype(np.float64)
        won = (np.sign(column[row] - below) + 1) / 2 * counted
        wins[lists.query[row]] += np.bincount(others, won, k)
        pairs[lists.query[row]] += np.bincount(others, counted, k)
    return wins, pairs


def mean_metric(values: FloatArray) -> Metric:
    """Mean over queries of a number per query."""
    return lambda counts: np.asarray((counts @ values) / counts.sum(axis=-1))


def gap_metric(lists: RankedLists, column: FloatArray, standardized: bool) -> Metric:
    """Mean of relevant minus mean of irrelevant passages, in their pooled SD where asked."""
    spread = float(np.std(column))
    scale = spread if spread > 0 else 1.0
    z = (column - np.mean(column)) / scale
    sums = [
        np.stack([lists.sums(side * z**power) for power in range(3)], axis=-1)
        for side in (lists.relevant, ~lists.relevant)
    ]

    def metric(counts: FloatArray) -> FloatArray:
        (n, s, ss), (m, t, tt) = (np.moveaxis(counts @ side, -1, 0) for side in sums)
        gap = s / n - t / m
        if not standardized:
            return np.asarray(scale * gap)
        squares = (ss - s * s / n) + (tt - t * t / m)
        squares = np.where(squares <= ROUNDING * (ss + tt), 0.0, squares)
        with np.errstate(divide="ignore", invalid="ignore"):
            d = gap / np.sqrt(squares / (n + m - 2))
        return np.where((gap == 0) & (squares == 0), 0.0, d)

    return metric


@lru_cache(maxsize=4096)
def first_relevant(above: int, tied: int, relevant: int, k: int) -> tuple[float, float]:
    """Expected reciprocal rank and hit where the best relevant passages tie with others.

    Parameters
    ----------
    above : int
        Passages ranked strictly higher, none of them relevant.
    tied, relevant : int
        Passages with the best relevant score, and how many of those are relevant.
    k : int
        Ranks beyond k count 0.
    """
    places = np.arange(1, tied - relevant + 2)
    chance = comb(tied - places, relevant - 1) / comb(tied, relevant)
    counts = above + places <= k
    return float(np.sum(chance * counts / (above + places))), float(np.sum(chance * counts))


def by_query(lists: RankedLists, column: FloatArray, k: int) -> pd.DataFrame:
    """AUC, reciprocal rank at k and hit at k of every query."""
    best = np.full(lists.queries, -np.inf)
    np.maximum.at(best, lists.query[lists.relevant], column[lists.relevant])
    reached = best[lists.query]
    above, tied = lists.sums(column > reached), lists.sums(column == reached)
    relevant = lists.sums((column == reached) & lists.relevant)
    ranks = [
        first_relevant(int(a), int(t), int(r), k)
        for a, t, r in zip(above, tied, relevant, strict=True)
    ]
    wins, pairs = pairs_within_queries(lists, column)
    columns = {
        "auc": wins / pairs,
        "reciprocal_rank": [rank for rank, _ in ranks],
        "hit": [hit for _, hit in ranks],
    }
    return pd.DataFrame(columns, index=pd.Index(np.unique(lists.ids), name="query_id"))


def pairs_within_queries(lists: RankedLists, column: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Wins and pairs within each query, from mid-ranks within it (Mann-Whitney)."""
    ranks = pd.Series(column).groupby(lists.query).rank(method="average").to_numpy()
    n, m = lists.sums(lists.relevant), lists.sums(~lists.relevant)
    return lists.sums(ranks * lists.relevant) - n * (n + 1) / 2, n * m


METRICS: Mapping[str, str] = {
    "auc": "chance that a relevant passage outranks an irrelevant one, of whatever query",
    "auc_per_query": "the same within each query's list, averaged over queries",
    "mrr": "mean reciprocal rank of the first relevant passage, 0 beyond rank k",
    "hit": "share of queries with a relevant passage in the first k ranks",
    "d": "Cohen's d of the scores, relevant against irrelevant, in their pooled SD (ddof 1)",
    "gap": "mean score of relevant passages minus that of irrelevant ones",
}
"""What each metric is, over a table's scores."""


@dataclass(frozen=True)
class MetricKind:
    """A metric: its unit, its range and how it is computed from lists, a score and k."""

    unit: str
    bounds: tuple[float, float]
    make: Callable[[RankedLists, FloatArray, int], Metric]

    def of(self, lists: RankedLists, column: FloatArray, k: int) -> Metric:
        """Return the metric of one score; NaN where there is no query."""
        return self.make(lists, column, k) if lists.queries else no_query


def no_query(counts: FloatArray) -> FloatArray:
    """Stand for the metric of no query."""
    return np.full(counts.shape[:-1], np.nan)


def _mean_of(column: str) -> Callable[[RankedLists, FloatArray, int], Metric]:
    return lambda lists, x, k: mean_metric(by_query(lists, x, k)[column].to_numpy())


_SHARE = (0.0, 1.0)
METRIC_KINDS: Mapping[str, MetricKind] = {
    "auc": MetricKind("AUC", _SHARE, lambda lists, x, _k: auc_metric(lists, x)),
    "auc_per_query": MetricKind("AUC per query", _SHARE, _mean_of("auc")),
    "mrr": MetricKind("MRR", _SHARE, _mean_of("reciprocal_rank")),
    "hit": MetricKind("proportion", _SHARE, _mean_of("hit")),
    "d": MetricKind("d of groups", UNBOUNDED, lambda lists, x, _k: gap_metric(lists, x, True)),
    "gap": MetricKind("nats/token", UNBOUNDED, lambda lists, x, _k: gap_metric(lists, x, False)),
}


def metric_kind(metric: str, k: int) -> MetricKind:
    """Return a metric by its name; raise KvError for an unknown one and for k below 1."""
    if metric not in METRIC_KINDS:
        raise unknown("ranking metric", metric, METRICS)
    if k < 1:
        raise KvError(f"k must be 1 or more ranks; got k={k}.")
    return METRIC_KINDS[metric]


def value(scored: pd.DataFrame, metric: str = "auc", *, k: int = K) -> float:
    """Compute one of `METRICS` for a table; NaN for a table without queries.

    Raises KvError for a column that is missing, a candidate twice, an infinite score, a query
    without a relevant or without an irrelevant passage, an unknown metric, or k below 1.
    """
    kind, lists = metric_kind(metric, k), ranked_lists(scored)
    return float(kind.of(lists, lists.columns[0], k)(np.ones(lists.queries)))


def auc(scored: pd.DataFrame) -> float:
    """AUC pooled over queries, 0 to 1, by SciPy's Mann-Whitney U; NaN without queries."""
    lists = ranked_lists(scored)
    relevant, irrelevant = lists.split(lists.columns[0])
    if not relevant.size:
        return math.nan
    u = sps.mannwhitneyu(relevant, irrelevant, method="asymptotic").statistic
    return float(u) / (relevant.size * irrelevant.size)


def per_query(scored: pd.DataFrame, *, k: int = K) -> pd.DataFrame:
    """AUC, reciprocal rank and hit at k of every query.

    Indexed by query_id (text): ``auc``, ``reciprocal_rank``, ``hit``, each 0 to 1. With ties at the
    best relevant score, expectations over the orders of the tied passages.
    """
    metric_kind("mrr", k)
    lists = ranked_lists(scored)
    return by_query(lists, lists.columns[0], k)


@dataclass(frozen=True)
class Comparison:
    """In how many queries the first score ranks better, equally well and worse."""

    wins: int
    ties: int
    losses: int


def compare(first: pd.DataFrame, second: pd.DataFrame, *, k: int = K) -> Comparison:
    """Count the queries in which the first score has the higher reciprocal rank at k."""
    metric_kind("mrr", k)
    lists = ranked_lists(first, second)
    a, b = (by_query(lists, x, k)["reciprocal_rank"].to_numpy() for x in lists.columns)
    return Comparison(int(np.sum(a > b)), int(np.sum(a == b)), int(np.sum(a < b)))


def roc(scored: pd.DataFrame) -> tuple[FloatArray, FloatArray]:
    """Return the pooled ROC curve: shares of irrelevant and of relevant passages, from 0 to 1.

    One point per distinct score, the highest first; ties are one straight step, so that the area
    below is the AUC.
    """
    lists = ranked_lists(scored)
    score = lists.columns[0]
    steps = np.unique(score)[::-1]
    relevant, irrelevant = (np.sort(x) for x in lists.split(score))
    above = [1 - np.searchsorted(x, steps, side="left") / x.size for x in (irrelevant, relevant)]
    return (np.concatenate([[0.0], above[0]]), np.concatenate([[0.0], above[1]]))
