"""Ranking by scores: from tables of numbers to AUC, MRR, Hit and their differences.

A table has one row per candidate passage: ``query_id``, ``passage_id``, ``relevant`` and
``score``, where a higher score ranks higher. The unit that is resampled is the query, and what is
compared between two scores is compared on the same resamples. A query with a NaN score is left
out whole, since without a passage its list would be another list.

Ties are never broken by order: every number is the expectation over all orders of the tied
passages (for AUC: half a win, as `scipy.stats.mannwhitneyu` counts it).

The order of rows never changes a number: queries and passages are sorted by id.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats as sps
from scipy.special import comb

from kvcore.errors import KvError, unknown
from kvcore.stats import RESAMPLES, Estimate, FloatArray, proportion, resampled

if TYPE_CHECKING:
    from kvcore.data.ranking_lists import Candidate

K = 10
CALIPER = 0.2
"""Overlaps within this many SD count as alike (Austin 2011, Pharmaceutical Statistics 10)."""

# Below this share of the sum of squares a variance is what rounding leaves of zero.
_ROUNDING = 1e-12
KEYS = ["query_id", "passage_id"]
COLUMNS = (*KEYS, "relevant", "score")

Metric = Callable[[FloatArray], FloatArray]
"""From how often each query is drawn, (..., queries), to the metric, (...)."""


# --- scores and tables -------------------------------------------------------------------------


def raw(nll: ArrayLike) -> FloatArray:
    """Turn NLL (nats per token) into a score, -NLL: the likelier the answer, the higher."""
    return -np.asarray(nll, dtype=np.float64)


def pmi(bos_only: ArrayLike, nll: ArrayLike) -> FloatArray:
    """Subtract the NLL with a document from the NLL without one, both in nats per token.

    Positive where the document makes the answer likelier, 0 where it is ignored. Within a query
    this is `raw` plus a constant, so it ranks each list as `raw` does and only pooled numbers
    (AUC, d) differ.
    """
    return np.asarray(bos_only, dtype=np.float64) - np.asarray(nll, dtype=np.float64)


def table(candidates: Iterable[Candidate], scores: Mapping[str, float]) -> pd.DataFrame:
    """Make a table from candidates and a score for each candidate's sample id.

    Raises
    ------
    KvError
        Where a candidate has no score; NaN says that there is none.
    """
    listed = list(candidates)
    lacking = [c.sample.id for c in listed if c.sample.id not in scores]
    if lacking:
        raise KvError(f"ranking: no score for {lacking[0]!r} ({len(lacking)} lack); pass NaN.")
    rows = [(c.query_id, c.passage_id, c.relevant, float(scores[c.sample.id])) for c in listed]
    return pd.DataFrame(rows, columns=list(COLUMNS))


@dataclass(frozen=True, eq=False)
class _Lists:
    """Checked tables over the same candidates, sorted by query and passage.

    ``ids``: query of each row; ``query``: its number from 0; ``relevant``: bool; all (n,).
    ``columns``: one row of numbers per table, (m, n), without NaN.
    """

    ids: NDArray[np.str_]
    query: NDArray[np.intp]
    relevant: NDArray[np.bool_]
    columns: FloatArray

    @property
    def queries(self) -> int:
        return int(self.query.max()) + 1 if self.query.size else 0

    def sums(self, values: ArrayLike) -> FloatArray:
        """Sum over each query's rows, (queries,)."""
        weights = np.asarray(values, dtype=np.float64)
        return np.asarray(np.bincount(self.query, weights, self.queries), dtype=np.float64)

    def split(self, column: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Values of the relevant and of the irrelevant passages."""
        return column[self.relevant], column[~self.relevant]


def _lists(*tables: pd.DataFrame, columns: tuple[str, ...] = ("score",)) -> _Lists:
    """Align tables by query and passage and leave out queries with a NaN in any of them."""
    checked = [_checked(frame, columns) for frame in tables]
    first = checked[0]
    for other in checked[1:]:
        if not other.index.equals(first.index) or (other["relevant"] != first["relevant"]).any():
            raise KvError("ranking: the tables hold different candidates; score the same lists.")
    numbers = np.concatenate([frame[list(columns)].to_numpy(np.float64).T for frame in checked])
    if np.isinf(numbers).any():
        at = first.index[int(np.flatnonzero(np.isinf(numbers).any(axis=0))[0])]
        raise KvError(f"ranking: the score of {at} is infinite; pass NaN to leave its query out.")
    ids = first.index.get_level_values(0).to_numpy(dtype=str)
    keep = ~np.isin(ids, ids[np.isnan(numbers).any(axis=0)])
    relevant = first["relevant"].to_numpy(dtype=bool)
    query = np.unique(ids[keep], return_inverse=True)[1]
    lists = _Lists(ids[keep], query, relevant[keep], numbers[:, keep])
    _check_lists(lists)
    return lists


def _checked(frame: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    """Index a table by (query, passage) as text, sorted."""
    lacking = [name for name in (*KEYS, "relevant", *columns) if name not in frame.columns]
    if lacking:
        raise KvError(f"ranking: column {lacking[0]!r} lacks; needed are {', '.join(COLUMNS)}.")
    if frame[KEYS].isna().any(axis=None):
        raise KvError("ranking: a row has no query_id or no passage_id; name every candidate.")
    if not frame["relevant"].isin((0, 1)).all():
        raise KvError("ranking: 'relevant' must be true or false (or 1 or 0) in every row.")
    keyed = frame.astype({"query_id": str, "passage_id": str}).set_index(KEYS).sort_index()
    if not keyed.index.is_unique:
        at = keyed.index[keyed.index.duplicated()][0]
        raise KvError(f"ranking: {at} stands in the table twice; score each candidate once.")
    return keyed


def _check_lists(lists: _Lists) -> None:
    found = lists.sums(lists.relevant)
    bare = np.flatnonzero((found == 0) | (lists.sums(~lists.relevant) == 0))
    if bare.size:
        at = int(bare[0])
        side = "relevant" if found[at] == 0 else "irrelevant"
        name = lists.ids[np.flatnonzero(lists.query == at)[0]]
        raise KvError(f"ranking: query {str(name)!r} has no {side} passage; leave it out.")


# --- metrics -----------------------------------------------------------------------------------


def _auc_metric(lists: _Lists, column: FloatArray, alike: FloatArray | None = None,
                within: float = math.inf) -> Metric:
    """Share of (relevant, irrelevant) pairs in the right order, over all queries drawn.

    Which query's relevant passage beats how many of which query's irrelevant ones is counted
    once, so that a resample is a quadratic form in the counts: exact, and one matrix product for
    all resamples. With ``alike`` only pairs count that differ by at most ``within`` in it.
    """
    wins, pairs = _pairs(lists, column, alike, within)

    def metric(counts: FloatArray) -> FloatArray:
        won, all_pairs = (((counts @ m) * counts).sum(axis=-1) for m in (wins, pairs))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(won / all_pairs)

    return metric


def _pairs(lists: _Lists, column: FloatArray, alike: FloatArray | None,
           within: float) -> tuple[FloatArray, FloatArray]:
    """Wins (a tie is half a win) and pairs by query of the relevant and of the irrelevant one."""
    k = lists.queries
    wins, pairs = np.zeros((k, k)), np.zeros((k, k))
    others = lists.query[~lists.relevant]
    below = column[~lists.relevant]
    for row in np.flatnonzero(lists.relevant):
        counted = np.ones(below.size) if alike is None else (
            np.abs(alike[row] - alike[~lists.relevant]) <= within).astype(np.float64)
        won = (np.sign(column[row] - below) + 1) / 2 * counted
        wins[lists.query[row]] += np.bincount(others, won, k)
        pairs[lists.query[row]] += np.bincount(others, counted, k)
    return wins, pairs


def _mean_metric(values: FloatArray) -> Metric:
    """Mean over queries of a number per query."""
    def metric(counts: FloatArray) -> FloatArray:
        return np.asarray((counts @ values) / counts.sum(axis=-1))

    return metric


def _gap_metric(lists: _Lists, column: FloatArray, standardized: bool) -> Metric:
    """Mean of relevant minus mean of irrelevant passages, in their pooled SD where asked."""
    spread = float(np.std(column))
    scale = spread if spread > 0 else 1.0
    z = (column - np.mean(column)) / scale
    sums = [np.stack([lists.sums(side * z**power) for power in range(3)], axis=-1)
            for side in (lists.relevant, ~lists.relevant)]

    def metric(counts: FloatArray) -> FloatArray:
        (n, s, ss), (m, t, tt) = (np.moveaxis(counts @ side, -1, 0) for side in sums)
        gap = s / n - t / m
        if not standardized:
            return np.asarray(scale * gap)
        squares = (ss - s * s / n) + (tt - t * t / m)
        squares = np.where(squares <= _ROUNDING * (ss + tt), 0.0, squares)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where((gap == 0) & (squares == 0), 0.0,
                            gap / np.sqrt(squares / (n + m - 2)))

    return metric


@lru_cache(maxsize=4096)
def _first_relevant(above: int, tied: int, relevant: int, k: int) -> tuple[float, float]:
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


def _by_query(lists: _Lists, column: FloatArray, k: int) -> pd.DataFrame:
    """AUC, reciprocal rank at k and hit at k of every query."""
    best = np.full(lists.queries, -np.inf)
    np.maximum.at(best, lists.query[lists.relevant], column[lists.relevant])
    reached = best[lists.query]
    above, tied = lists.sums(column > reached), lists.sums(column == reached)
    relevant = lists.sums((column == reached) & lists.relevant)
    ranks = [_first_relevant(int(a), int(t), int(r), k)
             for a, t, r in zip(above, tied, relevant, strict=True)]
    names = np.unique(lists.ids)
    wins, pairs = _own_pairs(lists, column)
    return pd.DataFrame({
        "auc": wins / pairs,
        "reciprocal_rank": [rank for rank, _ in ranks],
        "hit": [hit for _, hit in ranks],
    }, index=pd.Index(names, name="query_id"))


def _own_pairs(lists: _Lists, column: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Wins and pairs within each query, from mid-ranks within it (Mann-Whitney)."""
    ranks = pd.Series(column).groupby(lists.query).rank(method="average").to_numpy()
    n, m = lists.sums(lists.relevant), lists.sums(~lists.relevant)
    return lists.sums(ranks * lists.relevant) - n * (n + 1) / 2, n * m


@dataclass(frozen=True)
class _Kind:
    """A metric by name: its unit, its range and how it is made."""

    unit: str
    bounds: tuple[float, float]
    make: Callable[[_Lists, FloatArray, int], Metric]


_ANY = (-math.inf, math.inf)
_UNIT = (0.0, 1.0)
_KINDS: Mapping[str, _Kind] = {
    "auc": _Kind("AUC", _UNIT, lambda lists, x, _k: _auc_metric(lists, x)),
    "auc_per_query": _Kind("AUC per query", _UNIT, lambda lists, x, k: _mean_metric(
        _by_query(lists, x, k)["auc"].to_numpy())),
    "mrr": _Kind("MRR", _UNIT, lambda lists, x, k: _mean_metric(
        _by_query(lists, x, k)["reciprocal_rank"].to_numpy())),
    "hit": _Kind("proportion", _UNIT, lambda lists, x, k: _mean_metric(
        _by_query(lists, x, k)["hit"].to_numpy())),
    "d": _Kind("d of groups", _ANY, lambda lists, x, _k: _gap_metric(lists, x, True)),
    "gap": _Kind("nats/token", _ANY, lambda lists, x, _k: _gap_metric(lists, x, False)),
}
METRICS: Mapping[str, str] = {
    "auc": "chance that a relevant passage outranks an irrelevant one, of whatever query",
    "auc_per_query": "the same within each query's list, averaged over queries",
    "mrr": "mean reciprocal rank of the first relevant passage, 0 beyond rank k",
    "hit": "share of queries with a relevant passage in the first k ranks",
    "d": "Cohen's d of the scores, relevant against irrelevant, in their pooled SD (ddof 1)",
    "gap": "mean score of relevant passages minus that of irrelevant ones",
}
"""What each metric is, over a table's scores."""


def _kind(metric: str, k: int) -> _Kind:
    if metric not in _KINDS:
        raise unknown("ranking metric", metric, METRICS)
    if k < 1:
        raise KvError(f"ranking: k={k}; pass 1 or more ranks.")
    return _KINDS[metric]


def value(scored: pd.DataFrame, metric: str = "auc", *, k: int = K) -> float:
    """Compute one of `METRICS` for a table; NaN for a table without queries.

    Raises
    ------
    KvError
        A column that lacks, a candidate twice, an infinite score, a query without a relevant or
        without an irrelevant passage, an unknown metric, or k below 1.
    """
    kind, lists = _kind(metric, k), _lists(scored)
    if not lists.queries:
        return math.nan
    return float(kind.make(lists, lists.columns[0], k)(np.ones(lists.queries)))


def auc(scored: pd.DataFrame) -> float:
    """AUC pooled over queries, 0 to 1, by SciPy's Mann-Whitney U; NaN without queries."""
    lists = _lists(scored)
    relevant, irrelevant = lists.split(lists.columns[0])
    if not relevant.size:
        return math.nan
    u = sps.mannwhitneyu(relevant, irrelevant, method="asymptotic").statistic
    return float(u) / (relevant.size * irrelevant.size)


def per_query(scored: pd.DataFrame, *, k: int = K) -> pd.DataFrame:
    """AUC, reciprocal rank and hit at k of every query.

    Returns
    -------
    DataFrame
        Indexed by query_id (text): ``auc``, ``reciprocal_rank``, ``hit``, each 0 to 1. With ties
        at the best relevant score, expectations over the orders of the tied passages.
    """
    _kind("mrr", k)
    lists = _lists(scored)
    return _by_query(lists, lists.columns[0], k)


@dataclass(frozen=True)
class Comparison:
    """In how many queries the first score ranks better, equally well and worse."""

    wins: int
    ties: int
    losses: int


def compare(first: pd.DataFrame, second: pd.DataFrame, *, k: int = K) -> Comparison:
    """Count the queries in which the first score has the higher reciprocal rank at k."""
    _kind("mrr", k)
    lists = _lists(first, second)
    a, b = (_by_query(lists, x, k)["reciprocal_rank"].to_numpy() for x in lists.columns)
    return Comparison(int(np.sum(a > b)), int(np.sum(a == b)), int(np.sum(a < b)))


# --- estimates ---------------------------------------------------------------------------------


def estimate(
    scored: pd.DataFrame,
    metric: str = "auc",
    *,
    k: int = K,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Compute one of `METRICS` with an interval that resamples queries.

    Returns
    -------
    Estimate
        ``n`` passages, ``clusters`` queries. Fewer than two queries bound nothing: the interval is
        the metric's whole range. BCa; percentile where that is undefined, as where every
        query ranks alike; Clopper-Pearson over queries for ``"hit"`` without ties.

    Raises
    ------
    KvError
        As `value` does.
    """
    kind, lists = _kind(metric, k), _lists(scored)
    if metric == "hit":
        hits = _by_query(lists, lists.columns[0], k)["hit"]
        if hits.isin((0, 1)).all():
            return proportion(int(hits.sum()), lists.queries, confidence)
    made = kind.make(lists, lists.columns[0], k) if lists.queries else _nothing
    return resampled(made, lists.ids, unit=kind.unit, bounds=kind.bounds,
                     sd=_sd(lists, metric), confidence=confidence, seed=seed, resamples=resamples)


def difference(
    first: pd.DataFrame,
    second: pd.DataFrame,
    metric: str = "auc",
    *,
    k: int = K,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Subtract a metric of the second score from that of the first, on the same lists.

    Queries are resampled, both scores together, so that what the scores share cancels.

    Parameters
    ----------
    first, second : DataFrame
        The same candidates, in any order.
    metric : str
        One of `METRICS`.
    k : int
        Ranks that count, for ``"mrr"`` and ``"hit"``.
    confidence : float
        Level of the interval.
    seed, resamples : int
        Of the bootstrap.

    Returns
    -------
    Estimate
        Positive where the first score ranks better. Identical scores give exactly 0.

    Raises
    ------
    KvError
        As `value` does, and where the tables hold different candidates.
    """
    kind, lists = _kind(metric, k), _lists(first, second)
    made = _minus(*(kind.make(lists, x, k) for x in lists.columns)) if lists.queries else _nothing
    width = kind.bounds[1] - kind.bounds[0]
    found = resampled(made, lists.ids, unit=f"{kind.unit} difference", bounds=(-width, width),
                      confidence=confidence, seed=seed, resamples=resamples)
    if lists.queries > 1 and np.array_equal(*lists.columns):
        return replace(found, method="exact: both scores are identical")
    return found


def trend(
    tables: Mapping[float, pd.DataFrame],
    metric: str = "auc",
    *,
    k: int = K,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Least-squares slope of a metric over a number that the scores hang on.

    Parameters
    ----------
    tables : mapping of float to DataFrame
        The same candidates, scored at each of two or more values of that number.
    metric, k, confidence, seed, resamples
        As `difference` takes them.

    Returns
    -------
    Estimate
        The metric's change per unit of that number; queries are resampled, all scores together.

    Raises
    ------
    KvError
        As `difference` does, and for fewer than two values.
    """
    if len(tables) < 2:
        raise KvError(f"trend: {len(tables)} tables; pass the scores at two values or more.")
    kind, lists = _kind(metric, k), _lists(*tables.values())
    x = np.array(list(tables), dtype=np.float64)
    weights = (x - x.mean()) / np.square(x - x.mean()).sum()
    made = [kind.make(lists, column, k) for column in lists.columns] if lists.queries else []

    def slope(counts: FloatArray) -> FloatArray:
        return np.asarray(sum(w * metric(counts) for w, metric in zip(weights, made, strict=True)))

    return resampled(slope if made else _nothing, lists.ids, unit=f"{kind.unit} slope",
                     confidence=confidence, seed=seed, resamples=resamples)


def roc(scored: pd.DataFrame) -> tuple[FloatArray, FloatArray]:
    """Return the pooled ROC curve: shares of irrelevant and of relevant passages, from 0 to 1.

    One point per distinct score, the highest first; ties are one straight step, so that the area
    below is the AUC.
    """
    lists = _lists(scored)
    score = lists.columns[0]
    steps = np.unique(score)[::-1]
    relevant, irrelevant = (np.sort(x) for x in lists.split(score))
    above = [1 - np.searchsorted(x, steps, side="left") / x.size for x in (irrelevant, relevant)]
    return (np.concatenate([[0.0], above[0]]), np.concatenate([[0.0], above[1]]))


def benefit_gap(
    baseline: pd.DataFrame,
    condition: pd.DataFrame,
    *,
    standardized: bool = False,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """How much more a condition helps relevant passages than irrelevant ones.

    Parameters
    ----------
    baseline, condition : DataFrame
        Scores that are -NLL or PMI, so that benefit = score(condition) - score(baseline).
    standardized : bool
        In SDs of the benefit (pooled within the two groups, ddof 1), not in nats per token.
    confidence : float
        Level of the interval.
    seed, resamples : int
        Of the bootstrap, over queries.

    Returns
    -------
    Estimate
        Mean benefit of relevant minus mean benefit of irrelevant passages; about 0 where the
        condition cannot rank because it lowers the NLL of both alike.
    """
    lists = _lists(baseline, condition)
    kind = "d" if standardized else "gap"
    benefit = _Lists(lists.ids, lists.query, lists.relevant,
                     np.diff(lists.columns, axis=0))
    made = (_gap_metric(benefit, benefit.columns[0], standardized) if lists.queries else _nothing)
    return resampled(made, lists.ids, unit=_KINDS[kind].unit, sd=_sd(benefit, kind),
                     confidence=confidence, seed=seed, resamples=resamples)


def _nothing(counts: FloatArray) -> FloatArray:
    """Stand for the metric of no query."""
    return np.full(counts.shape[:-1], np.nan)


def _minus(first: Metric, second: Metric) -> Metric:
    def metric(counts: FloatArray) -> FloatArray:
        return first(counts) - second(counts)

    return metric


def _sd(lists: _Lists, metric: str) -> float | None:
    """What turns nats into d of groups: an error of e in both means moves it by e / sd at most."""
    if metric != "d" or not lists.queries:
        return None
    relevant, irrelevant = lists.split(lists.columns[0])
    if lists.columns.size < 3:
        return None
    squares = sum(float(np.sum((x - x.mean()) ** 2)) for x in (relevant, irrelevant))
    return math.sqrt(squares / (lists.columns.size - 2)) / 2


# --- overlap held constant ---------------------------------------------------------------------


@dataclass(frozen=True)
class OverlapControl:
    """What is left of a ranking where passages overlap with the answer alike.

    Parameters
    ----------
    plain : Estimate
        AUC pooled over queries.
    controlled : Estimate
        AUC over the pairs of a relevant and an irrelevant passage of about equal overlap.
    change : Estimate
        controlled - plain, from the same resamples: negative where overlap did the ranking.
    residual : float
        AUC of the score after linear regression on overlap, the slope taken within the relevant
        and the irrelevant passages, for comparison.
    overlap : float
        AUC of the overlap alone.
    pairs, matched : int
        All pairs, and those of about equal overlap.
    """

    plain: Estimate
    controlled: Estimate
    change: Estimate
    residual: float
    overlap: float
    pairs: int
    matched: int


def control_overlap(
    scored: pd.DataFrame,
    *,
    caliper: float = CALIPER,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> OverlapControl:
    """Compare the AUC with the AUC over pairs whose overlap with the answer is about equal.

    Parameters
    ----------
    scored : DataFrame
        With a further column ``overlap`` (`kvcore.overlap.answer_overlap`, 0 to 1).
    caliper : float
        How many SD of the overlaps (ddof 1, over the pool) a pair may differ by, 0 or more.
    confidence : float
        Level of the intervals.
    seed, resamples : int
        Of the bootstrap, over queries.

    Notes
    -----
    The matched pairs are strata that move with the passage: the chance that a relevant passage
    outranks an irrelevant one that overlaps as much. Like the AUC, and unlike the regression
    beside it, this assumes no straight line and no monotone transform of the scores changes it.
    The caliper is taken as given: the intervals do not include the sampling error of the SD.
    Where no pair matches, the controlled AUC is NaN.
    """
    if not caliper >= 0:
        raise KvError(f"ranking: caliper={caliper}; pass 0 or more SD.")
    lists = _lists(scored, columns=("score", "overlap"))
    if not lists.queries:
        raise KvError("ranking: no query to control the overlap of; every score is NaN or none is.")
    score, overlap = lists.columns
    within = caliper * float(np.std(overlap, ddof=1))
    plain, matched = _auc_metric(lists, score), _auc_metric(lists, score, overlap, within)

    def interval(metric: Metric, unit: str, low: float) -> Estimate:
        return resampled(metric, lists.ids, unit=unit, bounds=(low, 1.0),
                         confidence=confidence, seed=seed, resamples=resamples)

    rest = _auc_metric(lists, _residual(lists, score, overlap))
    ones = np.ones(lists.queries)
    return OverlapControl(
        plain=interval(plain, "AUC", 0.0),
        controlled=interval(matched, "AUC", 0.0),
        change=interval(_minus(matched, plain), "AUC difference", -1.0),
        residual=float(rest(ones)),
        overlap=float(_auc_metric(lists, overlap)(ones)),
        pairs=int(lists.relevant.sum() * (~lists.relevant).sum()),
        matched=int(_pairs(lists, score, overlap, within)[1].sum()),
    )


def _residual(lists: _Lists, score: FloatArray, overlap: FloatArray) -> FloatArray:
    """Score minus slope x overlap; the slope is that within the groups, so relevance has none."""
    centred = pd.DataFrame({"x": overlap, "y": score})
    centred -= centred.groupby(lists.relevant).transform("mean")
    if float(np.ptp(centred["x"])) == 0:
        return score
    slope = float(sps.linregress(centred["x"], centred["y"]).slope)
    return np.asarray(score - slope * overlap)


# --- several scores into one -------------------------------------------------------------------


def best_of(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Give every passage its highest score over several conditions (best of several intents).

    Parameters
    ----------
    tables : mapping of str to DataFrame
        The same candidates under each condition's name.

    Returns
    -------
    DataFrame
        The first table with the new scores; ``condition`` names where each comes from, the
        earlier one of equals. Queries with a NaN in any table are left out.
    """
    frame, scores, names = _stacked(tables)
    best = scores.argmax(axis=0)
    return frame.assign(score=scores.max(axis=0), condition=names[best])


def route(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Rank each query by the condition that looks best for it, without seeing what is relevant.

    The rule: the condition with the highest mean score over the query's passages, the earlier
    one of equals. With PMI scores that is the largest mean PMI, with -NLL the smallest mean NLL;
    since PMI adds the same number to all of a query's conditions, both choose alike.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        The same candidates under each condition's name, all raw or all PMI.

    Returns
    -------
    DataFrame
        The first table with the chosen condition's scores; ``condition`` names it. Queries with a
        NaN in any table are left out.

    References
    ----------
    The per-query routing of the ranking study (AUC .828 over 200 queries).
    """
    frame, scores, names = _stacked(tables)
    queries = frame["query_id"].astype(str).to_numpy()
    means = pd.DataFrame(scores.T).groupby(queries).transform("mean").to_numpy()
    chosen = means.argmax(axis=1)
    return frame.assign(score=scores[chosen, np.arange(len(frame))], condition=names[chosen])


def two_stage(first: pd.DataFrame, second: pd.DataFrame, *, top: int = 3) -> pd.DataFrame:
    """Rank by the first score and re-rank the first few passages of each list by the second.

    Parameters
    ----------
    first, second : DataFrame
        The same candidates.
    top : int
        Passages per query that are re-ranked, 0 or more. A tie across this cut is left as the
        first score has it: re-ranked are the tied groups that fit within ``top`` whole.

    Returns
    -------
    DataFrame
        The first table with the rank from below within the query as score (ties share the mean
        rank): compare it by ``mrr``, ``hit`` or ``auc_per_query``, not by pooled numbers. Queries
        with a NaN in either table are left out.
    """
    if top < 0:
        raise KvError(f"two_stage: top={top}; pass 0 or more passages.")
    frame, scores, _ = _stacked({"first": first, "second": second})
    grouped = pd.DataFrame({"first": scores[0], "second": scores[1]}).groupby(
        frame["query_id"].astype(str).to_numpy())
    inside = (grouped["first"].rank(method="max", ascending=False) <= top).to_numpy()
    key = pd.DataFrame({
        "query": frame["query_id"].astype(str).to_numpy(), "inside": inside,
        "score": np.where(inside, scores[1], scores[0]),
    })
    rank = key.groupby(["query", "inside"])["score"].rank(method="average")
    outside = (~key["inside"]).groupby(key["query"]).transform("sum")
    return frame.assign(score=(rank + outside.where(key["inside"], 0)).to_numpy())


def _stacked(tables: Mapping[str, pd.DataFrame]) -> tuple[
    pd.DataFrame, FloatArray, NDArray[np.object_]
]:
    """The first table in sorted order, all scores (conditions, n) and the conditions' names."""
    if not tables:
        raise KvError("ranking: no table given; pass at least one condition's scores.")
    lists = _lists(*tables.values())
    first = next(iter(tables.values()))
    ordered = _checked(first, ("score",)).reset_index()
    kept = ordered[ordered["query_id"].isin(lists.ids)].reset_index(drop=True)
    return kept, lists.columns, np.array(list(tables), dtype=object)
