"""Which samples belong to which look, and what is recorded of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariants.support import toy_kind
from invariants.support.comparing import must_see
from invariants.support.own_files import jsonl
from kvcore.data.datasets import load_corpus
from kvcore.errors import KvError
from kvcore.measurements.base import clusters_of
from kvcore.measurements.collect import Collection, cluster_of_keys
from kvcore.measurements.looks import LookPlan, Pool, Record, planned
from kvcore.store.shards import Store


def keys_of(sizes: list[int], needs: tuple[str, ...] = ("bare", "random")) -> pd.DataFrame:
    """Return arranged keys of clusters of some sizes under some needs."""
    return pd.DataFrame(
        [
            {"need": need, "sample": f"s{cluster}-{i}", "cluster": f"c{cluster}"}
            for cluster, size in enumerate(sizes)
            for i in range(size)
            for need in needs
        ]
    )


@given(st.lists(st.integers(1, 9), min_size=1, max_size=60), st.integers(1, 10), st.integers(0, 3))
def test_looks_are_whole_clusters_that_grow_to_all(sizes: list[int], looks: int, seed: int) -> None:
    """Catches a look that is no part of the next, splits a cluster, or leaves a sample out."""
    keys = keys_of(sizes)
    plan = planned(keys, 300, looks, seed)
    before: set[str] = set()
    for look in range(1, looks + 1):
        within = plan.within(keys, look)
        samples = set(within["sample"])
        assert before <= samples
        whole = keys[keys["cluster"].isin(within["cluster"])]
        assert len(within) == len(whole)
        alone = within["cluster"].nunique() == 1
        assert alone or len(within) <= look / looks * len(keys) + 1e-9 or before == samples
        assert len(within) == sum(plan.count(need, look) for need in plan.needs)
        before = samples
    assert before == set(keys["sample"])
    assert len(plan.keys) == len(keys)


def check_nothing_within() -> None:
    """Demand that the rows of a look, where there are none, keep their columns."""
    keys = keys_of([3, 2])
    within = planned(keys, 300, 2, 0).within(keys.iloc[:0], 1)
    assert list(within) == list(keys)
    assert within.empty


def test_a_look_at_no_rows_keeps_their_columns() -> None:
    """Catches a cell that breaks because the data serves no need of one of its claims."""
    check_nothing_within()

    def by_an_empty_list(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(
            LookPlan, "within", lambda _, rows, look: rows[[look == 0 for _ in rows.index]]
        )

    must_see(by_an_empty_list, check_nothing_within)


@given(st.permutations(range(8)), st.integers(0, 5))
def test_neither_order_nor_other_needs_change_a_look(order: list[int], seed: int) -> None:
    """Catches looks that hang on the order of the data, or on which claims are run with."""
    keys = keys_of([3, 1, 4, 1, 5, 2, 6, 2])
    plan = planned(keys, 300, 5, seed)
    shuffled = keys.iloc[[i for start in order for i in range(start, len(keys), 8)]]
    assert planned(shuffled, 300, 5, seed) == plan
    alone = planned(keys[keys["need"] == "bare"], 300, 5, seed)
    assert alone.looks_of("bare") == plan.looks_of("bare")


def test_clusters_come_in_an_order_drawn_by_the_seed() -> None:
    """Catches looks at the clusters that come first in the data, which need not be like others."""
    keys = keys_of([1] * 50)
    orders = {tuple(planned(keys, 50, 5, seed).pools[0].samples[0]) for seed in range(5)}
    assert len(orders) == 5
    assert tuple(sorted(f"s{i}-0" for i in range(10))) not in orders


def test_a_look_needs_enough_clusters_and_more_samples_than_the_last() -> None:
    """Catches a verdict on a handful of clusters, or two looks at the same samples."""
    plan = planned(keys_of([1] * 50), 50, 5, 0)
    assert plan.schedule(("bare",), 20) == ((2, 3, 4, 5), (0.4, 0.6, 0.8, 1.0))
    assert plan.schedule(("bare",), 51) == ((5,), (1.0,))
    big = planned(keys_of([40, 1, 1, 1, 1]), 44, 5, 0)
    schedule = big.schedule(("bare",), 1)
    assert schedule.looks[-1] == 5
    assert all(b - a > 0.001 for a, b in zip(schedule.fractions, schedule.fractions[1:]))  # noqa: B905


def test_the_smallest_pool_sets_a_claims_looks() -> None:
    """Catches information counted in samples that a paired claim does not have."""
    few = keys_of([1] * 30, ("bare@512",))
    plan = planned(pd.concat([keys_of([1] * 300), few]), 300, 5, 0)
    assert plan.schedule(("bare",), 20).looks == (1, 2, 3, 4, 5)
    assert plan.schedule(("bare", "bare@512"), 20) == ((4, 5), (0.8, 1.0))


def test_rows_that_are_missing_are_counted() -> None:
    """Catches a look at half of its rows."""
    keys = keys_of([1] * 20)
    plan = planned(keys, 20, 5, 0)
    there = set(zip(keys["need"], keys["sample"], strict=True))
    assert plan.missing(there, ("bare", "random"), 5) == 0
    last = plan.pools[0].samples[4][0]
    assert plan.missing(there - {("bare", last)}, ("bare",), 5) == 1
    assert plan.missing(there - {("bare", last)}, ("bare",), 4) == 0


def test_clusters_are_known_before_anything_is_measured(tmp_path: Path) -> None:
    """Catches looks by other clusters than those of the rows.

    1. Clusters of the keys, from the data: samples, lists to rank, texts without clusters.
    2. Those that the data's own samples have; a list's is its query.
    """
    rows = [
        {
            "id": f"s{i}",
            "query": f"q{i}",
            "passage": f"p {i}",
            "answer": "a",
            "cluster": f"m{i % 2}",
        }
        for i in range(4)
    ]
    data = jsonl(tmp_path / "data.jsonl", *rows)
    keys = pd.DataFrame(
        {
            "sample": ["s0", "s1", "s3#p1", "s3#p2", "s2"],
            "sample_set": ["samples", "512", "lists", "masked", "seed1"],
        }
    )
    clusters = cluster_of_keys(clusters_of(load_corpus(data)), keys)
    assert clusters == ["m0", "m1", "s3", "s3", "m0"]


def test_a_collection_has_clusters_and_measures_what_it_is_told(tmp_path: Path) -> None:
    """Catches a part of a cell that is measured with the rest."""
    (tmp_path / "toy.py").write_text("x = 1")
    toy = toy_kind.Toy(tmp_path / "toy.py")
    asked = toy_kind.request(tmp_path)
    collection = Collection.planned(toy.kind(), asked, tmp_path, progress=None).adopting()
    assert list(collection.keys["cluster"]) == list(collection.keys["sample"])
    plan = planned(collection.keys, asked.limit, 5, asked.seed)
    collection.measure(plan.within(collection.keys, 2))
    assert len(toy.asked) == len(collection.rows().rows) == 16
    collection.measure(plan.within(collection.keys, 3))
    assert len(toy.asked) == len(set(toy.asked)) == 24


# --- the record ----------------------------------------------------------------------------------


def record_in(folder: Path) -> Record:
    return Record(Store(folder, toy_kind.SCHEMA), ("model", "float32", "data", "0"))


def plan_of(limit: int, looks: int = 5, needs: tuple[str, ...] = ("bare",)) -> LookPlan:
    return planned(keys_of([1] * limit, needs), limit, looks, 0)


def test_what_was_declared_is_read_back(tmp_path: Path) -> None:
    """Catches a record that loses anything."""
    record = record_in(tmp_path)
    assert record.read() == ()
    plan = record.declare(plan_of(30))
    assert record.read() == (plan,) == (plan_of(30),)
    record.mark_looked()
    assert record.read() == (replace(plan, looked=True),)


def warning(plan: LookPlan, *needs: str) -> str:
    return plan.warning(needs or ("bare",))


def test_another_limit_after_a_look_is_a_new_analysis(tmp_path: Path) -> None:
    """Catches uncorrected peeking that is not told of, and a warning where nobody has looked."""
    record = record_in(tmp_path)
    record.declare(plan_of(30))
    assert warning(record.declare(plan_of(40))) == ""
    record.mark_looked()
    words = "limit raised from 40 to 60 after a look"
    assert warning(record.declare(plan_of(60))) == f"{words}: a new analysis"
    record.mark_looked()
    assert warning(record.declare(plan_of(60))) == f"{words}: a new analysis"
    lowered = f"{words}; limit lowered from 60 to 50 after a look: a new analysis"
    assert warning(record.declare(plan_of(50))) == lowered


def test_another_number_of_looks_is_a_new_analysis(tmp_path: Path) -> None:
    """Catches looks that were chosen after looking."""
    record = record_in(tmp_path)
    record.declare(plan_of(30))
    record.mark_looked()
    changed = warning(record.declare(plan_of(30, looks=1)))
    assert changed == "looks changed from 5 to 1 after a look: a new analysis"


def test_a_limit_beyond_the_data_is_no_new_analysis(tmp_path: Path) -> None:
    """Catches a warning where the samples are the same as before."""
    record = record_in(tmp_path)
    record.declare(plan_of(30))
    record.mark_looked()
    assert warning(record.declare(replace(plan_of(30), limit=1000))) == ""


def test_needs_of_other_runs_stay_declared(tmp_path: Path) -> None:
    """Catches a run of one claim that makes the others' rows a fixed design."""
    record = record_in(tmp_path)
    record.declare(plan_of(30, needs=("bare", "random")))
    assert set(record.declare(plan_of(30, needs=("bare", "oracle"))).needs) == {
        "bare",
        "random",
        "oracle",
    }
    (again,) = record.read()
    assert len(again.keys) == 3 * 30


def check_another_limit(folder: Path) -> None:
    """A run of some needs at another limit leaves the plan of the others as it is."""
    record = record_in(folder)
    first = record.declare(plan_of(50, needs=("bare", "oracle", "random")))
    record.mark_looked()
    second = record.declare(plan_of(20, needs=("bare", "values")))
    assert record.read() == (second, replace(first, looked=True))
    assert second.warning(("bare", "values")) == ""
    record.mark_looked()
    again = record.declare(plan_of(50, needs=("bare", "values")))
    assert record.read() == (again,)
    assert len(again.keys) == 4 * 50
    assert again.warning(("bare", "random")) == ""
    raised = "limit raised from 20 to 50 after a look: a new analysis"
    assert again.warning(("bare", "values")) == raised


def test_a_run_at_another_limit_leaves_what_others_declared(tmp_path: Path) -> None:
    """Catches claims judged as a fixed design once another run has had another limit.

    Also a warning at a claim that was looked at in one way alone, and none at one that was not.
    """
    check_another_limit(tmp_path)


@pytest.mark.parametrize("kept", [False, True])
def test_twin_a_plan_that_is_lost_or_never_joined_is_seen(
    tmp_path: Path, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check above, were the latest plan kept alone, or every plan."""

    def after(before: Sequence[LookPlan], plan: LookPlan) -> list[LookPlan]:
        return [plan, *(before if kept else ())]

    monkeypatch.setattr("kvcore.measurements.looks.with_declared", after)
    with pytest.raises(AssertionError):
        check_another_limit(tmp_path)


def test_a_record_of_one_plan_is_read(tmp_path: Path) -> None:
    """Catches a store of an earlier version whose looked-at rows become a fixed design."""
    record = record_in(tmp_path)
    plan = record.declare(plan_of(30))
    content = json.loads(record.path.read_text())
    earlier = {"cell": content["cell"], **content["plans"][0], "earlier": ["limit raised"]}
    record.path.write_text(json.dumps(earlier))
    assert record.read() == (plan,)


def test_a_damaged_record_is_one_line(tmp_path: Path) -> None:
    """Catches rows judged by a design that cannot be read."""
    record = record_in(tmp_path)
    record.path.write_text("{}")
    with pytest.raises(KvError, match=r"is no record of looks .* remove it"):
        record.read()


def test_twin_a_pool_with_a_split_cluster_is_seen() -> None:
    """Twin: the checks above see samples that are not whole clusters."""
    keys = keys_of([2, 2], ("bare",))
    split = LookPlan(4, 2, (Pool(("bare",), (("s0-0", "s1-0"), ("s0-1", "s1-1")), (2, 2)),))
    within = split.within(keys, 1)
    assert len(within) < len(keys[keys["cluster"].isin(within["cluster"])])
