"""How judgements and the plots of a judgement are taken apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kvcore.verdict import Judgement

Groups = Sequence[Sequence[Judgement]]
"""Judgements claim by claim."""


def grouped(
    judgements: Iterable[Judgement], key: Callable[[Judgement], str]
) -> dict[str, list[Judgement]]:
    """Group judgements by a key; keys and judgements keep the order of their first appearance."""
    groups: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        groups.setdefault(key(judgement), []).append(judgement)
    return groups


def by_claim(judgements: Iterable[Judgement]) -> Groups:
    """Group judgements by claim; claims and cells keep the order of their first appearance."""
    return list(grouped(judgements, lambda judgement: judgement.claim.id).values())


def plot_parts(plot: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the plots that a plot is made of: none, one, or several one under the other."""
    kind = plot.get("kind", "none")
    if kind == "several":
        return [part for each in plot["figures"] for part in plot_parts(each)]
    return [] if kind == "none" else [plot]
