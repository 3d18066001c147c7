"""Judgements by topic, and what a run found of each, in one generated sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kvcore.verdict import Judgement
from reports.grouping import Groups, by_claim, grouped
from reports.text import number
from reports.words import VERDICT_STYLES, cell_words, counts, is_signed

ORDER = (
    "priming",
    "hardness",
    "instrument",
    "mechanism",
    "context",
    "length",
    "generalisation",
    "deployment",
    "ranking",
    "surrogates",
    "overlap",
    "choices",
    "dynamics",
    "divergence",
    "adaptation",
)
"""Topics as a reader meets them; others follow, as they first appear."""


@dataclass(frozen=True)
class Topic:
    """The claims of one topic, and what came out of them."""

    name: str
    groups: Groups

    @property
    def title(self) -> str:
        """Its name, as a heading."""
        return self.name.replace("-", " ").capitalize()

    @property
    def judgements(self) -> list[Judgement]:
        """Every judgement of the topic, claim by claim."""
        return [judgement for group in self.groups for judgement in group]

    @property
    def primary(self) -> list[Judgement]:
        """The judgements that count, those of each claim's primary metric; all where none is."""
        return [j for j in self.judgements if j.primary] or self.judgements

    @property
    def counts(self) -> Mapping[str, int]:
        """How many of its verdicts came out how."""
        return counts(self.judgements)

    @property
    def sentence(self) -> str:
        """What the run found, in one sentence: its clearest verdict, or that all is open."""
        settled = [j for j in self.primary if j.verdict != "inconclusive"]
        if not settled:
            return "Nothing is settled yet: every interval leaves its claim open."
        clearest = min(settled, key=lambda judgement: judgement.p)
        return f"Clearest: {finding_words(clearest)}, on {cell_words(clearest)}."


def topics(judgements: Sequence[Judgement]) -> list[Topic]:
    """Return the topics of a run, in the order in which a reader meets them."""
    families = grouped(judgements, lambda judgement: judgement.claim.family)
    known = [name for name in ORDER if name in families]
    names = [*known, *(name for name in families if name not in known)]
    return [Topic(name, by_claim(families[name])) for name in names]


def in_short(judgements: Sequence[Judgement]) -> list[str]:
    """Return what the first topic's claims came to, a paragraph for each model and dataset."""
    if not judgements:
        return []
    places = grouped(topics(judgements)[0].primary, lambda j: f"{j.cell.model} × {j.cell.dataset}")
    return [_paragraph(place, own) for place, own in places.items()]


def _paragraph(place: str, judgements: Sequence[Judgement]) -> str:
    n = max(judgement.estimate.n for judgement in judgements)
    found = "; ".join(
        f"{VERDICT_STYLES[verdict].symbol} {verdict}: "
        + ", ".join(finding_words(j, verdict=False) for j in own)
        for verdict in VERDICT_STYLES
        if (own := [j for j in judgements if j.verdict == verdict])
    )
    return f"{place}, n = {n:,}: {found}."


def finding_words(judgement: Judgement, *, verdict: bool = True) -> str:
    """Return a claim's statement with what came out of it and the estimate."""
    e, said = judgement.estimate, f"{judgement.verdict}, " if verdict else ""
    value = number(e.value, 2, sign=is_signed(e.unit))
    statement = judgement.claim.statement.rstrip(". ")
    return f"“{statement}” ({said}{judgement.words}; {e.unit} {value})"
