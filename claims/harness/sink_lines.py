"""What a run says of every model that it loads: where it keeps its attention sink."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvcore import progress
from kvcore.data.sample import Corpus
from kvcore.errors import one_line
from kvcore.measurements.base import MeasurementKind
from kvcore.measurements.sink_diagnosis import SinkPlace, diagnose_sinks

if TYPE_CHECKING:
    from kvcore.models.lm import LM

SAMPLES = 3
"""Samples that are looked at: each takes two short passes."""


@dataclass
class SinkLines:
    """Says where models keep their sinks, each once and where anybody is shown it."""

    _told: set[str] = field(default_factory=set)
    _without: set[tuple[str, str]] = field(default_factory=set)  # kind and dataset: no samples

    def tell(self, name: str, lm: LM, kind: MeasurementKind, dataset: str, seed: int) -> None:
        """Say it of a model of that name, from samples of a cell; not of texts and pairs.

        Rows do not hang on it, and no failure ends the run.
        """
        place = kind.name, dataset
        if name in self._told or place in self._without or not progress.is_heard():
            return
        corpus = kind.load_data(dataset)
        if isinstance(corpus, Corpus):
            self._told.add(name)
            progress.say(f"{name}: {line(lm, corpus, seed)}")
        else:
            self._without.add(place)  # the model is asked for once a shard


def line(lm: LM, corpus: Corpus, seed: int) -> str:
    """Return where a model keeps its sink, in words and figures, or why that cannot be told."""
    try:
        with progress.uncounted():
            diagnosis = diagnose_sinks(lm, corpus.choose(SAMPLES, seed), seed=seed)
    except Exception as error:  # of a model's own code: whatever it may be
        return f"where its attention sink is cannot be told ({one_line(error)})"
    return (
        f"{diagnosis.in_words}\n"
        f"  bare: {_figures(diagnosis.bare)}; primed: {_figures(diagnosis.primed)}"
    )


def _figures(place: SinkPlace) -> str:
    """Return the commonest slot of the sink, its share of the attention and that of BOS."""
    bos = "no BOS" if math.isnan(place.bos_share) else f"BOS {place.bos_share:.2f}"
    return f"slot {place.slot} ({place.part}) {place.sink_share:.2f}, {bos}"
