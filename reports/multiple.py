"""Many verdicts in one report: the q-value of each primary one, and how many stand by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kvcore.verdict import Q_LEVEL, Cell, Judgement, q_values

Key = tuple[str, Cell]


def key_of(judgement: Judgement) -> Key:
    """Return what tells a judgement from every other of a report: its claim and its cell."""
    return judgement.claim.id, judgement.cell


def primary_q_values(judgements: Sequence[Judgement]) -> Mapping[Key, float]:
    """Return the q-value of each primary judgement, over all primary ones of the report."""
    primary = [judgement for judgement in judgements if judgement.primary]
    qs = q_values([judgement.p for judgement in primary])
    return {key_of(j): float(q) for j, q in zip(primary, qs, strict=True)}


@dataclass(frozen=True)
class Standing:
    """How many primary judgements there are, are settled, and stand at `Q_LEVEL`."""

    primary: int
    settled: int  # supported or refuted
    standing: int  # settled, with q at most the level

    @property
    def short(self) -> str:
        """The three numbers on one line."""
        return (
            f"primary verdicts: {self.settled:,} of {self.primary:,} settled, {self.standing:,} of "
            f"them stand at q ≤ {Q_LEVEL:g}"
        )

    @property
    def sentence(self) -> str:
        """The three numbers in plain words."""
        if not self.primary:
            return "No primary verdict was judged, so there are no q-values."
        return (
            f"Of {self.primary:,} primary verdicts {self.settled:,} are settled, and "
            f"{self.standing:,} of those stand at q ≤ {Q_LEVEL:g} (Benjamini–Hochberg): about 1 in "
            f"{1 / Q_LEVEL:.0f} of these may be false."
        )


def standing(judgements: Sequence[Judgement]) -> Standing:
    """Count primary judgements, those settled, and those that stand among all of the report."""
    qs = primary_q_values(judgements)
    settled = [j for j in judgements if j.primary and j.verdict != "inconclusive"]
    return Standing(len(qs), len(settled), sum(qs[key_of(j)] <= Q_LEVEL for j in settled))
