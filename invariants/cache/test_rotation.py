"""Re-positioning rotates keys as the model itself would have.

Rotations are compared relative to the largest key: eight float32 roundoffs for one rotation there
and back.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given

from invariants.support import strategies
from invariants.support.comparing import (
    PREFILL_TOLERANCE,
    ROUNDOFF,
    Fault,
    assert_close_per_layer,
    must_see,
)
from invariants.support.faults import (
    interleave_pairs,
    leave_keys_unturned,
    move_one_too_far,
    turn_values_too,
    use_one_base,
)
from invariants.support.plain_routes import SOME_IDS, TWO_BASES, document_cache
from invariants.support.strategies import IDS, few
from kvcore import loading
from kvcore.cache import kv_cache, rope
from kvcore.engine import rope_probe
from kvcore.models.lm import LM

pytestmark = pytest.mark.every_model


def moved(lm: LM, cache: kv_cache.KVCache, delta: int) -> kv_cache.KVCache:
    """Re-position every slot by the same number."""
    deltas = torch.full_like(cache.positions, delta)
    return cache.reposition(lm, rope_probe.rope_plan(lm), deltas)


def check_there_and_back(lm: LM, ids: Sequence[int], n: int) -> None:
    """Demand that +n and then -n gives the cache back, values and positions included."""
    cache = document_cache(lm, ids)
    back = moved(lm, moved(lm, cache, n), -n)
    assert_close_per_layer(back.keys, cache.keys, 8 * ROUNDOFF, f"keys turned by {n} and back")
    assert torch.equal(back.positions, cache.positions)
    assert all(map(torch.equal, back.values, cache.values)), "values changed"


def check_moves_add_up(lm: LM, ids: Sequence[int], a: int, b: int) -> None:
    """Demand that a and then b is a + b."""
    cache = document_cache(lm, ids)
    # An angle of n radians is itself rounded, by up to n roundoffs.
    tolerance = (8 + abs(a) + abs(b) + abs(a + b)) * ROUNDOFF
    twice, once = moved(lm, moved(lm, cache, a), b), moved(lm, cache, a + b)
    assert_close_per_layer(twice.keys, once.keys, tolerance, f"{a} then {b}")


def check_norms_are_kept(lm: LM, ids: Sequence[int], n: int) -> None:
    """Demand that no key's length changes."""
    cache = document_cache(lm, ids)
    after = moved(lm, cache, n)
    for layer, (a, b) in enumerate(zip(after.keys, cache.keys, strict=True)):
        ratio = (a.norm(dim=-1) / b.norm(dim=-1) - 1).abs().max()
        assert ratio <= 8 * ROUNDOFF, f"layer {layer}: key norms changed by {float(ratio):.1e}"


def check_moved_equals_prefilled(lm: LM, ids: Sequence[int], n: int) -> None:
    """Demand that a document moved from n to 0 is one prefilled at 0."""
    at_zero, moved_back = document_cache(lm, ids), moved(lm, document_cache(lm, ids, n), -n)
    assert_close_per_layer(moved_back.keys, at_zero.keys, PREFILL_TOLERANCE, f"keys, offset {n}")
    assert_close_per_layer(moved_back.values, at_zero.values, PREFILL_TOLERANCE, "values")
    assert torch.equal(moved_back.positions, at_zero.positions)


@few
@given(ids=IDS, n=strategies.shifts())
def test_turning_keys_there_and_back_changes_nothing(lm: LM, ids: list[int], n: int) -> None:
    """Would catch a rotation by +n and then by -n that is not the identity."""
    check_there_and_back(lm, ids, n)


@few
@given(ids=IDS, a=strategies.shifts(), b=strategies.shifts())
def test_two_moves_add_up(lm: LM, ids: list[int], a: int, b: int) -> None:
    """Would catch moves by a and then by b that are not one by a + b."""
    check_moves_add_up(lm, ids, a, b)


@few
@given(ids=IDS, n=strategies.shifts())
def test_turning_keys_keeps_their_norm(lm: LM, ids: list[int], n: int) -> None:
    """Would catch a rope type's scaling left in the rotation."""
    check_norms_are_kept(lm, ids, n)


@few
@given(ids=IDS, n=strategies.offsets())
def test_a_document_moved_back_equals_one_prefilled_there(lm: LM, ids: list[int], n: int) -> None:
    """Would catch a rotation that is not the model's own.

    1. A document prefilled at offset n, moved by -n.
    2. The document prefilled at 0.
    """
    check_moved_equals_prefilled(lm, ids, n)


def check_unmoved_keys_keep_their_bits(lm: LM, ids: Sequence[int], n: int) -> None:
    """Move every slot but the first by n, and demand the first one's very bits."""
    cache = document_cache(lm, ids)
    deltas = torch.full_like(cache.positions, n)
    deltas[:, 0] = 0
    after = cache.reposition(lm, rope_probe.rope_plan(lm), deltas)
    assert all(
        torch.equal(a[:, :, 0], b[:, :, 0]) for a, b in zip(after.keys, cache.keys, strict=True)
    ), "a key at rest was changed"
    assert not all(map(torch.equal, after.keys, cache.keys)), "nothing was moved at all"


@few
@given(ids=strategies.token_ids(384, min_size=2), n=strategies.offsets())
def test_keys_that_do_not_move_stay_bit_for_bit(lm: LM, ids: list[int], n: int) -> None:
    """Would catch BOS rounded by a rotation of no angle."""
    check_unmoved_keys_keep_their_bits(lm, ids, n)


def turn_the_same_way_always(patch: pytest.MonkeyPatch) -> None:
    right = rope.rotation
    patch.setattr(rope, "rotation", lambda lm, kind, d: right(lm, kind, d.abs()))


def turn_by_the_square(patch: pytest.MonkeyPatch) -> None:
    right = rope.rotation
    patch.setattr(rope, "rotation", lambda lm, kind, d: right(lm, kind, d * d.abs() // 8))


def scale_the_turn(patch: pytest.MonkeyPatch) -> None:
    """Leave a rope type's attention scaling in, here a tenth as yarn's would be."""
    right = rope.rotation
    patch.setattr(rope, "rotation", lambda *a: tuple(1.1 * x for x in right(*a)))


def turn_all_by_the_mean(patch: pytest.MonkeyPatch) -> None:
    """Move every slot alike, those at rest too."""
    right = rope.rotation
    patch.setattr(
        rope,
        "rotation",
        lambda lm, kind, d: right(
            lm, kind, d.float().mean(dim=1, keepdim=True).round().long().expand_as(d)
        ),
    )


@pytest.mark.parametrize("fault", [turn_the_same_way_always, scale_the_turn, turn_values_too])
def test_twin_there_and_back(lm: LM, fault: Fault) -> None:
    """Would catch a check blind to a wrong sign, a scaled rotation or rotated values."""
    must_see(fault, check_there_and_back, lm, SOME_IDS, 17)


@pytest.mark.parametrize("fault", [move_one_too_far, turn_by_the_square])
def test_twin_two_moves(lm: LM, fault: Fault) -> None:
    """Would catch a check blind to steps one too long, or not proportional."""
    must_see(fault, check_moves_add_up, lm, SOME_IDS, 9, 16)


def test_twin_norms(lm: LM) -> None:
    """Would catch a check blind to attention scaling left in."""
    must_see(scale_the_turn, check_norms_are_kept, lm, SOME_IDS, 17)


@pytest.mark.parametrize(
    "fault",
    [
        interleave_pairs,
        move_one_too_far,
        turn_the_same_way_always,
        turn_values_too,
        leave_keys_unturned,
    ],
)
def test_twin_moved_back(lm: LM, fault: Fault) -> None:
    """Would catch a check blind to wrong pairs, distance, direction or values, or to no move."""
    must_see(fault, check_moved_equals_prefilled, lm, SOME_IDS, 17)


@pytest.mark.parametrize("fault", [turn_all_by_the_mean, scale_the_turn])
def test_twin_unmoved_keys(lm: LM, fault: Fault) -> None:
    """Would catch a check blind to a key at rest that is moved along, or scaled."""
    must_see(fault, check_unmoved_keys_keep_their_bits, lm, SOME_IDS, 17)


@pytest.mark.parametrize("name", TWO_BASES)
def test_twin_one_base(name: str) -> None:
    """Would catch checks blind to one base for both kinds of layer, where a model has two."""
    lm = loading.load(name, device="cpu")
    assert len(rope_probe.rope_plan(lm).bases) == 2
    must_see(use_one_base, check_moved_equals_prefilled, lm, SOME_IDS, 17)
