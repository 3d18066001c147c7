"""``python -m reports.transfer``: what transfers and what does not, on one page of Markdown.

Written from ``reports/out/results.json`` of the last run of the claims: the figures are the
run's own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kvcore.verdict import Judgement
from reports.results import write_whole

HERE = Path(__file__).parent
LETTERS = {"supported": "**S**", "refuted": "**R**", "inconclusive": "?"}


def page(judgements: Sequence[Judgement]) -> str:
    """Write the page: a count for each model, then a table of claims for each family."""
    models = sorted({j.cell.model for j in judgements}, reverse=True)
    head = ["# What transfers", "",
            "Every claim that was measured here, on trained models and human-written text: the",
            "estimate with its 95 % interval (d unless a unit is given) and the verdict,",
            "**S** supported, **R** refuted, ? cannot be told yet (and the n that would tell).",
            "Two lines in a cell are `nll` and `nll_tail`. Published values come from larger",
            "models on other data. `make reference` judges the same rows again.", ""]
    counts = ["| model | data | n | supported | refuted | cannot be told yet |",
              "|---|---|---|---|---|---|", *(_count(judgements, model) for model in models), ""]
    families = dict.fromkeys(j.claim.family for j in judgements)
    tables = [line for family in families for line in _family(
        [j for j in judgements if j.claim.family == family], family, models)]
    return "\n".join([*head, *counts, *tables]).rstrip() + "\n"


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
    if 0 < abs(x) < 5e-4:
        return f"{x:+.0e}".replace("-", "−", 1)
    return f"{x:+.3f}".replace("-", "−")


def _plain(text: str) -> str:
    return text.replace("|", "\\|")


def load(document: Mapping[str, Any]) -> list[Judgement]:
    """Return the judgements of a results.json."""
    return [Judgement.from_dict(j | {"plot": {"kind": "none"}}) for j in document["judgements"]]


def main() -> int:
    """Write reports/transfer.md and return the exit status."""
    source = HERE / "out" / "results.json"
    if not source.exists():
        print(f"reports.transfer: no {source.name} yet; run `make reference` first.",
              file=sys.stderr)
        return 1
    judgements = load(json.loads(source.read_text(encoding="utf-8")))
    write_whole(HERE / "transfer.md", page(judgements))
    print(f"{len(judgements)} verdicts written to transfer.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
