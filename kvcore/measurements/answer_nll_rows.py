"""Which rows a configuration needs, by key, and how the engine fills them in."""

from __future__ import annotations

import functools
import hashlib
import importlib
import platform
from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from kvcore.conditions.parse import condition
from kvcore.conditions.recipes import Condition
from kvcore.conditions.registry import recipe_of_defined
from kvcore.data.sample import Sample
from kvcore.errors import unknown
from kvcore.measurements.answer_nll import score_pairs
from kvcore.models.files import ModelFiles
from kvcore.models.lm import LM
from kvcore.store.code_hash import package_hash
from kvcore.store.fill import Score
from kvcore.store.schema import KEY, clean
from kvcore.tokenization import TARGETS

# The modules whose code decides what a number is; a change in any of them makes new keys.
NUMBER_MODULES = (
    "gguf",
    "sdpa",
    "tokens",
    "rope",
    "masks",
    "cache",
    "branching",
    "forward",
    "conditions",
    "scoring",
)
_RECORDED = ("torch", "transformers", "numpy", "bitsandbytes")


@functools.cache
def code() -> str:
    """Return the hash of the number-producing modules, comments and docstrings left out."""
    return package_hash()


@functools.cache
def template(target: str = "answer") -> str:
    """Return a target's name and the hash of its two texts."""
    if target not in TARGETS:
        raise unknown("target", target, TARGETS)
    asked = TARGETS[target]
    texts = f"{asked.prompt}\x1f{asked.answer}"
    return f"{target}:{hashlib.sha256(texts.encode()).hexdigest()[:12]}"


def target_of(spelled: str) -> str:
    """Return the target's name in a stored template."""
    return spelled.split(":")[0]


def rows(
    files: ModelFiles, dataset: str, asked: Mapping[tuple[str, str], Sequence[Sample]], seed: int
) -> pd.DataFrame:
    """List the keys of all rows that are wanted.

    Parameters
    ----------
    files : ModelFiles
        From `kvcore.models.locate`.
    dataset : str
    asked : mapping of (condition name, target) to samples
        A control may be asked of fewer samples than the claims' conditions.
    seed : int

    Returns
    -------
    pandas.DataFrame
        Columns `KEY` and ``length`` (characters, for grouping samples of similar cost).
    """
    listed: list[tuple[str, str, str, str, str, int]] = []
    for (name, target), samples in asked.items():
        given = condition(name)
        own = [p.text for p in given.prefixes() if p.kind == "own"]
        same = (name, template(target), _code_of(given))
        listed += [(clean(s.id), s.hash_with(own), *same, _cost(s)) for s in samples]
    return keys(files, dataset, listed, seed)


def keys(
    files: ModelFiles,
    dataset: str,
    listed: Sequence[tuple[str, str, str, str, str, int]],
    seed: int,
) -> pd.DataFrame:
    """Make keys of what tells rows apart: sample id and hash, condition, template, code, length."""
    shared = {
        "model": files.name,
        "model_id": files.model_id,
        "dtype": files.dtype,
        "tokenizer": files.tokenizer_id,
        "dataset": dataset,
        "seed": seed,
    }
    columns = ("sample_id", "sample_hash", "condition", "template", "code", "length")
    found = dict(zip(columns, map(list, zip(*listed, strict=True)), strict=True))
    return pd.DataFrame(found | {k: [v] * len(listed) for k, v in shared.items()})[[*KEY, "length"]]


def _code_of(given: Condition) -> str:
    """Return the code's hash, with the recipe's where a user defined it."""
    recipe = recipe_of_defined(given.name)
    return (
        hashlib.sha256(f"{code()}{recipe}".encode()).hexdigest()[: len(code())]
        if (recipe)
        else code()
    )


def _cost(sample: Sample) -> int:
    """Return the characters that the model reads, about; padding has 4 of them to a token."""
    return len(sample.passage) if sample.length is None else 4 * sample.length


def scorer(
    load: Callable[[], LM], samples: Mapping[str, Sequence[Sample]], batch_tokens: int | None
) -> Score:
    """Make the function that scores wanted rows: the model is loaded by its first call.

    Parameters
    ----------
    load : callable
    samples : mapping of str to sequence of Sample
        By the dataset's name in the rows' keys.
    batch_tokens : int or None
    """
    known = {dataset: {clean(s.id): s for s in some} for dataset, some in samples.items()}
    loaded = functools.cache(load)

    def score(todo: pd.DataFrame) -> pd.DataFrame:
        by_id = known[todo["dataset"].iloc[0]]
        pairs = [
            (by_id[name], target_of(spelled), [condition(c) for c in part["condition"]])
            for (name, spelled), part in todo.groupby(["sample_id", "template"], sort=True)
        ]
        scored = score_pairs(
            loaded(), pairs, seed=int(todo["seed"].iloc[0]), batch_tokens=batch_tokens
        )
        ids = [clean(i) for i in scored["sample_id"]]
        return scored.assign(
            sample_id=ids,
            template=[template(t) for t in scored["target"]],
            cluster=[clean(by_id[i].cluster) for i in ids],
        )

    return score


def provenance(lm: LM) -> dict[str, str]:
    """Return what is recorded with every shard: library versions, device, attention backend."""
    versions = {name: importlib.metadata.version(name) for name in _RECORDED}
    return versions | {
        "device": str(lm.device),
        "machine": platform.machine(),
        "attention": str(lm.config._attn_implementation),
        "python": platform.python_version(),
    }
