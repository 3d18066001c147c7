"""Correlations are SciPy's, and Oldham's is free of arithmetic coupling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats as sps

from invariants.support.intervals import FAST, numbers
from invariants.support.paired_samples import paired_samples
from kvcore import analysis
from kvcore.analysis import Estimate, IntervalSettings, correlations
from kvcore.errors import KvError

PAIR = IntervalSettings(resamples=2)


def test_correlations_and_proportions_are_scipys() -> None:
    """A coefficient or an exact interval computed another way than it says.

    1. ours; 2. NumPy's corrcoef of values and of pandas' ranks, SciPy's binomtest.
    """
    base, cond, _ = paired_samples(4)
    pearson = analysis.correlation(base, cond, interval=FAST)
    assert pearson.value == pytest.approx(np.corrcoef(base, cond)[0, 1])
    exact = sps.binomtest(7, 20).proportion_ci(0.9)
    assert numbers(analysis.proportion(7, 20, 0.9)) == [0.35, exact.low, exact.high]


def mean_correlations(draws: int = 100, n: int = 100) -> dict[str, float]:
    """Average correlations with a condition that changes nothing but noise."""
    rng = np.random.default_rng(2)
    values: dict[str, list[float]] = {"naive": [], "oldham": [], "independent": []}
    for _ in range(draws):
        hardness, e1, e2, e3 = rng.normal(size=(4, n))
        base, cond = hardness + 0.5 * e1, hardness + 0.5 * e2
        naive = correlations.correlation(base, base - cond, interval=PAIR)
        alone = correlations.correlation(hardness + 0.5 * e3, base - cond, interval=PAIR)
        values["naive"].append(naive.value)
        values["oldham"].append(correlations.oldham(base, cond, interval=PAIR).value)
        values["independent"].append(alone.value)
    return {name: float(np.mean(each)) for name, each in values.items()}


def check_uncoupled() -> None:
    means = mean_correlations()
    error = 1 / math.sqrt(100 * 100)
    assert means["naive"] > 0.2
    assert abs(means["oldham"]) < 4 * error
    assert abs(means["independent"]) < 4 * error


def test_oldham_is_free_of_the_coupling_that_the_naive_correlation_has() -> None:
    """A trend with hardness that is positive by arithmetic alone."""
    check_uncoupled()


def test_twin_uncoupled_sees_the_baseline_used_as_hardness(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A check of coupling that a correlation with the baseline passes."""
    right = correlations.correlation

    def coupled(x: Any, y: Any, *args: Any, **options: Any) -> Estimate:
        return right(x, y + x / 2, *args, **options)

    monkeypatch.setattr(correlations, "correlation", coupled)
    with pytest.raises(AssertionError):
        check_uncoupled()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: analysis.proportion(3, 2), "got successes=3 of n=2"),
        (lambda: analysis.proportion(1, 2, 95), r"confidence must be in \(0, 1\); got 95"),
        (lambda: analysis.clustered_proportion([0.5], None), "outcomes must be 0 or 1"),
    ],
)
def test_bad_input_is_one_clear_line(call: Callable[[], object], message: str) -> None:
    """Bad input that is computed with, or an error that does not say what was passed."""
    with pytest.raises(KvError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
