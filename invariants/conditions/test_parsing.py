"""Names and conditions are one, and what is no name is refused in one clear line."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariants.support import strategies
from invariants.support.comparing import (
    must_see,
)
from invariants.support.plain_routes import EXPECTED
from invariants.support.strategies import some
from kvcore.conditions import parse, registry
from kvcore.conditions.parse import condition
from kvcore.conditions.recipes import LayerRange, Mix
from kvcore.conditions.registry import BARE, QUERY, primed
from kvcore.errors import KvError


def check_round_trip(spelled: str) -> None:
    """Demand that a name spells a condition of that very name, and it the same condition."""
    made = condition(spelled)
    assert made.name == spelled
    assert condition(made.name) == made
    assert condition(made) is made


@some
@given(spelled=strategies.condition_names())
def test_names_and_conditions_are_one(spelled: str) -> None:
    """Would catch a name that spells another condition than the one of that name."""
    check_round_trip(spelled)


@pytest.mark.parametrize("spelled", list(EXPECTED))
def test_published_spellings_are_names(spelled: str) -> None:
    """Would catch a spelling that rows, ledger and reports write otherwise."""
    literal = 'literal("go")' if '"go"' in spelled else ""
    check_round_trip(spelled if not literal else f"beacons({literal},5)")


def check_aliases(prefixless: Mapping[str, str]) -> None:
    """Demand that a prefix left out is static_fact, and that spaces mean nothing."""
    for short, long in prefixless.items():
        assert condition(short) == condition(long)
        spaced = long.replace("(", " ( ").replace(",", " , ")
        assert condition(f" {spaced} ") == condition(long)


ALIASES = {
    name: name.replace("(", "(static_fact,") if "(" in name else f"{name}(static_fact)"
    for name in (
        "full_context",
        "one_base",
        "no_reposition",
        "rope_roundtrip",
        "suffix",
        "values_only",
        "keys_only",
        "values_of_another",
        "with_separator",
        "values_layers(0.25,0.5)",
        "values_positions(0.25,0.75)",
        "amplified(2)",
        "reposition(model)",
        "blocks(3,first)",
        "values_early_layers(16)",
        "values_early_layers(0.5)",
        "values_layer(2)",
        "values_early_positions(0.25)",
        "interp(0.25)",
        "beacons(16)",
        "keep_first(4)",
        "keep_sink",
        "swap_bos",
        "bos_of_bare",
    )
}


def test_a_prefix_left_out_is_static_fact() -> None:
    """Would catch another prefix in place of one left out, or spaces that mean something."""
    check_aliases(ALIASES)


def test_every_condition_with_a_prefix_has_its_alias() -> None:
    """Would catch a condition that the test of aliases leaves out."""
    with_prefix = {name for name, form in registry.CONDITIONS.items() if "prefix" in form.arguments}
    assert {a.split("(")[0] for a in ALIASES} == with_prefix


def always_static(patch: pytest.MonkeyPatch) -> None:
    static = registry.NamedPrefix(registry.STATIC_FACT, "static_fact")
    patch.setattr(parse, "parse_prefix", lambda *_: static)


def no_prefix_means_oracle(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(registry, "DEFAULT_PREFIX", "oracle")


@pytest.mark.parametrize("spelled", ["full_context(oracle)", "suffix(random)", "repeat(oracle,2)"])
def test_twin_round_trip(spelled: str) -> None:
    """Would catch a check blind to a prefix that is not the one written."""
    must_see(always_static, check_round_trip, spelled)


def test_twin_aliases() -> None:
    """Would catch a check blind to another prefix than static_fact."""
    must_see(no_prefix_means_oracle, check_aliases, {"suffix": "suffix(static_fact)"})


WRONG = {
    "orcale": "did you mean 'oracle'",
    "value_only(oracle)": "did you mean 'values_only(p)'",
    "blocks(oracle,3,frist)": "did you mean 'first'",
    "static(facts)": "did you mean 'fact'",
    "reposition(oracle,float23)": "did you mean 'float32'",
    "llm_surrogate(keywords)": "did you mean 'keyword'",
    "full_context(orcale)": "'orcale'",
    "interp(oracle,1.5)": "a share from 0 to 1",
    "amplified(oracle,1)": "must be above 1; pass interp",
    "amplified(oracle,1e999)": "must be above 1",
    "values_layers(oracle,0.5,0.5)": "two rising shares",
    "values_layers(oracle,8,16)": "two rising shares",
    "values_positions(oracle,0.5,1.5)": "two rising shares",
    "keywords(answer)": "source of keywords",
    "shuffled_surrogate(keywords)": "did you mean 'keyword'",
    "interp(oracle,nan)": "a number",
    "interp(oracle,-0.5)": "a number",
    "interp(oracle,True)": "a number",
    "blocks(oracle,0,first)": "pass 1 or more",
    "beacons(oracle,2.5)": "a whole number",
    "repeat(oracle,0)": "pass 1 or more",
    "repeat(oracle)": "repeat(oracle)",
    "values_only(oracle,1)": "nothing more",
    "qvi": "a number",
    "qvi(oracle)": "a number",
    "bare(oracle)": "bare",
    "oracle(": "oracle",
    "": "known are",
    "1": "write a name",
    "bare; oracle": "bare",
    "a.b(c)": "write a name",
    "suffix(prefix=oracle)": "write a name",
    "literal(oracle)": "literal",
    "oracle(*x)": "oracle",
    "bare\nbare": "bare",
}


def check_refused(spelled: str, hint: str) -> None:
    """Demand one line that says what is wrong."""
    try:
        made: object = condition(spelled)
    except KvError as error:
        made = str(error)
    assert isinstance(made, str), f"{spelled!r} was taken for {made}"
    assert "\n" not in made, f"{made!r} is more than one line"
    assert hint in made, f"{made!r} does not say {hint!r}"


@pytest.mark.parametrize("spelled", list(WRONG))
def test_malformed_names_are_refused_in_one_line(spelled: str) -> None:
    """Would catch a malformed name that is guessed, or refused without the nearest right one."""
    check_refused(spelled, WRONG[spelled])


@some
@given(
    spelled=st.text(st.characters(codec="utf-8"), max_size=20)
    | st.text("abcdefoblrepltqvi_(),.\"'0123 \n-", max_size=24)
)
def test_any_text_is_a_condition_or_one_clear_line(spelled: str) -> None:
    """Would catch a text that raises another error than KvError, or more than one line."""
    try:
        said, name = "", condition(spelled).name
    except KvError as error:
        said, name = str(error), "bare"
    assert "\n" not in said
    assert condition(name).name == name


EARLY = {
    "values_layer(oracle,0)": LayerRange.single(0),
    "values_early_layers(oracle,1.0)": LayerRange.all(),
    "values_early_layers(oracle,0)": LayerRange.first(0),
    "values_early_layers(oracle,2)": LayerRange.first(2),
    "values_early_layers(oracle,15)": LayerRange.first(15),
    "values_early_layers(oracle,0.47)": LayerRange.share(0.47),
}


def test_one_early_layer_is_ambiguous() -> None:
    """Would catch 1 that silently means one layer to some readers and the whole depth to others."""
    with pytest.raises(KvError, match="ambiguous") as refused:
        condition("values_early_layers(oracle,1)")
    for spelled in ("values_layer(oracle,0)", "values_early_layers(oracle,1.0)"):
        assert spelled in str(refused.value)
    for spelled, layers in EARLY.items():
        assert condition(spelled).recipe == Mix(BARE, primed(QUERY), layers=layers), spelled


def test_twin_refused() -> None:
    """Would catch a check blind to a name guessed, or refused in two lines."""

    def guess(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(f"{__name__}.condition", lambda _: parse.condition("oracle"))

    def two_lines(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(parse, "unknown", lambda *_: KvError("did you mean\n'oracle'?"))

    for fault in (guess, two_lines):
        must_see(fault, check_refused, "orcale", WRONG["orcale"])


def test_a_literal_beyond_16_bits_keeps_its_name() -> None:
    """Would catch an emoji that is escaped in a name, which then spells another text."""
    made = parse.truncated("Read 😀")
    assert condition(made.name) == made
