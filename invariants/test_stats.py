"""Intervals cover what they say, estimates agree with SciPy's by a second route.

Each property is a check; its twin breaks the production function and must see the check fail.
Simulations are seeded. The binomial bounds would let one sound interval in a thousand fail.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sps

from kvcore import stats
from kvcore.errors import KvError
from kvcore.stats import Estimate

FALSE_ALARM = 1e-3
# BCa intervals are second-order accurate: at these sizes they may miss 95 % by this much.
ASYMPTOTIC = 0.025
RESAMPLES = 300

seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=15, deadline=None)


# --- coverage ----------------------------------------------------------------------------------


def clustered(rng: np.random.Generator, k: int, size: int, shared: float) -> np.ndarray:
    """Unit-variance noise, (k * size,), of which a share is common to each cluster."""
    common = np.repeat(rng.normal(size=k), size)
    return math.sqrt(shared) * common + math.sqrt(1 - shared) * rng.normal(size=k * size)


LABELS = np.repeat(np.arange(40), 4)
Draw = Callable[[np.random.Generator, int], tuple[Estimate, float]]


def mean_case(rng: np.random.Generator, seed: int) -> tuple[Estimate, float]:
    x = rng.gamma(4.0, 0.5, 60)
    return stats.mean_difference(x, seed=seed, resamples=RESAMPLES), 2.0


def d_case(rng: np.random.Generator, seed: int) -> tuple[Estimate, float]:
    x = rng.laplace(0.4, 1.0, 80)
    return stats.effect_size(x, seed=seed, resamples=RESAMPLES), 0.4 / math.sqrt(2)


def clustered_d_case(rng: np.random.Generator, seed: int) -> tuple[Estimate, float]:
    x = 0.3 + clustered(rng, 40, 4, 0.7)
    return stats.effect_size(x, LABELS, seed=seed, resamples=RESAMPLES), 0.3


def difference_case(rng: np.random.Generator, seed: int) -> tuple[Estimate, float]:
    common = rng.normal(size=80)
    a, b = 0.5 + common + rng.normal(size=80), 0.2 + common + rng.normal(size=80)
    expected = 0.3 / math.sqrt(2)
    return stats.effect_difference(a, b, seed=seed, resamples=RESAMPLES), expected


def pearson_case(rng: np.random.Generator, seed: int) -> tuple[Estimate, float]:
    x, noise = rng.normal(size=(2, 80))
    y = 0.5 * x + math.sqrt(0.75) * noise
    return stats.correlation(x, y, seed=seed, resamples=RESAMPLES), 0.5


def spearman_case(rng: np.random.Generator, seed: int) -> tuple[Estimate, float]:
    x, noise = rng.normal(size=(2, 80))
    y = np.exp(0.5 * x + math.sqrt(0.75) * noise)
    estimate = stats.correlation(x, y, kind="spearman", seed=seed, resamples=RESAMPLES)
    return estimate, 6 / math.pi * math.asin(0.25)


def clustered_r_case(rng: np.random.Generator, seed: int) -> tuple[Estimate, float]:
    x, noise = clustered(rng, 40, 4, 0.8), clustered(rng, 40, 4, 0.8)
    y = 0.5 * x + math.sqrt(0.75) * noise
    return stats.correlation(x, y, LABELS, seed=seed, resamples=RESAMPLES), 0.5


def oldham_case(rng: np.random.Generator, seed: int) -> tuple[Estimate, float]:
    hardness, e1, e2 = rng.normal(size=(3, 80))
    base, cond = hardness + e1, 0.6 * hardness + e2
    expected = 0.5 * (2 - 1.36) / math.sqrt((0.16 + 2) * (0.64 + 0.5))
    return stats.oldham(base, cond, seed=seed, resamples=RESAMPLES), expected


def proportion_case(rng: np.random.Generator, _seed: int) -> tuple[Estimate, float]:
    return stats.proportion(int(rng.binomial(60, 0.4)), 60), 0.4


def clustered_proportion_case(rng: np.random.Generator, _seed: int) -> tuple[Estimate, float]:
    wins = clustered(rng, 40, 4, 0.7) < sps.norm.ppf(0.4)
    return stats.clustered_proportion(wins, LABELS), 0.4


CASES: dict[str, Draw] = {
    "mean": mean_case,
    "d": d_case,
    "d-clustered": clustered_d_case,
    "d-difference": difference_case,
    "pearson": pearson_case,
    "spearman": spearman_case,
    "pearson-clustered": clustered_r_case,
    "oldham": oldham_case,
    "clopper-pearson": proportion_case,
    "clopper-pearson-clustered": clustered_proportion_case,
}


def hits(case: Draw, draws: int) -> int:
    rng = np.random.default_rng(5)
    estimates = [case(rng, seed) for seed in range(draws)]
    return sum(e.ci_low <= true <= e.ci_high for e, true in estimates)


def check_coverage(case: Draw, draws: int = 400) -> None:
    """The interval holds the true value as often as it says, neither rarely nor always."""
    covered = hits(case, draws)
    short = sps.binomtest(covered, draws, 0.95 - ASYMPTOTIC, alternative="less").pvalue
    wide = sps.binomtest(covered, draws, 0.98, alternative="greater").pvalue
    assert short > FALSE_ALARM, f"covers {covered} of {draws}, says 95 %"
    assert wide > FALSE_ALARM, f"covers {covered} of {draws}, says 95 %"


@pytest.mark.parametrize("name", CASES)
def test_every_interval_covers_what_it_says(name: str) -> None:
    check_coverage(CASES[name])


def stretch(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    break_intervals(monkeypatch, lambda low, high: (
        (low + high) / 2 - factor * (high - low) / 2, (low + high) / 2 + factor * (high - low) / 2
    ))


@pytest.mark.parametrize("name", [n for n in CASES if not n.startswith("clopper")])
def test_twin_coverage_sees_narrow_intervals(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stretch(monkeypatch, 0.5)
    with pytest.raises(AssertionError, match="covers"):
        check_coverage(CASES[name], draws=120)


def test_twin_coverage_sees_wide_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    stretch(monkeypatch, 2.0)
    with pytest.raises(AssertionError, match="covers"):
        check_coverage(mean_case)


@pytest.mark.parametrize("name", ["d-clustered", "pearson-clustered", "clopper-pearson-clustered"])
def test_twin_coverage_sees_clusters_ignored(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "_labels", lambda _clusters, n: np.arange(n))
    with pytest.raises(AssertionError, match="covers"):
        check_coverage(CASES[name], draws=250)


def test_twin_coverage_sees_a_normal_interval_for_proportions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wald(successes: int, n: int, confidence: float = 0.95) -> Estimate:
        p = successes / n
        half = 0.5 * sps.norm.ppf((1 + confidence) / 2) * math.sqrt(p * (1 - p) / n)
        return Estimate(p, p - half, p + half, confidence, "half a Wald", n, n, "proportion")

    monkeypatch.setattr(stats, "proportion", wald)
    with pytest.raises(AssertionError, match="covers"):
        check_coverage(proportion_case, draws=250)


def test_intervals_that_ignore_clusters_cover_too_little() -> None:
    """Why clusters matter: on the same data the unclustered interval is far from 95 %."""
    def naive(rng: np.random.Generator, seed: int) -> tuple[Estimate, float]:
        x = 0.3 + clustered(rng, 40, 4, 0.7)
        return stats.effect_size(x, seed=seed, resamples=RESAMPLES), 0.3

    covered = hits(naive, 300)
    assert sps.binomtest(covered, 300, 0.88, alternative="less").pvalue < FALSE_ALARM


def break_intervals(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[float, float], tuple[float, float]]
) -> None:
    """Make every bootstrap interval of the production code wrong in one way."""
    right = stats._scipy_bootstrap

    def wrong(*args: object) -> tuple[list, list]:
        return tuple([change(*pair) for pair in kind] for kind in right(*args))  # type: ignore

    monkeypatch.setattr(stats, "_scipy_bootstrap", wrong)


# --- symmetries --------------------------------------------------------------------------------


def numbers(e: Estimate) -> list[float]:
    return [e.value, e.ci_low, e.ci_high]


def drawn(seed: int, n: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Baseline, condition and cluster labels of n samples."""
    rng = np.random.default_rng(seed)
    base = rng.gamma(2.0, 1.0, n)
    cond = base + rng.normal(rng.normal(0, 0.3), rng.uniform(0.1, 1.0), n)
    return base, cond, rng.integers(0, n // 2, n)


def check_equivariance(seed: int, shift: float, scale: float) -> None:
    base, cond, labels = drawn(seed)
    plain = stats.paired_effect(base, cond, labels, resamples=RESAMPLES)
    moved = stats.paired_effect(
        scale * base + shift, scale * cond + shift, labels, resamples=RESAMPLES
    )
    assert numbers(moved.d) == pytest.approx(numbers(plain.d), rel=1e-6, abs=1e-9)
    scaled = [scale * x for x in numbers(plain.mean)]
    assert numbers(moved.mean) == pytest.approx(scaled, rel=1e-6, abs=1e-9 * scale)
    assert numbers(moved.win_rate) == numbers(plain.win_rate)
    added = stats.mean_difference(base - cond + shift, labels, resamples=RESAMPLES)
    expected = [shift + x for x in numbers(plain.mean)]
    assert numbers(added) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    r = stats.correlation(base, cond, labels, resamples=RESAMPLES)
    again = stats.correlation(scale * base + shift, cond, labels, resamples=RESAMPLES)
    assert numbers(again) == pytest.approx(numbers(r), rel=1e-6, abs=1e-9)


@quick
@given(seed=seeds, shift=st.floats(-10, 10), scale=st.floats(0.01, 100))
def test_estimates_follow_shift_and_scale(seed: int, shift: float, scale: float) -> None:
    check_equivariance(seed, shift, scale)


def test_twin_equivariance_sees_an_absolute_error(monkeypatch: pytest.MonkeyPatch) -> None:
    break_intervals(monkeypatch, lambda low, high: (low - 0.1, high + 0.1))
    with pytest.raises(AssertionError):
        check_equivariance(1, 0.5, 10.0)


def check_swap(seed: int) -> None:
    base, cond, labels = drawn(seed)
    one = stats.paired_effect(base, cond, labels, resamples=RESAMPLES)
    two = stats.paired_effect(cond, base, labels, resamples=RESAMPLES)
    for a, b in ((one.d, two.d), (one.mean, two.mean)):
        assert [a.value, a.ci_low, a.ci_high] == pytest.approx([-b.value, -b.ci_high, -b.ci_low])
    w, v = one.win_rate, two.win_rate
    assert numbers(w) == pytest.approx([1 - v.value, 1 - v.ci_high, 1 - v.ci_low])
    assert (one.t, one.median) == pytest.approx((-two.t, -two.median))
    assert (one.p_t, one.p_wilcoxon) == pytest.approx((two.p_t, two.p_wilcoxon))


@quick
@given(seed=seeds)
def test_swapping_conditions_negates_the_effect(seed: int) -> None:
    check_swap(seed)


def test_twin_swap_sees_a_one_sided_error(monkeypatch: pytest.MonkeyPatch) -> None:
    break_intervals(monkeypatch, lambda low, high: (low, high + 0.01))
    with pytest.raises(AssertionError):
        check_swap(1)


def check_order(seed: int) -> None:
    base, cond, _ = drawn(seed)
    ids = np.array([f"s-{i:03}" for i in range(base.size)])
    order = np.random.default_rng(seed).permutation(base.size)
    one = stats.effect_size(base - cond, ids, resamples=RESAMPLES)
    two = stats.effect_size((base - cond)[order], ids[order], resamples=RESAMPLES)
    assert numbers(one) == pytest.approx(numbers(two), rel=1e-9)


@quick
@given(seed=seeds)
def test_with_ids_as_clusters_the_order_of_rows_changes_nothing(seed: int) -> None:
    check_order(seed)


def test_twin_order_sees_labels_in_order_of_appearance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "_labels", lambda clusters, _n: pd.factorize(clusters)[0])
    with pytest.raises(AssertionError):
        check_order(1)


# --- width -------------------------------------------------------------------------------------


def mean_width(n: int, draws: int = 60) -> float:
    rng = np.random.default_rng(9)
    return float(np.mean([
        2 * stats.mean_difference(rng.exponential(size=n), resamples=RESAMPLES).half_width
        for _ in range(draws)
    ]))


def check_width() -> None:
    assert mean_width(4) / mean_width(32) > 1.5
    assert mean_width(50) / mean_width(200) == pytest.approx(2.0, rel=0.15)


def test_width_falls_as_one_over_root_n() -> None:
    check_width()


def test_twin_width_sees_a_constant_width(monkeypatch: pytest.MonkeyPatch) -> None:
    break_intervals(monkeypatch, lambda low, high: ((low + high) / 2 - 0.2, (low + high) / 2 + 0.2))
    with pytest.raises(AssertionError):
        check_width()


# --- second routes -----------------------------------------------------------------------------


def check_plain_bootstrap(seed: int) -> None:
    """One sample per cluster: SciPy's own bootstrap of the plain statistic, to rounding."""
    base, cond, _ = drawn(seed)
    x = base - cond

    def run(data: tuple, statistic: Callable, paired: bool) -> list[float]:
        ci = sps.bootstrap(
            data, statistic, paired=paired, vectorized=True, n_resamples=RESAMPLES,
            rng=np.random.default_rng(3),
        ).confidence_interval
        return [float(ci.low), float(ci.high)]

    ours = stats.paired_effect(base, cond, seed=3, resamples=RESAMPLES)
    d = run((x,), lambda x, axis: np.mean(x, axis) / np.std(x, axis, ddof=1), False)
    mean = run((x,), lambda x, axis: np.mean(x, axis), False)
    r = run((base, cond), lambda a, b, axis: sps.pearsonr(a, b, axis=axis).statistic, True)
    assert numbers(ours.d)[1:] == pytest.approx(d, rel=1e-9)
    assert numbers(ours.mean)[1:] == pytest.approx(mean, rel=1e-9)
    found = stats.correlation(base, cond, seed=3, resamples=RESAMPLES)
    assert numbers(found)[1:] == pytest.approx(r, rel=1e-9)


def check_clustered_bootstrap(seed: int) -> None:
    """Clusters: the statistic recomputed from the samples of the clusters drawn, to rounding."""
    base, cond, labels = drawn(seed)
    x = base - cond
    names = sorted(set(labels.tolist()), key=str)  # labels are sorted as text

    def d(chosen: np.ndarray) -> float:
        sample = np.concatenate([x[labels == names[int(c)]] for c in chosen])
        return float(np.mean(sample) / np.std(sample, ddof=1))

    def difference(chosen: np.ndarray) -> float:
        rows = np.concatenate([np.flatnonzero(labels == names[int(c)]) for c in chosen])
        a, b = x[rows], cond[rows] - 1
        return float(a.mean() / a.std(ddof=1) - b.mean() / b.std(ddof=1))

    def run(statistic: Callable[[np.ndarray], float]) -> list[float]:
        ci = sps.bootstrap(
            (np.arange(len(names)),), statistic, vectorized=False, n_resamples=60,
            rng=np.random.default_rng(3),
        ).confidence_interval
        return [float(ci.low), float(ci.high)]

    ours = stats.effect_size(x, labels, seed=3, resamples=60)
    assert numbers(ours)[1:] == pytest.approx(run(d), rel=1e-9)
    both = stats.effect_difference(x, cond - 1, labels, seed=3, resamples=60)
    assert numbers(both)[1:] == pytest.approx(run(difference), rel=1e-9)


def check_tests(seed: int) -> None:
    """t, p and d agree with SciPy's paired tests and with each other."""
    base, cond, labels = drawn(seed)
    ours = stats.paired_effect(base, cond, labels, resamples=2)
    t = sps.ttest_rel(base, cond)
    assert (ours.t, ours.p_t) == pytest.approx((t.statistic, t.pvalue))
    assert ours.t == pytest.approx(ours.d.value * math.sqrt(base.size))
    assert ours.p_wilcoxon == pytest.approx(sps.wilcoxon(base, cond).pvalue)
    assert ours.mean.value == pytest.approx(base.mean() - cond.mean())
    assert ours.win_rate.value == pytest.approx(np.mean(base > cond))
    assert ours.d.sd == pytest.approx(pd.Series(base - cond).std())


CHECKS = {"plain": check_plain_bootstrap, "clustered": check_clustered_bootstrap,
          "tests": check_tests}


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("seed", range(4))
def test_a_second_route_gives_the_same_numbers(name: str, seed: int) -> None:
    CHECKS[name](seed)


@pytest.mark.parametrize("name", CHECKS)
def test_twin_second_routes_see_another_denominator(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Population instead of sample variance, 1/n for 1/(n - 1), in every statistic."""
    monkeypatch.setattr(stats, "_variance", lambda n, s, ss: ss / n - (s / n) ** 2)
    monkeypatch.setattr(stats._Scale, "of", classmethod(
        lambda cls, x: cls(float(np.mean(x)), float(np.std(x)))
    ))
    with pytest.raises(AssertionError):
        CHECKS[name](0)


def test_correlations_are_scipys() -> None:
    base, cond, _ = drawn(4)
    pearson = stats.correlation(base, cond, resamples=RESAMPLES)
    spearman = stats.correlation(base, cond, kind="spearman", resamples=RESAMPLES)
    assert pearson.value == pytest.approx(np.corrcoef(base, cond)[0, 1])
    ranks = [pd.Series(x).rank() for x in (base, cond)]
    assert spearman.value == pytest.approx(np.corrcoef(*ranks)[0, 1])
    exact = sps.binomtest(7, 20).proportion_ci(0.9)
    assert numbers(stats.proportion(7, 20, 0.9)) == [0.35, exact.low, exact.high]


# --- coupling ----------------------------------------------------------------------------------


def mean_correlations(draws: int = 100, n: int = 100) -> dict[str, float]:
    """Average correlations with a condition that changes nothing but noise."""
    rng = np.random.default_rng(2)
    found: dict[str, list[float]] = {"naive": [], "oldham": [], "independent": []}
    for _ in range(draws):
        hardness, e1, e2, e3 = rng.normal(size=(4, n))
        base, cond = hardness + 0.5 * e1, hardness + 0.5 * e2
        found["naive"].append(stats.correlation(base, base - cond, resamples=2).value)
        found["oldham"].append(stats.oldham(base, cond, resamples=2).value)
        alone = stats.correlation(hardness + 0.5 * e3, base - cond, resamples=2)
        found["independent"].append(alone.value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def check_uncoupled() -> None:
    means = mean_correlations()
    error = 1 / math.sqrt(100 * 100)
    assert means["naive"] > 0.2
    assert abs(means["oldham"]) < 4 * error
    assert abs(means["independent"]) < 4 * error


def test_oldham_is_free_of_the_coupling_that_the_naive_correlation_has() -> None:
    check_uncoupled()


def test_twin_uncoupled_sees_the_baseline_used_as_hardness(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = stats.correlation

    def coupled(x: np.ndarray, y: np.ndarray, *args: object, **options: object) -> Estimate:
        return right(x, y + x / 2, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(stats, "correlation", coupled)
    with pytest.raises(AssertionError):
        check_uncoupled()


# --- quartiles ---------------------------------------------------------------------------------


def check_quartiles(seed: int) -> None:
    base, cond, labels = drawn(seed, n=80)
    hard = np.random.default_rng(seed).normal(size=80)
    table = stats.quartile_table(hard, base - cond, labels, resamples=RESAMPLES)
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
        e = stats.quartile_effect(hard, base - cond, quartile, labels, resamples=RESAMPLES)  # type: ignore[arg-type]
        row = table.iloc[quartile - 1]
        assert numbers(e) == pytest.approx([row["d"], row["d_low"], row["d_high"]])


@pytest.mark.parametrize("seed", range(3))
def test_quartiles_are_those_of_pandas(seed: int) -> None:
    check_quartiles(seed)


def test_twin_quartiles_see_wrong_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "_quartiles", lambda h: np.searchsorted([-1.0, 0, 1], h) + 1)
    with pytest.raises(AssertionError):
        check_quartiles(0)


def test_a_quartile_that_ties_leave_empty_is_a_row_without_numbers() -> None:
    table = stats.quartile_table([1.0] * 8, np.arange(8.0), resamples=9)
    assert table["n"].tolist() == [8, 0, 0, 0]
    assert table["benefit"].isna().tolist() == [False, True, True, True]
    assert stats.quartile_table([], [])["n"].tolist() == [0, 0, 0, 0]


# --- degenerate input --------------------------------------------------------------------------


def check_identical(n: int = 50) -> None:
    x = np.linspace(1.0, 2.0, n)
    effect = stats.paired_effect(x, x)
    for e in (effect.d, effect.mean):
        assert numbers(e) == [0.0, 0.0, 0.0]
        assert e.method == "exact: all differences are equal"
    assert (effect.t, effect.p_t, effect.p_wilcoxon, effect.median) == (0.0, 1.0, 1.0, 0.0)
    assert effect.win_rate.n == 0
    assert numbers(effect.win_rate)[1:] == [0.0, 1.0]
    same = stats.effect_difference(x, x)
    assert numbers(same) == [0.0, 0.0, 0.0]
    assert stats.noise_floor(x - x) == 0.0


def test_a_condition_against_itself_is_exactly_zero() -> None:
    check_identical()


def test_twin_identical_sees_the_branch_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the exact branch, 0 / 0 becomes NaN."""
    monkeypatch.setattr(stats, "_constant_effect", lambda rows, plan: [
        stats._estimate(math.nan, stats._Interval(0.0, 0.0, ""), rows, plan, unit, None)
        for unit in ("d", "nats/token")
    ])
    with pytest.raises(AssertionError):
        check_identical()


def check_few_differences(n: int, differing: int, size: float) -> None:
    """Where few samples differ, d is bounded all the same, by 0 on the far side."""
    x = np.zeros(n)
    x[:differing] = size
    d = stats.paired_effect(x, np.zeros(n)).d
    assert d.value == pytest.approx(x.mean() / x.std(ddof=1))
    outer = d.ci_high if size > 0 else d.ci_low
    inner = d.ci_low if size > 0 else d.ci_high
    # A resample holds k of them with the binomial's probability: none in 37 % if there is one.
    most = sps.binom.ppf(0.999, n, differing / n)
    drawn = np.repeat([np.sign(size), 0.0], [int(most), n - int(most)])
    assert inner == 0.0
    assert 0 < abs(outer) <= abs(drawn.mean() / drawn.std(ddof=1))


@pytest.mark.parametrize("size", [0.3, -0.0593])
@pytest.mark.parametrize(("n", "differing"), [(400, 1), (150, 2)])
def test_few_differences_bound_d(n: int, differing: int, size: float) -> None:
    check_few_differences(n, differing, size)


def test_twin_few_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divided by the rounding of an SD of nothing, d is unbounded, and that is seen."""
    right = stats._Complete.sums
    monkeypatch.setattr(stats._Complete, "sums", lambda self, *weights: right(
        self, *weights[:-1], np.ones(self.n)))
    with pytest.raises(AssertionError):
        check_few_differences(150, 2, 0.3)


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_samples_bound_nothing(n: int) -> None:
    effect = stats.paired_effect(np.ones(n), np.zeros(n))
    assert math.isnan(effect.d.value)
    assert numbers(effect.mean)[1:] == [-math.inf, math.inf]
    assert math.isnan(effect.t)
    r = stats.correlation(np.ones(n), np.zeros(n))
    assert (math.isnan(r.value), r.ci_low, r.ci_high) == (True, -1.0, 1.0)
    assert stats.noise_floor(np.ones(n)) == math.inf
    assert math.isnan(stats.effect_difference(np.ones(n), np.zeros(n)).value)


def test_two_samples_bound_the_mean_but_not_d() -> None:
    """Half of the resamples of two samples have no variance, so d may be anything."""
    effect = stats.paired_effect([1.0, 2.0], [0.0, 0.5])
    assert numbers(effect.d)[1:] == [-math.inf, math.inf]
    assert math.isfinite(effect.mean.ci_low)


def test_one_cluster_bounds_nothing() -> None:
    effect = stats.paired_effect(np.arange(9.0), np.zeros(9), ["a"] * 9)
    assert numbers(effect.d)[1:] == [-math.inf, math.inf]
    assert effect.d.method == "none: 1 independent unit(s), 2 needed"
    assert numbers(effect.win_rate) == pytest.approx([1.0, 0.025, 1.0])


def test_equal_nonzero_differences_have_a_mean_but_no_d() -> None:
    effect = stats.paired_effect(np.full(20, 1.5), np.ones(20))
    assert numbers(effect.mean) == [0.5, 0.5, 0.5]
    assert numbers(effect.d) == [math.inf, -math.inf, math.inf]


def test_where_bca_is_undefined_the_interval_is_a_percentile_one_and_says_so() -> None:
    """BCa divides by the spread that leaving one unit out causes; here it causes none."""
    x = np.arange(30.0)
    e = stats.correlation(x, 2 * x + 1, resamples=RESAMPLES)
    assert numbers(e) == pytest.approx([1.0, 1.0, 1.0])
    lone = np.zeros(400)
    lone[0] = 1.0
    y = np.zeros(400)
    y[1] = 1.0
    odd = stats.mean_difference(np.r_[lone, y], np.repeat([0, 1], 400), resamples=RESAMPLES)
    assert odd.method.startswith("percentile bootstrap (BCa undefined) over 2 clusters")
    assert [odd.ci_low, odd.ci_high] == pytest.approx([odd.value] * 2, rel=1e-9)


def test_incomplete_pairs_are_excluded_and_counted() -> None:
    base, cond, labels = drawn(6)
    holed = base.copy()
    holed[[3, 8]] = np.nan
    keep = ~np.isnan(holed)
    effect = stats.paired_effect(holed, cond, labels, resamples=RESAMPLES)
    clean = stats.paired_effect(base[keep], cond[keep], labels[keep], resamples=RESAMPLES)
    assert (effect.excluded, clean.excluded) == (2, 0)
    assert effect.to_dict() | {"excluded": 0} == clean.to_dict()


def test_a_cluster_whose_samples_are_all_excluded_is_not_resampled() -> None:
    e = stats.mean_difference([np.nan, 1.0, 2.0, 3.0], ["a", "b", "c", "d"], resamples=9)
    assert (e.n, e.clusters) == (3, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.paired_effect([1.0, 2.0], [1.0]), "lengths differ"),
        (lambda: stats.paired_effect([[1.0]], [[1.0]]), "2 dimensions"),
        (lambda: stats.paired_effect([1.0, np.inf], [1.0, 2.0]), r"baseline\[1\] is infinite"),
        (lambda: stats.paired_effect(pd.Series([1.0], ["a"]), pd.Series([1.0], ["b"])), "align"),
        (lambda: stats.effect_size([1.0, 2.0], ["a"]), "one label for each of 2"),
        (lambda: stats.effect_size([1.0, 2.0], ["a", None]), r"clusters\[1\] is missing"),
        (lambda: stats.effect_size([1.0, 2.0], confidence=95), "between 0 and 1"),
        (lambda: stats.effect_size([1.0, 2.0], resamples=1), "at least 2"),
        (lambda: stats.correlation([1.0], [1.0], kind="pearsn"), "did you mean 'pearson'"),  # type: ignore[arg-type]
        (lambda: stats.quartile_effect([1.0], [1.0], 5), "1 .easiest. to 4"),  # type: ignore[arg-type]
        (lambda: stats.proportion(3, 2), "successes=3 of n=2"),
        (lambda: stats.clustered_proportion([0.5], None), "0 or 1"),
        (lambda: stats.noise_floor(), "no control given"),
        (lambda: stats.floor_on_scale(stats.proportion(1, 2), math.nan), "is no floor"),
        (lambda: stats.cached_json(".", "../x", dict), "is no file name"),
        (lambda: Estimate(0, 1, 0, 0.95, "", 1, 1, "d"), "exceeds"),
    ],
)
def test_bad_input_is_one_clear_line(call: Callable[[], object], message: str) -> None:
    with pytest.raises(KvError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


# --- statistics of counts ----------------------------------------------------------------------


def check_resampled(seed: int) -> None:
    """A mean written as a statistic of counts has the mean's own interval."""
    base, cond, labels = drawn(seed)
    x = base - cond
    number = np.unique(labels.astype(str), return_inverse=True)[1]
    sums, sizes = np.bincount(number, x), np.bincount(number)
    ours = stats.resampled(lambda c: (c @ sums) / (c @ sizes), labels, unit="nats/token",
                           resamples=RESAMPLES, seed=3)
    mean = stats.mean_difference(x, labels, resamples=RESAMPLES, seed=3)
    assert numbers(ours) == pytest.approx(numbers(mean), rel=1e-9)
    assert (ours.n, ours.clusters, ours.method) == (mean.n, mean.clusters, mean.method)


@quick
@given(seed=seeds)
def test_a_statistic_of_counts_is_resampled_as_the_samples_are(seed: int) -> None:
    check_resampled(seed)


def test_twin_resampled_sees_repeated_draws_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    right = stats._counts
    monkeypatch.setattr(stats, "_counts", lambda indices, k: np.minimum(right(indices, k), 1))
    with pytest.raises(AssertionError):
        check_resampled(1)


def test_a_statistic_of_nothing_or_of_one_cluster_bounds_nothing() -> None:
    for labels, n in (([], 0), (["a", "a"], 2)):
        e = stats.resampled(lambda c: 0 * c.sum(axis=-1) / 0, labels, unit="AUC", bounds=(0, 1))
        assert (math.isnan(e.value), e.ci_low, e.ci_high) == (True, 0, 1)
        assert e.n == n
    same = stats.resampled(lambda c: 0 * c.sum(axis=-1) + 0.5, [1, 2, 3], unit="AUC", resamples=9)
    assert numbers(same) == [0.5, 0.5, 0.5]
    with pytest.raises(KvError, match="is missing"):
        stats.resampled(lambda c: c.sum(axis=-1), ["a", None], unit="AUC")


# --- noise floor -------------------------------------------------------------------------------


def check_floor() -> None:
    """The floor is above the mean of every control, and near it where noise is small."""
    rng = np.random.default_rng(1)
    quiet, biased = rng.normal(0, 1e-6, 200), rng.normal(-1e-3, 1e-6, 200)
    assert stats.noise_floor(quiet, resamples=RESAMPLES) < 1e-6
    floor = stats.noise_floor(quiet, biased, resamples=RESAMPLES)
    assert abs(biased.mean()) < floor < 1.01e-3
    assert floor == stats.noise_floor(biased, quiet, resamples=RESAMPLES)


def test_the_noise_floor_is_that_of_the_noisiest_control() -> None:
    check_floor()


def test_twin_floor_sees_an_interval_around_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    break_intervals(monkeypatch, lambda low, high: ((low - high) / 2, (high - low) / 2))
    with pytest.raises(AssertionError):
        check_floor()


def test_a_floor_in_nats_is_a_floor_on_the_scale_of_the_estimate() -> None:
    base, cond, _ = drawn(3)
    x, y = base - cond, base - 1
    effect = stats.paired_effect(base, cond, resamples=RESAMPLES)
    sd, other = np.std(x, ddof=1), np.std(y, ddof=1)
    both = stats.effect_difference(x, y, resamples=RESAMPLES)
    assert stats.floor_on_scale(effect.mean, 0.01) == 0.01
    assert stats.floor_on_scale(effect.d, 0.01) == pytest.approx(0.01 / sd)
    assert stats.floor_on_scale(both, 0.01) == pytest.approx(0.01 / sd + 0.01 / other)
    assert stats.floor_on_scale(effect.win_rate, 0.01) == 0.0
    assert stats.floor_on_scale(stats.effect_size([0.0] * 9), 0.01) == 0.0
    assert stats.floor_on_scale(stats.effect_size([0.5] * 9), 0.01) == math.inf


# --- JSON and the cache ------------------------------------------------------------------------

any_float = st.floats(allow_nan=True, allow_infinity=True)


@st.composite
def estimates(draw: st.DrawFn) -> Estimate:
    low, high = sorted(draw(st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False))))
    return Estimate(
        draw(any_float), low, high, draw(st.floats(0.01, 0.99)), draw(st.text()),
        draw(st.integers(0, 10**6)), draw(st.integers(0, 10**6)), draw(st.text()),
        draw(st.none() | st.floats(0, 1e6)),
    )


def check_round_trip(estimate: Estimate) -> None:
    stored = json.dumps(estimate.to_dict(), allow_nan=False)
    back = Estimate.from_dict(json.loads(stored))
    assert repr(back) == repr(estimate)


@quick
@given(estimate=estimates().filter(lambda e: not {e.method, e.unit} & set(stats._NON_FINITE)))
def test_an_estimate_survives_json(estimate: Estimate) -> None:
    check_round_trip(estimate)


def test_twin_round_trip_sees_naked_infinities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "to_plain", lambda value: value)
    with pytest.raises(ValueError, match="JSON"):
        check_round_trip(stats.effect_size([1.0]))


def test_a_paired_effect_survives_json() -> None:
    base, cond, labels = drawn(1)
    for effect in (stats.paired_effect(base, cond, labels, resamples=9),
                   stats.paired_effect([1.0], [np.nan])):
        stored = json.dumps(effect.to_dict(), allow_nan=False)
        back = stats.PairedEffect.from_dict(json.loads(stored))
        assert back.to_dict() == effect.to_dict()
        assert back.differences.tolist() == effect.differences.tolist()


def damage(path: Path, how: str) -> None:
    text = path.read_text()
    path.write_text({
        "truncated": text[: len(text) // 2],
        "empty": "",
        "binary": "\x00\x01",
        "list": "[]",
        "flipped": text.replace('"n": 3', '"n": 4'),
        "other-key": text.replace("abc", "abd"),
    }[how])


def check_cache(folder: Path, how: str | None) -> None:
    calls: list[int] = []

    def compute() -> Estimate:
        calls.append(1)
        return stats.effect_size([1.0, 2.0, 4.0], resamples=9)

    first = stats.cached_estimate(folder / "cache", "abc", compute)
    assert stats.cached_estimate(folder / "cache", "abc", compute) == first
    assert len(calls) == 1
    if how:
        damage(folder / "cache" / "abc.json", how)
        assert stats.cached_estimate(folder / "cache", "abc", compute) == first
        assert len(calls) == 2
    assert [p.name for p in (folder / "cache").iterdir()] == ["abc.json"]


@pytest.mark.parametrize(
    "how", [None, "truncated", "empty", "binary", "list", "flipped", "other-key"],
    ids=["whole", "truncated", "empty", "binary", "list", "flipped", "other-key"],
)
def test_an_estimate_is_computed_once_and_again_when_damaged(
    tmp_path: Path, how: str | None
) -> None:
    check_cache(tmp_path, how)


def test_twin_cache_sees_an_unchecked_flip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats, "_digest", lambda _value: "same")
    with pytest.raises(AssertionError):
        check_cache(tmp_path, "flipped")


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    effect = stats.cached_effect(blocked, "abc", lambda: stats.paired_effect([1.0], [2.0]))
    assert effect.mean.value == -1.0


def test_the_key_of_an_estimate_names_all_it_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    key = stats.estimate_key("rows", "effect_size", {"seed": 0, "confidence": 0.95})
    assert key == stats.estimate_key("rows", "effect_size", {"confidence": 0.95, "seed": 0})
    assert key != stats.estimate_key("rows2", "effect_size", {"seed": 0, "confidence": 0.95})
    assert key != stats.estimate_key("rows", "oldham", {"seed": 0, "confidence": 0.95})
    assert key != stats.estimate_key("rows", "effect_size", {"seed": 1, "confidence": 0.95})
    monkeypatch.setattr(stats, "__file__", __file__)
    assert key != stats.estimate_key("rows", "effect_size", {"seed": 0, "confidence": 0.95})
