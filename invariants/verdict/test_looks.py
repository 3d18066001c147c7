"""Looks: bounds that spend the error, intervals that repeat, and what an early stop costs."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as sps

from kvcore.errors import KvError
from kvcore.verdict import looks

FIVE = (0.2, 0.4, 0.6, 0.8, 1.0)
DESIGNS = (FIVE, (1.0,), (0.31, 0.45, 0.9, 1.0), (0.5, 1.0), tuple(k / 10 for k in range(1, 11)))
MARGIN, EFFECT_SD = 0.09, 1.0


@functools.cache
def motions(draws: int = 400_000) -> np.ndarray:
    """Return z values of five equal looks without any effect: draws x looks."""
    steps = np.random.default_rng(11).normal(size=(draws, 5)) * math.sqrt(0.2)
    return steps.cumsum(axis=1) / np.sqrt(FIVE)


def exit_probability(bounds: tuple[float, ...], fractions: tuple[float, ...]) -> float:
    """Return 1 - the mass of SciPy's multivariate normal between the bounds."""
    t = np.asarray(fractions)
    covariance = np.sqrt(np.minimum.outer(t, t) / np.maximum.outer(t, t))
    inside = sps.multivariate_normal(cov=covariance, allow_singular=True).cdf(
        np.asarray(bounds), lower_limit=-np.asarray(bounds), rng=np.random.default_rng(0)
    )
    return 1 - float(inside)


def test_five_equal_looks_have_the_published_bounds() -> None:
    """Catches another spending function, or one that spends the error of both sides on each."""
    assert looks.bounds(0.05, FIVE) == pytest.approx((4.877, 3.357, 2.680, 2.290, 2.031), abs=5e-4)


@pytest.mark.parametrize("fractions", DESIGNS, ids=str)
@pytest.mark.parametrize("error", [0.05, 0.01, 0.2])
def test_the_error_is_spent_and_no_more(error: float, fractions: tuple[float, ...]) -> None:
    """Catches a wrong integration.

    1. Bounds by recursive integration.
    2. What a multivariate normal distribution has beyond them.
    """
    exits = exit_probability(looks.bounds(error, fractions), fractions)
    assert exits == pytest.approx(error, abs=5e-4)


def test_a_motion_leaves_the_bounds_as_often_as_the_error_says() -> None:
    """Catches bounds that both routes would get wrong alike: a Brownian motion is drawn."""
    beyond = np.abs(motions()) > looks.bounds(0.05, FIVE)
    error = math.sqrt(0.05 * 0.95 / len(beyond))
    assert beyond.any(axis=1).mean() == pytest.approx(0.05, abs=3 * error)
    for k in range(2, 5):  # of look 1 not one draw is expected
        until = beyond[:, :k].any(axis=1).mean()
        spent = looks.spent(0.05, FIVE[k - 1])
        assert until == pytest.approx(spent, abs=3 * math.sqrt(spent / len(beyond)))


def test_looks_at_fixed_intervals_are_seen_to_err_more_often() -> None:
    """Twin: the test above sees bounds that take no account of the other looks."""
    beyond = np.abs(motions()) > sps.norm.isf(0.025)
    assert beyond.any(axis=1).mean() > 0.13


@given(
    st.floats(0.001, 0.3),
    st.lists(st.floats(0.02, 1), min_size=1, max_size=6).map(lambda x: np.cumsum(x) / sum(x)),
)
def test_bounds_fall_as_the_error_grows_and_widen_the_interval(
    error: float, cumulative: np.ndarray
) -> None:
    """Catches a bound below the fixed one, or one that rises with the error."""
    fractions = (*(float(t) for t in cumulative[:-1]), 1.0)
    bounds, wider = looks.bounds(error, fractions), looks.bounds(error / 2, fractions)
    assert all(a <= b for a, b in zip(bounds, wider, strict=True))  # equal where nothing is spent
    assert bounds[-1] < wider[-1]
    assert all(b >= sps.norm.isf(error / 2) - 1e-6 for b in bounds)


def test_one_look_is_the_fixed_design() -> None:
    """Catches a fixed design that looks change, by a rounding error even."""
    assert looks.repeated_level(0.95, (1.0,), 1) == 0.95
    assert looks.repeated_p(0.0123, (1.0,), 1) == 0.0123
    assert looks.bounds(0.05, (1.0,)) == (sps.norm.isf(0.025),)


@pytest.mark.parametrize("look", range(1, 6))
def test_a_repeated_level_has_the_bound_as_its_quantile(look: int) -> None:
    """Catches a level of one side taken for that of both."""
    level = looks.repeated_level(0.95, FIVE, look)
    assert sps.norm.isf((1 - level) / 2) == pytest.approx(looks.bounds(0.05, FIVE)[look - 1], 1e-6)


def test_later_looks_do_not_change_an_earlier_one() -> None:
    """Catches a bound that hangs on looks which may never be taken."""
    assert looks.repeated_level(0.95, FIVE, 2) == looks.repeated_level(0.95, (0.2, 0.4, 0.9, 1), 2)


@pytest.mark.parametrize("look", range(1, 6))
@pytest.mark.parametrize("error", [0.2, 0.05, 0.001])
def test_p_over_all_looks_is_half_the_error_whose_bound_is_touched(look: int, error: float) -> None:
    """Catches a p value that is not that of the interval.

    1. The bound of an error, and its tail.
    2. The p value of that tail, which must be half the error.
    """
    tail = float(sps.norm.sf(looks.bounds(error, FIVE)[look - 1]))
    assert looks.repeated_p(tail, FIVE, look) == pytest.approx(error / 2, rel=1e-4)
    assert looks.repeated_p(1 - tail, FIVE, look) == pytest.approx(1 - error / 2, rel=1e-4)


def false_rates(bounds: tuple[float, ...], truth: float, draws: int = 60_000) -> tuple[float, ...]:
    """Return how often `helps` is supported and refuted: n to settle 0.09 with power 0.8.

    The three-sided reading: supported above 0 or surely beyond the margin, refuted below the
    margin; the motion stops at the first look that decides.
    """
    n = (2.8 / MARGIN) ** 2
    errors = EFFECT_SD / np.sqrt(n * np.asarray(FIVE))
    estimates = truth + motions()[:draws] * errors
    low, high = estimates - bounds * errors, estimates + bounds * errors
    too_small = (low > -MARGIN) & (high < MARGIN)
    supported = (low > 0) & ~too_small
    refuted = too_small | (~supported & (high < MARGIN))
    first = (supported | refuted).argmax(axis=1)
    rows = np.arange(draws)
    return float(supported[rows, first].mean()), float(refuted[rows, first].mean())


def test_false_verdicts_stay_rare_over_five_looks() -> None:
    """Catches a rule that supports at a true 0, or refutes at the margin, above 3.3 %."""
    bounds = looks.bounds(0.05, FIVE)
    assert false_rates(bounds, 0.0)[0] <= 0.033
    assert false_rates(bounds, MARGIN)[1] <= 0.033


def test_five_looks_at_fixed_intervals_are_seen_to_be_wrong_more_often() -> None:
    """Twin: the test above sees looks that spend the whole error each time."""
    assert false_rates((1.96,) * 5, 0.0)[0] > 0.033
    assert false_rates((1.96,) * 5, MARGIN)[1] > 0.033


def test_predictive_power_is_how_often_the_limit_decides() -> None:
    """Catches a wrong variance of what is still to come.

    1. The function, of an estimate at a fraction of the limit.
    2. Drawn: a true value from the flat prior's posterior, then the rest of the samples.
    """
    rng, value, error, fraction, bound = np.random.default_rng(3), 0.07, 0.05, 0.4, 2.03
    truth = rng.normal(value, error, 200_000)
    rest = rng.normal(truth, error * math.sqrt(fraction / (1 - fraction)))
    end = fraction * value + (1 - fraction) * rest
    decided = np.mean(end - bound * error * math.sqrt(fraction) > 0)
    power = looks.predictive_power(lambda low, _: low > 0, value, error, fraction, bound)
    assert power == pytest.approx(decided, abs=0.01)


def test_predictive_power_at_the_limit_is_certain() -> None:
    """Catches a power that does not end in the verdict at the limit."""
    assert looks.predictive_power(lambda low, _: low > 0, 1.0, 0.1, 1.0, 2.0) == 1
    assert looks.predictive_power(lambda low, _: low > 0, 0.1, 0.1, 1.0, 2.0) == 0


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: looks.bounds(5, FIVE), r"error must be in \(0, 1\); got error=5"),
        (lambda: looks.repeated_level(95, FIVE, 1), r"confidence must be in \(0, 1\); got 95"),
        (lambda: looks.bounds(0.05, ()), "looks must be 1 to 10; got 0"),
        (lambda: looks.bounds(0.05, (0.5, 0.5)), "fractions must rise"),
        (lambda: looks.bounds(0.05, (0.5, 1.5)), "fractions must rise"),
        (lambda: looks.repeated_level(0.95, FIVE, 6), "look must be between 1 and 5; got look=6"),
        (lambda: looks.repeated_p(2, FIVE, 1), r"tail must be in \[0, 1\]; got tail=2"),
        (lambda: looks.predictive_power(lambda low, _: low > 0, 0, 1, 0, 2), "fraction must be in"),
    ],
    ids=["error", "level", "no look", "no step", "beyond the limit", "look", "tail", "fraction"],
)
def test_what_is_no_design_is_refused(call: object, line: str) -> None:
    """Catches a design taken as it is that spends no or too much error."""
    with pytest.raises(KvError, match=line):
        call()  # type: ignore[operator]
