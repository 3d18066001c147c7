"""The order in which judgements are read: claim by claim."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kvcore.verdict import Judgement


def by_claim(judgements: Iterable[Judgement]) -> Sequence[Sequence[Judgement]]:
    """Group judgements by claim; claims and cells keep the order of their first appearance."""
    groups: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        groups.setdefault(judgement.claim.id, []).append(judgement)
    return list(groups.values())
