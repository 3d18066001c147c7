"""Verdicts err no more often than they say, and their p values belong to their intervals.

Each property is a check; its twin breaks the production function and must see the check fail.
Simulations are seeded. The binomial bounds would let one sound rule in a thousand fail.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sps

from invariants.support.intervals import FALSE_ALARM, FAST
from invariants.support.paired_samples import paired_samples
from invariants.support.verdicts import PREDICTIONS, interval, measured, name_of, noise_estimates
from kvcore import analysis, verdict
from kvcore.analysis import Estimate, IntervalSettings, effect_size, paired_effect, policy
from kvcore.analysis.estimate import Beside
from kvcore.errors import KvError
from kvcore.verdict import (
    Prediction,
    Verdict,
    at_least,
    at_most,
    differs,
    does_not_help,
    helps,
    hurts,
    judging,
    negligible,
    reading,
)

INF = math.inf
DRAWS = 1500
SETTLED: tuple[Verdict, ...] = ("supported", "refuted")
quick = settings(max_examples=60, deadline=None)


def verdict_on(estimate: Estimate, prediction: Prediction) -> Verdict:
    return verdict.judge(estimate, prediction).verdict


# --- error rates ---------------------------------------------------------------------------------

SLACK = 0.005
"""A d of 80 samples: the jackknife misses on a side by this much more than 2.5 % at most."""


def judged_by_value(patch: pytest.MonkeyPatch) -> None:
    """Make every verdict one of the interval's middle alone."""
    right = judging.read_interval

    def by_value(
        estimate: Estimate, ends: tuple[float, float], *others: Any
    ) -> verdict.IntervalReading:
        return right(estimate, (sum(ends) / 2,) * 2, *others)

    patch.setattr(judging, "read_interval", by_value)


def check_error_rate(prediction: Prediction, mean: float, wrong: str, rate: float) -> None:
    """At an edge of the claim the wrong verdict comes no more often than the interval misses."""
    estimates = noise_estimates(mean, draws=DRAWS)
    count = sum(verdict_on(estimate, prediction) == wrong for estimate in estimates)
    chance = sps.binomtest(count, DRAWS, rate + SLACK, alternative="greater").pvalue
    assert chance > FALSE_ALARM, f"{prediction.name} {wrong} in {count} of {DRAWS}"


EDGES: list[tuple[Prediction, float, str, float]] = [
    (helps(0.3), 0.0, "supported", 0.025),
    (hurts(0.3), 0.0, "supported", 0.025),
    (differs(0.3), 0.0, "supported", 0.05),  # either side
    (does_not_help(0.3), 0.3, "supported", 0.025),
    (negligible(0.3), 0.3, "supported", 0.025),
    (negligible(0.3), -0.3, "supported", 0.025),
    (at_least(0.3), 0.3, "supported", 0.025),
    (at_most(0.3), 0.3, "supported", 0.025),
    (helps(0.3), 0.3, "refuted", 0.025),
    (hurts(0.3), -0.3, "refuted", 0.025),
    (differs(0.3), 0.3, "refuted", 0.025),
    (differs(0.3), -0.3, "refuted", 0.025),
    (does_not_help(0.3), 0.3, "refuted", 0.025),
    (negligible(0.3), 0.3, "refuted", 0.025),
    (negligible(0.3), -0.3, "refuted", 0.025),
    (at_least(0.3), 0.3, "refuted", 0.025),
    (at_most(0.3), 0.3, "refuted", 0.025),
]


@pytest.mark.parametrize(("prediction", "mean", "wrong", "rate"), EDGES, ids=name_of)
def test_at_its_edges_a_claim_errs_no_more_often_than_it_says(
    prediction: Prediction, mean: float, wrong: str, rate: float
) -> None:
    """A claim that noise alone supports or refutes; of helps and hurts at 0 this is A/A."""
    check_error_rate(prediction, mean, wrong, rate)


@pytest.mark.parametrize(("prediction", "mean", "wrong", "rate"), EDGES, ids=name_of)
def test_twin_error_rate_sees_a_verdict_by_point_estimate(
    prediction: Prediction,
    mean: float,
    wrong: str,
    rate: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A check of error rates that a verdict without an interval passes."""
    judged_by_value(monkeypatch)
    if wrong == "supported" and prediction.name in ("helps", "hurts", "differs"):
        # By its value alone a d near 0 is mostly too small: a narrow margin lets its sign show.
        prediction = replace(prediction, delta=0.05)
    with pytest.raises(AssertionError, match=f"{prediction.name} {wrong} in"):
        check_error_rate(prediction, mean, wrong, rate)


@pytest.mark.parametrize(
    ("prediction", "mean", "right"),
    [
        (helps(0.15), 0.45, "supported"),
        (hurts(0.15), -0.45, "supported"),
        (differs(0.15), -0.45, "supported"),
        (does_not_help(0.3), -0.1, "supported"),
        (negligible(0.5), 0.05, "supported"),
        (at_most(0.4), 0.0, "supported"),
        (helps(0.3), -0.1, "refuted"),
        (hurts(0.3), 0.1, "refuted"),
        (does_not_help(0.1), 0.6, "refuted"),
        (negligible(0.1), -0.6, "refuted"),
        (differs(0.5), 0.05, "refuted"),
        (at_least(0.4), 0.0, "refuted"),
    ],
    ids=name_of,
)
def test_clear_effects_are_judged(prediction: Prediction, mean: float, right: Verdict) -> None:
    """A rule that errs rarely because it says nothing."""
    judged = [str(verdict_on(e, prediction)) for e in noise_estimates(mean)]
    assert judged.count(right) > 0.9 * len(judged)


def check_published_effect(margin: float, n: int) -> None:
    """A claim whose published effect is exactly true is refuted in 5 % of draws at most."""
    prediction = hurts(margin, effect=-0.051)
    judged = [verdict_on(e, prediction) for e in noise_estimates(-0.051, n, 300)]
    refuted = judged.count("refuted")
    chance = sps.binomtest(refuted, len(judged), 0.05, alternative="greater").pvalue
    assert chance > 0.05, f"refuted in {refuted} of {len(judged)}"


@pytest.mark.parametrize("n", [1000, 2303])
@pytest.mark.parametrize("margin", [0.051 / 2, 0.01])
def test_a_true_published_effect_is_not_refuted(margin: float, n: int) -> None:
    """The published -0.051, exactly true, which regions around 0.09 refuted in 24 to 33 %."""
    check_published_effect(margin, n)


@pytest.mark.parametrize("n", [1000, 2303])
def test_twin_published_effect_sees_a_margin_beyond_it(n: int) -> None:
    """A check of refutations that a margin above the published effect passes."""
    with pytest.raises(AssertionError, match="refuted in"):
        check_published_effect(0.09, n)


def check_self_comparison() -> None:
    bare = np.random.default_rng(0).gamma(2.0, 1.0, 60)
    estimate = paired_effect(bare, bare).d
    verdicts = {p.name: verdict_on(estimate, p) for p in PREDICTIONS}
    assert verdicts["helps"] == verdicts["hurts"] == verdicts["differs"] == "refuted"
    assert verdicts["negligible"] == verdicts["does_not_help"] == "supported"


def test_bare_against_itself_is_negligible_and_neither_helps_nor_hurts() -> None:
    """An effect found where there is none at all."""
    check_self_comparison()


def test_twin_self_comparison_sees_closed_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of the self-comparison that 0 taken for a direction passes."""
    right = reading.read
    monkeypatch.setattr(
        judging,
        "read",
        lambda low, high, p: "direction-only" if low >= 0 and p.delta else right(low, high, p),
    )
    with pytest.raises(AssertionError):
        check_self_comparison()


# --- few clusters that tell ----------------------------------------------------------------------


def check_few_units() -> None:
    fewest = verdict.MIN_UNITS
    assert fewest == 20
    few = replace(interval(0.2, 0.3), clusters=fewest - 1)
    judged = verdict.judge(few, helps())
    assert (judged.verdict, judged.outcome) == ("inconclusive", "open")
    assert judged.why_open == "no verdict below 20 clusters; there are 19"
    enough = verdict.judge(replace(few, clusters=fewest), helps())
    assert (enough.verdict, enough.why_open) == ("supported", "")
    silent = verdict.judge(replace(interval(0.2, 0.3), informative=fewest - 1), helps())
    assert (silent.verdict, silent.outcome) == ("inconclusive", "open")
    assert silent.why_open == (
        "only 19 of 100 clusters tell of the effect; 20 are needed for a verdict"
    )
    telling = replace(interval(0.2, 0.3), informative=fewest)
    assert verdict_on(telling, helps()) == "supported"


def test_too_few_clusters_settle_nothing() -> None:
    """A verdict from too few units to trust the interval, or none without a reason."""
    check_few_units()


def check_one_sample_decides() -> None:
    """A gate that primes everything but one sample of 400, which priming harms."""
    rng = np.random.default_rng(1)
    benefit, hardness = rng.normal(0.3, 0.2, 400), np.full(400, 2.0)
    benefit[5], hardness[5] = 2.0, 1.0
    effect = policy.policy_effect(benefit, hardness, 1.5)
    for estimate, prediction in (
        (effect.gain_d, helps(0.2)),
        (effect.gain_d, negligible(0.2)),
        (effect.gain, helps(0.2, unit="nats/token")),
    ):
        judged = verdict.judge(estimate, prediction)
        assert judged.verdict == "inconclusive", prediction.name
        assert judged.why_open.startswith("only 1 of 400 clusters tell of the effect")
        assert verdict.p_value(estimate, prediction, judged.verdict) == 1.0


def test_one_sample_of_400_decides_nothing() -> None:
    """A gate refuted by the one sample that it did not prime."""
    check_one_sample_decides()


def check_one_of_57() -> None:
    x = np.r_[np.zeros(56), 1.0]
    for chosen in (FAST, IntervalSettings(method="bca")):
        d = effect_size(x, interval=chosen)
        # Were the clusters enough, the interval's end would still be no support.
        for estimate in (d, replace(d, informative=57)):
            assert verdict_on(estimate, helps()) != "supported"


def test_one_sample_among_zeros_supports_nothing() -> None:
    """An end of 3e-18, which is 0 but for rounding, taken for an effect."""
    check_one_of_57()


@pytest.mark.parametrize("check", [check_few_units, check_one_sample_decides])
def test_twin_few_units_sees_all_clusters_counted(
    check: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check of clusters that tell which all clusters pass."""
    monkeypatch.setattr(judging, "telling_units", lambda estimate: estimate.clusters)
    with pytest.raises(AssertionError):
        check()


def test_nan_settles_nothing() -> None:
    """A verdict from no number."""
    for nan in (
        interval(0.2, 0.3, value=math.nan),
        interval(math.nan, math.nan),
        interval(math.nan, 0.3, value=0.2),
    ):
        for prediction in PREDICTIONS:
            judged = verdict.judge(nan, prediction)
            assert (judged.verdict, judged.outcome) == ("inconclusive", "open")
            assert verdict.p_value(nan, prediction, "inconclusive") == 1.0


def test_the_other_interval_is_judged_by_the_same_rule() -> None:
    """A verdict of the other method from the interval that judges, or without its floor."""
    both = interval(0.2, 0.3, beside=Beside(-0.01, 0.3, "BCa bootstrap"))
    assert verdict.judge_beside(interval(0.2, 0.3), helps()) is None
    for floor in (0.0, 0.25):
        other = verdict.judge(interval(-0.01, 0.3), helps(), floor)
        assert verdict.judge_beside(both, helps(), floor) == other
    assert verdict_on(both, helps()) == "supported"


# --- p values ------------------------------------------------------------------------------------

base, cond, labels = paired_samples(5, n=80)
REAL: dict[str, Callable[[IntervalSettings], Estimate]] = {
    "d": lambda s: analysis.effect_size(base - cond, labels, s),
    "nats/token": lambda s: analysis.mean_difference(base - cond, None, s),
    "r": lambda s: analysis.correlation(base, cond - base, labels, s),
}


def check_p_by_level(name: str, share: float) -> None:
    """The interval of level 1 - p ends at the bound: p is 0.05 where that of 95 % ends there."""
    plain = REAL[name](IntervalSettings())
    bound = plain.ci_low + share * (plain.ci_high - plain.ci_low)
    up = bound < plain.value
    for make, reached in ((at_least, up), (at_most, not up)):
        said: Verdict = "supported" if reached else "refuted"
        p = verdict.p_value(plain, make(bound, unit=name), said)
        wider = REAL[name](IntervalSettings(confidence=1 - p))
        assert (wider.ci_low if up else wider.ci_high) == pytest.approx(bound, abs=1e-9)
        if share in (0.0, 1.0):
            assert p == pytest.approx(0.05, abs=1e-9)


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("share", [-0.5, 0.0, 0.2, 0.4, 0.7, 1.0, 1.3])
def test_the_p_value_is_the_level_at_which_the_interval_ends_there(name: str, share: float) -> None:
    """A p value of another scale, tail or distribution than the interval, r on Fisher's z included.

    1. the p value; 2. the interval computed again at the level 1 - p.
    """
    check_p_by_level(name, share)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("d", lambda e, bound: (float(sps.norm.sf((e.value - bound) / e.se)),) * 2),
        ("r", lambda e, bound: (float(sps.t.sf((e.value - bound) / e.se, e.clusters - 1)),) * 2),
        ("nats/token", lambda e, bound: verdict.tails(e, bound)[::-1]),
    ],
    ids=["normal", "no-fisher", "wrong-tail"],
)
def test_twin_level_sees_another_p(
    name: str, broken: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison with the interval's level that another p value passes."""
    monkeypatch.setattr(judging, "tails", broken)
    with pytest.raises((AssertionError, KvError)):
        check_p_by_level(name, 0.2)


def touching(prediction: Prediction, verdict_: str) -> list[Estimate]:
    """Estimates one of whose ends touches the bound that gives this verdict; delta is 0.1."""
    se = 0.03
    half = float(sps.t(99).isf(0.025)) * se
    sign, bound = prediction.direction, prediction.bound
    edges: dict[tuple[str, str], list[tuple[float, int]]] = {
        ("helps", "supported"): [(0.0, 1)],
        ("hurts", "supported"): [(0.0, 1)],
        ("helps", "refuted"): [(0.1, -1)],
        ("hurts", "refuted"): [(0.1, -1)],
        ("does_not_help", "supported"): [(0.1, -1)],
        ("does_not_help", "refuted"): [(0.1, 1)],
        ("negligible", "supported"): [(0.1, -1), (-0.1, 1)],
        ("negligible", "refuted"): [(0.1, 1), (-0.1, -1)],
        ("differs", "supported"): [(0.0, 1), (0.0, -1)],
        ("differs", "refuted"): [(0.1, -1), (-0.1, 1)],
        ("at_least", "supported"): [(bound * sign, 1)],
        ("at_least", "refuted"): [(bound * sign, -1)],
        ("at_most", "supported"): [(bound * sign, 1)],
        ("at_most", "refuted"): [(bound * sign, -1)],
    }
    return [measured(sign * (x + side * half), se) for x, side in edges[prediction.name, verdict_]]


def check_touching(prediction: Prediction, verdict_: Any) -> None:
    for estimate in touching(prediction, verdict_):
        assert verdict.p_value(estimate, prediction, verdict_) == pytest.approx(0.05, abs=1e-9)
        for step, open_ in ((1e-6, False), (-1e-6, True)):
            # Narrower by a hair it has the verdict, wider it has not.
            ends = (estimate.ci_low + step, estimate.ci_high - step)
            moved = replace(estimate, ci_low=ends[0], ci_high=ends[1])
            assert (verdict_on(moved, prediction) != verdict_) is open_, prediction.name


@pytest.mark.parametrize("verdict_", ["supported", "refuted"])
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name_of)
def test_p_is_5_percent_where_the_interval_only_just_gives_the_verdict(
    prediction: Prediction, verdict_: str
) -> None:
    """A p value of another bound than the verdict hangs on."""
    check_touching(prediction, verdict_)


def test_twin_touching_sees_the_margin_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of bounds that p values against 0 pass."""
    right = judging.tails
    monkeypatch.setattr(judging, "tails", lambda estimate, _bound: right(estimate, 0.0))
    with pytest.raises(AssertionError):
        check_touching(does_not_help(0.1), "supported")


@quick
@given(
    value=st.floats(-0.5, 0.5),
    se=st.floats(0.001, 0.3),
    prediction=st.sampled_from(PREDICTIONS),
)
def test_p_is_below_5_percent_where_and_only_where_there_is_a_verdict(
    value: float, se: float, prediction: Prediction
) -> None:
    """A verdict whose p value says otherwise."""
    estimate = measured(value, se)
    judged = verdict_on(estimate, prediction)
    p = verdict.p_value(estimate, prediction, judged)
    assert 0 <= p <= 1
    if p == pytest.approx(0.05, abs=1e-9):
        return
    assert (p < 0.05) is (judged != "inconclusive")


@quick
@given(a=st.floats(-0.4, 0.4), b=st.floats(-0.4, 0.4), fisher=st.booleans())
def test_p_values_are_monotone(a: float, b: float, fisher: bool) -> None:
    """A p value that falls as the claim asks for more."""
    low, high = sorted((a, b))
    estimate = replace(measured(0.1, 0.05), scale="fisher" if fisher else "identity")
    for make, sign in ((at_least, 1), (at_most, -1)):
        for said in SETTLED:
            one, two = (verdict.p_value(estimate, make(x), said) for x in (low, high))
            rises = sign if said == "supported" else -sign
            assert rises * one <= rises * two + 1e-12
    below, above = verdict.tails(estimate, a)
    assert below + above == pytest.approx(1)


def test_the_p_value_of_a_bootstrap_interval_belongs_to_its_own_end() -> None:
    """A p value of the jackknife beside a verdict of the bootstrap."""
    drawn = REAL["d"](IntervalSettings(resamples=500, method="bca"))
    for end, make in ((drawn.ci_low, at_least), (drawn.ci_high, at_most)):
        assert verdict.p_value(drawn, make(end), "supported") == pytest.approx(0.05, abs=1e-9)


def test_p_values_of_few_clusters_of_exact_intervals_and_of_certainty() -> None:
    """A p value from too few clusters, or none where the interval is exact."""
    few = measured(5.0, 0.1, n=19)
    for prediction in PREDICTIONS:
        for said in get_args(Verdict):
            assert verdict.p_value(few, prediction, said) == 1.0
    exact = analysis.proportion(30, 80)
    for end, make in ((exact.ci_low, at_least), (exact.ci_high, at_most)):
        p = verdict.p_value(exact, make(end, unit="proportion"), "supported")
        assert p == pytest.approx(0.05)
    sure = interval(0.5, 0.5)
    assert verdict.p_value(sure, at_least(0.4), "supported") == 0.0
    assert verdict.p_value(sure, at_least(0.6), "supported") == 1.0
    assert verdict.tails(interval(-INF, INF), 0.0) == (1.0, 1.0)


def test_familywise_is_bonferroni() -> None:
    """A level widened by another rule."""
    assert verdict.familywise(0.95, 1) == pytest.approx(0.95)
    assert verdict.familywise(0.95, 10) == pytest.approx(0.995)
