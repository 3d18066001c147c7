"""Shares of attention are those of the model's own attention, made whole and read off.

The oracle loads the model anew with eager attention and reads one sequence at a time, with
``output_attentions``. Tolerance 1e-5: weights are at most 1, and float32 leaves 1e-6.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from invariants.oracle import switched
from invariants.support.comparing import Fault, must_see, replaced
from invariants.support.switches import (
    GIVEN,
    LISTS,
    SAME,
    WAYS,
    cells,
    noise_of,
    plain_of,
)
from kvcore import loading
from kvcore.conditions import switching
from kvcore.engine import attention_shares
from kvcore.errors import NotExact
from kvcore.measurements import context_switch
from kvcore.measurements.context_switch import passes
from kvcore.models.lm import LM

TOLERANCE = 1e-5


def check_shares(lm: LM) -> None:
    """Shares sum to 1 and are eager attention's, by token and by layer."""
    eager = loading.load(lm.name, device="cpu").model
    eager.set_attn_implementation("eager")
    found = cells(context_switch.follow(lm, GIVEN, WAYS, attention=True))
    for switch in GIVEN:
        one, noise = plain_of(switch), noise_of(lm, switch)
        for name in WAYS:
            row = found[switch.id, name]
            for kind, over in (("share", 0), ("layer_share", 1)):
                ours = np.array([row[f"{kind}_{span}"] for span in switching.SPANS]).T
                assert np.abs(ours.sum(axis=1) - 1).max() <= TOLERANCE
                # Where both contexts are one, ignore reads what the oracle reads, the new context.
                same = switch is SAME and name in ("ignore", "partial(0)")
                seen = switched.read(
                    eager, lm.bos_id, "oracle" if same else name, one, noise, attention=True
                )
                assert seen.shares is not None
                off = np.abs(ours - seen.shares.mean(dim=over).numpy()).max()
                assert off <= TOLERANCE, f"{switch.id}, {name}: {kind} off by {off:.1e}"


def test_shares(lm: LM) -> None:
    """Would catch shares that are not those of the model's own attention.

    1. Shares recorded while a pass runs, in batches, on the attention that is pinned.
    2. ``output_attentions`` of eager attention, one sequence at a time.
    """
    check_shares(lm)


FAULTS = {
    "own-slot-counts-as-injected": replaced(
        passes,
        "slot_spans",
        lambda real, *a: [
            [switching.INJECTED if x == switching.GENERATED else x for x in row] for row in real(*a)
        ],
    ),
    "spans-a-slot-late": replaced(
        passes, "slot_spans", lambda real, *a: [[row[0], *row[:-1]] for row in real(*a)]
    ),
    "scores-unscaled": replaced(
        attention_shares, "shares", lambda real, *a: real(*a[:5], 1.0, *a[6:])
    ),
    "mask-left-out": replaced(
        attention_shares,
        "shares",
        lambda real, q, k, mask, *a: real(q, k, torch.ones_like(mask), *a),
    ),
    "heads-mixed-up": replaced(
        attention_shares, "shares", lambda real, q, *a: real(q.roll(1, dims=1), *a)
    ),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_twin_shares(llama: LM, fault: Fault) -> None:
    """Would catch a check blind to spans, scaling, masks or heads."""
    must_see(fault, check_shares, llama)


def test_twin_softcap() -> None:
    """Would catch scores that are not capped where a model caps them."""
    uncapped = replaced(attention_shares, "shares", lambda real, *a: real(*a[:6], None))
    look = (torch.tensor([[3, 5]]), torch.eye(6).unsqueeze(0))
    query, key = (
        torch.randn(1, heads, 6, 8, generator=torch.Generator().manual_seed(heads)) * 30
        for heads in (4, 2)
    )
    mask = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()

    def check_softcap() -> None:
        ours = attention_shares.shares(query, key, mask, *look, 8**-0.5, 50.0)
        scores = query @ key.repeat_interleave(2, dim=1).transpose(2, 3) * 8**-0.5
        scores = (50.0 * torch.tanh(scores / 50.0)).masked_fill(~mask, -torch.inf)
        wanted = scores.softmax(-1).mean(dim=1)[:, [3, 5]]
        assert float((ours - wanted).abs().max()) <= TOLERANCE

    must_see(uncapped, check_softcap)


@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(2, 9),
    st.booleans(),
    st.integers(0, 99),
)
def test_shares_of_any_shape(
    batch: int, kv_heads: int, repeats: int, slots: int, added: bool, seed: int
) -> None:
    """Would catch heads, rows or groups mixed up for some shapes or forms of the mask.

    1. `attention_shares.shares`.
    2. The softmax written out in Python floats and added up by group.
    """
    draw = torch.Generator().manual_seed(seed)
    query = torch.randn(batch, kv_heads * repeats, slots, 4, generator=draw)
    key = torch.randn(batch, kv_heads, slots, 4, generator=draw)
    mask = torch.ones(batch, 1, slots, slots, dtype=torch.bool).tril()
    bias = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    columns = torch.randint(0, slots, (batch, 3), generator=draw)
    groups = torch.nn.functional.one_hot(torch.randint(0, 2, (batch, slots), generator=draw), 2)
    ours = attention_shares.shares(query, key, bias if added else mask, columns, groups.float())
    for row in range(batch):
        for number, column in enumerate(columns[row].tolist()):
            wanted = torch.zeros(2)
            for head in range(kv_heads * repeats):
                scores = [
                    float(query[row, head, column] @ key[row, head // repeats, slot]) / 2
                    for slot in range(column + 1)
                ]
                total = sum(math.exp(x - max(scores)) for x in scores)
                for slot, x in enumerate(scores):
                    share = math.exp(x - max(scores)) / total / (kv_heads * repeats)
                    wanted[int(groups[row, slot].argmax())] += share
            assert torch.allclose(ours[row, number], wanted, atol=TOLERANCE)


def check_recording(lm: LM) -> None:
    """Recording changes no number, and leaves the model as it was whatever happens."""
    own = lm.config._attn_implementation
    plain, recorded = (
        cells(context_switch.follow(lm, GIVEN, WAYS, attention=on)) for on in (False, True)
    )
    for key, row in plain.items():
        for column in LISTS:
            assert row[column] == recorded[key][column], f"{key}: {column}"
        assert not any(name.startswith(("share", "layer_share")) for name in row.index)
    assert lm.config._attn_implementation == own
    with pytest.raises(ZeroDivisionError), attention_shares.record_shares(lm, [[0]], [[0]], 1):
        raise ZeroDivisionError
    assert lm.config._attn_implementation == own


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma2", "tiny-gemma3"])
def test_recording(name: str) -> None:
    """Would catch a recording that changes a number, or an attention that is not put back."""
    check_recording(loading.load(name, device="cpu"))


def test_twin_recording() -> None:
    """Would catch a check blind to another output."""
    attend = attention_shares.attend

    def doubled(*a: object, **k: object) -> object:
        out, weights = attend(*a, **k)  # type: ignore[arg-type]
        return out * 1.001, weights

    must_see(
        lambda patch: patch.setattr(attention_shares, "attend", doubled),
        check_recording,
        loading.load("tiny-llama", device="cpu"),
    )


def test_sinks_are_refused(llama: LM) -> None:
    """Would catch shares that do not sum to 1, for part of the attention falls on no slot."""
    module = torch.nn.Module()
    module.sinks = torch.zeros(4)
    nothing = torch.zeros(1, 1, 1, 1)
    with (
        attention_shares.record_shares(llama, [[0]], [[0]], 1),
        pytest.raises(NotExact, match="sinks"),
    ):
        attention_shares.attend(module, nothing, nothing, nothing, nothing)
