"""What the claims of a run have in common over models: what holds, flips, is small or open."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvcore.verdict import Judgement
from reports.markdown.places import ByPlace, Place, on_main_data, place_names
from reports.markdown.spelling import interval_text
from reports.words import is_signed

SHOWN = 5
"""How many claims of a section are spelled out; the others are named."""
NEAR, FAR = 1_500, 10_000
"""Samples that the docstrings have, about, and that no corpus here has."""

CONTROL = 0.001
"""The largest margin of a claim that two ways to the same cache agree, in its unit."""


@dataclass(frozen=True)
class Section:
    """Claims with something in common: the clearest in sentences, the rest by name."""

    lines: tuple[str, ...]
    rest: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many claims there are."""
        return len(self.lines) + len(self.rest)


@dataclass(frozen=True)
class Open:
    """What is open on a model: the claims whose verdict cannot be told, by the n they need."""

    model: str
    judged: int
    open: int
    near: int  # would be settled by `NEAR` samples
    far: int  # by `FAR`, not by `NEAR`
    beyond: int  # by more than `FAR`
    few: int  # too few clusters tell of the effect
    elsewhere: int  # claims that were judged on other models alone
    lines: tuple[str, ...]  # those that the fewest samples would settle

    @property
    def unplanned(self) -> int:
        """How many no number of samples is named for, though enough clusters tell of them."""
        return self.open - self.near - self.far - self.beyond - self.few


def on_several_models(judged: ByPlace) -> dict[str, Mapping[Place, Judgement]]:
    """Return the claims that were judged on two models or more."""
    return {claim: own for claim, own in judged.items() if len({m for m, _ in own}) > 1}


def sentence(own: Mapping[Place, Judgement], *, came_out: bool = False) -> str:
    """Return a claim's statement with its effect in each place, and what came out if asked for."""
    first = next(iter(own.values()))
    unit = first.estimate.unit
    figures = [
        f"{interval_text(j.estimate)} on {place}" + (f" ({j.words})" if came_out else "")
        for place, j in zip(place_names(own), own.values(), strict=True)
    ]
    statement = first.claim.statement.splitlines()[0].rstrip(". ")
    return f"{statement}: {unit} {', '.join(figures)}"


def in_common(
    judged: ByPlace, verdict: str, *, small: bool = False, came_out: bool = False
) -> Section:
    """Return the claims with the same verdict in every place, on two models or more.

    Those come first whose effect is furthest from 0 where it is nearest to it, in its own standard
    errors. Claims that say that something is small are those where the interval lies within the
    margin everywhere: they are in a section of their own (`small`), and in no other.
    """
    chosen = {
        claim: own
        for claim, own in on_several_models(judged).items()
        if is_small(own) == small and (small or all(j.verdict == verdict for j in own.values()))
    }
    return section(chosen, clearness, came_out=came_out)


def is_small(own: Mapping[Place, Judgement]) -> bool:
    """Whether a claim's effect is too small to matter in every place."""
    return all(j.reading == "negligible" for j in own.values())


def is_control(own: Mapping[Place, Judgement]) -> bool:
    """Whether a claim says that two ways to the same cache agree, and they do in every place."""
    prediction = next(iter(own.values())).claim.prediction
    exact = prediction.name == "negligible" and prediction.margin <= CONTROL
    return exact and is_small(own)


def clearness(own: Mapping[Place, Judgement]) -> tuple[bool, float]:
    """Return what puts claims in order: first those of which the opposite came out everywhere."""
    return all(j.reading == "reversed" for j in own.values()), strength(own)


def strength(own: Mapping[Place, Judgement]) -> float:
    """Return how far the effect is from 0 in the place where it is nearest, in half-widths.

    Shares, which have no 0 to be far from, come last.
    """
    if not is_signed(next(iter(own.values())).estimate.unit):
        return 0.0
    return min(abs(j.estimate.value) / (j.estimate.half_width or 1e-300) for j in own.values())


def section(
    chosen: Mapping[str, Mapping[Place, Judgement]],
    key: Callable[[Mapping[Place, Judgement]], Any],
    *,
    came_out: bool = False,
) -> Section:
    """Put claims in order, the largest key first, and spell out the first of them."""
    ordered = sorted(sorted(chosen), key=lambda claim: key(chosen[claim]), reverse=True)
    lines = tuple(sentence(chosen[claim], came_out=came_out) for claim in ordered[:SHOWN])
    return Section(lines, tuple(sorted(ordered[SHOWN:])))


def flips(judged: ByPlace) -> dict[str, Mapping[Place, Judgement]]:
    """Return the claims whose interval lies above 0 in one place and below it in another.

    A claim that is supported in every place says nothing of a sign, and is left out. Shares and
    areas under a curve have no 0 to lie on one side of.
    """
    return {
        claim: own
        for claim, own in judged.items()
        if turns(own.values()) and any(j.verdict != "supported" for j in own.values())
    }


def turns(judgements: Iterable[Judgement]) -> bool:
    """Whether one interval lies above 0 and another below it."""
    own = list(judgements)
    return any(map(above, own)) and any(map(below, own))


def above(judgement: Judgement) -> bool:
    """Whether an interval lies above 0."""
    return judgement.estimate.ci_low > 0


def below(judgement: Judgement) -> bool:
    """Whether an interval lies below 0."""
    return judgement.estimate.ci_high < 0


def spread(own: Mapping[Place, Judgement]) -> float:
    """Return how far the effects of a claim lie apart."""
    values = [j.estimate.value for j in own.values()]
    return max(values) - min(values)


def still_open(judged: ByPlace, models: Sequence[str]) -> list[Open]:
    """Return for each model what is open on the data that it was judged on first."""
    main = [on_main_data(own) for own in judged.values()]
    return [
        open_on(model, [own[model] for own in main if model in own], len(main)) for model in models
    ]


def open_on(model: str, judgements: Sequence[Judgement], claims: int) -> Open:
    """Count the open judgements of a model, of so many claims, by what would settle them."""
    open_ = [j for j in judgements if j.verdict == "inconclusive"]
    few = [j for j in open_ if j.why_open]
    needs = sorted(
        ((j.required_n, j) for j in open_ if j.required_n and not j.why_open),
        key=lambda pair: (pair[0], pair[1].claim.id),
    )
    nearest = tuple(
        f"{sentence({(model, j.cell.dataset): j})}, n = {j.estimate.n:,}; about {n:,} are needed"
        for n, j in needs[:2]
    )
    return Open(
        model=model,
        judged=len(judgements),
        open=len(open_),
        near=sum(n <= NEAR for n, _ in needs),
        far=sum(NEAR < n <= FAR for n, _ in needs),
        beyond=sum(n > FAR for n, _ in needs),
        few=len(few),
        elsewhere=claims - len(judgements),
        lines=nearest,
    )


@dataclass(frozen=True)
class Corpora:
    """A model's claims on a second corpus beside its first one."""

    model: str
    first: str
    second: str
    same: tuple[str, ...]  # the same verdict on both, and it is one
    turned: tuple[str, ...]  # supported on one, refuted on the other
    open: tuple[str, ...]  # open on one of them or both, with the samples that would settle it


def on_other_corpora(judged: ByPlace) -> list[Corpora]:
    """Compare the verdicts on a further corpus with those on a model's first one."""
    pairs: dict[tuple[str, str, str], dict[str, tuple[Judgement, Judgement]]] = {}
    for claim, own in judged.items():
        main = on_main_data(own)
        for (model, dataset), judgement in own.items():
            first = main[model]
            if first is not judgement:
                place = (model, first.cell.dataset, dataset)
                pairs.setdefault(place, {})[claim] = (first, judgement)
    return [_compared(*place, own) for place, own in pairs.items()]


def _compared(
    model: str, first: str, second: str, on_both: Mapping[str, tuple[Judgement, Judgement]]
) -> Corpora:
    verdicts = {claim: {j.verdict for j in pair} for claim, pair in on_both.items()}
    decided = {claim: own for claim, own in verdicts.items() if "inconclusive" not in own}
    same = tuple(sorted(claim for claim, own in decided.items() if len(own) == 1))
    turned = tuple(sorted(claim for claim in decided if claim not in same))
    open_ = tuple(
        f"`{claim}` ({_open_on(pair)})"
        for claim, pair in sorted(on_both.items())
        if claim not in decided
    )
    return Corpora(model, first, second, same, turned, open_)


def _open_on(pair: Iterable[Judgement]) -> str:
    """Say on which data of two a claim is open, with how many samples, and how many it needs."""
    return ", ".join(
        f"on {j.cell.dataset} with n = {j.estimate.n:,}"
        + (f"; about {j.required_n:,} are needed" if j.required_n and not j.why_open else "")
        for j in pair
        if j.verdict == "inconclusive"
    )
