"""Which rows the divergence of two conditions needs, by key, and how they are filled in."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import pandas as pd

from kvcore.data.sample import Sample
from kvcore.errors import KvError
from kvcore.measurements import answer_nll_rows
from kvcore.measurements.divergence import between
from kvcore.models.files import ModelFiles
from kvcore.models.lm import LM
from kvcore.store.code_hash import package_hash
from kvcore.store.fill import Score
from kvcore.store.schema import NUMBER, RowSchema, clean

DIVERGENCE = RowSchema(
    dict.fromkeys(("js", "kl", "kl_back", "kept_first", "kept_second"), NUMBER), "js"
)
FOLDER = "_divergence"  # in the store's
AGAINST = "~"  # between the names of two conditions: ``bare~random``
NUMBER_MODULES = (*answer_nll_rows.NUMBER_MODULES, "divergence")


@functools.cache
def code() -> str:
    """Return the hash of the number-producing modules, comments and docstrings left out."""
    return package_hash()


def split(pair: str) -> tuple[str, str]:
    """Return the two conditions of a pair as claims spell it, ``bare~random``."""
    first, found, second = pair.partition(AGAINST)
    if not found:
        raise KvError(f"pair {pair!r}: write two conditions with {AGAINST!r} between them.")
    return first, second


def rows(
    files: ModelFiles, dataset: str, samples: Sequence[Sample], pairs: Sequence[str], seed: int
) -> pd.DataFrame:
    """List the keys of all rows that are wanted: every sample with every pair."""
    return answer_nll_rows.keys(
        files,
        dataset,
        [
            (clean(s.id), s.content_hash, pair, answer_nll_rows.template(), code(), len(s.passage))
            for s in samples
            for pair in pairs
        ],
        seed,
    )


def scorer(load: Callable[[], LM], samples: Sequence[Sample], batch_tokens: int | None) -> Score:
    """Make the function that measures wanted rows: the model is loaded by its first call."""
    by_id = {clean(sample.id): sample for sample in samples}

    def score(todo: pd.DataFrame) -> pd.DataFrame:
        parts = []
        for pairs, part in _alike(todo):
            asked = [by_id[name] for name in part]
            found = between(
                load(),
                asked,
                [split(pair) for pair in pairs],
                seed=int(todo["seed"].iloc[0]),
                batch_tokens=batch_tokens,
            )
            names = [name for name in part for _ in pairs]
            parts.append(
                found.assign(
                    sample_id=names,
                    condition=[*pairs] * len(part),
                    template=answer_nll_rows.template(),
                    cluster=[clean(by_id[n].cluster) for n in names],
                )
            )
        return pd.concat(parts, ignore_index=True)

    return score


def _alike(todo: pd.DataFrame) -> list[tuple[tuple[str, ...], list[str]]]:
    """Group the samples that want the same pairs."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, part in todo.groupby("sample_id", sort=True):
        groups.setdefault(tuple(part["condition"]), []).append(str(name))
    return list(groups.items())
