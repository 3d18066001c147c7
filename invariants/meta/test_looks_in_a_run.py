"""Runs that look at their claims several times: what stops, what is measured, what is told.

The scores are invented, so that each claim is as clear as its test needs it; everything else
(samples, keys, store, looks, judging, reports) is that of a run which measures.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from claims.harness import looking
from claims.harness.session import Session
from claims.harness.sources import MeasuredCell
from invariants.support.claim_runs import NO_PAGE, ClaimRun, run_here
from invariants.support.own_files import jsonl
from kvcore import analysis, loading
from kvcore.io import digest
from kvcore.measurements import answer_nll
from kvcore.measurements.looks import LookPlan

CLAIMS = '''
"""Claims that are clear, open and too small to be settled at the limit."""

from claims.harness.claims import claims_about
from claims.harness.estimands.paired import mean_benefit, paired_benefit
from kvcore.verdict import helps

topic = claims_about("invented", source="an invented source", metrics=("nll",), min_n=10)


@topic.claim("clear", predicts=helps(delta=0.03, unit="nats/token"))
def test_clear(judge):
    """Random tokens help a lot."""
    judge(mean_benefit("bare", "random"))


@topic.claim("open", predicts=helps())
def test_open(judge):
    """The query helps about as much as matters."""
    judge(paired_benefit("bare", "oracle"))


@topic.claim("small", predicts=helps())
def test_small(judge):
    """A separator helps half as much as matters."""
    judge(paired_benefit("bare", "separator"))


@topic.claim("between", predicts=helps())
def test_between(judge):
    """The query's values help."""
    judge(paired_benefit("bare", "values_only(oracle)"))
'''
# Mean gain over bare in units of the noise of a difference.
GAINS = {"random": 2.0, "separator": 0.115, "oracle": 0.04, "values_only(oracle)": 0.3}
CLUSTERS, EACH = 130, 3
LIMIT, LOOKS = 300, 5


@dataclass
class Scorer:
    """Stands in for `answer_nll.score_pairs`; counts its rows and breaks after so many calls."""

    calls_left: float = float("inf")
    rows: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self, _lm: Any, requests: Sequence[Any], **_: Any) -> pd.DataFrame:
        self.calls_left -= 1
        if self.calls_left < 0:
            raise RuntimeError("the machine went down")
        scored = [
            self._row(sample, target, condition.name)
            for sample, target, conditions in requests
            for condition in conditions
        ]
        return pd.DataFrame(scored)

    def _row(self, sample: Any, target: str, condition: str) -> dict[str, Any]:
        self.rows.append((sample.id, condition))
        nlls = [nll_of(sample.id, condition)] * 2
        known = {"sample_id": sample.id, "condition": condition, "target": target, "status": "ok"}
        numbers = {"nll": nlls[0], "nll_tail": nlls[0], "token_nlls": nlls}
        return dict(answer_nll.UNKNOWN) | {"n_answer_tokens": 2} | numbers | known


def nll_of(sample: str, condition: str) -> float:
    """Return an invented score: bare's, less the gain and noise of the condition."""
    bare = 5 + float(rng_of(sample, "bare").normal())
    if condition not in GAINS:
        return bare
    return bare - 0.3 * (GAINS[condition] + float(rng_of(sample, condition).normal()))


def rng_of(*parts: str) -> np.random.Generator:
    return np.random.default_rng(int(digest(*parts)[:12], 16))


def no_model(*_: Any, **__: Any) -> Any:
    config = SimpleNamespace(_attn_implementation="none")
    return SimpleNamespace(device=torch.device("cpu"), config=config, has_bos=False, model=None)


@dataclass(frozen=True)
class Place:
    """A folder with data in which runs measure and judge."""

    folder: Path

    def run(self, *options: str, scorer: Scorer | None = None, limit: int = LIMIT) -> ClaimRun:
        """Judge the claims, measuring unless options say otherwise."""
        rows = [
            {
                "id": f"s{i:03}",
                "query": f"what is number {i}",
                "passage": f"It is number {i} of them.",
                "answer": f"it is the number {i}",
                "cluster": f"c{i % CLUSTERS:03}",
            }
            for i in range(CLUSTERS * EACH)
        ]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(answer_nll, "score_pairs", scorer or Scorer())
            patch.setattr(loading, "load", no_model)
            patch.setattr(Session, "explained_once", lambda *_: [])
            data = jsonl(self.folder / "data.jsonl", *rows)
            where = ("--kv-models", "tiny-llama", "--kv-datasets", data, "--kv-store", "store")
            arguments = (*NO_PAGE, *where, "--kv-limit", str(limit), *options)
            measures = "--kv-no-measure" not in options
            return run_here(self.folder, patch, CLAIMS, *arguments, measures=measures)

    @property
    def counts(self) -> dict[str, int]:
        """How many rows are stored of each condition."""
        return {str(k): int(n) for k, n in self.rows["condition"].value_counts().items()}

    @property
    def rows(self) -> pd.DataFrame:
        """Every stored row."""
        return pd.concat(map(pd.read_parquet, sorted((self.folder / "store").glob("part-*"))))

    def copied(self, folder: Path) -> Place:
        """Return a copy of the store in another folder."""
        shutil.copytree(self.folder / "store", folder / "store")
        return Place(folder)


def verdicts(run: ClaimRun) -> dict[str, dict[str, Any]]:
    """Return the judgements of a run by claim, without what is told of the run itself."""
    ran = {"model_revision", "outcome", "cell", "sentence"}  # which name the data's folder
    return {
        each["claim"]["id"]: {name: value for name, value in each.items() if name not in ran}
        for each in run.results["judgements"]
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("looks"))


@pytest.fixture(scope="module")
def first(place: Place) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """Return judgements and counts of a run with five looks."""
    run = place.run()
    return verdicts(run), place.counts


def check_what_is_measured(judged: dict[str, dict[str, Any]], counts: dict[str, int]) -> None:
    """Every condition has the rows of its claim's stopping look, and no more."""
    assert judged["clear"]["look"]["number"] == 1
    assert judged["clear"]["verdict"] == "supported"
    assert judged["clear"]["estimate"]["confidence"] > 0.99999
    assert counts["random"] == judged["clear"]["estimate"]["n"] < 0.21 * LIMIT
    assert judged["open"]["look"]["number"] == LOOKS
    assert counts["oracle"] == counts["bare"] == LIMIT
    assert judged["between"]["look"]["why"] == "decided"
    assert 1 < judged["between"]["look"]["number"] < LOOKS
    n = judged["between"]["estimate"]["n"]
    assert counts["values_only(oracle)"] == n < LIMIT


def test_what_is_settled_is_not_measured_further(first: Any) -> None:
    """Catches looks that measure what no open claim needs, or stop one that is open."""
    check_what_is_measured(*first)


def test_what_would_hardly_be_settled_stops_without_a_verdict(first: Any) -> None:
    """Catches futility that is not looked for, or that gives a verdict."""
    judged, counts = first
    assert judged["small"]["look"]["why"] == "futile"
    assert judged["small"]["verdict"] == "inconclusive"
    assert judged["small"]["look"]["power"] < 0.1
    assert counts["separator"] == judged["small"]["estimate"]["n"] < LIMIT
    assert "stopped at look" in judged["small"]["details"]["look"]


@pytest.mark.usefixtures("first")
def test_samples_come_in_whole_clusters(place: Place) -> None:
    """Catches a look with a part of a cluster: the interval resamples whole ones."""
    rows = place.rows
    at_limit = rows[rows["condition"] == "bare"].groupby("cluster").size()
    for condition in ("random", "values_only(oracle)"):
        own = rows[rows["condition"] == condition].groupby("cluster").size()
        assert (own == at_limit[own.index]).all()
    early = set(rows.loc[rows["condition"] == "random", "sample_id"])
    assert early < set(rows.loc[rows["condition"] == "values_only(oracle)", "sample_id"])


def test_intervals_are_the_repeated_ones(place: Place, first: Any) -> None:
    """Catches a stopped claim that is told at the fixed level.

    1. The interval of the judgement at look 1 of 5.
    2. The fixed interval at the level of 4.88 standard errors, of the rows that are stored.
    """
    judged, _ = first
    estimate, rows = judged["clear"]["estimate"], place.rows
    wide = rows.pivot_table(index=["cluster", "sample_id"], columns="condition", values="nll")
    both = wide[["bare", "random"]].dropna()
    labels = both.index.get_level_values("cluster")
    settings = analysis.IntervalSettings(estimate["confidence"])
    expected = analysis.mean_difference(both["bare"] - both["random"], labels, settings)
    assert estimate["ci_low"] == pytest.approx(expected.ci_low, rel=1e-9)
    assert estimate["ci_high"] == pytest.approx(expected.ci_high, rel=1e-9)
    assert judged["open"]["estimate"]["confidence"] == pytest.approx(0.9577, abs=2e-3)


def test_stored_looks_are_judged_again_as_they_were(place: Place, first: Any) -> None:
    """Catches a replay that judges all rows at once, or looks at others."""
    assert verdicts(place.run("--kv-no-measure")) == first[0]


def test_a_run_repeated_measures_nothing(place: Place, first: Any) -> None:
    """Catches looks that hang on what the store already has."""
    scorer = Scorer()
    assert verdicts(place.run(scorer=scorer)) == first[0]
    assert not scorer.rows
    assert place.counts == first[1]


def test_a_run_that_died_between_looks_is_taken_up(tmp_path: Path, first: Any) -> None:
    """Catches a stopping rule that hangs on when the rows were measured."""
    dying = Place(tmp_path)
    dying.run(scorer=Scorer(calls_left=5))
    assert 0 < len(dying.rows) < sum(first[1].values())
    ends = [each["look"]["why"] for each in verdicts(dying.run("--kv-no-measure")).values()]
    assert "limit" not in ends
    assert "not measured further" in ends
    resumed = verdicts(dying.run())
    assert resumed == first[0]
    assert dying.counts == first[1]


def test_a_raised_limit_is_said_to_be_a_new_analysis(
    place: Place, tmp_path: Path, first: Any
) -> None:
    """Catches peeking that nobody is told of; also when judged again from the store."""
    other = place.copied(tmp_path)
    words = "limit raised from 300 to 360 after a look: a new analysis"
    raised = other.run(limit=360)
    assert all(words in each["details"]["look"] for each in verdicts(raised).values())
    assert verdicts(other.run("--kv-no-measure")) == verdicts(raised)
    assert words not in str(first[0])


def check_the_others(place: Place, folder: Path, first: dict[str, dict[str, Any]]) -> None:
    """Claims that another run, at another limit, did not have are told as before it."""
    other = place.copied(folder)
    lowered = verdicts(other.run("-k", "small", limit=150))["small"]
    assert "limit lowered from 300 to 150 after a look" in lowered["details"]["look"]
    replayed = verdicts(other.run("--kv-no-measure"))
    assert replayed.pop("small") == lowered
    assert replayed == {name: each for name, each in first.items() if name != "small"}


def test_a_run_of_one_claim_at_another_limit_leaves_the_others(
    place: Place, tmp_path: Path, first: Any
) -> None:
    """Catches rows that were looked at and are judged as a fixed design after another run."""
    check_the_others(place, tmp_path, first[0])


def test_one_look_is_the_fixed_design(tmp_path: Path) -> None:
    """Catches a fixed design that measures less, or judges by another interval."""
    fixed = Place(tmp_path)
    judged = verdicts(fixed.run("--kv-looks", "1"))
    assert set(fixed.counts.values()) == {LIMIT, 64}
    rows = fixed.rows
    wide = rows.pivot_table(index=["cluster", "sample_id"], columns="condition", values="nll")
    for claim, condition, statistic in (
        ("clear", "random", analysis.mean_difference),
        ("small", "separator", analysis.effect_size),
    ):
        labels = wide.index.get_level_values("cluster")
        expected = statistic(wide["bare"] - wide[condition], labels)
        estimate = judged[claim]["estimate"]
        assert estimate["confidence"] == 0.95
        assert estimate["ci_low"] == pytest.approx(expected.ci_low, rel=1e-9)
        assert estimate["ci_high"] == pytest.approx(expected.ci_high, rel=1e-9)
        assert "look" not in judged[claim]["details"]


def test_the_run_says_what_stopped_where(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a saving that nobody is told of."""
    capsys.readouterr()
    place.run("--kv-no-measure")
    printed = " ".join(capsys.readouterr().out.split())  # lines are cut at the screen's width
    line = printed[printed.index("looks: ") : printed.index(" since the report before")]
    total = sum(place.counts.values())
    assert line.startswith("looks: claims stopped: 1 at look 1 of 5")
    assert line.endswith(f"1 went to the limit; rows measured {total:,} of {5 * LIMIT + 128:,}")


# --- twins ---------------------------------------------------------------------------------------


def every_need(patch: pytest.MonkeyPatch) -> None:
    right = MeasuredCell.measure

    def measure(self: MeasuredCell, _needs: Any, look: int) -> None:
        right(self, self.plan.needs, look)

    patch.setattr(MeasuredCell, "measure", measure)


def fixed_level(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("claims.harness.judging.verdict.repeated_level", lambda level, *_: level)


def never_stops(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(looking, "settled", lambda *_: (None, None))


@pytest.mark.parametrize("fault", [every_need, fixed_level, never_stops])
def test_twin_a_fault_in_looking_is_seen(
    tmp_path: Path, fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch checks that hold whatever is measured."""
    fault(monkeypatch)
    twin = Place(tmp_path)
    judged = verdicts(twin.run())
    with pytest.raises(AssertionError):
        check_what_is_measured(judged, twin.counts)


def test_twin_a_record_of_the_last_run_alone_is_seen(
    place: Place, tmp_path: Path, first: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a comparison that holds whatever is recorded."""
    monkeypatch.setattr("kvcore.measurements.looks.with_declared", lambda _before, plan: [plan])
    with pytest.raises(AssertionError):
        check_the_others(place, tmp_path, first[0])


def test_twin_a_replay_of_all_rows_is_seen(
    place: Place, first: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a comparison of replays that compares nothing."""
    monkeypatch.setattr(LookPlan, "within", lambda _self, rows, _look: rows)
    assert verdicts(place.run("--kv-no-measure")) != first[0]
