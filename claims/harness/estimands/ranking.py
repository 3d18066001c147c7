"""Ranked lists: what a passage's score says about whether it answers the query.

A score is -NLL, or PMI where the NLL without any document is passed too. Queries are resampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from claims.harness.estimands.base import (
    Outcome,
    Plot,
    curve_plot,
    derived,
    estimand,
    scatter_plot,
    with_bounds,
)
from claims.harness.rows import Rows
from kvcore.analysis import IntervalSettings, correlation, ranking
from kvcore.data.overlap import answer_overlap, jaccard
from kvcore.data.ranking_lists import answers

POINTS = 200  # of a ROC curve in the report
SECONDARY = {
    "AUC per query": ("auc_per_query", 10),
    "MRR@10": ("mrr", 10),
    "Hit@1": ("hit", 1),
    "Hit@10": ("hit", 10),
    "d relevant against not": ("d", 10),
}


def score_table(rows: Rows, without: Rows | None = None, **beside: Sequence[float]) -> pd.DataFrame:
    """Return a table to rank by: -NLL, or PMI with the rows of ``bos_only``.

    The id of a list's sample is ``query#passage``; which passages are relevant is told by their
    ids (`kvcore.data.ranking_lists.answers`). A list stored without any of them, or with nothing
    else, ranks nothing and is left out. What stands `beside` the rows becomes further columns.
    """
    score = (
        ranking.raw(rows.values) if without is None else ranking.pmi(without.values, rows.values)
    )
    queries = list(rows.clusters)
    passages = [
        sample[len(query) + 1 :] for sample, query in zip(rows.frame.index, queries, strict=True)
    ]
    relevant = [answers(query, passage) for query, passage in zip(queries, passages, strict=True)]
    columns = {"query_id": queries, "passage_id": passages, "score": score, "relevant": relevant}
    table = pd.DataFrame({**columns, **beside})
    complete = table.groupby("query_id")["relevant"].transform("nunique") == 2
    return table[complete].reset_index(drop=True)


def benefit_table(baseline: Rows, condition: Rows) -> pd.DataFrame:
    """Return a table to rank by the benefit of a condition over a baseline."""
    first, second = score_table(baseline), score_table(condition)
    return second.assign(score=second["score"] - first["score"])


scored = derived(score_table)
benefit_scored = derived(benefit_table)
best_of = derived(ranking.best_of)  # each passage's best score
routed = derived(ranking.route)  # for each query the score that looks best for it


@estimand("AUC")
def auc(interval: IntervalSettings, rows: Rows, without: Rows | None = None) -> Outcome:
    """AUC pooled over queries, with MRR@10, Hit@1, Hit@10 and the AUC per query beside it."""
    table = score_table(rows, without)
    details = {name: ranking.value(table, metric, k=k) for name, (metric, k) in SECONDARY.items()}
    plot = _roc_plot({rows.condition: table})
    return Outcome(ranking.estimate(table, interval=interval), details, plot)


@estimand("AUC")
def auc_of_table(interval: IntervalSettings, table: pd.DataFrame) -> Outcome:
    """AUC of a table of scores pooled over queries, with MRR@10 and others beside it."""
    details = {name: ranking.value(table, metric, k=k) for name, (metric, k) in SECONDARY.items()}
    return Outcome(ranking.estimate(table, interval=interval), details, _roc_plot({"score": table}))


@estimand("AUC difference")
def auc_change(interval: IntervalSettings, first: pd.DataFrame, second: pd.DataFrame) -> Outcome:
    """AUC of the second score less that of the first, on the same lists."""
    tables = {"baseline": first, "condition": second}
    per_query = ranking.difference(second, first, "auc_per_query", interval.alone)
    return Outcome(
        ranking.difference(second, first, interval=interval),
        {f"AUC, {name}": ranking.value(table) for name, table in tables.items()}
        | with_bounds("per query", per_query),
        {"kind": "several", "figures": [_roc_plot(tables), _wins_plot(second, first)]},
    )


@estimand("MRR difference")
def mrr_change(interval: IntervalSettings, first: pd.DataFrame, second: pd.DataFrame) -> Outcome:
    """MRR@10 of the second score less that of the first, with per-query wins and losses."""
    return _mrr_change(interval, first, second)


@estimand("MRR difference")
def mrr_change_by_re_ranking(
    interval: IntervalSettings, baseline: Rows, condition: Rows, without: Rows
) -> Outcome:
    """MRR@10 with the first three passages ranked anew by a condition, less that without."""
    first, second = score_table(baseline, without), score_table(condition, without)
    return _mrr_change(interval, first, ranking.two_stage(first, second))


@estimand("AUC slope")
def auc_over(
    interval: IntervalSettings, conditions: Mapping[float, Rows], without: Rows
) -> Outcome:
    """Slope of the AUC of PMI over a number that the condition hangs on."""
    scores = {x: score_table(rows, without) for x, rows in conditions.items()}
    curve = [ranking.estimate(table, interval=interval.alone) for table in scores.values()]
    label = "share of the query's mean value"
    return Outcome(
        ranking.trend(scores, interval=interval),
        {f"AUC at {x:g}": e.value for x, e in zip(scores, curve, strict=True)},
        curve_plot(list(scores), curve, label, y_label="AUC"),
    )


@estimand("d of groups")
def relevant_against_not(interval: IntervalSettings, baseline: Rows, condition: Rows) -> Outcome:
    """How much more a condition helps relevant than irrelevant passages, in SDs of the benefit."""
    first, second = score_table(baseline), score_table(condition)
    gap = ranking.benefit_gap(first, second, interval.alone)
    benefit, relevant = second["score"] - first["score"], first["relevant"]
    details: dict[str, float | str] = {
        f"mean benefit, {name} (nats/token)": float(np.nanmean(benefit[which]))
        for name, which in (("relevant", relevant), ("not relevant", ~relevant))
    }
    details |= with_bounds("difference (nats/token)", gap, "difference")
    return Outcome(ranking.benefit_gap(first, second, interval, standardized=True), details)


@estimand("AUC difference")
def auc_at_equal_overlap(interval: IntervalSettings, rows: Rows, without: Rows) -> Outcome:
    """Change of the AUC where passages overlap with the answer alike."""
    overlap = [answer_overlap(sample) for sample in rows.texts()]
    control = ranking.control_overlap(score_table(rows, without, overlap=overlap), interval)
    details = {
        "AUC": control.plain.value,
        **with_bounds("AUC at equal overlap", control.controlled),
        "AUC with overlap regressed out": control.residual,
        "AUC of overlap alone": control.overlap,
        "pairs of equal overlap": f"{control.matched} of {control.pairs}",
    }
    return Outcome(control.change, details)


@estimand("r")
def overlap_trend(interval: IntervalSettings, baseline: Rows, condition: Rows) -> Outcome:
    """Correlation of benefit with the overlap of passage and query, as sets of words."""
    samples, benefit = baseline.texts(), baseline.values - condition.values
    with_query = np.array([jaccard(s.passage, s.query) for s in samples])
    with_answer = np.array([answer_overlap(s) for s in samples])
    clusters = baseline.clusters
    answer = correlation(with_answer, benefit, clusters, interval.alone)
    name, short = "r with the overlap of passage and answer", "r with passage and answer"
    label = "Jaccard overlap of passage and query"
    return Outcome(
        correlation(with_query, benefit, clusters, interval),
        with_bounds(name, answer, short),
        scatter_plot(with_query, benefit, label, "benefit, nats/token"),
    )


def _mrr_change(interval: IntervalSettings, first: pd.DataFrame, second: pd.DataFrame) -> Outcome:
    tables = {"baseline": first, "condition": second}
    details = {f"MRR@10, {name}": ranking.value(t, "mrr") for name, t in tables.items()}
    estimate = ranking.difference(second, first, "mrr", interval)
    return Outcome(estimate, details, _wins_plot(second, first))


def _roc_plot(tables: Mapping[str, pd.DataFrame]) -> Plot:
    curves = []
    for label, table in tables.items():
        x, y = ranking.roc(table)
        points = np.linspace(0, x.size - 1, min(POINTS, x.size)).round().astype(int)
        shown = np.unique(points)
        rates = {"fpr": x[shown].round(4).tolist(), "tpr": y[shown].round(4).tolist()}
        curves.append({"label": label, **rates, "auc": ranking.auc(table)})
    return {"kind": "roc", "curves": curves}


def _wins_plot(first: pd.DataFrame, second: pd.DataFrame) -> Plot:
    counts = ranking.compare(first, second)
    a, b = (ranking.per_query(table)["reciprocal_rank"] for table in (first, second))
    return {
        "kind": "wins",
        "label": "reciprocal rank at 10, condition less baseline",
        "differences": (a - b).round(4).tolist(),
        "wins": counts.wins,
        "ties": counts.ties,
        "losses": counts.losses,
    }
