"""Which rows the dynamics of prefill need, by key, and how they are filled in."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kvcore.data.texts import Text
from kvcore.engine import hooks
from kvcore.measurements import answer_nll_rows, hidden_states
from kvcore.measurements.continuations import LEAST_TOKENS, NEW_TOKENS, load_continuations
from kvcore.measurements.hidden_states import TokenText
from kvcore.models.files import ModelFiles
from kvcore.models.lm import LM
from kvcore.store.code_hash import package_hash
from kvcore.store.fill import Score
from kvcore.store.schema import COUNT, NUMBER, NUMBERS, TEXTS, RowSchema, clean

STATS = ("smoothness", "norm", "norm_variance", "relative_step", "cosine")
TRACED = 0.8  # share of the depth at which single steps are kept: where the gap was largest
DYNAMICS = RowSchema(
    {
        "ce": NUMBER,
        "ce_continuation": NUMBER,
        "n_tokens": COUNT,
        "n_continuation": COUNT,
        **dict.fromkeys(STATS, NUMBERS),
        "tokens": TEXTS,
        "token_kinds": TEXTS,
        "token_steps": NUMBERS,
        "token_nlls": NUMBERS,
    },
    "ce",
)
FOLDER = "_dynamics"  # in the store's
NUMBER_MODULES = (
    "gguf",
    "tokens",
    "masks",
    "cache",
    "forward",
    "generation",
    "activations",
    "sources",
)


@functools.cache
def code() -> str:
    """Return the hash of the number-producing modules, comments and docstrings left out."""
    return package_hash()


def rows(
    files: ModelFiles, dataset: str, texts: Sequence[Text], sources: Sequence[str], seed: int
) -> pd.DataFrame:
    """List the keys of all rows that are wanted: every text by every source."""
    rule = hashlib.sha256(f"{NEW_TOKENS} {LEAST_TOKENS}".encode()).hexdigest()[:12]
    return answer_nll_rows.keys(
        files,
        dataset,
        [
            (
                clean(text.id),
                text.content_hash,
                source,
                f"continuation:{rule}",
                code(),
                len(text.prompt + text.continuation),
            )
            for text in texts
            for source in sources
        ],
        seed,
    )


def scorer(
    load: Callable[[], LM], texts: Sequence[Text], root: Path, batch_tokens: int | None
) -> Score:
    """Make the function that measures wanted rows: the model is loaded by its first call."""
    by_id = {clean(text.id): text for text in texts}

    def score(todo: pd.DataFrame) -> pd.DataFrame:
        lm = load()
        asked = [by_id[name] for name in dict.fromkeys(todo["sample_id"])]
        found = load_continuations(
            lm,
            asked,
            list(dict.fromkeys(todo["condition"])),
            seed=int(todo["seed"].iloc[0]),
            root=root,
            batch_tokens=batch_tokens,
        )
        usable = {(text.id, text.source): text for text in found.texts}
        measured = _measured(lm, list(usable.values()), batch_tokens)
        made = []
        for name, source, template in zip(
            todo["sample_id"], todo["condition"], todo["template"], strict=True
        ):
            own = by_id[name].id
            row = measured.get((own, source)) or {"status": found.unusable.get(own, "no text")}
            made.append(
                row
                | {"sample_id": name, "condition": source, "template": template, "cluster": name}
            )
        return pd.DataFrame(made).reindex(
            columns=["sample_id", "condition", "template", *DYNAMICS.values]
        )

    return score


def _measured(
    lm: LM, texts: Sequence[TokenText], batch_tokens: int | None
) -> dict[tuple[str, str], dict[str, Any]]:
    """Measure texts: a row of what `DYNAMICS` holds for each."""
    layer = max(0, round(TRACED * len(hooks.layers_of(lm))) - 1)
    layers = hidden_states.dynamics(lm, texts, batch_tokens=batch_tokens)
    steps = hidden_states.trace(lm, texts, layer, batch_tokens=batch_tokens)
    traced = {place: part for place, part in steps.groupby(["id", "source"], sort=False)}
    made: dict[tuple[str, str], dict[str, Any]] = {}
    for row in layers.to_dict("records"):
        place = (row.pop("id"), row.pop("source"))
        if place in traced:
            part = traced[place]
            row |= {
                "tokens": part["token"].tolist(),
                "token_kinds": part["kind"].tolist(),
                "token_steps": part["step"].tolist(),
                "token_nlls": part["nll"].tolist(),
            }
        made[place] = row
    return made
