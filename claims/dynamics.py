"""Prefill dynamics in one cell: the rows, and what claims make of them.

Every row holds one text by one source; a list column holds one number per layer.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats as sps

from claims.estimands import Finding, Outcome, Plan, Vector
from claims.kinds import path_of
from claims.measured import Measured, Rows, check_gpu, stored_lists, with_lists
from claims.options import Settings
from kvcore import loading, stats
from kvcore.data.texts import load_texts
from kvcore.measurements import answer_nll_rows, hidden_states_rows
from kvcore.measurements.hidden_states_rows import DYNAMICS, FOLDER
from kvcore.models.files import locate
from kvcore.store.fill import measure_missing
from kvcore.store.schema import KEY
from kvcore.store.shards import Store

BAND_RESAMPLES = 1000  # of the bands in figures, which nothing is judged by
LAST, FIRST_PART = -1, 0.8  # of the depth: where the published gap grew
COLUMNS = {"step": "smoothness", "relative-step": "relative_step", "cosine": "cosine"}
LABELS = {"step": "mean step", "relative-step": "mean step / norm",
          "cosine": "cosine between successive steps"}
COUNTED = "texts"  # what has a row a condition


def measure(model: str, dataset: str, needs: Sequence[str], settings: Settings) -> Measured:
    """Return a cell's rows, measuring what the store lacks.

    Raises
    ------
    MissingResource
        If the model, the dataset or the GPU is not on this machine, or nothing is stored.
    """
    if settings.no_measure:
        return stored_lists(model, dataset, FOLDER, DYNAMICS, COUNTED, settings)
    return _filled(model, dataset, needs, settings)


def _filled(model: str, dataset: str, needs: Sequence[str], settings: Settings) -> Measured:
    check_gpu(model, settings)
    store = Store(settings.store / FOLDER, DYNAMICS)
    files = locate(model, settings.dtype)
    corpus = load_texts(path_of(dataset))
    texts = corpus.texts[: settings.limit]

    @functools.cache
    def load() -> Any:
        return loading.load(model, device=settings.device, dtype=settings.dtype)

    keys = hidden_states_rows.rows(files, corpus.name, texts, needs, settings.seed)
    measure_missing(store, keys, hidden_states_rows.scorer(load, texts, settings.store, settings.batch_tokens),
         meta=lambda: answer_nll_rows.provenance(load()), progress=f"{model} on {dataset}")
    stored = store.read(model=model, dataset=corpus.name, seed=settings.seed)
    facts = {"texts available": len(corpus.texts), "corpus": corpus.note,
             "corpus revision": corpus.revision, "left out of the corpus": dict(corpus.dropped)}
    rows = stored.merge(keys[list(KEY)], on=list(KEY))
    return with_lists(model, dataset, rows, files.revision, DYNAMICS, COUNTED, facts)


# --- numbers per text ---------------------------------------------------------------------------


def per_layer(rows: Rows, metric: str) -> Vector:
    """Return a metric of every text in every layer, (texts, layers), NaN where not measured."""
    listed = rows.frame[COLUMNS[metric]]
    depth = max(len(x) for x in listed if np.ndim(x))
    return np.array([np.asarray(x, dtype=np.float64) if np.ndim(x) else np.full(depth, np.nan)
                     for x in listed])


def over_layers(rows: Rows, metric: str) -> Rows:
    """Return rows whose score is a metric's mean over all layers."""
    return _scored(rows, per_layer(rows, metric).mean(axis=1))


def last_layer(rows: Rows, metric: str) -> Rows:
    """Return rows whose score is a metric in the last layer."""
    return _scored(rows, per_layer(rows, metric)[:, LAST])


def _scored(rows: Rows, values: Vector) -> Rows:
    return replace(rows, metric="_score", frame=rows.frame.assign(_score=values))


# --- what claims are about ----------------------------------------------------------------------


def smoother(first: Rows, second: Rows, metric: str) -> Finding:
    """d of how much larger the first source's mean over layers is, text by text."""
    def compute(plan: Plan) -> Outcome:
        a, b = over_layers(first, metric), over_layers(second, metric)
        effect = plan(stats.paired_effect, a.values, b.values, a.clusters)
        beside = {f"{r.condition}, mean": float(np.nanmean(r.values)) for r in (a, b)}
        return Outcome(effect.d, {**beside, "mean difference": effect.mean.value,
                                  "mean difference, CI low": effect.mean.ci_low,
                                  "mean difference, CI high": effect.mean.ci_high,
                                  "win rate": effect.win_rate.value},
                       _layers((first, second), metric, plan))

    return Finding(f"{metric} over layers", (first.condition, second.condition), compute)


def gap_at_the_end(first: Rows, second: Rows, metric: str) -> Finding:
    """d of how much larger the first source's metric is in the last layer, text by text."""
    def compute(plan: Plan) -> Outcome:
        a, b = last_layer(first, metric), last_layer(second, metric)
        effect = plan(stats.paired_effect, a.values, b.values, a.clusters)
        return Outcome(effect.d, {"mean difference": effect.mean.value},
                       _gap(first, second, metric, plan))

    return Finding(f"{metric} in the last layer", (first.condition, second.condition), compute)


def gap_over_depth(first: Rows, second: Rows, metric: str) -> Finding:
    """d of each text's slope of the gap over the first four fifths of the depth."""
    def compute(plan: Plan) -> Outcome:
        gap = per_layer(first, metric) - per_layer(second, metric)
        x = np.arange(max(2, round(FIRST_PART * gap.shape[1])), dtype=np.float64)
        slopes = gap[:, : x.size] @ (x - x.mean()) / np.square(x - x.mean()).sum()
        return Outcome(plan(stats.effect_size, slopes, first.clusters),
                       {"mean slope per layer": float(np.nanmean(slopes))},
                       _gap(first, second, metric, plan))

    return Finding(f"{metric} over depth", (first.condition, second.condition), compute)


def surprise_and_steps(metric: str, *sources: Rows) -> Finding:
    """Correlation of a text's cross-entropy with its metric; texts are resampled.

    With two sources each text counts twice, and is resampled as one.
    """
    def compute(plan: Plan) -> Outcome:
        ce = np.concatenate([np.asarray(r.frame["ce"], dtype=np.float64) for r in sources])
        steps = np.concatenate([over_layers(r, metric).values for r in sources])
        clusters = [c for r in sources for c in r.clusters]
        return Outcome(plan(stats.correlation, ce, steps, clusters), {},
                       _scatter(ce, steps, "cross-entropy, nats/token", LABELS[metric]))

    names = tuple(r.condition for r in sources)
    return Finding(f"CE with {metric}, {' and '.join(names)}", names, compute)


def differences_of_surprise_and_steps(metric: str, first: Rows, second: Rows) -> Finding:
    """Correlation of the differences in cross-entropy with those in the metric, text by text."""
    def compute(plan: Plan) -> Outcome:
        ce = np.asarray(first.frame["ce"] - second.frame["ce"], dtype=np.float64)
        steps = over_layers(first, metric).values - over_layers(second, metric).values
        return Outcome(plan(stats.correlation, ce, steps, first.clusters), {},
                       _scatter(ce, steps, "difference of cross-entropy, nats/token",
                                f"difference of {LABELS[metric]}"))

    return Finding(f"differences of CE and {metric}", (first.condition, second.condition), compute)


def steps_and_token_nlls(rows: Rows) -> Finding:
    """Mean over texts of the rank correlation of a token's NLL with the step that arrives there.

    With a table of steps by kind of token and by position, and the trace of one text.
    """
    def compute(plan: Plan) -> Outcome:
        measured = rows.frame[rows.frame["status"].notna()]
        found = {str(name): float(sps.spearmanr(row["token_nlls"][1:], row["token_steps"][1:])[0])
                 for name, row in measured.iterrows()}
        values = np.array([found.get(str(name), np.nan) for name in rows.frame.index])
        return Outcome(plan(stats.effect_size, values, rows.clusters),
                       {"mean rank correlation": float(np.nanmean(values))},
                       {"kind": "several", "figures": [_by_kind(measured), _trace(measured)]})

    return Finding("steps and token NLLs", (rows.condition,), compute)


# --- figures ------------------------------------------------------------------------------------


def _layers(sources: Sequence[Rows], metric: str, plan: Plan) -> dict[str, Any]:
    curves = [_band(r.condition, per_layer(r, metric), r.clusters, plan) for r in sources]
    return {"kind": "layers", "x_label": "layer", "y_label": LABELS[metric], "curves": curves}


def _gap(first: Rows, second: Rows, metric: str, plan: Plan) -> dict[str, Any]:
    gap = per_layer(first, metric) - per_layer(second, metric)
    label = f"{first.condition} less {second.condition}"
    return {"kind": "layers", "x_label": "layer", "y_label": f"difference of {LABELS[metric]}",
            "curves": [_band(label, gap, first.clusters, plan)]}


def _band(label: str, values: Vector, clusters: Sequence[str], plan: Plan) -> dict[str, Any]:
    means = [stats.mean_difference(column, clusters, confidence=plan.confidence, seed=plan.seed,
                                   resamples=BAND_RESAMPLES) for column in values.T]
    return {"label": label, "x": list(range(len(means))), "y": [e.value for e in means],
            "low": [e.ci_low for e in means], "high": [e.ci_high for e in means]}


def _scatter(x: Vector, y: Vector, x_label: str, y_label: str) -> dict[str, Any]:
    both = ~(np.isnan(x) | np.isnan(y))
    return {"kind": "scatter", "x": x[both].round(4).tolist(), "y": y[both].round(4).tolist(),
            "x_label": x_label, "y_label": y_label}


def _by_kind(measured: pd.DataFrame) -> dict[str, Any]:
    """Return a table of the steps by what kind of token they arrive at, and by position."""
    groups: dict[str, list[float]] = defaultdict(list)
    largest: dict[str, int] = defaultdict(int)
    for row in measured.to_dict("records"):
        steps = np.asarray(row["token_steps"], dtype=np.float64)
        relative = steps / np.nanmean(steps)
        top = set(np.argsort(np.nan_to_num(steps))[-3:].tolist())
        for place, (kind, step) in enumerate(zip(row["token_kinds"], relative, strict=True)):
            where = ("token 1 to 9" if place < 10 else "token 10 to 39" if place < 40
                     else "token 40 on")
            for group in (str(kind), where):
                if not np.isnan(step):
                    groups[group].append(float(step))
                    largest[group] += place in top
    return {"kind": "table",
            "columns": ["step arrives at", "steps", "mean step / text's mean",
                        "among its text's three largest"],
            "rows": [[name, f"{len(steps):,}", f"{np.mean(steps):.3f}",
                      f"{largest[name] / len(steps):.1%}"]
                     for name, steps in sorted(groups.items(), key=lambda item: -len(item[1]))]}


def _trace(measured: pd.DataFrame) -> dict[str, Any]:
    """Return the steps of the first text, with its tokens."""
    row = measured.sort_index().iloc[0]
    return {"kind": "trace", "tokens": list(row["tokens"])[1:], "y_label": "step",
            "y": [round(float(x), 3) for x in list(row["token_steps"])[1:]]}
