"""Paired effects follow their symmetries, agree with a second route and are exact where they can.

Each property is a check; its twin breaks the production function and must see the check fail.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats as sps

from invariants.support.intervals import BOOTSTRAP, FAST, RESAMPLES, change_intervals, numbers
from invariants.support.paired_samples import paired_samples
from kvcore import analysis
from kvcore.analysis import Estimate, IntervalSettings, moments, paired, quartiles, samples
from kvcore.analysis.interval import Interval, as_estimate
from kvcore.errors import KvError

TINY = IntervalSettings(resamples=9)
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=15, deadline=None)


# --- symmetries --------------------------------------------------------------------------------


def check_equivariance(seed: int, shift: float, scale: float) -> None:
    base, cond, labels = paired_samples(seed)
    plain = analysis.paired_effect(base, cond, labels, FAST)
    moved = analysis.paired_effect(scale * base + shift, scale * cond + shift, labels, FAST)
    assert numbers(moved.d) == pytest.approx(numbers(plain.d), rel=1e-6, abs=1e-9)
    scaled = [scale * x for x in numbers(plain.mean)]
    assert numbers(moved.mean) == pytest.approx(scaled, rel=1e-6, abs=1e-9 * scale)
    assert numbers(moved.win_rate) == numbers(plain.win_rate)
    added = analysis.mean_difference(base - cond + shift, labels, FAST)
    expected = [shift + x for x in numbers(plain.mean)]
    assert numbers(added) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    r = analysis.correlation(base, cond, labels, FAST)
    again = analysis.correlation(scale * base + shift, cond, labels, FAST)
    assert numbers(again) == pytest.approx(numbers(r), rel=1e-6, abs=1e-9)


@quick
@given(seed=seeds, shift=st.floats(-10, 10), scale=st.floats(0.01, 100))
def test_estimates_follow_shift_and_scale(seed: int, shift: float, scale: float) -> None:
    """An interval computed on another scale than its value."""
    check_equivariance(seed, shift, scale)


def test_twin_equivariance_sees_an_absolute_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of shift and scale that absolute errors pass."""
    change_intervals(monkeypatch, lambda low, high: (low - 0.1, high + 0.1))
    with pytest.raises(AssertionError):
        check_equivariance(1, 0.5, 10.0)


def check_swap(seed: int) -> None:
    base, cond, labels = paired_samples(seed)
    one = analysis.paired_effect(base, cond, labels, FAST)
    two = analysis.paired_effect(cond, base, labels, FAST)
    for a, b in ((one.d, two.d), (one.mean, two.mean)):
        assert [a.value, a.ci_low, a.ci_high] == pytest.approx([-b.value, -b.ci_high, -b.ci_low])
    w, v = one.win_rate, two.win_rate
    assert numbers(w) == pytest.approx([1 - v.value, 1 - v.ci_high, 1 - v.ci_low])
    assert one.median == pytest.approx(-two.median)


@quick
@given(seed=seeds)
def test_swapping_conditions_negates_the_effect(seed: int) -> None:
    """A number that favours one side of the comparison."""
    check_swap(seed)


def test_twin_swap_sees_a_one_sided_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of swapping that an error of one end passes."""
    change_intervals(monkeypatch, lambda low, high: (low, high + 0.01))
    with pytest.raises(AssertionError):
        check_swap(1)


def check_order(seed: int) -> None:
    base, cond, _ = paired_samples(seed)
    ids = np.array([f"s-{i:03}" for i in range(base.size)])
    order = np.random.default_rng(seed).permutation(base.size)
    for chosen in (FAST, BOOTSTRAP):
        one = analysis.effect_size(base - cond, ids, chosen)
        two = analysis.effect_size((base - cond)[order], ids[order], chosen)
        assert numbers(one) == pytest.approx(numbers(two), rel=1e-9)
        assert (one.se, one.informative) == pytest.approx((two.se, two.informative))
        assert one.effective == pytest.approx(two.effective)


@quick
@given(seed=seeds)
def test_with_ids_as_clusters_the_order_of_rows_changes_nothing(seed: int) -> None:
    """Resamples drawn, or clusters left out, in the order of the rows."""
    check_order(seed)


def test_twin_order_sees_labels_in_order_of_appearance(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of order that numbering clusters as they appear passes."""
    monkeypatch.setattr(samples, "cluster_numbers", lambda clusters, _n: pd.factorize(clusters)[0])
    with pytest.raises(AssertionError):
        check_order(1)


# --- width -------------------------------------------------------------------------------------


def mean_width(n: int, draws: int = 60) -> float:
    rng = np.random.default_rng(9)
    return float(
        np.mean(
            [
                2 * analysis.mean_difference(rng.exponential(size=n), interval=FAST).half_width
                for _ in range(draws)
            ]
        )
    )


def check_width() -> None:
    assert mean_width(4) / mean_width(32) > 1.5
    assert mean_width(50) / mean_width(200) == pytest.approx(2.0, rel=0.15)


def test_width_falls_as_one_over_root_n() -> None:
    """A width that does not depend on the number of samples as it must."""
    check_width()


def test_twin_width_sees_a_constant_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of widths that a constant width passes."""
    change_intervals(
        monkeypatch, lambda low, high: ((low + high) / 2 - 0.2, (low + high) / 2 + 0.2)
    )
    with pytest.raises(AssertionError):
        check_width()


# --- second routes -----------------------------------------------------------------------------


def check_plain_bootstrap(seed: int) -> None:
    """One sample per cluster.

    1. our bootstrap of per-cluster sums; 2. SciPy's own bootstrap of the plain statistic.
    """
    base, cond, _ = paired_samples(seed)
    x = base - cond

    def run(data: Any, statistic: Callable[..., Any], paired: bool) -> list[float]:
        ci = sps.bootstrap(
            data,
            statistic,
            paired=paired,
            vectorized=True,
            n_resamples=RESAMPLES,
            rng=np.random.default_rng(3),
        ).confidence_interval
        return [float(ci.low), float(ci.high)]

    ours = analysis.paired_effect(base, cond, interval=BOOTSTRAP)
    d = run((x,), lambda x, axis: np.mean(x, axis) / np.std(x, axis, ddof=1), False)
    mean = run((x,), lambda x, axis: np.mean(x, axis), False)
    r = run((base, cond), lambda a, b, axis: sps.pearsonr(a, b, axis=axis).statistic, True)
    assert numbers(ours.d)[1:] == pytest.approx(d, rel=1e-9)
    assert numbers(ours.mean)[1:] == pytest.approx(mean, rel=1e-9)
    correlated = analysis.correlation(base, cond, interval=BOOTSTRAP)
    assert numbers(correlated)[1:] == pytest.approx(r, rel=1e-9)


def check_clustered_bootstrap(seed: int) -> None:
    """Clusters.

    1. our bootstrap of per-cluster sums; 2. the statistic recomputed from the samples drawn.
    """
    base, cond, labels = paired_samples(seed)
    x = base - cond
    names = sorted(set(labels.tolist()), key=str)  # labels are sorted as text

    def d(chosen: NDArray[Any]) -> float:
        sample = np.concatenate([x[labels == names[int(c)]] for c in chosen])
        return float(np.mean(sample) / np.std(sample, ddof=1))

    def difference(chosen: NDArray[Any]) -> float:
        rows = np.concatenate([np.flatnonzero(labels == names[int(c)]) for c in chosen])
        a, b = x[rows], cond[rows] - 1
        return float(a.mean() / a.std(ddof=1) - b.mean() / b.std(ddof=1))

    def run(statistic: Callable[[NDArray[Any]], float]) -> list[float]:
        ci = sps.bootstrap(
            (np.arange(len(names)),),
            statistic,
            vectorized=False,
            n_resamples=60,
            rng=np.random.default_rng(3),
        ).confidence_interval
        return [float(ci.low), float(ci.high)]

    few = IntervalSettings(seed=3, resamples=60, method="bca")
    ours = analysis.effect_size(x, labels, few)
    assert numbers(ours)[1:] == pytest.approx(run(d), rel=1e-9)
    both = analysis.effect_difference(x, cond - 1, labels, few)
    assert numbers(both)[1:] == pytest.approx(run(difference), rel=1e-9)


def check_tests(seed: int) -> None:
    """Mean, share of wins and d.

    1. ours; 2. SciPy's paired t and pandas' SD.
    """
    base, cond, labels = paired_samples(seed)
    ours = analysis.paired_effect(base, cond, labels, IntervalSettings(resamples=2))
    t = float(sps.ttest_rel(base, cond).statistic)
    assert ours.d.value * math.sqrt(base.size) == pytest.approx(t)
    assert ours.mean.value == pytest.approx(base.mean() - cond.mean())
    assert ours.win_rate.value == pytest.approx(np.mean(base > cond))
    assert ours.d.sd == pytest.approx(pd.Series(base - cond).std())


CHECKS: dict[str, Callable[[int], None]] = {
    "plain": check_plain_bootstrap,
    "clustered": check_clustered_bootstrap,
    "tests": check_tests,
}


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("seed", range(4))
def test_a_second_route_gives_the_same_numbers(name: str, seed: int) -> None:
    """Sums that do not determine the statistic of a resample."""
    CHECKS[name](seed)


@pytest.mark.parametrize("name", CHECKS)
def test_twin_second_routes_see_another_denominator(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Second routes that population variance (1/n for 1/(n - 1)) would pass as well."""
    monkeypatch.setattr(moments, "variance", lambda n, s, ss: ss / n - (s / n) ** 2)
    population = classmethod(lambda cls, x: cls(float(np.mean(x)), float(np.std(x))))
    monkeypatch.setattr(moments.Standardization, "of", population)
    with pytest.raises(AssertionError):
        CHECKS[name](0)


# --- quartiles ---------------------------------------------------------------------------------


def check_quartiles(seed: int) -> None:
    """Numbers by quartile.

    1. ours; 2. pandas' qcut and groupby.
    """
    base, cond, labels = paired_samples(seed, n=80)
    hard = np.random.default_rng(seed).normal(size=80)
    table = analysis.quartile_table(hard, base - cond, labels, FAST)
    expected = pd.DataFrame({"q": pd.qcut(hard, 4, labels=False) + 1, "x": base - cond, "h": hard})
    groups = expected.groupby("q")
    assert table["quartile"].tolist() == [1, 2, 3, 4]
    assert table["n"].tolist() == groups.size().tolist()
    assert table["benefit"].tolist() == pytest.approx(groups["x"].mean().tolist())
    assert table["hardness"].tolist() == pytest.approx(groups["h"].mean().tolist())
    d = (groups["x"].mean() / groups["x"].std()).tolist()
    assert table["d"].tolist() == pytest.approx(d)
    wins = groups["x"].apply(lambda x: (x > 0).mean()).tolist()
    assert table["win_rate"].tolist() == pytest.approx(wins)
    for quartile in (1, 4):
        e = analysis.quartile_effect(hard, base - cond, quartile, labels, FAST)
        row = table.iloc[quartile - 1]
        assert numbers(e) == pytest.approx([row["d"], row["d_low"], row["d_high"]])


@pytest.mark.parametrize("seed", range(3))
def test_quartiles_are_those_of_pandas(seed: int) -> None:
    """Samples counted in the wrong quartile, or a row of the table mixed up."""
    check_quartiles(seed)


def test_twin_quartiles_see_wrong_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of quartiles that fixed cut points pass."""
    monkeypatch.setattr(
        quartiles, "quartile_numbers", lambda h: np.searchsorted([-1.0, 0, 1], h) + 1
    )
    with pytest.raises(AssertionError):
        check_quartiles(0)


def test_a_quartile_that_ties_leave_empty_is_a_row_without_numbers() -> None:
    """A crash, or a row left out, where ties leave a quartile empty."""
    table = analysis.quartile_table([1.0] * 8, np.arange(8.0), interval=TINY)
    assert table["n"].tolist() == [8, 0, 0, 0]
    assert table["benefit"].isna().tolist() == [False, True, True, True]
    assert analysis.quartile_table([], [])["n"].tolist() == [0, 0, 0, 0]


# --- degenerate input --------------------------------------------------------------------------


def check_identical(n: int = 50) -> None:
    x = np.linspace(1.0, 2.0, n)
    effect = analysis.paired_effect(x, x)
    for e in (effect.d, effect.mean):
        assert numbers(e) == [0.0, 0.0, 0.0]
        assert e.method == "exact: all differences are equal"
    assert effect.median == 0.0
    assert effect.win_rate.n == 0
    assert numbers(effect.win_rate)[1:] == [0.0, 1.0]
    same = analysis.effect_difference(x, x)
    assert numbers(same) == [0.0, 0.0, 0.0]
    assert analysis.noise_floor(x - x) == 0.0


def test_a_condition_against_itself_is_exactly_zero() -> None:
    """0 divided by 0 where a condition is compared with itself."""
    check_identical()


def test_twin_identical_sees_the_branch_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of identical conditions that NaN (0 / 0, without the exact branch) passes."""
    monkeypatch.setattr(
        paired,
        "constant_effect",
        lambda rows, given: [
            as_estimate(math.nan, Interval(0.0, 0.0, ""), rows, given, unit)
            for unit in ("d", "nats/token")
        ],
    )
    with pytest.raises(AssertionError):
        check_identical()


def check_few_differences(n: int, differing: int, size: float) -> None:
    """Where few samples differ, d is bounded all the same."""
    x = np.zeros(n)
    x[:differing] = size
    drawn, left_out = (
        analysis.paired_effect(x, np.zeros(n), interval=chosen).d for chosen in (BOOTSTRAP, FAST)
    )
    for d, method in ((drawn, "BCa"), (left_out, "jackknife")):
        assert d.value == pytest.approx(x.mean() / x.std(ddof=1))
        assert d.method.startswith(method)
    inner, outer = sorted([np.sign(size) * drawn.ci_low, np.sign(size) * drawn.ci_high])
    # A resample holds k of them with the binomial's probability: none in 37 % if there is one.
    most = sps.binom.ppf(0.999, n, differing / n)
    several = np.repeat([1.0, 0.0], [int(most), n - int(most)])
    assert inner == 0.0
    assert 0 < outer <= several.mean() / several.std(ddof=1)
    # Without those that differ d is 0: no sample that is left out moves it by more than d.
    most_moved = 1.01 * abs(left_out.value) * math.sqrt(differing)
    assert left_out.df is not None
    assert 0 < left_out.half_width <= sps.t(left_out.df).isf(0.025) * most_moved
    # Few decide: t has few degrees of freedom, however many say nothing.
    assert left_out.df < 2 + 2 * differing


@pytest.mark.parametrize("size", [0.3, -0.0593])
@pytest.mark.parametrize(("n", "differing"), [(400, 1), (150, 2)])
def test_few_differences_bound_d(n: int, differing: int, size: float) -> None:
    """A mean of 0 divided by the rounding of its own SD in resamples without any difference."""
    check_few_differences(n, differing, size)


def test_twin_few_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of few differences that a d divided by rounding passes."""
    right = samples.CompleteRows.sums
    monkeypatch.setattr(
        samples.CompleteRows,
        "sums",
        lambda self, *weights: right(self, *weights[:-1], np.ones(self.n)),
    )
    with pytest.raises(AssertionError):
        check_few_differences(400, 1, 0.3)


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_samples_bound_nothing(n: int) -> None:
    """A finite interval, or a crash, from no sample or one."""
    effect = analysis.paired_effect(np.ones(n), np.zeros(n))
    assert math.isnan(effect.d.value)
    assert numbers(effect.mean)[1:] == [-math.inf, math.inf]
    r = analysis.correlation(np.ones(n), np.zeros(n))
    assert (math.isnan(r.value), r.ci_low, r.ci_high) == (True, -1.0, 1.0)
    assert analysis.noise_floor(np.ones(n)) == math.inf
    assert math.isnan(analysis.effect_difference(np.ones(n), np.zeros(n)).value)


def test_two_samples_bound_the_mean_but_not_d() -> None:
    """A bounded d from two samples, half of whose resamples have no variance."""
    effect = analysis.paired_effect([1.0, 2.0], [0.0, 0.5])
    assert numbers(effect.d)[1:] == [-math.inf, math.inf]
    assert math.isfinite(effect.mean.ci_low)


def test_one_cluster_bounds_nothing() -> None:
    """An interval from samples that are all one unit."""
    effect = analysis.paired_effect(np.arange(9.0), np.zeros(9), ["a"] * 9)
    assert numbers(effect.d)[1:] == [-math.inf, math.inf]
    assert effect.d.method == "none: 1 independent unit(s), 2 needed"
    assert numbers(effect.win_rate) == pytest.approx([1.0, 0.025, 1.0])


def test_equal_nonzero_differences_have_a_mean_but_no_d() -> None:
    """A finite d where there is no variance to divide by."""
    effect = analysis.paired_effect(np.full(20, 1.5), np.ones(20))
    assert numbers(effect.mean) == [0.5, 0.5, 0.5]
    assert numbers(effect.d) == [math.inf, -math.inf, math.inf]


def test_incomplete_pairs_are_excluded_and_counted() -> None:
    """A NaN that spreads, or a pair with one that still counts."""
    base, cond, labels = paired_samples(6)
    holed = base.copy()
    holed[[3, 8]] = np.nan
    complete = ~np.isnan(holed)
    effect = analysis.paired_effect(holed, cond, labels, FAST)
    clean = analysis.paired_effect(base[complete], cond[complete], labels[complete], FAST)
    assert (effect.excluded, clean.excluded) == (2, 0)
    assert analysis.to_plain(effect) | {"excluded": 0} == analysis.to_plain(clean)


def test_a_cluster_whose_samples_are_all_excluded_is_not_resampled() -> None:
    """Empty clusters drawn as if they held samples."""
    e = analysis.mean_difference([np.nan, 1.0, 2.0, 3.0], ["a", "b", "c", "d"], TINY)
    assert (e.n, e.clusters) == (3, 3)


def test_a_ratio_of_means_is_one_of_the_same_samples() -> None:
    """A ratio whose two means come from different resamples, or that a NaN breaks."""
    x = np.random.default_rng(2).uniform(1, 2, 30)
    twice = analysis.ratio_of_means(2 * x, x)
    assert numbers(twice) == pytest.approx([2, 2, 2], abs=1e-12)
    x[3] = np.nan
    assert analysis.ratio_of_means(2 * x, x).n == 29


def test_interval_widths_are_those_of_samples_without_replacement() -> None:
    """Widths of other samples, sizes or settings than those asked for.

    1. ours; 2. the same draws made here, one interval each.
    """
    x, drawn = np.random.default_rng(4).exponential(size=30), IntervalSettings(0.9, 3, 50)
    rng = np.random.default_rng(3)
    expected = [
        [
            2 * analysis.mean_difference(rng.choice(x, n, replace=False), interval=drawn).half_width
            for n in (4, 30)
        ]
        for _ in range(3)
    ]
    assert analysis.interval_widths(x, (4, 30), 3, drawn).tolist() == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: analysis.paired_effect([1.0, 2.0], [1.0]), "must have equal lengths"),
        (lambda: analysis.paired_effect([[1.0]], [[1.0]]), "got 2 dimensions"),
        (
            lambda: analysis.paired_effect([1.0, np.inf], [1.0, 2.0]),
            r"baseline\[1\] must be finite; got inf",
        ),
        (
            lambda: analysis.paired_effect(pd.Series([1.0], ["a"]), pd.Series([1.0], ["b"])),
            "align",
        ),
        (lambda: analysis.effect_size([1.0, 2.0], ["a"]), "one label for each of 2"),
        (
            lambda: analysis.effect_size([1.0, 2.0], np.array(["a", None])),
            r"clusters\[1\] must be a label; got None",
        ),
        (
            lambda: analysis.quartile_effect([1.0], [1.0], 5),  # type: ignore[arg-type]
            "quartile must be 1 .easiest. to 4 .hardest.; got 5",
        ),
        (lambda: analysis.interval_widths([1.0, 2.0], (1, 2), 3), "got sizes 1 to 2 of 2 values"),
        (lambda: analysis.interval_widths([1.0, 2.0], (2, 3), 3), "got sizes 2 to 3 of 2 values"),
        (lambda: analysis.interval_widths([1.0, np.nan], (2,), 3), "1 NaN"),
        (lambda: analysis.noise_floor(), "controls must be .*; got none"),
        (
            lambda: analysis.floor_on_scale(analysis.proportion(1, 2), math.nan),
            "floor_nats must be a number of nats >= 0; got nan",
        ),
    ],
)
def test_bad_input_is_one_clear_line(call: Callable[[], object], message: str) -> None:
    """Bad input that is computed with, or an error that does not say what was passed."""
    with pytest.raises(KvError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


# --- noise floor -------------------------------------------------------------------------------


def check_floor() -> None:
    """The floor is above the mean of every control, and near it where noise is small."""
    rng = np.random.default_rng(1)
    quiet, biased = rng.normal(0, 1e-6, 200), rng.normal(-1e-3, 1e-6, 200)
    assert analysis.noise_floor(quiet, interval=FAST) < 1e-6
    floor = analysis.noise_floor(quiet, biased, interval=FAST)
    assert abs(biased.mean()) < floor < 1.01e-3
    assert floor == analysis.noise_floor(biased, quiet, interval=FAST)


def test_the_noise_floor_is_that_of_the_noisiest_control() -> None:
    """A floor below what a control shows that measuring alone does."""
    check_floor()


def test_twin_floor_sees_an_interval_around_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of the floor that intervals around 0 pass."""
    change_intervals(monkeypatch, lambda low, high: ((low - high) / 2, (high - low) / 2))
    with pytest.raises(AssertionError):
        check_floor()


def test_a_floor_in_nats_is_a_floor_on_the_scale_of_the_estimate() -> None:
    """A floor in nats held against a d as it stands."""
    base, cond, _ = paired_samples(3)
    x, y = base - cond, base - 1
    effect = analysis.paired_effect(base, cond, interval=FAST)
    sd, other = np.std(x, ddof=1), np.std(y, ddof=1)
    both: Estimate = analysis.effect_difference(x, y, interval=FAST)
    assert analysis.floor_on_scale(effect.mean, 0.01) == 0.01
    assert analysis.floor_on_scale(effect.d, 0.01) == pytest.approx(0.01 / sd)
    assert analysis.floor_on_scale(both, 0.01) == pytest.approx(0.01 / sd + 0.01 / other)
    assert analysis.floor_on_scale(effect.win_rate, 0.01) == 0.0
    assert analysis.floor_on_scale(analysis.effect_size([0.0] * 9), 0.01) == 0.0
    assert analysis.floor_on_scale(analysis.effect_size([0.5] * 9), 0.01) == math.inf
