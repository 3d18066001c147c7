"""What is said to settle a claim settles it, as often as it is said to.

Each property is a check; its twin breaks the production function and must see the check fail.
Simulations are seeded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats as sps

from invariants.support.intervals import clustered_noise
from invariants.support.verdicts import PREDICTIONS, interval, measured, name_of
from kvcore import verdict
from kvcore.analysis import FloatArray, correlation, effect_size
from kvcore.errors import KvError
from kvcore.verdict import (
    Prediction,
    at_least,
    at_most,
    differs,
    does_not_help,
    helps,
    hurts,
    negligible,
    planning,
)

INF = math.inf
quick = settings(max_examples=60, deadline=None)
Noise = Callable[[np.random.Generator, int], tuple[FloatArray, NDArray[np.intp]]]


# --- power ---------------------------------------------------------------------------------------


def plain_noise(rng: np.random.Generator, n: int) -> tuple[FloatArray, NDArray[np.intp]]:
    return rng.normal(size=n), np.arange(n)


def grouped_noise(rng: np.random.Generator, n: int) -> tuple[FloatArray, NDArray[np.intp]]:
    """Unit-variance noise in clusters of four with half the variance shared, and the labels."""
    k = math.ceil(n / 4)
    return clustered_noise(rng, k, 4, 0.5), np.repeat(np.arange(k), 4)


# prediction, noise, verdict that is right for the effect
POWER_CASES: dict[str, tuple[Prediction, Noise, str]] = {
    "helps": (helps(0.3), plain_noise, "supported"),
    "helps-clustered": (helps(0.3), grouped_noise, "supported"),
    "hurts": (hurts(0.1, effect=-0.3), plain_noise, "supported"),
    "does-not-help": (does_not_help(0.3), plain_noise, "supported"),
    "negligible": (negligible(0.3), plain_noise, "supported"),
    "negligible-clustered": (negligible(0.4), grouped_noise, "supported"),
    "differs": (differs(0.2, effect=-0.3), plain_noise, "supported"),
    "at-most": (at_most(0.3, effect=0.0), plain_noise, "supported"),
    "refuted-helps": (helps(0.3, effect=-0.05), plain_noise, "refuted"),
    "refuted-does-not-help": (does_not_help(0.1, effect=0.4), grouped_noise, "refuted"),
}
PILOT = 4000


def advised(prediction: Prediction, noise: Noise, n: int = 40) -> int:
    """The n advised by a sample of 40 with the precision per sample of a large one."""
    x, labels = noise(np.random.default_rng(21), PILOT)
    assert prediction.effect is not None
    large = effect_size(x - x.mean() + prediction.effect * x.std(ddof=1), labels)
    assert large.se is not None
    clusters = round(n * large.clusters / large.n)
    small = measured(large.value, large.se * math.sqrt(PILOT / n), n, clusters)
    # Known as precisely as the large one: no limit is to be added to it.
    planned = verdict.plan(replace(small, df=1e9), prediction).n
    assert planned is not None
    return planned


def check_power(name: str, draws: int = 300) -> None:
    """At the n advised the right verdict comes in 80 % of draws (-5, +8; the error is 2.3)."""
    prediction, noise, right = POWER_CASES[name]
    n = advised(prediction, noise)
    rng = np.random.default_rng(3)
    count = 0
    for _ in range(draws):
        x, labels = noise(rng, n)
        assert prediction.effect is not None
        count += (
            verdict.judge(effect_size(x + prediction.effect, labels), prediction).verdict == right
        )
    assert 0.75 <= count / draws <= 0.88, f"{right} in {count} of {draws} at n = {n}"


@pytest.mark.parametrize("name", POWER_CASES)
def test_at_the_n_advised_four_in_five_runs_settle_the_claim(name: str) -> None:
    """An n that settles the claim more, or less, often than it says; clusters forgotten."""
    check_power(name)


@pytest.mark.parametrize("factor", [0.75, 1.3], ids=["too-few", "too-many"])
def test_twin_power_sees_a_wrong_n(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of power that about half or nearly twice the samples pass."""
    right = planning.standard_error
    monkeypatch.setattr(planning, "standard_error", lambda estimate: factor * right(estimate))
    with pytest.raises(AssertionError, match="supported in"):
        check_power("helps")


def test_twin_power_sees_clusters_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of power that the precision of independent samples passes."""
    monkeypatch.setattr(planning, "standard_error", lambda estimate: 1 / math.sqrt(estimate.n))
    with pytest.raises(AssertionError, match="supported in"):
        check_power("helps-clustered")


# --- the formula ---------------------------------------------------------------------------------


def needed(per_sample: float, room: float, z_power: float, least: int = 20) -> int:
    """The textbook: smallest n with room >= (t(n - 1) + z) per_sample / sqrt(n), one by one."""
    n = least
    while room < (sps.t(n - 1).isf(0.025) + z_power) * per_sample / math.sqrt(n):
        n += 1
    return n


def check_formula() -> None:
    estimate = measured(0.05, 0.15, n=50)
    # Three in four pilots of 49 degrees of freedom have a larger variance than this share of it.
    per_sample = 0.15 * math.sqrt(50) * math.sqrt(49 / sps.gamma.isf(0.75, 24.5, scale=2))
    for power in (0.5, 0.8, 0.95):
        z = float(sps.norm.ppf(power))
        for prediction, room in (
            (at_least(0.0, effect=0.2), 0.2),
            (at_most(0.3, effect=0.1), 0.2),
            (at_least(0.3, effect=0.1), 0.2),
            (helps(0.1, effect=0.25), 0.25),
            (hurts(0.09, effect=-0.2), 0.2),
            (does_not_help(0.2), 0.2),
        ):
            planned = verdict.plan(estimate, prediction, power)
            assert planned.n == needed(per_sample, room, z), prediction.name
    both = float(sps.norm.ppf(0.9))
    assert verdict.plan(estimate, negligible(0.2)).n == needed(per_sample, 0.2, both)
    large = (sps.norm.ppf(0.975) + sps.norm.ppf(0.8)) * per_sample / 0.05
    advised_n = verdict.plan(estimate, at_least(0.0, effect=0.05)).n
    assert advised_n == pytest.approx(large**2, rel=2e-3)


def test_the_n_of_a_one_sided_claim_is_the_textbook_formula() -> None:
    """Another power or level than asked for.

    1. ours; 2. the textbook formula with t, n by n; for large n with the normal distribution.
    """
    check_formula()


@pytest.mark.parametrize(("name", "factor"), [("standard_error", 1.02), ("settling", 1.02)])
def test_twin_formula_sees_another_error_or_power(
    name: str, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison with the textbook that another precision or power passes."""
    right = getattr(planning, name)
    monkeypatch.setattr(planning, name, lambda *args: factor * right(*args))
    with pytest.raises(AssertionError):
        check_formula()


def check_n_counts() -> None:
    wide = measured(0.1, 0.05, n=100)
    n = verdict.plan(wide, at_least(0.0, effect=0.09)).n
    beyond = verdict.plan(wide, at_least(0.0, effect=0.09), floor=0.045).n
    assert n is not None
    assert beyond == pytest.approx(4 * n, rel=0.02)
    # As precise, but by clusters of which few decide: its variance is less sure.
    unsure = verdict.plan(replace(wide, df=9.0), at_least(0.0, effect=0.09)).n
    assert unsure is not None
    assert 1.2 * n < unsure < 1.6 * n
    # 30 samples in 10 clusters are 3 a cluster, and 20 clusters are the fewest.
    few = measured(0.1, 0.001, n=30, clusters=10)
    assert verdict.plan(few, at_least(0.0, effect=0.1)).n == 3 * verdict.MIN_UNITS
    assert verdict.plan(measured(0.1, 0.001, n=10), at_least(0.0, effect=0.1)).n == 20


def test_the_n_advised_counts_floor_clusters_and_the_fewest_units() -> None:
    """An n that forgets the floor, the samples per cluster or the fewest clusters."""
    check_n_counts()


def test_twin_n_sees_the_limit_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of n that planning with the pilot's own variance passes."""
    monkeypatch.setattr(planning, "noisier", lambda _df: 1.0)
    with pytest.raises(AssertionError):
        check_n_counts()


def test_twin_n_sees_the_fewest_units_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of n that any number of clusters passes."""
    monkeypatch.setattr(planning, "MIN_UNITS", 2)
    with pytest.raises(AssertionError):
        check_n_counts()


def test_the_error_of_a_correlation_is_that_of_r() -> None:
    """Fisher's z taken for r: the slope of one on the other is 1 - r^2."""
    rng = np.random.default_rng(5)
    x, noise = rng.normal(size=(2, 400))
    e = correlation(x, x + 0.6 * noise)
    assert planning.standard_error(e) == pytest.approx(e.half_width / 1.97, rel=0.02)
    exact = interval(0.4, 0.6)
    assert planning.standard_error(exact) == pytest.approx(0.1 / sps.norm.ppf(0.975))


PILOTS = {"plain": (plain_noise, 40), "clustered": (grouped_noise, 160)}


def power_after_pilots(name: str, pilots: int = 60, draws: int = 25) -> float:
    """How often the n that real pilots advise settles "helps" by the effect it is planned for."""
    noise, size = PILOTS[name]
    rng = np.random.default_rng(8)
    prediction = helps(0.3)
    said: list[str] = []
    while len(said) < pilots * draws:
        x, labels = noise(rng, size)
        n = verdict.plan(effect_size(x + 0.3, labels), prediction).n
        if n is None:
            continue
        for _ in range(draws):
            x, labels = noise(rng, n)
            said.append(verdict.judge(effect_size(x + 0.3, labels), prediction).verdict)
    return said.count("supported") / len(said)


@pytest.mark.parametrize("name", PILOTS)
def test_a_pilot_that_varies_little_does_not_leave_the_power_short(name: str) -> None:
    """An n from the pilot's own variance, which is too small as often as it is too large."""
    assert 0.75 <= power_after_pilots(name) <= 0.9


def test_twin_pilots_see_a_limit_on_the_other_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of pilots that the lower limit of their variance passes."""
    right = planning.noisier
    monkeypatch.setattr(planning, "noisier", lambda df: right(df, 0.1))
    assert power_after_pilots("plain") < 0.75


# --- words ---------------------------------------------------------------------------------------

NO_N = "no n is known to settle it if d = {:g}, which lies on a margin"


@pytest.mark.parametrize(
    ("prediction", "floor", "words"),
    [
        (does_not_help(0.09, effect=0.09), 0.0, NO_N.format(0.09)),
        (negligible(0.09, effect=-0.09), 0.0, NO_N.format(-0.09)),
        (at_least(0.1, effect=0.1), 0.0, NO_N.format(0.1)),
        (at_most(0.1, effect=0.1), 0.0, NO_N.format(0.1)),
        (helps(0.09), 0.09, NO_N.format(0.09)),
        (negligible(0.09), 0.09, NO_N.format(0)),
        (at_least(0.8), 0.0, "no effect was written down to plan for"),
        (helps(0.09, effect=0.9), 0.0, "the data contradict d = 0.9, so no n is planned for it"),
        (hurts(0.09, effect=-0.9), 0.0, "the data contradict d = -0.9, so no n is planned for it"),
    ],
    ids=name_of,
)
def test_where_no_n_would_do_the_plan_says_why(
    prediction: Prediction, floor: float, words: str
) -> None:
    """A number of samples where none would settle the claim, or for an effect that is not there."""
    planned = verdict.plan(measured(0.0, 0.06), prediction, floor=floor)
    assert (planned.n, planned.words) == (None, words)


def test_plans_say_their_n_and_what_they_plan_for() -> None:
    """An n without its effect and power, below the samples at hand, or in another unit."""
    wide = measured(0.1, 0.1, n=100)
    planned = verdict.plan(wide, helps(0.09))
    assert planned.n is not None
    assert planned.n > 100
    said = "about {} samples would settle it if d = 0.09, at 80% power"
    assert planned.words == said.format(f"{planned.n:,}")
    scaled = planned.scaled(3.5)
    assert scaled.n == math.ceil(3.5 * planned.n)
    assert scaled.words == said.format(f"{scaled.n:,}")
    enough = verdict.plan(measured(0.1, 0.01, n=100), helps(0.09), 0.9)
    assert enough.n is None
    assert enough.words == "if d = 0.09, the samples at hand would have settled it with 90%"
    assert enough.scaled(2.0) == enough
    for unknown in (
        interval(-INF, INF),
        interval(-1, INF),
        interval(math.nan, math.nan),
        interval(0, 1, n=0),
    ):
        nothing = verdict.plan(unknown, helps())
        assert (nothing.n, nothing.words) == (None, "how noisy a sample is, is not known")


def test_a_floor_beyond_the_margin_is_never_outdone() -> None:
    """Samples at hand said to settle what measuring alone hides, where nothing varies."""
    planned = verdict.plan(interval(0, 0), negligible(0.09), floor=0.2)
    assert (planned.n, planned.words) == (None, NO_N.format(0))


# --- settling, by brute force --------------------------------------------------------------------


def settled_on_a_grid(
    effect: float, se: float, critical: float, prediction: Prediction, floor: float
) -> float:
    """Share of the estimates around an effect that read as the effect itself does."""
    right = verdict.judge(interval(effect, effect), prediction).verdict
    values = effect + se * sps.norm.ppf((np.arange(2000) + 0.5) / 2000)
    half = critical * se
    judged = (
        verdict.judge(interval(value - half, value + half), prediction, floor).verdict
        for value in values.tolist()
    )
    return sum(each == right for each in judged) / 2000


def check_settling(
    effect: float, se: float, prediction: Prediction, floor: float, critical: float = 2.0
) -> None:
    expected = settled_on_a_grid(effect, se, critical, prediction, floor)
    ours = planning.settling(effect, se, critical, prediction, floor)
    assert ours == pytest.approx(expected, abs=2e-3), prediction.name


def check_settling_at_some_effects(prediction: Prediction) -> None:
    for effect in (-0.3, 0.0, 0.15, 0.3):
        for se in (0.02, 0.05, 0.1):
            check_settling(effect, se, prediction, 0.0)


@quick
@given(
    effect=st.floats(-0.5, 0.5) | st.sampled_from([0.0, 0.1, -0.1, 0.2]),
    se=st.floats(0.005, 0.4),
    prediction=st.sampled_from(PREDICTIONS),
    floor=st.sampled_from([0.0, 0.0, 0.03, 0.15]),
)
def test_settling_is_the_share_of_estimates_that_read_right(
    effect: float, se: float, prediction: Prediction, floor: float
) -> None:
    """A power of other bounds than those of the reading.

    1. the closed form; 2. the intervals of a grid of estimates, read one by one.
    """
    check_settling(effect, se, prediction, floor)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name_of)
def test_twin_settling_sees_the_floor_or_the_interval_forgotten(
    prediction: Prediction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison with a grid that a power without the interval's width passes."""
    right = planning.settling
    monkeypatch.setattr(
        planning, "settling", lambda x, se, critical, p, floor: right(x, se, critical / 2, p, floor)
    )
    with pytest.raises(AssertionError):
        check_settling_at_some_effects(prediction)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name_of)
@pytest.mark.parametrize("floor", [0.0, 0.15])
def test_an_effect_known_exactly_settles_what_its_floor_leaves(
    prediction: Prediction, floor: float
) -> None:
    """A power of 1 where nothing varies, whatever measuring alone may do."""
    for effect in (-0.3, -0.1, 0.0, 0.05, 0.1, 0.2, 0.3):
        expected = settled_on_a_grid(effect, 0.0, 2.0, prediction, floor)
        assert planning.settling(effect, 0.0, 2.0, prediction, floor) == expected


def test_more_samples_never_settle_less() -> None:
    """A search for the smallest n over a power that goes up and down."""
    for prediction in PREDICTIONS:
        for effect in (-0.3, 0.0, 0.05, 0.1, 0.3):
            powers = [
                planning.settling(effect, 1 / math.sqrt(n), 2, prediction)
                for n in range(20, 4000, 60)
            ]
            if powers[-1] > 0.05:
                reached = [power >= 0.8 for power in powers]
                assert reached == sorted(reached), prediction.name


def test_a_plan_in_another_unit_is_refused() -> None:
    """An n planned for a d from an estimate of r."""
    with pytest.raises(KvError, match="pass unit='r'"):
        verdict.plan(replace(measured(0.1, 0.1), unit="r"), helps())
