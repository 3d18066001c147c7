"""A score depends on its sample and condition, not on its batch."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariants.support import strategies
from invariants.support.comparing import (
    Fault,
    assert_rows_equal,
    must_see,
)
from invariants.support.faults import see_padding
from invariants.support.plain_routes import ALL, both_routes
from invariants.support.samples import LONG, TINY
from invariants.support.strategies import few
from kvcore.corpora.sample import Sample
from kvcore.engine import limits
from kvcore.measurements import answer_nll
from kvcore.models.lm import LM


def check_batches_do_not_matter(
    lm: LM, batch: Sequence[Sample], order: Sequence[int], budget: int, route: answer_nll.Route
) -> None:
    """Demand that a batch scores as its samples alone do, each condition by itself."""
    alone = pd.concat(
        [answer_nll.score(lm, [s], [name], route=route) for s in batch for name in ALL]
    )
    shuffled = [batch[i] for i in order]
    together = answer_nll.score(lm, shuffled, ALL, batch_tokens=budget, route=route)
    assert list(together.sample_id) == [s.id for s in shuffled for _ in ALL]
    assert_rows_equal(together, alone, f"batches of {budget} tokens")


@both_routes
@few
@given(data=st.data(), batch=strategies.batches(), budget=st.sampled_from([1, 96, 300, 4096]))
def test_batches_padding_and_order_change_no_score(
    lm: LM, route: answer_nll.Route, data: st.DataObject, batch: list[Sample], budget: int
) -> None:
    """Would catch a score that hangs on who else is in its batch.

    1. All samples and conditions together, in any order and batches of any size.
    2. Each sample and condition by itself.
    """
    order = data.draw(st.permutations(range(len(batch))))
    check_batches_do_not_matter(lm, batch, order, budget, route)


def return_rows_in_reverse(patch: pytest.MonkeyPatch) -> None:
    """Hand the answers' scores out in the reverse of the answers' order."""
    right = answer_nll._answer_nlls
    patch.setattr(answer_nll, "_answer_nlls", lambda *arguments: right(*arguments)[::-1])


def see_padding_in_dear_passes(patch: pytest.MonkeyPatch) -> None:
    """Attend to padding; it stands between a cache and the query, but behind a single pass."""
    see_padding(patch)
    patch.setitem(limits.PASS_COST, "cpu", 10**6)


@pytest.mark.parametrize(
    ("fault", "route"),
    [
        (see_padding_in_dear_passes, "cache"),
        (return_rows_in_reverse, "cache"),
        (return_rows_in_reverse, "auto"),
    ],
)
def test_twin_batches(lm: LM, fault: Fault, route: answer_nll.Route) -> None:
    """Would catch a check blind to padding attended to, or to scores handed to another sample."""
    must_see(fault, check_batches_do_not_matter, lm, [LONG, TINY], [1, 0], 4096, route)
