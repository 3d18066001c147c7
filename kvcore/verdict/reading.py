"""One reading of an interval: disjoint outcomes, and the verdict that each gives a prediction.

The interval [L, U] is read once against the margin delta, first match wins; for `hurts` everything
is mirrored, -U for L and -L for U:

================ ======================== ============ ============= ============== ==============
outcome          interval                 helps, hurts does_not_help negligible     differs
================ ======================== ============ ============= ============== ==============
negligible       inside (-delta, delta)   refuted      supported     supported      refuted
beyond-margin    L >= delta               supported    refuted       refuted        supported
direction-only   L > 0                    supported    open          open           supported
reversed         U < 0                    refuted      supported     refuted where  supported
                                                                     U <= -delta
short-of-margin  U < delta                refuted      supported     open           open
open             anything else            open         open          open           open
================ ======================== ============ ============= ============== ==============

`at_least(x)` is *reached* (supported) where L >= x, *missed* (refuted) where U < x, else *open*;
`at_most` is its mirror image. So each error at 0 and at delta has the probability of one end of the
interval, no two outcomes hold at once, and every verdict but those exactly on a margin settles as n
grows. It is the three-sided test of Goeman, Solari and Stijnen (2010, Statistics in Medicine 29),
read off one confidence interval.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from kvcore.verdict.prediction import Prediction, PredictionName

Verdict = Literal["supported", "refuted", "inconclusive"]
Outcome = Literal[
    "negligible",
    "beyond-margin",
    "direction-only",
    "reversed",
    "short-of-margin",
    "reached",
    "missed",
    "open",
]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

_SUPPORTS: dict[PredictionName, frozenset[Outcome]] = {
    "helps": frozenset({"beyond-margin", "direction-only"}),
    "does_not_help": frozenset({"negligible", "reversed", "short-of-margin"}),
    "negligible": frozenset({"negligible"}),
    "differs": frozenset({"beyond-margin", "direction-only", "reversed"}),
    "at_least": frozenset({"reached"}),
}
_REFUTES: dict[PredictionName, frozenset[Outcome]] = {
    "helps": frozenset({"negligible", "reversed", "short-of-margin"}),
    "does_not_help": frozenset({"beyond-margin"}),
    "negligible": frozenset({"beyond-margin"}),
    "differs": frozenset({"negligible"}),
    "at_least": frozenset({"missed"}),
}
_MIRRORED: dict[PredictionName, PredictionName] = {"hurts": "helps", "at_most": "at_least"}


def read(low: float, high: float, prediction: Prediction) -> Outcome:
    """Read the interval [low, high] against a prediction; NaN settles nothing: open."""
    if math.isnan(low) or math.isnan(high):
        return "open"
    if prediction.direction < 0:
        low, high = -high, -low
    if prediction.delta is None:
        bound = prediction.bound * prediction.direction
        return "reached" if low >= bound else "missed" if high < bound else "open"
    margin = prediction.delta
    if -margin < low and high < margin:
        return "negligible"
    if low >= margin:
        return "beyond-margin"
    if low > 0:
        return "direction-only"
    if high < 0:
        return "reversed"
    return "short-of-margin" if high < margin else "open"


def verdict_of(outcome: Outcome, high: float, prediction: Prediction) -> Verdict:
    """Return what an outcome of an interval that ends at ``high`` means, by the table above."""
    name = _MIRRORED.get(prediction.name, prediction.name)
    if name == "negligible" and outcome == "reversed":
        return "refuted" if high <= -prediction.margin else "inconclusive"
    if outcome in _SUPPORTS[name]:
        return "supported"
    return "refuted" if outcome in _REFUTES[name] else "inconclusive"


def outcome_words(outcome: Outcome, prediction: Prediction, *, benefit: bool) -> str:
    """Say an outcome in plain words; ``benefit`` where the number is what a condition gains."""
    margin, bound = f"{prediction.margin:g}", f"{prediction.bound:g}"
    up = prediction.direction > 0
    side, other = ("is above 0", "is below 0") if up else ("is below 0", "is above 0")
    less = f"is less than {margin} from 0 on that side"
    if benefit:
        side, other = ("helps", "hurts") if up else ("hurts", "helps")
        less = f"does not {side.removesuffix('s')} by {margin} or more"
    # Only a claim of one direction has another way round.
    reversed_ = f"the other way round: {other}" if prediction.name in ("helps", "hurts") else other
    reached, missed = ("at least", "below") if up else ("at most", "above")
    return {
        "negligible": "too small to matter",
        "beyond-margin": f"{side}, and by at least {margin}",
        "direction-only": f"{side}, how much is open",
        "reversed": reversed_,
        "short-of-margin": f"{less}; whether it {other} is open",
        "reached": f"{reached} {bound}",
        "missed": f"{missed} {bound}",
        "open": "cannot tell yet",
    }[outcome]
