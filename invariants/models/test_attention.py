"""The attention that models are pinned to: the numbers of the attention it stands for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AttentionInterface

from invariants.support.comparing import ROUNDOFF, Fault, must_see
from invariants.support.stand_in_device import stand_in_device
from kvcore.models import attention
from kvcore.models.lm import LM

pytestmark = pytest.mark.every_model


def check_attention(heads: int, kv_heads: int, scaling: float | None) -> None:
    """Grouped SDPA is a softmax written out in float64, head by head."""
    draw = torch.Generator().manual_seed(heads)
    query, key, value = (
        torch.randn(2, n, s, 8, generator=draw)
        for n, s in ((heads, 3), (kv_heads, 7), (kv_heads, 7))
    )
    mask = torch.rand(2, 1, 3, 7, generator=draw) < 0.6
    mask[..., 0] = True
    found, _ = attention.attend(torch.nn.Module(), query, key, value, mask, scaling=scaling)
    assert found.shape == (2, 3, heads, 8)
    for head in range(heads):
        of = head // (heads // kv_heads)
        scores = query[:, head].double() @ key[:, of].double().mT * (scaling or 8**-0.5)
        weights = scores.masked_fill(~mask[:, 0], -torch.inf).softmax(-1)
        off = (found[:, :, head] - weights @ value[:, of].double()).abs().max()
        assert off <= 128 * ROUNDOFF, f"head {head} of {heads}: off by {float(off):.1e}"


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_grouped_attention(heads: int, kv_heads: int, scaling: float | None) -> None:
    """Would catch query heads that attend with another key head than their own.

    1. PyTorch's kernel on grouped heads, as the models run it.
    2. A softmax of each query head with its key head, in float64.
    """
    check_attention(heads, kv_heads, scaling)


def check_packed_attention(heads: int, kv_heads: int) -> None:
    """Packed heads attend bit for bit in place: each with its own key head and row of the mask."""
    draw = torch.Generator().manual_seed(heads)
    query = torch.randn(2, heads, 3, 8, generator=draw)
    key, value = (torch.randn(2, kv_heads, 7, 8, generator=draw) for _ in range(2))
    mask = torch.rand(2, 1, 3, 7, generator=draw) < 0.6
    mask[..., 0] = True
    shared = heads // kv_heads
    packed, masks = attention.pack_heads(query, mask, shared)
    assert packed.shape == (2, kv_heads, shared * 3, 8)
    for head in range(heads):
        rows = slice(head % shared * 3, (head % shared + 1) * 3)
        assert torch.equal(packed[:, head // shared, rows], query[:, head])
        assert torch.equal(masks[:, 0, rows], mask[:, 0])
    with stand_in_device():
        q, k, v, m = (x.to("cuda") for x in (query, key, value, mask))
        attended = attention.attend(torch.nn.Module(), q, k, v, m)[0].cpu()
    expected, _ = attention.attend(torch.nn.Module(), query, key, value, mask)
    assert torch.allclose(attended, expected, rtol=0, atol=128 * ROUNDOFF)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (4, 1)])
def test_packed_attention(heads: int, kv_heads: int) -> None:
    """Would catch heads of a GPU that attend by another's mask, or are handed out in another order.

    1. Queries of heads that share a key head, packed, on a stand-in for a CUDA device.
    2. PyTorch's kernel for grouped heads on the CPU.
    """
    check_packed_attention(heads, kv_heads)


@pytest.mark.parametrize("part", [0, 1])
def test_twin_packed_attention(part: int) -> None:
    """Would catch a check blind to heads, or rows of the mask, that are packed token by token."""

    def token_by_token(patch: pytest.MonkeyPatch) -> None:
        right = attention.pack_heads

        def broken(query: Any, mask: Any, shared: int) -> Any:
            packed = right(query, mask, shared)
            wrong = (
                query.unflatten(1, (-1, shared)).transpose(2, 3).flatten(2, 3),
                mask.repeat_interleave(shared, 2),
            )
            return (wrong[0], packed[1]) if part == 0 else (packed[0], wrong[1])

        patch.setattr(attention, "pack_heads", broken)

    must_see(token_by_token, check_packed_attention, 6, 2)


def another_grouping(patch: pytest.MonkeyPatch) -> None:
    """Let the heads that share a key head stand apart: 0, 2, 4 and 1, 3, 5."""
    right = attention.attend

    def broken(module: Any, query: Any, *arguments: Any, **named: Any) -> Any:
        mixed = query.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2)
        out, none = right(module, mixed, *arguments, **named)
        return out.unflatten(2, (2, -1)).transpose(2, 3).flatten(2, 3), none

    patch.setattr(attention, "attend", broken)


def no_scaling(patch: pytest.MonkeyPatch) -> None:
    right = attention.attend
    patch.setattr(attention, "attend", lambda *arguments, **_: right(*arguments))


@pytest.mark.parametrize("fault", [another_grouping, no_scaling])
def test_twin_grouped_attention(fault: Fault) -> None:
    """Would catch a check blind to how heads are grouped, or to the scaling."""
    must_see(fault, check_attention, 6, 2, 0.3)


def check_the_models_own_attention(lm: LM) -> None:
    """With a mask or without, logits are those of the attention transformers would have used."""
    ids = torch.tensor([[0, *range(20, 200, 7)]])
    mask = torch.ones(1, 1, ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    pinned = lm.config._attn_implementation
    found = []
    try:
        for name in (pinned, "sdpa"):
            lm.config._attn_implementation = name
            found += [
                lm.model(input_ids=ids, attention_mask=chosen).logits for chosen in (mask, None)
            ]
    finally:
        lm.config._attn_implementation = pinned
    for ours, theirs in zip(found[:2], found[2:], strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=128 * ROUNDOFF * float(theirs.abs().max()))


def test_the_models_own_attention(lm: LM) -> None:
    """Would catch an attention of ours that changes what a model computes.

    1. Logits with the attention that is pinned, with a mask and without.
    2. Logits of the same model with transformers' SDPA.
    """
    if lm.config._attn_implementation == "eager":
        assert lm.config.model_type == "gemma2"
        return
    assert lm.config._attn_implementation == attention.GROUPED_SDPA
    check_the_models_own_attention(lm)


def test_twin_the_models_own_attention(llama: LM) -> None:
    """Would catch a check blind to a mask left out."""

    def blind_to_masks(patch: pytest.MonkeyPatch) -> None:
        def broken(module: Any, query: Any, key: Any, value: Any, mask: Any, **named: Any) -> Any:
            seen = None if mask is None else mask | True
            return attention.attend(module, query, key, value, seen, **named)

        patch.setitem(AttentionInterface._global_mapping, attention.GROUPED_SDPA, broken)

    must_see(blind_to_masks, check_the_models_own_attention, llama)
