"""The jackknife is the one that its formula says, agrees with other people's code and with BCa.

Each property is a check; its twin breaks the production function and must see the check fail.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sps

from invariants.support.intervals import FAST, change_intervals, numbers, stretch_intervals
from invariants.support.paired_samples import paired_samples
from invariants.support.ranked_tables import ranked_table
from kvcore import analysis
from kvcore.analysis import Estimate, IntervalSettings, interval, jackknife, samples
from kvcore.analysis import ranking as rk

quick = settings(max_examples=15, deadline=None)
BOTH = IntervalSettings(resamples=2000, beside=True)


# --- a second route ------------------------------------------------------------------------------


def cohens_d(x: Any) -> float:
    return float(np.mean(x) / np.std(x, ddof=1))


def looped(
    frame: pd.DataFrame, statistic: Callable[[pd.DataFrame], float], fisher: bool = False
) -> list[float]:
    """Standard error and interval from the raw samples, one cluster dropped after the other."""
    to, back = (np.arctanh, np.tanh) if fisher else (float, float)
    names = frame["cluster"].unique()
    whole = to(statistic(frame))
    rest = [to(statistic(frame[frame["cluster"] != name])) for name in names]
    k = len(names)
    se = math.sqrt((k - 1) / k * sum((value - whole) ** 2 for value in rest))
    # 2 V^2 / Var(V) of a variance, whose own variance follows from the kurtosis (pandas: G2).
    df = 1 / (max(0.0, float(pd.Series(rest).kurt())) / k / 2 + 1 / (k - 1))
    half = sps.t(df).isf(0.025) * se
    return [se, float(back(whole - half)), float(back(whole + half))]


def check_loop(seed: int) -> None:
    base, cond, labels = paired_samples(seed)
    for clusters in (labels, np.arange(base.size)):
        frame = pd.DataFrame({"cluster": clusters, "a": base, "b": cond, "x": base - cond})
        routes: list[tuple[Estimate, list[float]]] = [
            (
                analysis.effect_size(base - cond, clusters),
                looped(frame, lambda f: cohens_d(f["x"])),
            ),
            (
                analysis.mean_difference(base - cond, clusters),
                looped(frame, lambda f: float(f["x"].mean())),
            ),
            (
                analysis.effect_difference(base - cond, cond - 1, clusters),
                looped(frame, lambda f: cohens_d(f["x"]) - cohens_d(f["b"] - 1)),
            ),
            (
                analysis.correlation(base, cond, clusters),
                looped(frame, lambda f: float(f["a"].corr(f["b"])), fisher=True),
            ),
            (
                analysis.oldham(base, cond, clusters),
                looped(frame, lambda f: float(f["x"].corr(f["a"] + f["b"])), fisher=True),
            ),
        ]
        for estimate, expected in routes:
            got = [estimate.se, estimate.ci_low, estimate.ci_high]
            assert got == pytest.approx(expected, rel=1e-7), estimate.unit


def check_auc_loop(seed: int) -> None:
    frame = ranked_table(seed, 12, 5)
    frame["cluster"] = frame["query_id"]
    estimate = rk.estimate(frame)
    expected = looped(frame, rk.auc)
    expected[2] = min(expected[2], 1.0)  # the range of an AUC
    assert [estimate.se, estimate.ci_low, estimate.ci_high] == pytest.approx(expected, rel=1e-9)


@quick
@given(seed=st.integers(0, 2**32 - 1))
def test_sums_give_the_jackknife_of_the_samples(seed: int) -> None:
    """Sums that do not determine the statistic without a cluster, or another variance or level.

    1. ours, from per-cluster sums; 2. each cluster dropped from the raw samples in a loop.
    """
    check_loop(seed)


@pytest.mark.parametrize("seed", range(3))
def test_counts_give_the_jackknife_of_the_queries(seed: int) -> None:
    """A query left out of one score but not of the other, or passages left out for queries.

    1. ours, from counts of queries; 2. each query dropped from the table in a loop.
    """
    check_auc_loop(seed)


def without_n_minus_one(*args: Any) -> jackknife.Jackknife:
    """The variance without its factor (k - 1) / k."""
    right = jackknife.jackknife(*args)
    return replace(right, se=right.se * math.sqrt(right.clusters / (right.clusters - 1)))


@pytest.mark.parametrize("check", [check_loop, check_auc_loop], ids=["sums", "counts"])
def test_twin_loop_sees_another_factor(
    check: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second route that a variance of another factor passes."""
    monkeypatch.setattr(interval, "jackknife", without_n_minus_one)
    with pytest.raises(AssertionError):
        check(1)


@pytest.mark.parametrize("check", [check_loop, check_auc_loop], ids=["sums", "counts"])
def test_twin_loop_sees_normal_quantiles(
    check: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second route that the normal distribution in place of t passes."""
    monkeypatch.setattr(jackknife, "t_quantile", lambda q, _df: float(sps.norm.ppf(q)))
    with pytest.raises(AssertionError):
        check(1)


def test_twin_loop_sees_clusters_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second route that samples left out one by one pass."""
    monkeypatch.setattr(samples, "cluster_numbers", lambda _clusters, n: np.arange(n))
    with pytest.raises(AssertionError):
        check_loop(1)


def test_twin_loop_sees_an_r_on_its_own_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second route that an r without Fisher's z passes."""
    right = jackknife.jackknife
    monkeypatch.setattr(
        interval, "jackknife", lambda value, rest, _scale: right(value, rest, "identity")
    )
    with pytest.raises(AssertionError):
        check_loop(1)


# --- other people's code -------------------------------------------------------------------------


def check_other_implementations() -> None:
    rng = np.random.default_rng(7)
    x = rng.uniform(-1.0, 2.0, 60)  # without long tails t has the textbook's k - 1
    ours = analysis.mean_difference(x)
    scipys = sps.ttest_1samp(x, 0).confidence_interval()
    assert numbers(ours)[1:] == pytest.approx([scipys.low, scipys.high], rel=1e-9)
    robust = sm.OLS(x, np.ones(60)).fit(cov_type="HC3", use_t=True)
    assert ours.se == pytest.approx(robust.bse[0] * math.sqrt(59 / 60), rel=1e-9)
    # Of clusters of equal sizes CV1 (statsmodels' own) and CV3 of a mean are the same number.
    labels = np.repeat(np.arange(15), 4)
    groups = {"cov_type": "cluster", "cov_kwds": {"groups": labels}, "use_t": True}
    clustered = sm.OLS(x + labels / 15, np.ones(60)).fit(**groups)
    ours = analysis.mean_difference(x + labels / 15, labels)
    assert ours.se == pytest.approx(clustered.bse[0], rel=1e-9)
    assert numbers(ours)[1:] == pytest.approx(clustered.conf_int()[0].tolist(), rel=1e-9)


def test_the_mean_has_the_interval_of_scipy_and_statsmodels() -> None:
    """A jackknife that is no cluster-robust variance.

    1. ours; 2. SciPy's t interval; 3. statsmodels' HC3, (n - 1) / n of it, and its clustered OLS.
    """
    check_other_implementations()


def test_twin_implementations_see_another_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison with other code that a variance of another factor passes."""
    monkeypatch.setattr(interval, "jackknife", without_n_minus_one)
    with pytest.raises(AssertionError):
        check_other_implementations()


def normal_samples(seed: int, n: int = 150) -> dict[str, Estimate]:
    """Estimates over well-behaved samples, with the other method's interval beside."""
    x, y = np.random.default_rng(seed).normal(size=(2, n))
    y = 0.5 * x + y
    return {
        "d": analysis.effect_size(x + 0.3, interval=BOTH),
        "mean": analysis.mean_difference(x + 0.3, interval=BOTH),
        "r": analysis.correlation(x, y, interval=BOTH),
        "d difference": analysis.effect_difference(x + 0.3, y, interval=BOTH),
        "AUC": rk.estimate(ranked_table(seed, 60, 6), interval=BOTH),
    }


def check_methods_agree(seed: int) -> None:
    for name, e in normal_samples(seed).items():
        assert e.beside is not None
        assert e.beside.method.startswith("BCa bootstrap"), name
        ratio = 2 * e.half_width / (e.beside.high - e.beside.low)
        assert 0.9 < ratio < 1.12, f"{name}: the jackknife is {ratio:.3f} times as wide"
        assert e.ci_low == pytest.approx(e.beside.low, abs=0.25 * e.half_width), name
        assert e.ci_high == pytest.approx(e.beside.high, abs=0.25 * e.half_width), name


@pytest.mark.parametrize("seed", range(2))
def test_jackknife_and_bootstrap_agree_where_both_must(seed: int) -> None:
    """One method that is wrong.

    1. the jackknife; 2. the BCa bootstrap of the same samples.
    """
    check_methods_agree(seed)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_twin_methods_see_one_of_them_stretched(
    factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison of methods that a jackknife of another width passes."""
    ends = jackknife.Jackknife.ends

    def stretched(self: jackknife.Jackknife, confidence: float) -> tuple[float, float]:
        low, high = ends(self, confidence)
        half = factor * (high - low) / 2
        return (low + high) / 2 - half, (low + high) / 2 + half

    monkeypatch.setattr(jackknife.Jackknife, "ends", stretched)
    with pytest.raises(AssertionError, match="times as wide"):
        check_methods_agree(0)


# --- which method judges -------------------------------------------------------------------------


def check_beside() -> None:
    base, cond, labels = paired_samples(2)
    few = IntervalSettings(seed=3, resamples=200)

    def d(**changes: Any) -> Estimate:
        return analysis.effect_size(base - cond, labels, replace(few, **changes))

    alone, drawn = d(), d(method="bca")
    assert alone.beside is None
    assert drawn.beside is None
    assert alone.method.startswith("jackknife-t over ")
    assert drawn.method.startswith("BCa bootstrap over ")
    assert numbers(alone) != numbers(drawn)
    for method, own, other in (("jackknife", alone, drawn), ("bca", drawn, alone)):
        both = d(method=method, beside=True)
        assert (numbers(both), both.method) == (numbers(own), own.method)
        assert both.beside is not None
        beside = [both.value, both.beside.low, both.beside.high]
        assert (beside, both.beside.method) == (numbers(other), other.method)
        assert (both.se, both.informative, both.effective) == (
            alone.se,
            alone.informative,
            alone.effective,
        )
    assert replace(few, beside=True).alone == few


def test_the_method_chosen_judges_and_the_other_stands_beside() -> None:
    """An interval shown as that of the other method, or one that another setting moves."""
    check_beside()


def test_twin_beside_sees_the_method_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of methods that a jackknife in every place passes."""
    right = interval.ordered
    monkeypatch.setattr(
        interval,
        "ordered",
        lambda own, other, spread, chosen: right(
            own, other, spread, replace(chosen, method="jackknife")
        ),
    )
    with pytest.raises(AssertionError):
        check_beside()


def test_the_jackknife_draws_nothing() -> None:
    """An interval that judges and moves with a seed or a number of resamples."""
    x = np.random.default_rng(0).normal(size=40)
    one, two = (
        analysis.effect_size(x, interval=IntervalSettings(seed=seed, resamples=resamples))
        for seed, resamples in ((0, 10), (5, 10_000))
    )
    assert one == two


# --- edges ---------------------------------------------------------------------------------------


def check_undefined() -> None:
    """Undefined without its first cluster: nothing is bounded but by the statistic's range."""

    def statistic(counts: Any) -> Any:
        total = counts.sum(axis=-1)
        return np.where(counts[..., 0] > 0, (counts @ np.arange(5.0)) / total / 4, np.nan)

    e = analysis.resampled(statistic, list("abcde"), unit="AUC", bounds=(0, 1))
    assert numbers(e) == [0.5, 0, 1]
    assert e.method == "none: undefined where some cluster is left out"
    assert e.se is not None
    assert math.isnan(e.se)


def test_a_statistic_that_one_cluster_decides_whether_it_exists_is_unbounded() -> None:
    """An interval from the clusters that may be left out alone."""
    check_undefined()


def test_twin_undefined_sees_nan_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of undefined statistics that leaving out NaN passes."""
    right = jackknife.jackknife
    monkeypatch.setattr(
        interval, "jackknife", lambda value, rest, scale: right(value, rest[~np.isnan(rest)], scale)
    )
    with pytest.raises(AssertionError):
        check_undefined()


def test_ends_do_not_leave_the_range_of_the_statistic() -> None:
    """An AUC above 1."""
    frame = ranked_table(3, 30, 6)
    frame["score"] = np.where(frame["query_id"] == "q000", 0.0, frame["relevant"])
    e = rk.estimate(frame)
    assert (e.value < 1, e.ci_high) == (True, 1.0)


def test_a_perfect_correlation_is_exact() -> None:
    """Fisher's z of 1, which is infinite."""
    x = np.arange(30.0)
    for sign in (1, -1):
        e = analysis.correlation(x, sign * 2 * x + 1)
        assert numbers(e) == pytest.approx([sign] * 3)
    near = x.copy()
    near[0] = 20.0  # but for one sample: without it the correlation is perfect
    e = analysis.correlation(x, near)
    assert -1 < e.ci_low < e.value < e.ci_high <= 1


def check_snapped() -> None:
    """A single 1 among 56 zeros: whether it is above 0 is not for rounding to say."""
    x = np.r_[np.zeros(56), 1.0]
    drawn = IntervalSettings(method="bca", resamples=10_000)
    for e in (analysis.effect_size(x, interval=drawn), analysis.mean_difference(x, interval=drawn)):
        assert e.ci_low <= 0.0, e.unit
    assert analysis.mean_difference(x).ci_low < 0
    spread = jackknife.jackknife(0.5, np.full(9, 0.5) + np.arange(9) / 90, "identity")
    rounding = spread.se * 3
    for end in (1e-13, -1e-13):
        assert interval.snapped(end * rounding, spread) == 0.0
    for end in (1e-11, -1e-11):
        assert interval.snapped(end * rounding, spread) == end * rounding


def test_an_end_that_is_0_but_for_rounding_is_0() -> None:
    """Support by an interval that rounding alone keeps from 0."""
    check_snapped()


def test_twin_snapped_sees_rounding_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of rounding that no snapping passes."""
    monkeypatch.setattr(interval, "SNAP", 0.0)
    with pytest.raises(AssertionError):
        check_snapped()


# --- how many clusters tell ----------------------------------------------------------------------


def check_informative() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=90)
    every = analysis.effect_size(x)
    assert every.informative == 90
    assert every.effective is not None
    # Influences of a d near 0 are as normal noise: (E v)^2 / E v^2 of squares is 1 / 3.
    assert 15 < every.effective < 50
    one = np.zeros(400)
    one[7] = 0.3
    for e in (analysis.effect_size(one), analysis.mean_difference(one)):
        assert e.informative == 1
        assert e.effective == pytest.approx(1, abs=0.05)
    few = np.zeros(400)
    few[:12] = rng.normal(size=12)
    clusters = np.arange(400) // 4
    assert analysis.effect_size(few).informative == 12
    assert analysis.effect_size(few, clusters).informative == 3
    alike = analysis.mean_difference(np.tile([1.0, -1.0], 20))
    assert alike.effective == pytest.approx(40)
    most = analysis.resampled(
        lambda counts: (counts @ np.r_[np.zeros(50), np.arange(1.0, 6)]) / counts.sum(axis=-1),
        np.arange(55),
        unit="AUC",
    )
    assert most.informative == 5


def test_clusters_that_tell_of_an_effect_are_counted() -> None:
    """Clusters counted that all say the same, or one that decides taken for many."""
    check_informative()


def test_twin_informative_sees_every_cluster_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of informative clusters that counting all passes."""
    monkeypatch.setattr(jackknife, "commonest", lambda _influence: 0)
    with pytest.raises(AssertionError):
        check_informative()


def test_twin_effective_sees_influences_not_squared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of effective clusters that their plain number passes."""
    right = jackknife.jackknife

    def plain(*args: Any) -> jackknife.Jackknife:
        spread = right(*args)
        return replace(spread, effective=float(spread.clusters))

    monkeypatch.setattr(interval, "jackknife", plain)
    with pytest.raises(AssertionError):
        check_informative()


def test_twin_helpers_change_both_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """A helper of other twins that leaves one method's interval as it is."""
    x = np.random.default_rng(0).normal(size=40)
    drawn = replace(FAST, method="bca")

    def widths() -> Sequence[float]:
        return [analysis.mean_difference(x, interval=s).half_width for s in (FAST, drawn)]

    before = widths()
    stretch_intervals(monkeypatch, 2.0)
    assert widths() == pytest.approx([2 * width for width in before])
    change_intervals(monkeypatch, lambda _low, _high: (0.0, 1.0))
    assert widths() == [0.5, 0.5]
