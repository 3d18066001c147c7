"""Predictions: what a claim says of a number, written down before measuring.

A prediction has a direction and a margin, the smallest effect of interest. What an interval says of
it is read in `kvcore.verdict.reading`, by one table for all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from kvcore.analysis.estimate import Record
from kvcore.errors import KvError

SMALLEST_D = 0.09
"""The smallest effect of interest for priming, in units of d (its smallest published one)."""
PredictionName = Literal[
    "helps", "hurts", "does_not_help", "negligible", "differs", "at_least", "at_most"
]


@dataclass(frozen=True)
class Region:
    """A stretch of the number line, its bounds open; shown to people, never judged by."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise KvError(f"low must be below high; got low={self.low} and high={self.high}.")


@dataclass(frozen=True)
class Prediction(Record):
    """What a claim predicts, written down before measuring."""

    name: PredictionName
    delta: float | None  # margin: the smallest effect of interest, in ``unit``
    effect: float | None  # the pre-registered effect, for planning; None where there is none
    unit: str  # the unit of the estimate this is for, as `Estimate.unit`
    bound: float = 0.0  # of `at_least` and `at_most`; 0 for the others

    @property
    def direction(self) -> int:
        """+1 or -1: the side that the prediction names, or whose passing refutes it."""
        return -1 if self.name in ("hurts", "at_most") else 1

    @property
    def margin(self) -> float:
        """The margin as a number: 0 for `at_least` and `at_most`."""
        return self.delta or 0.0

    @property
    def holds_in(self) -> tuple[Region, ...]:
        """Where the claim is true, for figures."""
        inf, delta, bound = math.inf, self.margin, self.bound
        return {
            "helps": (Region(0.0, inf),),
            "hurts": (Region(-inf, 0.0),),
            "does_not_help": (Region(-inf, delta),),
            "negligible": (Region(-delta, delta),) if delta else (),
            "differs": (Region(-inf, 0.0), Region(0.0, inf)),
            "at_least": (Region(bound, inf),),
            "at_most": (Region(-inf, bound),),
        }[self.name]

    @property
    def needs(self) -> str:
        """What supports the claim, for people: ``"> 0"``, ``"between -0.09 and 0.09"``."""
        delta, bound = f"{self.margin:g}", f"{self.bound:g}"
        return {
            "helps": f"> 0, and not only below {delta}",
            "hurts": f"< 0, and not only above -{delta}",
            "does_not_help": f"< {delta}",
            "negligible": f"between -{delta} and {delta}",
            "differs": f"< 0 or > 0, and not only within {delta} of it",
            "at_least": f"≥ {bound}",
            "at_most": f"≤ {bound}",
        }[self.name]


def _with_margin(
    name: PredictionName, delta: float, effect: float | None, unit: str, default: float
) -> Prediction:
    if not 0 < delta < math.inf:
        raise KvError(f"delta must be a number > 0; got delta={delta}.")
    return Prediction(name, delta, default if effect is None else effect, unit)


def _with_bound(name: PredictionName, x: float, effect: float | None, unit: str) -> Prediction:
    if not math.isfinite(x):
        raise KvError(f"x must be a finite number; got x={x}.")
    return Prediction(name, None, effect, unit, x)


def helps(delta: float = SMALLEST_D, effect: float | None = None, unit: str = "d") -> Prediction:
    """Predict an effect above 0; refuted where it is surely below delta."""
    return _with_margin("helps", delta, effect, unit, delta)


def hurts(delta: float = SMALLEST_D, effect: float | None = None, unit: str = "d") -> Prediction:
    """Predict an effect below 0; refuted where it is surely above -delta."""
    return _with_margin("hurts", delta, effect, unit, -delta)


def does_not_help(delta: float = SMALLEST_D, effect: float = 0.0, unit: str = "d") -> Prediction:
    """Predict an effect below delta (non-superiority); refuted where it is surely delta or more."""
    return _with_margin("does_not_help", delta, effect, unit, 0.0)


def negligible(delta: float = SMALLEST_D, effect: float = 0.0, unit: str = "d") -> Prediction:
    """Predict an effect within delta of 0 (equivalence); refuted surely beyond either side."""
    return _with_margin("negligible", delta, effect, unit, 0.0)


def differs(delta: float = SMALLEST_D, effect: float | None = None, unit: str = "d") -> Prediction:
    """Predict an effect on either side of 0; refuted where it is surely within delta of 0."""
    return _with_margin("differs", delta, effect, unit, delta)


def at_least(x: float, effect: float | None = None, unit: str = "d") -> Prediction:
    """Predict x or more; refuted below x. Nothing is planned unless an effect is given."""
    return _with_bound("at_least", x, effect, unit)


def at_most(x: float, effect: float | None = None, unit: str = "d") -> Prediction:
    """Predict x or less; refuted above x. Nothing is planned unless an effect is given."""
    return _with_bound("at_most", x, effect, unit)
