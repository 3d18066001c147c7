"""Our values and published ones agree as often as their errors say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as sps

from invariants.support.comparing import must_see, replaced
from invariants.support.intervals import FALSE_ALARM
from invariants.support.verdicts import interval, noise_estimates
from kvcore import verdict
from kvcore.analysis import Estimate
from kvcore.verdict import Published, published

INF = math.inf


def check_consistency() -> None:
    """Two honest measurements of one d agree in 95 % of draws; of two d, rarely."""
    rng = np.random.default_rng(8)
    theirs = []
    for _ in range(400):
        x = 0.3 + rng.normal(size=40)
        theirs.append(float(x.mean() / x.std(ddof=1)))
    ours = noise_estimates(0.3)
    agree = [
        verdict.consistent(e, Published(d, 40, "nll")) for e, d in zip(ours, theirs, strict=True)
    ]
    assert sps.binomtest(agree.count(True), 400, 0.925, alternative="less").pvalue > FALSE_ALARM
    assert sps.binomtest(agree.count(True), 400, 0.975, alternative="greater").pvalue > FALSE_ALARM
    apart = [
        verdict.consistent(e, Published(d + 1.0, 40, "nll"))
        for e, d in zip(ours, theirs, strict=True)
    ]
    assert apart.count(True) < 20


def test_consistency_with_published_values_has_its_error_rate() -> None:
    """Agreement stated more, or less, often than two honest measurements agree."""
    check_consistency()


def test_twin_consistency_sees_the_published_error_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A check of agreement that forgetting the published error passes."""
    monkeypatch.setattr(published, "published_error", lambda *_: 0.0)
    with pytest.raises(AssertionError):
        check_consistency()


@pytest.mark.parametrize(
    ("unit", "value", "error"),
    [
        ("d", 0.4, math.sqrt(0.01 + 0.16 / 200)),
        ("r", 0.5, 0.75 / math.sqrt(99)),
        ("proportion", 0.6, math.sqrt(0.0024)),
    ],
)
def test_the_published_error_follows_from_its_n(unit: str, value: float, error: float) -> None:
    """Another error of a published value than its n gives."""
    near, far = (
        interval(
            value + k * sps.norm.ppf(0.975) * error,
            value + k * sps.norm.ppf(0.975) * error,
            unit=unit,
        )
        for k in (0.999, 1.001)
    )
    assert verdict.consistent(near, Published(value, 100, "nll", unit=unit)) is True
    assert verdict.consistent(far, Published(value, 100, "nll", unit=unit)) is False


@pytest.mark.parametrize(
    ("estimate", "published"),
    [
        (interval(0, 1), None),
        (interval(0, 1), Published(0.3, 100, "nll", legacy=True)),
        (interval(0, 1), Published(0.3, None, "nll")),
        (interval(0, 1, unit="nats/token"), Published(0.3, 100, "nll")),
        (interval(0, 1, unit="r"), Published(0.3, 100, "nll")),
        (interval(-INF, INF), Published(0.3, 100, "nll")),
        (interval(0, 1, value=math.nan), Published(0.3, 100, "nll")),
    ],
    ids=["nothing", "legacy", "no-n", "no-error-known", "other-unit", "unbounded", "nan"],
)
def test_where_consistency_has_no_answer_it_gives_none(
    estimate: Estimate, published: Published | None
) -> None:
    """Agreement stated where nothing is known."""
    assert verdict.consistent(estimate, published) is None
    assert verdict.difference_from_published(estimate, published) is None


def check_difference() -> None:
    made = verdict.difference_from_published(interval(0.2, 0.4), Published(0.5, 100, "nll"))
    assert made is not None
    theirs = 1.96 * math.sqrt(0.01 + 0.25 / 200)
    reach = math.hypot(0.1, theirs)
    expected = (-0.2, -0.2 - reach, -0.2 + reach)
    assert (made.value, made.low, made.high) == pytest.approx(expected, abs=1e-4)


def test_the_difference_is_ours_less_the_published() -> None:
    """A difference of the wrong sign, or whose interval leaves out one of the two errors."""
    check_difference()


def test_twin_the_difference_leaves_an_error_out() -> None:
    """The published value taken as exact is seen."""
    must_see(replaced(published, "published_error", lambda *_: 0.0), check_difference)


def check_hanley_mcneil() -> None:
    rng = np.random.default_rng(3)
    relevant, other = rng.exponential(1.5, (4000, 40)), rng.exponential(1.0, (4000, 60))
    areas = [float((a[:, None] > b).mean()) for a, b in zip(relevant, other, strict=True)]
    ours = published.published_error("AUC", float(np.mean(areas)), 100, 40, 60)
    assert ours == pytest.approx(np.std(areas), rel=0.05)


def test_hanley_and_mcneil() -> None:
    """An error of an AUC that is not the one its passages leave.

    1. Hanley and McNeil's formula, exact for exponential scores; 2. areas drawn 4,000 times.
    """
    check_hanley_mcneil()


def test_twin_hanley_and_mcneil() -> None:
    """An error of a share of as many passages is seen."""
    change = replaced(
        published,
        "hanley_mcneil",
        lambda _real, auc, relevant, other: math.sqrt(auc * (1 - auc) / (relevant + other)),
    )
    must_see(change, check_hanley_mcneil)


def test_an_auc_needs_both_counts_and_an_mrr_has_no_error() -> None:
    """An error stated that n does not tell."""
    assert published.published_error("AUC", 0.7, 100) is None
    assert published.published_error("AUC", 0.7, 100, 40) is None
    assert published.published_error("MRR", 0.7, 100, 40, 60) is None
    assert published.published_error("AUC", 1.0, 100, 40, 60) == 0
