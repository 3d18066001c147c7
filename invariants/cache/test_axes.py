"""Signatures that name axes are checked while the invariants run, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from jaxtyping import TypeCheckError

from invariants.support.children import child
from kvcore.cache import hf_cache, masks, rope
from kvcore.cache.kv_cache import KVCache
from kvcore.engine import attention_shares
from kvcore.models import attention

KEYS = torch.zeros(1, 2, 3, 4)  # batch, kv_head, slot, head_dim
POSITIONS = torch.arange(3).unsqueeze(0)
REAL = torch.ones(1, 3, dtype=torch.bool)


def test_a_wrong_order_of_axes_is_seen() -> None:
    """Would catch checks that do not run: slots and heads swapped, in each checked module."""
    swapped = KEYS.transpose(1, 2)
    cache = KVCache((KEYS,), (KEYS,), POSITIONS, REAL)
    half = torch.zeros(1, 1, 3, 2)
    mask = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    chosen, groups = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 3, 2)
    wrong: dict[str, Callable[[], object]] = {
        "cache": lambda: KVCache((swapped,), (KEYS,), POSITIONS, REAL),
        "positions": lambda: cache.renumber(POSITIONS.T),
        "mask": lambda: masks.visible(POSITIONS, POSITIONS, REAL.T, None),
        "rotation": lambda: rope.rotate(swapped, half, half, "half"),
        "joining": lambda: hf_cache.join_padded([KEYS], 3, swapped),
        "attention": lambda: attention.attend(torch.nn.Module(), KEYS, KEYS, swapped, mask),
        "shares": lambda: attention_shares.shares(KEYS, KEYS, mask, chosen.squeeze(0), groups),
    }
    for call in wrong.values():
        with pytest.raises(TypeCheckError):
            call()
    rope.rotate(KEYS, half, half, "half")
    masks.visible(POSITIONS, POSITIONS, REAL, None)
    attention.attend(torch.nn.Module(), KEYS, KEYS, KEYS, mask)


CHECKER_LOADED = """
import json, sys, kvcore.loading, kvcore.cache.batch
print(json.dumps([name for name in ("beartype", "typeguard", "jax") if name in sys.modules]))
"""


def test_production_does_not_pay_for_it() -> None:
    """Would catch a type checker that comes along wherever kvcore is imported."""
    assert child(CHECKER_LOADED) == []
