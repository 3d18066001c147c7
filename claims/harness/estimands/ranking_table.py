"""The ranking table: every condition by every target, each with intervals, and what it adds up to.

A table's cells are AUC and d of PMI and of -NLL, and MRR@10, which both share: within a list they
rank alike. Queries are resampled, all scores of a query together.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from claims.harness.estimands.base import Outcome, Plot, derived, estimand, with_bounds
from claims.harness.estimands.ranking import score_table
from claims.harness.rows import Rows
from kvcore.analysis import Estimate, IntervalSettings, ranking

METRICS = {"AUC": "auc", "d": "d"}
MRR = "MRR@10"


@dataclass(frozen=True)
class Scores:
    """The lists under one condition and target, scored by PMI and by -NLL."""

    condition: str
    target: str
    pmi: pd.DataFrame
    nll: pd.DataFrame


def scores_of(rows: Rows, without: Rows) -> Scores:
    """Score the lists under one condition, spelled ``condition@lists`` or with ``.target``."""
    condition, _, behind = rows.condition.rpartition("@")
    target = behind.partition(".")[2] or "answer"
    return Scores(condition, target, score_table(rows, without), score_table(rows))


both_scores = derived(scores_of)


@estimand("AUC difference")
def others_against_first(interval: IntervalSettings, *scores: Scores) -> Outcome:
    """Mean AUC of PMI under all conditions but the first, less that under the first."""
    others = len(scores) - 1
    weights = [-1.0, *[1 / others] * others]
    return _outcome(interval, scores, weights)


@estimand("AUC difference")
def answer_against_other_targets(interval: IntervalSettings, *scores: Scores) -> Outcome:
    """Mean AUC of PMI over conditions by the answer, less the mean by all other targets."""
    by_answer = [each.target == "answer" for each in scores]
    counts = {True: sum(by_answer), False: len(scores) - sum(by_answer)}
    weights = [(1 if own else -1) / counts[own] for own in by_answer]
    return _outcome(interval, scores, weights)


@estimand("d of groups")
def d_of_scores(interval: IntervalSettings, table: pd.DataFrame) -> Outcome:
    """How far relevant passages lie above others by a score, in SDs of the score."""
    mrr = ranking.value(table, "mrr")
    return Outcome(ranking.estimate(table, "d", interval), {"AUC": ranking.auc(table), MRR: mrr})


def _outcome(
    interval: IntervalSettings, scores: tuple[Scores, ...], weights: list[float]
) -> Outcome:
    estimate = ranking.contrast([each.pmi for each in scores], weights, interval=interval)
    cells = [(each, cells_of(each, interval.alone)) for each in scores]
    details: dict[str, float | str] = {}
    for each, estimates in cells:
        for name, cell in estimates.items():
            details |= with_bounds(f"{name}, {each.condition}, {each.target}", cell)
    return Outcome(estimate, details, _table(cells))


def cells_of(scores: Scores, interval: IntervalSettings) -> dict[str, Estimate]:
    """Return the numbers of one line of the table."""
    by_score = {
        f"{name} of {score}": ranking.estimate(table, metric, interval)
        for score, table in (("PMI", scores.pmi), ("-NLL", scores.nll))
        for name, metric in METRICS.items()
    }
    return {**by_score, MRR: ranking.estimate(scores.pmi, "mrr", interval)}


def _table(cells: list[tuple[Scores, dict[str, Estimate]]]) -> Plot:
    """Return a line for each condition and target, the highest AUC of PMI first by target."""
    order = sorted(cells, key=lambda line: (line[0].target, -line[1]["AUC of PMI"].value))
    return {
        "kind": "table",
        "columns": ["condition", "target", *cells[0][1]],
        "rows": [
            [each.condition, each.target, *map(_spelled, estimates.values())]
            for each, estimates in order
        ],
    }


def _spelled(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.ci_low:.3f}, {estimate.ci_high:.3f}]"
