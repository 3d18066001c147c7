"""Whether the attention sink explains what truncation does: with the sink dropped and kept."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kvcore.analysis import Estimate
from kvcore.verdict import Judgement
from reports.markdown.outcomes import turns
from reports.markdown.places import Place, place_of
from reports.markdown.spelling import interval_text, models_of, percent

PREFIXES = {"random": "a random prefix", "static_fact": "a fixed question", "oracle": "the query"}
FAMILIES = ("sinks", "priming", "mechanism")
"""Topics whose claims compare a prefix with the bare document on all samples."""
METRIC, METRIC_OF_PLACES = "nll", "place"
SHARE_OF_BOS, HOLDS = "bos-holds-the-sink", 0.1
"""The claim about BOS's share of an answer's attention, and the share from which it is the sink."""
WITHOUT_SINK, MOSTLY = {"static_fact": "no-sink-behind-a-fixed-question"}, 0.8
"""The claims about samples in which no sink forms behind a prefix, and which share is most."""

BY_NONE = {
    "random": "a-kept-sink-gains-more-where-bare-has-none-random",
    "static_fact": "a-fixed-question-costs-less-where-bare-has-no-sink",
    "oracle": "a-kept-sink-gains-more-where-bare-has-none-oracle",
}
"""The claims about what a prefix gains where the bare pass has no sink."""


@dataclass(frozen=True)
class Prefix:
    """What a prefix does on a model, in d over the bare document."""

    name: str
    dropped: Estimate  # the prefix is dropped whole
    kept: Estimate | None  # the sink (where BOS is it: the first four tokens) is kept
    gain: Estimate | None = None  # of keeping the sink over dropping it
    values: Estimate | None = None  # its values under the bare keys
    in_prefix: float | None = None  # share of samples whose sink is a token of the prefix
    without: float | None = None  # share of samples in which no sink forms behind it
    in_sight: Estimate | None = None  # nothing is dropped
    late: Estimate | None = None  # of its values behind the first quarter over those on it
    over_four: Estimate | None = None  # of keeping the sink alone over its first four tokens
    by_none: Estimate | None = None  # r of what it gains over bare with having no sink there

    @property
    def harms(self) -> bool:
        """Whether dropping the prefix makes answers harder."""
        return self.dropped.ci_high < 0

    @property
    def undone(self) -> bool:
        """Whether keeping the sink leaves none of the harm that is seen."""
        gains = self.gain is not None and self.gain.ci_low > 0
        return self.harms and gains and self.kept is not None and self.kept.ci_high >= 0

    @property
    def sizes(self) -> str:
        """Return on how many samples the effects rest."""
        effects = (self.dropped, self.kept, self.gain, self.over_four)
        sizes = sorted({effect.n for effect in effects if effect is not None})
        return f"n = {sizes[0]:,}" + (f" to {sizes[-1]:,}" if len(sizes) > 1 else "")

    @property
    def keeps_sinks_away(self) -> bool:
        """Whether the prefix hurts in sight too, and no sink forms behind it in most samples."""
        in_sight = self.in_sight is not None and self.in_sight.ci_high < 0
        return self.harms and in_sight and self.without is not None and self.without >= MOSTLY

    @property
    def _costs_less(self) -> str:
        if self.by_none is None or self.by_none.ci_low <= 0:
            return ""
        return f". It costs less where the bare pass has none: r {interval_text(self.by_none)}"

    @property
    def words(self) -> str:
        """Say what keeping the sink tells about the harm of dropping the prefix."""
        if self.keeps_sinks_away and self.in_sight and self.without is not None:
            return (
                f"No sink forms behind it in {percent(self.without)} of the samples, and it "
                f"hurts in sight as well ({interval_text(self.in_sight)}): it does not hurt by "
                "being dropped; a missing sink would explain both ([figures](../docs/sinks.md))"
                + self._costs_less
            )
        if not self.harms:
            return "Truncation does no harm that is seen"
        if self.kept is None or self.gain is None:
            return "With the sink kept it was not measured"
        if self.gain.ci_low <= 0:
            found = self.in_prefix is None or self.in_prefix > 0
            why = (
                ""
                if found
                else "no sink is found in it halfway up the layers, so that none is kept, and "
            )
            return f"{why}keeping it does not undo the harm".capitalize()
        if self.undone:
            easier = "answers are then easier than the bare document's"
            left = easier if self.kept.ci_low > 0 else "none that is seen is left"
            return f"One slot, the sink, is enough to undo the harm: {left}"
        return "Keeping the sink undoes a part of the harm"


@dataclass(frozen=True)
class OnModel:
    """Where a model keeps its sink, and what each prefix does there."""

    model: str
    bos_share: Estimate
    prefixes: tuple[Prefix, ...]

    @property
    def bos_holds(self) -> bool:
        """Whether BOS is the sink."""
        return self.bos_share.value >= HOLDS


def by_model(judgements: Sequence[Judgement]) -> list[OnModel]:
    """Return what the topic of sinks tells of each model that has rows of it."""
    told = []
    for model in models_of(judgements):
        own = [j for j in judgements if j.cell.model == model]
        share = next((j for j in own if j.claim.id == SHARE_OF_BOS), None)
        if share is not None:
            told.append(_on_model(model, share, own))
    return told


def _on_model(model: str, share: Judgement, judgements: Iterable[Judgement]) -> OnModel:
    """Gather the prefixes of a model, on the dataset on which its sink was looked for."""
    place = place_of(share)
    own = [
        j
        for j in judgements
        if place_of(j) == place and j.cell.metric in (METRIC, METRIC_OF_PLACES)
    ]
    bos_holds = share.estimate.value >= HOLDS
    prefixes = (_prefix(name, own, bos_holds=bos_holds) for name in PREFIXES)
    return OnModel(model, share.estimate, tuple(p for p in prefixes if p is not None))


def _prefix(name: str, own: Sequence[Judgement], *, bos_holds: bool) -> Prefix | None:
    """Return what a prefix does, or None where it was not measured."""
    dropped = _benefit(own, "bare", name)
    if dropped is None:
        return None
    if bos_holds:
        return Prefix(name, dropped, _benefit(own, "bare", f"keep_first({name},4)"))
    kept = f"keep_sink({name})"
    less, values = (_benefit(own, c, "bare") for c in (kept, f"values_only({name})"))
    inside = f"sink-in-the-prefix-{name.replace('_', '-')}"
    share_of = {j.claim.id: j.estimate.value for j in own}
    first, rest = (f"values_positions({name},{part})" for part in ("0,0.25", "0.25,1"))
    return Prefix(
        name,
        dropped,
        turned(less) if less else None,
        _benefit(own, name, kept),
        turned(values) if values else None,
        share_of.get(inside),
        share_of.get(WITHOUT_SINK.get(name, "")),
        _benefit(own, "bare", f"full_context({name})"),
        _benefit(own, first, rest),
        _benefit(own, f"keep_first({name},4)", kept),
        next((j.estimate for j in own if j.claim.id == BY_NONE[name]), None),
    )


def turned(estimate: Estimate) -> Estimate:
    """Return what a baseline gains over a condition as what the condition gains over it."""
    return replace(
        estimate, value=-estimate.value, ci_low=-estimate.ci_high, ci_high=-estimate.ci_low
    )


def _benefit(judgements: Sequence[Judgement], baseline: str, condition: str) -> Estimate | None:
    """Return the effect d of a condition over another: of the sinks' own rows where there are any.

    `bare` may stand behind the two, as what is shown beside them.
    """
    pair = (baseline, condition)
    about = [
        j
        for j in judgements
        if j.conditions in (pair, (*pair, "bare"))
        and j.estimate.unit == "d"
        and j.claim.family in FAMILIES
    ]
    about.sort(key=lambda j: FAMILIES.index(j.claim.family))
    return about[0].estimate if about else None


def conclusion(
    models: Sequence[OnModel], flipped: Sequence[Mapping[Place, Judgement]]
) -> list[str]:
    """Return what the sink explains, in sentences.

    `flipped`: the judgements of each claim that flips, by place.
    """
    harms = [(m, p) for m in models if not m.bos_holds for p in m.prefixes if p.harms]
    sentences = []
    if harms:
        done = [f"{PREFIXES[p.name]} on {m.model}" for m, p in harms if p.undone]
        away = [f"{PREFIXES[p.name]} on {m.model}" for m, p in harms if p.keeps_sinks_away]
        rest = [
            f"{PREFIXES[p.name]} on {m.model}"
            for m, p in harms
            if not p.undone and not p.keeps_sinks_away
        ]
        sentences.append(
            f"Of {len(harms)} harms of truncation where BOS is not the sink, keeping the sink "
            f"undoes {len(done)}"
            + (f" ({', '.join(done)})" if done else "")
            + (f"; behind {len(away)} no sink forms ({', '.join(away)})" if away else "")
            + (f"; it does not undo {', '.join(rest)}" if rest else "")
            + "."
        )
    gained = [p for _, p in harms if p.undone and p.kept is not None and p.kept.ci_low > 0]
    if gained:
        sentences.append(_of_gains(gained))
    costly = [p for _, p in harms if p.values is not None and p.values.ci_high < 0]
    if costly:
        figures = ", ".join(
            f"{PREFIXES[p.name]} {interval_text(p.values)}" for p in costly if p.values
        )
        sentences.append(
            "Primed values alone, under the bare keys, where no slot is lost, hurt as well "
            f"({figures})."
        )
    early = [p for p in costly if p.late is not None and p.late.ci_low > 0]
    if early:
        figures = ", ".join(
            f"for {PREFIXES[p.name]} by {interval_text(p.late)}" for p in early if p.late
        )
        sentences.append(
            "Values on the document's first quarter, in which the bare keys have the sink, do more "
            f"of it: those on the rest do better than those on it, {figures}. The sink's slot and "
            "its neighbours in that quarter are not told apart."
        )
    if flipped:
        sentences.append(_of_flips({m.model for m in models if m.bos_holds}, flipped))
    return sentences


def _of_gains(prefixes: Sequence[Prefix]) -> str:
    """Say what is behind a gain over the bare document by a prefix whose sink is kept."""
    by_none = [p for p in prefixes if p.by_none is not None and p.by_none.ci_low > 0]
    if not by_none:
        return (
            "Whether what is then gained over the bare document is the prefix's doing, or that of "
            "a larger sink than the bare document has, is open."
        )
    figures = ", ".join(
        f"{PREFIXES[p.name]} r {interval_text(p.by_none)}" for p in by_none if p.by_none
    )
    return (
        "What is then gained over the bare document goes with documents in whose bare pass no sink "
        f"forms ({figures}): it looks like a sink's doing more than the prefix's, though that such "
        "documents are harder may be a part of it ([figures](../docs/sinks.md))."
    )


def _of_flips(on_bos: Container[str], flipped: Sequence[Mapping[Place, Judgement]]) -> str:
    """Say how many claims flip where no sink can be lost, and what is left."""
    between = sum(turns(j for (model, _), j in own.items() if model in on_bos) for own in flipped)
    return (
        f"Of {len(flipped)} claims that flip, {between} do so between places whose models have "
        f"their sink in BOS, where truncation loses none. The other {len(flipped) - between} set a "
        "model with its sink elsewhere against them; there the sink was kept for the three "
        "prefixes above alone."
    )
