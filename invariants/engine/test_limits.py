"""What happens where memory ends: halves, in order, and nothing lost without a word."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from invariants.support.comparing import SCORE_TOLERANCE, Fault, must_see, replaced
from invariants.support.strategies import some
from kvcore.data.sample import Sample
from kvcore.engine import forward, limits
from kvcore.measurements import answer_nll
from kvcore.models.lm import LM

OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
)


def doubling(fits: Callable[[Sequence[int]], bool], error: Exception) -> Callable[..., list[int]]:
    """Return a function that doubles numbers, and runs out of memory where they do not fit."""

    def run(numbers: Sequence[int]) -> list[int]:
        if not fits(numbers):
            raise error
        return [2 * number for number in numbers]

    return run


def check_halves(lm: LM, numbers: list[int], most: int, too_large: int) -> None:
    """Demand each number's result at its place, and a warning for each batch that was halved."""
    for error in OUT_OF_MEMORY:
        run = doubling(lambda part: len(part) <= most and too_large not in part, error)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            results = limits.run_or_halve(lm, numbers, run, lambda n: -n, what="numbers")
        assert results == [-n if n == too_large else 2 * n for n in numbers]
        halved = len(numbers) > most or (too_large in numbers and len(numbers) > 1)
        assert bool(seen) == halved, [str(w.message) for w in seen]
        for warning in seen:
            assert issubclass(warning.category, RuntimeWarning)
        if halved:
            middle = len(numbers) // 2
            start = f"out of memory with {len(numbers)} numbers at once: going on with {middle};"
            assert str(seen[0].message).startswith(start)


@some
@given(numbers=st.lists(st.integers(0, 9), min_size=1), most=st.integers(1, 9))
def test_what_does_not_fit_is_halved(llama: LM, numbers: list[int], most: int) -> None:
    """Would catch items that are lost, given up although they fit, or returned out of order."""
    check_halves(llama, numbers, most, too_large=7)


def lose_the_second_half(patch: pytest.MonkeyPatch) -> None:
    right = limits.run_or_halve

    def broken(lm: LM, items: Sequence[int], *more: object, **named: str) -> list[int]:
        done: list[int] = right(lm, items, *more, **named)  # type: ignore[arg-type]
        return done[: len(items) // 2] if len(items) > 2 else done

    patch.setattr(limits, "run_or_halve", broken)


def second_half_first(patch: pytest.MonkeyPatch) -> None:
    right = limits.run_or_halve
    patch.setattr(limits, "run_or_halve", lambda *a, **k: right(*a, **k)[::-1])


def give_up_at_once(patch: pytest.MonkeyPatch) -> None:
    def broken(
        _lm: LM,
        items: Sequence[int],
        run: Callable[..., list[int]],
        give_up: Callable[[int], int],
        **_: str,
    ) -> list[int]:
        try:
            return run(items)
        except (MemoryError, RuntimeError):
            return [give_up(item) for item in items]

    patch.setattr(limits, "run_or_halve", broken)


@pytest.mark.parametrize("fault", [lose_the_second_half, second_half_first, give_up_at_once])
def test_twin_halves(llama: LM, fault: Fault) -> None:
    """Would catch a check blind to items lost, given up or out of order."""
    must_see(fault, check_halves, llama, [1, 2, 3, 7, 5], 2, 7)


def test_without_a_way_to_give_up_the_error_is_raised(llama: LM) -> None:
    """Would catch an item that vanishes where nobody says what stands in its place."""
    run = doubling(lambda part: len(part) < 2 and 7 not in part, OUT_OF_MEMORY[0])
    with pytest.warns(RuntimeWarning), pytest.raises(torch.OutOfMemoryError):
        limits.run_or_halve(llama, [1, 2, 7], run, what="numbers")


def check_never_an_error(lm: LM) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("error")
        run = doubling(lambda part: len(part) < 2, OUT_OF_MEMORY[0])
        try:
            results = limits.run_or_halve(lm, [1, 2, 3], run, what="numbers")
        except RuntimeWarning as warning:
            raise AssertionError("a note became an error") from warning
    assert results == [2, 4, 6]
    assert len(seen) == 2


def test_the_note_that_a_half_is_tried_is_never_an_error(llama: LM) -> None:
    """Would catch a filter of warnings that ends a run for a pass that was halved."""
    check_never_an_error(llama)


def test_twin_a_note_that_is_an_error_is_seen(llama: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a check under whose filters no warning is an error."""
    right = warnings.simplefilter

    def errors_alone(action: Any, *more: Any) -> None:
        right("error" if action == "always" else action, *more)

    monkeypatch.setattr(warnings, "simplefilter", errors_alone)
    with pytest.raises(AssertionError):
        check_never_an_error(llama)


def test_a_single_item_is_tried_once_more(llama: LM) -> None:
    """Would catch a sample that is lost though it fits once memory was freed."""
    tries: list[int] = []

    def run(numbers: Sequence[int]) -> list[int]:
        tries.append(len(numbers))
        if len(tries) == 1:
            raise OUT_OF_MEMORY[0]
        return [2 * number for number in numbers]

    assert limits.run_or_halve(llama, [7], run, lambda n: -n, what="numbers") == [14]
    assert tries == [1, 1]


def test_other_errors_are_raised_as_they_are(llama: LM) -> None:
    """Would catch a fault of a pass that is taken for a lack of memory."""
    run = doubling(lambda _: False, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        limits.run_or_halve(llama, [1, 2], run, lambda n: n, what="numbers")


def test_pass_limits(llama: LM) -> None:
    """Would catch a budget that is not the caller's where the caller gives one."""
    tokens, cost = limits.pass_limits(llama)
    assert (tokens, cost) == (limits.BATCH_TOKENS["cpu"], limits.PASS_COST["cpu"])
    assert limits.pass_limits(llama, 7) == (7, cost)


def check_logits_are_bounded(lm: LM, route: answer_nll.Route) -> None:
    """Demand that no pass has more logits than allowed, and the scores of unbounded passes."""
    answers = ("a mean", "the sum of all entries divided by their number", "it is the mean")
    samples = [Sample("what is it", "The sum of the entries.", a, id=a) for a in answers]
    free = answer_nll.score(lm, samples, ["bare", "random"], seed=0, route=route)
    longest = int(free["n_answer_tokens"].max())
    most = longest * lm.config.vocab_size
    right, passes = forward.logits, []

    def counted(lm: LM, step: Any, logits_at: Any, **more: Any) -> torch.Tensor:
        found = right(lm, step, logits_at, **more)
        passes.append(found.numel())
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "logits", counted)
        patch.setattr(limits, "LOGITS", {"cpu": most})
        bounded = answer_nll.score(lm, samples, ["bare", "random"], seed=0, route=route)
    assert max(passes) <= most
    assert len(passes) > 2
    assert (bounded["nll"] - free["nll"]).abs().max() <= SCORE_TOLERANCE


@pytest.mark.parametrize("route", ["auto", "cache"])
def test_logits_of_a_pass_are_bounded(llama: LM, route: answer_nll.Route) -> None:
    """Would catch long answers whose logits over a large vocabulary fill the memory; its twin."""
    tokens_alone: Fault = replaced(limits, "pass_slots", lambda _, _lm, _budget, tokens, _n: tokens)
    must_see(tokens_alone, check_logits_are_bounded, llama, route)
