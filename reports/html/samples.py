"""One page of samples: their texts, and the NLL of every answer token under each condition."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.html.templates import FOLDER, json_attribute, render, trusted
from reports.text import inert_text

MAX_CHARACTERS = 1_300
"""Of the data of one sample, on average; the last conditions are left out where they take more."""
NAME = "samples.html"
QUOTES = len("&#34;&#34;,")
"""Characters that a list of numbers takes beside them."""


@dataclass(frozen=True)
class Sample:
    """A sample as it was measured.

    - `token_ends`: where each token of the answer ends, in characters; empty where that is unknown.
    - `nlls`: NLL of each answer token in nats, a tuple a condition of the cell; empty where the
      sample was not measured under it.
    """

    id: str
    cluster: str
    query: str
    passage: str
    answer: str
    token_ends: tuple[int, ...]
    nlls: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class SampleCell:
    """The samples of one model and dataset; the first condition is the baseline."""

    model: str
    dataset: str
    conditions: tuple[str, ...]
    samples: tuple[Sample, ...]

    @functools.cached_property
    def conditions_shown(self) -> int:
        """How many of the conditions there is room for, two at least; spells every number once."""
        count = max(1, len(self.samples))
        texts = sum(len(json_attribute(_texts(sample))) for sample in self.samples)
        room = MAX_CHARACTERS * count - texts
        for at in range(len(self.conditions)):
            room -= sum(len(_hundredths(sample.nlls[at])) + QUOTES for sample in self.samples)
            if room < 0:
                return max(2, at)
        return len(self.conditions)


def page(cells: Sequence[SampleCell]) -> str:
    """Return the page: everything inside, every text inert, shown by Alpine as text alone."""
    vendor = FOLDER.parent / "vendor"
    return render(
        "samples.html",
        data=[_data(cell) for cell in cells],
        style=trusted(FOLDER / "report.css", FOLDER / "samples.css"),
        scripts=[trusted(FOLDER / "samples.js"), trusted(vendor / "alpine.min.js")],
    )


def link(cells: Sequence[SampleCell], model: str, dataset: str, condition: str) -> str:
    """Return where a cell's samples are shown, by the gain under a condition; "" if nowhere."""
    places = [(cell.model, cell.dataset) for cell in cells]
    if (model, dataset) not in places:
        return ""
    place = places.index((model, dataset))
    shown = cells[place].conditions[: cells[place].conditions_shown]
    at = shown.index(condition) if condition in shown else min(1, len(shown) - 1)
    return f"{NAME}#cell={place}&condition={at}"


def _data(cell: SampleCell) -> Mapping[str, Any]:
    shown = cell.conditions_shown
    return {
        "name": inert_text(f"{cell.model} × {cell.dataset}"),
        "conditions": [inert_text(name) for name in cell.conditions[:shown]],
        "left_out": [inert_text(name) for name in cell.conditions[shown:]],
        "samples": [
            {**_texts(sample), "n": [_hundredths(nlls) for nlls in sample.nlls[:shown]]}
            for sample in cell.samples
        ],
    }


def _texts(sample: Sample) -> dict[str, str]:
    """Return a sample's texts, and its answer cut into tokens by where they end."""
    return {
        "i": inert_text(sample.id),
        "q": inert_text(sample.query),
        "p": inert_text(sample.passage),
        "a": inert_text(sample.answer),
        "t": " ".join(map(str, sample.token_ends)) if _is_plain(sample.answer) else "",
    }


def _is_plain(text: str) -> bool:
    """Whether a text is shown as it is, so that places in it hold."""
    return inert_text(text) == text


def _hundredths(nlls: Sequence[float]) -> str:
    """Spell NLLs in hundredths of a nat, "" where there is none."""
    return " ".join(str(round(100 * x)) if math.isfinite(x) else "0" for x in nlls)
