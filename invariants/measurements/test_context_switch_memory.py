"""Context switches where memory ends: halves, the same numbers, and nothing left behind."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd
import pytest
import torch

from invariants.support.comparing import Fault, must_see
from invariants.support.switches import a_switch, assert_same
from kvcore.engine import limits, rope_probe
from kvcore.measurements import context_switch
from kvcore.models.lm import LM

WAYS = ("oracle", "injection", "gradual(3,2)", "partial(3)")
# Of one shape, so that a switch that takes another's place has other numbers and no more.
SWITCHES = tuple(a_switch(f"s{n}", 8, 10, 12, 0.5, 10 * n) for n in range(5))
FAILURES = ((0,), (2,), (1, 3), (0, 2, 6))
"""Passes in which memory ends; of two, the later one hits what the earlier one halved."""
HEAD_FAILURES = ((2,), (2, 4))
"""Uses of the LM head in which it does: behind the two passes that read the switches that are
followed, the third makes logits of all of them."""


Measure = Callable[[LM], pd.DataFrame]


def last_layer(lm: LM) -> torch.nn.Module:
    """Return where hooks and records are half filled."""
    layer: torch.nn.Module = rope_probe.decoder_layers(lm)[-1]
    return layer


def head(lm: LM) -> torch.nn.Module:
    """Return the LM head, which is last."""
    found: torch.nn.Module = lm.model.get_output_embeddings()
    return found


@contextmanager
def failing_passes(
    module: torch.nn.Module, chosen: Collection[int], failures: list[int]
) -> Iterator[None]:
    """Let memory end in some passes, before a module of the model is run."""
    passes = itertools.count()

    def before(*_: Any) -> None:
        number = next(passes)
        if number in chosen:
            failures.append(number)
            raise torch.OutOfMemoryError("CUDA out of memory: a test's")

    handle = module.register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


def follow(lm: LM) -> pd.DataFrame:
    return context_switch.follow(lm, SWITCHES, WAYS, attention=True)


def generate(lm: LM) -> pd.DataFrame:
    return context_switch.generate_after_switch(lm, SWITCHES, WAYS, max_new_tokens=4, stop=())


def in_little_memory(
    lm: LM, measure: Measure, module: torch.nn.Module, chosen: Collection[int]
) -> pd.DataFrame:
    """Measure with memory that ends in some passes, and demand that it is said."""
    failures: list[int] = []
    with warnings.catch_warnings(record=True) as seen, failing_passes(module, chosen, failures):
        warnings.simplefilter("always")
        try:
            table = measure(lm)
        except torch.OutOfMemoryError as error:
            raise AssertionError(f"not halved after passes {failures}") from error
    assert failures == list(chosen), failures
    assert any("out of memory with" in str(warning.message) for warning in seen)
    return table


def check_memory(lm: LM, module: torch.nn.Module, chosen: Collection[int]) -> None:
    """Compare tables of switches that are followed, and of what is written behind them.

    1. Nothing disturbs the run.
    2. Memory ends in some passes.
    3. Again undisturbed: what was raised left nothing behind in the model.
    """
    for measure in (follow, generate):
        whole = measure(lm)
        assert_same(in_little_memory(lm, measure, module, chosen), whole)
        assert_same(measure(lm), whole)


@pytest.mark.parametrize("chosen", FAILURES, ids=str)
def test_where_memory_ends_the_numbers_stay(llama: LM, chosen: tuple[int, ...]) -> None:
    """Would catch switches lost, changed or out of order where memory ends in any pass."""
    check_memory(llama, last_layer(llama), chosen)


@pytest.mark.parametrize("chosen", HEAD_FAILURES, ids=str)
def test_where_logits_do_not_fit_the_numbers_stay(llama: LM, chosen: tuple[int, ...]) -> None:
    """Would catch switches lost, or layers no more run, where logits of several do not fit."""
    check_memory(llama, head(llama), chosen)


def in_reverse(patch: pytest.MonkeyPatch) -> None:
    right = limits.run_or_halve
    patch.setattr(limits, "run_or_halve", lambda *a, **k: right(*a, **k)[::-1])


def never_halved(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(limits, "run_or_halve", lambda _lm, items, run, *_, **__: list(run(items)))


@pytest.mark.parametrize("module", [last_layer, head])
@pytest.mark.parametrize("fault", [in_reverse, never_halved])
def test_twin_where_memory_ends(
    llama: LM, fault: Fault, module: Callable[[LM], torch.nn.Module]
) -> None:
    """Would catch a check blind to switches out of order, or to a run that ends."""
    must_see(fault, check_memory, llama, module(llama), (1, 3) if module is last_layer else (2,))
