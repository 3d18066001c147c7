"""Notes beside rows, so that stored rows are explained and shown without their model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from claims.harness.claims import CellKey
from kvcore.measurements.base import MeasureRequest
from kvcore.measurements.needs import EVERY_LAYER, Need
from kvcore.store import texts


def keep_explanations(
    folder: Path | None, key: CellKey, seed: int, explained: Iterable[Mapping[str, Any]]
) -> None:
    """Keep how a cell's conditions were explained on one sample, beside its rows."""
    if folder is not None:
        start = _start(key, seed)
        texts.save(folder, {f"{start}{e['condition']}": e for e in explained}, texts.EXPLANATIONS)


def explanations(
    folder: Path | None, key: CellKey, seed: int, needs: Iterable[str]
) -> list[Mapping[str, Any]]:
    """Return the explanations that are kept of a cell, of the conditions that some needs name."""
    if folder is None:
        return []
    start = _start(key, seed)
    asked = {start + name for need in needs for name in (need, condition_of(need))}
    kept = texts.load(folder, asked, texts.EXPLANATIONS)
    return [kept[name] for name in sorted(kept)]


def condition_of(need: str) -> str:
    """Return the condition that is explained of a need; of a sweep over layers, its first one."""
    return Need.read(need).condition.replace(EVERY_LAYER, "0")


def _start(key: CellKey, seed: int) -> str:
    return f"{key.kind}/{key.model}/{key.dataset}/{seed}/"


def token_key(tokenizer: str, sample_hash: str) -> str:
    """Return the key under which it is kept where the tokens of a sample's answer end."""
    return f"{tokenizer}/{sample_hash}"


def keep_token_ends(folder: Path | None, rows: pd.DataFrame, load: Callable[[], Any]) -> None:
    """Keep beside rows of answers where each token of the answers ends.

    - `rows`: of one tokenizer; samples without a text beside them are left out.
    - `load`: returns that tokenizer, a fast one of transformers; called where something is missing.
    """
    if folder is None or "token_nlls" not in rows:
        return
    name, known = str(rows["tokenizer"].iloc[0]), texts.known(folder, texts.TOKENS)
    missing = [h for h in set(rows["sample_hash"]) if token_key(name, h) not in known]
    kept = texts.load(folder, missing)
    if not kept:
        return
    tokenizer = load()
    if getattr(tokenizer, "is_fast", False):
        ends = {
            token_key(name, h): {"ends": ends_of(tokenizer, t["answer"])} for h, t in kept.items()
        }
        texts.save(folder, ends, texts.TOKENS)


def tokenizer_of(request: MeasureRequest) -> Any:
    """Return the tokenizer of a cell's model."""
    return request.load().tokenizer


def ends_of(tokenizer: Any, answer: str) -> list[int]:
    """Return where each token of the answer ends, in characters; it is scored behind a space."""
    encoded: Mapping[str, Any] = tokenizer(
        f" {answer}",
        add_special_tokens=False,
        split_special_tokens=True,
        return_offsets_mapping=True,
    )
    return [max(0, end - 1) for _, end in encoded["offset_mapping"]]
