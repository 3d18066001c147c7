"""The measuring of a run apart from its judging: what is planned, told and measured, and when.

Claims on a tiny model are measured by themselves, then judged by a run that must find every row.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from claims.harness import measuring
from claims.harness.session import Session
from invariants.support.claim_runs import NO_PAGE, ClaimRun, run_here
from invariants.support.comparing import must_see
from invariants.support.own_files import jsonl
from invariants.support.patching import patched
from invariants.support.stand_in_ray import StandInRay
from kvcore import loading, ray_workers
from kvcore.measurements import answer_nll
from kvcore.measurements.collect import Collection

CLAIMS = '''
"""Two claims on the same rows."""

from claims.harness.claims import claims_about
from claims.harness.estimands.paired import paired_benefit
from kvcore.verdict import helps

topic = claims_about("invented", source="an invented source", metrics=("nll",), min_n=2)


@topic.claim("random-helps", predicts=helps())
def test_random_helps(judge):
    """Random tokens help."""
    judge(paired_benefit("bare", "random"))


@topic.claim("oracle-helps", predicts=helps())
def test_oracle_helps(judge):
    """The query helps."""
    judge(paired_benefit("bare", "oracle"))
'''
N = 8
MODELS = ("tiny-llama", "tiny-gemma3")
ROWS = 3 * N + 2 * N  # bare, random, oracle; two controls on the same samples


@dataclass
class Place:
    """A folder with data in which runs measure, judge, or both."""

    folder: Path
    patch: pytest.MonkeyPatch
    capture: pytest.CaptureFixture[str]
    errors: str = ""  # what the last run printed there

    def run(self, *options: str, models: tuple[str, ...] = MODELS) -> tuple[ClaimRun, str]:
        """Run the claims; return the run and what it printed."""
        rows = [
            {
                "query": f"what is number {i}",
                "passage": f"It is number {i} of them, and {'many ' * (i % 4)}follow it.",
                "answer": f"it is the number {i}",
            }
            for i in range(N)
        ]
        data = jsonl(self.folder / "data.jsonl", *rows)
        where = ("--kv-models", ",".join(models), "--kv-datasets", data, "--kv-store", "store")
        measures = "--kv-no-measure" not in options
        self.capture.readouterr()
        run = run_here(
            self.folder, self.patch, CLAIMS, *NO_PAGE, *where, *options, measures=measures
        )
        said = self.capture.readouterr()
        self.errors = said.err
        return run, said.out

    def clear(self) -> None:
        """Forget all that was measured and reported."""
        for name in ("store", "reports"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    @property
    def rows(self) -> pd.DataFrame:
        """Every stored row."""
        parts = sorted((self.folder / "store").glob("part-*"))
        return pd.concat(map(pd.read_parquet, parts)) if parts else pd.DataFrame()


@pytest.fixture
def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Place:
    return Place(tmp_path, monkeypatch, capsys)


def check_measured_apart(place: Place) -> None:
    """All rows up to the limit are there, as many as the plan says, and nothing is judged."""
    place.clear()
    run, said = place.run("--kv-measure-only")
    assert run.status == 0
    assert not (run.folder / "results.json").exists()
    assert not (run.folder / "junit.xml").exists()
    counts = place.rows["model"].value_counts().to_dict()
    assert counts == dict.fromkeys(MODELS, ROWS)
    for model in MODELS:
        line = next(line for line in said.splitlines() if line.startswith(f"{model}: "))
        told = {what: int(n.replace(",", "")) for n, what in re.findall(r"(\d[\d,]*) (\w+)", line)}
        own = place.rows[place.rows["model"] == model]
        assert told["rows"] == len(own)
        assert told["samples"] == own["sample_id"].nunique()
        assert told["shards"] == 1
        assert told["passes"] >= 1
        assert "GiB" in line
    assert said.index("tiny-gemma3: ") < said.index("measured: ")


def test_measuring_alone_measures_what_the_plan_says(place: Place) -> None:
    """Catches a plan of other rows than are measured, a cell left out, and a report of nothing."""
    check_measured_apart(place)


def _one_cell_only(patch: pytest.MonkeyPatch) -> None:
    right = Session.by_model
    patch.setattr(Session, "by_model", lambda own: dict(list(right(own).items())[:1]))


def _plan_of_half(patch: pytest.MonkeyPatch) -> None:
    right = Collection.missing
    patch.setattr(Collection, "missing", lambda self: right(self).iloc[::2])


def _first_look_only(patch: pytest.MonkeyPatch) -> None:
    right = Collection.measure
    patch.setattr(
        Collection, "measure", lambda self, keys: right(self, keys.iloc[: len(keys) // 2])
    )


@pytest.mark.parametrize("fault", [_one_cell_only, _plan_of_half, _first_look_only])
def test_twin_a_fault_in_measuring_alone_is_seen(
    place: Place, fault: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """Would catch a check that is passed by part of the plan."""
    must_see(fault, check_measured_apart, place)


def check_later_run_judges(place: Place) -> None:
    """A later run scores nothing, and says what one run of a fixed design says."""
    place.clear()
    place.run("--kv-measure-only", models=MODELS[:1])
    measured = len(place.rows)

    def no_scores(*_: Any, **__: Any) -> Any:
        raise AssertionError("a row was measured again")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answer_nll, "score_pairs", no_scores)
        run, _ = place.run("--kv-looks", "1", models=MODELS[:1])
    assert run.status in (0, 1)
    assert not [case for case in run.junit.values() if case.find("error") is not None]
    assert {judgement["estimate"]["n"] for judgement in run.results["judgements"]} == {N}
    assert len(run.results["judgements"]) == 2
    assert len(place.rows) == measured


def test_a_later_run_judges_what_was_measured(place: Place) -> None:
    """Catches rows that a judging run would not take for its own."""
    check_later_run_judges(place)


def test_twin_rows_of_another_seed_are_seen(place: Place) -> None:
    """Would catch a check that is passed by a run which measures for itself."""
    right = Session.request

    def other(self: Session, *arguments: Any) -> Any:
        request = right(self, *arguments)
        seed = 7 if self.settings.measure_only else request.seed
        return dataclasses.replace(request, seed=seed)

    must_see(patched(Session, "request", other), check_later_run_judges, place)


# --- before the first test ---------------------------------------------------------------------


def check_measured_first(place: Place) -> None:
    """A run that judges measures all its cells before any test begins, loading each model once."""
    place.clear()
    order: list[str] = []
    right = loading.load

    def load(name: str, **options: Any) -> Any:
        order.append(name)
        return right(name, **options)

    place.patch.setattr(loading, "load", load)
    watching = ModuleType("watching", "PYTEST_DONT_REWRITE")
    watching.pytest_runtest_logstart = lambda: order.append("test")  # type: ignore[attr-defined]
    place.patch.setitem(sys.modules, "watching", watching)
    run, _ = place.run("-p", "watching")
    assert order[:2] == list(MODELS)
    assert set(order[2:]) == {"test"}
    assert run.results["judgements"]


def test_all_cells_are_measured_before_the_first_test(place: Place) -> None:
    """Catches a cell that is measured inside a test, and a model that is loaded twice."""
    check_measured_first(place)


def test_twin_measuring_inside_tests_is_seen(place: Place) -> None:
    """Would catch a watch that sees no test begin."""
    must_see(patched(Session, "measure_first", lambda *_: None), check_measured_first, place)


def check_broken_cell_spares_others(place: Place) -> None:
    """A model that breaks is a line and a failed run; the other model's rows are there."""
    place.clear()
    right = loading.load

    def load(name: str, **options: Any) -> Any:
        if name == MODELS[0]:
            raise RuntimeError("a kernel broke")
        return right(name, **options)

    place.patch.setattr(loading, "load", load)
    run, said = place.run("--kv-measure-only")
    assert run.status == 1
    assert [line for line in said.splitlines() if line.startswith("not measured: tiny-llama")]
    assert "a kernel broke" in said
    assert set(place.rows["model"]) == {MODELS[1]}


def test_a_cell_that_breaks_spares_the_others(place: Place) -> None:
    """Catches a run that ends at its first broken cell, or calls it measured."""
    check_broken_cell_spares_others(place)


def test_twin_a_broken_cell_that_counts_as_measured_is_seen(place: Place) -> None:
    """Would catch a check of lines alone."""
    right = measuring.measure_all
    told = patched(
        measuring,
        "measure_all",
        lambda *arguments: dataclasses.replace(right(*arguments), broken={}),
    )
    must_see(told, check_broken_cell_spares_others, place)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--kv-no-measure",), "--kv-measure-only and --kv-no-measure: pass one of the two."),
        (("--kv-explain",), "--kv-measure-only and --kv-explain: pass one of the two."),
        (("--kv-record",), "--kv-measure-only and --kv-record: pass one of the two."),
        (("-n", "2"), "--kv-measure-only with -n 2: start several runs"),
    ],
)
def test_what_contradicts_measuring_alone_is_one_usage_error(
    place: Place, options: tuple[str, ...], said: str
) -> None:
    """Catches options of which one is silently ignored."""
    run, _ = place.run("--kv-measure-only", *options)
    assert run.status == pytest.ExitCode.USAGE_ERROR
    assert said in place.errors
    assert place.rows.empty


# --- by Ray ------------------------------------------------------------------------------------


def check_ray_measures(place: Place) -> None:
    """Actors measure what the plan says, one of them is lost, and the cluster is ended."""
    place.clear()
    cluster = StandInRay(2, lost=(0,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "ray", cluster)
        patch.setattr(ray_workers, "find_spec", lambda _: True)
        patch.setattr(ray_workers, "POLL_SECONDS", 0.0)
        run, said = place.run("--kv-measure-only", "--kv-executor", "ray")
    assert run.status == 0
    assert place.rows["model"].value_counts().to_dict() == dict.fromkeys(MODELS, ROWS)
    assert cluster.calls > len(MODELS)
    assert "1 shards were begun again: their Ray worker was lost" in said
    assert not cluster.connected


def test_ray_measures_what_the_plan_says(place: Place) -> None:
    """Catches an option that measures here all the same, and a cluster that is left behind."""
    check_ray_measures(place)


def _measures_here(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Session, "sender", lambda *_: None)


def _never_ends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Session, "close", lambda _: None)


@pytest.mark.parametrize("fault", [_measures_here, _never_ends])
def test_twin_a_cluster_unused_or_left_behind_is_seen(
    place: Place, fault: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """Would catch a check of rows alone."""
    must_see(fault, check_ray_measures, place)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-n", "2"), "--kv-executor ray with -n 2: pass one of the two."),
        (("--kv-device", "cuda:1"), "--kv-device cuda:1 and --kv-executor ray: pass auto, cpu"),
    ],
)
def test_what_contradicts_ray_is_one_usage_error(
    place: Place, options: tuple[str, ...], said: str
) -> None:
    """Catches processes of pytest that each begin a cluster, and one GPU for all actors."""
    place.patch.setattr(ray_workers, "find_spec", lambda _: True)
    run, _ = place.run("--kv-executor", "ray", *options)
    assert run.status == pytest.ExitCode.USAGE_ERROR
    assert said in place.errors
    assert place.rows.empty
