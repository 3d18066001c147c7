"""Rankings: metrics with exact ties, scores that agree, lists that depend on nothing but ids.

Each property is a check; its twin breaks the production function and must see the check fail.
"""

from __future__ import annotations

import itertools
import math
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sps

from kvcore import io, ranking, stats
from kvcore.corpora import candidates, clean, load_corpus, sample
from kvcore.corpora.clean import template, twins
from kvcore.corpora.sample import Corpus, Sample
from kvcore.errors import KvError
from kvcore.io import digest
from kvcore.overlap import answer_overlap, jaccard
from kvcore.stats import Estimate

FALSE_ALARM = 1e-3
# BCa intervals are second-order accurate: at these sizes they may miss 95 % by this much.
ASYMPTOTIC = 0.025
RESAMPLES = 300
quick = settings(max_examples=25, deadline=None)


# --- tables ------------------------------------------------------------------------------------


@st.composite
def tables(draw: st.DrawFn, scores: int = 1, max_queries: int = 5) -> list[pd.DataFrame]:
    """The same lists under one or several scores; scores are few small integers, so ties abound."""
    sizes = draw(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1,
                          max_size=max_queries))
    rows = [(f"q{q}", f"p{q}-{i}", i < relevant)
            for q, (relevant, others) in enumerate(sizes) for i in range(relevant + others)]
    number = st.integers(-3, 3).map(float)
    vector = st.lists(number, min_size=len(rows), max_size=len(rows))
    frame = pd.DataFrame(rows, columns=["query_id", "passage_id", "relevant"])
    return [frame.assign(score=draw(vector)) for _ in range(scores)]


def sampled(seed: int, queries: int = 30, size: int = 6, relevant: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    good = np.tile(np.arange(size) < relevant, queries)
    return pd.DataFrame({
        "query_id": np.repeat([f"q{i:03}" for i in range(queries)], size),
        "passage_id": [f"p{i:04}" for i in range(queries * size)],
        "relevant": good, "score": rng.normal(size=queries * size) + good,
        "overlap": rng.uniform(size=queries * size),
    })


def numbers(e: Estimate) -> list[float]:
    return [e.value, e.ci_low, e.ci_high]


# --- metrics -----------------------------------------------------------------------------------


def check_bounds(frame: pd.DataFrame, k: int) -> None:
    for metric in ("auc", "auc_per_query", "mrr", "hit"):
        assert 0 <= ranking.value(frame, metric, k=k) <= 1
    mrr, hit = ranking.value(frame, "mrr", k=k), ranking.value(frame, "hit", k=k)
    assert hit / k - 1e-12 <= mrr <= hit + 1e-12
    assert hit <= ranking.value(frame, "hit", k=k + 1) + 1e-12


@quick
@given(table=tables(), k=st.integers(1, 10))
def test_metrics_stay_within_their_bounds(table: list[pd.DataFrame], k: int) -> None:
    check_bounds(table[0], k)


def test_twin_bounds_see_ranks_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_first_relevant", lambda above, *_: (2.0 / (1 + above), 1.0))
    with pytest.raises(AssertionError):
        check_bounds(sampled(1), 3)


def all_orders(frame: pd.DataFrame, k: int) -> pd.DataFrame:
    """Mean reciprocal rank and hit of each query over all orders that break its ties."""
    found = []
    for query, rows in frame.groupby("query_id"):
        pairs = list(zip(rows["score"], rows["relevant"], strict=True))
        outcomes = [
            next(rank for rank, (_, good) in enumerate(sorted(order, key=lambda p: -p[0]), 1)
                 if good) for order in itertools.permutations(pairs)]
        found.append((query, np.mean([(r <= k) / r for r in outcomes]),
                      np.mean([r <= k for r in outcomes])))
    return pd.DataFrame(found, columns=["query_id", "rr", "hit"]).set_index("query_id")


def check_ties(frame: pd.DataFrame, k: int) -> None:
    """Reciprocal rank and hit are expectations over random tie-breaks (sorted() is stable)."""
    ours, orders = ranking.per_query(frame, k=k), all_orders(frame, k)
    assert ours["reciprocal_rank"].tolist() == pytest.approx(orders["rr"].tolist())
    assert ours["hit"].tolist() == pytest.approx(orders["hit"].tolist())


@settings(max_examples=12, deadline=None)
@given(table=tables(max_queries=2), k=st.integers(1, 7))
def test_tied_ranks_are_the_mean_over_all_orders(table: list[pd.DataFrame], k: int) -> None:
    check_ties(table[0], k)


def test_twin_ties_see_the_luckiest_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_first_relevant", lambda above, _t, _r, k: (
        (above < k) / (above + 1), float(above < k)))
    with pytest.raises(AssertionError):
        check_ties(sampled(2, 2, 5).assign(score=0.0), 5)


def check_scipy(frame: pd.DataFrame) -> None:
    """Pooled and per-query AUC, ties included, agree with SciPy's U by a second route."""
    def auc(rows: pd.DataFrame) -> float:
        good, bad = rows["score"][rows["relevant"]], rows["score"][~rows["relevant"]]
        return float(sps.mannwhitneyu(good, bad).statistic) / (len(good) * len(bad))

    assert ranking.value(frame, "auc") == pytest.approx(auc(frame), abs=1e-12)
    assert ranking.auc(frame) == pytest.approx(auc(frame), abs=1e-12)
    each = [auc(rows) for _, rows in frame.groupby("query_id")]
    assert ranking.per_query(frame)["auc"].tolist() == pytest.approx(each, abs=1e-12)
    assert ranking.value(frame, "auc_per_query") == pytest.approx(np.mean(each), abs=1e-12)


@quick
@given(table=tables())
def test_auc_counts_ties_as_scipy_does(table: list[pd.DataFrame]) -> None:
    check_scipy(table[0])


def test_twin_scipy_sees_ties_counted_as_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ranking._pairs

    def strict(lists: Any, column: Any, *rest: Any) -> Any:
        return right(lists, column - 1e-9 * lists.relevant, *rest)

    monkeypatch.setattr(ranking, "_pairs", strict)
    with pytest.raises(AssertionError):
        check_scipy(sampled(1).assign(score=0.0))


def check_d(frame: pd.DataFrame) -> None:
    """d is the t statistic of two groups, rescaled (SciPy's, equal variances)."""
    good, bad = frame["score"][frame["relevant"]], frame["score"][~frame["relevant"]]
    t = float(sps.ttest_ind(good, bad).statistic)
    assert ranking.value(frame, "d") == pytest.approx(t * math.sqrt(1 / len(good) + 1 / len(bad)))
    assert ranking.value(frame, "gap") == pytest.approx(good.mean() - bad.mean())


@pytest.mark.parametrize("seed", range(3))
def test_d_of_the_scores_is_the_rescaled_t(seed: int) -> None:
    check_d(sampled(seed, relevant=2))
    check_d(sampled(seed).assign(score=lambda f: 1e6 + 1e-3 * f["score"]))


def test_twin_d_sees_the_groups_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ranking._gap_metric
    monkeypatch.setattr(ranking, "_gap_metric", lambda lists, x, s: right(
        replace(lists, relevant=~lists.relevant), x, s))
    with pytest.raises(AssertionError):
        check_d(sampled(1))


def check_negation(frame: pd.DataFrame) -> None:
    flipped = frame.assign(score=-frame["score"])
    for metric in ("auc", "auc_per_query"):
        assert ranking.value(flipped, metric) == pytest.approx(1 - ranking.value(frame, metric))
    assert ranking.value(flipped, "gap") == pytest.approx(-ranking.value(frame, "gap"), abs=1e-12)


@quick
@given(table=tables())
def test_negated_scores_give_one_minus_auc(table: list[pd.DataFrame]) -> None:
    check_negation(table[0])


def test_twin_negation_sees_an_auc_folded_at_one_half(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ranking._own_pairs

    def folded(lists: Any, column: Any) -> Any:
        wins, pairs = right(lists, column)
        return np.maximum(wins, pairs - wins), pairs

    monkeypatch.setattr(ranking, "_own_pairs", folded)
    with pytest.raises(AssertionError):
        check_negation(sampled(1))


def check_monotone(frame: pd.DataFrame) -> None:
    """What ranks alike scores alike: order statistics see no monotone transform."""
    moved = frame.assign(score=np.exp(frame["score"]) + 7)
    for metric in ("auc", "auc_per_query", "mrr", "hit"):
        assert ranking.value(moved, metric, k=3) == ranking.value(frame, metric, k=3)
    assert ranking.compare(frame, moved).ties == frame["query_id"].nunique()


@quick
@given(table=tables())
def test_monotone_transforms_change_nothing(table: list[pd.DataFrame]) -> None:
    check_monotone(table[0])


def test_twin_monotone_sees_ties_by_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ranking._lists

    def rounded(*args: Any, **named: Any) -> Any:
        lists = right(*args, **named)
        return replace(lists, columns=np.round(lists.columns / 3))

    monkeypatch.setattr(ranking, "_lists", rounded)
    with pytest.raises(AssertionError):
        check_monotone(sampled(1))


def check_order(seed: int) -> None:
    frame = sampled(seed)
    mixed = frame.sample(frac=1, random_state=seed)
    for metric in ranking.METRICS:
        one = ranking.estimate(frame, metric, k=3, resamples=50)
        two = ranking.estimate(mixed, metric, k=3, resamples=50)
        assert numbers(one) == numbers(two)
    assert numbers(ranking.difference(frame, mixed, resamples=50)) == [0, 0, 0]


def test_the_order_of_rows_changes_nothing() -> None:
    check_order(1)


def test_twin_order_sees_unsorted_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_checked", lambda frame, _c: frame.set_index(ranking.KEYS))
    with pytest.raises((AssertionError, KvError)):
        check_order(1)


# --- scores ------------------------------------------------------------------------------------


def nll(query: str, document: str, answer: str) -> float:
    """Stand for a model: any NLL, 0 to 16 nats per token, fixed by what it reads."""
    return int(digest(query, document, answer)[:8], 16) / 2**28


def scored(bases: Sequence[float], size: int, reads: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Raw and PMI scores of a model that reads the document, or does not."""
    rows = [(f"q{q}", f"p{i}", i == 0, base, nll(f"q{q}", f"p{i}", "a") if reads else base)
            for q, base in enumerate(bases) for i in range(size)]
    frame = pd.DataFrame(rows, columns=["query_id", "passage_id", "relevant", "bos", "nll"])
    return (frame.assign(score=ranking.raw(frame["nll"])),
            frame.assign(score=ranking.pmi(frame["bos"], frame["nll"])))


# Multiples of 1/16: PMI subtracts them without rounding, so that equal NLLs stay equal.
bases = st.lists(st.integers(0, 160).map(lambda n: n / 16), min_size=1, max_size=6)


def check_pmi(values: Sequence[float], size: int) -> None:
    """PMI subtracts a constant per query: within a query it ranks as raw NLL does."""
    raw, pmi = scored(values, size, reads=True)
    one, two = ranking.per_query(raw), ranking.per_query(pmi)
    assert one["reciprocal_rank"].tolist() == two["reciprocal_rank"].tolist()
    assert one["auc"].tolist() == two["auc"].tolist()
    assert ranking.compare(raw, pmi) == ranking.Comparison(0, len(values), 0)
    assert (pmi["score"] - raw["score"]).tolist() == pytest.approx(pmi["bos"].tolist())


@quick
@given(values=bases, size=st.integers(2, 8))
def test_mrr_by_pmi_equals_mrr_by_raw_nll(values: list[float], size: int) -> None:
    check_pmi(values, size)


def test_twin_pmi_sees_the_notes_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "pmi", lambda bos, nll: np.asarray(nll) - np.asarray(bos))
    with pytest.raises(AssertionError):
        check_pmi([1.0, 2.0], 5)


def check_ignored(values: Sequence[float], size: int) -> None:
    _, pmi = scored(values, size, reads=False)
    assert (pmi["score"] == 0).all()
    assert ranking.value(pmi, "auc") == ranking.value(pmi, "auc_per_query") == 0.5
    by_chance = np.mean(1 / np.arange(1, size + 1))
    assert ranking.value(pmi, "mrr") == pytest.approx(by_chance)


@quick
@given(values=bases, size=st.integers(2, 8))
def test_a_model_that_ignores_the_document_has_no_pmi(values: list[float], size: int) -> None:
    check_ignored(values, size)


def test_twin_ignored_sees_raw_nll_in_place_of_pmi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "pmi", lambda _bos, nll: ranking.raw(nll))
    with pytest.raises(AssertionError):
        check_ignored([1.0, 2.0], 5)


# --- several scores ----------------------------------------------------------------------------


def check_swap(a: pd.DataFrame, b: pd.DataFrame) -> None:
    one, two = ranking.compare(a, b), ranking.compare(b, a)
    assert (one.wins, one.ties, one.losses) == (two.losses, two.ties, two.wins)
    assert one.wins + one.ties + one.losses == a["query_id"].nunique()
    for metric in ranking.METRICS:
        x = ranking.difference(a, b, metric, k=3, resamples=RESAMPLES)
        y = ranking.difference(b, a, metric, k=3, resamples=RESAMPLES)
        assert numbers(x) == pytest.approx([-y.value, -y.ci_high, -y.ci_low], abs=1e-9)
        assert x.value == pytest.approx(ranking.value(a, metric, k=3) - ranking.value(b, metric, k=3))
    rr = ranking.per_query(a)["reciprocal_rank"] - ranking.per_query(b)["reciprocal_rank"]
    assert one.wins == int((rr > 0).sum())


@pytest.mark.parametrize("seed", range(4))
def test_swapping_two_scores_negates_the_difference(seed: int) -> None:
    a = sampled(seed, relevant=1 + seed % 2)
    check_swap(a, a.assign(score=sampled(seed + 50, relevant=1)["score"]))


def test_twin_swap_sees_a_difference_without_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_minus", lambda a, b: lambda counts: np.abs(a(counts) - b(counts)))
    with pytest.raises(AssertionError):
        check_swap(sampled(1), sampled(1).assign(score=sampled(2)["score"]))


def check_two_stage(a: pd.DataFrame, b: pd.DataFrame) -> None:
    for top, same in ((0, a), (1, a), (len(a), b)):
        staged = ranking.two_stage(a, b, top=top)
        assert ranking.compare(staged, same).ties == a["query_id"].nunique()
        assert ranking.per_query(staged)["auc"].tolist() == ranking.per_query(same)["auc"].tolist()
    kept = ranking.two_stage(a, b, top=3).set_index("passage_id")["score"]
    for _, rows in a.groupby("query_id"):
        order = rows["score"].rank(method="max", ascending=False)
        inside, outside = rows["passage_id"][order <= 3], rows["passage_id"][order > 3]
        if len(inside) and len(outside):
            assert kept[inside].min() > kept[outside].max()


@quick
@given(pair=tables(scores=2))
def test_two_stages_range_from_the_first_score_to_the_second(pair: list[pd.DataFrame]) -> None:
    check_two_stage(*pair)


def test_twin_two_stage_sees_all_re_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ranking.two_stage
    monkeypatch.setattr(ranking, "two_stage", lambda a, b, top: right(a, b, top=len(a) + 0 * top))
    with pytest.raises(AssertionError):
        check_two_stage(sampled(1), sampled(1).assign(score=sampled(2)["score"]))


def check_routing(a: pd.DataFrame, b: pd.DataFrame, shift: float) -> None:
    assert ranking.route({"a": a})["score"].tolist() == a["score"].tolist()
    routed = ranking.route({"a": a, "b": b})
    for query, rows in routed.groupby("query_id"):
        means = {name: t["score"][t["query_id"] == query].mean() for name, t in
                 (("a", a), ("b", b))}
        chosen = "b" if means["b"] > means["a"] else "a"
        assert set(rows["condition"]) == {chosen}
        source = {"a": a, "b": b}[chosen]
        assert rows["score"].tolist() == source["score"][source["query_id"] == query].tolist()
    blind = [t.assign(relevant=t.groupby("query_id").cumcount(ascending=False) == 0)
             for t in (a, b)]
    assert ranking.route(dict(zip("ab", blind, strict=True)))["condition"].equals(routed["condition"])
    moved = [t.assign(score=t["score"] + shift) for t in (a, b)]  # raw to PMI
    assert ranking.route(dict(zip("ab", moved, strict=True)))["condition"].equals(routed["condition"])


@quick
@given(pair=tables(scores=2), shift=st.integers(0, 9))
def test_routing_takes_each_query_to_the_condition_with_the_best_mean(
    pair: list[pd.DataFrame], shift: int
) -> None:
    check_routing(*pair, float(shift))


def test_twin_routing_sees_one_choice_for_all_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "route", lambda tables: ranking.best_of(tables))
    with pytest.raises(AssertionError):
        check_routing(sampled(1), sampled(1).assign(score=sampled(2)["score"]), 1.0)


def check_best(a: pd.DataFrame, b: pd.DataFrame) -> None:
    best = ranking.best_of({"a": a, "b": b})
    assert best["score"].tolist() == np.maximum(a["score"], b["score"]).tolist()
    assert (best["condition"] == np.where(b["score"] > a["score"], "b", "a")).all()
    assert ranking.best_of({"a": a})["score"].tolist() == a["score"].tolist()


@quick
@given(pair=tables(scores=2))
def test_the_best_of_several_intents_is_the_highest_score(pair: list[pd.DataFrame]) -> None:
    check_best(*pair)


def test_twin_best_sees_the_best_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "best_of", ranking.route)
    with pytest.raises(AssertionError):
        check_best(sampled(1), sampled(1).assign(score=sampled(2)["score"]))


# --- estimates ---------------------------------------------------------------------------------


def simulated(rng: np.random.Generator, shift: float, shared: np.ndarray) -> np.ndarray:
    """Scores of 40 queries, 3 relevant and 3 not; the relevant ones of a query move together."""
    scores = rng.normal(size=(40, 6))
    scores[:, :3] += shift + shared[:, None]
    return scores.ravel()


LISTS = sampled(0, 40, 6, 3).drop(columns=["score", "overlap"])
Draw = Callable[[np.random.Generator, int], tuple[Estimate, float]]


def auc_case(rng: np.random.Generator, seed: int) -> tuple[Estimate, float]:
    frame = LISTS.assign(score=simulated(rng, 1.0, rng.normal(size=40)))
    return ranking.estimate(frame, seed=seed, resamples=RESAMPLES), sps.norm.cdf(1 / math.sqrt(3))


def auc_difference_case(rng: np.random.Generator, seed: int) -> tuple[Estimate, float]:
    shared = rng.normal(size=(3, 40))
    a = LISTS.assign(score=simulated(rng, 1.0, (shared[0] + shared[1]) / math.sqrt(2)))
    b = LISTS.assign(score=simulated(rng, 0.6, (shared[0] + shared[2]) / math.sqrt(2)))
    expected = sps.norm.cdf(1 / math.sqrt(3)) - sps.norm.cdf(0.6 / math.sqrt(3))
    return ranking.difference(a, b, seed=seed, resamples=RESAMPLES), expected


def mrr_difference_case(rng: np.random.Generator, seed: int) -> tuple[Estimate, float]:
    a, b = (LISTS.assign(score=simulated(rng, 0.5, rng.normal(size=40))) for _ in range(2))
    return ranking.difference(a, b, "mrr", seed=seed, resamples=RESAMPLES), 0.0


def gap_case(rng: np.random.Generator, seed: int) -> tuple[Estimate, float]:
    base = LISTS.assign(score=rng.normal(size=240))
    primed = base.assign(score=base["score"] + simulated(rng, 0.3, rng.normal(size=40)))
    return ranking.benefit_gap(base, primed, seed=seed, resamples=RESAMPLES), 0.3


CASES: dict[str, Draw] = {
    "auc": auc_case, "auc-difference": auc_difference_case,
    "mrr-difference": mrr_difference_case, "benefit-gap": gap_case,
}


def check_coverage(case: Draw, draws: int = 300) -> None:
    """The interval holds the true value as often as it says, neither rarely nor always."""
    rng = np.random.default_rng(5)
    found = [case(rng, seed) for seed in range(draws)]
    covered = sum(e.ci_low <= true <= e.ci_high for e, true in found)
    short = sps.binomtest(covered, draws, 0.95 - ASYMPTOTIC, alternative="less").pvalue
    wide = sps.binomtest(covered, draws, 0.985, alternative="greater").pvalue
    assert short > FALSE_ALARM, f"covers {covered} of {draws}, says 95 %"
    assert wide > FALSE_ALARM, f"covers {covered} of {draws}, says 95 %"


@pytest.mark.parametrize("name", CASES)
def test_intervals_of_rankings_cover_what_they_say(name: str) -> None:
    check_coverage(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_twin_coverage_sees_narrow_intervals(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = stats._scipy_bootstrap

    def narrow(*args: Any) -> Any:
        return tuple([((3 * low + high) / 4, (low + 3 * high) / 4) for low, high in kind]
                     for kind in right(*args))

    monkeypatch.setattr(stats, "_scipy_bootstrap", narrow)
    with pytest.raises(AssertionError, match="covers"):
        check_coverage(CASES[name], draws=120)


def check_resamples(seed: int) -> None:
    """The quadratic form of a resample is the AUC of the lists drawn, written out."""
    frame = sampled(seed, 8, 4)
    frame["score"] = frame["score"].round(0)
    names = sorted(frame["query_id"].unique())
    lists = ranking._lists(frame)
    counts = np.random.default_rng(seed).multinomial(8, np.full(8, 1 / 8), size=5).astype(float)
    ours = ranking._auc_metric(lists, lists.columns[0])(counts)
    for drawn, auc in zip(counts, ours, strict=True):
        parts = [frame[frame["query_id"] == name].assign(query_id=f"{name}-{copy}")
                 for name, n in zip(names, drawn, strict=True) for copy in range(int(n))]
        assert auc == pytest.approx(ranking.auc(pd.concat(parts)))
    e = ranking.estimate(frame, resamples=60, seed=3)

    def statistic(chosen: np.ndarray) -> float:
        parts = [frame[frame["query_id"] == names[int(i)]].assign(query_id=f"{j:03}")
                 for j, i in enumerate(chosen)]
        return ranking.auc(pd.concat(parts))

    ci = sps.bootstrap((np.arange(8),), statistic, vectorized=False, n_resamples=60,
                       rng=np.random.default_rng(3)).confidence_interval
    assert numbers(e)[1:] == pytest.approx([ci.low, ci.high])


def test_a_resample_is_the_auc_of_the_lists_drawn() -> None:
    check_resamples(1)


def test_twin_resamples_see_queries_drawn_once_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ranking._auc_metric
    monkeypatch.setattr(ranking, "_auc_metric", lambda *a: lambda c: right(*a)(np.minimum(c, 1)))
    with pytest.raises(AssertionError):
        check_resamples(1)


def test_degenerate_rankings_are_exact_or_unbounded() -> None:
    frame = sampled(1)
    same = ranking.difference(frame, frame.copy(), "mrr")
    assert (numbers(same), same.method) == ([0, 0, 0], "exact: both scores are identical")
    lone = frame[:6]
    assert numbers(ranking.estimate(lone))[1:] == [0, 1]
    assert numbers(ranking.difference(lone, lone))[1:] == [-1, 1]
    assert ranking.estimate(lone, "d").ci_high == math.inf
    none = ranking.estimate(frame[:0])
    assert (math.isnan(none.value), none.ci_low, none.ci_high) == (True, 0, 1)
    assert (none.n, none.method) == (0, "none: no samples")
    assert math.isnan(ranking.value(frame[:0], "mrr"))
    assert math.isnan(ranking.auc(frame[:0]))
    perfect = ranking.estimate(frame.assign(score=frame["relevant"]), resamples=RESAMPLES)
    assert numbers(perfect) == [1, 1, 1]
    flat = ranking.benefit_gap(frame, frame.assign(score=frame["score"] + 0.25), resamples=RESAMPLES)
    assert numbers(flat) == pytest.approx([0, 0, 0], abs=1e-12)


def test_a_hit_rate_without_ties_has_the_exact_interval() -> None:
    frame = sampled(1)
    hits = int(ranking.per_query(frame, k=2)["hit"].sum())
    assert ranking.estimate(frame, "hit", k=2) == stats.proportion(hits, 30)
    tied = ranking.estimate(frame.assign(score=0.0), "hit", k=2, resamples=RESAMPLES)
    assert (tied.unit, tied.value) == ("proportion", pytest.approx(2 / 6))


def test_a_query_with_a_nan_is_left_out_whole() -> None:
    frame = sampled(1)
    holed = frame.assign(score=frame["score"].where(frame.index != 7))
    rest = frame[frame["query_id"] != "q001"]
    assert numbers(ranking.estimate(holed, resamples=50)) == numbers(ranking.estimate(rest, resamples=50))
    assert ranking.difference(frame, holed, resamples=50).clusters == 29
    assert len(ranking.two_stage(frame, holed)) == len(rest)


def test_the_standardized_gap_is_in_sds_of_the_benefit_and_has_a_floor() -> None:
    a, b = sampled(1), sampled(1).assign(score=sampled(2)["score"])
    gap = ranking.benefit_gap(a, b, resamples=50)
    d = ranking.benefit_gap(a, b, standardized=True, resamples=50)
    assert d.sd is not None
    assert d.value == pytest.approx(gap.value / (2 * d.sd))
    assert stats.floor_on_scale(d, 0.01) == pytest.approx(0.01 / d.sd)
    assert stats.floor_on_scale(gap, 0.01) == 0.01
    assert stats.floor_on_scale(ranking.estimate(a, resamples=50), 0.01) == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: ranking.value(f.drop(columns="score")), "'score' lacks"),
        (lambda f: ranking.value(f, "ndcg"), "unknown ranking metric 'ndcg'"),
        (lambda f: ranking.value(f, "mrr", k=0), "k=0"),
        (lambda f: ranking.value(pd.concat([f, f])), "twice"),
        (lambda f: ranking.value(f.assign(score=math.inf)), "infinite"),
        (lambda f: ranking.value(f.assign(relevant=True)), "'q000' has no irrelevant"),
        (lambda f: ranking.value(f.assign(relevant=False)), "'q000' has no relevant"),
        (lambda f: ranking.value(f.assign(relevant="yes")), "true or false"),
        (lambda f: ranking.value(f.assign(query_id=None)), "no query_id"),
        (lambda f: ranking.difference(f, f[:12]), "different candidates"),
        (lambda f: ranking.two_stage(f, f, top=-1), "top=-1"),
        (lambda _: ranking.route({}), "no table"),
        (lambda f: ranking.control_overlap(f, caliper=-1), "caliper=-1"),
        (lambda f: ranking.control_overlap(f[:0]), "no query"),
        (lambda _: ranking.table(candidates.candidates(CORPUS, 1, 0), {}), "no score for"),
        (lambda _: jaccard("a", [1]), "one is a text"),
    ],
)
def test_bad_input_is_one_clear_line(call: Callable[[pd.DataFrame], object], message: str) -> None:
    with pytest.raises(KvError, match=message) as caught:
        call(sampled(1))
    assert "\n" not in str(caught.value)


# --- overlap -----------------------------------------------------------------------------------


def check_overlap_control() -> None:
    """Scores that are overlap and noise rank no more where overlap is equal; others still do."""
    rng = np.random.default_rng(3)
    frame = sampled(0, 200, 10)
    frame["overlap"] = rng.normal(size=2000) + frame["relevant"]
    only = ranking.control_overlap(frame.assign(score=2 * frame["overlap"] + rng.normal(size=2000)),
                              resamples=RESAMPLES)
    assert only.plain.value > 0.7
    assert only.controlled.value == pytest.approx(0.5, abs=0.06)
    assert only.residual == pytest.approx(0.5, abs=0.04)
    assert only.change.ci_high < 0
    assert only.matched < only.pairs / 4
    other = ranking.control_overlap(frame.assign(overlap=rng.normal(size=2000)), resamples=RESAMPLES)
    assert other.change.ci_low < 0 < other.change.ci_high
    assert other.change.value == pytest.approx(other.controlled.value - other.plain.value)
    assert other.overlap == pytest.approx(0.5, abs=0.06)
    curved = frame.assign(score=np.exp(frame["score"]))
    one, two = (ranking.control_overlap(f, resamples=RESAMPLES) for f in (frame, curved))
    assert numbers(one.change) == numbers(two.change)


def test_overlap_is_held_constant() -> None:
    check_overlap_control()


def test_twin_overlap_sees_all_pairs_matched(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ranking._pairs
    monkeypatch.setattr(ranking, "_pairs", lambda lists, x, _alike, _within: right(
        lists, x, None, math.inf))
    with pytest.raises(AssertionError):
        check_overlap_control()


def test_twin_overlap_sees_no_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_residual", lambda _lists, score, _overlap: score)
    with pytest.raises(AssertionError):
        check_overlap_control()


def check_jaccard(a: list[int], b: list[int]) -> None:
    both = jaccard(a, b)
    assert 0 <= both <= 1
    assert both == jaccard(b, a) == jaccard(a + a, b)
    assert both == jaccard(" ".join(map(str, a)), "; ".join(map(str, b)))
    assert jaccard(a, a) == float(bool(a))
    assert (both == 0) == (not set(a) & set(b))


@quick
@given(a=st.lists(st.integers(0, 6)), b=st.lists(st.integers(0, 6)))
def test_overlap_is_symmetric_and_within_bounds(a: list[int], b: list[int]) -> None:
    check_jaccard(a, b)


def test_twin_jaccard_sees_a_one_sided_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "jaccard", lambda a, b: len(set(a) & set(b)) / max(
        len(set(a)), 1))
    with pytest.raises(AssertionError):
        check_jaccard([1, 2], [1, 2, 3])


def test_overlap_of_a_sample_is_that_of_passage_and_answer() -> None:
    assert answer_overlap(Sample("q", "The mean of x.", "the MEAN")) == 0.5


# --- candidates --------------------------------------------------------------------------------

WORDS = ("axis entries window spectrum kernel bounds sorted sparse number shape filter matrix "
         "label column random order signal value").split()


def described(name: str, seed: int) -> Sample:
    """A made-up callable whose passage names it, differently in every other."""
    rng = np.random.default_rng(seed)
    last = name.split(".")[-1]
    body = " ".join(rng.choice(WORDS, 30))
    passage = f"See {name} first. {last.upper()}() and np.{last} agree: {body}. {last}_ differs."
    return Sample(f"what does {name} do", passage, f"{last} of {' '.join(rng.choice(WORDS, 4))}",
                  id=name, cluster=name.rsplit(".", 1)[0])


def made_corpus() -> Corpus:
    sizes = {"pkg.big": 8, "pkg.small": 3, "pkg.DataFrame": 2, "other.mod": 6}
    names = [f"{module}.fn{i}x" for module, n in sizes.items() for i in range(n)]
    samples = [described(name, seed) for seed, name in enumerate(names)]
    twin = replace(samples[0], id="pkg.big.twin", query="what does pkg.big.twin do")
    return Corpus("made", (*samples, twin), {}, "r", "module", "")


CORPUS = made_corpus()


def named_corpus() -> Corpus:
    """Queries whose own passages the data names; one of them repeats the relevant passage."""
    samples = tuple(replace(s, id=str(i), cluster=str(i)) for i, s in enumerate(CORPUS.samples[:6]))
    texts = [s.passage for s in CORPUS.samples[8:14]]
    others = {s.id: (s.passage + " Too.", " ", *texts[: 2 + int(s.id) % 3], texts[0])
              for s in samples}
    return Corpus("named", samples, {}, "r", "query", "", others)


def by_query(made: Sequence[candidates.Candidate]) -> dict[str, list[candidates.Candidate]]:
    lists: dict[str, list[candidates.Candidate]] = {}
    for candidate in made:
        lists.setdefault(candidate.query_id, []).append(candidate)
    return lists


def check_lists(corpus: Corpus, seed: int, negatives: int, masked: bool) -> None:
    """One relevant passage a list, no twins, ids unique, the true answer over every passage."""
    made = candidates.candidates(corpus, 99, seed, negatives=negatives)
    asked = {s.id: s for s in corpus.samples}
    assert len({c.sample.id for c in made}) == len(made)
    for query, ranked in by_query(made).items():
        assert [c.relevant for c in ranked] == [True] + [False] * (len(ranked) - 1)
        assert ranked[0].sample.passage == asked[query].passage
        assert all(c.sample.passage.strip() for c in ranked)
        assert 2 <= len(ranked) <= 1 + negatives
        assert not twins([template(c.sample.passage, c.passage_id) for c in ranked])
        for c in ranked:
            assert (c.sample.query, c.sample.answer) == (asked[query].query, asked[query].answer)
            assert (c.sample.id, c.sample.cluster) == (f"{query}#{c.passage_id}", query)
    if masked:
        check_masked(made, candidates.candidates(corpus, 99, seed, negatives=negatives, masked=True))


def check_masked(plain: Sequence[candidates.Candidate], masked: Sequence[candidates.Candidate]) -> None:
    """The same passages, but none of the list's names in any of them, nor in the answer."""
    assert [f"{c.sample.id}#masked" for c in plain] == [c.sample.id for c in masked]
    for ranked in by_query(masked).values():
        names = {part for c in ranked for id in (c.passage_id, c.query_id)
                 for part in (id, id.split(".")[-1])}
        for c, name in itertools.product(ranked, names):
            # The t of don't is no name.
            held = re.compile(rf"(?<!['\u2019])\b{re.escape(name)}\b", re.IGNORECASE)
            assert not held.search(c.sample.passage), f"{c.sample.id} holds {name}"
            assert not held.search(c.sample.answer), f"the answer of {c.sample.id} holds {name}"
        assert len({c.sample.answer for c in ranked}) == 1


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), negatives=st.integers(1, 12))
def test_every_list_has_one_relevant_passage_and_no_twins(seed: int, negatives: int) -> None:
    check_lists(CORPUS, seed, negatives, masked=True)
    check_lists(named_corpus(), seed, negatives, masked=False)


def test_twin_lists_see_twins_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clean, "twins", lambda _texts: frozenset())
    for corpus in (CORPUS, named_corpus()):
        with pytest.raises(AssertionError):
            check_lists(corpus, 0, 12, masked=False)


def test_twin_masking_sees_names_left(monkeypatch: pytest.MonkeyPatch) -> None:
    right = candidates.without_names
    monkeypatch.setattr(candidates, "without_names", lambda text, names: right(text, list(names)[:1]))
    with pytest.raises(AssertionError, match="holds"):
        check_lists(CORPUS, 0, 5, masked=True)


def check_determinism(corpus: Corpus, seed: int) -> None:
    """Lists depend on (seed, id) alone: not on order, not on how many queries are asked for."""
    whole = candidates.candidates(corpus, 99, seed, negatives=4)
    turned = replace(corpus, samples=corpus.samples[::-1],
                     others={k: v[::-1] for k, v in corpus.others.items()})
    assert candidates.candidates(turned, 99, seed, negatives=4) == whole
    for queries in (1, 3, 5):
        some = candidates.candidates(corpus, queries, seed, negatives=4)
        assert some == whole[: len(some)]
        assert len(by_query(some)) == queries
    fewer, more = (by_query(candidates.candidates(corpus, 99, seed, negatives=n)) for n in (2, 4))
    assert all(ranked == more[query][: len(ranked)] for query, ranked in fewer.items())


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 99))
def test_lists_depend_on_seed_and_id_alone(seed: int) -> None:
    check_determinism(CORPUS, seed)
    check_determinism(named_corpus(), seed)
    assert candidates.candidates(CORPUS, 5, seed) != candidates.candidates(CORPUS, 5, seed + 1)


def test_twin_determinism_sees_the_order_of_the_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io, "digest", lambda *_parts: "same")
    with pytest.raises((AssertionError, KvError)):
        check_determinism(named_corpus(), 1)
    monkeypatch.setattr(sample, "choose", lambda samples, _n, _seed: samples)
    with pytest.raises(AssertionError):
        check_determinism(CORPUS, 1)


def test_hard_negatives_come_from_the_module_then_from_the_package() -> None:
    made = candidates.candidates(CORPUS, 99, 0, negatives=4)
    assert candidates.counts(made) == {"cluster": 68, "package": 12, "query": 20}
    homes = {s.id: s.cluster for s in CORPUS.samples}
    for query, ranked in by_query(made).items():
        found = [c.origin for c in ranked[1:]]
        assert found == sorted(found)
        for c in ranked[1:]:
            assert (homes[c.passage_id] == homes[query]) == (c.origin == "cluster")
            assert homes[c.passage_id].split(".")[0] == query.split(".")[0]


def test_a_passage_that_holds_the_answer_is_no_negative() -> None:
    first, second, *rest = CORPUS.samples[:5]
    told = replace(second, passage=f"{second.passage} {first.answer.title()}!")
    made = candidates.candidates(replace(CORPUS, samples=(first, told, *rest)), 9, 0)
    assert told.id not in [c.passage_id for c in by_query(made)[first.id]]
    assert first.id in [c.passage_id for c in by_query(made)[told.id]]


def test_docstrings_give_lists_of_ten_without_names() -> None:
    """The default corpus can be ranked: nine hard negatives for every query."""
    corpus = load_corpus("docstrings")
    plain, masked = (candidates.candidates(corpus, 40, 0, masked=m) for m in (False, True))
    assert {len(ranked) for ranked in by_query(plain).values()} == {10}
    assert candidates.counts(plain)["query"] == 40
    assert candidates.counts(plain)["cluster"] > 40
    check_masked(plain, masked)


def test_names_are_masked_as_whole_words_with_their_path() -> None:
    assert candidates.names_of("pandas.DataFrame.min") == {"dataframe", "min"}
    assert candidates.names_of("scipy.stats.rv_discrete.fit") == {"rv_discrete", "fit"}
    assert candidates.names_of("numpy.random.seed") == {"seed"}
    text = "Min: like numpy.min(x), amin and df.DataFrame.MIN don't minimize; min_x stays."
    assert candidates.without_names(text, {"min", "dataframe"}) == (
        "it: like it(x), amin and it don't minimize; min_x stays.")
    assert candidates.without_names("don't use t", {"t"}) == "don't use it"
    assert candidates.without_names("as it was", ()) == "as it was"


def test_a_table_takes_the_score_of_every_candidate() -> None:
    made = candidates.candidates(CORPUS, 4, 0)
    frame = ranking.table(made, {c.sample.id: float(c.relevant) for c in made})
    assert ranking.auc(frame) == 1.0
    assert list(frame.columns) == list(ranking.COLUMNS)
    assert len(frame) == len(made)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: candidates.candidates(Corpus(
            "plain", (Sample("q", "p", "a"),), {}, "r", "sample", ""), 1, 0), "cannot be ranked"),
        (lambda: candidates.candidates(Corpus(
            "lone", (Sample("q", "p", "a", "x", "c"),), {}, "r", "cluster", ""), 1, 0), "no query"),
        (lambda: candidates.candidates(CORPUS, 0, 0), "queries=0"),
        (lambda: candidates.candidates(CORPUS, 1, 0, negatives=0), "negatives=0"),
        (lambda: candidates.candidates(replace(named_corpus(), samples=tuple(
            replace(s, query="which one") for s in named_corpus().samples)), 1, 0, masked=True),
         "by name"),
    ],
)
def test_a_corpus_that_cannot_rank_is_one_clear_line(
    call: Callable[[], object], message: str
) -> None:
    with pytest.raises(KvError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


# --- independence ------------------------------------------------------------------------------


def imported_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_ranking_stored_scores_imports_no_torch() -> None:
    modules = "kvcore.ranking, kvcore.overlap, kvcore.deployment, kvcore.corpora.candidates"
    assert not {"torch", "transformers", "pytest"} & imported_by(f"import {modules}")


def test_twin_independence_sees_an_import() -> None:
    assert "torch" in imported_by("import kvcore.ranking, torch")
