"""Effects over models: spread, differences, and what is expected of one more model."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import optimize
from scipy import stats as sps
from statsmodels.stats import meta_analysis

from invariants.support.comparing import must_see, replaced
from invariants.support.intervals import FALSE_ALARM, numbers
from kvcore.analysis import Estimate, over_models
from kvcore.errors import KvError

Z = float(sps.norm.ppf(0.975))


def effect(value: float, error: float, unit: str = "d") -> Estimate:
    """Return an estimate with a normal interval."""
    ends = (value - Z * error, value + Z * error)
    return Estimate(value, *ends, 0.95, "made up", 100, 50, unit)


def effects(values: np.ndarray, errors: np.ndarray) -> list[Estimate]:
    return [effect(float(v), float(e)) for v, e in zip(values, errors, strict=True)]


def tau_squared(values: np.ndarray, errors: np.ndarray) -> float:
    """Solve Paule and Mandel's equation: the weighted squares sum to k - 1."""

    def excess(tau2: float) -> float:
        w = 1 / (errors**2 + tau2)
        return float(w @ (values - w @ values / w.sum()) ** 2) - (values.size - 1)

    return 0.0 if excess(0) <= 0 else float(optimize.brentq(excess, 0, 1e3, xtol=1e-14))


def check_pooling() -> None:
    rng = np.random.default_rng(4)
    for k in (2, 3, 5, 8) * 5:
        errors = rng.uniform(0.02, 0.2, k)
        values = (
            0.3 + rng.normal(size=k) * rng.choice([0.0, 0.05, 0.4]) + errors * rng.normal(size=k)
        )
        made = effects(values, errors)
        spread = over_models.heterogeneity(made)
        assert spread is not None
        w = errors**-2
        q = float(w @ (values - w @ values / w.sum()) ** 2)
        assert spread.q == pytest.approx(q)
        assert spread.df == k - 1
        assert spread.p == pytest.approx(float(sps.chi2.sf(q, k - 1)))
        tau2 = tau_squared(values, errors)
        assert spread.tau == pytest.approx(math.sqrt(tau2), rel=1e-4, abs=1e-9)
        pooled = over_models.pooled(made)
        assert (pooled is None) == (k < 5)
        if pooled is None:
            continue
        w = 1 / (errors**2 + tau2)
        mean = w @ values / w.sum()
        scale = max(1.0, float(w @ (values - mean) ** 2) / (k - 1))
        error = math.sqrt(scale / w.sum())
        half = sps.t.ppf(0.975, k - 1) * error
        assert numbers(pooled.mean) == pytest.approx([mean, mean - half, mean + half], rel=1e-4)
        reach = sps.t.ppf(0.975, k - 2) * math.sqrt(tau2 + error**2)
        assert (pooled.low, pooled.high) == pytest.approx((mean - reach, mean + reach), rel=1e-4)


def test_pooling() -> None:
    """Another spread, mean or prediction interval than the textbook's, or a pool of four.

    1. `over_models`, which stands on statsmodels; 2. Cochran's Q, Paule and Mandel's equation
    solved by bisection, Hartung and Knapp's error and Higgins' prediction interval, written out.
    """
    check_pooling()


TWINS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "pool-of-four": lambda patch: patch.setattr(over_models, "MIN_MODELS", 2),
    "errors-twice": replaced(
        over_models, "standard_error", lambda real, estimate: 2 * real(estimate)
    ),
    "one-step-tau": replaced(
        meta_analysis,
        "combine_effects",
        lambda real, *effects, **how: real(*effects, **how | {"maxiter": 1}),
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_twin_pooling(name: str) -> None:
    """A check of pooling that each of these faults passes."""
    must_see(TWINS[name], check_pooling)


def check_prediction() -> None:
    rng = np.random.default_rng(6)
    k, held = 6, 0
    for _ in range(400):
        errors = rng.uniform(0.03, 0.06, k)
        truth = rng.normal(0.2, 0.2, k + 1)
        pooled = over_models.pooled(effects(truth[:k] + errors * rng.normal(size=k), errors))
        assert pooled is not None
        held += pooled.low <= truth[k] <= pooled.high
    assert sps.binomtest(held, 400, 0.93, alternative="less").pvalue > FALSE_ALARM
    assert sps.binomtest(held, 400, 0.97, alternative="greater").pvalue > FALSE_ALARM


def test_prediction() -> None:
    """A prediction interval that does not hold the effect on one more model as often as it says."""
    check_prediction()


def test_twin_prediction() -> None:
    """The mean's interval in place of the next model's is seen."""

    def of_the_mean(real: Callable[..., over_models.Pooled], *given: object) -> over_models.Pooled:
        made = real(*given)
        return replace(made, low=made.mean.ci_low, high=made.mean.ci_high)

    must_see(replaced(over_models, "pooled", of_the_mean), check_prediction)


def check_difference() -> None:
    made = over_models.difference(effect(0.1, 0.03), effect(0.5, 0.04))
    assert numbers(made) == pytest.approx([0.4, 0.4 - Z * 0.05, 0.4 + Z * 0.05])
    assert made.unit == "d difference"
    unknown = replace(effect(0.1, 0.03), ci_low=-math.inf, ci_high=math.inf)
    assert numbers(over_models.difference(unknown, effect(0, 1)))[1:] == [-math.inf, math.inf]


def test_difference() -> None:
    """A difference of the wrong sign, or whose error is one side's alone."""
    check_difference()


def test_twin_difference() -> None:
    """Sides exchanged are seen."""
    must_see(replaced(over_models, "difference", lambda real, a, b: real(b, a)), check_difference)


def test_what_has_no_error_is_left_out() -> None:
    """An effect of infinite or no width that weighs everything or nothing."""
    exact, open_ = effect(0.2, 0.0), replace(effect(0.2, 0.1), ci_low=-math.inf)
    assert over_models.heterogeneity([exact, open_, effect(0.1, 0.1)]) is None
    assert over_models.pooled([exact] * 9) is None
    two = [effect(0.1, 0.1), effect(0.4, 0.1)]
    assert over_models.heterogeneity([exact, *two]) == over_models.heterogeneity(two)


def test_units_are_one() -> None:
    """An effect in d compared with one in nats."""
    mixed = [effect(0.1, 0.1), effect(0.1, 0.1, "r")]
    for call in (
        lambda: over_models.heterogeneity(mixed),
        lambda: over_models.pooled(mixed),
        lambda: over_models.difference(*mixed),
    ):
        with pytest.raises(KvError, match=r"must have one unit; got \['d', 'r'\]"):
            call()


def check_equal_effects() -> None:
    try:
        spread = over_models.heterogeneity([effect(0.0, 0.1), effect(0.0, 0.1)])
    except RuntimeWarning as warned:  # every warning of a test is an error
        raise AssertionError("a warning where effects are equal") from warned
    assert spread is not None
    assert (spread.tau, spread.df) == (0.0, 1)
    assert spread.q == pytest.approx(0.0, abs=1e-12)
    assert spread.p == pytest.approx(1.0)


def test_equal_effects_do_not_differ() -> None:
    """Catches a warning of a division, or another answer than none, where effects are equal."""
    check_equal_effects()


def test_equal_effects_twin() -> None:
    """The division by Q = 0 in statsmodels is seen where nothing holds its warning."""
    must_see(
        lambda patch: patch.setattr(np, "errstate", lambda **_: contextlib.nullcontext()),
        check_equal_effects,
    )
