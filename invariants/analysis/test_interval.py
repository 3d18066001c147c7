"""Interval settings are checked, and any statistic of counts is resampled as the samples are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invariants.support.intervals import BOOTSTRAP, FAST, numbers
from invariants.support.paired_samples import paired_samples
from kvcore import analysis
from kvcore.analysis import IntervalSettings, bootstrap, interval
from kvcore.errors import KvError


def check_resampled(seed: int) -> None:
    """A mean, by either method.

    1. as a statistic of counts; 2. as `mean_difference`.
    """
    base, cond, labels = paired_samples(seed)
    x = base - cond
    number = np.unique(labels.astype(str), return_inverse=True)[1]
    sums, sizes = np.bincount(number, x), np.bincount(number)
    for chosen in (FAST, BOOTSTRAP):
        ours = analysis.resampled(
            lambda c: np.asarray((c @ sums) / (c @ sizes)), labels, chosen, unit="nats/token"
        )
        mean = analysis.mean_difference(x, labels, chosen)
        assert numbers(ours) == pytest.approx(numbers(mean), rel=1e-9)
        assert (ours.n, ours.clusters, ours.method) == (mean.n, mean.clusters, mean.method)
        assert (ours.se, ours.effective) == pytest.approx((mean.se, mean.effective), rel=1e-7)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_statistic_of_counts_is_resampled_as_the_samples_are(seed: int) -> None:
    """Counts that do not say how often each cluster was drawn."""
    check_resampled(seed)


def test_twin_resampled_sees_repeated_draws_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of counts that a cluster counted once at most passes."""
    right = bootstrap.of_sums

    def once(sums: Any, statistic: Any) -> Any:
        return lambda counts: right(sums, statistic)(np.minimum(counts, 1))

    monkeypatch.setattr(interval, "of_sums", once)
    with pytest.raises(AssertionError):
        check_resampled(1)


def test_a_statistic_of_nothing_or_of_one_cluster_bounds_nothing() -> None:
    """A finite interval where nothing, or one unit, was measured."""

    def undefined(counts: Any) -> Any:
        return 0 * counts.sum(axis=-1) / 0

    nothing: list[str] = []
    for labels, n in ((nothing, 0), (["a", "a"], 2)):
        e = analysis.resampled(undefined, labels, unit="AUC", bounds=(0, 1))
        assert (math.isnan(e.value), e.ci_low, e.ci_high) == (True, 0, 1)
        assert e.n == n
    same = analysis.resampled(
        lambda c: 0 * c.sum(axis=-1) + 0.5, [1, 2, 3], IntervalSettings(resamples=9), unit="AUC"
    )
    assert numbers(same) == [0.5, 0.5, 0.5]
    with pytest.raises(KvError, match=r"clusters\[1\] must be a label"):
        analysis.resampled(lambda c: c.sum(axis=-1), np.array(["a", None]), unit="AUC")


def test_where_bca_is_undefined_the_interval_is_a_percentile_one_and_says_so() -> None:
    """NaN where BCa divides by the spread that leaving one unit out causes, which is none."""
    x = np.arange(30.0)
    e = analysis.correlation(x, 2 * x + 1, interval=BOOTSTRAP)
    assert numbers(e) == pytest.approx([1.0, 1.0, 1.0])
    first, second = np.zeros(400), np.zeros(400)
    first[0] = second[1] = 1.0
    odd = analysis.mean_difference(np.r_[first, second], np.repeat([0, 1], 400), BOOTSTRAP)
    assert odd.method.startswith("percentile bootstrap (BCa undefined) over 2 clusters")
    assert [odd.ci_low, odd.ci_high] == pytest.approx([odd.value] * 2, rel=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: IntervalSettings(95), r"confidence must be in \(0, 1\); got 95"),
        (lambda: IntervalSettings(0.0), r"confidence must be in \(0, 1\); got 0"),
        (lambda: IntervalSettings(math.nan), r"confidence must be in \(0, 1\); got nan"),
        (lambda: IntervalSettings(seed=-1), "seed must be 0 or more; got -1"),
        (lambda: IntervalSettings(resamples=1), "resamples must be at least 2; got 1"),
        (
            lambda: IntervalSettings(method="BCa"),  # type: ignore[arg-type]
            "method must be one of jackknife, bca; got 'BCa'",
        ),
    ],
)
def test_settings_out_of_range_are_refused(call: Callable[[], object], message: str) -> None:
    """A percentage for a level, or too few resamples, computed with as they are."""
    with pytest.raises(KvError, match=message):
        call()
