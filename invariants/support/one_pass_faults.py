"""Faults of the one masked pass that stands for a truncated cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from kvcore.conditions import recipes
from kvcore.engine import one_pass
from kvcore.engine.forward import SequenceInput

# The groups of the pass are, in order: BOS, prefix, second BOS, document, question. (That the
# second BOS does not see the first is no use: both hold the same.)
FIRST_BOS, COPY, SECOND_BOS, DOCUMENT, QUESTION = range(5)


def change_readings(
    patch: pytest.MonkeyPatch, change: Callable[[SequenceInput, int], SequenceInput]
) -> None:
    """Change every reading that has a second BOS, given its place."""
    right = one_pass.one_pass

    def broken(sample: Any, condition: Any, bos_id: int) -> SequenceInput:
        read = right(sample, condition, bos_id)
        return change(read, read.groups.index(SECOND_BOS)) if SECOND_BOS in read.groups else read

    patch.setattr(one_pass, "one_pass", broken)


def let_see(query: int, key: int) -> Callable[[pytest.MonkeyPatch], None]:
    """Make a fault: one group sees another that it must not see."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        def seeing(read: SequenceInput, _: int) -> SequenceInput:
            assert (query, key) in read.blocked_groups
            return dataclasses.replace(read, blocked_groups=read.blocked_groups - {(query, key)})

        change_readings(patch, seeing)

    names = ("first_bos", "prefix", "second_bos", "document", "question")
    fault.__name__ = f"{names[query]}_sees_{names[key]}"
    return fault


def hide_the_prefix_from_the_document(patch: pytest.MonkeyPatch) -> None:
    change_readings(
        patch,
        lambda read, _: dataclasses.replace(
            read, blocked_groups=read.blocked_groups | {(DOCUMENT, COPY)}
        ),
    )


def second_bos_a_position_early(patch: pytest.MonkeyPatch) -> None:
    change_readings(
        patch,
        lambda read, at: dataclasses.replace(
            read,
            positions=(*read.positions[:at], read.positions[at] - 1, *read.positions[at + 1 :]),
        ),
    )


def no_place_for_the_second_bos(patch: pytest.MonkeyPatch) -> None:
    """Count the second BOS as a token of its own, so that the document comes one too late."""
    change_readings(
        patch,
        lambda read, at: dataclasses.replace(
            read, positions=(*read.positions[:at], *(n + 1 for n in read.positions[at:]))
        ),
    )


def question_late_in_one_pass(patch: pytest.MonkeyPatch) -> None:
    change_readings(
        patch,
        lambda read, _: dataclasses.replace(
            read,
            positions=tuple(
                n + (group == QUESTION)
                for n, group in zip(read.positions, read.groups, strict=True)
            ),
        ),
    )


LAYOUT_FAULTS = (
    let_see(DOCUMENT, SECOND_BOS),
    let_see(QUESTION, FIRST_BOS),
    let_see(QUESTION, COPY),
    hide_the_prefix_from_the_document,
    second_bos_a_position_early,
    no_place_for_the_second_bos,
    question_late_in_one_pass,
)


def a_second_bos_for_no_prefix(patch: pytest.MonkeyPatch) -> None:
    """Lay out a second BOS, seen beside the first, where there is no prefix to hide."""
    right = one_pass.one_pass

    def broken(sample: Any, condition: Any, bos_id: int) -> SequenceInput:
        read = right(sample, condition, bos_id)
        if not isinstance(condition.recipe, recipes.Reposition):
            return read
        return SequenceInput((bos_id, *read.ids), (0, *read.positions))

    patch.setattr(one_pass, "one_pass", broken)
