"""The properties of a judgement that travel into JUnit XML."""

from __future__ import annotations

from kvcore.verdict import Judgement
from reports.text import inert_text

Property = tuple[str, str | int | float]


def properties(judgement: Judgement) -> list[Property]:
    """Return a judgement's numbers and names as plain strings and numbers, unrounded.

    Plain values survive the way from an xdist worker; NumPy scalars would end it. What a
    judgement lacks (a published value, a required n) is the empty string.
    """
    claim, cell, estimate = judgement.claim, judgement.cell, judgement.estimate
    published = judgement.published
    pairs: list[tuple[str, object]] = [
        ("claim", f"{claim.id}@{claim.version}"),
        ("model", cell.model),
        ("revision", judgement.model_revision),
        ("dataset", cell.dataset),
        ("metric", cell.metric),
        ("dtype", cell.dtype),
        ("n", int(estimate.n)),
        ("estimate", float(estimate.value)),
        ("ci_low", float(estimate.ci_low)),
        ("ci_high", float(estimate.ci_high)),
        ("unit", estimate.unit),
        ("confidence", float(estimate.confidence)),
        ("method", estimate.method),
        ("published", None if published is None else float(published.value)),
        ("margin", claim.prediction.delta),
        ("required_n", judgement.required_n),
        ("verdict", judgement.verdict),
        ("outcome", judgement.reading),
        ("words", judgement.words),
        ("p", float(judgement.p)),
        ("verdict_beside", judgement.verdict_beside),
        ("informative_clusters", estimate.informative),
        ("look", judgement.look.words if judgement.look else None),
        ("seed", int(judgement.seed)),
        ("store", judgement.store),
        ("rows_hash", judgement.rows_hash),
    ]
    return [(name, plain_value(value)) for name, value in pairs]


def plain_value(value: object) -> str | int | float:
    """Return a value as JUnit takes it: a plain number or an inert text, "" for none."""
    if value is None:
        return ""
    if isinstance(value, float):
        return float(value)
    return int(value) if isinstance(value, int) else inert_text(value)
