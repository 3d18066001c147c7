"""Ranking metrics with exact ties, scores that agree, and what is made of several scores.

Each property is a check; its twin breaks the production function and must see the check fail.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sps

from invariants.support.intervals import FAST, numbers
from invariants.support.ranked_tables import ranked_table, ranked_tables
from kvcore.analysis import IntervalSettings
from kvcore.analysis import ranking as rk
from kvcore.analysis.ranking import estimates, metrics, tables
from kvcore.errors import KvError
from kvcore.io import digest

FEW = IntervalSettings(resamples=50)
quick = settings(max_examples=25, deadline=None)


# --- metrics -----------------------------------------------------------------------------------


def check_bounds(frame: pd.DataFrame, k: int) -> None:
    for metric in ("auc", "auc_per_query", "mrr", "hit"):
        assert 0 <= rk.value(frame, metric, k=k) <= 1
    mrr, hit = rk.value(frame, "mrr", k=k), rk.value(frame, "hit", k=k)
    assert hit / k - 1e-12 <= mrr <= hit + 1e-12
    assert hit <= rk.value(frame, "hit", k=k + 1) + 1e-12


@quick
@given(table=ranked_tables(), k=st.integers(1, 10))
def test_metrics_stay_within_their_bounds(table: list[pd.DataFrame], k: int) -> None:
    """A metric outside its range, or hits that fall as more ranks count."""
    check_bounds(table[0], k)


def test_twin_bounds_see_ranks_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of bounds that ranks counted from 0 pass."""
    monkeypatch.setattr(metrics, "first_relevant", lambda above, *_: (2.0 / (1 + above), 1.0))
    with pytest.raises(AssertionError):
        check_bounds(ranked_table(1), 3)


def all_orders(frame: pd.DataFrame, k: int) -> pd.DataFrame:
    """Mean reciprocal rank and hit of each query over all orders that break its ties."""
    found = []
    for query, rows in frame.groupby("query_id"):
        pairs = list(zip(rows["score"], rows["relevant"], strict=True))
        outcomes = [
            next(
                rank for rank, (_, good) in enumerate(sorted(order, key=lambda p: -p[0]), 1) if good
            )
            for order in itertools.permutations(pairs)
        ]
        found.append(
            (query, np.mean([(r <= k) / r for r in outcomes]), np.mean([r <= k for r in outcomes]))
        )
    return pd.DataFrame(found, columns=["query_id", "rr", "hit"]).set_index("query_id")


def check_ties(frame: pd.DataFrame, k: int) -> None:
    """Reciprocal rank and hit are expectations over random tie-breaks (sorted() is stable)."""
    ours, orders = rk.per_query(frame, k=k), all_orders(frame, k)
    assert ours["reciprocal_rank"].tolist() == pytest.approx(orders["rr"].tolist())
    assert ours["hit"].tolist() == pytest.approx(orders["hit"].tolist())


@settings(max_examples=12, deadline=None)
@given(table=ranked_tables(max_queries=2), k=st.integers(1, 7))
def test_tied_ranks_are_the_mean_over_all_orders(table: list[pd.DataFrame], k: int) -> None:
    """Ties broken by order, by luck or by the id."""
    check_ties(table[0], k)


def test_twin_ties_see_the_luckiest_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of ties that the luckiest order passes."""
    monkeypatch.setattr(
        metrics,
        "first_relevant",
        lambda above, _t, _r, k: ((above < k) / (above + 1), float(above < k)),
    )
    with pytest.raises(AssertionError):
        check_ties(ranked_table(2, 2, 5).assign(score=0.0), 5)


def check_scipy(frame: pd.DataFrame) -> None:
    """Pooled and per-query AUC, ties included, agree with SciPy's U by a second route."""

    def auc(rows: pd.DataFrame) -> float:
        good, bad = rows["score"][rows["relevant"]], rows["score"][~rows["relevant"]]
        return float(sps.mannwhitneyu(good, bad).statistic) / (len(good) * len(bad))

    assert rk.value(frame, "auc") == pytest.approx(auc(frame), abs=1e-12)
    assert rk.auc(frame) == pytest.approx(auc(frame), abs=1e-12)
    each = [auc(rows) for _, rows in frame.groupby("query_id")]
    assert rk.per_query(frame)["auc"].tolist() == pytest.approx(each, abs=1e-12)
    assert rk.value(frame, "auc_per_query") == pytest.approx(np.mean(each), abs=1e-12)


@quick
@given(table=ranked_tables())
def test_auc_counts_ties_as_scipy_does(table: list[pd.DataFrame]) -> None:
    """A tie counted as a win or as a loss."""
    check_scipy(table[0])


def test_twin_scipy_sees_ties_counted_as_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison with SciPy that ties counted as losses pass."""
    right = metrics.pair_counts

    def strict(lists: Any, column: Any, *rest: Any) -> Any:
        return right(lists, column - 1e-9 * lists.relevant, *rest)

    monkeypatch.setattr(metrics, "pair_counts", strict)
    with pytest.raises(AssertionError):
        check_scipy(ranked_table(1).assign(score=0.0))


def check_d(frame: pd.DataFrame) -> None:
    """d is the t statistic of two groups, rescaled (SciPy's, equal variances)."""
    good, bad = frame["score"][frame["relevant"]], frame["score"][~frame["relevant"]]
    t = float(sps.ttest_ind(good, bad).statistic)
    assert rk.value(frame, "d") == pytest.approx(t * math.sqrt(1 / len(good) + 1 / len(bad)))
    assert rk.value(frame, "gap") == pytest.approx(good.mean() - bad.mean())


@pytest.mark.parametrize("seed", range(3))
def test_d_of_the_scores_is_the_rescaled_t(seed: int) -> None:
    """Another SD, or numbers lost to rounding where scores are far from 0."""
    check_d(ranked_table(seed, relevant=2))
    check_d(ranked_table(seed).assign(score=lambda f: 1e6 + 1e-3 * f["score"]))


def test_twin_d_sees_the_groups_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of d that exchanged groups pass."""
    right = metrics.gap_metric
    monkeypatch.setattr(
        metrics,
        "gap_metric",
        lambda lists, x, s: right(replace(lists, relevant=~lists.relevant), x, s),
    )
    with pytest.raises(AssertionError):
        check_d(ranked_table(1))


def check_negation(frame: pd.DataFrame) -> None:
    flipped = frame.assign(score=-frame["score"])
    for metric in ("auc", "auc_per_query"):
        assert rk.value(flipped, metric) == pytest.approx(1 - rk.value(frame, metric))
    assert rk.value(flipped, "gap") == pytest.approx(-rk.value(frame, "gap"), abs=1e-12)


@quick
@given(table=ranked_tables())
def test_negated_scores_give_one_minus_auc(table: list[pd.DataFrame]) -> None:
    """A metric that favours one direction of the score."""
    check_negation(table[0])


def test_twin_negation_sees_an_auc_folded_at_one_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of negation that max(AUC, 1 - AUC) passes."""
    right = metrics.pairs_within_queries

    def folded(lists: Any, column: Any) -> Any:
        wins, pairs = right(lists, column)
        return np.maximum(wins, pairs - wins), pairs

    monkeypatch.setattr(metrics, "pairs_within_queries", folded)
    with pytest.raises(AssertionError):
        check_negation(ranked_table(1))


def check_monotone(frame: pd.DataFrame) -> None:
    """What ranks alike scores alike: order statistics see no monotone transform."""
    moved = frame.assign(score=np.exp(frame["score"]) + 7)
    for metric in ("auc", "auc_per_query", "mrr", "hit"):
        assert rk.value(moved, metric, k=3) == rk.value(frame, metric, k=3)
    assert rk.compare(frame, moved).ties == frame["query_id"].nunique()


@quick
@given(table=ranked_tables())
def test_monotone_transforms_change_nothing(table: list[pd.DataFrame]) -> None:
    """An order statistic that looks at the size of scores."""
    check_monotone(table[0])


def test_twin_monotone_sees_ties_by_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of transforms that rounded scores pass."""
    right = tables.ranked_lists

    def rounded(*args: Any, **named: Any) -> Any:
        lists = right(*args, **named)
        return replace(lists, columns=np.round(lists.columns / 3))

    monkeypatch.setattr(metrics, "ranked_lists", rounded)
    with pytest.raises(AssertionError):
        check_monotone(ranked_table(1))


def check_order(seed: int) -> None:
    frame = ranked_table(seed)
    mixed = frame.sample(frac=1, random_state=seed)
    for metric in rk.METRICS:
        one = rk.estimate(frame, metric, FEW, k=3)
        two = rk.estimate(mixed, metric, FEW, k=3)
        assert numbers(one) == numbers(two)
    assert numbers(rk.difference(frame, mixed, interval=FEW)) == [0, 0, 0]


def test_the_order_of_rows_changes_nothing() -> None:
    """Numbers that depend on the order of the table."""
    check_order(1)


def test_twin_order_sees_unsorted_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of order that unsorted tables pass."""
    monkeypatch.setattr(tables, "checked_table", lambda frame, _c: frame.set_index(rk.KEYS))
    with pytest.raises((AssertionError, KvError)):
        check_order(1)


# --- scores ------------------------------------------------------------------------------------


def nll(query: str, document: str, answer: str) -> float:
    """Stand for a model: any NLL, 0 to 16 nats per token, fixed by what it reads."""
    return int(digest(query, document, answer)[:8], 16) / 2**28


def scored(bases: Sequence[float], size: int, reads: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Raw and PMI scores of a model that reads the document, or does not."""
    rows = [
        (f"q{q}", f"p{i}", i == 0, base, nll(f"q{q}", f"p{i}", "a") if reads else base)
        for q, base in enumerate(bases)
        for i in range(size)
    ]
    frame = pd.DataFrame(rows, columns=["query_id", "passage_id", "relevant", "bos", "nll"])
    return (
        frame.assign(score=rk.raw(frame["nll"])),
        frame.assign(score=rk.pmi(frame["bos"], frame["nll"])),
    )


# Multiples of 1/16: PMI subtracts them without rounding, so that equal NLLs stay equal.
bases = st.lists(st.integers(0, 160).map(lambda n: n / 16), min_size=1, max_size=6)


def check_pmi(values: Sequence[float], size: int) -> None:
    """PMI subtracts a constant per query: within a query it ranks as raw NLL does."""
    raw, pmi = scored(values, size, reads=True)
    one, two = rk.per_query(raw), rk.per_query(pmi)
    assert one["reciprocal_rank"].tolist() == two["reciprocal_rank"].tolist()
    assert one["auc"].tolist() == two["auc"].tolist()
    assert rk.compare(raw, pmi) == rk.Comparison(0, len(values), 0)
    assert (pmi["score"] - raw["score"]).tolist() == pytest.approx(pmi["bos"].tolist())


@quick
@given(values=bases, size=st.integers(2, 8))
def test_mrr_by_pmi_equals_mrr_by_raw_nll(values: list[float], size: int) -> None:
    """PMI of the wrong sign, or with a constant that differs within a query."""
    check_pmi(values, size)


def test_twin_pmi_sees_the_notes_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of PMI that its negative passes."""
    monkeypatch.setattr(rk, "pmi", lambda bos, nll: np.asarray(nll) - np.asarray(bos))
    with pytest.raises(AssertionError):
        check_pmi([1.0, 2.0], 5)


def check_ignored(values: Sequence[float], size: int) -> None:
    _, pmi = scored(values, size, reads=False)
    assert (pmi["score"] == 0).all()
    assert rk.value(pmi, "auc") == rk.value(pmi, "auc_per_query") == 0.5
    by_chance = np.mean(1 / np.arange(1, size + 1))
    assert rk.value(pmi, "mrr") == pytest.approx(by_chance)


@quick
@given(values=bases, size=st.integers(2, 8))
def test_a_model_that_ignores_the_document_has_no_pmi(values: list[float], size: int) -> None:
    """PMI where the document makes no difference."""
    check_ignored(values, size)


def test_twin_ignored_sees_raw_nll_in_place_of_pmi(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of PMI that the NLL itself passes."""
    monkeypatch.setattr(rk, "pmi", lambda _bos, nll: rk.raw(nll))
    with pytest.raises(AssertionError):
        check_ignored([1.0, 2.0], 5)


# --- several scores ----------------------------------------------------------------------------


def check_swap(a: pd.DataFrame, b: pd.DataFrame) -> None:
    one, two = rk.compare(a, b), rk.compare(b, a)
    assert (one.wins, one.ties, one.losses) == (two.losses, two.ties, two.wins)
    assert one.wins + one.ties + one.losses == a["query_id"].nunique()
    for metric in rk.METRICS:
        x = rk.difference(a, b, metric, FAST, k=3)
        y = rk.difference(b, a, metric, FAST, k=3)
        assert numbers(x) == pytest.approx([-y.value, -y.ci_high, -y.ci_low], abs=1e-9)
        assert x.value == pytest.approx(rk.value(a, metric, k=3) - rk.value(b, metric, k=3))
    rr = rk.per_query(a)["reciprocal_rank"] - rk.per_query(b)["reciprocal_rank"]
    assert one.wins == int((rr > 0).sum())


@pytest.mark.parametrize("seed", range(4))
def test_swapping_two_scores_negates_the_difference(seed: int) -> None:
    """A difference that favours one score, or wins counted for the wrong one."""
    a = ranked_table(seed, relevant=1 + seed % 2)
    check_swap(a, a.assign(score=ranked_table(seed + 50, relevant=1)["score"]))


def test_twin_swap_sees_a_difference_without_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of swapping that an absolute difference passes."""
    monkeypatch.setattr(
        estimates, "minus", lambda a, b: lambda counts: np.abs(a(counts) - b(counts))
    )
    with pytest.raises(AssertionError):
        check_swap(ranked_table(1), ranked_table(1).assign(score=ranked_table(2)["score"]))


def check_two_stage(a: pd.DataFrame, b: pd.DataFrame) -> None:
    for top, same in ((0, a), (1, a), (len(a), b)):
        staged = rk.two_stage(a, b, top=top)
        assert rk.compare(staged, same).ties == a["query_id"].nunique()
        assert rk.per_query(staged)["auc"].tolist() == rk.per_query(same)["auc"].tolist()
    kept = rk.two_stage(a, b, top=3).set_index("passage_id")["score"]
    for _, rows in a.groupby("query_id"):
        order = rows["score"].rank(method="max", ascending=False)
        inside, outside = rows["passage_id"][order <= 3], rows["passage_id"][order > 3]
        if len(inside) and len(outside):
            assert kept[inside].min() > kept[outside].max()


@quick
@given(pair=ranked_tables(scores=2))
def test_two_stages_range_from_the_first_score_to_the_second(pair: list[pd.DataFrame]) -> None:
    """Passages re-ranked beyond the cut, or mixed across it."""
    check_two_stage(*pair)


def test_twin_two_stage_sees_all_re_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of two stages that re-ranking everything passes."""
    right = rk.two_stage
    monkeypatch.setattr(rk, "two_stage", lambda a, b, top: right(a, b, top=len(a) + 0 * top))
    with pytest.raises(AssertionError):
        check_two_stage(ranked_table(1), ranked_table(1).assign(score=ranked_table(2)["score"]))


def check_routing(a: pd.DataFrame, b: pd.DataFrame, shift: float) -> None:
    assert rk.route({"a": a})["score"].tolist() == a["score"].tolist()
    routed = rk.route({"a": a, "b": b})
    for query, rows in routed.groupby("query_id"):
        means = {
            name: t["score"][t["query_id"] == query].mean() for name, t in (("a", a), ("b", b))
        }
        chosen = "b" if means["b"] > means["a"] else "a"
        assert set(rows["condition"]) == {chosen}
        source = {"a": a, "b": b}[chosen]
        assert rows["score"].tolist() == source["score"][source["query_id"] == query].tolist()
    blind = [
        t.assign(relevant=t.groupby("query_id").cumcount(ascending=False) == 0) for t in (a, b)
    ]
    assert rk.route(dict(zip("ab", blind, strict=True)))["condition"].equals(routed["condition"])
    moved = [t.assign(score=t["score"] + shift) for t in (a, b)]  # raw to PMI
    assert rk.route(dict(zip("ab", moved, strict=True)))["condition"].equals(routed["condition"])


@quick
@given(pair=ranked_tables(scores=2), shift=st.integers(0, 9))
def test_routing_takes_each_query_to_the_condition_with_the_best_mean(
    pair: list[pd.DataFrame], shift: int
) -> None:
    """A route that sees what is relevant, or one for all queries."""
    check_routing(pair[0], pair[1], float(shift))


def test_twin_routing_sees_one_choice_for_all_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of routing that the best score per passage passes."""
    monkeypatch.setattr(rk, "route", lambda tables: rk.best_of(tables))
    with pytest.raises(AssertionError):
        check_routing(ranked_table(1), ranked_table(1).assign(score=ranked_table(2)["score"]), 1.0)


def check_best(a: pd.DataFrame, b: pd.DataFrame) -> None:
    best = rk.best_of({"a": a, "b": b})
    assert best["score"].tolist() == np.maximum(a["score"], b["score"]).tolist()
    assert (best["condition"] == np.where(b["score"] > a["score"], "b", "a")).all()
    assert rk.best_of({"a": a})["score"].tolist() == a["score"].tolist()


@quick
@given(pair=ranked_tables(scores=2))
def test_the_best_of_several_intents_is_the_highest_score(pair: list[pd.DataFrame]) -> None:
    """A score that is not the highest, or another condition named."""
    check_best(*pair)


def test_twin_best_sees_the_best_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of the best score that routing passes."""
    monkeypatch.setattr(rk, "best_of", rk.route)
    with pytest.raises(AssertionError):
        check_best(ranked_table(1), ranked_table(1).assign(score=ranked_table(2)["score"]))
