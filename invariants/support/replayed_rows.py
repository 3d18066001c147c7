"""Keys and rows of a store as a run would have left it, for the replay of the published record."""

from __future__ import annotations

from typing import Any

from kvcore.measurements.base import MeasurementKind, Place
from kvcore.measurements.kinds.answer_nll import template_of
from kvcore.measurements.needs import Need, dataset_of
from kvcore.measurements.registry import kind_of
from kvcore.models.registry import entry_of

TOKENS = 4
Row = dict[str, Any]


def key(kind: MeasurementKind, place: Place, need: Need, sample: str, seed: int = 0) -> Row:
    """Return the key of one row, its status and cluster."""
    model, dataset = place
    base = {"answer_nll": dataset_of(dataset, need.sample_set)}.get(kind.name, dataset)
    return {
        "model": model,
        "model_id": "0" * 64,
        "dtype": entry_of(model).dtype,
        "tokenizer": "sentencepiece:0",
        "dataset": base,
        "sample_id": sample,
        "sample_hash": "0" * 32,
        "condition": need.condition,
        "seed": seed,
        "template": template_of(need.target) if kind.name == "answer_nll" else "text:0",
        "method": kind.method(need.condition),
        "code": kind.code,
        "status": "ok",
        "cluster": sample,
    }


def scored(place: Place, spelled: str, sample: str, nll: float, **changed: Any) -> Row:
    """Return one row of a score that is the same for each answer token."""
    kind, need = kind_of("answer_nll"), Need.read(spelled)
    numbers = {
        "nll": nll,
        "nll_tail": nll,
        "token_nlls": [nll] * TOKENS,
        "n_answer_tokens": TOKENS,
        "doc_len": 130,
        "prefix_len": 12,
        "cache_len": 131,
        "clean_boundary": 0,
    }
    return key(kind, place, need, sample) | numbers | changed
