"""Interleaved rounds: every contender meets the same machine in the same minutes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.contenders import Contender, Key, Sums
from benchmarks.work import matmul_rate


@dataclass(frozen=True)
class Round:
    """One round: seconds per contender, and the matrix rate measured beside each of them."""

    seconds: Mapping[str, float]
    rates: Mapping[str, float]


def rounds(
    contenders: Mapping[str, Contender], count: int, first: int = 0
) -> tuple[list[Round], dict[str, Sums]]:
    """Run all contenders `count` times, starting each round with another one.

    Parameters
    ----------
    first : int
        Which of them the first round starts with.

    Returns
    -------
    list of Round
    dict
        Each contender's results, from its last run.
    """
    names = list(contenders)
    done: list[Round] = []
    results: dict[str, Sums] = {}
    for number in range(first, first + count):
        turn = number % len(names)
        seconds: dict[str, float] = {}
        rates: dict[str, float] = {}
        for name in names[turn:] + names[:turn]:
            before = matmul_rate()
            results[name], seconds[name] = timed(contenders[name])
            rates[name] = (before + matmul_rate()) / 2
        done.append(Round(seconds, rates))
    return done, results


def timed(contender: Contender) -> tuple[Sums, float]:
    """Run once; return the results and the wall-clock seconds."""
    start = time.perf_counter()
    sums = contender()
    return sums, time.perf_counter() - start


def median_ratio(done: Sequence[Round], slow: str, fast: str) -> float:
    """Return how many times faster `fast` is than `slow`: the median of each round's ratio."""
    return statistics.median(r.seconds[slow] / r.seconds[fast] for r in done)


def median_share(done: Sequence[Round], name: str, operations: int) -> float:
    """Return the share of the matrix rate that a contender's needed work reaches, median."""
    return statistics.median(operations / r.seconds[name] / r.rates[name] for r in done)


def largest_difference(a: Sums, b: Sums, lengths: Mapping[Key, int]) -> float:
    """Return the largest difference between two contenders, in nats per answer token."""
    return max(abs(a[key] - b[key]) / lengths[key] for key in lengths)
