"""Cuts into passes and batches: everything once, in order, within the budget, cheapest."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from invariants.support.comparing import (
    Fault,
    must_see,
)
from invariants.support.strategies import some
from kvcore.engine import batching


def check_cut(widths: list[int], budget: int, cost: int) -> None:
    """Demand every item once and in order, no part above the budget, and the least cost of all."""
    parts = batching.cut_into_passes(widths, budget, cost)
    assert [i for a, b in parts for i in range(a, b)] == list(range(len(widths))), parts
    assert all(a < b for a, b in parts), "an empty pass"
    assert all(b - a == 1 or _tokens(widths, a, b) <= budget for a, b in parts), "above the budget"
    found = sum(cost + _tokens(widths, a, b) for a, b in parts)
    assert found == _least(tuple(widths), budget, cost), "a cheaper cut exists"


def _tokens(widths: Sequence[int], start: int, stop: int) -> int:
    return (stop - start) * max(widths[start:stop])


def _least(widths: tuple[int, ...], budget: int, cost: int) -> int:
    """Try every set of places to cut at."""
    costs = []
    for chosen in itertools.product([False, True], repeat=max(len(widths) - 1, 0)):
        ends = [0, *(i + 1 for i, here in enumerate(chosen) if here), len(widths)]
        parts = [(a, b) for a, b in itertools.pairwise(ends) if a < b]
        if all(b - a == 1 or _tokens(widths, a, b) <= budget for a, b in parts):
            costs.append(sum(cost + _tokens(widths, a, b) for a, b in parts))
    return min(costs)


WIDTHS = st.lists(st.integers(1, 40), max_size=8)


@some
@given(widths=WIDTHS, budget=st.integers(1, 160), cost=st.integers(0, 60))
@example(widths=[30, 5, 5, 5, 30, 31], budget=160, cost=10)
def test_no_cut_into_passes_is_cheaper(widths: list[int], budget: int, cost: int) -> None:
    """Would catch passes that cost more than they need, sorted or not.

    1. The cut.
    2. Every cut of that order, tried out.
    """
    check_cut(widths, budget, cost)


def check_cut_is_monotone(widths: list[int], budget: int, cost: int, more: int) -> None:
    """Demand no more cost for a larger budget, and no more passes where each is dearer."""

    def total(parts: list[tuple[int, int]], price: int) -> int:
        return sum(price + _tokens(widths, a, b) for a, b in parts)

    now, roomy = (batching.cut_into_passes(widths, b, cost) for b in (budget, budget + more))
    dear = batching.cut_into_passes(widths, budget, cost + more)
    assert total(roomy, cost) <= total(now, cost), "more room, more cost"
    assert total(dear, cost + more) >= total(now, cost), "dearer passes, less cost"
    assert total(batching.cut_into_passes(widths[:-1], budget, cost), cost) <= total(now, cost), (
        "less to do, more cost"
    )


@some
@given(widths=WIDTHS, budget=st.integers(1, 160), cost=st.integers(0, 60), more=st.integers(0, 100))
def test_the_cost_of_passes_is_monotone(
    widths: list[int], budget: int, cost: int, more: int
) -> None:
    """Would catch room that costs, dearer passes that save, or less work that is dearer."""
    check_cut_is_monotone(widths, budget, cost, more)


Cut = Callable[[Sequence[int], int, int], list[tuple[int, int]]]


def changing_cut(name: str, change: Callable[[Cut], Cut]) -> Fault:
    """Make a fault that replaces the cut by what `change` makes of it."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(batching, "cut_into_passes", change(batching.cut_into_passes))

    fault.__name__ = name
    return fault


def one_by_one(widths: Sequence[int]) -> list[tuple[int, int]]:
    return [(i, i + 1) for i in range(len(widths))]


@pytest.mark.parametrize(
    "fault",
    [
        changing_cut("last lost", lambda right: lambda *arguments: right(*arguments)[:-1]),
        changing_cut("reversed", lambda right: lambda *arguments: right(*arguments)[::-1]),
        changing_cut(
            "too large", lambda right: lambda widths, _budget, _cost: right(widths, 10**6, 10**6)
        ),
        changing_cut(
            "one by one", lambda _right: lambda widths, _budget, _cost: one_by_one(widths)
        ),
        changing_cut(
            "passes are free", lambda right: lambda widths, budget, _cost: right(widths, budget, 0)
        ),
    ],
)
def test_twin_cut(fault: Fault) -> None:
    """Would catch a check blind to a part lost, out of order, too large, or cut greedily."""
    must_see(fault, check_cut, [30, 5, 5, 6, 30, 31], 70, 10)


@pytest.mark.parametrize(
    "fault",
    [
        changing_cut(
            "room wasted",
            lambda right: (
                lambda widths, budget, cost: (
                    [(0, len(widths))] if budget > 90 else right(widths, budget, cost)
                )
            ),
        ),
        changing_cut(
            "dear work dropped",
            lambda right: (
                lambda widths, budget, cost: [] if cost > 20 else right(widths, budget, cost)
            ),
        ),
        changing_cut(
            "small lists split",
            lambda right: (
                lambda widths, budget, cost: (
                    one_by_one(widths) if len(widths) == 5 else right(widths, budget, cost)
                )
            ),
        ),
    ],
)
def test_twin_cut_is_monotone(fault: Fault) -> None:
    """Would catch a check blind to room wasted, work dropped or small lists split."""
    must_see(fault, check_cut_is_monotone, [30, 2, 2, 2, 2, 2], 80, 20, 40)


# --- batches --------------------------------------------------------------------------------------


def check_batches(sizes: list[int], budget: int, padded: bool) -> None:
    """Demand every item once and in order, no batch above the budget, and none too small."""

    def slots(batch: Sequence[int]) -> int:
        return len(batch) * max(batch) if padded else sum(batch)

    cuts = batching.cut_by_budget(sizes, budget, padded=padded)
    assert [i for a, b in cuts for i in range(a, b)] == list(range(len(sizes))), cuts
    assert all(a < b for a, b in cuts), "an empty batch"
    assert all(b - a == 1 or slots(sizes[a:b]) <= budget for a, b in cuts), "above the budget"
    for (a, b), _ in itertools.pairwise(cuts):
        assert slots(sizes[a : b + 1]) > budget, "one more would have fitted"
    by_size = sorted(range(len(sizes)), key=lambda n: sizes[n])
    ordered = [sizes[n] for n in by_size]
    assert batching.batches_by_size(sizes, budget, padded=padded) == [
        by_size[a:b] for a, b in batching.cut_by_budget(ordered, budget, padded=padded)
    ], "not sorted by size"
    assert batching.passes_by_size(sizes, budget, 10) == [
        by_size[a:b] for a, b in batching.cut_into_passes(ordered, budget, 10)
    ], "not sorted by length"


@some
@given(sizes=WIDTHS, budget=st.integers(1, 160), padded=st.booleans())
def test_batches_fill_their_budget(sizes: list[int], budget: int, padded: bool) -> None:
    """Would catch a batch above the budget, one that ends early, or items lost or out of order."""
    check_batches(sizes, budget, padded)


def changing_batches(name: str, change: Callable[..., object]) -> Fault:
    """Make a fault that changes how items are cut by a budget."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        right = batching.cut_by_budget
        patch.setattr(
            batching,
            "cut_by_budget",
            lambda sizes, budget, *, padded=True: change(right, sizes, budget, padded),
        )

    fault.__name__ = name
    return fault


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize(
    "fault",
    [
        changing_batches("last lost", lambda right, s, b, p: right(s, b, padded=p)[:-1]),
        changing_batches("too large", lambda right, s, b, p: right(s, 2 * b, padded=p)),
        changing_batches("too small", lambda right, s, b, p: right(s, b // 2, padded=p)),
        changing_batches("other count", lambda right, s, b, p: right(s, b, padded=not p)),
    ],
)
def test_twin_batches(fault: Fault, padded: bool) -> None:
    """Would catch a check blind to a batch lost, too large, too small, or counted otherwise."""
    must_see(fault, check_batches, [30, 5, 5, 6, 30, 31, 2, 2, 2], 70, padded)
