"""The page of every verdict: a table of claims for each topic, and the effects side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kvcore.analysis import Estimate, over_models
from kvcore.verdict import Judgement
from reports.grouping import by_claim, grouped
from reports.markdown.places import Place, by_place, columns, on_main_data, place_of
from reports.markdown.spelling import LETTERS, counts, interval_text, models_of, number, render


def verdicts(judgements: Sequence[Judgement]) -> str:
    """Return verdicts.md: a count for each model, then a table of claims for each topic."""
    topics = grouped(judgements, lambda judgement: judgement.claim.family)
    groups = grouped(judgements, lambda judgement: judgement.cell.model)
    models = [(m, groups[m], counts(groups[m], [m])[0]) for m in models_of(judgements)]
    return render(
        "verdicts.md",
        models=models,
        topics=[_topic(*each) for each in topics.items()],
        effects=_side_by_side(judgements),
    )


def _topic(topic: str, judgements: Sequence[Judgement]) -> dict[str, Any]:
    places = columns(judgements, models_of(judgements))
    return {
        "name": topic.capitalize(),
        "places": _headings(places),
        "claims": [
            {
                "statement": group[0].claim.statement.splitlines()[0],
                "cells": [in_place(group, place) for place in places],
                "published": next((j.published.text for j in group if j.published), "–"),
            }
            for group in by_claim(judgements)
        ],
    }


def _headings(places: Sequence[Place]) -> list[str]:
    """Name columns: the model, with the dataset where the model has a column before."""
    seen: set[str] = set()
    names = []
    for model, dataset in places:
        names.append(f"{model} × {dataset}" if model in seen else model)
        seen.add(model)
    return names


def in_place(judgements: Iterable[Judgement], place: Place) -> list[str]:
    """Return what to say of each judgement in a place: estimate, verdict and n."""
    return [_words(j) for j in judgements if place_of(j) == place]


def _words(judgement: Judgement) -> str:
    e = judgement.estimate
    unit = "" if e.unit == "d" else f" {e.unit}"
    n = judgement.required_n
    needs = f", n ≈ {n:,}" if n and judgement.verdict == "inconclusive" else ""
    hangs = "†" if judgement.hangs_on_method else ""
    return (
        f"{interval_text(e)}{unit} {LETTERS[judgement.verdict]}{hangs} {judgement.words}{needs} "
        f"(n = {e.n:,})"
    )


def _side_by_side(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Return the effects of every claim that was judged on two models or more.

    Beside them each model's difference from the first, tau, and from `over_models.MIN_MODELS` on
    the pooled mean with its prediction interval.
    """
    models = models_of(judgements)
    by_claim_id = {
        claim: {model: j.estimate for model, j in on_main_data(own).items()}
        for claim, own in by_place(judgements).items()
    }
    rows = [_effects(c, own, models) for c, own in by_claim_id.items() if len(own) > 1]
    differences = [d for row in rows for d in row["differences"] if math.isfinite(d.half_width)]
    return {
        "rows": rows,
        "models": models,
        "pooled": len(models) >= over_models.MIN_MODELS,
        "differences": len(differences),
        "apart": sum(not d.ci_low <= 0 <= d.ci_high for d in differences),
    }


def _effects(claim: str, own: Mapping[str, Estimate], models: Sequence[str]) -> dict[str, Any]:
    """Return a claim's row: effects by model, differences from the first model, tau, the mean."""
    columns = {m: own[m] for m in models if m in own}
    start, *others = columns
    differences = {m: over_models.difference(own[start], own[m]) for m in others}
    spread = over_models.heterogeneity(list(own.values()))
    pooled = over_models.pooled(list(own.values()))
    return {
        "claim": claim,
        "unit": own[start].unit,
        "effects": [interval_text(columns[m]) if m in columns else "–" for m in models],
        "less": [interval_text(differences[m]) if m in differences else "–" for m in models[1:]],
        "differences": list(differences.values()),
        "tau": f"{spread.tau:.3f}" if spread else "–",
        "mean": interval_text(pooled.mean) if pooled else "–",
        "next": f"[{number(pooled.low)}, {number(pooled.high)}]" if pooled else "–",
    }
