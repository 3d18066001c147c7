"""What a verdict, a prediction and an estimate are called, everywhere alike."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from kvcore.analysis import Estimate
from kvcore.verdict import Judgement, Prediction, difference_from_published
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
    "log-log slope": "power of the number of samples, less what is expected of it",
    "MRR difference": "difference of two mean reciprocal ranks at 10; above 0 the condition ranks "
    "better",
}

_UNSIGNED = ("proportion", "AUC")

_NAMES = {
    "helps": "it helps",
    "hurts": "it hurts",
    "does_not_help": "it does not help by an amount that matters",
    "negligible": "it changes nothing that matters",
    "differs": "the two differ",
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


def prediction_words(prediction: Prediction) -> str:
    """Return a prediction in plain words: what is expected, and what would settle it."""
    margin, bound = f"{prediction.margin:g}", f"{prediction.bound:g}".replace("-", "−")
    supported, refuted = {
        "helps": (f"above 0, unless all of it is below {margin}", f"below {margin}"),
        "hurts": (f"below 0, unless all of it is above −{margin}", f"above −{margin}"),
        "does_not_help": (f"below {margin}", f"at or above {margin}"),
        "negligible": (f"between −{margin} and {margin}", f"at or beyond −{margin} or {margin}"),
        "differs": (
            f"on one side of 0, unless all of it is between −{margin} and {margin}",
            f"between −{margin} and {margin}",
        ),
        "at_least": (f"at or above {bound}", f"below {bound}"),
        "at_most": (f"at or below {bound}", f"above {bound}"),
    }[prediction.name]
    measure = _MEASURES.get(prediction.unit, prediction.unit)
    return (
        f"Prediction: {_NAMES[prediction.name]}. Supported when the whole interval of {measure} "
        f"lies {supported}; refuted when it lies {refuted}."
    )


def interval_words(estimate: Estimate) -> str:
    """Return an estimate with its interval, three decimals."""
    signed = is_signed(estimate.unit)
    low, high = (end_words(end, signed) for end in (estimate.ci_low, estimate.ci_high))
    return f"{number(estimate.value, sign=signed)} [{low}, {high}]"


def beside_words(judgement: Judgement) -> str:
    """Return the other method's interval, and the verdict where it hangs on the method."""
    beside = judgement.estimate.beside
    if beside is None:
        return "–"
    signed = is_signed(judgement.estimate.unit)
    ends = ", ".join(end_words(end, signed) for end in (beside.low, beside.high))
    text = f"[{ends}] by {beside.method}"
    return f"{text}: {judgement.verdict_beside}" if judgement.hangs_on_method else text


def verdict_words(judgement: Judgement) -> str:
    """Return the verdict, what came out in plain words, and whether it hangs on the method."""
    hangs = f"; {method_words(judgement)}" if judgement.hangs_on_method else ""
    return f"{judgement.verdict}: {judgement.words}{hangs}"


def method_words(judgement: Judgement) -> str:
    """Say that a verdict hangs on the method, and what the other gives; "" where it does not."""
    if not judgement.hangs_on_method:
        return ""
    return f"hangs on the method: {judgement.verdict_beside} by the {judgement.method_beside}"


def probability_words(p: float) -> str:
    """Return a p or q value, four decimals; a tiny one as below what they can show."""
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def cluster_words(judgement: Judgement) -> str:
    """Return how many clusters tell of an effect, and what they are worth."""
    e = judgement.estimate
    if e.informative is None or e.effective is None:
        return f"{e.clusters:,}"
    return f"{e.informative:,} of {e.clusters:,}, effective {e.effective:.1f}"


def level_words(confidence: float) -> str:
    """Return a level of confidence in percent: ``95 %``, without a line break inside."""
    return f"{confidence:.0%}".replace("%", "\N{NO-BREAK SPACE}%")


def end_words(value: float, signed: bool, digits: int = 3) -> str:
    """Return one end of an interval, which may have no bound."""
    if math.isinf(value):
        return "−∞" if value < 0 else "∞"
    return number(value, digits, sign=signed)


def required_words(judgement: Judgement) -> str:
    """Return the ``--kv-limit`` that would settle an open claim; a dash where none is planned."""
    if judgement.verdict != "inconclusive" or judgement.required_n is None:
        return "–"
    return f"{judgement.required_n:,}"


def planning_words(judgement: Judgement) -> str:
    """Return what keeps an open claim open, or what would settle it; a dash for a settled one."""
    if judgement.verdict != "inconclusive":
        return "–"
    return judgement.why_open or judgement.planning


def published_words(judgement: Judgement) -> str:
    """Return the published value and how far ours lies from it; a dash where none is.

    A cell agrees with what was published of it; what was published elsewhere is compared alone.
    """
    published = judgement.published
    if published is None:
        return "–"
    size = f", n = {published.n:,}" if published.n is not None else ""
    legacy = ", legacy" if published.legacy else ""
    difference = difference_from_published(judgement.estimate, published)
    agrees: dict[bool | None, str] = {True: "consistent", False: "not consistent"}
    where = "not comparable" if difference is None else "elsewhere"
    signed = is_signed(judgement.estimate.unit)
    text = f"{number(published.value, sign=signed)}{size}{legacy}"
    text = f"{text} ({agrees.get(judgement.consistent, where)})"
    if difference is None:
        return text
    value, low, high = (
        number(x, sign=True) for x in (difference.value, difference.low, difference.high)
    )
    return f"{text}; ours less it {value} [{low}, {high}]"


def floor_words(judgements: Iterable[Judgement]) -> list[str]:
    """Return one line for each cell with a noise floor: how far rounding may move a mean."""
    floors = {cell_words(j): j.floor_nats for j in judgements if j.floor_nats is not None}
    return [
        f"{cell}: measured again (in other batches, keys rotated there and back) a mean moves by "
        f"at most {floor:.1e} nats/token, which is rounding"
        for cell, floor in floors.items()
    ]


def counts(judgements: Iterable[Judgement]) -> dict[str, int]:
    """Count judgements by verdict, every verdict present."""
    verdicts: list[str] = [judgement.verdict for judgement in judgements]
    return {verdict: verdicts.count(verdict) for verdict in VERDICT_STYLES}
