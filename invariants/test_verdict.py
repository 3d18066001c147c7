"""Verdicts follow from geometry alone, err no more often than they say, and survive JSON.

Each property is a check; its twin breaks the production function and must see the check fail.
Simulations are seeded. The binomial bounds would let one sound rule in a thousand fail.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sps

from kvcore import stats, verdict
from kvcore.errors import KvError
from kvcore.stats import Estimate
from kvcore.verdict import (
    Cell,
    Claim,
    Judgement,
    Prediction,
    Published,
    Region,
    at_least,
    at_most,
    does_not_help,
    helps,
    hurts,
    negligible,
)

INF = math.inf
FALSE_ALARM = 1e-3
RESAMPLES = 300
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=60, deadline=None)


def interval(low: float, high: float, n: int = 100, unit: str = "d", **other: object) -> Estimate:
    value = low if low == high else (low + high) / 2
    given = Estimate(value, low, high, 0.95, "given", n, n, unit)
    return replace(given, **other)  # type: ignore[arg-type]


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
        found = verdict.judge(interval(low, high), prediction, floor)
        assert found == expected, f"{prediction.name} [{low}, {high}] floor {floor}: {found}"


def test_the_table_of_verdicts() -> None:
    check_table()


def closed_everywhere(region: Region, low: float, high: float) -> bool:
    return region.low <= low <= high <= region.high


def floor_forgotten(prediction: Prediction, _floor: float = 0.0) -> tuple:
    return prediction.supported, prediction.refuted


@pytest.mark.parametrize(
    ("owner", "name", "wrong"),
    [(Region, "holds", closed_everywhere), (Prediction, "decisive", floor_forgotten)],
    ids=["closed-bounds", "no-floor"],
)
def test_twin_table_sees_a_broken_rule(
    owner: type, name: str, wrong: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, wrong)
    with pytest.raises(AssertionError, match="floor"):
        check_table()


def test_hurts_is_the_mirror_image_of_helps() -> None:
    for prediction, low, high, floor, expected in TABLE:
        if prediction.name == "helps":
            assert verdict.judge(interval(-high, -low), hurts(0.1), floor) == expected


def test_nan_and_too_few_units_settle_nothing() -> None:
    few = replace(interval(0.2, 0.3), clusters=verdict.MIN_UNITS - 1)
    assert verdict.judge(few, helps()) == "inconclusive"
    assert verdict.judge(replace(few, clusters=verdict.MIN_UNITS), helps()) == "supported"
    for nan in (interval(0.2, 0.3, value=math.nan), interval(math.nan, math.nan),
                interval(math.nan, 0.3, value=0.2)):
        for prediction in (helps(), hurts(), does_not_help(), negligible(), at_least(0.0)):
            assert verdict.judge(nan, prediction) == "inconclusive"


@pytest.mark.parametrize(
    ("prediction", "needs", "directional"),
    [
        (helps(), "> 0", True),
        (hurts(), "< 0", True),
        (does_not_help(0.09), "< 0.09", False),
        (negligible(0.09), "between -0.09 and 0.09", False),
        (at_least(0.8), "≥ 0.8", True),
        (at_most(0.8), "≤ 0.8", True),
    ],
    ids=lambda value: value.name.replace("_", "-") if isinstance(value, Prediction) else None,
)
def test_predictions_say_what_they_need(
    prediction: Prediction, needs: str, directional: bool
) -> None:
    assert (prediction.needs, prediction.directional) == (needs, directional)


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
    estimate = interval(*ci)

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
    check_monotone(regions, other[0], ci, floor)


def test_twin_monotone_sees_wide_regions_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Region.holds
    monkeypatch.setattr(
        Region, "holds", lambda self, *ci: self.high - self.low < 2 and right(self, *ci)
    )
    with pytest.raises(AssertionError):
        check_monotone((Region(0, 1), Region(-1, 2)), Region(-9, -8), [0.4, 0.5], 0.0)


PREDICTIONS = [helps(0.1), hurts(0.1), does_not_help(0.1), negligible(0.1), at_least(0.2),
               at_most(0.2)]


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
    check_narrowing(prediction, wide, floor)


def test_twin_narrowing_sees_narrow_intervals_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Region.holds
    monkeypatch.setattr(
        Region, "holds", lambda self, low, high: high - low > 0.15 and right(self, low, high)
    )
    with pytest.raises(AssertionError):
        check_narrowing(helps(0.1), [0.1, 0.3], 0.0)


# --- error rates -------------------------------------------------------------------------------


@cache
def noise_estimates(mean: float, n: int = 80, draws: int = 400) -> tuple[Estimate, ...]:
    """d of unit-variance noise around a mean, one estimate per draw."""
    rng = np.random.default_rng(11)
    return tuple(
        stats.effect_size(mean + rng.normal(size=n), seed=seed, resamples=RESAMPLES)
        for seed in range(draws)
    )


def supported(prediction: Prediction, mean: float) -> tuple[int, int]:
    estimates = noise_estimates(mean)
    found = [verdict.judge(estimate, prediction) for estimate in estimates]
    return found.count("supported"), len(found)


def check_error_rate(prediction: Prediction, mean: float) -> None:
    """At the edge of the claim it is supported in 2.5 % of draws; 1.5 more are the bootstrap's."""
    count, draws = supported(prediction, mean)
    chance = sps.binomtest(count, draws, 0.04, alternative="greater").pvalue
    assert chance > FALSE_ALARM, f"{prediction.name} supported in {count} of {draws}"


EDGES = [(helps(0.3), 0.0), (hurts(0.3), 0.0), (does_not_help(0.3), 0.3), (negligible(0.3), 0.3),
         (negligible(0.3), -0.3), (at_least(0.3), 0.3), (at_most(0.3), 0.3)]


@pytest.mark.parametrize(("prediction", "mean"), EDGES, ids=lambda v: getattr(v, "name", str(v)))
def test_noise_alone_supports_no_claim_beyond_its_error_rate(
    prediction: Prediction, mean: float
) -> None:
    """For helps and hurts this is A/A: bare against itself with noise around 0."""
    check_error_rate(prediction, mean)


@pytest.mark.parametrize(("prediction", "mean"), EDGES, ids=lambda v: getattr(v, "name", str(v)))
def test_twin_error_rate_sees_a_verdict_by_point_estimate(
    prediction: Prediction, mean: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Region.holds
    monkeypatch.setattr(Region, "holds", lambda self, low, high: right(
        self, (low + high) / 2, (low + high) / 2
    ))
    with pytest.raises(AssertionError, match="supported in"):
        check_error_rate(prediction, mean)


def check_self_comparison() -> None:
    bare = np.random.default_rng(0).gamma(2.0, 1.0, 60)
    estimate = stats.paired_effect(bare, bare).d
    verdicts = {p.name: verdict.judge(estimate, p) for p in PREDICTIONS}
    assert verdicts["helps"] != "supported"
    assert verdicts["hurts"] != "supported"
    assert verdicts["negligible"] == verdicts["does_not_help"] == "supported"


def test_bare_against_itself_is_negligible_and_neither_helps_nor_hurts() -> None:
    check_self_comparison()


def test_twin_self_comparison_sees_closed_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Region, "holds", closed_everywhere)
    with pytest.raises(AssertionError):
        check_self_comparison()


# --- required n --------------------------------------------------------------------------------


def cluster_noise(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit-variance noise in clusters of four with half the variance shared, and the labels."""
    labels = np.arange(n) // 4
    return math.sqrt(0.5) * (rng.normal(size=n)[labels] + rng.normal(size=n)), labels


def plain_noise(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=n), np.arange(n)


POWER_CASES: dict[str, tuple[Prediction, Callable]] = {
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
    pilot = stats.effect_size(x + prediction.effect, labels, resamples=2000)
    n = verdict.required_n(pilot, prediction)
    assert n is not None
    settled = 0
    for seed in range(draws):
        x, labels = noise(rng, n)
        e = stats.effect_size(x + prediction.effect, labels, seed=seed, resamples=RESAMPLES)
        settled += verdict.judge(e, prediction) == ("refuted" if "ref" in name else "supported")
    low = sps.binomtest(settled, draws, 0.75, alternative="less").pvalue
    high = sps.binomtest(settled, draws, 0.85, alternative="greater").pvalue
    assert min(low, high) > FALSE_ALARM, f"{settled} of {draws} settled at n = {n}"


@pytest.mark.parametrize("name", POWER_CASES)
def test_at_the_required_n_four_in_five_runs_settle_the_claim(name: str) -> None:
    check_power(name)


@pytest.mark.parametrize("factor", [0.7, 1.4], ids=["half-n", "double-n"])
def test_twin_power_sees_a_wrong_n(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    right = verdict._precision
    monkeypatch.setattr(verdict, "_precision", lambda *args: factor * right(*args))
    with pytest.raises(AssertionError, match="settled"):
        check_power("helps")


def test_required_n_of_a_one_sided_claim_is_the_textbook_formula() -> None:
    estimate = interval(-0.1, 0.1, n=400)
    noise = 0.1 * 20 / sps.norm.ppf(0.975)
    for power in (0.5, 0.8, 0.95):
        z = sps.norm.ppf(0.975) + sps.norm.ppf(power)
        for effect, room in ((0.09, 0.09), (0.02, 0.02)):
            found = verdict.required_n(estimate, helps(0.09, effect=effect), power)
            assert found == math.ceil((z * noise / room) ** 2)
    both = sps.norm.ppf(0.975) + sps.norm.ppf(0.9)
    assert verdict.required_n(estimate, negligible(0.09)) == math.ceil((both * noise / 0.09) ** 2)


def test_required_n_is_none_where_no_n_would_do() -> None:
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
    wide = interval(-0.1, 0.1)
    n = verdict.required_n(wide, helps(0.09))
    beyond = verdict.required_n(wide, helps(0.09), floor=0.045)
    assert beyond == pytest.approx(4 * n, abs=4)
    assert verdict.required_n(interval(0, 0), negligible()) == verdict.MIN_UNITS
    few = replace(interval(0, 0), clusters=20)
    assert verdict.required_n(few, negligible()) == 5 * verdict.MIN_UNITS


# --- published values --------------------------------------------------------------------------


def check_consistency() -> None:
    """Two honest measurements of one d agree in 95 % of draws; of two d, rarely."""
    rng = np.random.default_rng(8)
    theirs = []
    for _ in range(400):
        x = 0.3 + rng.normal(size=40)
        theirs.append(float(x.mean() / x.std(ddof=1)))
    ours = noise_estimates(0.3)
    agree = [verdict.consistent(e, Published(d, 40, "nll"))
             for e, d in zip(ours, theirs, strict=True)]
    assert sps.binomtest(agree.count(True), 400, 0.925, alternative="less").pvalue > FALSE_ALARM
    assert sps.binomtest(agree.count(True), 400, 0.975, alternative="greater").pvalue > FALSE_ALARM
    apart = [verdict.consistent(e, Published(d + 1.0, 40, "nll"))
             for e, d in zip(ours, theirs, strict=True)]
    assert apart.count(True) < 20


def test_consistency_with_published_values_has_its_error_rate() -> None:
    check_consistency()


def test_twin_consistency_sees_the_published_error_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verdict, "_published_error", lambda *_: 0.0)
    with pytest.raises(AssertionError):
        check_consistency()


@pytest.mark.parametrize(
    ("unit", "value", "error"),
    [("d", 0.4, math.sqrt(0.01 + 0.16 / 200)), ("r", 0.5, 0.75 / math.sqrt(99)),
     ("proportion", 0.6, math.sqrt(0.0024))],
)
def test_the_published_error_follows_from_its_n(unit: str, value: float, error: float) -> None:
    near, far = (
        interval(value + k * sps.norm.ppf(0.975) * error, value + k * sps.norm.ppf(0.975) * error,
                 unit=unit)
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
    assert verdict.consistent(estimate, published) is None


# --- names and levels --------------------------------------------------------------------------


def test_familywise_is_bonferroni() -> None:
    assert verdict.familywise(0.95, 1) == pytest.approx(0.95)
    assert verdict.familywise(0.95, 10) == pytest.approx(0.995)


def claim(**changes: object) -> Claim:
    plain = Claim("random-prefix-lowers-nll", 1, "A random prefix helps.", "notebook", "priming",
                  helps(0.09), 300)
    return replace(plain, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: claim(id="Random prefix"), "claim id 'Random prefix' is no slug"),
        (lambda: claim(id=""), "claim id '' is no slug"),
        (lambda: claim(id="a\n"), r"claim id 'a\\n' is no slug"),
        (lambda: claim(family="ms_marco"), "claim family 'ms_marco' is no slug"),
        (lambda: helps(0.0), "delta=0.0"),
        (lambda: helps(-1.0, effect=1.0), "delta=-1.0"),
        (lambda: hurts(math.nan), "delta=nan"),
        (lambda: negligible(INF), "delta=inf"),
        (lambda: does_not_help(-0.1), "delta=-0.1"),
        (lambda: Region(1.0, 1.0), "not below"),
        (lambda: at_least(math.nan), "low=nan"),
        (lambda: verdict.judge(interval(0, 1), helps(), -0.1), "floor=-0.1"),
        (lambda: verdict.judge(interval(0, 1), helps(), math.nan), "floor=nan"),
        (lambda: verdict.judge(interval(0, 1, unit="r"), helps()), "pass unit='r'"),
        (lambda: verdict.required_n(interval(0, 1), helps(), 1.0), "power=1.0"),
        (lambda: verdict.familywise(95, 3), r"familywise\(95, 3\)"),
        (lambda: verdict.familywise(0.95, 0), r"m >= 1"),
        (lambda: judgement(verdict="maybe"), "verdict 'maybe'"),
    ],
)
def test_bad_input_is_one_clear_line(call: Callable[[], object], message: str) -> None:
    with pytest.raises(KvError, match=message):
        call()


@quick
@given(text=st.text())
def test_any_name_has_a_slug(text: str) -> None:
    assert verdict.check_slug("name", verdict.slugify(text)) == verdict.slugify(text)


def test_cells_have_slugs_that_can_stand_in_a_test_id() -> None:
    default = Cell("smollm2-135m", "docstrings", "nll", "float32")
    assert default.slug == "smollm2-135m-docstrings-nll"
    other = Cell("google/gemma-3-4b-it", "ms_marco", "nll_tail", "bfloat16")
    assert other.slug == "google-gemma-3-4b-it-ms-marco-nll-tail"
    assert str(other) == "google/gemma-3-4b-it \u00d7 ms_marco (nll_tail)"


# --- judgements --------------------------------------------------------------------------------


def judgement(**changes: object) -> Judgement:
    plain = Judgement(
        claim=claim(), cell=Cell("gemma3-270m", "docstrings", "nll", "float32"),
        estimate=interval(-0.041, -0.019, n=400, value=-0.03), verdict="refuted", floor=0.0,
        floor_nats=None, required_n=None, published=None, consistent=None,
        conditions=("bare", "random"), seed=0, store="store", rows_hash="ab", model_revision="r",
        ledger="", outcome="failed", details={}, plot={"kind": "none"},
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_a_judgement_is_one_sentence() -> None:
    start = "random-prefix-lowers-nll refuted on gemma3-270m \u00d7 docstrings (nll): "
    need = "; the claim needs > 0"
    assert judgement().sentence() == (
        f"{start}d -0.030 [-0.041, -0.019] (95 %, n = 400){need}"
    )
    nats = interval(-4e-5, 0.012, unit="nats/token", n=40, clusters=12, confidence=0.995)
    said = judgement(estimate=nats, floor=0.001).sentence()
    assert said == (
        f"{start}benefit 0.006 nats/token [-4.0e-05, 0.012] (99.5 %, n = 40 in 12 clusters){need}"
        "; noise floor 0.001"
    )


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({"required_n": 1234}, "about 1234 samples would settle it at 80 % power"),
        ({}, "no n is known to settle it"),
        ({"estimate": interval(-1, 1, n=4)}, "no verdict below 10 independent units"),
    ],
    ids=["some-n", "no-n", "few-units"],
)
def test_an_inconclusive_judgement_says_what_it_would_take(changes: dict, end: str) -> None:
    assert judgement(verdict="inconclusive", **changes).sentence().endswith(f"; {end}")


any_float = st.floats(allow_nan=True, allow_infinity=True)
words = st.text(max_size=8).filter(lambda t: t not in stats._NON_FINITE)
plots = st.recursive(
    any_float | st.integers() | words | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def judgements(draw: st.DrawFn) -> Judgement:
    low, high = sorted(draw(st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False))))
    published = st.builds(Published, any_float, st.none() | st.integers(1), words, st.booleans(),
                          words)
    return judgement(
        claim=claim(statement=draw(words), prediction=draw(st.sampled_from(PREDICTIONS))),
        estimate=interval(low, high, value=draw(any_float)),
        verdict=draw(st.sampled_from(["supported", "refuted", "inconclusive"])),
        floor=draw(st.floats(min_value=0)), floor_nats=draw(st.none() | any_float),
        required_n=draw(st.none() | st.integers(1)), published=draw(st.none() | published),
        consistent=draw(st.none() | st.booleans()),
        conditions=tuple(draw(st.lists(words, max_size=3))), ledger=draw(words),
        details=draw(st.dictionaries(words, any_float | words, max_size=3)),
        plot=draw(st.dictionaries(words, plots, max_size=3)),
    )


def check_round_trip(given: Judgement) -> None:
    stored = json.dumps(given.to_dict(), allow_nan=False)
    back = Judgement.from_dict(json.loads(stored))
    assert repr(back) == repr(given)
    assert back.sentence() == given.sentence()


@quick
@given(given=judgements())
def test_a_judgement_survives_json(given: Judgement) -> None:
    check_round_trip(given)


def test_numpy_numbers_become_plain_ones() -> None:
    plot = {"kind": "paired", "differences": np.array([1.0, np.nan]), "n": np.int64(3)}
    plain = judgement(plot=plot, details={"t": np.float64(-INF)}).to_dict()
    assert plain["plot"] == {"kind": "paired", "differences": [1.0, "NaN"], "n": 3}
    assert plain["details"] == {"t": "-Infinity"}
    assert type(plain["plot"]["n"]) is int


@pytest.mark.parametrize("name", ["to_plain", "from_plain"])
def test_twin_round_trip_sees_infinities_left_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdict, name, lambda value: value)
    with pytest.raises((ValueError, AssertionError, TypeError)):
        check_round_trip(judgement(details={"t": INF}))


# --- independence ------------------------------------------------------------------------------

UNWANTED = {"torch", "transformers", "pytest", "hypothesis"}


def heavy_imports(first: str) -> str:
    """Which of the heavy or testing packages a fresh interpreter holds after an import."""
    code = f"import {first}, sys; print(sorted({UNWANTED} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_judging_imports_neither_torch_nor_a_test_runner() -> None:
    assert heavy_imports("kvcore.verdict") == "[]"


def test_twin_independence_sees_an_import() -> None:
    assert heavy_imports("kvcore.verdict, hypothesis") == "['hypothesis']"
