"""What a verdict, a prediction and an estimate are called, everywhere alike."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from kvcore.analysis import Estimate
from kvcore.verdict import Judgement, Prediction, Region
from reports.text import number


@dataclass(frozen=True)
class VerdictStyle:
    """How a verdict is shown: never by colour alone.

    ``symbol`` stands before its name, ``glyph`` is its mark in a plot, as a character;
    ``marker`` is matplotlib's name of that mark.
    """

    symbol: str
    glyph: str
    marker: str
    filled: bool
    colour: str


# Blue and vermillion stay apart for every common kind of colour blindness (Okabe and Ito 2008);
# both are darkened to read as text on white (contrast above 4.5).
VERDICT_STYLES = {
    "supported": VerdictStyle("✓", "●", "o", True, "#00619a"),
    "refuted": VerdictStyle("✗", "■", "s", True, "#a94400"),
    "inconclusive": VerdictStyle("?", "○", "o", False, "#5d6470"),
}

UNITS = {
    "d": "Cohen's d of the paired differences; above 0 the condition helps",
    "nats/token": "nats per answer token; above 0 the condition helps",
    "r": "correlation",
    "proportion": "share of samples",
    "d difference": "difference of two Cohen's d",
    "d of groups": "Cohen's d of relevant against other passages",
    "AUC": "area under the ROC curve; 0.5 is chance",
    "AUC difference": "difference of two areas under the ROC curve; above 0 the condition ranks "
    "better",
    "AUC slope": "slope of the area under the ROC curve",
    "MRR difference": "difference of two mean reciprocal ranks at 10; above 0 the condition ranks "
    "better",
}

_UNSIGNED = ("proportion", "AUC")

_NAMES = {
    "helps": "it helps",
    "hurts": "it hurts",
    "does_not_help": "it does not help by an amount that matters",
    "negligible": "it changes nothing that matters",
    "at_least": "it reaches the value stated",
    "at_most": "it stays below the value stated",
}

_MEASURES = {"proportion": "the share", "nats/token": "the benefit, in nats/token,"}


def unit_words(unit: str) -> str:
    """Return what a unit means, or the unit itself where it has no longer name."""
    return UNITS.get(unit, unit)


def is_signed(unit: str) -> bool:
    """Whether a number in this unit is read with its sign; a share or an area has none."""
    return unit not in _UNSIGNED


def cell_words(judgement: Judgement) -> str:
    """Return model, dataset and metric of a judgement, as a reader writes them."""
    cell = judgement.cell
    return f"{cell.model} × {cell.dataset} · {cell.metric}"


def _bound(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _region_words(region: Region) -> str:
    low, high = region.low, region.high
    if math.isinf(low) and math.isinf(high):
        return "anywhere"
    if math.isinf(low):
        return f"{'at or ' if region.high_closed else ''}below {_bound(high)}"
    if math.isinf(high):
        return f"{'at or ' if region.low_closed else ''}above {_bound(low)}"
    return f"between {_bound(low)} and {_bound(high)}"


def prediction_words(prediction: Prediction) -> str:
    """Return a prediction in plain words: what is expected, and what would settle it."""
    supported, refuted = (
        " or ".join(map(_region_words, regions))
        for regions in (prediction.supported, prediction.refuted)
    )
    measure = _MEASURES.get(prediction.unit, prediction.unit)
    return (
        f"Prediction: {_NAMES.get(prediction.name, prediction.name)}. Supported when the whole "
        f"interval of {measure} lies {supported}; else refuted when it "
        f"lies {refuted}."
    )


def interval_words(estimate: Estimate) -> str:
    """Return an estimate with its interval, three decimals."""
    signed = is_signed(estimate.unit)
    low, high = (end_words(end, signed) for end in (estimate.ci_low, estimate.ci_high))
    return f"{number(estimate.value, sign=signed)} [{low}, {high}]"


def level_words(confidence: float) -> str:
    """Return a level of confidence in percent: ``95 %``, without a line break inside."""
    return f"{confidence:.0%}".replace("%", "\N{NO-BREAK SPACE}%")


def end_words(value: float, signed: bool, digits: int = 3) -> str:
    """Return one end of an interval, which may have no bound."""
    if math.isinf(value):
        return "−∞" if value < 0 else "∞"
    return number(value, digits, sign=signed)


def required_words(judgement: Judgement) -> str:
    """Return how many samples would settle the claim here; "none" where no number would."""
    return "none" if judgement.required_n is None else f"{judgement.required_n:,}"


def published_words(judgement: Judgement) -> str:
    """Return the published value and whether this cell agrees with it; a dash where none is."""
    published = judgement.published
    if published is None:
        return "–"
    size = f", n = {published.n:,}" if published.n is not None else ""
    legacy = ", legacy" if published.legacy else ""
    agrees = {True: "consistent", False: "not consistent", None: "not comparable"}
    signed = is_signed(judgement.estimate.unit)
    text = f"{number(published.value, sign=signed)}{size}{legacy}"
    return f"{text} ({agrees[judgement.consistent]})"


def counts(judgements: Iterable[Judgement]) -> dict[str, int]:
    """Count judgements by verdict, every verdict present."""
    verdicts: list[str] = [judgement.verdict for judgement in judgements]
    return {verdict: verdicts.count(verdict) for verdict in VERDICT_STYLES}
