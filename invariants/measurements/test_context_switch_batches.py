"""Context switches in batches: each one's rows are those it has alone, and passes are few and full.

`test_context_switch` holds the numbers themselves against plain passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from invariants.support.comparing import Fault, must_see, replaced
from invariants.support.switches import GIVEN, a_switch, assert_same
from kvcore import loading
from kvcore.cache import masks
from kvcore.conditions import switching
from kvcore.conditions.switching import CachePlan, DecodePlan, Switch
from kvcore.engine import limits, rope_probe
from kvcore.errors import KvError
from kvcore.measurements import context_switch, generation
from kvcore.measurements.context_switch import cases, free, passes
from kvcore.measurements.context_switch.cases import SwitchCase
from kvcore.models.lm import LM

FREED = ("oracle", "injection", "gradual(3,2)", "ignore", "partial(3)")

# --- alone and in a batch -----------------------------------------------------------------------


def follow(lm: LM, some: tuple[Switch, ...]) -> pd.DataFrame:
    return context_switch.follow(lm, some, switching.METHODS, attention=True)


def write(lm: LM, some: tuple[Switch, ...]) -> pd.DataFrame:
    return context_switch.generate_after_switch(lm, some, FREED, max_new_tokens=6, stop=())


def check_alone(lm: LM, rows_at_once: int) -> None:
    """Compare rows of switches of unlike lengths, in the same passes, with those of each alone.

    `rows_at_once`: of logits.
    """
    for measure in (follow, write):
        alone = pd.concat([measure(lm, (one,)) for one in GIVEN], ignore_index=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(limits.PASS_COST, "cpu", 10**6)  # so dear that unlike ones share a pass
            patch.setitem(passes.LOGITS_AT_ONCE, "cpu", rows_at_once * lm.config.vocab_size)
            assert_same(measure(lm, GIVEN), alone)


@pytest.mark.parametrize("rows_at_once", [10**6, 50])
@pytest.mark.parametrize("name", ["tiny-llama", "tiny-mistral", "tiny-gemma3", "tiny-longrope"])
def test_alone(name: str, rows_at_once: int) -> None:
    """Catches a number that hangs on the switches beside it in a pass."""
    check_alone(loading.load(name, device="cpu"), rows_at_once)


def to_all_slots(real: Callable[..., Any], query: Any, key: Any, held: Any, window: Any) -> Any:
    return real(query, key, torch.ones_like(held), window)


def in_order(real: Callable[..., Any], lm: LM, jobs: Any) -> Any:
    order, *rest = real(lm, jobs)
    return sorted(order), *rest


FAULTS = {
    "padding-seen": replaced(masks, "visible", to_all_slots),
    "a-row-late": replaced(
        passes, "head_logits", lambda real, lm, hidden: real(lm, hidden.roll(1, 0))
    ),
    "answers-of-other-rows": replaced(free, "start_answers", in_order),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma3"])
def test_twin_alone(name: str, fault: Fault) -> None:
    """Catches a check blind to padding that is seen, and to another row's logits."""
    must_see(fault, check_alone, loading.load(name, device="cpu"), 50)


# --- few passes, and full ones ------------------------------------------------------------------

MANY = tuple(a_switch(f"s{n}", 90 + n, 150 - n, 90, 0.5, 10 * n) for n in range(40))
FEWEST_TOKENS = 6000  # of the median pass that reads text


def tokens_of_passes(lm: LM, run: Callable[[], object]) -> list[int]:
    """Return the tokens of each pass of the model, padding included, with a GPU's budgets."""
    tokens: list[int] = []
    forward = lm.model.forward

    def counted(*arguments: Any, **named: Any) -> Any:
        tokens.append(named["input_ids"].numel())
        return forward(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        for of_device in (
            limits.BATCH_TOKENS,
            limits.PASS_COST,
            generation.BATCH_TOKENS,
            passes.LOGITS_AT_ONCE,
        ):
            patch.setitem(of_device, "cpu", of_device["cuda"])
        patch.setattr(lm.model, "forward", counted)
        run()
    return tokens


def check_passes(lm: LM) -> None:
    """Demand passes that many switches share, also where the LM head reduces them."""
    rope_probe.rope_plan(lm)  # probed now: its passes read no switch
    ways, steps = ("injection", "flush", "ignore", "partial(8)"), 3
    followed = tokens_of_passes(lm, lambda: context_switch.follow(lm, MANY, ways))
    written = tokens_of_passes(
        lm,
        lambda: context_switch.generate_after_switch(lm, MANY, ways, max_new_tokens=steps, stop=()),
    )
    reading = sorted(tokens for tokens in followed if tokens > 1)
    assert reading[len(reading) // 2] >= FEWEST_TOKENS, f"passes of {reading} tokens"
    assert len(followed) <= len(MANY) / 5, f"{len(followed)} passes of switches that are followed"
    assert len(written) <= len(MANY) / 3, f"{len(written)} passes of answers"


def test_passes(llama: LM) -> None:
    """Catches passes of one switch, or one answer, each."""
    check_passes(llama)


def a_part_for_each(
    real: Callable[..., list[list[passes.TokenRange]]], some: list[SwitchCase], rows: int
) -> list[list[passes.TokenRange]]:
    return [[each] for part in real(some, rows) for each in part]


@pytest.mark.parametrize(
    "fault",
    [
        replaced(passes, "cut_tokens", a_part_for_each),
        replaced(
            passes, "group_cases", lambda _real, some, _budget: [[n] for n in range(len(some))]
        ),
    ],
    ids=["reduced-one-by-one", "read-one-by-one"],
)
def test_twin_passes(llama: LM, fault: Fault) -> None:
    """Catches a check blind to switches that are read, or reduced, one by one."""
    must_see(fault, check_passes, llama)


def check_steps(lm: LM) -> None:
    """Demand that answers which take many steps are not written beside those that take few."""
    some = [a_switch(f"{n}", size, size, 60, 40, n) for n, size in enumerate((10, 10, 100, 100))]
    tokens = tokens_of_passes(
        lm,
        lambda: context_switch.generate_after_switch(
            lm, some, ["oracle", "flush"], max_new_tokens=6, stop=(), batch_tokens=600
        ),
    )
    assert sum(count <= len(some) for count in tokens) <= (6 + 46) + 8, f"passes of {tokens} tokens"


def test_steps(llama: LM) -> None:
    """Catches answers that wait in a batch for another that takes many more steps."""
    check_steps(llama)


def test_twin_steps(llama: LM) -> None:
    """Catches a check blind to answers that are sorted by their length alone."""
    must_see(
        lambda patch: patch.setattr(cases.AnswerJob, "steps", property(lambda _job: 46)),
        check_steps,
        llama,
    )


# --- the decoder that is run once ---------------------------------------------------------------


def check_decoder(lm: LM) -> None:
    """Demand that layers run as often however logits are cut, and as before behind an error."""
    runs: list[int] = []
    own_forward = vars(lm.model.get_decoder()).get("forward")
    layer = rope_probe.decoder_layers(lm)[-1]
    handle = layer.register_forward_pre_hook(lambda *_: runs.append(len(runs)))
    counts = []
    try:
        for rows_at_once in (10**6, 20):
            runs.clear()
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(passes.LOGITS_AT_ONCE, "cpu", rows_at_once * lm.config.vocab_size)
                whole = follow(lm, GIVEN)
            counts.append(len(runs))
    finally:
        handle.remove()
    assert counts[0] == counts[1], f"{counts} runs of the last layer"
    with pytest.MonkeyPatch.context() as patch:
        infinite = replaced(passes, "head_logits", lambda real, lm, hidden: real(lm, hidden) / 0.0)
        infinite(patch)
        with pytest.raises(KvError, match="not finite"):
            follow(lm, GIVEN)
    assert vars(lm.model.get_decoder()).get("forward") is own_forward
    assert_same(follow(lm, GIVEN), whole)


def test_decoder(lm: LM) -> None:
    """Catches layers that are run for each part of the logits, or are not run any more."""
    check_decoder(lm)


def run_each_time(_real: object, _lm: LM) -> AbstractContextManager[None]:
    return nullcontext()


@contextmanager
def not_given_back(_real: object, lm: LM) -> Iterator[None]:
    """Keep the decoder's first output although an error ended the context."""
    decoder = lm.model.get_decoder()
    run = type(decoder).forward
    outputs: list[Any] = []

    def first_output(*arguments: Any, **named: Any) -> Any:
        if not outputs:
            outputs.append(run(decoder, *arguments, **named))
        return outputs[0]

    decoder.forward = first_output
    yield
    del decoder.forward


@pytest.mark.parametrize("fault", [run_each_time, not_given_back])
def test_twin_decoder(fault: Callable[..., AbstractContextManager[None]]) -> None:
    """Catches a check blind to layers run for every part, and to a decoder that is not given back.

    On a model of its own, which the second fault leaves broken.
    """
    lm = loading.load("tiny-llama", device="cpu")
    try:
        must_see(replaced(passes, "decoder_run_once", fault), check_decoder, lm)
    finally:
        vars(lm.model.get_decoder()).pop("forward", None)


# --- groups and parts, without a model ----------------------------------------------------------


def a_case(runs: tuple[tuple[int, ...], ...], plans: int, followed: int) -> SwitchCase:
    """Return a case of so many plans on the same runs."""
    opening = CachePlan(runs, (1, 0), (0,), (5,), (3,))
    plan = DecodePlan(opening, (5,), (0, 3), (0,))
    return SwitchCase((7,) * followed, (plan,) * plans, 0, 0)


def check_groups() -> None:
    """Demand that cases which prefill the same runs are held together as one of them is."""
    one, other = (0,) * 10, (0,) * 11
    of_one_switch = [a_case((one, other), 2, 3) for _ in range(4)]
    longer = a_case(((0,) * 30,), 1, 3)
    assert passes.group_cases([longer, *of_one_switch], 40) == [[1, 2, 3, 4], [0]]
    assert passes.group_cases([longer, *of_one_switch], 51) == [[1, 2, 3, 4, 0]]


def test_groups() -> None:
    """Catches runs that are counted once for each case that prefills them."""
    check_groups()


def test_twin_groups() -> None:
    """Catches a check blind to runs that are counted again and again."""

    def apart(real: Callable[..., object], some: list[SwitchCase], budget: int) -> object:
        return real([a_case(((n,) * 21,), 2, 3) for n, _ in enumerate(some)], budget)

    must_see(replaced(passes, "group_cases", apart), check_groups)


@given(
    shapes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 20)), min_size=1, max_size=8),
    rows=st.integers(1, 60),
)
def test_parts(shapes: list[tuple[int, int]], rows: int) -> None:
    """Catches a token that is in no part or in two, and a part of too many rows."""
    check_parts(shapes, rows)


def check_parts(shapes: list[tuple[int, int]], rows: int) -> None:
    some = [a_case(((0,),), plans, followed) for plans, followed in shapes]
    parts = passes.cut_tokens(some, rows)
    found = [
        (each.case, token)
        for part in parts
        for each in part
        for token in range(each.start, each.stop)
    ]
    assert found == [
        (n, token) for n, case in enumerate(some) for token in range(len(case.followed))
    ]
    for part in parts:
        sizes = [len(some[each.case].plans) * (each.stop - each.start) for each in part]
        assert sum(sizes) <= rows or part[0].stop - part[0].start == len(part) == 1


def test_twin_parts() -> None:
    """Catches a check blind to parts that lack their last range."""
    must_see(
        replaced(passes, "cut_tokens", lambda real, *a: [part[:-1] or part for part in real(*a)]),
        check_parts,
        [(2, 5), (3, 4)],
        30,
    )
