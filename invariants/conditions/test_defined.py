"""A user's own conditions: scored as they are made, never confused with others."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from invariants.oracle import plain
from invariants.support.comparing import (
    assert_scores,
    must_see,
)
from invariants.support.plain_routes import Case
from invariants.support.samples import LONG, SHORT
from kvcore.conditions import registry
from kvcore.conditions.parse import condition
from kvcore.conditions.recipes import (
    Condition,
    Mix,
)
from kvcore.conditions.registry import BARE, QUERY, truncation
from kvcore.data.sample import Sample
from kvcore.engine import build
from kvcore.errors import KvError
from kvcore.measurements import answer_nll
from kvcore.models.lm import LM


def afresh(check: Callable[..., None]) -> Callable[..., None]:
    """Run a check with no condition defined, and undo what it defines."""

    @functools.wraps(check)
    def run(*arguments: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(registry, "DEFINED", {})
            check(*arguments)

    return run


@afresh
def check_defined_scores(lm: LM, batch: Sequence[Sample]) -> None:
    """Define two conditions, and compare their scores with what they are made of."""
    registry.define("the_same", truncation(QUERY), "nothing new")
    registry.define("mine_keys_only", Mix(truncation(QUERY), BARE), "what primed keys alone do")
    rows = answer_nll.score(lm, batch, ["the_same", "mine_keys_only"])
    for sample, row in zip([s for s in batch for _ in range(2)], rows.itertuples(), strict=True):
        route = plain.shifted_nlls if row.condition == "the_same" else plain.keys_only_nlls
        case = Case(lm, sample)
        assert_scores(row.token_nlls, case.run(route, case.question), row.condition)


def test_a_users_own_condition_scores(lm: LM) -> None:
    """Would catch a recipe that nobody foresaw and that is carried out wrongly.

    1. The recipe, by the primitives.
    2. The same, built by hand.
    """
    check_defined_scores(lm, [LONG, SHORT])


def forget_the_mix(patch: pytest.MonkeyPatch) -> None:
    right = build.carry_out
    patch.setattr(
        build,
        "carry_out",
        lambda recipe, *more: right(recipe.keys if isinstance(recipe, Mix) else recipe, *more),
    )


def test_twin_own_condition(llama: LM) -> None:
    """Would catch a check blind to a hybrid that is not mixed."""
    must_see(forget_the_mix, check_defined_scores, llama, [LONG, SHORT])


@afresh
def check_no_shadowing(names: Sequence[str]) -> None:
    """Demand that no built-in name can be given away, and that every one still means itself."""
    for name in (*names, "two words", "oracle(1)", ""):
        try:
            taken: object = registry.define(name, truncation(QUERY), "a trap")
        except KvError as error:
            taken = str(error)
        assert isinstance(taken, str), f"{name!r} could be defined anew"
        assert "\n" not in taken
    registry.define("mine", BARE, "a test")
    assert registry.define("mine", BARE, "a test") == condition("mine"), "the same is no clash"
    with pytest.raises(KvError, match="mine"):
        registry.define("mine", truncation(QUERY), "a test")


HEADS = sorted({name.split("(")[0] for name in registry.NAMES})


def test_no_name_that_comes_along_can_be_redefined() -> None:
    """Would catch a built-in name that means something else after a definition."""
    check_no_shadowing(HEADS)


def test_twin_shadowing() -> None:
    """Would catch a check blind to a definition simply taken over."""

    def take_all(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(registry, "define", lambda *arguments: Condition(*arguments))

    must_see(take_all, check_no_shadowing, HEADS)
