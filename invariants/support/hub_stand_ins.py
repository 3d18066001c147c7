"""Small stand-ins of the hub's models and datasets: its files' schema, random weights and words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features, Value

from invariants.support.hub_cards import CARDS, nq_answers, nq_page, written
from invariants.support.hub_models import PUBLISHED, save
from invariants.support.published_pairs import FAIRYTALES, MAWPS_GOOD, fairytale_file, mawps_file
from kvcore.data import hub as data_hub
from kvcore.data import present
from kvcore.data.datasets import HUB
from kvcore.models import hub as model_hub
from kvcore.models import registry

ROWS = 40
PAGE = 300  # words of a page of Natural Questions: the whole of one is too long for these models
POSITIONS = 4096
WORDS = (
    "axis entries window spectrum kernel bounds sorted sparse number shape filter matrix label "
    "column random order signal value water stone river market early paper north light"
).split()
IDS = ("id", "query_id", "pubid")
ASKED_TWICE = {"squad_v2": "context", "narrativeqa": "document"}
"""Columns of what two questions in a row are about: each is a past query of the other."""


def varied(value: Any, rng: np.random.Generator) -> Any:
    """Return a value of a row with other words, as many, in place of its own; markup stays."""
    if isinstance(value, str):
        return " ".join(w if w[:1] == "<" else str(rng.choice(WORDS)) for w in value.split())
    if isinstance(value, dict):
        return {name: part if name in IDS else varied(part, rng) for name, part in value.items()}
    return [varied(part, rng) for part in value] if isinstance(value, list) else value


def rows_like(name: str) -> list[dict[str, Any]]:
    """Return rows of a dataset that differ in every text, in its card's schema."""
    rng = np.random.default_rng(1)
    rows: list[dict[str, Any]] = []
    for number in range(ROWS):
        row = varied(CARDS[name].row, rng)
        if name in ASKED_TWICE and number % 2:
            row[ASKED_TWICE[name]] = rows[-1][ASKED_TWICE[name]]
        if name == "natural_questions":
            row |= nq_page([str(rng.choice(WORDS)) for _ in range(PAGE)])
            row |= nq_answers((2, row["document"]["tokens"]["token"][1]))
        own = {
            key: number if isinstance(row[key], int) else f"{number}" for key in IDS if key in row
        }
        rows.append(row | own)
    return rows


def paragraphs(folder: Path) -> Path:
    """Write WikiText's test split: a paragraph a row, two sentences each, of some 100 tokens."""
    rng = np.random.default_rng(2)
    texts = [
        f" The {' '.join(rng.choice(WORDS, 5))} . It {' '.join(rng.choice(WORDS, 13))} . \n"
        for _ in range(ROWS)
    ]
    path = folder / "wikitext.parquet"
    rows = [{"text": text} for text in texts]
    Dataset.from_list(rows, features=Features({"text": Value("string")})).to_parquet(path)
    return path


def write_datasets(folder: Path) -> Mapping[str, list[Path]]:
    """Write every dataset of the hub that claims are judged on; return the files by name."""
    folder.mkdir()
    own = {
        name: [
            written(folder, name, rows_like(name)[n :: len(HUB[name].files)])
            for n in range(len(HUB[name].files))
        ]
        for name in CARDS
    }
    return own | {
        "wikitext2": [paragraphs(folder)],
        "mawps": [mawps_file(folder, MAWPS_GOOD)],
        "fairytaleqa": [fairytale_file(folder, FAIRYTALES[n::3]) for n in range(3)],
    }


def write_models(folder: Path) -> Mapping[str, Path]:
    """Write a checkpoint of every published architecture; return the folders by repository."""
    folders = {}
    for name, config in PUBLISHED.items():
        own = folder / name
        own.mkdir(parents=True)
        text = config.get("text_config")
        longer = (
            config | {"text_config": text | {"max_position_embeddings": POSITIONS}}
            if text
            else config | {"max_position_embeddings": POSITIONS}
        )
        save(name, own, longer)
        folders[registry.REGISTRY[name].source.partition(":")[2]] = own
    return folders


def put_in_place(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Let models and datasets of the hub be these stand-ins, whole and in float32."""
    models, data = write_models(folder / "models"), write_datasets(folder / "data")
    for name in PUBLISHED:
        entry = dataclasses.replace(registry.REGISTRY[name], dtype="float32", quantization=None)
        patch.setitem(registry.REGISTRY, name, entry)
    patch.setattr(model_hub, "snapshot", lambda repo, *_, **__: models[repo])
    for module in (data_hub, present):
        patch.setattr(module, "cached_files", lambda dataset: data[dataset.name])
