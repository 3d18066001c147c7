"""``python -m reports.transfer``: what transfers and what does not, from the last run's figures.

Written from ``reports/out/results.json``: ``transfer.md`` is one page, which claims hold on which
model; ``verdicts.md`` has every estimate.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kvcore.verdict import Judgement
from reports.results import write_whole

HERE = Path(__file__).parent
LETTERS = {"supported": "**S**", "refuted": "**R**", "inconclusive": "?"}


def page(judgements: Sequence[Judgement]) -> str:
    """Write the page: counts for each topic and model, then the claims by what came of them."""
    models = _models(judgements)
    head = ["# What transfers", "",
            "Claims judged here on trained models and human-written text, at 95 %: supported (S),",
            "refuted (R) or not to be told yet (?). Each claim counts once a model, by its first",
            "metric (`nll` where there are two); every estimate, interval and n that would tell is",
            "in [verdicts.md](verdicts.md). `make reference` judges the same rows again.", ""]
    first = _first_metric(judgements)
    return "\n".join([*head, *_counts(first, models), "", *_by_outcome(first, models)]) + "\n"


def _models(judgements: Iterable[Judgement]) -> list[str]:
    return sorted({j.cell.model for j in judgements}, reverse=True)


def _first_metric(judgements: Iterable[Judgement]) -> dict[tuple[str, str], Judgement]:
    """Return one judgement for each claim and model."""
    found: dict[tuple[str, str], Judgement] = {}
    for judgement in judgements:
        found.setdefault((judgement.claim.id, judgement.cell.model), judgement)
    return found


def _counts(first: Mapping[tuple[str, str], Judgement], models: Sequence[str]) -> list[str]:
    lines = [f"| topic | {' | '.join(f'{model}: S / R / ?' for model in models)} |",
             "|---" * (len(models) + 1) + "|"]
    families = dict.fromkeys(j.claim.family for j in first.values())
    for name, own in [*((f, [j for j in first.values() if j.claim.family == f]) for f in families),
                      ("**all**", list(first.values()))]:
        cells = [" / ".join(str(sum(j.cell.model == model and j.verdict == verdict for j in own))
                            for verdict in LETTERS) for model in models]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _by_outcome(first: Mapping[tuple[str, str], Judgement], models: Sequence[str]) -> list[str]:
    """List the claims under what came of them, those judged on every model first."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for claim in dict.fromkeys(claim for claim, _ in first):
        outcome = tuple(first[claim, m].verdict if (claim, m) in first else "" for m in models)
        groups.setdefault(outcome, []).append(claim)
    order = {name: place for place, name in enumerate((*LETTERS, ""))}
    lines = []
    for outcome in sorted(groups, key=lambda o: ("" in o, [order[x] for x in o])):
        said = ", ".join(f"{model} {verdict or 'not judged'}"
                         for model, verdict in zip(models, outcome, strict=True))
        lines.append(f"- **{said}** ({len(groups[outcome])}): {', '.join(groups[outcome])}.")
    return lines


def tables(judgements: Sequence[Judgement]) -> str:
    """Write every estimate: a count for each model, then a table of claims for each family."""
    models = _models(judgements)
    head = ["# Every verdict", "",
            "The estimate with its 95 % interval (d unless a unit is given) and the verdict,",
            "**S** supported, **R** refuted, ? cannot be told yet (and the n that would tell).",
            "Two lines in a cell are two metrics, `nll` before `nll_tail`. Published values come",
            "from larger models on other data. `make reference` judges the same rows again.", ""]
    counts = ["| model | data | n | supported | refuted | cannot be told yet |",
              "|---|---|---|---|---|---|", *(_count(judgements, model) for model in models), ""]
    families = dict.fromkeys(j.claim.family for j in judgements)
    parts = [line for family in families for line in _family(
        [j for j in judgements if j.claim.family == family], family, models)]
    return "\n".join([*head, *counts, *parts]).rstrip() + "\n"


def _count(judgements: Iterable[Judgement], model: str) -> str:
    own = [j for j in judgements if j.cell.model == model]
    sizes = [j.estimate.n for j in own]
    verdicts = [sum(j.verdict == v for j in own) for v in LETTERS]
    data = ", ".join(dict.fromkeys(j.cell.dataset for j in own))
    return f"| {model} | {data} | {min(sizes):,} to {max(sizes):,} | " + " | ".join(
        map(str, verdicts)) + " |"


def _family(judgements: Sequence[Judgement], family: str, models: Sequence[str]) -> list[str]:
    own = [model for model in models if any(j.cell.model == model for j in judgements)]
    lines = [f"## {family.capitalize()}", "", f"| claim | {' | '.join(own)} | published |",
             "|---" * (len(own) + 2) + "|"]
    claims: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        claims.setdefault(judgement.claim.id, []).append(judgement)
    for found in claims.values():
        cells = [_cell([j for j in found if j.cell.model == model]) for model in own]
        published = next((j.published.text for j in found if j.published), "–")
        statement = found[0].claim.statement.splitlines()[0]
        lines.append(f"| {_plain(statement)} | {' | '.join(cells)} | {_plain(published)} |")
    return [*lines, ""]


def _cell(judgements: Sequence[Judgement]) -> str:
    return "<br>".join(_said(j) for j in judgements) or "–"


def _said(judgement: Judgement) -> str:
    e = judgement.estimate
    unit = "" if e.unit == "d" else f" {e.unit}"
    n = judgement.required_n
    needs = f", n ≈ {n:,}" if n and judgement.verdict == "inconclusive" else ""
    return (f"{_number(e.value)} [{_number(e.ci_low)}, {_number(e.ci_high)}]{unit} "
            f"{LETTERS[judgement.verdict]}{needs} (n = {e.n:,})")


def _number(x: float) -> str:
    if math.isinf(x):
        return "−∞" if x < 0 else "∞"
    if 0 < abs(x) < 5e-4:
        return f"{x:+.0e}".replace("-", "−", 1)
    return f"{x:+.3f}".replace("-", "−")


def _plain(text: str) -> str:
    return text.replace("|", "\\|")


def load(document: Mapping[str, Any]) -> list[Judgement]:
    """Return the judgements of a results.json."""
    return [Judgement.from_dict(j | {"plot": {"kind": "none"}}) for j in document["judgements"]]


def main() -> int:
    """Write reports/transfer.md and verdicts.md; return the exit status."""
    source = HERE / "out" / "results.json"
    if not source.exists():
        print(f"reports.transfer: no {source.name} yet; run `make reference` first.",
              file=sys.stderr)
        return 1
    judgements = load(json.loads(source.read_text(encoding="utf-8")))
    write_whole(HERE / "transfer.md", page(judgements))
    write_whole(HERE / "verdicts.md", tables(judgements))
    print(f"{len(judgements)} verdicts written to transfer.md and verdicts.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
