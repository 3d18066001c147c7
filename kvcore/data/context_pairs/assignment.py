"""Which change every pair of a corpus gets, and where in its solution the context is switched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from kvcore.data.context_pairs.pair import CHANGES, Pair
from kvcore.errors import KvError
from kvcore.io import digest

FRACTIONS = (0.25, 0.5, 0.75)
"""Where in the solution the context may be switched, as shares of its length."""

PairsAndCounts = tuple[tuple[Pair, ...], dict[str, int]]
"""Pairs, and how many rows made none, by reason."""


def planned_type(index: int) -> str | None:
    """Return the type of a corpus's pair by its place, from 0: two controls in nine.

    After any number of pairs, the three types differ by one at most; from 32 pairs on, 20 to 24 %
    are controls.
    """
    controls = index * 2 // 9
    is_control = (index + 1) * 2 // 9 > controls
    return None if is_control else CHANGES[(index - controls) % len(CHANGES)]


def assign_types(
    rows: Iterable[tuple[str, Callable[[str | None], Pair | str]]], seed: int
) -> PairsAndCounts:
    """Give each row the type that is due, or drop it where it cannot take that type.

    Returns the pairs in their order, numbered within their types, and counts of what was dropped.

    - `rows`: an id, and what makes the pair of a type or says why it cannot.
    - `seed`: decides the order of the rows.
    """
    pairs: list[Pair] = []
    dropped: Counter[str] = Counter()
    problems: set[str] = set()
    for _, pair_of in sorted(rows, key=lambda row: (digest(str(seed), row[0]), row[0])):
        pair = pair_of(planned_type(len(pairs)))
        if isinstance(pair, str):
            dropped[pair] += 1
        elif {pair.question, pair.alt_problem} & problems:
            dropped["repeated problem"] += 1
        else:
            problems |= {pair.question, pair.alt_problem}
            pairs.append(pair)
    return numbered(pairs), dict(sorted(dropped.items()))


def numbered(pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    """Number pairs within their types, in their order."""
    counts: Counter[str | None] = Counter()
    result = []
    for pair in pairs:
        result.append(replace(pair, number=counts[pair.variation_type]))
        counts[pair.variation_type] += 1
    return tuple(result)


def injection_fraction(pair: Pair, seed: int, fractions: Sequence[float] = FRACTIONS) -> float:
    """Return the one place in a pair's solution at which its context is switched.

    Returns one of the fractions. It depends on the seed and on the pair's own type and number
    alone, so that a problem never has two; every fraction comes once in as many successive pairs of
    a type as there are fractions.

    - `seed`: another seed deals otherwise.
    - `fractions`: distinct shares of the solution's length, each above 0 and below 1.

    Raises KvError where the fractions are none, repeated or out of range.
    """
    distinct = len({*fractions}) == len(fractions) > 0
    if not distinct or not all(0 < share < 1 for share in fractions):
        raise KvError(
            f"injection fractions {list(fractions)}: pass distinct shares between 0 and 1, such as "
            "0.25, 0.5 and 0.75."
        )
    block, place = divmod(pair.number, len(fractions))
    key = (str(seed), str(pair.variation_type), str(block))
    return sorted(fractions, key=lambda share: digest(*key, repr(share)))[place]
