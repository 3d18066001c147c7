"""The smallest of several ways of measuring: its errors, and whose ends it has."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as sps

from invariants.support.comparing import Fault, must_see, replaced
from invariants.support.intervals import FALSE_ALARM, FloatArray, numbers
from kvcore.analysis import Estimate, IntervalSettings, effect_size, intersection_union
from kvcore.analysis.intersection_union import Smallest, Way
from kvcore.errors import KvError

WAYS, DELTA, DRAWS = 13, 0.09, 200
ALLOWED = 0.033  # of false refutations; nominal are 2.5 % at most


def measured(columns: FloatArray) -> dict[str, Way]:
    """Return one way of measuring for each column of (samples, ways)."""
    return {
        f"way {i}": functools.partial(effect_size, column, None)
        for i, column in enumerate(columns.T)
    }


def times_refuted(true: FloatArray, draws: int = DRAWS) -> int:
    """Count draws in which ways of these true d, alike to a half, lie below delta surely."""
    rng = np.random.default_rng(9)
    refuted = 0
    for _ in range(draws):
        shared = rng.normal(size=(100, 1))
        noise = math.sqrt(0.5) * (shared + rng.normal(size=(100, true.size)))
        made = intersection_union.smallest(measured(true + noise), IntervalSettings())
        refuted += made.estimate.ci_high < DELTA
    return refuted


def check_refutations() -> None:
    refuted = times_refuted(np.full(WAYS, DELTA))
    assert sps.binomtest(refuted, DRAWS, ALLOWED, alternative="greater").pvalue > FALSE_ALARM
    some_harm = times_refuted(np.r_[-0.6, np.full(WAYS - 1, 0.6)], 20)
    assert some_harm > 18


def test_refutations() -> None:
    """Many ways, all of them at the margin, refuted more often than one way would be.

    One way that surely lies below it refutes all the same.
    """
    check_refutations()


def least_alone(real: object, ways: Mapping[str, Way], interval: IntervalSettings) -> Smallest:
    """The smallest value with its own interval, as though it had not been chosen."""
    assert callable(real)
    made: Smallest = real(ways, interval)
    return replace(made, estimate=made.ways[made.least])


def test_twin_refutations() -> None:
    """The smallest way's own interval, which refutes in one draw of five or six, is seen."""
    must_see(replaced(intersection_union, "smallest", least_alone), check_refutations)


def fixed(value: float, low: float, high: float) -> Way:
    """Return a way whose interval is known, as far above its end as the level is below one."""

    def way(interval: IntervalSettings) -> Estimate:
        further = 0.0 if interval.confidence == 0.95 else 0.01
        ends = (low - further, high + further, interval.confidence)
        return Estimate(value, *ends, "made up", 90, 30, "d")

    return way


def check_ends() -> None:
    ways = {"a": fixed(0.2, 0.15, 0.6), "b": fixed(0.3, 0.1, 0.5), "c": fixed(0.4, 0.3, 0.55)}
    made = intersection_union.smallest(ways, IntervalSettings())
    assert numbers(made.estimate) == [0.2, 0.1, 0.51]
    assert made.least == "a"
    assert made.estimate.confidence == 0.95
    assert "of 3 ways" in made.estimate.method
    assert numbers(made.ways["c"]) == [0.4, 0.3, 0.55]
    unknown = {"none": fixed(math.nan, -math.inf, math.inf), **ways}
    made = intersection_union.smallest(unknown, IntervalSettings())
    assert numbers(made.estimate) == [0.2, -math.inf, 0.51]


def test_ends() -> None:
    """A lower end that is corrected, or an upper end that is not; a way without value left out."""
    check_ends()


ENDS: dict[str, Fault] = {
    "own interval": replaced(intersection_union, "smallest", least_alone),
    "lower end corrected": replaced(
        intersection_union,
        "smallest",
        lambda real, ways, settings: (
            lambda made: replace(
                made, estimate=replace(made.estimate, ci_low=made.estimate.ci_low - 0.01)
            )
        )(real(ways, settings)),
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_twin_ends(name: str) -> None:
    """A check of the ends that each of these faults passes."""
    must_see(ENDS[name], check_ends)


def test_no_way() -> None:
    """A smallest of nothing."""
    with pytest.raises(KvError, match="one way of measuring or more; got none"):
        intersection_union.smallest({}, IntervalSettings())


def test_the_other_interval_is_that_of_the_ways_that_set_the_ends() -> None:
    """A bootstrap beside the ends of another way, or at a level that is not corrected."""
    rng = np.random.default_rng(2)
    ways = measured(rng.normal((0.0, 0.5, 1.0), size=(60, 3)))
    settings = IntervalSettings(resamples=200, beside=True)
    made = intersection_union.smallest(ways, settings).estimate
    wide = replace(settings, confidence=1 - 0.05 / 3)
    lower, upper = ways["way 0"](settings).beside, ways["way 0"](wide).beside
    assert made.beside is not None
    assert lower is not None
    assert upper is not None
    assert (made.beside.low, made.beside.high) == (lower.low, upper.high)
    assert made.se is None
    assert made.informative == 60
