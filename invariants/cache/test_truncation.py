"""A truncated and re-positioned cache scores as the plain procedure does.

The oracle is `invariants.oracle.plain`, which shares no code with the engine. Both of the engine's
routes are held against it: caches, on which surgery is done, and one masked pass, which has none.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from invariants.oracle import plain
from invariants.support import strategies
from invariants.support.comparing import (
    PREFILL_TOLERANCE,
    Fault,
    assert_close_per_layer,
    assert_rows_equal,
    assert_scores,
    in_one_batch,
    must_see,
)
from invariants.support.faults import (
    count_the_window_over_slots,
    drop_one_more,
    forget_the_window,
    interleave_pairs,
    leave_keys_unturned,
    lose_bos,
    move_one_too_far,
    question_a_position_late,
    read_the_wrong_logit,
    see_padding,
    see_the_future,
    turn_values_too,
    use_one_base,
)
from invariants.support.one_pass_faults import (
    COPY,
    LAYOUT_FAULTS,
    SECOND_BOS,
    a_second_bos_for_no_prefix,
    let_see,
)
from invariants.support.plain_routes import ROUTES, TWO_BASES, both_routes
from invariants.support.samples import LONG, TINY
from invariants.support.strategies import few
from kvcore import loading, tokenization
from kvcore.conditions import parse, registry
from kvcore.conditions.recipes import Condition
from kvcore.data.sample import Sample
from kvcore.engine import build, forward, prepared
from kvcore.measurements import answer_nll
from kvcore.models import tiny_configs
from kvcore.models.lm import LM
from kvcore.tokenization import NO_PREFIX

WINDOWED = ("tiny-mistral", "tiny-gemma2", "tiny-gemma3")


ONLY_WINDOWED = ("tiny-mistral",)  # what changes far back reaches no answer through three layers


TRUNCATED = ("oracle", "random", "static_fact", 'literal("Read this closely.")')


PLAIN_ROUTES = (plain.truncated_nlls, plain.shifted_nlls, plain.one_pass_nlls)


def plain_ids(lm: LM, sample: Sample, name: str | Condition) -> tuple[Any, ...]:
    """Return a condition's arguments for the plain procedure."""
    chosen = parse.condition(name)
    ready = prepared.prepare_one(lm, sample, chosen)
    read = ready.tokens
    prefix = ready.prefixes[chosen.prefixes()[0]]
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
    chosen = parse.condition(name)
    ready = prepared.prepare_one(lm, sample, chosen)
    (prefill,) = chosen.prefills()
    prefilled = forward.run(lm, build.prefill_input(lm, prefill, [ready]))[1]
    found = build.build(lm, chosen.recipe, {prefill: prefilled}, [ready])
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


@pytest.mark.every_model
@both_routes
@few
@given(batch=strategies.batches(3), name=st.sampled_from(TRUNCATED))
@example(batch=[LONG, TINY], name="oracle")
def test_three_plain_routes_give_the_engines_number(
    lm: LM, route: answer_nll.Route, batch: list[Sample], name: str
) -> None:
    """Would catch a truncated cache, or the masked pass in its place, that scores otherwise.

    1. The engine, in batches, through caches or in one masked pass.
    2. By hand, one sample at a time: surgery, shifted prefills, and a masked pass.
    """
    check_truncated_equals_plain(lm, batch, [name], route)


@few
@given(sample=strategies.samples(), name=st.sampled_from(TRUNCATED))
@example(sample=LONG, name="oracle")
def test_a_truncated_cache_is_bos_and_the_document(lm: LM, sample: Sample, name: str) -> None:
    """Would catch a slot that is lost, kept or moved wrongly, in whatever layer.

    1. The engine's truncated and re-positioned cache.
    2. BOS alone, then the document prefilled at 1, 2, 3, ...
    """
    check_truncated_cache(lm, sample, name)


@both_routes
@few
@given(batch=strategies.batches(3))
def test_full_context_is_plain_teacher_forcing(
    lm: LM, route: answer_nll.Route, batch: list[Sample]
) -> None:
    """Would catch a cache that changes what it only is to compute.

    1. Prefix and document cached, the answer read on top.
    2. One forward pass over everything, without a cache.
    """
    check_full_context_equals_teacher_forcing(lm, batch, route)


@both_routes
@few
@given(batch=strategies.batches(3))
def test_bare_equals_a_forward_without_any_cache(
    lm: LM, route: answer_nll.Route, batch: list[Sample]
) -> None:
    """Would catch a baseline that is not what the model says of the text."""
    check_bare_equals_no_cache(lm, batch, route)


@both_routes
@few
@given(batch=strategies.batches(3))
def test_a_prefix_of_length_zero_is_bare(
    lm: LM, route: answer_nll.Route, batch: list[Sample]
) -> None:
    """Would catch surgery that changes something where nothing is dropped."""
    check_empty_prefix_equals_bare(lm, batch, route)


def check_reach_past_the_window(lm: LM, sample: Sample) -> None:
    """Demand a document longer than two windows, all but the last of which the query misses."""
    document = plain_ids(lm, sample, "oracle")[2]
    assert len(document) > 2 * lm.config.sliding_window


@pytest.mark.parametrize("name", WINDOWED)
def test_documents_reach_past_the_window(name: str) -> None:
    """Would catch an example too short to try the sliding window."""
    check_reach_past_the_window(loading.load(name, device="cpu"), LONG)


def forget_the_document(patch: pytest.MonkeyPatch) -> None:
    """Keep the first tokens of the passage only."""
    right = tokenization.tokenize

    def broken(tok: Any, sample: Sample, *target: str) -> tokenization.TokenizedSample:
        read = right(tok, sample, *target)
        return dataclasses.replace(read, document=read.document[:9])

    patch.setattr(tokenization, "tokenize", broken)


@pytest.mark.parametrize("name", WINDOWED)
def test_twin_documents_reach_past_the_window(name: str) -> None:
    """Would catch a check blind to a document cut to one window."""
    must_see(
        forget_the_document, check_reach_past_the_window, loading.load(name, device="cpu"), LONG
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
        question_a_position_late,
        see_padding,
        *MASK_FAULTS,
    ],
)
def test_twin_surgery(lm: LM, fault: Fault) -> None:
    """Would catch a check of scores blind to a fault of truncation or re-positioning."""
    must_see(fault, check_truncated_equals_plain, lm, [LONG, TINY], ["oracle"], "cache")


@pytest.mark.parametrize("fault", [*LAYOUT_FAULTS, *MASK_FAULTS])
def test_twin_one_pass(lm: LM, fault: Fault) -> None:
    """Would catch a check of scores blind to a fault in the masked pass's layout."""
    must_see(fault, check_truncated_equals_plain, lm, [LONG, TINY], ["oracle"], "auto")


@pytest.mark.parametrize("name", [n for n in tiny_configs.NAMES if n not in ONLY_WINDOWED])
def test_twin_second_bos_sees_the_prefix(name: str) -> None:
    """Would catch a check blind to a second BOS that is not as it is alone."""
    lm = loading.load(name, device="cpu")
    fault = let_see(SECOND_BOS, COPY)
    must_see(fault, check_truncated_equals_plain, lm, [LONG, TINY], ["oracle"], "auto")


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
def test_twin_truncated_cache(lm: LM, fault: Fault) -> None:
    """Would catch a check of the cache blind to faults of which a window shows little."""
    must_see(fault, check_truncated_cache, lm, LONG, "oracle")


@pytest.mark.parametrize(
    ("name", "route"),
    [(n, r) for n in WINDOWED for r in ROUTES if (n not in ONLY_WINDOWED or r == "cache")],
)
@pytest.mark.parametrize("fault", [forget_the_window, count_the_window_over_slots])
def test_twin_windows(name: str, fault: Fault, route: answer_nll.Route) -> None:
    """Would catch a check blind to a window forgotten, or counted over slots."""
    lm = loading.load(name, device="cpu")
    must_see(fault, check_truncated_equals_plain, lm, [LONG, TINY], ["oracle"], route)


@both_routes
@pytest.mark.parametrize("fault", [see_the_future, read_the_wrong_logit])
@pytest.mark.parametrize(
    "check", [check_full_context_equals_teacher_forcing, check_bare_equals_no_cache]
)
def test_twin_teacher_forcing(
    lm: LM,
    fault: Fault,
    check: Callable[..., None],
    route: answer_nll.Route,
) -> None:
    """Would catch a check blind to a look ahead, or to a logit one off."""
    must_see(fault, check, lm, [LONG, TINY], route)


@pytest.mark.parametrize(
    "check", [check_full_context_equals_teacher_forcing, check_bare_equals_no_cache]
)
def test_twin_teacher_forcing_with_a_gap(lm: LM, check: Callable[..., None]) -> None:
    """Would catch a check blind to a gap between the cache and the query."""
    must_see(question_a_position_late, check, lm, [LONG, TINY], "cache")


def test_twin_empty_prefix(lm: LM) -> None:
    """Would catch a check blind to a slot dropped where none was to go."""
    must_see(drop_one_more, check_empty_prefix_equals_bare, lm, [LONG, TINY], "cache")


def test_twin_empty_prefix_in_one_pass(lm: LM) -> None:
    """Would catch a check blind to a second BOS where no prefix needs one."""
    must_see(a_second_bos_for_no_prefix, check_empty_prefix_equals_bare, lm, [LONG, TINY], "auto")


@pytest.mark.parametrize("name", TWO_BASES)
def test_twin_one_base(name: str) -> None:
    """Would catch a check blind to one base for both kinds of layer, where a model has two."""
    lm = loading.load(name, device="cpu")
    must_see(use_one_base, check_truncated_equals_plain, lm, [LONG], TRUNCATED, "cache")
