"""What transfers and what does not, as two Markdown pages written from a run's judgements."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from kvcore.io import write_atomically
from kvcore.verdict import Judgement
from reports.grouping import by_claim

FOLDER = Path(__file__).parents[1]
LETTERS = {"supported": "**S**", "refuted": "**R**", "inconclusive": "?"}

FirstMetric = Mapping[tuple[str, str], Judgement]
"""(claim, model) to the judgement that counts there: the one of the claim's first metric."""


def transfer(judgements: Sequence[Judgement]) -> str:
    """Return transfer.md: counts for each topic and model, then the claims by what came of them."""
    models = _models(judgements)
    first = first_metric(judgements)
    topics = dict.fromkeys(j.claim.family for j in first.values())
    counts = [
        *(
            (topic, _counts([j for j in first.values() if j.claim.family == topic], models))
            for topic in topics
        ),
        ("**all**", _counts(first.values(), models)),
    ]
    return _render("transfer.md", models=models, counts=counts, outcomes=_by_outcome(first, models))


def verdicts(judgements: Sequence[Judgement]) -> str:
    """Return verdicts.md: a count for each model, then a table of claims for each topic."""
    topics: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        topics.setdefault(judgement.claim.family, []).append(judgement)
    models = _models(judgements)
    return _render(
        "verdicts.md",
        models=[_model(judgements, model) for model in models],
        topics=[_topic(topic, group) for topic, group in topics.items()],
    )


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
    return [
        (
            ", ".join(
                f"{model} {verdict or 'not judged'}"
                for model, verdict in zip(models, outcome, strict=True)
            ),
            groups[outcome],
        )
        for outcome in ordered
    ]


def _model(judgements: Iterable[Judgement], model: str) -> dict[str, Any]:
    own = [j for j in judgements if j.cell.model == model]
    sizes = [j.estimate.n for j in own]
    return {
        "name": model,
        "datasets": dict.fromkeys(j.cell.dataset for j in own),
        "fewest": min(sizes),
        "most": max(sizes),
        "counts": _counts(own, [model])[0],
    }


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
    return (
        f"{_number(e.value)} [{_number(e.ci_low)}, {_number(e.ci_high)}]{unit} "
        f"{LETTERS[judgement.verdict]}{needs} (n = {e.n:,})"
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
    environment = Environment(  # Markdown, not HTML: nothing to escape but bars
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _cell
    return environment.get_template(template).render(values)


def main(folder: Path = FOLDER) -> int:
    """Write both pages to a folder from its out/results.json; return the exit status."""
    source = folder / "out" / "results.json"
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
