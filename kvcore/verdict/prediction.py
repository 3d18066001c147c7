"""Predictions: what supports a claim, what refutes it, written down before measuring.

It is two sets of regions of the number line. One geometric rule serves every claim: the confidence
interval inside the supported region is *supported*; else inside the refuted one *refuted*; else
*inconclusive*.

================= ==================== ========================== ================================
prediction        supported            refuted                    needs, with a noise floor f
================= ==================== ========================== ================================
helps             (0, inf)             (-inf, delta)              supported: CI above f.
                                                                  refuted: delta > f, or CI below -f
hurts             (-inf, 0)            (-delta, inf)              the mirror image of helps
does_not_help     (-inf, delta)        (delta, inf)               supported: delta > f, or CI
                                                                  below -f. refuted: CI above f
negligible        (-delta, delta)      (-inf, -delta) and         supported: delta > f.
                                       (delta, inf)               refuted: CI beyond f
differs           (-inf, 0) and        (-delta, delta)            supported: CI beyond f.
                  (0, inf)                                        refuted: delta > f
at_least(x)       [x, inf)             (-inf, x)                  CI beyond x + f, or below x - f
at_most(x)        (-inf, x]            (x, inf)                   CI below x - f, or beyond x + f
================= ==================== ========================== ================================

The last column is one rule too. Measuring alone may move an estimate anywhere within the *noise
band*, f to either side of the prediction's null (0, or x). A region is decisive as it stands when
it holds the whole band; otherwise only what of it lies clear of the band counts. With f = 0 the
band is a point and nothing changes.

Edges. The interval is taken closed, so an interval that ends at an open bound is not inside, and
one of zero width at 0 refutes `helps` and `hurts` and supports `negligible`; an infinite bound
holds anything, infinity included. An interval inside both regions, as in (0, delta) for `helps`,
is *supported*. NaN, and fewer than `MIN_UNITS` independent units, are *inconclusive*.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kvcore.analysis.estimate import Record
from kvcore.errors import KvError

SMALLEST_D = 0.09
"""The smallest effect of interest for priming, in units of d (its smallest published one)."""


@dataclass(frozen=True)
class Region:
    """An interval of the number line; each bound belongs to it only where it says closed."""

    low: float
    high: float
    low_closed: bool = False
    high_closed: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise KvError(f"low must be below high; got low={self.low} and high={self.high}.")

    def holds(self, low: float, high: float) -> bool:
        """Whether the closed interval [low, high] lies inside; never with a NaN."""
        above = self.low in (-math.inf, low if self.low_closed else -math.inf) or low > self.low
        below = self.high in (math.inf, high if self.high_closed else math.inf) or high < self.high
        return low <= high and above and below

    def clear_of(self, low: float, high: float) -> tuple[Region, ...]:
        """What is left of the region outside the closed interval [low, high]."""
        parts = []
        if self.low < low:
            closed = self.high_closed and self.high < low
            parts.append(Region(self.low, min(self.high, low), self.low_closed, closed))
        if self.high > high:
            closed = self.low_closed and self.low > high
            parts.append(Region(max(self.low, high), self.high, closed, self.high_closed))
        return tuple(parts)

    def __str__(self) -> str:
        if self.low == -math.inf and self.high == math.inf:
            return "any number"
        if self.high == math.inf:
            return f"{'≥' if self.low_closed else '>'} {self.low:g}"
        if self.low == -math.inf:
            return f"{'≤' if self.high_closed else '<'} {self.high:g}"
        return f"between {self.low:g} and {self.high:g}"


@dataclass(frozen=True)
class Prediction(Record):
    """What a claim predicts, written down before measuring."""

    name: str  # ``"helps"``, ``"negligible"``, ...
    # Where the claim holds and where it does not; see the table of this module.
    supported: tuple[Region, ...]
    refuted: tuple[Region, ...]
    delta: float | None  # smallest effect of interest, in ``unit``
    effect: float | None  # the pre-registered effect, for the required n; None where there is none
    unit: str  # the unit of the estimate this is for, as `Estimate.unit`
    # Where the noise band is centred: 0, or the bound of `at_least` and `at_most`.
    null: float = 0.0

    @property
    def needs(self) -> str:
        """What supports the claim, for people: ``"> 0"``, ``"between -0.09 and 0.09"``."""
        return " or ".join(str(region) for region in self.supported)

    def decisive(self, floor: float = 0.0) -> tuple[tuple[Region, ...], tuple[Region, ...]]:
        """Supported and refuted regions as far as a noise floor leaves them decisive."""
        if not floor >= 0:
            raise KvError(f"floor must be a number >= 0; got floor={floor}.")
        low, high = self.null - floor, self.null + floor

        def outside(regions: tuple[Region, ...]) -> tuple[Region, ...]:
            return tuple(
                part
                for region in regions
                for part in ((region,) if region.holds(low, high) else region.clear_of(low, high))
            )

        return outside(self.supported), outside(self.refuted)


def _from_delta(name: str, delta: float, effect: float | None, unit: str) -> Prediction:
    """Build the prediction of a name from delta, the smallest effect of interest."""
    if not 0 < delta < math.inf:
        raise KvError(f"delta must be a number > 0; got delta={delta}.")
    inside, beyond = (Region(-delta, delta),), (_below(-delta), _above(delta))
    supported, refuted, default = {
        "helps": ((_above(0.0),), (_below(delta),), delta),
        "hurts": ((_below(0.0),), (_above(-delta),), -delta),
        "does_not_help": ((_below(delta),), (_above(delta),), 0.0),
        "negligible": (inside, beyond, 0.0),
        "differs": ((_below(0.0), _above(0.0)), inside, delta),
    }[name]
    chosen = default if effect is None else effect
    return Prediction(name, supported, refuted, delta, chosen, unit)


def _above(low: float, closed: bool = False) -> Region:
    return Region(low, math.inf, low_closed=closed)


def _below(high: float, closed: bool = False) -> Region:
    return Region(-math.inf, high, high_closed=closed)


def helps(delta: float = SMALLEST_D, effect: float | None = None, unit: str = "d") -> Prediction:
    """Predict an effect above 0; refuted where it is surely below delta."""
    return _from_delta("helps", delta, effect, unit)


def hurts(delta: float = SMALLEST_D, effect: float | None = None, unit: str = "d") -> Prediction:
    """Predict an effect below 0; refuted where it is surely above -delta."""
    return _from_delta("hurts", delta, effect, unit)


def does_not_help(delta: float = SMALLEST_D, effect: float = 0.0, unit: str = "d") -> Prediction:
    """Predict an effect below delta (non-superiority); refuted above it."""
    return _from_delta("does_not_help", delta, effect, unit)


def negligible(delta: float = SMALLEST_D, effect: float = 0.0, unit: str = "d") -> Prediction:
    """Predict an effect between -delta and delta (equivalence); refuted beyond either."""
    return _from_delta("negligible", delta, effect, unit)


def differs(delta: float = SMALLEST_D, effect: float | None = None, unit: str = "d") -> Prediction:
    """Predict an effect on either side of 0; refuted where it is surely within delta of 0."""
    return _from_delta("differs", delta, effect, unit)


def at_least(x: float, effect: float | None = None, unit: str = "d") -> Prediction:
    """Predict x or more; refuted below x. No required n unless an effect is given."""
    return Prediction("at_least", (_above(x, True),), (_below(x),), None, effect, unit, x)


def at_most(x: float, effect: float | None = None, unit: str = "d") -> Prediction:
    """Predict x or less; refuted above x. No required n unless an effect is given."""
    return Prediction("at_most", (_below(x, True),), (_above(x),), None, effect, unit, x)
