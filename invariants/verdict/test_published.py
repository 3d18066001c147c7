"""Our values and published ones agree as often as their errors say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as sps

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
    assert verdict.consistent(near, Published(value, 100, "nll")) is True
    assert verdict.consistent(far, Published(value, 100, "nll")) is False


@pytest.mark.parametrize(
    ("estimate", "published"),
    [
        (interval(0, 1), None),
        (interval(0, 1), Published(0.3, 100, "nll", legacy=True)),
        (interval(0, 1), Published(0.3, None, "nll")),
        (interval(0, 1, unit="nats/token"), Published(0.3, 100, "nll")),
        (interval(-INF, INF), Published(0.3, 100, "nll")),
        (interval(0, 1, value=math.nan), Published(0.3, 100, "nll")),
    ],
    ids=["nothing", "legacy", "no-n", "no-error-known", "unbounded", "nan"],
)
def test_where_consistency_has_no_answer_it_gives_none(
    estimate: Estimate, published: Published | None
) -> None:
    """Agreement stated where nothing is known."""
    assert verdict.consistent(estimate, published) is None
