"""Several caches that are read as one batch give the numbers of one cache made of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from invariants.support.comparing import Fault, must_see
from kvcore.cache import batch as cache_batch
from kvcore.cache import hf_cache
from kvcore.engine import forward
from kvcore.models.lm import LM


def check_batch_equals_stack(lm: LM) -> None:
    """Read joined layer by layer, caches of unequal batches give the bits of one joined before."""
    two = forward.prefill(
        lm, forward.pad_ids(lm, [[0, *range(9, 60, 3)], [0, *range(70, 95, 5)]], [0, 0])
    )
    one = forward.prefill(lm, forward.pad_ids(lm, [[0, *range(100, 180, 3)]], [0]))
    batch, stacked = (
        cache_batch.CacheBatch((two, one, two.rows([1]))),
        cache_batch.stack([two, one, two.rows([1])]),
    )
    before = [x.clone() for c in (two, one) for x in (*c.keys, *c.values)]
    ids = [[11, 12, 13], [14, 15], [16, 17, 18, 19], [20]]
    starts = (stacked.lengths()).tolist()
    logits_at = ([0, 1, 2, 3], [2, 1, 3, 0])
    logits = forward.logits(lm, forward.pad_ids(lm, ids, starts, batch), logits_at)
    whole, grown = forward.run(lm, forward.pad_ids(lm, ids, starts, stacked), logits_at)
    assert torch.equal(logits, whole), "joined on the way"
    assert grown.slots == stacked.slots + 4
    again = forward.run(lm, forward.pad_ids(lm, ids, starts, batch), logits_at)[0]
    assert torch.equal(again, whole), "joined for the model"
    after = [x for c in (two, one) for x in (*c.keys, *c.values)]
    assert all(map(torch.equal, before, after)), "reading changed a cache"


def test_batch_equals_stack(lm: LM) -> None:
    """Would catch caches that are read in another order, or changed, when joined layer by layer.

    1. A pass on a `CacheBatch`, joined one layer at a time.
    2. A pass on the same caches, stacked into one before.
    """
    check_batch_equals_stack(lm)


def new_before_old(patch: pytest.MonkeyPatch) -> None:
    right = hf_cache.join_padded

    def broken(parts: Any, width: int, behind: Any = None) -> Any:
        joined = right(parts, width, behind)
        return joined if behind is None else joined.roll(1, dims=2)

    patch.setattr(hf_cache, "join_padded", broken)


def parts_upside_down(patch: pytest.MonkeyPatch) -> None:
    right = hf_cache.join_padded
    patch.setattr(
        hf_cache,
        "join_padded",
        lambda parts, width, behind=None: right(
            parts if behind is None else parts[::-1], width, behind
        ),
    )


@pytest.mark.parametrize("fault", [new_before_old, parts_upside_down])
def test_twin_batch(llama: LM, fault: Fault) -> None:
    """Would catch a check blind to slots or rows in another order."""
    must_see(fault, check_batch_equals_stack, llama)
