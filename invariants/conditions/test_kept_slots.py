"""What stays of a prefix behind BOS: its first tokens, or the slot that is the attention sink.

The routes to a score: one masked pass, caches, and the plain procedure, which rotates nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from invariants.oracle import plain
from invariants.support.comparing import Fault, assert_scores, must_see, replaced
from invariants.support.faults import leave_keys_unturned
from invariants.support.plain_routes import EXPECTED, Case, both_routes, caches
from invariants.support.samples import LONG, SHORT
from kvcore.cache import kv_cache
from kvcore.conditions.parse import condition
from kvcore.conditions.recipes import Document, Prefill, TruncateBut
from kvcore.conditions.registry import QUERY, primed
from kvcore.engine import limits, one_pass, prepared, sinks
from kvcore.engine.forward import SequenceInput
from kvcore.errors import KvError
from kvcore.measurements import answer_nll
from kvcore.models.lm import LM

KEPT = ("keep_first(oracle,1)", "keep_first(oracle,4)", "keep_sink(oracle)")
NAMES = (*KEPT, "keep_sink(random)", "swap_bos(oracle)", "bos_of_bare(oracle)")


def check_kept_equals_plain(lm: LM, route: answer_nll.Route, *names: str) -> None:
    """Compare a score with the plain procedure's.

    1. Production: one masked pass (auto, of one condition), or a cache that is cut and rotated.
    2. Plain: the whole read at positions that put each part where it is to stand.
    """
    for name in names:
        row = answer_nll.score(lm, [LONG], [name], route=route).iloc[0]
        assert row.status == "ok", row.status
        assert_scores(row.token_nlls, EXPECTED[name](Case(lm, LONG)), name)


@both_routes
def test_what_is_kept_equals_the_plain_procedure(lm: LM, route: answer_nll.Route) -> None:
    """Would catch a kept token that is another one, or stands elsewhere, in either route."""
    check_kept_equals_plain(lm, route, *NAMES)


def one_slot_further(patch: pytest.MonkeyPatch) -> None:
    """Keep the slots behind those that are to stay."""
    right = prepared.PreparedSample.kept_slots

    def broken(self: prepared.PreparedSample, recipe: TruncateBut) -> range:
        kept = right(self, recipe)
        return range(kept.start + 1, kept.stop + 1) if kept else kept

    patch.setattr(prepared.PreparedSample, "kept_slots", broken)


def one_slot_more(patch: pytest.MonkeyPatch) -> None:
    """Keep a token more than is asked for."""
    right = prepared.PreparedSample.kept_slots

    def broken(self: prepared.PreparedSample, recipe: TruncateBut) -> range:
        kept = right(self, recipe)
        return range(kept.start, kept.stop + 1) if kept else range(1, 2)

    patch.setattr(prepared.PreparedSample, "kept_slots", broken)


@both_routes
@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("fault", [one_slot_further, one_slot_more])
def test_twin_other_slots(llama: LM, fault: Fault, name: str, route: answer_nll.Route) -> None:
    """Would catch a check blind to other slots than those that are to stay."""
    must_see(fault, check_kept_equals_plain, llama, route, name)


@pytest.mark.parametrize("name", KEPT)
def test_twin_old_positions(llama: LM, name: str) -> None:
    """Would catch a check blind to keys that are numbered anew and not rotated."""
    must_see(leave_keys_unturned, check_kept_equals_plain, llama, "cache", name)


def changed_pass(change: Callable[[SequenceInput], SequenceInput]) -> Fault:
    """Change what the one pass reads."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        right = one_pass.one_pass
        patch.setattr(one_pass, "one_pass", lambda *given: change(right(*given)))

    return fault


def let_see(query: int, key: int) -> Fault:
    """Let a group see another; groups are numbered as they stand in the pass."""
    return changed_pass(
        lambda read: replace(read, blocked_groups=read.blocked_groups - {(query, key)})
    )


def kept_a_position_early(read: SequenceInput) -> SequenceInput:
    """Let what is kept end a position before the prefix ends."""
    positions = (
        position - (group == KEPT_GROUP)
        for position, group in zip(read.positions, read.groups, strict=True)
    )
    return replace(read, positions=tuple(positions))


# The groups of such a pass: BOS, prefix, leading, kept, BOS', document, question.
PREFIX_GROUP, LEADING, KEPT_GROUP, SECOND_BOS, DOCUMENT, QUESTION = range(1, 7)


@pytest.mark.parametrize(
    "fault",
    [
        let_see(QUESTION, LEADING),
        let_see(QUESTION, PREFIX_GROUP),
        let_see(DOCUMENT, KEPT_GROUP),
        changed_pass(
            lambda read: replace(read, blocked_groups=read.blocked_groups | {(KEPT_GROUP, LEADING)})
        ),
        changed_pass(kept_a_position_early),
    ],
    ids=["question_sees_leading", "question_sees_prefix", "document", "kept_alone", "early"],
)
def test_twin_one_pass(llama: LM, fault: Fault) -> None:
    """Would catch a check blind to who sees what is read once more, or where it stands."""
    must_see(fault, check_kept_equals_plain, llama, "auto", "keep_sink(oracle)")


# --- the sink ------------------------------------------------------------------------------------


def check_sinks(lm: LM) -> None:
    """Compare the located sinks with the model's own list of hidden states, alone and batched."""
    under = condition("keep_sink(oracle)")
    (prefill,) = under.sink_prefills()
    samples = [prepared.prepare_one(lm, sample, condition("oracle")) for sample in (LONG, SHORT)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(limits.PASS_COST, "cpu", 10**6)  # so dear that unlike samples share a pass
        prepared.locate_sinks(lm, [(sample, under) for sample in samples])
    for sample, ready in zip((LONG, SHORT), samples, strict=True):
        case = Case(lm, sample)
        wanted = plain.sink_of(lm.model, lm.bos_id, case.question, case.document)
        assert ready.sinks == {prefill: wanted}, f"{ready.sinks[prefill]}, not {wanted}"


def test_the_sink_is_the_slot_with_the_largest_hidden_norm(lm: LM) -> None:
    """Would catch another layer, another norm, or a document's slot taken for the sink."""
    check_sinks(lm)


@pytest.mark.parametrize(
    "fault",
    [
        replaced(sinks, "hidden_norms", lambda real, lm, ids: real(lm, ids).flip(1)),
        replaced(sinks, "hidden_norms", lambda real, lm, ids: -real(lm, ids)),
        replaced(sinks, "middle_layer", lambda _real, _lm: 2),
    ],
    ids=["other_end", "smallest", "last_layer"],
)
def test_twin_sinks(llama: LM, fault: Fault) -> None:
    """Would catch a check blind to another slot or another layer."""
    must_see(fault, check_sinks, llama)


def test_norms_behind_a_sequence_are_zero(llama: LM) -> None:
    """Would catch padding that counts as a slot."""
    norms = sinks.hidden_norms(llama, [[4, 5, 9, 12], [4, 5]])
    assert torch.equal(norms[1, 2:], torch.zeros(2))
    assert bool((norms[0] > 0).all())


def test_a_sink_that_was_not_located_is_refused(llama: LM) -> None:
    """Would catch a cache that silently keeps nothing where the sink is not known."""
    ready = prepared.prepare_one(llama, LONG, condition("oracle"))
    with pytest.raises(KvError, match="call locate_sinks first"):
        ready.kept_slots(TruncateBut(primed(QUERY), "sink"))


@pytest.mark.parametrize(
    ("source", "keep"),
    [
        (Prefill(), 1),
        (Prefill((Document(), QUERY)), "sink"),
        (replace(primed(QUERY), isolated=True), 2),
        (primed(QUERY), 0),
    ],
)
def test_what_cannot_be_kept_is_refused(source: Prefill, keep: Any) -> None:
    """Would catch a recipe that keeps slots of something else than one prefix."""
    with pytest.raises(KvError, match="must be"):
        TruncateBut(source, keep)


@pytest.mark.parametrize(
    "name", ["keep_first(oracle,0)", "keep_first(oracle)", "keep_sink(oracle,1)"]
)
def test_a_name_that_keeps_nothing_is_refused(name: str) -> None:
    """Would catch a count that is no count, or an argument too many."""
    with pytest.raises(KvError):
        condition(name)


# --- BOS's entry ---------------------------------------------------------------------------------


def check_bos_entry(llama: LM) -> None:
    """Demand BOS's entry of the one cache and everything else of the other."""
    bare, primed_bos = caches(llama, LONG, "bare", "swap_bos(oracle)")
    other = replace(
        bare,
        keys=tuple(k + 1 for k in bare.keys),
        values=tuple(v + 1 for v in bare.values),
    )
    swapped = bare.with_bos_of(other)
    for found, own, theirs in zip(swapped.keys, bare.keys, other.keys, strict=True):
        assert torch.equal(found[:, :, 0], theirs[:, :, 0]), "BOS's keys are not the other's"
        assert torch.equal(found[:, :, 1:], own[:, :, 1:]), "other keys than BOS's changed"
    # A causal model gives BOS the same entry whatever follows it.
    for found, own in zip(primed_bos.values, bare.values, strict=True):
        assert float((found - own).abs().max()) < 1e-5, "BOS's entry depends on what follows"


def test_bos_entry_alone_is_exchanged(llama: LM) -> None:
    """Would catch an exchange of nothing, or of further slots."""
    check_bos_entry(llama)


@pytest.mark.parametrize(
    "change", [lambda self, _other: self, lambda _self, other: other], ids=["nothing", "everything"]
)
def test_twin_bos_entry(llama: LM, change: Callable[..., Any]) -> None:
    """Would catch a check blind to an exchange of nothing, or of the whole cache."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(kv_cache.KVCache, "with_bos_of", change)

    must_see(fault, check_bos_entry, llama)
