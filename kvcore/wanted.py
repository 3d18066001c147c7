"""Which rows a configuration needs, by key, and how the engine fills them in."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from kvcore.corpora import Sample
from kvcore.store import KEY, clean, code_hash
from kvcore.tokens import ANSWER, PROMPT

if TYPE_CHECKING:
    from kvcore.measure import Score
    from kvcore.models import LM, ModelFiles

# The modules whose code decides what a number is; a change in any of them makes new keys.
NUMBER_MODULES = ("gguf", "tokens", "rope", "masks", "cache", "forward", "conditions", "scoring")
_RECORDED = ("torch", "transformers", "numpy", "bitsandbytes")


@functools.cache
def code() -> str:
    """Return the hash of the number-producing modules, comments and docstrings left out."""
    folder = Path(__file__).parent
    return code_hash(folder / f"{name}.py" for name in NUMBER_MODULES)


def template() -> str:
    """Return the hash of the query prompt and the answer template."""
    return hashlib.sha256(f"{PROMPT}\x1f{ANSWER}".encode()).hexdigest()[:12]


def rows(files: ModelFiles, dataset: str, asked: Mapping[str, Sequence[Sample]], seed: int
         ) -> pd.DataFrame:
    """List the keys of all rows that are wanted.

    Parameters
    ----------
    files : ModelFiles
        From `kvcore.models.locate`.
    dataset : str
    asked : mapping of condition name to samples
        A control may be asked of fewer samples than the claims' conditions.
    seed : int

    Returns
    -------
    pandas.DataFrame
        Columns `KEY` and ``length`` (characters, for grouping samples of similar cost).
    """
    shared = {
        "model": files.name, "model_id": files.model_id, "dtype": files.dtype,
        "tokenizer": files.tokenizer_id, "dataset": dataset, "seed": seed,
        "template": template(), "code": code()}
    listed = [(clean(sample.id), sample.content_hash, name, len(sample.passage))
              for name, samples in asked.items() for sample in samples]
    columns = dict(zip(("sample_id", "sample_hash", "condition", "length"),
                       map(list, zip(*listed, strict=True)), strict=True))
    return pd.DataFrame(columns | {k: [v] * len(listed) for k, v in shared.items()})[
        [*KEY, "length"]]


def scorer(load: Callable[[], LM], samples: Sequence[Sample], batch_tokens: int | None) -> Score:
    """Make the function that scores wanted rows: the model is loaded by its first call."""
    by_id = {clean(sample.id): sample for sample in samples}
    loaded = functools.cache(load)

    def score(todo: pd.DataFrame) -> pd.DataFrame:
        from kvcore.conditions import condition
        from kvcore.scoring import score_pairs

        pairs = [(by_id[name], [condition(c) for c in part["condition"]])
                 for name, part in todo.groupby("sample_id", sort=True)]
        scored = score_pairs(loaded(), pairs, seed=int(todo["seed"].iloc[0]),
                             batch_tokens=batch_tokens)
        ids = [clean(i) for i in scored["sample_id"]]
        return scored.assign(sample_id=ids, cluster=[clean(by_id[i].cluster) for i in ids])

    return score


def provenance(device: str) -> dict[str, str]:
    """Return what is recorded with every shard: library versions, device, attention backend."""
    versions = {name: importlib.metadata.version(name) for name in _RECORDED}
    return versions | {"device": device, "machine": platform.machine(), "attention": "sdpa",
                       "python": platform.python_version()}
