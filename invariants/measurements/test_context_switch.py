"""Switching a context does what its definition says, and its curves are those of plain passes.

The oracle, `invariants.switched`, reads each way to switch by itself, without padding and without
turning keys. Tolerances are `invariants.comparing`'s: float32 through three layers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from invariants.oracle import switched
from invariants.oracle.switched import Plain, next_token_logps
from invariants.support.comparing import SCORE_TOLERANCE, Fault, must_see, replaced
from invariants.support.switches import GIVEN, LISTS, SAME, WAYS, cells, noise_of, plain_of
from kvcore import loading
from kvcore.cache import kv_cache, masks
from kvcore.conditions import switching
from kvcore.conditions.switching import Switch, TokenizedSwitch
from kvcore.engine import forward
from kvcore.errors import KvError
from kvcore.measurements import context_switch
from kvcore.measurements.context_switch import cases, free, passes, teacher_forced
from kvcore.models.lm import LM

# --- against plain passes -----------------------------------------------------------------------


def check_follow(lm: LM, ways: tuple[str, ...] = WAYS) -> None:
    """Every number is that of plain passes, one sequence at a time."""
    found = cells(context_switch.follow(lm, GIVEN, ways))
    assert len(found) == len(GIVEN) * len(set(ways))
    for switch in GIVEN:
        one, noise = plain_of(switch), noise_of(lm, switch)
        oracle, ignore = (
            switched.read(lm.model, lm.bos_id, name, one) for name in ("oracle", "ignore")
        )
        for name in ways:
            own = switched.read(lm.model, lm.bos_id, name, one, noise)
            row = found[switch.id, name]
            assert (row.tokens, row.step) == (list(one.after), len(one.before))
            assert row.identical == (one.original == one.new)
            picked = [
                seen.logps[range(len(one.after)), list(one.after)].numpy()
                for seen in (own, oracle, ignore)
            ]
            wanted = {
                "logp": picked[0],
                "logratio_oracle": picked[0] - picked[1],
                "logratio_ignore": picked[0] - picked[2],
                **{
                    f"kl_{label}": (own.logps.exp() * (own.logps - other.logps)).sum(-1).numpy()
                    for label, other in (("oracle", oracle), ("ignore", ignore))
                },
                "hidden_similarity": torch.cosine_similarity(own.hidden, oracle.hidden).numpy(),
            }
            for column, values in wanted.items():
                off = np.abs(np.array(row[column]) - values) / np.maximum(1, np.abs(values))
                assert off.max() <= 2 * SCORE_TOLERANCE, (  # differences of two scores
                    f"{switch.id}, {name}: {column} off by {off.max():.1e}"
                )
            likeliest = [seen.logps.argmax(-1).tolist() for seen in (own, oracle, ignore)]
            assert row.choice == likeliest[0]
            assert row.attribution == [by_table(*ids) for ids in zip(*likeliest, strict=True)]


def by_table(token: int, oracle: int, ignore: int) -> str:
    """Say whose choice a token is, from a table."""
    return {
        (True, True): "mixed",
        (True, False): "injected",
        (False, True): "original",
        (False, False): "neither",
    }[token == oracle, token == ignore]


def test_follow(lm: LM) -> None:
    """Catches any number of a way to switch that is not that of plain passes."""
    check_follow(lm)


def a_slot_late(
    _real: Callable[..., forward.ForwardInput],
    lm: LM,
    cache: kv_cache.KVCache,
    read: list[switching.Ids],
) -> forward.ForwardInput:
    return forward.pad_ids(lm, read, (cache.lengths() + 1).tolist(), cache)


FAULTS = {
    "reads-one-late": replaced(passes, "append_input", a_slot_late),
    "keys-unturned": replaced(passes, "compact_positions", lambda _real, _lm, cache: cache),
    "kl-turned-round": replaced(passes, "kl_divergence", lambda real, own, ref: real(ref, own)),
    "token-before": replaced(
        passes,
        "token_numbers",
        lambda real, logits, case, followed: real(logits, case, (*followed[1:], followed[0])),
    ),
    "next-row": replaced(
        passes,
        "run_prefills",
        lambda real, *a: {
            run: (cache, (row + 1) % cache.positions.shape[0])
            for run, (cache, row) in real(*a).items()
        },
    ),
    "references-swapped": replaced(
        teacher_forced, "attribute", lambda real, t, o, i: real(t, i, o)
    ),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_twin_follow(llama: LM, fault: Fault) -> None:
    """Catches a check blind to a wrong row, slot, key, KL or reference."""
    must_see(fault, check_follow, llama)


def test_twin_windows() -> None:
    """A window that is not kept shows on a model that has one."""
    wide = replaced(
        masks, "visible", lambda real, query, key, held, _window: real(query, key, held, None)
    )
    must_see(wide, check_follow, loading.load("tiny-mistral", device="cpu"))


# --- identities ---------------------------------------------------------------------------------


def check_identities(lm: LM) -> None:
    """The ends of each way are other ways; an identical pair has ratio exactly 1."""
    found = cells(context_switch.follow(lm, GIVEN, WAYS, attention=True))
    for switch in GIVEN:
        for name, same in (
            ("flush", "oracle"),
            ("partial(all)", "flush"),
            ("partial(99)", "flush"),
            ("partial(0)", "ignore"),
            ("gradual(1)", "injection"),
        ):
            a, b = found[switch.id, name], found[switch.id, same]
            for column in LISTS:
                apart = np.abs(np.array(a[column]) - np.array(b[column])).max()
                assert apart <= SCORE_TOLERANCE, f"{switch.id}: {name} is not {same}, {column}"
        assert found[switch.id, "oracle"].logratio_oracle == [0.0] * len(plain_of(switch).after)
        assert max(found[switch.id, "ignore"].kl_ignore) == 0
        if switch is not SAME:
            assert max(found[switch.id, "ignore"].kl_oracle) > 1e-3, "contexts make no difference"
    for name in ("oracle", "flush", "ignore"):
        row = found["same", name]
        assert set(row.logratio_oracle) == set(row.logratio_ignore) == {0.0}
        assert set(row.kl_oracle) == set(row.kl_ignore) == {0.0}
    again, once_more = found["same", "injection"], found["same", "repetition"]
    assert all(again[column] == once_more[column] for column in LISTS)


def test_identities(lm: LM) -> None:
    """Catches a way whose ends are not other ways, and a control that is not exactly 0."""
    check_identities(lm)


def a_part_more(
    real: Callable[..., switching.SwitchMethod], spelled: str
) -> switching.SwitchMethod:
    made = real(spelled)
    return dataclasses.replace(made, count=2) if made.name == "gradual(1)" else made


def rounded_apart(real: Callable[..., object], logits: torch.Tensor, *rest: object) -> object:
    """Round each row differently, as another machine or batch might."""
    rows = torch.arange(len(logits)).view(-1, 1, 1)
    return real(logits * (1 + 1e-6 * rows), *rest)


def never_shared(patch: pytest.MonkeyPatch) -> None:
    """Give each way a row of its own, also where it reads what another reads."""
    replaced(cases, "plan_key", lambda real, plan: (real(plan), id(plan)))(patch)
    replaced(passes, "token_numbers", rounded_apart)(patch)


@pytest.mark.parametrize(
    "fault",
    [
        replaced(
            switching,
            "plan_partial",
            lambda real, count, one, bos: real(None if count is None else count + 1, one, bos),
        ),
        replaced(switching, "switch_method", a_part_more),
        never_shared,
    ],
    ids=["one-more-anew", "two-parts", "never-shared"],
)
def test_twin_identities(llama: LM, fault: Fault) -> None:
    """Catches a check blind to one token more anew, another part, or rows that are not shared."""
    must_see(fault, check_identities, llama)


def check_batches(lm: LM) -> None:
    """Order, neighbours and the size of a pass change no number."""
    ways = ("oracle", "injection", "gradual(3,2)", "partial(3)", "noise")
    found = cells(context_switch.follow(lm, GIVEN, ways))
    others = [
        context_switch.follow(lm, GIVEN[::-1], ways[::-1], batch_tokens=40),
        context_switch.follow(lm, GIVEN, ways, attention=True),
        *(context_switch.follow(lm, [one], [name]) for one in GIVEN for name in ways),
    ]
    for key, row in ((key, row) for table in others for key, row in cells(table).items()):
        for column in LISTS:
            apart = np.abs(np.array(row[column]) - np.array(found[key][column])).max()
            assert apart <= 2 * SCORE_TOLERANCE, f"{key}: {column} off by {apart:.1e}"


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-mistral", "tiny-gemma3", "tiny-longrope"])
def test_batches(name: str) -> None:
    """Catches a number that hangs on order, neighbours or the size of a pass."""
    check_batches(loading.load(name, device="cpu"))


def test_twin_batches(llama: LM) -> None:
    """Catches a check blind to one row's positions used for all."""

    def first_length(
        _real: Callable[..., forward.ForwardInput],
        lm: LM,
        cache: kv_cache.KVCache,
        read: list[switching.Ids],
    ) -> forward.ForwardInput:
        return forward.pad_ids(lm, read, [int(cache.lengths()[0])] * len(read), cache)

    must_see(replaced(passes, "append_input", first_length), check_batches, llama)


def check_contiguous(lm: LM) -> None:
    """In every pass the real slots of a row stand at 0, 1, 2, ... in order."""
    passes: list[forward.ForwardInput] = []
    real = forward.run_model

    def noted(lm: LM, given: forward.ForwardInput, *rest: Any, **named: Any) -> Any:
        passes.append(given)
        return real(lm, given, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "run_model", noted)
        context_switch.follow(lm, GIVEN, WAYS)
        context_switch.generate_after_switch(
            lm, GIVEN[:2], ["gradual(3,2)", "partial(3)"], max_new_tokens=6, stop=()
        )
    assert len(passes) > 4
    for one in passes:
        for positions, real_slots in zip(one.key_positions(), one.key_real(), strict=True):
            held = positions[real_slots].tolist()
            assert held == list(range(len(held))), f"positions {held}"


def test_contiguous(lm: LM) -> None:
    """Catches gaps or repeats in the positions of any pass."""
    check_contiguous(lm)


def test_twin_contiguous(llama: LM) -> None:
    """Catches a check blind to slots that keep their old positions."""
    must_see(FAULTS["keys-unturned"], check_contiguous, llama)


# --- scripts, without a model -------------------------------------------------------------------

IDS = st.lists(st.integers(3, 99), min_size=1, max_size=12).map(tuple)


@given(original=IDS, new=IDS, before=IDS, after=IDS, data=st.data())
def test_scripts(
    original: switching.Ids,
    new: switching.Ids,
    before: switching.Ids,
    after: switching.Ids,
    data: st.DataObject,
) -> None:
    """One BOS, in front; what follows is read in order; what predicts stands right before."""
    number = data.draw(st.integers(0, 30))
    name = data.draw(
        st.sampled_from(
            [
                "ignore",
                "oracle",
                "injection",
                "flush",
                "repetition",
                f"gradual({number + 1},2)",
                f"partial({number})",
                "partial(all)",
            ]
        )
    )
    check_script(TokenizedSwitch("x", original, new, before, after), name)


def check_script(one: TokenizedSwitch, name: str) -> None:
    start = switching.plan_cache(switching.switch_method(name), one, 0)
    found = switching.plan_decode(start, one.after)
    assert all(run[0] == 0 and 0 not in run[1:] for run in start.runs)
    assert 0 not in found.read
    assert [span == switching.BOS for span in found.slot_spans] == [
        True,
        *[False] * (len(found.slot_spans) - 1),
    ]
    assert len(found.slot_spans) == len(start.cached) + len(found.read)
    spans = found.slot_spans[len(start.cached) :]
    text = [
        token for token, span in zip(found.read, spans, strict=True) if span == switching.GENERATED
    ]
    assert text == [one.before[-1], *one.after[:-1]]
    assert len(found.predicts) == len(one.after)
    for place, token in zip(found.predicts[:-1], one.after[:-1], strict=True):
        between = found.read[place + 1 :]
        assert between[0] == token, "the token behind the predicting one is the predicted one"
    injected = [t for t, span in zip(found.read, spans, strict=True) if span == switching.INJECTED]
    wanted = list(one.original if name == "repetition" else one.new)
    if name.startswith("gradual"):
        assert injected == wanted[: len(injected)]
    elif name in ("injection", "repetition"):
        assert injected == wanted
    else:
        assert not injected


def test_twin_scripts() -> None:
    """Catches a check blind to predictions taken a token early."""

    def late(
        real: Callable[..., switching.DecodePlan],
        start: switching.CachePlan,
        followed: switching.Ids,
    ) -> switching.DecodePlan:
        made = real(start, followed)
        return switching.DecodePlan(
            made.opening, made.read, made.slot_spans, tuple(p - 1 for p in made.predicts)
        )

    one = TokenizedSwitch("x", (5, 6), (7, 8, 9), (10, 11), (12, 13, 14))
    must_see(replaced(switching, "plan_decode", late), check_script, one, "injection")


# --- free generation ----------------------------------------------------------------------------


def check_free(lm: LM) -> None:
    """What is written is what reading everything anew for each token writes."""
    ways = ("oracle", "injection", "gradual(3,2)", "ignore", "flush", "partial(3)", "noise")
    given = (GIVEN[0], GIVEN[1], GIVEN[4])
    found = cells(context_switch.generate_after_switch(lm, given, ways, max_new_tokens=6, stop=()))
    for switch in given:
        one, noise = plain_of(switch), noise_of(lm, switch)
        for name in ways:
            row = found[switch.id, name]
            anew = name == "oracle"
            held = () if anew else one.before
            n = 6 + len(one.before) if anew else 6
            ids = written_plainly(lm, name, one, noise, n)
            assert tuple(row.ids) == ids, f"{switch.id}, {name}: {row.ids}, not {ids}"
            assert row.step == len(held)
            assert row.text == lm.tokenizer.decode([*held, *ids], skip_special_tokens=True)
            oracle, ignore = (
                next_token_logps(lm.model, lm.bos_id, context, held, ids)
                for context in (one.new, one.original)
            )
            towards = [float(o[t] - i[t]) for o, i, t in zip(oracle, ignore, ids, strict=True)]
            assert np.abs(np.array(row.towards_oracle) - towards).max() <= 5 * SCORE_TOLERANCE
            assert row.attribution == [
                by_table(t, int(o.argmax()), int(i.argmax()))
                for t, o, i in zip(ids, oracle, ignore, strict=True)
            ]


def written_plainly(lm: LM, name: str, one: Plain, noise: switching.Ids, n: int) -> switching.Ids:
    """Write greedily, the whole sequence read anew for each token."""
    ids: list[int] = []
    for _ in range(n):
        if name == "oracle":
            ids.append(
                int(next_token_logps(lm.model, lm.bos_id, one.new, (), (*ids, 0))[-1].argmax())
            )
        else:
            so_far = Plain(one.original, one.new, one.before, (*ids, 0))
            ids.append(
                int(switched.read(lm.model, lm.bos_id, name, so_far, noise).logps[-1].argmax())
            )
    return tuple(ids)


def test_free(lm: LM) -> None:
    """Catches a token, text, attribution or reference that is not that of plain passes."""
    check_free(lm)


def chosen_although_due(_real: Callable[..., int], page: free.AnswerState, chosen: int) -> int:
    """Keep what was predicted before the part that is due was read."""
    page.ids.append(chosen)
    return chosen


@pytest.mark.parametrize(
    "fault",
    [
        replaced(free.AnswerState, "next", chosen_although_due),
        FAULTS["reads-one-late"],
        replaced(
            free,
            "references",
            lambda real, lm, job, ids: real(
                lm, dataclasses.replace(job, before=job.before[1:]), ids
            ),
        ),
    ],
    ids=["part-never-read", "reads-one-late", "references-lack-a-token"],
)
def test_twin_free(llama: LM, fault: Fault) -> None:
    """Catches a check blind to a part never read, a slot late or a reference that lacks a token."""
    must_see(fault, check_free, llama)


# --- one clear line -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"switches": [GIVEN[0], GIVEN[0]]}, "two switches have the id 'longer'"),
        ({"conditions": ["inject"]}, "unknown way to switch 'inject'"),
        ({"conditions": ["partial"]}, r"write gradual\(parts\)"),
        ({"conditions": ["gradual(0)"]}, r"write gradual\(parts\)"),
        ({"steps": 0}, "steps=0 must be 1 or more"),
        ({"switches": [Switch("e", (), (3,), (4, 5))]}, "switch 'e': original holds no tokens"),
        ({"switches": [Switch("o", (3,), (999,), (4, 5))]}, "new holds the id 999"),
        ({"switches": [Switch("b", (0, 3), (3,), (4, 5))]}, "original holds BOS"),
        ({"switches": [Switch("s", (3,), (3,), (4,))]}, "at=0.5 in a stream of 1 tokens"),
        ({"switches": [Switch("l", (3,) * 3000, (3,), (4, 5))]}, "is exact for"),
    ],
)
def test_one_clear_line(llama: LM, asked: dict[str, object], said: str) -> None:
    """Catches a bad request that is not refused in one line."""
    arguments = {"switches": GIVEN, "conditions": WAYS, **asked}
    with pytest.raises(KvError, match=said) as caught:
        context_switch.follow(llama, **arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_place_is_inside_the_stream() -> None:
    """A share is rounded to a place with a token on either side."""
    for length in range(2, 40):
        for share in np.linspace(0.001, 0.999, 41):
            found = switching.switch_position(Switch("x", (1,), (1,), (1,), float(share)), length)
            assert 1 <= found <= length - 1
            assert math.isclose(found, share * length, abs_tol=1.0)
