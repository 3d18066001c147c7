"""Divergence in one cell: the rows, and what claims make of them.

Every row holds one sample and one pair of conditions, ``bare~random``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from claims.estimands import Finding, Outcome, Plan, Vector
from claims.measured import Measured, Rows, check_gpu, stored_lists, with_lists
from claims.options import Settings
from kvcore import loading, stats
from kvcore.data.datasets import load_corpus
from kvcore.data.sample import choose_samples
from kvcore.errors import KvError
from kvcore.measurements import answer_nll_rows, divergence_rows
from kvcore.measurements.divergence_rows import DIVERGENCE, FOLDER
from kvcore.models.files import locate
from kvcore.store.fill import measure_missing
from kvcore.store.schema import KEY
from kvcore.store.shards import Store

SIZES = (4, 8, 16, 32, 64, 128, 256)
SMALL, LARGE = 4, 32  # the published comparison of widths
DRAWS = 40
COUNTED = "samples"  # what has a row a condition


def measure(model: str, dataset: str, needs: Sequence[str], settings: Settings) -> Measured:
    """Return a cell's rows, measuring what the store lacks.

    Raises
    ------
    MissingResource
        If the model, the dataset or the GPU is not on this machine, or nothing is stored.
    """
    if settings.no_measure:
        return stored_lists(model, dataset, FOLDER, DIVERGENCE, COUNTED, settings)
    return _filled(model, dataset, needs, settings)


def _filled(model: str, dataset: str, needs: Sequence[str], settings: Settings) -> Measured:
    check_gpu(model, settings)
    store = Store(settings.store / FOLDER, DIVERGENCE)
    files = locate(model, settings.dtype)
    corpus = load_corpus(dataset)
    samples = choose_samples(corpus.samples, settings.limit, settings.seed)

    @functools.cache
    def load() -> Any:
        return loading.load(model, device=settings.device, dtype=settings.dtype)

    keys = divergence_rows.rows(files, Path(corpus.name).stem, samples, needs, settings.seed)
    measure_missing(store, keys, divergence_rows.scorer(load, samples, settings.batch_tokens),
         meta=lambda: answer_nll_rows.provenance(load()), progress=f"{model} on {dataset}")
    stored = store.read(model=model, dataset=Path(corpus.name).stem, seed=settings.seed)
    facts = {"samples available": len(corpus.samples), "corpus": corpus.note,
             "corpus revision": corpus.revision, "clusters are": corpus.cluster_unit}
    rows = stored.merge(keys[list(KEY)], on=list(KEY))
    return with_lists(model, dataset, rows, files.revision, DIVERGENCE, COUNTED, facts)


# --- what claims are about ----------------------------------------------------------------------


def beyond_the_null(moved: Rows, *nulls: Rows) -> Finding:
    """Mean divergence less that of the larger null, in nats, and its multiple of each null."""
    def compute(plan: Plan) -> Outcome:
        null = np.maximum.reduce([rows.values for rows in nulls])
        estimate = plan(stats.mean_difference, moved.values - null, moved.clusters)
        beside: dict[str, float | str] = {"mean divergence (nats)": float(
            np.nanmean(moved.values))}
        for rows in nulls:
            times = plan(stats.ratio_of_means, moved.values, rows.values, moved.clusters)
            beside |= {f"mean of {rows.condition} (nats)": float(np.nanmean(rows.values)),
                       f"times {rows.condition}": times.value}
        return Outcome(estimate, beside, _differences(moved.values - null))

    return Finding("divergence beyond the null", _names(moved, *nulls), compute)


def difference_of_divergence(first: Rows, second: Rows) -> Finding:
    """Mean of the second pair's divergence less the first's, in nats."""
    def compute(plan: Plan) -> Outcome:
        difference = second.values - first.values
        means = {f"mean of {r.condition} (nats)": float(np.nanmean(r.values))
                 for r in (first, second)}
        return Outcome(plan(stats.mean_difference, difference, first.clusters), means,
                       _differences(difference))

    return Finding("difference of divergences", _names(first, second), compute)


def mean_divergence(rows: Rows) -> Finding:
    """Mean divergence in nats."""
    def compute(plan: Plan) -> Outcome:
        estimate = plan(stats.mean_difference, rows.values, rows.clusters)
        return Outcome(estimate, {"width of the interval": estimate.ci_high - estimate.ci_low})

    return Finding("mean divergence", _names(rows), compute)


def intervals_that_hold_their_mean(rows: Rows) -> Finding:
    """Share of samples of 32 whose interval holds their own mean."""
    def compute(plan: Plan) -> Outcome:
        x, rng = _complete(rows), np.random.default_rng(plan.seed)
        held = 0
        for _ in range(DRAWS):
            e = plan(stats.mean_difference, rng.choice(x, LARGE, replace=False))
            held += e.ci_low <= e.value <= e.ci_high
        return Outcome(stats.proportion(held, DRAWS, plan.confidence),
                       {"samples drawn": str(DRAWS)})

    return Finding("intervals that hold their mean", _names(rows), compute)


def ratio_of_widths(rows: Rows) -> Finding:
    """Mean over draws of an interval's width at n = 4 by its width at n = 32."""
    def compute(plan: Plan) -> Outcome:
        widths = plan(stats.interval_widths, _complete(rows), (SMALL, LARGE), DRAWS)
        ratios = widths[:, 0] / widths[:, 1]
        estimate = plan(stats.ratio_of_means, ratios, np.ones(DRAWS))
        return Outcome(estimate, {"theory": "2.83", "least of all draws": float(ratios.min())},
                       _differences(ratios))

    return Finding("ratio of widths", _names(rows), compute)


def slope_of_widths(rows: Rows) -> Finding:
    """Slope of log width over log n less -1/2, over draws."""
    def compute(plan: Plan) -> Outcome:
        sizes = [n for n in SIZES if n <= _complete(rows).size]
        widths = plan(stats.interval_widths, _complete(rows), sizes, DRAWS)
        x = np.log(np.array(sizes, dtype=np.float64))
        slopes = np.log(widths) @ (x - x.mean()) / np.square(x - x.mean()).sum()
        moved = plan(stats.mean_difference, slopes + 0.5)
        means = [plan(stats.mean_difference, column) for column in widths.T]
        curve = {"kind": "curve", "x": sizes, "d": [e.value for e in means],
                 "low": [e.ci_low for e in means], "high": [e.ci_high for e in means],
                 "x_label": "samples", "y_label": "width of the interval, nats", "log": True}
        return Outcome(moved, {"mean slope": float(slopes.mean())}, curve)

    return Finding("slope of widths", _names(rows), compute)


def _complete(rows: Rows) -> Vector:
    x: Vector = rows.values[~np.isnan(rows.values)]
    if x.size < LARGE:
        raise KvError(f"{rows.condition}: {x.size} divergences; widths need {LARGE} or more.")
    return x


def _names(*rows: Rows) -> tuple[str, ...]:
    return tuple(dict.fromkeys(r.condition for r in rows))


def _differences(x: Vector) -> dict[str, Any]:
    return {"kind": "paired", "differences": x[~np.isnan(x)].round(6).tolist()}
