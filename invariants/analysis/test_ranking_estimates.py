"""Intervals of rankings resample queries, and overlap can be held constant.

Each property is a check; its twin breaks the production function and must see the check fail.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as sps

from invariants.support.intervals import FAST, Case, check_coverage, numbers, stretch_intervals
from invariants.support.ranked_tables import ranked_table
from kvcore import analysis
from kvcore.analysis import Estimate, IntervalSettings
from kvcore.analysis import ranking as rk
from kvcore.analysis.ranking import metrics, overlap, tables
from kvcore.data.ranking_lists import Candidate
from kvcore.data.sample import Sample
from kvcore.errors import KvError

FEW = IntervalSettings(resamples=50)
CANDIDATES = [
    Candidate("q", f"p{i}", Sample("query", f"passage {i}", "answer", id=f"q#p{i}"), i == 0)
    for i in range(6)
]


# --- estimates ---------------------------------------------------------------------------------


def simulated(rng: np.random.Generator, shift: float, shared: np.ndarray) -> np.ndarray:
    """Scores of 40 queries, 3 relevant and 3 not; the relevant ones of a query move together."""
    scores = rng.normal(size=(40, 6))
    scores[:, :3] += shift + shared[:, None]
    return scores.ravel()


LISTS = ranked_table(0, 40, 6, 3).drop(columns=["score", "overlap"])


def auc_case(rng: np.random.Generator, settings: IntervalSettings) -> tuple[Estimate, float]:
    frame = LISTS.assign(score=simulated(rng, 1.0, rng.normal(size=40)))
    return rk.estimate(frame, interval=settings), sps.norm.cdf(1 / math.sqrt(3))


def auc_difference_case(
    rng: np.random.Generator, settings: IntervalSettings
) -> tuple[Estimate, float]:
    shared = rng.normal(size=(3, 40))
    a = LISTS.assign(score=simulated(rng, 1.0, (shared[0] + shared[1]) / math.sqrt(2)))
    b = LISTS.assign(score=simulated(rng, 0.6, (shared[0] + shared[2]) / math.sqrt(2)))
    expected = sps.norm.cdf(1 / math.sqrt(3)) - sps.norm.cdf(0.6 / math.sqrt(3))
    return rk.difference(a, b, interval=settings), expected


def mrr_difference_case(
    rng: np.random.Generator, settings: IntervalSettings
) -> tuple[Estimate, float]:
    a, b = (LISTS.assign(score=simulated(rng, 0.5, rng.normal(size=40))) for _ in range(2))
    return rk.difference(a, b, "mrr", settings), 0.0


def gap_case(rng: np.random.Generator, settings: IntervalSettings) -> tuple[Estimate, float]:
    base = LISTS.assign(score=rng.normal(size=240))
    primed = base.assign(score=base["score"] + simulated(rng, 0.3, rng.normal(size=40)))
    return rk.benefit_gap(base, primed, settings), 0.3


CASES: dict[str, Case] = {
    "auc": auc_case,
    "auc-difference": auc_difference_case,
    "mrr-difference": mrr_difference_case,
    "benefit-gap": gap_case,
}


@pytest.mark.parametrize("name", CASES)
def test_intervals_of_rankings_cover_what_they_say(name: str) -> None:
    """An interval of the wrong width: passages resampled in place of queries, or a wrong level."""
    check_coverage(CASES[name], draws=300, widest=0.985)


@pytest.mark.nightly
@pytest.mark.parametrize("name", CASES)
def test_twin_coverage_sees_narrow_intervals(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Coverage that half of an interval would pass as well."""
    stretch_intervals(monkeypatch, 0.5)
    with pytest.raises(AssertionError, match="covers"):
        check_coverage(CASES[name], draws=120, widest=0.985)


def check_resamples(seed: int) -> None:
    """The quadratic form of a resample is the AUC of the lists drawn, written out."""
    frame = ranked_table(seed, 8, 4)
    frame["score"] = frame["score"].round(0)
    names = sorted(frame["query_id"].unique())
    lists = tables.ranked_lists(frame)
    counts = np.random.default_rng(seed).multinomial(8, np.full(8, 1 / 8), size=5).astype(float)
    ours = metrics.auc_metric(lists, lists.columns[0])(counts)
    for drawn, auc in zip(counts, ours, strict=True):
        parts = [
            frame[frame["query_id"] == name].assign(query_id=f"{name}-{copy}")
            for name, n in zip(names, drawn, strict=True)
            for copy in range(int(n))
        ]
        assert auc == pytest.approx(rk.auc(pd.concat(parts)))
    e = rk.estimate(frame, interval=IntervalSettings(seed=3, resamples=60, method="bca"))

    def statistic(chosen: np.ndarray) -> float:
        parts = [
            frame[frame["query_id"] == names[int(i)]].assign(query_id=f"{j:03}")
            for j, i in enumerate(chosen)
        ]
        return rk.auc(pd.concat(parts))

    ci = sps.bootstrap(
        (np.arange(8),), statistic, vectorized=False, n_resamples=60, rng=np.random.default_rng(3)
    ).confidence_interval
    assert numbers(e)[1:] == pytest.approx([ci.low, ci.high])


def test_a_resample_is_the_auc_of_the_lists_drawn() -> None:
    """A quadratic form that is not the AUC of the lists drawn."""
    check_resamples(1)


def test_twin_resamples_see_queries_drawn_once_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of resamples that a query counted once at most passes."""
    right = metrics.auc_metric
    monkeypatch.setattr(metrics, "auc_metric", lambda *a: lambda c: right(*a)(np.minimum(c, 1)))
    with pytest.raises(AssertionError):
        check_resamples(1)


def test_degenerate_rankings_are_exact_or_unbounded() -> None:
    """A finite interval from one query, or a crash from none."""
    frame = ranked_table(1)
    same = rk.difference(frame, frame.copy(), "mrr")
    assert (numbers(same), same.method) == ([0, 0, 0], "exact: both scores are identical")
    lone = frame[:6]
    assert numbers(rk.estimate(lone))[1:] == [0, 1]
    assert numbers(rk.difference(lone, lone))[1:] == [-1, 1]
    assert rk.estimate(lone, "d").ci_high == math.inf
    none = rk.estimate(frame[:0])
    assert (math.isnan(none.value), none.ci_low, none.ci_high) == (True, 0, 1)
    assert (none.n, none.method) == (0, "none: no samples")
    assert math.isnan(rk.value(frame[:0], "mrr"))
    assert math.isnan(rk.auc(frame[:0]))
    perfect = rk.estimate(frame.assign(score=frame["relevant"]), interval=FAST)
    assert numbers(perfect) == [1, 1, 1]
    flat = rk.benefit_gap(frame, frame.assign(score=frame["score"] + 0.25), FAST)
    assert numbers(flat) == pytest.approx([0, 0, 0], abs=1e-12)


def test_a_hit_rate_without_ties_has_the_exact_interval() -> None:
    """A bootstrap where the exact interval of a proportion is known."""
    frame = ranked_table(1)
    hits = int(rk.per_query(frame, k=2)["hit"].sum())
    assert rk.estimate(frame, "hit", k=2) == analysis.proportion(hits, 30)
    tied = rk.estimate(frame.assign(score=0.0), "hit", FAST, k=2)
    assert tied.unit == "proportion"
    assert tied.value == pytest.approx(2 / 6)


def test_a_query_with_a_nan_is_left_out_whole() -> None:
    """A list ranked without one of its passages."""
    frame = ranked_table(1)
    holed = frame.assign(score=frame["score"].where(frame.index != 7))
    rest = frame[frame["query_id"] != "q001"]
    assert numbers(rk.estimate(holed, interval=FEW)) == numbers(rk.estimate(rest, interval=FEW))
    assert rk.difference(frame, holed, interval=FEW).clusters == 29
    assert len(rk.two_stage(frame, holed)) == len(rest)


def test_the_standardized_gap_is_in_sds_of_the_benefit_and_has_a_floor() -> None:
    """A d of groups that nats cannot be turned into, or in the wrong SD."""
    a, b = ranked_table(1), ranked_table(1).assign(score=ranked_table(2)["score"])
    gap = rk.benefit_gap(a, b, FEW)
    d = rk.benefit_gap(a, b, FEW, standardized=True)
    assert d.sd is not None
    assert d.value == pytest.approx(gap.value / (2 * d.sd))
    assert analysis.floor_on_scale(d, 0.01) == pytest.approx(0.01 / d.sd)
    assert analysis.floor_on_scale(gap, 0.01) == 0.01
    assert analysis.floor_on_scale(rk.estimate(a, interval=FEW), 0.01) == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda f: rk.value(f.drop(columns="score")),
            "column 'score' is missing; required: query_id",
        ),
        (lambda f: rk.value(f, "ndcg"), "unknown ranking metric 'ndcg'"),
        (lambda f: rk.value(f, "mrr", k=0), "k must be 1 or more ranks; got k=0"),
        (lambda f: rk.value(pd.concat([f, f])), "must be unique; .* is there twice"),
        (lambda f: rk.value(f.assign(score=math.inf)), "must be finite; .* is infinite"),
        (lambda f: rk.value(f.assign(relevant=True)), "'q000' has no irrelevant"),
        (lambda f: rk.value(f.assign(relevant=False)), "'q000' has no relevant"),
        (lambda f: rk.value(f.assign(relevant="yes")), "must be true or false"),
        (lambda f: rk.value(f.assign(query_id=None)), "query_id and passage_id must be set"),
        (lambda f: rk.difference(f, f[:12]), "the same candidates"),
        (lambda f: rk.two_stage(f, f, top=-1), "top must be 0 or more passages; got top=-1"),
        (lambda _: rk.route({}), "at least one condition's scores; got no table"),
        (
            lambda f: rk.control_overlap(f, caliper=-1),
            "caliper must be 0 or more SD; got caliper=-1",
        ),
        (lambda f: rk.control_overlap(f[:0]), "got no query"),
        (lambda f: rk.trend({0.0: f}), "scores at two values or more; got 1"),
        (lambda _: rk.table(CANDIDATES, {}), "6 are missing, the first is 'q#p0'"),
    ],
)
def test_bad_input_is_one_clear_line(call: Callable[[pd.DataFrame], object], message: str) -> None:
    """Bad input that is computed with, or an error that does not say what was passed."""
    with pytest.raises(KvError, match=message) as caught:
        call(ranked_table(1))
    assert "\n" not in str(caught.value)


# --- overlap -----------------------------------------------------------------------------------


def check_overlap_control() -> None:
    """Scores that are overlap and noise rank no more where overlap is equal; others still do."""
    rng = np.random.default_rng(3)
    frame = ranked_table(0, 200, 10)
    frame["overlap"] = rng.normal(size=2000) + frame["relevant"]
    only = rk.control_overlap(
        frame.assign(score=2 * frame["overlap"] + rng.normal(size=2000)), FAST
    )
    assert only.plain.value > 0.7
    assert only.controlled.value == pytest.approx(0.5, abs=0.06)
    assert only.residual == pytest.approx(0.5, abs=0.04)
    assert only.change.ci_high < 0
    assert only.matched < only.pairs / 4
    other = rk.control_overlap(frame.assign(overlap=rng.normal(size=2000)), FAST)
    assert other.change.ci_low < 0 < other.change.ci_high
    assert other.change.value == pytest.approx(other.controlled.value - other.plain.value)
    assert other.overlap == pytest.approx(0.5, abs=0.06)
    curved = frame.assign(score=np.exp(frame["score"]))
    one, two = (rk.control_overlap(f, FAST) for f in (frame, curved))
    assert numbers(one.change) == numbers(two.change)


def test_overlap_is_held_constant() -> None:
    """An overlap that still ranks where it is held constant, or a score that no longer does."""
    check_overlap_control()


def test_twin_overlap_sees_all_pairs_matched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of the control that comparing all pairs passes."""
    right = metrics.pair_counts

    def all_pairs(lists: Any, x: Any, _alike: Any, _within: Any) -> Any:
        return right(lists, x, None, math.inf)

    for module in (metrics, overlap):
        monkeypatch.setattr(module, "pair_counts", all_pairs)
    with pytest.raises(AssertionError):
        check_overlap_control()


def test_twin_overlap_sees_no_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of the regression that the score itself passes."""
    monkeypatch.setattr(overlap, "residual_score", lambda _lists, score, _overlap: score)
    with pytest.raises(AssertionError):
        check_overlap_control()


def test_a_table_takes_the_score_of_every_candidate() -> None:
    """A score given to another candidate, or a candidate left out."""
    frame = rk.table(CANDIDATES, {c.sample.id: float(c.relevant) for c in CANDIDATES})
    assert rk.auc(frame) == 1.0
    assert list(frame.columns) == list(rk.COLUMNS)
    assert len(frame) == len(CANDIDATES)


def test_the_area_below_the_roc_curve_is_the_auc() -> None:
    """A curve that misses a step, or ties drawn as one.

    1. the trapezoid rule below the curve; 2. the AUC.
    """
    frame = ranked_table(4).round({"score": 1})
    x, y = rk.roc(frame)
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(y, x) == pytest.approx(rk.auc(frame), abs=1e-12)


def test_a_trend_is_the_least_squares_slope_of_the_metrics() -> None:
    """A slope over the wrong numbers, or of another metric.

    1. the trend; 2. `numpy.polyfit` over the metrics, one by one.
    """
    scored = {
        x: ranked_table(5).assign(score=ranked_table(s)["score"])
        for x, s in ((0.0, 6), (0.25, 7), (1.0, 8))
    }
    for metric in ("auc", "mrr"):
        slope = np.polyfit(list(scored), [rk.value(t, metric) for t in scored.values()], 1)[0]
        assert rk.trend(scored, metric, FEW).value == pytest.approx(slope, abs=1e-12)
