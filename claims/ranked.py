"""From rows of ranked lists to what a ranking claim is about.

A score is -NLL, or PMI where the NLL without any document is given too. Queries are resampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from claims.estimands import Finding, Outcome, Plan
from claims.measured import Rows
from kvcore import ranking, stats
from kvcore.data.overlap import answer_overlap

POINTS = 200  # of a ROC curve in the report


def scored(rows: Rows, without: Rows | None = None, **beside: Sequence[float]) -> pd.DataFrame:
    """Return a table to rank by: -NLL, or PMI with the rows of ``bos_only``.

    The id of a list's sample is ``query#passage``, and the relevant passage goes by the query's
    own id. A list stored without its relevant passage, or with nothing but it, ranks nothing and
    is left out. What stands `beside` the rows becomes further columns.
    """
    score = ranking.raw(rows.values) if without is None else ranking.pmi(
        without.values, rows.values)
    queries = list(rows.clusters)
    passages = [sample[len(query) + 1:] for sample, query in zip(
        rows.frame.index, queries, strict=True)]
    table = pd.DataFrame({
        "query_id": queries, "passage_id": passages, "score": score,
        "relevant": [query == passage for query, passage in zip(queries, passages, strict=True)],
        **beside})
    stored = table.groupby("query_id")["relevant"].transform("nunique") == 2
    return table[stored].reset_index(drop=True)


def auc(rows: Rows, without: Rows | None = None) -> Finding:
    """AUC pooled over queries, with MRR@10, Hit@1, Hit@10 and the AUC per query beside it."""
    def compute(plan: Plan) -> Outcome:
        table = scored(rows, without)
        beside = {f"{name}": ranking.value(table, metric, k=k) for name, metric, k in (
            ("AUC per query", "auc_per_query", 10), ("MRR@10", "mrr", 10), ("Hit@1", "hit", 1),
            ("Hit@10", "hit", 10), ("d relevant against not", "d", 10))}
        return Outcome(plan(ranking.estimate, table), beside, _roc({rows.condition: table}))

    return Finding("AUC" if without is None else "AUC of PMI", _names(rows, without), compute)


def auc_change(first: pd.DataFrame, second: pd.DataFrame, kind: str, *rows: Rows) -> Finding:
    """AUC of the second score less that of the first, on the same lists."""
    def compute(plan: Plan) -> Outcome:
        tables = {"baseline": first, "condition": second}
        beside = {f"AUC, {name}": ranking.value(t) for name, t in tables.items()}
        per_query = plan(ranking.difference, second, first, "auc_per_query")
        beside |= {"per query": per_query.value, "per query, CI low": per_query.ci_low,
                   "per query, CI high": per_query.ci_high}
        return Outcome(plan(ranking.difference, second, first), beside, {
            "kind": "several", "figures": [_roc(tables), _wins(second, first)]})

    return Finding(f"change of AUC, {kind}", _names(*rows), compute)


def mrr_change(first: pd.DataFrame, second: pd.DataFrame, kind: str, *rows: Rows) -> Finding:
    """MRR@10 of the second score less that of the first, with per-query wins and losses."""
    def compute(plan: Plan) -> Outcome:
        beside = {f"MRR@10, {name}": ranking.value(table, "mrr") for name, table in (
            ("baseline", first), ("condition", second))}
        return Outcome(plan(ranking.difference, second, first, "mrr"), beside,
                       _wins(second, first))

    return Finding(f"change of MRR, {kind}", _names(*rows), compute)


def auc_over(scores: Mapping[float, pd.DataFrame], *rows: Rows) -> Finding:
    """Slope of the AUC over a number that the condition hangs on."""
    def compute(plan: Plan) -> Outcome:
        curve = [plan(ranking.estimate, table) for table in scores.values()]
        return Outcome(plan(ranking.trend, scores),
                       {f"AUC at {x:g}": e.value for x, e in zip(scores, curve, strict=True)},
                       {"kind": "curve", "x": list(scores), "d": [e.value for e in curve],
                        "low": [e.ci_low for e in curve], "high": [e.ci_high for e in curve],
                        "x_label": "share of the query's mean value", "y_label": "AUC",
                        "log": False})

    return Finding("slope of AUC", _names(*rows), compute)


def relevant_against_not(baseline: Rows, condition: Rows) -> Finding:
    """How much more a condition helps relevant than irrelevant passages, in SDs of the benefit."""
    def compute(plan: Plan) -> Outcome:
        first, second = scored(baseline), scored(condition)
        gap = plan(ranking.benefit_gap, first, second)
        benefit = second["score"] - first["score"]
        means = {f"mean benefit, {name} (nats/token)": float(np.nanmean(benefit[which]))
                 for name, which in (("relevant", first["relevant"]),
                                     ("not relevant", ~first["relevant"]))}
        estimate = ranking.benefit_gap(first, second, standardized=True,
                                       confidence=plan.confidence, seed=plan.seed)
        return Outcome(estimate, {**means, "difference (nats/token)": gap.value,
                                  "difference, CI low": gap.ci_low,
                                  "difference, CI high": gap.ci_high})

    return Finding("benefit of relevant passages", _names(baseline, condition), compute)


def auc_at_equal_overlap(rows: Rows, without: Rows) -> Finding:
    """Change of the AUC where passages overlap with the answer alike."""
    def compute(plan: Plan) -> Outcome:
        overlap = [answer_overlap(sample) for sample in rows.texts()]
        found = plan(ranking.control_overlap, scored(rows, without, overlap=overlap))
        return Outcome(found.change, {
            "AUC": found.plain.value, "AUC at equal overlap": found.controlled.value,
            "AUC at equal overlap, CI low": found.controlled.ci_low,
            "AUC at equal overlap, CI high": found.controlled.ci_high,
            "AUC with overlap regressed out": found.residual, "AUC of overlap alone": found.overlap,
            "pairs of equal overlap": f"{found.matched} of {found.pairs}"})

    return Finding("change of AUC at equal overlap", _names(rows, without), compute)


def overlap_trend(baseline: Rows, condition: Rows) -> Finding:
    """Correlation of benefit with the overlap of passage and query, as sets of words."""
    def compute(plan: Plan) -> Outcome:
        from kvcore.data.overlap import jaccard

        overlap = np.array([jaccard(s.passage, s.query) for s in baseline.texts()])
        benefit = baseline.values - condition.values
        estimate = plan(stats.correlation, overlap, benefit, baseline.clusters)
        with_answer = np.array([answer_overlap(s) for s in baseline.texts()])
        beside = plan(stats.correlation, with_answer, benefit, baseline.clusters)
        both = ~np.isnan(benefit)
        return Outcome(estimate, {
            "r with the overlap of passage and answer": beside.value,
            "r with passage and answer, CI low": beside.ci_low,
            "r with passage and answer, CI high": beside.ci_high}, {
            "kind": "scatter", "x": overlap[both].round(4).tolist(),
            "y": benefit[both].round(4).tolist(), "y_label": "benefit, nats/token",
            "x_label": "Jaccard overlap of passage and query"})

    return Finding("trend with word overlap", _names(baseline, condition), compute)


def _names(*rows: Rows | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(r.condition for r in rows if r is not None))


def _roc(tables: Mapping[str, pd.DataFrame]) -> dict[str, object]:
    curves = []
    for label, table in tables.items():
        x, y = ranking.roc(table)
        kept = np.unique(np.linspace(0, x.size - 1, min(POINTS, x.size)).round().astype(int))
        curves.append({"label": label, "fpr": x[kept].round(4).tolist(),
                       "tpr": y[kept].round(4).tolist(), "auc": ranking.auc(table)})
    return {"kind": "roc", "curves": curves}


def _wins(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, object]:
    counts = ranking.compare(first, second)
    a, b = (ranking.per_query(table)["reciprocal_rank"] for table in (first, second))
    return {"kind": "wins", "label": "reciprocal rank at 10, condition less baseline",
            "differences": (a - b).round(4).tolist(), "wins": counts.wins, "ties": counts.ties,
            "losses": counts.losses}
