"""The table of the priming family: its claims over models and corpora, published values beside."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kvcore.verdict import Judgement
from reports.markdown.places import Place, by_place, columns
from reports.markdown.spelling import LETTERS, interval_text, models_of, number

FAMILY = "priming"
Published = Sequence[Mapping[str, Any]]
"""Published values as `claims/published.toml` has them, without their ids."""


def read_published(path: Path) -> Published:
    """Read the published values from their file."""
    return tuple(tomllib.loads(path.read_text(encoding="utf-8")).values())


def table(judgements: Sequence[Judgement], published: Published) -> dict[str, Any]:
    """Return headings and rows: a line a claim, a column a place, published places last.

    What was published of a model that was judged is left out: it is of fewer of the same rows.
    """
    own = [j for j in judgements if j.claim.family == FAMILY]
    judged, models = by_place(own), models_of(judgements)
    elsewhere = [value for value in published if value["model"] not in models]
    about = {c: published_of(next(iter(cells.values())), elsewhere) for c, cells in judged.items()}
    others = list(dict.fromkeys(place for values in about.values() for place in values))
    places = columns(own, models)
    rows = [
        {
            "statement": next(iter(cells.values())).claim.statement.splitlines()[0],
            "metric": next(iter(cells.values())).cell.metric,
            "cells": [_cell(cells.get(place)) for place in places],
            "published": [about[claim].get(place, "–") for place in others],
        }
        for claim, cells in judged.items()
    ]
    return {"places": places, "published": others, "rows": rows}


def _cell(judgement: Judgement | None) -> str:
    """Return an estimate with its interval, its verdict and n; a dash where nothing was judged."""
    if judgement is None:
        return "–"
    e = judgement.estimate
    return f"{interval_text(e)} {LETTERS[judgement.verdict]} (n = {e.n:,})"


def published_of(judgement: Judgement, published: Published) -> dict[Place, str]:
    """Return what was published of the two conditions and the metric of a judgement, by place.

    The first value of a place counts; one of the study's first version is marked.
    """
    told: dict[Place, str] = {}
    for value in published:
        pair = (value.get("baseline"), value.get("condition"))
        alike = (value["unit"], value["metric"]) == (judgement.estimate.unit, judgement.cell.metric)
        if alike and pair == judgement.conditions:
            n = f", n = {value['n']:,}" if value.get("n") else ""
            mark = " ‡" if value.get("legacy") else ""
            text = f"{number(value['effect'])}{n}{mark}"
            told.setdefault((value["model"], value["dataset"]), text)
    return told
