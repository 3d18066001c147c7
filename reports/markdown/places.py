"""Which judgement of a claim counts in which place (a model on a dataset)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from kvcore.verdict import Judgement

Place = tuple[str, str]
"""A model and a dataset."""
ByPlace = Mapping[str, Mapping[Place, Judgement]]
"""A claim's id to place to the judgement that counts there: that of its primary metric."""


def place_of(judgement: Judgement) -> Place:
    """Return the model and the dataset of a judgement."""
    return judgement.cell.model, judgement.cell.dataset


def by_place(judgements: Iterable[Judgement]) -> ByPlace:
    """Return a claim's judgement in each place: of its primary metric, of its first where none is.

    Claims and places keep the order of their first appearance.
    """
    counted: dict[str, dict[Place, Judgement]] = {}
    for judgement in judgements:
        own = counted.setdefault(judgement.claim.id, {})
        known = own.setdefault(place_of(judgement), judgement)
        if judgement.primary and not known.primary:
            own[place_of(judgement)] = judgement
    return counted


def on_main_data(own: Mapping[Place, Judgement]) -> dict[str, Judgement]:
    """Return a claim's judgement on each model: that on the first dataset it was judged on."""
    main: dict[str, Judgement] = {}
    for (model, _), judgement in own.items():
        main.setdefault(model, judgement)
    return main


def place_names(own: Mapping[Place, Judgement]) -> list[str]:
    """Name the places of a claim: a model, with its dataset where that is not the first one."""
    main = on_main_data(own)
    return [m if main[m] is judgement else f"{m} × {d}" for (m, d), judgement in own.items()]


def columns(judgements: Iterable[Judgement], models: Sequence[str]) -> list[Place]:
    """Return the places for the columns of a table: model by model, datasets as they appear."""
    seen = dict.fromkeys(map(place_of, judgements))
    return [place for model in models for place in seen if place[0] == model]
