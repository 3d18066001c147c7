"""What several invariants compare with: tolerances, and comparisons that say what is off.

Tolerances are for float32, whose unit roundoff is 6e-8. A score is a sum over three tiny layers
of values of size 10, which leaves about 2e-6 (measured over all tiny models); 1e-5 nats, scaled
by the NLL where that is above 1, is what is promised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pandas as pd
import pytest
import torch

from kvcore.cache import hf_cache
from kvcore.conditions.recipes import Condition
from kvcore.data.sample import Sample
from kvcore.engine import limits
from kvcore.measurements import answer_nll
from kvcore.models.lm import LM

ROUNDOFF = 2.0**-24
SCORE_TOLERANCE = 1e-5
PREFILL_TOLERANCE = 1e-5  # relative, three layers deep: 2e-6 measured

Fault = Callable[[pytest.MonkeyPatch], None]
"""Breaks the production code until the patch is undone."""


def must_see(fault: Fault, check: Callable[..., None], *arguments: object) -> None:
    """Run a check, break the production code, and demand that the check now fails."""
    check(*arguments)  # sound before it is broken, so that the fault is what is seen
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        with pytest.raises(AssertionError):
            check(*arguments)


def replaced(module: object, name: str, change: Callable[..., object]) -> Fault:
    """Make a fault that wraps a production function."""
    real = getattr(module, name)
    return lambda patch: patch.setattr(module, name, lambda *a, **k: change(real, *a, **k))


def wrong_rows(patch: pytest.MonkeyPatch) -> None:
    """Fault: keep the first rows of a cache rather than those that go on."""
    empty = hf_cache.empty

    def broken() -> Any:
        made = empty()
        select = made.batch_select_indices
        made.batch_select_indices = lambda rows: select(torch.arange(len(rows)))
        return made

    patch.setattr(hf_cache, "empty", broken)


def assert_close_per_layer(
    found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor], tolerance: float, what: str
) -> None:
    """Compare tensors layer by layer, relative to the largest entry."""
    __tracebackhide__ = True
    for layer, (a, b) in enumerate(zip(found, wanted, strict=True)):
        error = float((a - b).abs().max() / b.abs().max())
        assert error <= tolerance, f"{what}, layer {layer}: off by {error:.1e} of the largest"


def assert_scores(found: Sequence[float], wanted: Sequence[float], what: str) -> None:
    """Compare per-token NLLs in nats."""
    __tracebackhide__ = True
    assert len(found) == len(wanted), f"{what}: {len(found)} tokens scored, not {len(wanted)}"
    for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
        allowed = SCORE_TOLERANCE * max(1.0, abs(b))
        assert abs(a - b) <= allowed, f"{what}, token {i}: {a:.7f}, not {b:.7f} nats"


def assert_rows_equal(found: pd.DataFrame, wanted: pd.DataFrame, what: str) -> None:
    """Compare the scores of the same samples and conditions, in whatever order they stand."""
    __tracebackhide__ = True
    key = ["sample_id", "condition"]
    left, right = (frame.set_index(key).token_nlls for frame in (found, wanted))
    assert set(left.index) == set(right.index), f"{what}: other rows"
    for at in right.index:
        assert_scores(left[at], right[at], f"{what}: {at[1]} of {at[0]}")


def in_one_batch(
    lm: LM, batch: Sequence[Sample], names: Iterable[str | Condition], route: answer_nll.Route
) -> pd.DataFrame:
    """Score with passes so dear that unlike samples share them, and their padding."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(limits.PASS_COST, "cpu", 10**6)
        return answer_nll.score(lm, batch, names, route=route)
