"""How sequences are cut into passes."""

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
    best = [0.0]
    came_from = [0]
    for stop in range(1, len(widths) + 1):
        found, at, widest = math.inf, stop - 1, 0
        for start in range(stop - 1, -1, -1):
            widest = max(widest, widths[start])
            tokens_run = (stop - start) * widest
            if tokens_run > budget and stop - start > 1:
                break
            if best[start] + cost + tokens_run < found:
                found, at = best[start] + cost + tokens_run, start
        best.append(found)
        came_from.append(at)
    parts: list[tuple[int, int]] = []
    stop = len(widths)
    while stop:
        parts.append((came_from[stop], stop))
        stop = came_from[stop]
    return parts[::-1]
