"""By what a reader filters and sorts claims: attributes of the elements that stand for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kvcore.verdict import Judgement
from reports.text import inert_text
from reports.topics import Topic


@dataclass(frozen=True)
class Facets:
    """The topics and models of a report, which its elements name by number, and claims' places."""

    topics: Sequence[str]
    titles: Sequence[str]
    models: Sequence[str]
    places: Mapping[str, int]

    @classmethod
    def of(cls, by_topic: Sequence[Topic]) -> Facets:
        """Return the facets of a report's topics."""
        judgements = [judgement for topic in by_topic for judgement in topic.judgements]
        claims = dict.fromkeys(judgement.claim.id for judgement in judgements)
        return cls(
            [topic.name for topic in by_topic],
            [topic.title for topic in by_topic],
            list(dict.fromkeys(judgement.cell.model for judgement in judgements)),
            {claim: place for place, claim in enumerate(claims)},
        )

    @property
    def choices(self) -> dict[str, Sequence[str]]:
        """What a reader chooses from: names in the order of their numbers."""
        return {"topics": self.titles, "models": self.models}

    def attributes(self, group: Sequence[Judgement]) -> dict[str, str]:
        """Return the attributes of what stands for one claim; texts are inert."""
        claim = group[0].claim
        sizes = [abs(j.estimate.value) for j in group if math.isfinite(j.estimate.value)]
        models = dict.fromkeys(self.models.index(j.cell.model) for j in group)
        return {
            "data-place": str(self.places[claim.id]),
            "data-verdicts": " ".join(dict.fromkeys(j.verdict for j in group)),
            "data-topic": str(self.topics.index(claim.family)),
            "data-models": " ".join(map(str, models)),
            "data-text": inert_text(f"{claim.statement} {claim.id}").lower(),
            "data-size": f"{max(sizes, default=0.0):.4f}",
        }
