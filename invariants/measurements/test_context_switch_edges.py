"""Switches at their edges: texts that spell BOS, noise, stops, few steps, logits in parts.

Beside `test_context_switch`, which holds the numbers themselves against plain passes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given

from invariants.oracle.switched import next_token_logps
from invariants.support.comparing import SCORE_TOLERANCE, Fault, must_see, replaced, wrong_rows
from invariants.support.strategies import texts
from invariants.support.switches import GIVEN, LISTS, WAYS, cells
from kvcore import loading, tokenization
from kvcore.cache import kv_cache
from kvcore.conditions import switching
from kvcore.conditions.switching import Switch, TokenizedSwitch
from kvcore.engine import forward, limits, rope_probe
from kvcore.errors import KvError
from kvcore.measurements import context_switch
from kvcore.measurements.context_switch import cases, free, passes
from kvcore.models import tiny_configs
from kvcore.models.lm import LM

SPELLED = Switch("spelled", "<s> the mean <s>", "a <s>", "the sum</s> of <s> entries is 3", 0.5)
STEPS = 4
NEW = tuple(range(10, 22))  # longer than most of the original contexts
FREED = ("oracle", "injection", "gradual(4,2)", "flush", "partial(3)")


@pytest.fixture(scope="session", params=["tiny-llama", "tiny-mistral"])
def lm(request: pytest.FixtureRequest) -> LM:
    """One byte-level tokenizer, and one SentencePiece-like with a window."""
    return loading.load(request.param, device="cpu")


# --- exactly one BOS ----------------------------------------------------------------------------


def ids_of_passes(lm: LM, switch: Switch) -> list[tuple[bool, list[int]]]:
    """Return, for each row of each pass, whether it reads on top of a cache, and its tokens."""
    rope_probe.rope_plan(lm)  # probed now: its pass reads no text
    seen: list[tuple[bool, list[int]]] = []

    def watching(real: Any, lm: LM, asked: forward.ForwardInput, *rest: Any) -> Any:
        seen.extend(
            (asked.past is not None, ids[held].tolist())
            for ids, held in zip(asked.ids, asked.real, strict=True)
        )
        return real(lm, asked, *rest)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("run", "prefill"):
            replaced(forward, name, watching)(patch)
        context_switch.follow(lm, [switch], WAYS)
        # Not the oracle's way: the text before the switch it writes itself, and BOS may be in it.
        context_switch.generate_after_switch(lm, [switch], FREED[1:], max_new_tokens=1, stop=())
    return seen


def check_one_bos(lm: LM, switch: Switch) -> None:
    """A cache begins with BOS; nothing that is read later is one, whatever the texts spell."""
    seen = ids_of_passes(lm, switch)
    assert {on_top for on_top, _ in seen} == {True, False}
    for on_top, ids in seen:
        assert [i == lm.bos_id for i in ids] == [not on_top, *[False] * (len(ids) - 1)]


@given(original=texts(1, 6), new=texts(1, 6), stream=texts(3, 8))
def test_one_bos(llama: LM, original: str, new: str, stream: str) -> None:
    """Catches a second BOS, or none, whatever the texts are."""
    check_one_bos(llama, Switch("drawn", original, new, stream, 0.5))


def test_one_bos_although_spelled(lm: LM) -> None:
    """Catches a BOS spelled in a text that is read as one."""
    check_one_bos(lm, SPELLED)


def special(_real: object, tokenizer: Any, text: str) -> tuple[int, ...]:
    """Read a spelled special token as that token."""
    return tuple(tokenizer(text, add_special_tokens=False).input_ids)


TWO_BOS = replaced(
    switching,
    "reprefill",
    lambda real, context, kind, before, bos: real((bos, *context), kind, before, bos),
)


def test_twin_one_bos(llama: LM) -> None:
    """Catches a check blind to two BOS tokens."""
    must_see(TWO_BOS, check_one_bos, llama, SPELLED)


def test_a_spelled_bos_read_as_one_is_refused(llama: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a tokenizer's BOS inside a context that goes unnoticed."""
    replaced(tokenization, "encode", special)(monkeypatch)
    with pytest.raises(KvError, match="original holds BOS"):
        check_one_bos(llama, SPELLED)


# --- a context injected again -------------------------------------------------------------------


def check_again(lm: LM) -> None:
    """A repetition is one plain sequence in which the context stands twice, and nothing else."""
    found = cells(context_switch.follow(lm, GIVEN, ["repetition"]))
    for switch in GIVEN:
        step = len(switch.stream) - len(found[switch.id, "repetition"].tokens)
        before, after = (tuple(map(int, x)) for x in (switch.stream[:step], switch.stream[step:]))
        context = tuple(map(int, switch.original))
        wanted = next_token_logps(lm.model, lm.bos_id, context, (*before, *context), after)
        row = found[switch.id, "repetition"]
        off = np.abs(np.array(row.logp) - wanted[range(len(after)), list(after)].numpy()).max()
        assert off <= 2 * SCORE_TOLERANCE, f"{switch.id}: off by {off:.1e}"


@pytest.mark.parametrize("name", tiny_configs.NAMES)
def test_again(name: str) -> None:
    """Catches a repetition that is read anywhere but behind the text."""
    check_again(loading.load(name, device="cpu"))


def over_the_first(
    _real: object, lm: LM, held: kv_cache.KVCache, read: list[switching.Ids]
) -> forward.ForwardInput:
    """Read what is injected again at the positions of the first time."""
    return forward.pad_ids(lm, read, [1] * held.batch, held)


def test_twin_again(llama: LM) -> None:
    """Catches a check blind to a repetition read at its first positions."""
    must_see(replaced(passes, "append_input", over_the_first), check_again, llama)


# --- noise --------------------------------------------------------------------------------------


def check_noise(lm: LM) -> None:
    """As many ordinary tokens as the new context; another id or seed draws others."""
    size = int(lm.config.vocab_size)
    drawn = set()
    for one in (switching.tokenize(lm.tokenizer, each, size) for each in GIVEN):
        named = dataclasses.replace(one, new=NEW)
        for seed in (0, 1):
            ids = switching.noise_ids(lm.tokenizer, named, seed)
            assert len(ids) == len(named.new)
            assert not set(ids) & set(lm.tokenizer.all_special_ids)
            other = dataclasses.replace(named, original=(5,), before=(6,), after=(7,))
            assert ids == switching.noise_ids(lm.tokenizer, other, seed), "hangs on more"
            drawn.add(ids)
    assert len(drawn) == 2 * len(GIVEN)


def test_noise(lm: LM) -> None:
    """Catches noise of another length, of special tokens, or that hangs on more than seed, id."""
    check_noise(lm)


def shared(
    real: Callable[..., switching.Ids], tokenizer: Any, length: int, _name: str, seed: int
) -> switching.Ids:
    """Draw every switch's noise alike."""
    return real(tokenizer, length, "all", seed)


def by_length(
    real: Callable[..., switching.Ids], tokenizer: Any, one: TokenizedSwitch, seed: int
) -> switching.Ids:
    """Draw as many tokens as the original context has."""
    return real(tokenizer, dataclasses.replace(one, new=one.original), seed)


@pytest.mark.parametrize(
    "fault",
    [replaced(tokenization, "random_prefix", shared), replaced(switching, "noise_ids", by_length)],
    ids=["one-for-all", "as-long-as-the-old"],
)
def test_twin_noise(llama: LM, fault: Fault) -> None:
    """Catches a check blind to noise that all switches share or of another length."""
    must_see(fault, check_noise, llama)


# --- steps and parts ----------------------------------------------------------------------------


def same_numbers(found: pd.DataFrame, wanted: pd.DataFrame, steps: int) -> None:
    """Compare the first tokens of every row."""
    other = cells(wanted)
    for key, row in cells(found).items():
        for column in ("tokens", "choice", "attribution"):
            assert row[column] == other[key][column][:steps], f"{key}: {column}"
        for column in LISTS:
            ours, theirs = (np.array(x[column])[:steps] for x in (row, other[key]))
            assert ours.shape == theirs.shape
            off = np.abs(ours - theirs).max()
            assert off <= 2 * SCORE_TOLERANCE, f"{key}: {column} off by {off:.1e}"


def check_steps(lm: LM) -> None:
    """Fewer steps are the first of more; parts due behind the last are not read."""
    few = context_switch.follow(lm, GIVEN, WAYS, steps=STEPS)
    assert max(map(len, few.tokens)) == STEPS
    same_numbers(few, context_switch.follow(lm, GIVEN, WAYS), STEPS)


def test_steps(lm: LM) -> None:
    """Catches fewer steps that are not the first of more."""
    check_steps(lm)


def the_last(
    real: Callable[..., Any], lm: LM, one: TokenizedSwitch, ways: Any, steps: int, seed: int
) -> Any:
    """Follow the last tokens rather than the first."""
    return real(lm, dataclasses.replace(one, after=one.after[-steps:]), ways, steps, seed)


def test_twin_steps(llama: LM) -> None:
    """Catches a check blind to the last tokens followed in place of the first."""
    must_see(replaced(cases, "build_case", the_last), check_steps, llama)


def check_parts(lm: LM) -> None:
    """Logits reduced a token at a time, or three, are those reduced at once."""
    whole = context_switch.follow(lm, GIVEN, WAYS)
    for tokens_at_once in (1, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(passes.LOGITS_AT_ONCE, "cpu", tokens_at_once * 384 * len(WAYS))
            same_numbers(context_switch.follow(lm, GIVEN, WAYS), whole, 99)


def test_parts(lm: LM) -> None:
    """Catches logits reduced in parts that differ from those reduced at once."""
    check_parts(lm)


def always_the_first(
    real: Callable[..., Any],
    logits: torch.Tensor,
    case: cases.SwitchCase,
    followed: switching.Ids,
) -> Any:
    """Score every part against the first tokens."""
    return real(logits, case, case.followed[: len(followed)])


def test_twin_parts(llama: LM) -> None:
    """Catches a check blind to every part scored against the first tokens."""
    must_see(replaced(passes, "token_numbers", always_the_first), check_parts, llama)


# --- free texts that end ------------------------------------------------------------------------


def check_stops(lm: LM) -> None:
    """A stop ends its own text there, as its last token, and no other one; what is due is read."""
    some = (GIVEN[0], GIVEN[1], GIVEN[4])
    whole = cells(context_switch.generate_after_switch(lm, some, FREED, max_new_tokens=9, stop=()))
    stop = {whole["longer", "gradual(4,2)"].ids[4], whole["shorter", "injection"].ids[6]}
    found = cells(
        context_switch.generate_after_switch(lm, some, FREED, max_new_tokens=9, stop=stop)
    )
    lengths = set()
    for key, row in found.items():
        ids = whole[key].ids
        ends = [n + 1 for n, token in enumerate(ids) if token in stop]
        assert row.ids == ids[: min([*ends, len(ids)])], f"{key}: {row.ids} of {ids}"
        assert len(row.attribution) == len(row.towards_oracle) == len(row.ids)
        lengths.add(len(row.ids))
    assert len(lengths) > 2, "rows end together: nothing leaves the batch on the way"


def test_stops(lm: LM) -> None:
    """Catches a stop that ends another text, or one that goes unheard."""
    check_stops(lm)


@pytest.mark.parametrize(
    "fault",
    [
        wrong_rows,
        lambda patch: patch.setattr(
            free.AnswerState,
            "ended",
            property(lambda answer: len(answer.ids) == answer.max_new_tokens),
        ),
    ],
    ids=["wrong-rows", "stops-unheard"],
)
def test_twin_stops(llama: LM, fault: Fault) -> None:
    """Catches a check blind to wrong rows that go on and to stops unheard."""
    must_see(fault, check_stops, llama)


# --- what the references read as well -----------------------------------------------------------


def check_company(lm: LM) -> None:
    """What a way's slots are called hangs on no other way, on an identical pair either."""
    ways = ("ignore", "flush", "partial(0)", "injection")
    found = cells(context_switch.follow(lm, GIVEN, ways, attention=True))
    others = [
        context_switch.follow(lm, GIVEN, ways[::-1], attention=True),
        *(context_switch.follow(lm, GIVEN, [name], attention=True) for name in ways),
    ]
    for key, row in ((key, row) for table in others for key, row in cells(table).items()):
        for span in switching.SPANS:
            column = f"share_{span}"
            off = np.abs(np.array(row[column]) - np.array(found[key][column])).max()
            assert off <= SCORE_TOLERANCE, f"{key}: {column} off by {off:.2f}"


def test_company(lm: LM) -> None:
    """Catches slots that are named by what else was asked for."""
    check_company(lm)


def named_apart(
    real: Callable[..., Any], lm: LM, one: TokenizedSwitch, ways: Any, *rest: Any
) -> Any:
    """Let the first way's slots be called what its contexts are called."""
    case, places = real(lm, one, ways, *rest)
    if not one.identical or ways[0].kind != "ignore":
        return case, places
    first = case.plans[places[0]]
    holds = tuple(switching.ORIGINAL if x == switching.INJECTED else x for x in first.slot_spans)
    plans = list(case.plans)
    plans[places[0]] = dataclasses.replace(first, slot_spans=holds)
    return dataclasses.replace(case, plans=tuple(plans)), places


def test_twin_company(llama: LM) -> None:
    """Catches a check blind to slots named after the first way asked for."""
    must_see(replaced(cases, "build_case", named_apart), check_company, llama)


def check_lengths(lm: LM) -> None:
    """An answer is refused before it is written if a reference cannot read it exactly."""
    limit = limits.exact_positions(lm)
    long = Switch("long", (5, 6), tuple(range(3, limit - 17)), tuple(range(3, 13)), 5)
    said = []
    for most in (14, 15):
        try:
            context_switch.generate_after_switch(
                lm, [long], ["ignore"], max_new_tokens=most, stop=()
            )
            said.append("")
        except KvError as reason:
            said.append(str(reason))
        assert said[-1] == context_switch.refusal(
            lm, long, ["ignore"], steps=1, max_new_tokens=most
        )
    assert not said[0]
    assert "is exact for" in said[1]


def test_lengths() -> None:
    """Catches an answer written although a reference cannot read it exactly."""
    check_lengths(loading.load("tiny-longrope", device="cpu"))


def test_twin_lengths() -> None:
    """Catches a check blind to references that are longer than the answer's own cache."""
    must_see(
        lambda patch: patch.setattr(cases.AnswerJob, "length", property(lambda job: job.slots)),
        check_lengths,
        loading.load("tiny-longrope", device="cpu"),
    )
