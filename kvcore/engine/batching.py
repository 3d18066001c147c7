"""How sequences are cut into passes and batches; nothing here knows what is run."""

from __future__ import annotations

import math
from collections.abc import Sequence


def cut_into_passes(widths: Sequence[int], budget: int, cost: int) -> list[tuple[int, int]]:
    """Cut a list of sequences into passes so that padding and passes cost least.

    Parameters
    ----------
    widths : sequence of int
        Tokens of each sequence, in the order in which they are to be run.
    budget : int
        Most tokens in one pass, padding included; a longer sequence runs by itself.
    cost : int
        What a pass costs beside its tokens, in tokens.

    Returns
    -------
    list of (start, stop)
        Of least total cost among all cuts of this order.
    """
    least_cost = [0.0]  # of the first n sequences
    last_start = [0]  # where their last pass starts
    for stop in range(1, len(widths) + 1):
        best, best_start, widest = math.inf, stop - 1, 0
        for start in range(stop - 1, -1, -1):
            widest = max(widest, widths[start])
            tokens_run = (stop - start) * widest
            if tokens_run > budget and stop - start > 1:
                break
            if least_cost[start] + cost + tokens_run < best:
                best, best_start = least_cost[start] + cost + tokens_run, start
        least_cost.append(best)
        last_start.append(best_start)
    passes: list[tuple[int, int]] = []
    stop = len(widths)
    while stop:
        passes.append((last_start[stop], stop))
        stop = last_start[stop]
    return passes[::-1]


def cut_by_budget(
    sizes: Sequence[int], budget: int, *, padded: bool = True
) -> list[tuple[int, int]]:
    """Cut a list into batches, each as large as the budget lets it be.

    Parameters
    ----------
    sizes : sequence of int
        Slots of each item, in the order in which they are to be run.
    budget : int
        Most slots of one batch; an item larger than that is a batch by itself.
    padded : bool
        Count every item of a batch as large as its largest, else as large as it is.

    Returns
    -------
    list of (start, stop)
    """
    cuts = [0]
    for stop in range(1, len(sizes) + 1):
        batch = sizes[cuts[-1] : stop]
        slots = len(batch) * max(batch) if padded else sum(batch)
        if slots > budget and len(batch) > 1:
            cuts.append(stop - 1)
    return list(zip(cuts, [*cuts[1:], len(sizes)], strict=True)) if sizes else []


def passes_by_size(widths: Sequence[int], budget: int, cost: int) -> list[list[int]]:
    """Sort sequences by length and cut them into passes.

    Returns
    -------
    list of list of int
        Numbers of the sequences; see `cut_into_passes`.
    """
    order = _by_size(widths)
    return [order[a:b] for a, b in cut_into_passes([widths[n] for n in order], budget, cost)]


def batches_by_size(sizes: Sequence[int], budget: int, *, padded: bool = True) -> list[list[int]]:
    """Sort items by size and cut them into batches.

    Returns
    -------
    list of list of int
        Numbers of the items; see `cut_by_budget`.
    """
    order = _by_size(sizes)
    return [order[a:b] for a, b in cut_by_budget([sizes[n] for n in order], budget, padded=padded)]


def _by_size(sizes: Sequence[int]) -> list[int]:
    return sorted(range(len(sizes)), key=lambda n: (sizes[n], n))
