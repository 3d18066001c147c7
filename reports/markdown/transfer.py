"""What transfers and what does not, as two Markdown pages written from a run's judgements."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kvcore.analysis import Estimate, over_models
from kvcore.io import write_atomically
from kvcore.verdict import Judgement
from reports.folders import LATEST
from reports.grouping import by_claim, grouped
from reports.markdown import templates

FOLDER = Path(__file__).parents[1]
LETTERS = {"supported": "**S**", "refuted": "**R**", "inconclusive": "?"}

FirstMetric = Mapping[tuple[str, str], Judgement]
"""(claim, model) to the judgement that counts there: the one of the claim's first metric."""


def transfer(judgements: Sequence[Judgement]) -> str:
    """Return transfer.md: counts for each topic and model, then the claims by what came of them."""
    models = _models(judgements)
    first = first_metric(judgements)
    topics = grouped(first.values(), lambda judgement: judgement.claim.family)
    topics["**all**"] = list(first.values())
    counts = [(topic, _counts(group, models)) for topic, group in topics.items()]
    return _render(
        "transfer.md",
        models=models,
        counts=counts,
        outcomes=_by_outcome(first, models),
        effects=_side_by_side(first, models),
    )


def verdicts(judgements: Sequence[Judgement]) -> str:
    """Return verdicts.md: a count for each model, then a table of claims for each topic."""
    topics = grouped(judgements, lambda judgement: judgement.claim.family)
    groups = grouped(judgements, lambda judgement: judgement.cell.model)
    models = [(m, groups[m], _counts(groups[m], [m])[0]) for m in _models(judgements)]
    return _render("verdicts.md", models=models, topics=[_topic(*each) for each in topics.items()])


def _models(judgements: Iterable[Judgement]) -> list[str]:
    return sorted({j.cell.model for j in judgements}, reverse=True)


def first_metric(judgements: Iterable[Judgement]) -> FirstMetric:
    """Return one judgement for each claim and model."""
    first: dict[tuple[str, str], Judgement] = {}
    for judgement in judgements:
        first.setdefault((judgement.claim.id, judgement.cell.model), judgement)
    return first


def _counts(judgements: Iterable[Judgement], models: Sequence[str]) -> list[list[int]]:
    """Return for each model how often each verdict came out."""
    pairs = [(j.cell.model, j.verdict) for j in judgements]
    return [
        [sum(pair == (model, verdict) for pair in pairs) for verdict in LETTERS] for model in models
    ]


def _by_outcome(first: FirstMetric, models: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return (what came of it on each model, claims), those judged on every model first."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for claim in dict.fromkeys(claim for claim, _ in first):
        outcome = tuple(first[claim, m].verdict if (claim, m) in first else "" for m in models)
        groups.setdefault(outcome, []).append(claim)
    rank = {name: place for place, name in enumerate((*LETTERS, ""))}
    ordered = sorted(groups, key=lambda outcome: ("" in outcome, [rank[name] for name in outcome]))

    def text(outcome: Sequence[str]) -> str:
        pairs = zip(models, outcome, strict=True)
        return ", ".join(f"{model} {verdict or 'not judged'}" for model, verdict in pairs)

    return [(text(outcome), groups[outcome]) for outcome in ordered]


def _side_by_side(first: FirstMetric, models: Sequence[str]) -> dict[str, Any]:
    """Return the effects of every claim that was judged on two models or more.

    Beside them each model's difference from the first, tau, and from `over_models.MIN_MODELS` on
    the pooled mean with its prediction interval.
    """
    claims = dict.fromkeys(claim for claim, _ in first)
    by_claim = {c: {m: first[c, m].estimate for m in models if (c, m) in first} for c in claims}
    rows = [_effects(c, own, models) for c, own in by_claim.items() if len(own) > 1]
    differences = [d for row in rows for d in row["differences"] if math.isfinite(d.half_width)]
    return {
        "rows": rows,
        "pooled": len(models) >= over_models.MIN_MODELS,
        "differences": len(differences),
        "apart": sum(not d.ci_low <= 0 <= d.ci_high for d in differences),
    }


def _effects(claim: str, own: Mapping[str, Estimate], models: Sequence[str]) -> dict[str, Any]:
    """Return a claim's row: effects by model, differences from the first model, tau, the mean."""
    start, *others = own
    differences = {m: over_models.difference(own[start], own[m]) for m in others}
    spread = over_models.heterogeneity(list(own.values()))
    pooled = over_models.pooled(list(own.values()))
    columns = {m: own[m] for m in models if m in own}
    return {
        "claim": claim,
        "unit": own[start].unit,
        "effects": [interval_text(columns[m]) if m in columns else "–" for m in models],
        "less": [interval_text(differences[m]) if m in differences else "–" for m in models[1:]],
        "differences": list(differences.values()),
        "tau": f"{spread.tau:.3f}" if spread else "–",
        "mean": interval_text(pooled.mean) if pooled else "–",
        "next": f"[{_number(pooled.low)}, {_number(pooled.high)}]" if pooled else "–",
    }


def interval_text(estimate: Estimate) -> str:
    """Return an estimate with its interval, three decimals."""
    ends = f"[{_number(estimate.ci_low)}, {_number(estimate.ci_high)}]"
    return f"{_number(estimate.value)} {ends}"


def _topic(topic: str, judgements: Sequence[Judgement]) -> dict[str, Any]:
    models = _models(judgements)
    return {
        "name": topic.capitalize(),
        "models": models,
        "claims": [
            {
                "statement": group[0].claim.statement.splitlines()[0],
                "cells": [on_model(group, model) for model in models],
                "published": next((j.published.text for j in group if j.published), "–"),
            }
            for group in by_claim(judgements)
        ],
    }


def on_model(judgements: Iterable[Judgement], model: str) -> list[str]:
    """Return what to say of each judgement on a model: estimate, verdict and n."""
    return [_words(j) for j in judgements if j.cell.model == model]


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


def _number(x: float) -> str:
    if math.isinf(x):
        return "−∞" if x < 0 else "∞"
    if 0 < abs(x) < 5e-4:
        return f"{x:+.0e}".replace("-", "−", 1)
    return f"{x:+.3f}".replace("-", "−")


def _cell(text: str) -> str:
    """Return text for a cell of a table: a bar inside it does not end the cell."""
    return text.replace("|", "\\|")


def _render(template: str, **values: Any) -> str:
    environment = templates.environment(Path(__file__).with_name("templates"))
    environment.filters["cell"] = _cell
    return environment.get_template(template).render(values)


def main(folder: Path = FOLDER) -> int:
    """Write both pages to a folder from its latest results.json; return the exit status."""
    source = folder / "out" / LATEST / "results.json"
    if not source.exists():
        print(
            f"reports.markdown: no {source.name} yet; run `make reference` first.", file=sys.stderr
        )
        return 1
    document = json.loads(source.read_text(encoding="utf-8"))
    judgements = [
        Judgement.from_dict(j | {"plot": {"kind": "none"}}) for j in document["judgements"]
    ]
    write_atomically(folder / "transfer.md", transfer(judgements))
    write_atomically(folder / "verdicts.md", verdicts(judgements))
    print(f"{len(judgements)} verdicts written to transfer.md and verdicts.md")
    return 0
