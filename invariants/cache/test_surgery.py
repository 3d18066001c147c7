"""Cache surgery is exact: every property of the engine, and a twin that breaks it on purpose.

Each property is a ``check_...`` function. Hypothesis tries it on the working code; its twins run
the same function on one fixed example after breaking *production* code by monkeypatch, and must
see it fail. The oracle is :mod:`invariants.plain`, which shares no code with the engine. The
engine's own two routes are both held against it: caches, on which surgery is done, and one masked
pass, which has none.

Scores are compared in nats as :mod:`invariants.comparing` says. Rotations are compared relative to
the largest key: eight float32 roundoffs for one rotation there and back.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from invariants.oracle import plain
from invariants.support import strategies
from invariants.support.comparing import (
    PREFILL_TOLERANCE,
    ROUNDOFF,
    Fault,
    assert_close_per_layer,
    assert_rows_equal,
    assert_scores,
    in_one_batch,
    must_see,
)
from kvcore import loading, tokenization
from kvcore.cache import hf_cache, kv_cache, masks, rope
from kvcore.cache.kv_cache import KVCache
from kvcore.conditions import parse, recipes, registry
from kvcore.conditions.recipes import Condition
from kvcore.data.sample import Sample
from kvcore.engine import build, forward, limits, one_pass, prepared, rope_probe
from kvcore.engine.forward import SequenceInput
from kvcore.measurements import answer_nll
from kvcore.models import tiny_configs
from kvcore.models.lm import LM
from kvcore.tokenization import NO_PREFIX

TWO_BASES = ("tiny-gemma3",)
WINDOWED = ("tiny-mistral", "tiny-gemma2", "tiny-gemma3")
ONLY_WINDOWED = ("tiny-mistral",)  # what changes far back reaches no answer through three layers

TRUNCATED = ("oracle", "random", "static_fact", 'literal("Read this closely.")')
PLAIN_ROUTES = (plain.truncated_nlls, plain.shifted_nlls, plain.one_pass_nlls)
ROUTES: tuple[answer_nll.Route, ...] = ("auto", "cache")

LONG = Sample(
    "what does the mean do",
    "it returns the sum of entries along an axis divided by the number of entries and nothing else",
    "the sample mean",
)
SHORT = Sample("key", "<s>", "prefix")  # so short that a windowed query still sees BOS

few = settings(max_examples=6, deadline=None)
some = settings(max_examples=25, deadline=None)


# --- turning keys -------------------------------------------------------------------------------


def document_cache(lm: LM, ids: Sequence[int], start: int = 0) -> kv_cache.KVCache:
    """Prefill token ids at consecutive positions."""
    return forward.run(lm, forward.pad_ids(lm, [list(ids)], [start]))[1]


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


IDS = strategies.token_ids(384)
SOME_IDS = list(range(5, 365, 15))


def check_a_prefill_is_a_whole_pass(lm: LM, ids: Sequence[int], n: int) -> None:
    """Demand that a pass that ends at the last layer's cache leaves what a whole one does."""
    given = forward.pad_ids(lm, [list(ids), list(ids)[: len(ids) // 2 + 1]], [n, 0])
    filled, whole = forward.prefill(lm, given), forward.run(lm, given)[1]
    assert len(filled.keys) == len(whole.keys), "layers are missing"
    for layer in range(len(whole.keys)):
        assert torch.equal(filled.keys[layer], whole.keys[layer]), f"keys of layer {layer}"
        assert torch.equal(filled.values[layer], whole.values[layer]), f"values of layer {layer}"
    assert torch.equal(filled.positions, whole.positions)
    assert torch.equal(filled.real, whole.real)


def test_a_prefill_is_a_whole_pass(lm: LM) -> None:
    """Bit for bit, and the last layer's attention is not run."""
    check_a_prefill_is_a_whole_pass(lm, SOME_IDS, 3)
    ran: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in lm.model.named_modules()
    ]
    forward.prefill(lm, forward.pad_ids(lm, [SOME_IDS], [0]))
    for hook in hooks:
        hook.remove()
    layers = {name.split("layers.")[1].split(".")[0] for name in ran if name.endswith("mlp")}
    assert layers == {str(i) for i in range(lm.config.num_hidden_layers - 1)}


def one_place_on(
    lm: LM, given: forward.ForwardInput, real: Callable[..., KVCache] = forward.prefill
) -> KVCache:
    """Read every token one position further on."""
    return real(lm, dataclasses.replace(given, positions=given.positions + 1))


@pytest.mark.parametrize(
    "fault",
    [
        lambda patch: patch.setattr(
            hf_cache,
            "stop_after_layer",
            lambda last, real=hf_cache.stop_after_layer: real(last - 1),
        ),
        lambda patch: patch.setattr(forward, "prefill", one_place_on),
    ],
    ids=["a-layer-short", "one-place-on"],
)
def test_twin_a_prefill_is_a_whole_pass(llama: LM, fault: Fault) -> None:
    must_see(fault, check_a_prefill_is_a_whole_pass, llama, SOME_IDS, 3)


@few
@given(ids=IDS, n=strategies.shifts())
def test_turning_keys_there_and_back_changes_nothing(lm: LM, ids: list[int], n: int) -> None:
    """Re-positioning by +n and then by -n is the identity."""
    check_there_and_back(lm, ids, n)


@few
@given(ids=IDS, a=strategies.shifts(), b=strategies.shifts())
def test_two_moves_add_up(lm: LM, ids: list[int], a: int, b: int) -> None:
    """Re-positioning by a and then by b is re-positioning by a + b."""
    check_moves_add_up(lm, ids, a, b)


@few
@given(ids=IDS, n=strategies.shifts())
def test_turning_keys_keeps_their_norm(lm: LM, ids: list[int], n: int) -> None:
    """A rotation changes no key's length, whatever scaling the rope type multiplies in."""
    check_norms_are_kept(lm, ids, n)


@few
@given(ids=IDS, n=strategies.offsets())
def test_a_document_moved_back_equals_one_prefilled_there(lm: LM, ids: list[int], n: int) -> None:
    """Prefilled at offset n and moved by -n, every layer holds what a prefill at 0 leaves."""
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
    """A position change of 0 is no rounding either: BOS keeps its very bits."""
    check_unmoved_keys_keep_their_bits(lm, ids, n)


# What is broken in the production code; each takes monkeypatch and leaves one fault behind.


def interleave_pairs(patch: pytest.MonkeyPatch) -> None:
    """Turn the other dimensions together: neighbours for halves, halves for neighbours."""
    other: dict[str, Any] = {"half": "interleaved", "interleaved": "half", "none": "none"}
    right = rope.rotate
    patch.setattr(
        rope,
        "rotate",
        lambda k, c, s, pairing, precision=None: right(k, c, s, other[pairing], precision),
    )


def move_one_too_far(patch: pytest.MonkeyPatch) -> None:
    right = rope.rotation
    patch.setattr(rope, "rotation", lambda lm, kind, d: right(lm, kind, d - d.sign()))


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


def use_one_base(patch: pytest.MonkeyPatch) -> None:
    """Turn every layer with the full-attention base."""
    right = rope.rotation
    patch.setattr(rope, "rotation", lambda lm, kind, d: right(lm, kind and masks.FULL, d))


def lose_bos(patch: pytest.MonkeyPatch) -> None:
    """Drop as many slots as asked for, but from BOS on."""
    right = kv_cache.KVCache.keep
    patch.setattr(
        kv_cache.KVCache,
        "keep",
        lambda self, slots: right(self, [[kept[1] - 1, *kept[1:]] for kept in slots]),
    )


def turn_values_too(patch: pytest.MonkeyPatch) -> None:
    right = kv_cache.KVCache.reposition

    def broken(
        self: kv_cache.KVCache, lm: LM, plan: Any, deltas: torch.Tensor, **more: Any
    ) -> kv_cache.KVCache:
        done = right(self, lm, plan, deltas, **more)
        swapped = right(dataclasses.replace(self, keys=self.values), lm, plan, deltas, **more)
        return dataclasses.replace(done, values=swapped.keys)

    patch.setattr(kv_cache.KVCache, "reposition", broken)


def leave_keys_unturned(patch: pytest.MonkeyPatch) -> None:
    """Count the new positions, but leave the keys as they were."""
    patch.setattr(rope, "rotate", lambda keys, *_: keys)


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


@pytest.fixture
def seen() -> Callable[..., None]:
    """Break the production code, run a check, and demand that it fails."""
    return must_see


@pytest.mark.parametrize("fault", [turn_the_same_way_always, scale_the_turn, turn_values_too])
def test_twin_there_and_back(lm: LM, seen: Callable[..., None], fault: Fault) -> None:
    """A wrong sign, a scaled rotation or turned values are no identity."""
    seen(fault, check_there_and_back, lm, SOME_IDS, 17)


@pytest.mark.parametrize("fault", [move_one_too_far, turn_by_the_square])
def test_twin_two_moves(lm: LM, seen: Callable[..., None], fault: Fault) -> None:
    """Steps that are one too long, or not proportional, do not add up."""
    seen(fault, check_moves_add_up, lm, SOME_IDS, 9, 16)


def test_twin_norms(lm: LM, seen: Callable[..., None]) -> None:
    """Attention scaling that is left in lengthens the keys."""
    seen(scale_the_turn, check_norms_are_kept, lm, SOME_IDS, 17)


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
def test_twin_moved_back(lm: LM, seen: Callable[..., None], fault: Fault) -> None:
    """Wrong pairs, one position too many, the wrong way, turned values, nothing: each is seen."""
    seen(fault, check_moved_equals_prefilled, lm, SOME_IDS, 17)


@pytest.mark.parametrize("fault", [turn_all_by_the_mean, scale_the_turn])
def test_twin_unmoved_keys(lm: LM, seen: Callable[..., None], fault: Fault) -> None:
    """A key at rest that is turned along with the rest, or scaled, is seen."""
    seen(fault, check_unmoved_keys_keep_their_bits, lm, SOME_IDS, 17)


@pytest.mark.parametrize("name", TWO_BASES)
def test_twin_one_base(name: str, seen: Callable[..., None]) -> None:
    """One theta for both layer types is seen where a model has two."""
    lm = loading.load(name, device="cpu")
    assert len(rope_probe.rope_plan(lm).bases) == 2
    seen(use_one_base, check_moved_equals_prefilled, lm, SOME_IDS, 17)
    seen(use_one_base, check_truncated_equals_plain, lm, [LONG], TRUNCATED, "cache")


# --- scores against the plain procedure ---------------------------------------------------------


def plain_ids(lm: LM, sample: Sample, name: str | Condition) -> tuple[Any, ...]:
    """Return a condition's arguments for the plain procedure."""
    given_ = parse.condition(name)
    ready = prepared.prepare_one(lm, sample, given_)
    read = ready.tokens
    prefix = ready.prefixes[given_.prefixes()[0]]
    return lm.bos_id, prefix, read.document, read.prompt, read.answer


def check_truncated_equals_plain(
    lm: LM, batch: Sequence[Sample], names: Sequence[str], route: answer_nll.Route
) -> None:
    """Demand that truncated conditions score as all three plain routes do."""
    rows = in_one_batch(lm, batch, names, route)
    for (sample, name), row in zip(itertools.product(batch, names), rows.itertuples(), strict=True):
        ids = plain_ids(lm, sample, name)
        for plainly in PLAIN_ROUTES:
            assert_scores(
                row.token_nlls, plainly(lm.model, *ids), f"{name} against {plainly.__name__}"
            )
        assert row.cache_len == 1 + row.doc_len == 1 + len(ids[2])


def check_truncated_cache(lm: LM, sample: Sample, name: str) -> None:
    """Compare the cache itself with BOS alone and a document prefilled where it belongs."""
    given_ = parse.condition(name)
    ready = prepared.prepare_one(lm, sample, given_)
    (leaf,) = given_.prefills()
    prefilled = forward.run(lm, build.prefill_input(lm, leaf, [ready]))[1]
    found = build.build(lm, given_.recipe, {leaf: prefilled}, [ready])
    bos, prefix, document, *_ = plain_ids(lm, sample, name)
    wanted = plain.shifted_layers(lm.model, bos, prefix, document)
    keys, values = zip(*wanted, strict=True)
    assert found.positions.tolist() == [list(range(1 + len(document)))]
    assert bool(found.real.all())
    for got, pure, what in ((found.keys, keys, "keys"), (found.values, values, "values")):
        assert_close_per_layer(got, pure, PREFILL_TOLERANCE, f"{name}: {what}")


def check_full_context_equals_teacher_forcing(
    lm: LM, batch: Sequence[Sample], route: answer_nll.Route
) -> None:
    """Demand that visible prefixes score as plain text does."""
    names = ("full_context(oracle)", "full_context(random)", "framed")
    rows = in_one_batch(lm, batch, names, route)
    for (sample, name), row in zip(itertools.product(batch, names), rows.itertuples(), strict=True):
        wanted = plain.full_context_nlls(lm.model, *plain_ids(lm, sample, name))
        assert_scores(row.token_nlls, wanted, name)


def check_bare_equals_no_cache(lm: LM, batch: Sequence[Sample], route: answer_nll.Route) -> None:
    """Demand that the baseline scores as plain text does."""
    rows = in_one_batch(lm, batch, ["bare"], route)
    for sample, row in zip(batch, rows.itertuples(), strict=True):
        bos, _, *ids = plain_ids(lm, sample, "bare")
        assert_scores(row.token_nlls, plain.bare_nlls(lm.model, bos, *ids), "bare")


NOTHING_DROPPED = Condition(
    "nothing dropped", registry.truncation(NO_PREFIX), "surgery with a prefix of length zero"
)


def check_empty_prefix_equals_bare(
    lm: LM, batch: Sequence[Sample], route: answer_nll.Route
) -> None:
    """Demand that surgery on nothing changes no score."""
    bare, empty = (in_one_batch(lm, batch, [name], route) for name in ("bare", NOTHING_DROPPED))
    assert_rows_equal(empty.assign(condition="bare"), bare, "a prefix of length zero")


both_routes = pytest.mark.parametrize("route", ROUTES)


@both_routes
@few
@given(batch=strategies.batches(3), name=st.sampled_from(TRUNCATED))
@example(batch=[LONG, SHORT], name="oracle")
def test_three_plain_routes_give_the_engines_number(
    lm: LM, route: answer_nll.Route, batch: list[Sample], name: str
) -> None:
    """Plain surgery, shifted prefills and one masked pass agree with the engine, token by token."""
    check_truncated_equals_plain(lm, batch, [name], route)


@few
@given(sample=strategies.samples(), name=st.sampled_from(TRUNCATED))
@example(sample=LONG, name="oracle")
def test_a_truncated_cache_is_bos_and_the_document(lm: LM, sample: Sample, name: str) -> None:
    """In every layer: BOS as it is alone, then the document as if prefilled at 1, 2, 3, ..."""
    check_truncated_cache(lm, sample, name)


@both_routes
@few
@given(batch=strategies.batches(3))
def test_full_context_is_plain_teacher_forcing(
    lm: LM, route: answer_nll.Route, batch: list[Sample]
) -> None:
    """With nothing dropped, the cache is only a way of computing."""
    check_full_context_equals_teacher_forcing(lm, batch, route)


@both_routes
@few
@given(batch=strategies.batches(3))
def test_bare_equals_a_forward_without_any_cache(
    lm: LM, route: answer_nll.Route, batch: list[Sample]
) -> None:
    """The baseline is what the model says of the text."""
    check_bare_equals_no_cache(lm, batch, route)


@both_routes
@few
@given(batch=strategies.batches(3))
def test_a_prefix_of_length_zero_is_bare(
    lm: LM, route: answer_nll.Route, batch: list[Sample]
) -> None:
    """Truncating and re-positioning nothing changes nothing."""
    check_empty_prefix_equals_bare(lm, batch, route)


def check_reach_past_the_window(lm: LM, sample: Sample) -> None:
    """Demand a document longer than two windows, all but the last of which the query misses."""
    document = plain_ids(lm, sample, "oracle")[2]
    assert len(document) > 2 * lm.config.sliding_window


@pytest.mark.parametrize("name", WINDOWED)
def test_documents_reach_past_the_window(name: str) -> None:
    """The identity is also tried where a document is longer than the sliding window."""
    check_reach_past_the_window(loading.load(name, device="cpu"), LONG)


def forget_the_document(patch: pytest.MonkeyPatch) -> None:
    """Keep the first tokens of the passage only."""
    right = tokenization.tokenize

    def broken(tok: Any, sample: Sample, *target: str) -> tokenization.TokenizedSample:
        read = right(tok, sample, *target)
        return dataclasses.replace(read, document=read.document[:9])

    patch.setattr(tokenization, "tokenize", broken)


@pytest.mark.parametrize("name", WINDOWED)
def test_twin_documents_reach_past_the_window(name: str, seen: Callable[..., None]) -> None:
    """A document cut to about one window would no longer try the windows, and is seen."""
    seen(forget_the_document, check_reach_past_the_window, loading.load(name, device="cpu"), LONG)


def start_a_position_late(patch: pytest.MonkeyPatch) -> None:
    """Leave a gap between the cache and the query."""
    right = forward.pad_ids
    patch.setattr(
        forward,
        "pad_ids",
        lambda lm, s, starts, past=None: right(
            lm, s, [n + (past is not None) for n in starts], past
        ),
    )


def forget_the_window(patch: pytest.MonkeyPatch) -> None:
    right = masks.visible
    patch.setattr(masks, "visible", lambda q, k, real, _window: right(q, k, real, None))


def count_the_window_over_slots(patch: pytest.MonkeyPatch) -> None:
    """Take a slot's index for its position, which it is not once the batch is padded."""
    right = masks.visible

    def broken(
        q: torch.Tensor, k: torch.Tensor, real: torch.Tensor, window: int | None
    ) -> torch.Tensor:
        slots = torch.arange(k.shape[1]).expand_as(k)
        return right(slots[:, -q.shape[1] :], slots, real, window)

    patch.setattr(masks, "visible", broken)


def see_the_future(patch: pytest.MonkeyPatch) -> None:
    right = masks.visible

    def broken(
        q: torch.Tensor, k: torch.Tensor, real: torch.Tensor, window: int | None
    ) -> torch.Tensor:
        return right(q, k, real, window) | real[:, None, None, :]

    patch.setattr(masks, "visible", broken)


def see_padding(patch: pytest.MonkeyPatch) -> None:
    right = masks.visible
    patch.setattr(
        masks, "visible", lambda q, k, real, window: right(q, k, torch.ones_like(real), window)
    )


def drop_one_more(patch: pytest.MonkeyPatch) -> None:
    right = kv_cache.KVCache.keep
    patch.setattr(
        kv_cache.KVCache,
        "keep",
        lambda self, slots: right(self, [[kept[0], *kept[2:]] for kept in slots]),
    )


def read_the_wrong_logit(patch: pytest.MonkeyPatch) -> None:
    """Take each answer token's NLL a token before the one that predicts it."""
    right = forward.run_model
    patch.setattr(
        forward,
        "run_model",
        lambda lm, given_, wanted, **cache: right(
            lm, given_, (wanted[0], [c - 1 for c in wanted[1]]), **cache
        ),
    )


# Faults of the one masked pass. Its groups are, in order: BOS, prefix, second BOS, document,
# question. (That the second BOS does not see the first is no use: both hold the same.)
FIRST_BOS, COPY, SECOND_BOS, DOCUMENT, QUESTION = range(5)


def change_readings(
    patch: pytest.MonkeyPatch, change: Callable[[SequenceInput, int], SequenceInput]
) -> None:
    """Change every reading that has a second BOS, given its place."""
    right = one_pass.one_pass

    def broken(sample: Any, condition: Any, bos_id: int) -> SequenceInput:
        read = right(sample, condition, bos_id)
        return change(read, read.groups.index(SECOND_BOS)) if SECOND_BOS in read.groups else read

    patch.setattr(one_pass, "one_pass", broken)


def let_see(query: int, key: int) -> Callable[[pytest.MonkeyPatch], None]:
    """Make a fault: one group sees another that it must not see."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        def seeing(read: SequenceInput, _: int) -> SequenceInput:
            assert (query, key) in read.blocked_groups
            return dataclasses.replace(read, blocked_groups=read.blocked_groups - {(query, key)})

        change_readings(patch, seeing)

    names = ("first_bos", "prefix", "second_bos", "document", "question")
    fault.__name__ = f"{names[query]}_sees_{names[key]}"
    return fault


def hide_the_prefix_from_the_document(patch: pytest.MonkeyPatch) -> None:
    change_readings(
        patch,
        lambda read, _: dataclasses.replace(
            read, blocked_groups=read.blocked_groups | {(DOCUMENT, COPY)}
        ),
    )


def second_bos_a_position_early(patch: pytest.MonkeyPatch) -> None:
    change_readings(
        patch,
        lambda read, at: dataclasses.replace(
            read,
            positions=(*read.positions[:at], read.positions[at] - 1, *read.positions[at + 1 :]),
        ),
    )


def no_place_for_the_second_bos(patch: pytest.MonkeyPatch) -> None:
    """Count the second BOS as a token of its own, so that the document comes one too late."""
    change_readings(
        patch,
        lambda read, at: dataclasses.replace(
            read, positions=(*read.positions[:at], *(n + 1 for n in read.positions[at:]))
        ),
    )


def question_a_position_late(patch: pytest.MonkeyPatch) -> None:
    change_readings(
        patch,
        lambda read, _: dataclasses.replace(
            read,
            positions=tuple(
                n + (group == QUESTION)
                for n, group in zip(read.positions, read.groups, strict=True)
            ),
        ),
    )


LAYOUT_FAULTS = (
    let_see(DOCUMENT, SECOND_BOS),
    let_see(QUESTION, FIRST_BOS),
    let_see(QUESTION, COPY),
    hide_the_prefix_from_the_document,
    second_bos_a_position_early,
    no_place_for_the_second_bos,
    question_a_position_late,
)
MASK_FAULTS = (see_the_future, read_the_wrong_logit)


@pytest.mark.parametrize(
    "fault",
    [
        interleave_pairs,
        move_one_too_far,
        leave_keys_unturned,
        lose_bos,
        drop_one_more,
        start_a_position_late,
        see_padding,
        *MASK_FAULTS,
    ],
)
def test_twin_surgery(lm: LM, seen: Callable[..., None], fault: Fault) -> None:
    """Every way in which truncation and re-positioning went wrong before is seen in the scores."""
    seen(fault, check_truncated_equals_plain, lm, [LONG, SHORT], ["oracle"], "cache")


@pytest.mark.parametrize("fault", [*LAYOUT_FAULTS, *MASK_FAULTS])
def test_twin_one_pass(lm: LM, seen: Callable[..., None], fault: Fault) -> None:
    """Every way of laying the one pass out wrongly is seen in the scores."""
    seen(fault, check_truncated_equals_plain, lm, [LONG, SHORT], ["oracle"], "auto")


@pytest.mark.parametrize("name", [n for n in tiny_configs.NAMES if n not in ONLY_WINDOWED])
def test_twin_second_bos_sees_the_prefix(name: str, seen: Callable[..., None]) -> None:
    """The BOS that stands before the document must be as it is alone."""
    lm = loading.load(name, device="cpu")
    fault = let_see(SECOND_BOS, COPY)
    seen(fault, check_truncated_equals_plain, lm, [LONG, SHORT], ["oracle"], "auto")


@pytest.mark.parametrize(
    "fault",
    [
        interleave_pairs,
        move_one_too_far,
        leave_keys_unturned,
        turn_values_too,
        lose_bos,
        drop_one_more,
    ],
)
def test_twin_truncated_cache(lm: LM, seen: Callable[..., None], fault: Fault) -> None:
    """The same faults are seen in the cache itself, however little of it a window shows."""
    seen(fault, check_truncated_cache, lm, LONG, "oracle")


@pytest.mark.parametrize(
    ("name", "route"),
    [(n, r) for n in WINDOWED for r in ROUTES if (n not in ONLY_WINDOWED or r == "cache")],
)
@pytest.mark.parametrize("fault", [forget_the_window, count_the_window_over_slots])
def test_twin_windows(
    name: str, fault: Fault, route: answer_nll.Route, seen: Callable[..., None]
) -> None:
    """A window that is forgotten, or counted over slots, is seen."""
    lm = loading.load(name, device="cpu")
    seen(fault, check_truncated_equals_plain, lm, [LONG, SHORT], ["oracle"], route)


@both_routes
@pytest.mark.parametrize("fault", [see_the_future, read_the_wrong_logit])
@pytest.mark.parametrize(
    "check", [check_full_context_equals_teacher_forcing, check_bare_equals_no_cache]
)
def test_twin_teacher_forcing(
    lm: LM,
    seen: Callable[..., None],
    fault: Fault,
    check: Callable[..., None],
    route: answer_nll.Route,
) -> None:
    """A look ahead or a logit one off is seen without any surgery."""
    seen(fault, check, lm, [LONG, SHORT], route)


@pytest.mark.parametrize(
    "check", [check_full_context_equals_teacher_forcing, check_bare_equals_no_cache]
)
def test_twin_teacher_forcing_with_a_gap(
    lm: LM, seen: Callable[..., None], check: Callable[..., None]
) -> None:
    """A gap between the cache and the query is seen without any surgery."""
    seen(start_a_position_late, check, lm, [LONG, SHORT], "cache")


def test_twin_empty_prefix(lm: LM, seen: Callable[..., None]) -> None:
    """Dropping one slot where none was to go is seen."""
    seen(drop_one_more, check_empty_prefix_equals_bare, lm, [LONG, SHORT], "cache")


def a_second_bos_for_no_prefix(patch: pytest.MonkeyPatch) -> None:
    """Lay out a second BOS, seen beside the first, where there is no prefix to hide."""
    right = one_pass.one_pass

    def broken(sample: Any, condition: Any, bos_id: int) -> SequenceInput:
        read = right(sample, condition, bos_id)
        if not isinstance(condition.recipe, recipes.Reposition):
            return read
        return SequenceInput((bos_id, *read.ids), (0, *read.positions))

    patch.setattr(one_pass, "one_pass", broken)


def test_twin_empty_prefix_in_one_pass(lm: LM, seen: Callable[..., None]) -> None:
    """A second BOS where no prefix needs one is seen."""
    seen(a_second_bos_for_no_prefix, check_empty_prefix_equals_bare, lm, [LONG, SHORT], "auto")


# --- caches are values --------------------------------------------------------------------------


def check_scoring_leaves_caches_alone(
    lm: LM, document: Sequence[int], queries: Sequence[Sequence[int]], order: Sequence[int]
) -> None:
    """Score one cache twice, in two orders; demand equal bits."""
    cache = document_cache(lm, [lm.bos_id, *document])
    before = [x.clone() for x in (*cache.keys, *cache.values, cache.positions, cache.real)]
    first = [_last_logits(lm, cache, queries[i]) for i in range(len(queries))]
    again = {i: _last_logits(lm, cache, queries[i]) for i in order}
    after = [*cache.keys, *cache.values, cache.positions, cache.real]
    assert all(map(torch.equal, before, after)), "scoring changed the cache it scored"
    assert all(torch.equal(first[i], again[i]) for i in order), "the order changed a number"


def _last_logits(lm: LM, cache: kv_cache.KVCache, query: Sequence[int]) -> torch.Tensor:
    step = forward.pad_ids(lm, [list(query)], [cache.slots], cache)
    return forward.run(lm, step, ([0], [len(query) - 1]))[0]


@few
@given(data=st.data(), document=IDS, queries=st.lists(IDS, min_size=2, max_size=4))
def test_scoring_changes_no_cache(
    lm: LM, data: st.DataObject, document: list[int], queries: list[list[int]]
) -> None:
    """One cache, scored any number of times in any order: bit-equal numbers, an untouched cache."""
    order = data.draw(st.permutations(range(len(queries))))
    check_scoring_leaves_caches_alone(lm, document, queries, order)


def share_one_cache(patch: pytest.MonkeyPatch) -> None:
    """Hand the model the same transformers cache every time, as the first notebooks did."""
    right = kv_cache.KVCache.to_model
    made: dict[int, Any] = {}
    patch.setattr(kv_cache.KVCache, "to_model", lambda self: made.setdefault(id(self), right(self)))


def write_into_the_cache(patch: pytest.MonkeyPatch) -> None:
    right = kv_cache.KVCache.to_model

    def broken(self: kv_cache.KVCache) -> Any:
        for keys in self.keys:
            keys.mul_(1.001)
        return right(self)

    patch.setattr(kv_cache.KVCache, "to_model", broken)


def test_twin_a_shared_cache(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that grows, or is written to, while it is scored is seen."""
    case = (lm, SOME_IDS, [[7, 8, 9], [30, 40]], [1, 0])
    check_scoring_leaves_caches_alone(*case)
    for fault in (share_one_cache, write_into_the_cache):
        with monkeypatch.context() as patch:
            fault(patch)
            # A grown cache no longer fits its mask, so the model itself may refuse it first.
            with pytest.raises((AssertionError, RuntimeError)):
                check_scoring_leaves_caches_alone(*case)


# --- batches ------------------------------------------------------------------------------------

ALL = (
    "bare",
    "oracle",
    "random",
    "static_fact",
    "full_context(oracle)",
    "bare_again",
    "rope_roundtrip(oracle)",
)


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
    """A score depends on its sample and condition, not on who else is in the batch."""
    order = data.draw(st.permutations(range(len(batch))))
    check_batches_do_not_matter(lm, batch, order, budget, route)


def return_rows_in_reverse(patch: pytest.MonkeyPatch) -> None:
    """Hand the answers' scores out in the reverse of the answers' order."""
    right = answer_nll.answer_nlls
    patch.setattr(answer_nll, "answer_nlls", lambda *given_: right(*given_)[::-1])


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
def test_twin_batches(
    lm: LM, seen: Callable[..., None], fault: Fault, route: answer_nll.Route
) -> None:
    """Padding that is attended to, or scores handed to the wrong sample, are seen."""
    seen(fault, check_batches_do_not_matter, lm, [LONG, SHORT], [1, 0], 4096, route)


# --- tokens -------------------------------------------------------------------------------------


def prefilled_ids(lm: LM, sample: Sample, name: str) -> Iterator[list[int]]:
    """Yield the token ids that the engine prefills for a condition, padding left out."""
    given_ = parse.condition(name)
    ready = prepared.prepare_one(lm, sample, given_)
    for leaf in given_.prefills():
        step = build.prefill_input(lm, leaf, [ready])
        yield step.ids[0][step.real[0]].tolist()


def check_matched_tokenization(lm: LM, sample: Sample) -> None:
    """Demand one BOS and one document in what every condition prefills."""

    def bare_ids(text: str) -> list[int]:
        read = lm.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return list(read["input_ids"])

    prefix = bare_ids(f"{sample.query}\n")
    joined = bare_ids(f"{sample.query}\n{sample.passage}")
    document = joined[len(prefix) :]
    oracle_length = 0
    for name in ALL:
        for ids in prefilled_ids(lm, sample, name):
            assert ids[0] == lm.bos_id, f"{name}: the cache does not begin with BOS"
            assert ids.count(lm.bos_id) == 1, f"{name}: {ids.count(lm.bos_id)} BOS"
            assert ids[-len(document) :] == document, f"{name}: other document ids"
            if name == "oracle":
                oracle_length = len(ids)
                assert ids[1:] == joined, "oracle: not the ids of the joined text"
            if name == "random":
                assert len(ids) == oracle_length, "random: not as long as the query"


@some
@given(sample=strategies.samples())
@example(sample=SHORT)
def test_every_condition_holds_the_same_document(lm: LM, sample: Sample) -> None:
    """One BOS, then a prefix or none, then the very ids the passage has behind the query."""
    check_matched_tokenization(lm, sample)


def add_special_tokens(patch: pytest.MonkeyPatch) -> None:
    """Prepend BOS to whatever is tokenized, as many tokenizers do by default."""
    right = tokenization.encode
    patch.setattr(tokenization, "encode", lambda tok, text: (tok.bos_token_id, *right(tok, text)))


def read_special_tokens(patch: pytest.MonkeyPatch) -> None:
    """Take text that spells a special token for that token."""
    patch.setattr(
        tokenization,
        "encode",
        lambda tok, text: tuple(tok(text, add_special_tokens=False).input_ids),
    )


def tokenize_apart(patch: pytest.MonkeyPatch) -> None:
    """Tokenize the passage on its own, apart from what stands before it."""
    right = tokenization.tokenize
    patch.setattr(
        tokenization,
        "tokenize",
        lambda tok, sample, target: dataclasses.replace(
            right(tok, sample, target), document=tokenization.encode(tok, sample.passage)
        ),
    )


@pytest.mark.parametrize("fault", [add_special_tokens, read_special_tokens])
def test_twin_one_bos(lm: LM, seen: Callable[..., None], fault: Fault) -> None:
    """A second BOS is seen, wherever it comes from."""
    seen(fault, check_matched_tokenization, lm, SHORT)


@pytest.mark.parametrize("name", tiny_configs.SENTENCEPIECE)
def test_twin_passage_tokenized_apart(name: str, seen: Callable[..., None]) -> None:
    """A passage tokenized apart from its prefix is seen where the boundary matters."""
    lm = loading.load(name, device="cpu")
    seen(tokenize_apart, check_matched_tokenization, lm, SHORT)


# --- masks --------------------------------------------------------------------------------------


def check_mask(
    positions: list[list[int]], real: list[list[bool]], q: int, window: int | None
) -> None:
    """Compare a mask with its definition, entry by entry."""
    keys, flags = torch.tensor(positions), torch.tensor(real)
    found = masks.visible(keys[:, -q:], keys, flags, window)
    slots = keys.shape[1]
    assert found.shape == (len(positions), 1, q, slots)
    assert found.dtype == torch.bool
    for row, i, k in itertools.product(range(len(positions)), range(q), range(slots)):
        own = slots - q + i
        near = window is None or positions[row][own] - positions[row][k] < window
        wanted = k == own or (k < own and real[row][k] and near)
        assert bool(found[row, 0, i, k]) == wanted, f"row {row}, query {i}, slot {k}"
    assert bool(found.any(dim=-1).all()), "a token attends to nothing"


LAYOUT = ([[0, 1, 2, 3, 9, 10, 11, 11]], [[True, True, True, True, True, False, True, False]])


@some
@given(layout=strategies.layouts())
@example(layout=(*LAYOUT, 4, 3))
def test_masks_are_causal_windowed_and_never_empty(
    layout: tuple[list[list[int]], list[list[bool]], int, int | None],
) -> None:
    """Every entry is what one says in words: itself, or an earlier, real and near enough token."""
    check_mask(*layout)


def forget_oneself(patch: pytest.MonkeyPatch) -> None:
    """Let a padding token see nothing, which is NaN on some devices."""
    right = masks.visible
    patch.setattr(
        masks,
        "visible",
        lambda q, k, real, window: right(q, k, real, window) & real[:, None, None, :],
    )


@pytest.mark.parametrize(
    "fault",
    [see_the_future, see_padding, forget_the_window, count_the_window_over_slots, forget_oneself],
)
def test_twin_masks(seen: Callable[..., None], fault: Fault) -> None:
    """A mask that is not causal, shows padding, mistakes the window or is empty is seen."""
    seen(fault, check_mask, *LAYOUT, 4, 3)


def check_mask_form(lm: LM) -> None:
    """Demand the dtype, shape and layer kinds that the model takes."""
    step = forward.pad_ids(lm, [SOME_IDS, SOME_IDS[:3]], [0, 0])
    made = masks.for_model(lm, step.positions, step.key_positions(), step.key_real())
    kinds = set(masks.layer_kinds(lm))
    assert (set(made) if isinstance(made, dict) else kinds) == kinds
    assert isinstance(made, dict) == (len(kinds) > 1), "one mask per kind of layer"
    eager = lm.model.config._attn_implementation == "eager"
    model_dtype = next(lm.model.parameters()).dtype
    for mask in made.values() if isinstance(made, dict) else [made]:
        assert mask.shape == (2, 1, len(SOME_IDS), len(SOME_IDS))
        assert mask.dtype == (model_dtype if eager else torch.bool)
        if eager:
            assert set(mask.unique().tolist()) == {0.0, torch.finfo(model_dtype).min}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", tiny_configs.NAMES)
def test_masks_have_the_form_the_model_takes(name: str, dtype: str) -> None:
    """Boolean for SDPA; for eager attention a bias in the model's own dtype, per layer kind."""
    check_mask_form(loading.load(name, device="cpu", dtype=dtype))


def hand_out_booleans(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(masks, "_as_attention_wants", lambda _lm, mask: mask)


def hand_out_float32(patch: pytest.MonkeyPatch) -> None:
    right = masks._as_attention_wants
    patch.setattr(masks, "_as_attention_wants", lambda lm, mask: right(lm, mask).float())


@pytest.mark.parametrize("fault", [hand_out_booleans, hand_out_float32])
def test_twin_mask_form(seen: Callable[..., None], fault: Fault) -> None:
    """A boolean mask for eager attention, or one in another dtype than the model's, is seen."""
    seen(fault, check_mask_form, loading.load("tiny-gemma2", device="cpu", dtype="bfloat16"))


# --- other dtypes -------------------------------------------------------------------------------

# Roundoff of the dtype, times the size of the logits (10), times the roundings of three layers.
COARSE = {"float16": 0.02, "bfloat16": 0.2}


def check_half_precision(lm: LM, dtype: str) -> None:
    """Demand finite scores in 16 bits, by both routes, near those of float32."""
    names = ("bare", "oracle", "full_context(oracle)")
    exact = answer_nll.score(lm, [LONG, SHORT], names)
    half = loading.load(lm.name, device="cpu", dtype=dtype)
    for route in ROUTES:
        coarse = answer_nll.score(half, [LONG, SHORT], names, route=route)
        assert (coarse.status == "ok").all()
        assert (coarse.nll - exact.nll).abs().max() < COARSE[dtype]


@pytest.mark.parametrize("dtype", sorted(COARSE))
def test_half_precision_measures_the_same(llama: LM, dtype: str) -> None:
    """In 16 bits the scores are those of float32, up to that dtype's rounding."""
    check_half_precision(llama, dtype)


def overflow_in_half_precision(patch: pytest.MonkeyPatch) -> None:
    """Leave a NaN behind wherever the keys are not float32."""
    right = rope.rotate
    patch.setattr(
        rope,
        "rotate",
        lambda keys, *more: (
            right(keys, *more) * (1 if keys.dtype == torch.float32 else float("nan"))
        ),
    )


def mask_in_another_sense(patch: pytest.MonkeyPatch) -> None:
    """Turn the mask's meaning round where the keys are not float32."""
    right = masks._as_attention_wants
    patch.setattr(
        masks,
        "_as_attention_wants",
        lambda lm, mask: right(
            lm,
            mask
            if lm.dtype == "float32"
            else mask | mask.transpose(2, 3).logical_not()
            if mask.shape[2] == mask.shape[3]
            else ~mask,
        ),
    )


@pytest.mark.parametrize("dtype", sorted(COARSE))
@pytest.mark.parametrize("fault", [overflow_in_half_precision, mask_in_another_sense])
def test_twin_half_precision(
    llama: LM, seen: Callable[..., None], fault: Fault, dtype: str
) -> None:
    """Scores that are not finite, or a mask read the other way round, are seen in 16 bits."""
    seen(fault, check_half_precision, llama, dtype)
