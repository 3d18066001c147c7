"""Every condition is what its name says, on either route."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import example, given

from invariants.support import strategies
from invariants.support.comparing import (
    Fault,
    assert_rows_equal,
    in_one_batch,
    must_see,
)
from invariants.support.faults import (
    count_bos_into_the_mean,
    drop_what_stands_behind,
    hand_caches_out_in_reverse,
    last_positions_first,
    leave_keys_bare,
    leave_positions_old,
    let_copies_see_each_other,
    mix_bos_too,
    mix_every_layer,
    mix_from_the_start,
    mix_further_layers,
    mix_keys_too,
    move_chunks_alike,
    never_amplify,
    one_beacon_only,
    one_copy_only,
    question_a_position_late,
    read_parts_in_reverse,
    read_the_own_document,
    round_depth_up,
    show_all_copies,
    show_the_other_end,
    take_the_other_weight,
    turn_them_anyway,
    values_of_the_first_slots,
    values_of_the_neighbour,
)
from invariants.support.plain_routes import (
    EXPECTED,
    FURTHER,
    TWO_BASES,
    Case,
    check_conditions_equal_plain,
    mixed,
)
from invariants.support.samples import LONG, SHORT
from invariants.support.strategies import once
from kvcore import loading, tokenization
from kvcore.conditions import registry
from kvcore.conditions.parse import condition
from kvcore.conditions.recipes import (
    Condition,
    Document,
    LayerRange,
    MaskFromQuery,
    Mix,
    Prefill,
    Recipe,
)
from kvcore.conditions.registry import BARE, QUERY, primed, truncation
from kvcore.data.sample import Sample
from kvcore.engine import prepared
from kvcore.errors import KvError
from kvcore.measurements import answer_nll
from kvcore.models.lm import LM


def test_every_name_is_tried() -> None:
    """Would catch a condition or prefix that no plain route holds to its definition."""

    def heads(names: Sequence[str]) -> set[str]:
        return {name.split("(")[0] for name in names}

    assert heads(list(EXPECTED)) == heads(registry.NAMES)


@once
@given(batch=strategies.batches(2, max_words=8))
@example(batch=[LONG, SHORT])
def test_every_condition_equals_its_plain_route(lm: LM, batch: list[Sample]) -> None:
    """Would catch a cache that is not what its condition's name says.

    1. All conditions at once, hybrids built from shared prefills.
    2. Each by itself, from scratch: one sample and one ``DynamicCache`` at a time.
    """
    check_conditions_equal_plain(lm, batch, EXPECTED)


def test_long_conditions_equal_their_plain_route(lm: LM) -> None:
    """Would catch long beacons that go wrong, or a stride that no document reaches."""
    check_conditions_equal_plain(lm, [LONG, SHORT], FURTHER)


def check_routes_agree(lm: LM, batch: Sequence[Sample], names: Sequence[str]) -> None:
    """Score each condition by itself on the default route, and all of them through caches."""
    together = in_one_batch(lm, batch, names, "cache")
    for name in names:
        alone = in_one_batch(lm, batch, [name], "auto")
        assert_rows_equal(alone, together[together.condition == name], f"{name} by itself")


@once
@given(batch=strategies.batches(2, max_words=8))
@example(batch=[LONG, SHORT])
def test_one_pass_and_caches_agree_on_every_condition(lm: LM, batch: list[Sample]) -> None:
    """Would catch a score that hangs on its route.

    1. Each condition by itself, on the default route: one masked pass where that is exact.
    2. All conditions together, through caches.
    """
    check_routes_agree(lm, batch, list(EXPECTED))


TWINS: tuple[tuple[str, Fault, str], ...] = (
    ("other weight", take_the_other_weight, "interp(oracle,0.25)"),
    ("other weight", take_the_other_weight, "qvi(0.1)"),
    ("further layers", mix_further_layers, "values_early_layers(oracle,2)"),
    ("further layers", mix_further_layers, "values_layer(oracle,1)"),
    ("depth rounded up", round_depth_up, "values_early_layers(oracle,0.47)"),
    ("values of the neighbour", values_of_the_neighbour, "values_only(oracle)"),
    ("values of the prefix", values_of_the_first_slots, "values_only(oracle)"),
    ("BOS mixed", mix_bos_too, "qvi(0.1)"),
    ("from the end", last_positions_first, "values_early_positions(oracle,0.25)"),
    ("keys mixed", mix_keys_too, "values_only(oracle)"),
    ("BOS in the mean", count_bos_into_the_mean, "qvi(0.1)"),
    ("all copies seen", show_all_copies, "blocks(oracle,3,none)"),
    ("the other copy seen", show_the_other_end, "blocks(oracle,3,first)"),
    ("the other copy seen", show_the_other_end, "blocks(oracle,3,last)"),
    ("copies not isolated", let_copies_see_each_other, "blocks(oracle,3,none)"),
    ("old positions", leave_positions_old, "no_reposition(oracle)"),
    ("turned anyway", turn_them_anyway, "no_reposition(oracle)"),
    ("chunks moved alike", move_chunks_alike, 'beacons("go",5)'),
    ("one beacon", one_beacon_only, 'beacons("go",5)'),
    ("suffix first", read_parts_in_reverse, "suffix(oracle)"),
    ("suffix first", read_parts_in_reverse, "separator"),
    ("one copy", one_copy_only, "repeat(oracle,3)"),
    ("one copy", one_copy_only, "click_history(2)"),
    ("caches swapped", hand_caches_out_in_reverse, "values_only(oracle)"),
    ("keys mixed", mix_keys_too, "values_of_another(oracle)"),
    ("own document", read_the_own_document, "values_of_another(oracle)"),
    ("prefix behind", read_parts_in_reverse, "with_separator(oracle)"),
    ("separator lost", drop_what_stands_behind, "with_separator(oracle)"),
    ("all layers", mix_every_layer, "values_layers(oracle,0.34,0.67)"),
    ("from the start", mix_from_the_start, "values_positions(oracle,0.25,0.75)"),
    ("not amplified", never_amplify, "amplified(oracle,2)"),
    ("bare keys", leave_keys_bare, "keys_only(oracle)"),
)


@pytest.mark.parametrize(
    ("fault", "name"), [pytest.param(f, n, id=f"{what}-{n}") for what, f, n in TWINS]
)
def test_twin_conditions(llama: LM, fault: Fault, name: str) -> None:
    """Would catch a check of conditions blind to one way of carrying a recipe out wrongly."""
    must_see(fault, check_conditions_equal_plain, llama, [LONG, SHORT], {name: EXPECTED[name]})


@pytest.mark.parametrize("name", TWO_BASES)
def test_twin_one_base(name: str) -> None:
    """Would catch a check of the artifact control that passes where it does nothing."""
    lm = loading.load(name, device="cpu")
    only = {"one_base(oracle)": EXPECTED["one_base(oracle)"]}
    must_see(turn_them_anyway, check_conditions_equal_plain, lm, [LONG, SHORT], only)


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (take_the_other_weight, "interp(oracle,0.25)"),
        (hand_caches_out_in_reverse, "values_only(oracle)"),
    ],
)
def test_twin_routes(llama: LM, fault: Fault, name: str) -> None:
    """Would catch a check blind to faults that only sharing brings in."""
    must_see(
        fault,
        check_conditions_equal_plain,
        llama,
        [LONG, SHORT],
        {"bare": EXPECTED["bare"], name: EXPECTED[name]},
    )


@pytest.mark.parametrize("name", ["oracle", "full_context(oracle)", "blocks(oracle,3,first)"])
@pytest.mark.parametrize("fault", [question_a_position_late])
def test_twin_routes_agree(llama: LM, fault: Fault, name: str) -> None:
    """Would catch a comparison of routes blind to a fault of one of them."""
    must_see(fault, check_routes_agree, llama, [LONG, SHORT], [name])


FIRST_LAYER = Condition(
    "first_layer", Mix(BARE, primed(QUERY), layers=LayerRange.first(1)), "the values of one layer"
)


@pytest.mark.parametrize("whole", ["values_only(oracle)", "values_early_layers(oracle,1.0)"])
@pytest.mark.parametrize("single", ["values_layer(oracle,0)", FIRST_LAYER.name])
@pytest.mark.parametrize("first", ["whole", "single"])
def test_one_layer_is_not_the_whole_depth(
    llama: LM, whole: str, single: str, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch one layer's values and all layers' taken for each other where both are built."""
    monkeypatch.setattr(registry, "DEFINED", {FIRST_LAYER.name: FIRST_LAYER})
    expected = {whole: mixed(), single: mixed([0])}
    ordered = sorted(expected, key=[whole, single].index, reverse=first == "single")
    check_conditions_equal_plain(llama, [LONG, SHORT], {name: expected[name] for name in ordered})


def test_blocks_of_repeats_hold_every_repeat(llama: LM) -> None:
    """Would catch blocks of a repeated prefix that hold one repeat each."""
    chosen = condition("blocks(repeat(oracle,5),2,all)")
    ready = prepared.prepare_one(llama, LONG, chosen)
    case = Case(llama, LONG)
    (prefill,) = chosen.prefills()
    assert list(ready.prefill_ids(prefill, llama.bos_id)) == [
        llama.bos_id,
        *case.question * 10,
        *case.document,
    ]


@pytest.mark.parametrize(
    "recipe",
    [
        MaskFromQuery(Prefill((Document(), registry.SEPARATOR, QUERY)), "none"),
        Mix(MaskFromQuery(registry.primed(QUERY), "none"), registry.BARE),
    ],
)
def test_hiding_anything_but_copies_before_the_document_is_refused(recipe: Recipe) -> None:
    """Would catch a recipe under which the question's position would hang on the route."""
    with pytest.raises(KvError, match="'hidden': MaskFromQuery must come last"):
        Condition("hidden", recipe, "a test")


def test_two_recipes_of_one_name_are_not_confused(llama: LM) -> None:
    """Would catch a second recipe of a name scored as the first."""
    (bare,) = answer_nll.score(llama, [LONG], ["bare"]).nll
    try:
        first = answer_nll.score(
            llama, [LONG], ["bare", Condition("bare", truncation(QUERY), "")]
        ).nll
    except KvError:
        return
    assert first[0] == pytest.approx(bare, abs=1e-5), "the built-in bare became another"


def check_missing_texts(lm: LM, sample: Sample) -> None:
    """Demand the reason for a text that a sample lacks, and scores for all else."""
    rows = answer_nll.score(
        lm,
        [replace(sample, texts=())],
        ["click_history(2)", "bare", "full_context(llm_surrogate(need))"],
    )
    assert rows.status.tolist() == [
        "the sample has no text 'past_query'",
        "ok",
        "the sample has no text 'surrogate(need)'",
    ]
    assert rows.nll.isna().tolist() == [True, False, True]


def test_a_text_that_the_sample_lacks_is_a_reason(llama: LM) -> None:
    """Would catch another text in place of one that the sample does not bring."""
    check_missing_texts(llama, LONG)


def test_twin_missing_texts(llama: LM) -> None:
    """Would catch a check blind to the query in the missing text's place."""

    def take_the_query(patch: pytest.MonkeyPatch) -> None:
        right = tokenization.ids_of_copy
        patch.setattr(
            tokenization,
            "ids_of_copy",
            lambda tok, read, prefix, seed: right(
                tok, read, QUERY if prefix.kind == "own" else prefix, seed
            ),
        )

    must_see(take_the_query, check_missing_texts, llama, LONG)
