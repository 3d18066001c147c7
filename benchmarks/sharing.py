"""The same scores three ways: prefills shared, one condition at a time, one score at a time."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks import timing
from benchmarks.contenders import Contender, Sums
from kvcore.conditions import parse
from kvcore.data.sample import Sample
from kvcore.engine import prepared
from kvcore.errors import KvError
from kvcore.measurements import answer_nll
from kvcore.measurements.answer_nll import Route
from kvcore.models.lm import LM
from kvcore.tokenization import Unusable


@dataclass(frozen=True)
class Asked:
    """Scores that are wanted: every sample, target and condition of three lists."""

    samples: tuple[Sample, ...]
    conditions: tuple[str, ...]
    targets: tuple[str, ...] = ("answer",)
    seed: int = 0

    def by_condition(self) -> list[Asked]:
        """Return one list of samples for each condition and target."""
        return [
            replace(self, conditions=(c,), targets=(t,))
            for t in self.targets
            for c in self.conditions
        ]

    def one_by_one(self) -> list[Asked]:
        """Return every score on its own."""
        return [
            replace(one, samples=(sample,))
            for sample in self.samples
            for one in self.by_condition()
        ]


@dataclass(frozen=True)
class Expected:
    """A figure and the bound that it was expected to keep, written down before measuring."""

    name: str
    measured: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the figure keeps its bound."""
        return (self.at_least is None or self.measured >= self.at_least) and (
            self.at_most is None or self.measured <= self.at_most
        )

    def __str__(self) -> str:
        """Say what was measured, what was expected and whether it holds."""
        bound = (
            f"at least {self.at_least:g}"
            if self.at_least is not None
            else f"at most {self.at_most:g}"
        )
        told = "holds" if self.holds else "DOES NOT HOLD"
        return f"{self.name}: {self.measured:.3g}, expected {bound}: {told}"


def contender(lm: LM, parts: Sequence[Asked], route: Route = "auto") -> Contender:
    """Prepare one call of the engine per part; scores are in nats per answer token.

    What cannot be measured has no score; `same` sees to it that all contenders agree on that.
    """

    def run() -> Sums:
        return {key: nll for part in parts for key, nll in _scores(lm, part, route).items()}

    return run


def largest_difference(one: Mapping[Any, float], other: Mapping[Any, float]) -> float:
    """Return the largest difference of two contenders' scores, in nats per answer token.

    Raises
    ------
    KvError
        If one of them has scored what the other has not, or nothing is scored.
    """
    if one.keys() != other.keys() or not one:
        raise KvError(
            f"benchmarks: {len(one)} scores against {len(other)}, and not of the same "
            "samples; take other samples (--seed)."
        )
    return max(abs(one[key] - other[key]) for key in one)


def tokens_run(lm: LM, asked: Asked) -> tuple[int, int]:
    """Return how many tokens the model reads where equal prefills are run once, and where none is.

    Padding is left out, and so is what a pass costs beside its tokens.
    """
    prefills: set[tuple[bool, tuple[int, ...]]] = set()
    read = apart = 0
    for part in asked.one_by_one():
        given = parse.condition(part.conditions[0])
        try:
            one = prepared.prepare_one(lm, part.samples[0], given, part.seed, part.targets[0])
        except Unusable:
            continue
        leaves = [(leaf.isolated, one.prefill_ids(leaf, lm.bos_id)) for leaf in given.prefills()]
        prefills.update(leaves)
        read += len(one.query_ids())
        apart += sum(len(ids) for _, ids in leaves)
    return read + sum(len(ids) for _, ids in prefills), read + apart


def seconds_of(done: Sequence[timing.Round], names: Sequence[str]) -> dict[str, list[float]]:
    """Return the seconds of every round for each contender."""
    return {name: [r.seconds[name] for r in done] for name in names}


def matrix_rate(done: Sequence[timing.Round]) -> float:
    """Return the machine's median matrix rate beside the contenders, in GFLOP/s."""
    return statistics.median(x for r in done for x in r.rates.values()) / 1e9


def show(
    title: str,
    seconds: Mapping[str, Sequence[float]],
    expected: Sequence[Expected],
    further: Callable[[str], str] = lambda _: "",
) -> None:
    """Print a part's figures, one contender a line."""
    print(title)
    for name, taken in seconds.items():
        print(f"  {name:<44}{statistics.median(taken):9.2f} s{further(name)}")
    for one in expected:
        print(f"  {one}")


def as_data(expected: Sequence[Expected]) -> list[dict[str, Any]]:
    """Return expectations and what came of them, as they are written to a file."""
    return [asdict(one) | {"holds": one.holds} for one in expected]


def _scores(lm: LM, asked: Asked, route: Route) -> Sums:
    rows = answer_nll.score(
        lm, asked.samples, asked.conditions, targets=asked.targets, seed=asked.seed, route=route
    )
    return {
        (row.sample_id, row.condition, row.target): float(row.nll)
        for row in rows[rows.status == "ok"].itertuples(index=False)
    }
