"""Verdicts follow from geometry alone and err no more often than they say.

Each property is a check; its twin breaks the production function and must see the check fail.
Simulations are seeded. The binomial bounds would let one sound rule in a thousand fail.
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

from invariants.support.intervals import FALSE_ALARM, RESAMPLES
from invariants.support.verdicts import interval, noise_estimates
from kvcore import verdict
from kvcore.analysis import FloatArray, IntervalSettings, effect_size, paired_effect
from kvcore.verdict import (
    Prediction,
    Region,
    at_least,
    at_most,
    differs,
    does_not_help,
    helps,
    hurts,
    judging,
    negligible,
)

INF = math.inf
quick = settings(max_examples=60, deadline=None)


# --- the table ---------------------------------------------------------------------------------

# prediction, ci_low, ci_high, floor, verdict; delta is 0.1 throughout
TABLE: list[tuple[Prediction, float, float, float, str]] = [
    (helps(0.1), 0.01, 0.05, 0.0, "supported"),
    (helps(0.1), 0.2, 0.3, 0.0, "supported"),
    (helps(0.1), 0.0, 0.05, 0.0, "refuted"),
    (helps(0.1), 0.0, 0.2, 0.0, "inconclusive"),
    (helps(0.1), -0.2, 0.1, 0.0, "inconclusive"),
    (helps(0.1), -0.2, 0.099, 0.0, "refuted"),
    (helps(0.1), 0.0, 0.0, 0.0, "refuted"),
    (helps(0.1), -0.3, -0.2, 0.0, "refuted"),
    (helps(0.1), 0.1, 0.1, 0.0, "supported"),
    (helps(0.1), 0.01, INF, 0.0, "supported"),
    (helps(0.1), -INF, INF, 0.0, "inconclusive"),
    (helps(0.1), 0.03, 0.2, 0.02, "supported"),
    (helps(0.1), 0.02, 0.2, 0.02, "inconclusive"),
    (helps(0.1), 0.01, 0.05, 0.02, "refuted"),
    (helps(0.1), -0.01, 0.05, 0.1, "inconclusive"),
    (helps(0.1), -0.2, -0.1, 0.1, "inconclusive"),
    (helps(0.1), -0.3, -0.2, 0.1, "refuted"),
    (helps(0.1), -0.3, 9.0, INF, "inconclusive"),
    (hurts(0.1), -0.05, -0.01, 0.0, "supported"),
    (hurts(0.1), -0.05, 0.0, 0.0, "refuted"),
    (hurts(0.1), -0.1, 0.0, 0.0, "inconclusive"),
    (hurts(0.1), 0.0, 0.0, 0.0, "refuted"),
    (hurts(0.1), -0.05, -0.01, 0.02, "refuted"),
    (hurts(0.1), 0.2, 0.3, 0.1, "refuted"),
    (hurts(0.1), 0.0, 0.3, 0.1, "inconclusive"),
    (does_not_help(0.1), -0.5, 0.09, 0.0, "supported"),
    (does_not_help(0.1), -0.5, 0.1, 0.0, "inconclusive"),
    (does_not_help(0.1), 0.1, 0.2, 0.0, "inconclusive"),
    (does_not_help(0.1), 0.11, 0.2, 0.0, "refuted"),
    (does_not_help(0.1), -0.05, 0.05, 0.09, "supported"),
    (does_not_help(0.1), -0.05, 0.05, 0.1, "inconclusive"),
    (does_not_help(0.1), -0.5, -0.2, 0.1, "supported"),
    (does_not_help(0.1), 0.15, 0.3, 0.15, "inconclusive"),
    (does_not_help(0.1), 0.16, 0.3, 0.15, "refuted"),
    (negligible(0.1), -0.05, 0.05, 0.0, "supported"),
    (negligible(0.1), 0.0, 0.0, 0.0, "supported"),
    (negligible(0.1), 0.02, 0.05, 0.0, "supported"),
    (negligible(0.1), -0.1, 0.05, 0.0, "inconclusive"),
    (negligible(0.1), 0.11, 0.2, 0.0, "refuted"),
    (negligible(0.1), -0.2, -0.11, 0.0, "refuted"),
    (negligible(0.1), -0.2, 0.2, 0.0, "inconclusive"),
    (negligible(0.1), -0.05, 0.05, 0.1, "inconclusive"),
    (negligible(0.1), 0.02, 0.05, 0.1, "inconclusive"),
    (negligible(0.1), 0.11, 0.2, 0.12, "inconclusive"),
    (negligible(0.1), 0.13, 0.2, 0.12, "refuted"),
    (at_least(0.8), 0.8, 0.9, 0.0, "supported"),
    (at_least(0.8), 0.7, 0.8, 0.0, "inconclusive"),
    (at_least(0.8), 0.7, 0.79, 0.0, "refuted"),
    (at_least(0.8), 0.82, 0.9, 0.01, "supported"),
    (at_least(0.8), 0.805, 0.9, 0.01, "inconclusive"),
    (at_least(0.8), 0.7, 0.795, 0.01, "inconclusive"),
    (at_least(0.8), 0.7, 0.78, 0.01, "refuted"),
    (at_most(0.8), 0.7, 0.8, 0.0, "supported"),
    (at_most(0.8), 0.8, 0.9, 0.0, "inconclusive"),
    (at_most(0.8), 0.81, 0.9, 0.0, "refuted"),
    (at_most(0.8), 0.7, 0.795, 0.01, "inconclusive"),
]


def check_table() -> None:
    for prediction, low, high, floor, expected in TABLE:
        judged = verdict.judge(interval(low, high), prediction, floor)
        assert judged == expected, f"{prediction.name} [{low}, {high}] floor {floor}: {judged}"


def test_the_table_of_verdicts() -> None:
    """A bound that is open taken for closed, or a noise floor forgotten."""
    check_table()


def closed_everywhere(region: Region, low: float, high: float) -> bool:
    return region.low <= low <= high <= region.high


def floor_forgotten(prediction: Prediction, _floor: float = 0.0) -> object:
    return prediction.supported, prediction.refuted


@pytest.mark.parametrize(
    ("owner", "name", "wrong"),
    [(Region, "holds", closed_everywhere), (Prediction, "decisive", floor_forgotten)],
    ids=["closed-bounds", "no-floor"],
)
def test_twin_table_sees_a_broken_rule(
    owner: type, name: str, wrong: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of verdicts that a broken rule passes."""
    monkeypatch.setattr(owner, name, wrong)
    with pytest.raises(AssertionError, match="floor"):
        check_table()


def test_hurts_is_the_mirror_image_of_helps() -> None:
    """A direction that is judged more strictly than the other."""
    for prediction, low, high, floor, expected in TABLE:
        if prediction.name == "helps":
            assert verdict.judge(interval(-high, -low), hurts(0.1), floor) == expected


def test_nan_and_too_few_units_settle_nothing() -> None:
    """A verdict from no number, or from too few units to trust the interval."""
    few = replace(interval(0.2, 0.3), clusters=verdict.MIN_UNITS - 1)
    assert verdict.judge(few, helps()) == "inconclusive"
    assert verdict.judge(replace(few, clusters=verdict.MIN_UNITS), helps()) == "supported"
    for nan in (
        interval(0.2, 0.3, value=math.nan),
        interval(math.nan, math.nan),
        interval(math.nan, 0.3, value=0.2),
    ):
        for prediction in (helps(), hurts(), does_not_help(), negligible(), at_least(0.0)):
            assert verdict.judge(nan, prediction) == "inconclusive"


@pytest.mark.parametrize(
    ("prediction", "needs"),
    [
        (helps(), "> 0"),
        (hurts(), "< 0"),
        (does_not_help(0.09), "< 0.09"),
        (negligible(0.09), "between -0.09 and 0.09"),
        (differs(0.09), "< 0 or > 0"),
        (at_least(0.8), "≥ 0.8"),
        (at_most(0.8), "≤ 0.8"),
    ],
    ids=lambda value: value.name.replace("_", "-") if isinstance(value, Prediction) else None,
)
def test_predictions_say_what_they_need(prediction: Prediction, needs: str) -> None:
    """A claim that says it needs something else than it is judged by."""
    assert prediction.needs == needs


@pytest.mark.parametrize("make", [helps, hurts, does_not_help, negligible, differs])
def test_predictions_know_their_effect_delta_and_unit(make: Callable[..., Prediction]) -> None:
    """A pre-registered effect, delta or unit that is not the one passed."""
    defaults = {helps: 0.2, hurts: -0.2, does_not_help: 0.0, negligible: 0.0, differs: 0.2}
    assert (make(0.2).name, make(0.2).effect, make(0.2).unit) == (
        make.__name__,
        defaults[make],
        "d",
    )
    other = make(0.2, 0.07, "r")
    assert (other.delta, other.effect, other.unit) == (0.2, 0.07, "r")


def test_either_side_supports_a_difference() -> None:
    """A difference that counts on one side only, or that a small one supports."""
    intervals = [(0.02, 0.5), (-0.5, -0.02), (-0.05, 0.05), (-0.2, 0.2)]
    judged = [verdict.judge(interval(*ci), differs(delta=0.1)) for ci in intervals]
    assert judged == ["supported", "supported", "refuted", "inconclusive"]


# --- monotone in the region --------------------------------------------------------------------

bounds = st.floats(-3, 3)
spans = st.tuples(bounds, bounds).map(sorted)


@st.composite
def nested(draw: st.DrawFn) -> tuple[Region, Region]:
    """A region and a wider one that holds it."""
    low, high = draw(spans.filter(lambda pair: pair[0] < pair[1]))
    closed = draw(st.tuples(st.booleans(), st.booleans()))
    down, up = draw(st.sampled_from([0.0, 0.5, INF])), draw(st.sampled_from([0.0, 0.5, INF]))
    wider = Region(low - down, high + up, down < INF, up < INF)
    return Region(low, high, *closed), wider


def check_monotone(
    regions: tuple[Region, Region], other: Region, ci: list[float], floor: float
) -> None:
    narrow, wide = regions
    estimate = interval(ci[0], ci[1])

    def judged(supported: Region, refuted: Region) -> str:
        both = Prediction("any", (supported,), (refuted,), None, None, "d")
        return verdict.judge(estimate, both, floor)

    if judged(narrow, other) == "supported":
        assert judged(wide, other) == "supported"
    else:
        assert judged(wide, other) in ("supported", judged(narrow, other))
    if judged(other, narrow) == "refuted":
        assert judged(other, wide) == "refuted"
    if judged(other, narrow) == "supported":
        assert judged(other, wide) == "supported"


@quick
@given(regions=nested(), other=nested(), ci=spans, floor=st.sampled_from([0.0, 0.1, 1.0]))
def test_widening_a_region_never_loses_a_verdict(
    regions: tuple[Region, Region], other: tuple[Region, Region], ci: list[float], floor: float
) -> None:
    """A rule by which more room for a claim supports it less."""
    check_monotone(regions, other[0], ci, floor)


def test_twin_monotone_sees_wide_regions_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of regions that forgetting wide ones passes."""
    right = Region.holds
    monkeypatch.setattr(
        Region, "holds", lambda self, *ci: self.high - self.low < 2 and right(self, *ci)
    )
    with pytest.raises(AssertionError):
        check_monotone((Region(0, 1), Region(-1, 2)), Region(-9, -8), [0.4, 0.5], 0.0)


PREDICTIONS = [
    helps(0.1),
    hurts(0.1),
    does_not_help(0.1),
    negligible(0.1),
    at_least(0.2),
    at_most(0.2),
]


def check_narrowing(prediction: Prediction, wide: list[float], floor: float) -> None:
    """A narrower interval, or a lower floor, never takes support away."""
    low, high = wide
    inner = interval(low + (high - low) / 3, high - (high - low) / 3)
    if verdict.judge(interval(low, high), prediction, floor) == "supported":
        assert verdict.judge(inner, prediction, floor) == "supported"
        assert verdict.judge(interval(low, high), prediction, floor / 2) == "supported"
    if verdict.judge(interval(low, high), prediction, floor) == "refuted":
        assert verdict.judge(inner, prediction, floor) != "inconclusive"
        assert verdict.judge(interval(low, high), prediction, floor / 2) != "inconclusive"


@quick
@given(
    prediction=st.sampled_from(PREDICTIONS),
    wide=st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)).map(sorted),
    floor=st.sampled_from([0.0, 0.02, 0.1, 0.2]),
)
def test_a_narrower_interval_or_lower_floor_never_takes_a_verdict_away(
    prediction: Prediction, wide: list[float], floor: float
) -> None:
    """A rule by which more data, or less noise, settles less."""
    check_narrowing(prediction, wide, floor)


def test_twin_narrowing_sees_narrow_intervals_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of widths that refusing narrow intervals passes."""
    right = Region.holds
    monkeypatch.setattr(
        Region, "holds", lambda self, low, high: high - low > 0.15 and right(self, low, high)
    )
    with pytest.raises(AssertionError):
        check_narrowing(helps(0.1), [0.1, 0.3], 0.0)


# --- error rates -------------------------------------------------------------------------------


def supported(prediction: Prediction, mean: float) -> tuple[int, int]:
    estimates = noise_estimates(mean)
    verdicts = [verdict.judge(estimate, prediction) for estimate in estimates]
    return verdicts.count("supported"), len(verdicts)


def check_error_rate(prediction: Prediction, mean: float) -> None:
    """At the edge of the claim it is supported in 2.5 % of draws; 1.5 more are the bootstrap's."""
    count, draws = supported(prediction, mean)
    chance = sps.binomtest(count, draws, 0.04, alternative="greater").pvalue
    assert chance > FALSE_ALARM, f"{prediction.name} supported in {count} of {draws}"


EDGES = [
    (helps(0.3), 0.0),
    (hurts(0.3), 0.0),
    (does_not_help(0.3), 0.3),
    (negligible(0.3), 0.3),
    (negligible(0.3), -0.3),
    (at_least(0.3), 0.3),
    (at_most(0.3), 0.3),
]


@pytest.mark.parametrize(("prediction", "mean"), EDGES, ids=lambda v: getattr(v, "name", str(v)))
def test_noise_alone_supports_no_claim_beyond_its_error_rate(
    prediction: Prediction, mean: float
) -> None:
    """A claim supported by noise alone; for helps and hurts this is A/A, with noise around 0."""
    check_error_rate(prediction, mean)


@pytest.mark.parametrize(("prediction", "mean"), EDGES, ids=lambda v: getattr(v, "name", str(v)))
def test_twin_error_rate_sees_a_verdict_by_point_estimate(
    prediction: Prediction, mean: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check of error rates that a verdict without an interval passes."""
    right = Region.holds
    monkeypatch.setattr(
        Region, "holds", lambda self, low, high: right(self, (low + high) / 2, (low + high) / 2)
    )
    with pytest.raises(AssertionError, match="supported in"):
        check_error_rate(prediction, mean)


def check_self_comparison() -> None:
    bare = np.random.default_rng(0).gamma(2.0, 1.0, 60)
    estimate = paired_effect(bare, bare).d
    verdicts = {p.name: verdict.judge(estimate, p) for p in PREDICTIONS}
    assert verdicts["helps"] != "supported"
    assert verdicts["hurts"] != "supported"
    assert verdicts["negligible"] == verdicts["does_not_help"] == "supported"


def test_bare_against_itself_is_negligible_and_neither_helps_nor_hurts() -> None:
    """An effect found where there is none at all."""
    check_self_comparison()


def test_twin_self_comparison_sees_closed_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of the self-comparison that closed bounds pass."""
    monkeypatch.setattr(Region, "holds", closed_everywhere)
    with pytest.raises(AssertionError):
        check_self_comparison()


# --- required n --------------------------------------------------------------------------------


def cluster_noise(rng: np.random.Generator, n: int) -> tuple[FloatArray, NDArray[np.intp]]:
    """Unit-variance noise in clusters of four with half the variance shared, and the labels."""
    labels = np.arange(n) // 4
    return math.sqrt(0.5) * (rng.normal(size=n)[labels] + rng.normal(size=n)), labels


def plain_noise(rng: np.random.Generator, n: int) -> tuple[FloatArray, NDArray[np.intp]]:
    return rng.normal(size=n), np.arange(n)


Noise = Callable[[np.random.Generator, int], tuple[FloatArray, NDArray[np.intp]]]
POWER_CASES: dict[str, tuple[Prediction, Noise]] = {
    "helps": (helps(0.3), plain_noise),
    "helps-clustered": (helps(0.3), cluster_noise),
    "hurts": (hurts(0.3), plain_noise),
    "does-not-help": (does_not_help(0.3), plain_noise),
    "negligible": (negligible(0.3), plain_noise),
    "refuted-helps": (helps(0.3, effect=-0.05), plain_noise),
}


def check_power(name: str, draws: int = 250) -> None:
    """At the n it asks for, the claim is settled in 80 % of draws (the width's error: +-5)."""
    prediction, noise = POWER_CASES[name]
    assert prediction.effect is not None
    rng = np.random.default_rng(21)
    x, labels = noise(rng, 1200)
    pilot = effect_size(x + prediction.effect, labels, IntervalSettings(resamples=2000))
    n = verdict.required_n(pilot, prediction)
    assert n is not None
    settled = 0
    for seed in range(draws):
        x, labels = noise(rng, n)
        drawn = IntervalSettings(seed=seed, resamples=RESAMPLES)
        e = effect_size(x + prediction.effect, labels, drawn)
        settled += verdict.judge(e, prediction) == ("refuted" if "ref" in name else "supported")
    low = sps.binomtest(settled, draws, 0.75, alternative="less").pvalue
    high = sps.binomtest(settled, draws, 0.85, alternative="greater").pvalue
    assert min(low, high) > FALSE_ALARM, f"{settled} of {draws} settled at n = {n}"


@pytest.mark.parametrize("name", POWER_CASES)
def test_at_the_required_n_four_in_five_runs_settle_the_claim(name: str) -> None:
    """A required n that settles the claim more, or less, often than it says."""
    check_power(name)


@pytest.mark.parametrize("factor", [0.7, 1.4], ids=["half-n", "double-n"])
def test_twin_power_sees_a_wrong_n(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of power that half or double the samples pass."""
    right = judging.required_precision
    monkeypatch.setattr(judging, "required_precision", lambda *args: factor * right(*args))
    with pytest.raises(AssertionError, match="settled"):
        check_power("helps")


def test_required_n_of_a_one_sided_claim_is_the_textbook_formula() -> None:
    """Another power or level than asked for.

    1. ours; 2. the textbook formula.
    """
    estimate = interval(-0.1, 0.1, n=400)
    noise = 0.1 * 20 / sps.norm.ppf(0.975)
    for power in (0.5, 0.8, 0.95):
        z = sps.norm.ppf(0.975) + sps.norm.ppf(power)
        for effect, room in ((0.09, 0.09), (0.02, 0.02)):
            n = verdict.required_n(estimate, helps(0.09, effect=effect), power)
            assert n == math.ceil((z * noise / room) ** 2)
    both = sps.norm.ppf(0.975) + sps.norm.ppf(0.9)
    assert verdict.required_n(estimate, negligible(0.09)) == math.ceil((both * noise / 0.09) ** 2)


def test_required_n_is_none_where_no_n_would_do() -> None:
    """A number of samples where none would settle the claim."""
    wide = interval(-0.1, 0.1)
    assert verdict.required_n(wide, helps(0.09, effect=0.0)) is not None  # refutes
    assert verdict.required_n(wide, does_not_help(0.09, effect=0.09)) is None
    assert verdict.required_n(wide, negligible(0.09, effect=-0.09)) is None
    assert verdict.required_n(wide, at_least(0.8)) is None
    assert verdict.required_n(wide, at_least(0.8, effect=0.8)) is None
    assert verdict.required_n(wide, helps(0.09), floor=0.09) is None
    assert verdict.required_n(wide, negligible(0.09), floor=0.09) is None
    assert verdict.required_n(interval(-INF, INF), helps()) is None
    assert verdict.required_n(interval(-1, INF), helps()) is None
    assert verdict.required_n(interval(math.nan, math.nan), helps()) is None


def test_required_n_counts_floor_clusters_and_units() -> None:
    """A required n that forgets the floor, the clusters or the fewest units."""
    wide = interval(-0.1, 0.1)
    n = verdict.required_n(wide, helps(0.09))
    beyond = verdict.required_n(wide, helps(0.09), floor=0.045)
    assert n is not None
    assert beyond == pytest.approx(4 * n, abs=4)
    assert verdict.required_n(interval(0, 0), negligible()) == verdict.MIN_UNITS
    few = replace(interval(0, 0), clusters=20)
    assert verdict.required_n(few, negligible()) == 5 * verdict.MIN_UNITS


def test_familywise_is_bonferroni() -> None:
    """A level widened by another rule."""
    assert verdict.familywise(0.95, 1) == pytest.approx(0.95)
    assert verdict.familywise(0.95, 10) == pytest.approx(0.995)
