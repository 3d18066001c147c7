"""Made-up judgements to try the reports on: two models that do not exist, drawn from a seed."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from kvcore.analysis import correlations, paired, proportions, quartiles
from kvcore.analysis import estimate as estimate_
from kvcore.analysis.interval import IntervalSettings
from kvcore.verdict import (
    Cell,
    Claim,
    Judgement,
    Prediction,
    Published,
    at_least,
    consistent,
    does_not_help,
    helps,
    hurts,
    judge,
    judge_beside,
    negligible,
    p_value,
    plan,
)

MODELS = ("invented-small", "invented-large")
METRICS = ("nll", "nll_tail")
N = 240
FEW = IntervalSettings(resamples=400, beside=True)

_PUBLISHED = Published(value=0.091, n=2303, metric="nll_tail", text="win 59.5 %")


def _claim(name: str, statement: str, prediction: Prediction) -> Claim:
    return Claim(name, 1, statement, "an invented source, table 1", "priming", prediction, 100)


CLAIMS: tuple[tuple[Claim, str, float, Published | None], ...] = (
    (
        _claim(
            "random-prefix-helps",
            "A random prefix, dropped again after prefill, makes the answer easier to predict.",
            helps(),
        ),
        "paired",
        0.3,
        _PUBLISHED,
    ),
    (
        _claim(
            "real-query-does-not-help",
            "The sample's own query as a prefix does not make the answer easier to predict.",
            does_not_help(),
        ),
        "paired",
        0.02,
        Published(0.023, 2303, "nll_tail"),
    ),
    (
        _claim(
            "real-query-worse-than-random",
            "The real query is a worse prefix than random tokens.",
            hurts(),
        ),
        "paired",
        -0.14,
        Published(-0.051, 2303, "nll_tail"),
    ),
    (
        _claim(
            "framing-hurts",
            "The words “Document:” before the passage make the answer harder to predict.",
            hurts(),
        ),
        "paired",
        -0.45,
        Published(-0.45, None, "nll_tail", True),
    ),
    (
        _claim(
            "precision-changes-nothing",
            "Rotating keys in float32 instead of the model's own precision changes nothing.",
            negligible(0.2),
        ),
        "paired",
        0.0,
        None,
    ),
    (
        _claim(
            "real-query-hurts-the-easy-quarter",
            "In the easiest quarter of the samples the real "
            "query makes the answer harder to predict.",
            hurts(),
        ),
        "quartiles",
        -0.2,
        Published(-0.195, 576, "nll_tail"),
    ),
    (
        _claim(
            "harder-samples-gain-more",
            "The harder a sample is without any prefix, the more it gains from one.",
            helps(0.05, unit="r"),
        ),
        "scatter",
        0.15,
        Published(0.193, 2303, "nll_tail"),
    ),
)
BOUNDARY = _claim(
    "newline-is-no-clean-boundary",
    "A line feed is never a clean token boundary.",
    at_least(0.95, unit="proportion"),
)


def _columns(index: int, effect: float) -> tuple[np.ndarray, np.ndarray]:
    """Return hardness and NLL under a condition for one cell, (N,) each, in nats per token."""
    rng = np.random.default_rng(index)
    hardness = rng.gamma(4.0, 0.5, N)
    benefit = rng.standard_t(4, N) * 0.22 + 0.22 * effect + 0.03 * (hardness - 2.0)
    return hardness, hardness - benefit


def _measure(kind: str, index: int, effect: float) -> tuple[estimate_.Estimate, dict[str, Any]]:
    bare, primed = _columns(index, effect)
    gain = bare - primed
    if kind == "scatter":
        return (
            correlations.oldham(bare, primed, interval=FEW),
            {
                "kind": kind,
                "x": bare.tolist(),
                "y": gain.tolist(),
                "x_label": "NLL without the passage, nats per token",
                "y_label": "benefit, nats per token",
            },
        )
    if kind == "quartiles":
        table = quartiles.quartile_table(bare, gain, interval=FEW)
        return (
            quartiles.quartile_effect(bare, gain, quartile=1, interval=FEW),
            {"kind": kind, "rows": table.to_dict("records")},
        )
    return (
        paired.paired_effect(bare, primed, interval=FEW).d,
        {"kind": kind, "differences": gain.tolist()},
    )


def _judgement(
    claim: Claim,
    cell: Cell,
    estimate: estimate_.Estimate,
    plot: dict[str, Any],
    published: Published | None,
) -> Judgement:
    reading = judge(estimate, claim.prediction, 0.004)
    beside = judge_beside(estimate, claim.prediction, 0.004)
    verdict, planned = reading.verdict, plan(estimate, claim.prediction)
    return Judgement(
        claim=claim,
        cell=cell,
        estimate=estimate,
        verdict=verdict,
        reading=reading.outcome,
        why_open=reading.why_open,
        benefit=estimate.unit == "d",
        p=p_value(estimate, claim.prediction, verdict),
        verdict_beside=beside.verdict if beside else None,
        floor=0.004,
        floor_nats=0.0009,
        required_n=planned.n,
        planning=planned.words,
        published=published,
        consistent=None if published is None else consistent(estimate, published),
        conditions=("bare", "random"),
        seed=0,
        store="stores/invented",
        rows_hash="ab" * 32,
        model_revision="0123456789abcdef",
        ledger="known refuted (published)" if verdict == "refuted" else "",
        outcome={"supported": "passed", "refuted": "failed"}.get(verdict, "skipped"),
        details={"mean benefit, nats": float(estimate.value) * 0.22, "excluded samples": "3"},
        plot=plot,
        primary=cell.metric != "nll_tail",
    )


@cache
def judgements() -> tuple[Judgement, ...]:
    """Return thirty judgements of eight claims, all three verdicts among them."""
    found = []
    for number, (claim, kind, effect, published) in enumerate(CLAIMS):
        for place, (model, metric) in enumerate((m, s) for m in MODELS for s in METRICS):
            shift = -0.4 if model == MODELS[1] else 0.0
            estimate, plot = _measure(kind, 10 * number + place, effect + shift)
            cell = Cell(model, "docstrings", metric, "float32")
            found.append(
                _judgement(claim, cell, estimate, plot, published if metric == "nll_tail" else None)
            )
    for model, successes in zip(MODELS, (N, N - 30), strict=True):
        cell = Cell(model, "docstrings", "boundary", "float32")
        found.append(
            _judgement(
                BOUNDARY,
                cell,
                proportions.proportion(successes, N),
                {"kind": "none"},
                Published(1.0, 100, "boundary"),
            )
        )
    return tuple(found)


def explanations() -> list[dict[str, Any]]:
    """Return two conditions explained, with masks of 12 tokens."""
    slots = ["BOS", *["prefix"] * 3, *["document"] * 5, *["query"] * 2, "answer"]
    causal = [[int(k <= q) for k in range(12)] for q in range(12)]
    dropped = [[int(k <= q and not (q > 8 and 1 <= k <= 3)) for k in range(12)] for q in range(12)]
    return [
        {
            "model": MODELS[0],
            "condition": "full_context(random)",
            "masks": [{"title": "query and answer", "mask": causal, "slots": slots}],
            "text": "The prefix stays in the cache.\nquery and answer may attend to it.",
        },
        {
            "model": MODELS[0],
            "condition": "random",
            "masks": [{"title": "query and answer", "mask": dropped, "slots": slots}],
            "text": "The prefix is dropped after prefill.\nIt marks the document and nothing else.",
        },
    ]


def provenance() -> dict[str, Any]:
    """Return how the invented run was started and on what."""
    return {
        "command": "pytest claims --kv-limit 240",
        "configuration": {"kv-limit": "240", "kv-seed": "0"},
        "cells": [
            {
                "model": model,
                "revision": "0123456789abcdef",
                "dataset": "docstrings",
                "device": "cpu",
                "dtype": "float32",
                "dropped": {"answer inside the passage": 14, "near duplicate": 722},
            }
            for model in MODELS
        ],
    }


def environment() -> dict[str, Any]:
    """Return an environment that is the same on every machine."""
    return {
        "python": "3.11.0",
        "platform": "an invented platform",
        "versions": {"torch": "2.0", "transformers": "5.0"},
        "commit": "0" * 40,
    }
