"""Shares of trials that succeed, with exact intervals; trials may come in clusters."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats as sps

from kvcore.analysis.estimate import Estimate
from kvcore.analysis.interval import check_confidence
from kvcore.analysis.samples import Clusters, CompleteRows, complete_rows
from kvcore.errors import KvError


def proportion(successes: int, n: int, confidence: float = 0.95) -> Estimate:
    """Share of successes among independent trials, with the exact Clopper-Pearson interval."""
    check_confidence(confidence)
    if not 0 <= successes <= n:
        raise KvError(f"successes must be from 0 to n; got successes={successes} of n={n}.")
    if n == 0:
        return Estimate(math.nan, 0.0, 1.0, confidence, "none: no trials", 0, 0, "proportion")
    interval = sps.binomtest(int(successes), int(n)).proportion_ci(confidence, method="exact")
    low, high = float(interval.low), float(interval.high)
    method = "Clopper-Pearson"
    return Estimate(successes / n, low, high, confidence, method, int(n), int(n), "proportion")


def clustered_proportion(
    outcomes: ArrayLike, clusters: Clusters, *, confidence: float = 0.95
) -> Estimate:
    """Share of true outcomes where trials of one cluster go together.

    Clopper-Pearson at the effective number of trials (Korn and Graubard 1998, Survey Methodology
    24): the variance between clusters says how many independent trials the data are worth. Plain
    Clopper-Pearson with one trial per cluster. Outcomes are 0, 1 or bool, (n,); NaN is excluded.
    """
    rows = complete_rows(clusters, outcomes=outcomes)
    if not np.isin(rows.columns[0], (0, 1)).all():
        raise KvError("outcomes must be 0 or 1 (or bool); got other numbers, threshold them first.")
    plain = proportion(int(rows.columns[0].sum()), rows.n, confidence)
    if rows.clusters == rows.n:
        return plain
    n = _effective_trials(rows, plain.value, confidence)
    tail, wins = (1 - confidence) / 2, plain.value * n
    low = 0.0 if plain.value == 0 else float(sps.beta.ppf(tail, wins, n - wins + 1))
    high = 1.0 if plain.value == 1 else float(sps.beta.ppf(1 - tail, wins + 1, n - wins))
    method = f"Clopper-Pearson at {n:.1f} effective trials, {rows.clusters} clusters"
    return Estimate(plain.value, low, high, confidence, method, rows.n, rows.clusters, "proportion")


def _effective_trials(rows: CompleteRows, p: float, confidence: float) -> float:
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
