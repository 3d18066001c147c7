"""How figures, verdicts and places are spelled on the Markdown pages."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kvcore.analysis import Estimate
from kvcore.verdict import Judgement
from reports.markdown import templates

LETTERS = {"supported": "**S**", "refuted": "**R**", "inconclusive": "?"}


def models_of(judgements: Iterable[Judgement]) -> list[str]:
    """Return the models that were judged, the default one first."""
    return sorted({j.cell.model for j in judgements}, reverse=True)


def counts(judgements: Iterable[Judgement], models: Sequence[str]) -> list[list[int]]:
    """Return for each model how often each verdict came out."""
    pairs = [(j.cell.model, j.verdict) for j in judgements]
    return [
        [sum(pair == (model, verdict) for pair in pairs) for verdict in LETTERS] for model in models
    ]


def number(x: float) -> str:
    """Return a number with its sign and three decimals, or one digit and a power of ten."""
    if math.isinf(x):
        return "−∞" if x < 0 else "∞"
    if 0 < abs(x) < 5e-4:
        return f"{x:+.0e}".replace("-", "−")
    return f"{x:+.3f}".replace("-", "−")


def interval_text(estimate: Estimate) -> str:
    """Return an estimate with its interval, three decimals."""
    ends = f"[{number(estimate.ci_low)}, {number(estimate.ci_high)}]"
    return f"{number(estimate.value)} {ends}"


def percent(share: float) -> str:
    """Return a share from 0 to 1 in percent, with a decimal unless it is a whole number."""
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


def render(template: str, **values: Any) -> str:
    """Fill in a template of the pages; `cell` is a filter for text in a table."""
    environment = templates.environment(Path(__file__).with_name("templates"))
    environment.filters["cell"] = _cell
    text = environment.get_template(template).render(values)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"


def _cell(text: str) -> str:
    """Return text for a cell of a table: a bar inside it does not end the cell."""
    return text.replace("|", "\\|")
