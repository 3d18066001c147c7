"""Context switches that several test modules try, and how they read the results."""

from __future__ import annotations

import numpy as np
import pandas as pd

from invariants.oracle.switched import Plain
from invariants.support.comparing import SCORE_TOLERANCE
from kvcore.conditions import switching
from kvcore.conditions.switching import Switch
from kvcore.models.lm import LM

WAYS = (
    *switching.METHODS,
    "gradual(1)",
    "gradual(3,2)",
    "partial(0)",
    "partial(all)",
    "partial(3)",
    "partial(11)",
    "partial(99)",
)
LISTS = (
    "logp",
    "kl_oracle",
    "kl_ignore",
    "logratio_oracle",
    "logratio_ignore",
    "hidden_similarity",
)


def some_ids(length: int, seed: int) -> tuple[int, ...]:
    """Draw ordinary token ids."""
    return tuple(int(i) for i in np.random.default_rng(seed).integers(3, 384, length))


def a_switch(name: str, original: int, new: int, stream: int, at: float | int, seed: int) -> Switch:
    """Draw a switch of ids, given the lengths of its parts."""
    return Switch(
        name, some_ids(original, seed), some_ids(new, seed + 1), some_ids(stream, seed + 2), at
    )


SAME = Switch("same", some_ids(7, 40), some_ids(7, 40), some_ids(12, 41), 0.5)
GIVEN = (
    a_switch("longer", 6, 11, 14, 0.5, 0),
    a_switch("shorter", 12, 5, 9, 3, 10),
    a_switch("late", 9, 9, 10, 0.75, 20),
    a_switch("early", 4, 8, 20, 1, 30),
    SAME,
)


def plain_of(switch: Switch) -> Plain:
    """Cut a switch of ids as its fields say."""
    original, new, stream = (
        tuple(map(int, ids)) for ids in (switch.original, switch.new, switch.stream)
    )
    step = switch.at if isinstance(switch.at, int) else round(switch.at * len(stream))
    return Plain(original, new, stream[:step], stream[step:])


def cells(table: pd.DataFrame) -> dict[tuple[str, str], pd.Series]:
    """Return the rows by switch and condition."""
    return {(row.switch_id, row.condition): row for _, row in table.iterrows()}


def assert_same(table: pd.DataFrame, reference: pd.DataFrame) -> None:
    """Compare every column: numbers to rounding, all else exactly; rows in the same order."""
    assert list(table.columns) == list(reference.columns)
    assert list(cells(table)) == list(cells(reference))
    for column in reference.columns:
        for own, other in zip(table[column], reference[column], strict=True):
            if _has_fractions(other):
                apart = np.abs(np.array(own, float) - np.array(other, float)).max()
                assert apart <= 2 * SCORE_TOLERANCE, f"{column} off by {apart:.1e}"
            else:
                assert own == other, column


def _has_fractions(cell: object) -> bool:
    return np.array(cell).dtype.kind == "f"


def noise_of(lm: LM, switch: Switch) -> tuple[int, ...]:
    """Return the noise control's tokens: data here, tested where they are drawn."""
    tokenized = switching.tokenize(lm.tokenizer, switch, int(lm.config.vocab_size))
    return switching.noise_ids(lm.tokenizer, tokenized, 0)
