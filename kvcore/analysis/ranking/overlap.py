"""Ranking with the overlap of passage and answer held constant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats as sps

from kvcore.analysis.estimate import Estimate
from kvcore.analysis.interval import DEFAULT_INTERVAL, IntervalSettings, resampled
from kvcore.analysis.ranking.estimates import minus
from kvcore.analysis.ranking.metrics import Metric, auc_metric, pair_counts
from kvcore.analysis.ranking.tables import RankedLists, ranked_lists
from kvcore.analysis.samples import FloatArray
from kvcore.errors import KvError

CALIPER = 0.2
"""Overlaps within this many SD count as alike (Austin 2011, Pharmaceutical Statistics 10)."""


@dataclass(frozen=True)
class OverlapControl:
    """What is left of a ranking where passages overlap with the answer alike."""

    plain: Estimate  # AUC pooled over queries
    # AUC over the pairs of a relevant and an irrelevant passage of about equal overlap.
    controlled: Estimate
    # controlled - plain, over the same queries: negative where overlap did the ranking.
    change: Estimate
    # AUC of the score after linear regression on overlap, the slope taken within the relevant
    # and the irrelevant passages, for comparison.
    residual: float
    overlap: float  # AUC of the overlap alone
    # All pairs, and those of about equal overlap.
    pairs: int
    matched: int


def control_overlap(
    scored: pd.DataFrame, interval: IntervalSettings = DEFAULT_INTERVAL, *, caliper: float = CALIPER
) -> OverlapControl:
    """Compare the AUC with the AUC over pairs whose overlap with the answer is about equal.

    Parameters
    ----------
    scored : DataFrame
        With a further column ``overlap`` (`answer_overlap`, 0 to 1).
    interval : IntervalSettings
        Level and method (over queries).
    caliper : float
        How many SD of the overlaps (ddof 1, over the pool) a pair may differ by, 0 or more.

    Notes
    -----
    The matched pairs are strata that move with the passage: the chance that a relevant passage
    outranks an irrelevant one that overlaps as much. Like the AUC, and unlike the regression
    beside it, this assumes no straight line and no monotone transform of the scores changes it.
    The caliper is taken as fixed: the intervals do not include the sampling error of the SD.
    Where no pair matches, the controlled AUC is NaN.
    """
    if not caliper >= 0:
        raise KvError(f"caliper must be 0 or more SD; got caliper={caliper}.")
    lists = ranked_lists(scored, columns=("score", "overlap"))
    if not lists.queries:
        raise KvError("scored must hold a query without NaN; got no query to compare overlaps of.")
    score, overlap = lists.columns
    within = caliper * float(np.std(overlap, ddof=1))
    plain, matched = auc_metric(lists, score), auc_metric(lists, score, overlap, within)

    def area(metric: Metric) -> Estimate:
        return resampled(metric, lists.ids, interval.alone, unit="AUC", bounds=(0.0, 1.0))

    rest = auc_metric(lists, residual_score(lists, score, overlap))
    ones = np.ones(lists.queries)
    return OverlapControl(
        plain=area(plain),
        controlled=area(matched),
        change=resampled(
            minus(matched, plain),
            lists.ids,
            interval,
            unit="AUC difference",
            bounds=(-1.0, 1.0),
        ),
        residual=float(rest(ones)),
        overlap=float(auc_metric(lists, overlap)(ones)),
        pairs=int(lists.relevant.sum() * (~lists.relevant).sum()),
        matched=int(pair_counts(lists, score, overlap, within)[1].sum()),
    )


def residual_score(lists: RankedLists, score: FloatArray, overlap: FloatArray) -> FloatArray:
    """Score minus slope x overlap; the slope is that within the groups, so relevance has none."""
    centred = pd.DataFrame({"x": overlap, "y": score})
    centred -= centred.groupby(lists.relevant).transform("mean")
    if float(np.ptp(centred["x"])) == 0:
        return score
    slope = float(sps.linregress(centred["x"], centred["y"]).slope)
    return np.asarray(score - slope * overlap)
