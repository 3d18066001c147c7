"""Adaptation in one cell: the rows, and what claims make of them.

Every row holds one pair of problems by one way to switch; list columns hold one number per token
behind the switch.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from claims.estimands import Finding, Outcome, Plan, Vector
from claims.kinds import path_of
from claims.measured import Measured, Rows, check_gpu, stored_lists, with_lists
from claims.options import Settings
from kvcore import latency, loading, stats
from kvcore.data.context_pairs.load import load_pairs
from kvcore.latency import Latency
from kvcore.measurements import answer_nll_rows, context_switch_rows
from kvcore.measurements.context_switch_rows import ADAPTATION, FOLDER, SPANS
from kvcore.models.files import locate
from kvcore.store.fill import measure_missing
from kvcore.store.schema import KEY
from kvcore.store.shards import Store

SHOWN = 48  # tokens behind the switch in figures
CLASSES = {"injected": "the new context's choice alone", "original": "the old context's alone",
           "mixed": "the choice of both", "neither": "the choice of neither"}
COUNTED = "pairs"  # what has a row a condition


def measure(model: str, dataset: str, needs: Sequence[str], settings: Settings) -> Measured:
    """Return a cell's rows, measuring what the store lacks.

    Raises
    ------
    MissingResource
        If the model, the dataset or the GPU is not on this machine, or nothing is stored.
    """
    if settings.no_measure:
        return stored_lists(model, dataset, FOLDER, ADAPTATION, COUNTED, settings)
    return _filled(model, dataset, needs, settings)


def _filled(model: str, dataset: str, needs: Sequence[str], settings: Settings) -> Measured:
    check_gpu(model, settings)
    store = Store(settings.store / FOLDER, ADAPTATION)
    files = locate(model, settings.dtype)
    corpus = load_pairs(path_of(dataset), settings.limit, settings.seed)

    @functools.cache
    def load() -> Any:
        return loading.load(model, device=settings.device, dtype=settings.dtype)

    keys = context_switch_rows.rows(files, corpus.name, corpus.pairs, needs, settings.seed)
    measure_missing(store, keys, context_switch_rows.scorer(load, corpus.pairs, settings.batch_tokens),
         meta=lambda: answer_nll_rows.provenance(load()), progress=f"{model} on {dataset}",
         shard_samples=20)
    stored = store.read(model=model, dataset=corpus.name, seed=settings.seed)
    facts = {"pairs": len(corpus.pairs), "corpus": corpus.note,
             "corpus revision": corpus.revision, "left out of the corpus": dict(corpus.dropped)}
    rows = stored.merge(keys[list(KEY)], on=list(KEY))
    return with_lists(model, dataset, rows, files.revision, ADAPTATION, COUNTED, facts)


# --- numbers per pair ---------------------------------------------------------------------------


def changed(rows: Rows) -> Rows:
    """Return the rows of pairs whose two problems differ."""
    return _kept(rows, rows.frame["identical"] == 0)


def unchanged(rows: Rows) -> Rows:
    """Return the rows of pairs whose two problems are identical: a control."""
    return _kept(rows, rows.frame["identical"] == 1)


def _kept(rows: Rows, which: pd.Series[bool]) -> Rows:
    clusters = tuple(c for c, keep in zip(rows.clusters, which, strict=True) if keep)
    return replace(rows, frame=rows.frame[which], clusters=clusters)


def lists(rows: Rows, column: str) -> list[Vector]:
    """Return a list column, one array per pair."""
    return [np.asarray(x, dtype=np.float64) for x in rows.frame[column]]


def adaptations(rows: Rows) -> list[Latency]:
    """Return when each sequence comes and stays nearer to the oracle than to ignore."""
    return [latency.adaptation(a, b) for a, b in zip(
        lists(rows, "kl_oracle"), lists(rows, "kl_ignore"), strict=True)]


# --- what claims are about ----------------------------------------------------------------------


def detected_within(tokens: int, rows: Rows, control: Rows) -> Finding:
    """Share of pairs whose divergence from ignore exceeds the controls' within so many tokens.

    The threshold of a pair comes from control sequences of other folds.
    """
    def compute(plan: Plan) -> Outcome:
        names = [str(i) for i in control.frame.index]
        limits = dict(zip(names, latency.cross_fitted(names, lists(control, "kl_ignore")),
                          strict=True))
        middle = float(np.median(list(limits.values())))
        found = [latency.detection(x, limits.get(str(name), middle)) for name, x in zip(
            rows.frame.index, lists(rows, "kl_ignore"), strict=True)]
        within = sum(x.happened and x.tokens <= tokens for x in found)
        curve = latency.survival(found, plan.confidence)
        return Outcome(stats.proportion(within, len(found), plan.confidence),
                       {"median tokens to detection": curve.median,
                        "threshold (nats)": middle,
                        "never detected": str(sum(not x.happened for x in found))},
                       {"kind": "several", "figures": [
                           _survival({rows.condition: found}, plan), _example(rows)]})

    return Finding(f"detection within {tokens}", _names(rows, control), compute)


def share_that_adapts(rows: Rows, beside: Mapping[str, Rows] | None = None) -> Finding:
    """Share of sequences that come nearer to the oracle than to ignore, for five tokens."""
    def compute(plan: Plan) -> Outcome:
        found = adaptations(rows)
        curves = {rows.condition: found, **{
            name: adaptations(other) for name, other in (beside or {}).items()}}
        return Outcome(stats.proportion(sum(x.happened for x in found), len(found),
                                        plan.confidence),
                       {"median tokens to adaptation": latency.survival(found).median},
                       _survival(curves, plan))

    return Finding("share that adapts", _names(rows, *(beside or {}).values()), compute)


def gap_shrinks(rows: Rows, *shown: Rows) -> Finding:
    """d of the gap to the oracle in tokens 1 to 5 less that from token 21 on, pair by pair."""
    def compute(plan: Plan) -> Outcome:
        table = np.array([latency.gaps(x) for x in lists(rows, "kl_oracle")])
        names = [f"mean gap, tokens {low} to {high:g}" for low, high in latency.WINDOWS]
        means = {name: float(np.nanmean(column)) if np.isfinite(column).any() else float("nan")
                 for name, column in zip(names, table.T, strict=True)}
        still = latency.survival([latency.stabilisation(x) for x in lists(rows, "kl_oracle")])
        return Outcome(plan(stats.effect_size, table[:, 0] - table[:, 2], rows.clusters),
                       {**means, "median tokens to stabilisation": still.median},
                       _curves([rows, *shown], "kl_oracle", "KL to oracle, nats", plan))

    return Finding("gap to the oracle", _names(rows, *shown), compute)


def more_tokens_close_more(partials: Mapping[int, Rows]) -> Finding:
    """d of each pair's slope of the mean gap to the oracle over log2 of the tokens recomputed."""
    def compute(plan: Plan) -> Outcome:
        gaps = np.array([[float(np.mean(x)) for x in lists(rows, "kl_oracle")]
                         for rows in partials.values()])
        x = np.log2(list(partials))
        slopes = (x - x.mean()) @ gaps / np.square(x - x.mean()).sum()
        first = next(iter(partials.values()))
        means = {f"mean gap, {m} tokens": float(g.mean()) for m, g in zip(
            partials, gaps, strict=True)}
        return Outcome(plan(stats.effect_size, slopes, first.clusters), means,
                       _curves(list(partials.values()), "kl_oracle", "KL to oracle, nats", plan))

    return Finding("slope over tokens recomputed", _names(*partials.values()), compute)


def looks_more(rows: Rows, control: Rows) -> Finding:
    """d of the mean share of attention on the injected span, less that on the control's."""
    def compute(plan: Plan) -> Outcome:
        ours, theirs = (np.array([float(np.mean(x)) for x in lists(r, "share_injected")])
                        for r in (rows, control))
        by_layer = [_band(r.condition, np.array(lists(r, "layer_share_injected")), r, plan)
                    for r in (rows, control)]
        return Outcome(plan(stats.effect_size, ours - theirs, rows.clusters),
                       {"mean share": float(ours.mean()), "control's": float(theirs.mean())},
                       {"kind": "several", "figures": [_stack(rows), {
                           "kind": "layers", "x_label": "layer", "curves": by_layer,
                           "y_label": "attention on the injected span"}]})

    return Finding("attention on the injected span", _names(rows, control), compute)


def same_answers(first: Rows, second: Rows) -> Finding:
    """Share of right answers by the second way less that by the first, pair by pair."""
    def compute(plan: Plan) -> Outcome:
        a, b = (np.asarray(r.frame["correct"], dtype=np.float64) for r in (first, second))
        estimate = plan(stats.mean_difference, b - a, first.clusters)
        shares = {f"right answers, {r.condition}": float(x.mean()) for r, x in (
            (first, a), (second, b))}
        return Outcome(replace(estimate, unit="proportion difference"), shares)

    return Finding("same answers", _names(first, second), compute)


def becomes_the_new_answer(rows: Rows, ignore: Rows) -> Finding:
    """Share of pairs whose free answer is the new one less that without any switch."""
    def compute(plan: Plan) -> Outcome:
        a, b = (np.asarray(r.frame["correct"], dtype=np.float64) for r in (ignore, rows))
        estimate = plan(stats.mean_difference, b - a, rows.clusters)
        found = [latency.correction(x, list(names)) for x, names in zip(
            lists(rows, "towards_oracle"), rows.frame["attribution"], strict=True)]
        return Outcome(replace(estimate, unit="proportion difference"),
                       {"new answers": float(b.mean()), "new answers without a switch": float(
                           a.mean()), "old answers": float(rows.frame["stale"].mean()),
                        "median tokens to correction": latency.survival(found).median},
                       _survival({rows.condition: found}, plan))

    return Finding("new answers", _names(rows, ignore), compute)


# --- figures ------------------------------------------------------------------------------------


def _curves(rows: Sequence[Rows], column: str, label: str, plan: Plan) -> dict[str, Any]:
    return {"kind": "layers", "x_label": "tokens behind the switch", "y_label": label,
            "curves": [_band(r.condition, _padded(lists(r, column)), r, plan) for r in rows]}


def _band(label: str, values: Vector, rows: Rows, plan: Plan) -> dict[str, Any]:
    means = [stats.mean_difference(column, rows.clusters, confidence=plan.confidence,
                                   seed=plan.seed, resamples=1000) for column in values.T]
    return {"label": label, "x": list(range(1, len(means) + 1)), "y": [e.value for e in means],
            "low": [e.ci_low for e in means], "high": [e.ci_high for e in means]}


def _padded(values: Sequence[Vector]) -> Vector:
    """Return the first tokens of every sequence, NaN behind its end."""
    table = np.full((len(values), min(SHOWN, max(len(x) for x in values))), np.nan)
    for row, x in zip(table, values, strict=True):
        row[: len(x)] = x[: row.size]
    return table[:, (~np.isnan(table)).sum(axis=0) >= 2]


def _survival(latencies: Mapping[str, Sequence[Latency]], plan: Plan) -> dict[str, Any]:
    curves = []
    for label, found in latencies.items():
        made = latency.survival(found, plan.confidence)
        curves.append({"label": label, "x": [0.0, *made.tokens.tolist()],
                       "y": [1.0, *made.share.tolist()],
                       "low": [None, *_plain(made.low)], "high": [None, *_plain(made.high)]})
    return {"kind": "survival", "x_label": "tokens behind the switch", "curves": curves}


def _plain(x: Vector) -> list[float | None]:
    return [None if np.isnan(v) else float(v) for v in x]


def _stack(rows: Rows) -> dict[str, Any]:
    means = {span: np.nanmean(_padded(lists(rows, f"share_{span}")), axis=0) for span in SPANS}
    return {"kind": "stack", "x_label": "tokens behind the switch",
            "y_label": "share of attention",
            "parts": [{"label": span, "y": y.round(4).tolist()} for span, y in means.items()]}


def _example(rows: Rows) -> dict[str, Any]:
    row = rows.frame.sort_index().iloc[0]
    return {"kind": "tokens", "classes": CLASSES, "tokens": [
        {"text": str(text), "class": str(name)} for text, name in zip(
            row["tokens"], row["attribution"], strict=True)]}


def _names(*rows: Rows) -> tuple[str, ...]:
    return tuple(dict.fromkeys(r.condition for r in rows))
