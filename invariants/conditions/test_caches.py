"""What a condition's cache holds: positions, isolation, rope bases, precision, beacons."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from invariants.oracle import plain
from invariants.support import strategies
from invariants.support.comparing import (
    PREFILL_TOLERANCE,
    Fault,
    assert_close_per_layer,
    must_see,
)
from invariants.support.faults import (
    leave_positions_old,
    let_copies_see_each_other,
    move_chunks_alike,
    one_beacon_only,
    question_a_position_late,
    read_parts_in_reverse,
    see_the_future,
    turn_them_anyway,
)
from invariants.support.plain_routes import EXPECTED, TWO_BASES, Case, assert_same_cache, caches
from invariants.support.samples import LONG
from invariants.support.strategies import few
from kvcore import loading
from kvcore.cache import kv_cache, masks, rope
from kvcore.conditions.parse import condition
from kvcore.data.sample import Sample
from kvcore.engine import build, prepared
from kvcore.models import tiny_configs
from kvcore.models.lm import LM


def check_suffix_leaves_the_passage(lm: LM, sample: Sample) -> None:
    """Compare BOS and document under a suffix with the bare cache, and count what follows."""
    case = Case(lm, sample)
    separator = len(case.ids("\n\nRelated question: "))
    for name, more in (
        ("separator", separator),
        ("suffix(oracle)", separator + len(case.question)),
    ):
        bare, found = caches(lm, sample, "bare", name)
        assert found.slots == bare.slots + more
        assert found.positions.tolist() == [list(range(found.slots))]
        for got, own, what in (
            (found.keys, bare.keys, "keys"),
            (found.values, bare.values, "values"),
        ):
            assert_close_per_layer(
                [x[:, :, : bare.slots] for x in got],
                own,
                PREFILL_TOLERANCE,
                f"{name}: the passage's {what}",
            )


@few
@given(sample=strategies.samples(max_words=8))
def test_a_suffix_leaves_the_passage_untouched(lm: LM, sample: Sample) -> None:
    """Would catch a passage that sees what is read after it."""
    check_suffix_leaves_the_passage(lm, sample)


@pytest.mark.parametrize("fault", [see_the_future, read_parts_in_reverse])
def test_twin_suffix(lm: LM, fault: Fault) -> None:
    """Would catch a check blind to a passage that looks ahead, or comes after its suffix."""
    must_see(fault, check_suffix_leaves_the_passage, lm, LONG)


def check_copies_are_isolated(lm: LM, sample: Sample, times: int, which: int) -> None:
    """Change one copy's tokens; demand that every other copy's keys and values stay."""
    chosen = condition(f"blocks(oracle,{times},none)")
    ready = prepared.prepare_one(lm, sample, chosen)
    ((prefix, ids),) = [item for item in ready.prefixes.items() if item[1]]
    each = len(ids) // times
    start, stop = which * each, (which + 1) * each
    other = (*ids[:start], *(3 + (i + 5) % 300 for i in ids[start:stop]), *ids[stop:])
    changed = replace(ready, prefixes={**ready.prefixes, prefix: other})
    own, moved = (build.build(lm, chosen.recipe, {}, [one]) for one in (ready, changed))
    kept = [i for i in range(1 + len(ids)) if not start < i <= stop]
    for a, b, what in ((own.keys, moved.keys, "keys"), (own.values, moved.values, "values")):
        assert_close_per_layer(
            [x[:, :, kept] for x in b],
            [x[:, :, kept] for x in a],
            PREFILL_TOLERANCE,
            f"{what} of BOS and the other copies",
        )
        touched = slice(start + 1, stop + 1)
        assert not torch.equal(a[0][:, :, touched], b[0][:, :, touched]), "nothing was changed"


@few
@given(
    sample=strategies.samples(max_words=8),
    at=st.integers(2, 3).flatmap(
        lambda times: st.tuples(st.just(times), st.integers(0, times - 1))
    ),
)
def test_block_diagonal_copies_do_not_influence_each_other(
    lm: LM, sample: Sample, at: tuple[int, int]
) -> None:
    """Would catch copies that see each other although they are isolated."""
    check_copies_are_isolated(lm, sample, *at)


def test_twin_isolation(lm: LM) -> None:
    """Would catch a check blind to copies that see each other."""
    must_see(let_copies_see_each_other, check_copies_are_isolated, lm, LONG, 2, 0)


def check_positions(lm: LM, sample: Sample, names: Sequence[str]) -> None:
    """Demand slots at 0, 1, 2, ..., one document's worth of document, the query right behind."""
    case = Case(lm, sample)
    for name in names:
        ready = prepared.prepare_one(lm, sample, condition(name))
        (cache,) = caches(lm, sample, name)
        roles = ready.roles(condition(name).recipe)
        documents = 0 if name == "bos_only" else len(case.document)
        assert cache.positions.tolist() == [list(range(len(roles)))], f"{name}: positions"
        assert roles.count(prepared.DOCUMENT) == documents, f"{name}: document slots"
        assert roles.count(prepared.BOS) == 1, f"{name}: BOS slots"
        assert roles[0] == prepared.BOS, f"{name}: BOS is not the first slot"
        step = build.query_input(lm, cache, [ready])
        start = len(roles)
        asked = [*case.asked[0], *case.asked[1][:-1]]
        assert step.ids.tolist() == [asked], f"{name}: question"
        assert step.positions.tolist() == [list(range(start, start + len(asked)))], name


@few
@given(sample=strategies.samples(max_words=8))
def test_slots_count_from_zero_and_the_query_follows(llama: LM, sample: Sample) -> None:
    """Would catch a gap in the cache, or before the question."""
    check_positions(llama, sample, list(EXPECTED))


@pytest.mark.parametrize(
    ("fault", "name"),
    [(question_a_position_late, "oracle"), (leave_positions_old, "no_reposition(oracle)")],
)
def test_twin_positions(llama: LM, fault: Fault, name: str) -> None:
    """Would catch a check blind to a gap before the question, or to positions left as they were."""
    must_see(fault, check_positions, llama, LONG, [name])


def check_one_base(lm: LM, sample: Sample, two: bool) -> None:
    """Demand other keys where a model has two bases, and the same bits where it has one."""
    own, one = caches(lm, sample, "oracle", "one_base(oracle)")
    assert all(map(torch.equal, own.values, one.values))
    kinds = masks.layer_kinds(lm)
    for layer, kind in enumerate(kinds):
        same = torch.equal(own.keys[layer], one.keys[layer])
        assert same != (two and kind == masks.SLIDING), f"layer {layer}, {kind}"


def test_one_base_differs_on_two_base_models_only(lm: LM) -> None:
    """Would catch an artifact control that does nothing, or something on a model of one base."""
    check_one_base(lm, LONG, lm.name in TWO_BASES)


def turn_with_the_sliding_base(patch: pytest.MonkeyPatch) -> None:
    right = rope.rotation
    patch.setattr(rope, "rotation", lambda lm, kind, d: right(lm, kind and masks.SLIDING, d))


def turn_one_base_twice_as_far(patch: pytest.MonkeyPatch) -> None:
    right = kv_cache.KVCache.reposition
    patch.setattr(
        kv_cache.KVCache,
        "reposition",
        lambda self, lm, plan, deltas, **more: right(
            self, lm, plan, deltas * (1 + (more.get("one_base") is not None)), **more
        ),
    )


@pytest.mark.parametrize("name", TWO_BASES)
@pytest.mark.parametrize("fault", [turn_them_anyway, turn_with_the_sliding_base])
def test_twin_one_base_cache(name: str, fault: Fault) -> None:
    """Would catch a check blind to own bases for all layers, or the wrong one base."""
    must_see(fault, check_one_base, loading.load(name, device="cpu"), LONG, True)


def test_twin_one_base_where_there_is_one(llama: LM) -> None:
    """Would catch a check blind to a control that moves keys elsewhere."""
    must_see(turn_one_base_twice_as_far, check_one_base, llama, LONG, False)


# One rotation has two products and a sum per dimension; the cosines are rounded as well.
ROUNDINGS = {"bfloat16": 4 * 2.0**-8, "float16": 4 * 2.0**-11}


def check_precision(name: str, dtype: str, sample: Sample) -> None:
    """Demand equal bits in float32, and another rounding, no more, in 16 bits."""
    lm = loading.load(name, device="cpu", dtype=dtype)
    exact, coarse = caches(lm, sample, "reposition(oracle,float32)", "reposition(oracle,model)")
    assert all(map(torch.equal, exact.values, coarse.values)), "values changed"
    if dtype == "float32":
        assert_same_cache(coarse, exact, "the model's precision is float32")
        return
    assert coarse.keys[0].dtype == getattr(torch, dtype)
    assert not all(map(torch.equal, exact.keys, coarse.keys)), "no rounding anywhere"
    assert_close_per_layer(
        [k.float() for k in coarse.keys],
        [k.float() for k in exact.keys],
        ROUNDINGS[dtype],
        "keys turned in 16 bits",
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", tiny_configs.NAMES)
def test_precision_of_the_rotation(name: str, dtype: str) -> None:
    """Would catch a rotation in another precision than asked for."""
    check_precision(name, dtype, LONG)


def changing_precision(name: str, change: Callable[[Any], Any]) -> Fault:
    def fault(patch: pytest.MonkeyPatch) -> None:
        right = rope.rotate
        patch.setattr(
            rope,
            "rotate",
            lambda k, c, s, pairing, precision=None: right(k, c, s, pairing, change(precision)),
        )

    fault.__name__ = name
    return fault


@pytest.mark.parametrize(
    ("dtype", "fault"),
    [
        ("float32", changing_precision("bfloat16", lambda p: p and torch.bfloat16)),
        ("bfloat16", changing_precision("float32", lambda _: None)),
        ("float16", changing_precision("bfloat16", lambda p: p and torch.bfloat16)),
    ],
)
def test_twin_precision(dtype: str, fault: Fault) -> None:
    """Would catch a check blind to a precision that is ignored, or coarser than the model's."""
    must_see(fault, check_precision, "tiny-llama", dtype, LONG)


def check_beacon_cache(lm: LM, sample: Sample, text: str, every: int) -> None:
    """Compare a beaconed cache with one in which each chunk was prefilled where it belongs."""
    case = Case(lm, sample)
    (found,) = caches(lm, sample, f"beacons({json.dumps(text)},{every})")
    keys, values = zip(
        *plain.beacon_layers(lm.model, lm.bos_id, case.ids(f"{text}\n"), every, case.document),
        strict=True,
    )
    assert found.positions.tolist() == [list(range(1 + len(case.document)))]
    assert_close_per_layer(found.keys, keys, PREFILL_TOLERANCE, "keys behind beacons")
    assert_close_per_layer(found.values, values, PREFILL_TOLERANCE, "values behind beacons")


@few
@given(sample=strategies.samples(max_words=8), every=st.integers(4, 30))
@example(sample=LONG, every=7)
def test_beacons_move_each_chunk_by_its_own_gap(lm: LM, sample: Sample, every: int) -> None:
    """Would catch chunks behind beacons that are moved by another gap than their own.

    1. The cache with beacons, truncated and re-positioned.
    2. Each chunk prefilled at its final position, with all before it in sight.
    """
    check_beacon_cache(lm, sample, "go", every)


@pytest.mark.parametrize("fault", [move_chunks_alike, one_beacon_only])
def test_twin_beacons(lm: LM, fault: Fault) -> None:
    """Would catch a check blind to one move for all chunks, or one beacon for all."""
    must_see(fault, check_beacon_cache, lm, LONG, "go", 7)
