"""What is run: each prefill once, in halves where memory ends, whatever stands beside it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from invariants.support import strategies
from invariants.support.comparing import (
    Fault,
    assert_rows_equal,
    in_one_batch,
    must_see,
)
from invariants.support.plain_routes import Case
from invariants.support.samples import LONG, SHORT, words
from invariants.support.strategies import few
from kvcore import loading
from kvcore.data.sample import Sample
from kvcore.engine import build, forward, limits, rope_probe
from kvcore.measurements import answer_nll
from kvcore.models.lm import LM

HYBRIDS = (
    "values_only(oracle)",
    "values_early_layers(oracle,0.24)",
    "values_early_layers(oracle,2)",
    "values_layer(oracle,1)",
    "values_early_positions(oracle,0.25)",
    "interp(oracle,0.25)",
    "interp(oracle,0.5)",
    "interp(oracle,0.75)",
    "values_early_positions(oracle,0.5)",
)


def check_prefills_are_shared(lm: LM, batch: Sequence[Sample], targets: Sequence[str]) -> None:
    """Count the passes that start from nothing, and the tokens they read."""
    rope_probe.rope_plan(lm)
    read: list[list[list[int]]] = []
    right = forward.run_model

    def counting(lm_: LM, step: forward.ForwardInput, *more: Any, **cache: Any) -> torch.Tensor:
        if not cache["past_key_values"].layers:
            read.append([ids[real].tolist() for ids, real in zip(step.ids, step.real, strict=True)])
        return right(lm_, step, *more, **cache)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "run_model", counting)
        for sample in batch:
            answer_nll.score(lm, [sample], HYBRIDS, targets=targets)
    expected = []
    for sample in batch:
        case = Case(lm, sample)
        expected += [[[lm.bos_id, *case.document]], [[lm.bos_id, *case.question, *case.document]]]
    assert read == expected, f"{len(read)} prefills, not two for each sample"


@few
@given(batch=strategies.batches(2, max_words=8))
def test_nine_hybrids_cost_two_prefills(llama: LM, batch: list[Sample]) -> None:
    """Would catch a document that is read again for each condition or target."""
    check_prefills_are_shared(llama, batch, ["answer", "qdoc"])


def prefill_again(patch: pytest.MonkeyPatch) -> None:
    """Fault: forget what was prefilled."""
    right = build.carry_out
    patch.setattr(
        build, "carry_out", lambda recipe, lm, _caches, group: right(recipe, lm, {}, group)
    )


def keep_jobs_apart(patch: pytest.MonkeyPatch) -> None:
    """Let every score have a group of its own."""
    right = answer_nll.document_groups
    patch.setattr(
        answer_nll,
        "document_groups",
        lambda *given_: ([job] for part in right(*given_) for job in part),
    )


@pytest.mark.parametrize("fault", [prefill_again, keep_jobs_apart])
def test_twin_prefills(llama: LM, fault: Fault) -> None:
    """Would catch a count blind to a prefill run again, for a condition or a target."""
    must_see(fault, check_prefills_are_shared, llama, [LONG], ["answer", "qdoc"])


def check_memory(lm: LM, batch: Sequence[Sample], most: int, route: answer_nll.Route) -> None:
    """Let passes of many rows run out of memory; demand every row all the same."""
    names = ("bare", "oracle", "values_only(oracle)")
    whole = in_one_batch(lm, batch, names, route)
    right = forward.run_model

    def small(lm_: LM, step: forward.ForwardInput, *more: Any, **cache: Any) -> torch.Tensor:
        if step.ids.shape[0] > most:
            raise torch.OutOfMemoryError("out of memory: a test's limit")
        return right(lm_, step, *more, **cache)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "run_model", small)
        with pytest.warns(RuntimeWarning, match="going on with"):
            halved = in_one_batch(lm, batch, names, route)
    assert (halved.status == "ok").all(), "a row was given up"
    assert_rows_equal(halved, whole, "after running out of memory")


@pytest.mark.parametrize("route", ["auto", "cache"])
@few
@given(batch=strategies.batches(4, max_words=8), most=st.integers(1, 2))
def test_running_out_of_memory_loses_no_row(
    llama: LM, route: answer_nll.Route, batch: list[Sample], most: int
) -> None:
    """Would catch rows that are lost, or numbers that change, when memory runs out."""
    check_memory(llama, [*batch, replace(LONG, id="three"), replace(SHORT, id="more")], most, route)


def give_up_at_once(patch: pytest.MonkeyPatch) -> None:
    """Count a part that does not fit as lost."""

    def broken(
        _lm: LM, items: Sequence[Any], run: Any, give_up: Callable[[Any], Any], *, what: str
    ) -> list[Any]:
        try:
            return list(run(items))
        except torch.OutOfMemoryError:
            warnings.warn(f"going on with no {what}", RuntimeWarning, stacklevel=2)
            return [give_up(item) for item in items]

    patch.setattr(limits, "run_or_halve", broken)


@pytest.mark.parametrize("route", ["auto", "cache"])
def test_twin_memory(llama: LM, route: answer_nll.Route) -> None:
    """Would catch a check blind to rows given up."""
    must_see(give_up_at_once, check_memory, llama, [LONG, SHORT], 1, route)


@pytest.mark.parametrize("route", ["auto", "cache"])
def test_length_dependent_frequencies_depend_on_no_batch(route: answer_nll.Route) -> None:
    """Would catch a sample whose frequencies are switched by a longer one beside it."""
    lm = loading.load("tiny-longrope", device="cpu")
    alone = answer_nll.score(lm, [words(232)], ["bare"], route=route)
    together = in_one_batch(lm, [words(232), words(250)], ["bare"], route)
    assert_rows_equal(together[together.sample_id == "232 words"], alone, "beside a longer one")


def test_length_dependent_frequencies_depend_on_no_route() -> None:
    """Would catch a score across the switch that hangs on how its passes are divided."""
    lm = loading.load("tiny-longrope", device="cpu")
    one, two = (answer_nll.score(lm, [words(250)], ["bare"], route=r) for r in ("auto", "cache"))
    assert_rows_equal(one, two, "across the switch")
