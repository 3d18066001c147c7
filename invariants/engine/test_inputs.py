"""What a pass receives, built at once for all its sequences, against the same built token by token.

Also what is remembered of a prepared sample, and the length of a pass that is told without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from invariants.support.comparing import must_see
from invariants.support.plain_routes import ALL
from invariants.support.samples import LONG, SHORT, TINY
from kvcore.conditions.parse import condition
from kvcore.conditions.recipes import Condition
from kvcore.engine import forward, one_pass, prepared
from kvcore.engine.forward import SequenceInput
from kvcore.engine.prepared import PreparedSample
from kvcore.models.lm import LM


def drawn(seed: int, groups: int, lengths: Sequence[int]) -> list[SequenceInput]:
    """Draw sequences of tokens, positions, groups and pairs of groups that are blocked."""
    rng = np.random.default_rng(seed)
    sequences = []
    for number, length in enumerate(lengths):
        pairs = {(int(a), int(b)) for a, b in rng.integers(0, groups, (3 * groups, 2)) if a != b}
        free = number == 1  # one without any group beside those that have some
        sequences.append(
            SequenceInput(
                tuple(map(int, rng.integers(3, 300, length))),
                tuple(map(int, np.sort(rng.integers(0, 90, length)))),
                () if free else tuple(map(int, rng.integers(0, groups, length))),
                frozenset() if free else frozenset(pairs),
            )
        )
    return sequences


def check_padded(lm: LM, sequences: Sequence[SequenceInput]) -> None:
    """Demand of every token its id, position, realness and whom it may not see."""
    step = forward.pad_sequences(lm, sequences)
    width, last = max(len(s.ids) for s in sequences), max(s.positions[-1] for s in sequences)
    assert step.ids.shape == (len(sequences), width)
    assert step.ids.dtype == step.positions.dtype == torch.int64
    blocks = any(s.blocked_groups for s in sequences)
    assert (step.blocked is not None) == blocks
    for row, s in enumerate(sequences):
        for column in range(width):
            inside = column < len(s.ids)
            behind = s.positions[-1] + column - len(s.ids) + 1
            assert step.ids[row, column] == (s.ids[column] if inside else lm.bos_id)
            assert step.positions[row, column] == (
                s.positions[column] if inside else min(behind, last)
            )
            assert bool(step.real[row, column]) == inside
        if step.blocked is None:
            continue
        group = [*s.groups, *[0] * (width - len(s.groups))]
        expected = [[(a, b) in s.blocked_groups for b in group] for a in group]
        assert step.blocked[row].tolist() == expected, f"row {row}: other pairs are blocked"


@pytest.mark.parametrize("groups", [2, 8, 9, 20])
def test_padded_sequences(llama: LM, groups: int) -> None:
    """Would catch padding that counts on past what is read, or a group that blocks another's pairs.

    1. Sequences in arrays; of every token a byte for its group, and a byte for the hidden ones.
    2. Token by token, pair by pair.
    """
    check_padded(llama, drawn(groups, groups, (7, 4, 11, 1)))
    check_padded(
        llama,
        [
            dataclasses.replace(s, groups=(), blocked_groups=frozenset())
            for s in drawn(1, 2, (3, 5))
        ],
    )


def test_twin_padded_sequences(llama: LM) -> None:
    """Would catch a check blind to groups behind the eighth."""

    def one_byte(patch: pytest.MonkeyPatch) -> None:
        right = forward.blocked_pairs

        def broken(lm: LM, sequences: Sequence[SequenceInput], width: int) -> torch.Tensor | None:
            few = [
                dataclasses.replace(
                    s,
                    blocked_groups=frozenset(
                        (a, b) for a, b in s.blocked_groups if b < forward.GROUPS_PER_BYTE
                    ),
                )
                for s in sequences
            ]
            return right(lm, few, width)

        patch.setattr(forward, "blocked_pairs", broken)

    must_see(one_byte, check_padded, llama, drawn(20, 20, (30, 4, 31)))


# --- what is told of a sample -------------------------------------------------------------------


def one_pass_conditions() -> list[Condition]:
    """Return the conditions that one masked pass can score."""
    kept = ("keep_first(oracle,2)", "keep_sink(oracle)", "keep_sink(random)")
    whole = ("full_context(oracle)", "separator", "blocks(static_fact,2,last)")
    names = dict.fromkeys((*ALL, *kept, *whole))
    return [c for c in map(condition, names) if one_pass.fits_one_pass(c.recipe)]


def check_told_length(lm: LM) -> None:
    """Demand that the length told of a pass is that of the pass."""
    for each in one_pass_conditions():
        for sample in (LONG, SHORT, TINY):
            ready = prepared.prepare_one(lm, sample, each)
            told = one_pass.one_pass_length(ready, each)
            assert told == len(one_pass.one_pass(ready, each, lm.bos_id).ids), each.name


def test_the_length_told_of_a_pass(llama: LM) -> None:
    """Would catch passes cut by another length than they have."""
    assert len(one_pass_conditions()) > 8
    check_told_length(llama)


def test_twin_the_length_told_of_a_pass(llama: LM) -> None:
    """Would catch a check blind to the second BOS."""

    def without_second_bos(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(
            one_pass,
            "one_pass_length",
            lambda sample, each: len(sample.roles(each.prefills()[0])) + sample.query_length(),
        )

    must_see(without_second_bos, check_told_length, llama)


def check_remembered(lm: LM) -> None:
    """Demand that what is remembered of a sample is that sample's, under that condition."""
    for each in one_pass_conditions():
        (prefill,) = each.prefills()
        ready = prepared.prepare_one(lm, LONG, each)
        first = ready.prefill_ids(prefill, lm.bos_id), ready.roles(prefill)
        longer = dataclasses.replace(ready.tokens, document=(*ready.tokens.document, 9, 11))
        other = dataclasses.replace(ready, tokens=longer)
        assert other.prefill_ids(prefill, lm.bos_id) != first[0], "another sample's ids"
        assert len(other.roles(prefill)) >= len(first[1]) + 2
        assert ready.prefill_ids(prefill, lm.bos_id + 1)[1:] == first[0][1:]
        assert ready.prefill_ids(prefill, lm.bos_id + 1)[0] == lm.bos_id + 1, "another BOS"
        again = prepared.prepare_one(lm, LONG, each)
        assert (again.prefill_ids(prefill, lm.bos_id), again.roles(prefill)) == first
        assert ready.prefix_length(prefill) == sum(r >= prepared.COPIES for r in first[1])
        slots = ready.document_slots(prefill)
        assert [first[1][slot] for slot in slots] == [prepared.DOCUMENT] * len(slots)


def test_what_is_remembered_of_a_sample(llama: LM) -> None:
    """Would catch ids or roles that are handed from a sample to another that is made from it."""
    check_remembered(llama)


def test_twin_what_is_remembered_of_a_sample(llama: LM) -> None:
    """Would catch a check blind to ids remembered without the BOS that they begin with."""

    def without_bos(patch: pytest.MonkeyPatch) -> None:
        right = PreparedSample.prefill_ids
        known: dict[tuple[int, object], tuple[int, ...]] = {}
        alive: list[PreparedSample] = []  # no two samples of one `id`

        def broken(self: PreparedSample, prefill: object, bos_id: int) -> tuple[int, ...]:
            alive.append(self)
            return known.setdefault((id(self), prefill), right(self, prefill, bos_id))  # type: ignore[arg-type]

        patch.setattr(PreparedSample, "prefill_ids", broken)

    must_see(without_bos, check_remembered, llama)
