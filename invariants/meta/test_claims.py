"""The claims run as a whole: outcomes, options and their one-line errors, every kind measured."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from claims.harness import judging
from claims.harness import session as claim_session
from claims.harness.claims import CellKey
from claims.harness.options import Settings
from claims.harness.session import Session
from invariants.support import invented
from invariants.support.claim_runs import NO_PAGE, ClaimRun, run, run_inside
from invariants.support.settings import settings
from kvcore.errors import MissingResource
from kvcore.measurements.base import MeasurementKind
from kvcore.measurements.registry import all_kinds
from kvcore.verdict import Judgement, Verdict


def outputs(folder: Path) -> list[str]:
    return [
        f"--junitxml={folder / 'junit.xml'}",
        f"--html={folder / 'report.html'}",
        "--self-contained-html",
    ]


def junit_alone(folder: Path) -> list[str]:
    """Return the options of a run whose page is not looked at."""
    return [*NO_PAGE, f"--junitxml={folder / 'again.xml'}"]


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A whole run on a tiny model: measured, judged, reported."""
    folder = tmp_path_factory.mktemp("run")
    store = str(folder / "store")
    options = ("--kv-models", "tiny-gemma3", "--kv-limit", "12", "--kv-store", store)
    return folder, run("claims", "-v", *options, "--kv-seed", "3", *outputs(folder))


def test_a_run_judges_and_reports(first_run: tuple[Path, Any]) -> None:
    """A claim that gets no verdict, or a page or a JUnit file without it."""
    folder, done = first_run
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert "random-prefix-helps" in done.stdout
    assert " error" not in done.stdout.splitlines()[-1]
    assert 'name="verdict"' in (folder / "junit.xml").read_text()
    page = (folder / "report.html").read_text()
    assert "one_base(random)" in page
    assert len(page) < 3_000_000


def table(done: Any) -> list[str]:
    return [
        line
        for line in done.stdout.splitlines()
        if "tiny-gemma3-docstrings" in line
        and ("supported" in line or "refuted" in line or "inconclusive" in line)
        and not line.startswith(("SKIPPED", "FAILED", "XFAIL"))
    ]


def test_a_second_run_loads_no_model(
    first_run: tuple[Path, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """Rows of a seed other than 0 that are not found again, or judged to other numbers."""
    folder, before = first_run
    stored = ("--kv-no-measure", "--kv-store", str(folder / "store"))
    options = ("claims", "--kv-models", "tiny-gemma3", *stored, *junit_alone(folder))
    again = run_inside(capfd, *options, "-v", "--kv-seed", "3")
    assert table(again) == table(before) != []
    other = run_inside(capfd, *options, "--kv-seed", "9")
    assert "no stored rows for tiny-gemma3" in other.stdout


def test_a_run_goes_on_where_it_was_at_any_seed(
    first_run: tuple[Path, Any], tmp_path: Path
) -> None:
    """Rows of a seed other than 0 measured twice, or not at all, after a run was killed."""
    folder, before = first_run
    store = tmp_path / "store"
    shutil.copytree(folder / "store", store)
    shards = sorted(store.glob("part-*.parquet"))
    shards[0].unlink()
    options = ("--kv-models", "tiny-gemma3", "--kv-limit", "12", "--kv-store", str(store))
    again = run("claims", "-v", *options, "--kv-seed", "3", *junit_alone(tmp_path))
    assert table(again) == table(before) != []
    assert len(sorted(store.glob("part-*.parquet"))) == len(shards)


def test_nothing_judged_is_no_success(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A run without any row that ends well, or does not say why nothing was judged."""
    options = ("--kv-no-measure", "--kv-store", str(tmp_path), *outputs(tmp_path))
    done = run_inside(capfd, "claims", *options)
    assert done.returncode != 0
    assert "no claim was judged" in done.stdout
    assert "no stored rows for smollm2-135m" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--kv-models", "smolm2"], "did you mean 'smollm2-135m'"),
        (["--kv-datasets", "docstring"], "did you mean 'docstrings'"),
        (["--kv-limit", "many"], "--kv-limit 'many': pass a whole number"),
        (["--kv-confidence", "95"], "pass a number between 0 and 1"),
        (["--kv-dtype", "int8"], "pass one of float32"),
    ],
)
def test_bad_options_are_one_line(
    options: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A traceback in place of what was passed and what is allowed."""
    done = run_inside(capfd, "claims", *options)
    assert done.returncode == 4
    assert said in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_an_option_may_come_from_the_environment(capfd: pytest.CaptureFixture[str]) -> None:
    """A variable that is not read, or a header that shows another value."""
    chosen = {"KVCORE_MODELS": "tiny-llama", "KVCORE_SEED": "7"}
    done = run_inside(capfd, "claims", "--collect-only", "-q", "-v", **chosen)
    assert "seed 7" in done.stdout
    assert "tiny-llama-docstrings-nll" in done.stdout


def test_explain_prints_conditions_and_measures_nothing(tmp_path: Path) -> None:
    """Rows stored or a failure reported where conditions were to be explained alone."""
    store = str(tmp_path / "store")
    options = ("--kv-explain", "--kv-models", "tiny-llama", "--kv-store", store)
    done = run("claims", *options, *outputs(tmp_path))
    assert "random: whether any prefix, read and dropped again, helps" in done.stdout
    assert not (tmp_path / "store").exists()
    assert done.returncode == 0, done.stdout
    assert "no claim was judged" not in done.stdout


# --- every claim -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[ClaimRun, Any]:
    """The full selection on a tiny model, long documents included."""
    folder = tmp_path_factory.mktemp("whole")
    options = ("--kv-models", "tiny-llama", "--kv-limit", "10", "--kv-store", str(folder / "store"))
    done = run("claims", "-m", "", *options, *NO_PAGE, f"--junitxml={folder / 'junit.xml'}")
    return ClaimRun(done.returncode, folder), done


# Ten samples, and a model that is exact for fewer positions than padded documents have.
STATED = re.compile(
    r"not applicable:|brings no past queries|must have 32 divergences"
    r"|no measurable rows of '([^']*@(256|512|1024|2048)|click_history\(5\))'"
)


def check_every_claim_ran(cases: Mapping[str, Any]) -> None:
    """Demand a verdict, or a stated reason that is not a missing measurement, of every test."""
    kinds_judged = set()
    for name, case in cases.items():
        shown = {p.get("name"): p.get("value") for p in case.iter("property")}
        if "verdict" in shown:
            kinds_judged.add(f"{shown['dataset']}/{shown['metric'].split('-')[0]}")
            continue
        reasons = [str(skipped.get("message")) for skipped in case.iter("skipped")]
        assert reasons, name
        assert all(STATED.search(reason) for reason in reasons), (name, reasons)
    expected = {"docstrings/nll", "pydoc/step", "docstrings/js", "word_problems/latency"}
    assert expected <= kinds_judged


def test_every_claim_runs(whole_run: tuple[ClaimRun, Any]) -> None:
    """A claim that breaks, or that is skipped because its kind of measurement measured nothing."""
    judged, done = whole_run
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert " error" not in done.stdout.splitlines()[-1]
    check_every_claim_ran(judged.junit)


@pytest.mark.parametrize(
    ("kind", "claims_of_it"),
    [
        ("answer_nll", "priming"),
        ("hidden_states", "dynamics"),
        ("attention_sinks", "sinks"),
        ("divergence", "divergence"),
        ("context_switch", "adaptation"),
    ],
)
def test_twin_a_kind_that_measures_nothing_is_seen(
    kind: str,
    claims_of_it: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A whole run that would pass with one of the kinds switched off."""
    assert kind in all_kinds()

    def switched_off(asked: MeasurementKind, **_: Any) -> None:
        if asked.name == kind:
            raise MissingResource("switched off")

    monkeypatch.setattr(claim_session, "stored_rows", switched_off)
    stored = ("--kv-models", "tiny-llama", "--kv-no-measure", "--kv-store", str(tmp_path))
    outcomes = (*NO_PAGE, f"--junitxml={tmp_path / 'junit.xml'}")
    run_inside(capfd, f"claims/test_{claims_of_it}.py", "-m", "", *stored, *outcomes)
    with pytest.raises(AssertionError, match="switched off"):
        check_every_claim_ran(ClaimRun(0, tmp_path).junit)


# --- verdicts and outcomes ---------------------------------------------------------------------


READINGS = {"supported": "direction-only", "refuted": "reversed", "inconclusive": "open"}


def judged(verdict: Verdict, known: str = "", n: int = invented.N) -> Any:
    """Return an invented judgement of n samples; its claim records from 100 on."""
    judgement = invented.judgements()[0]
    estimate = dataclasses.replace(judgement.estimate, n=n, clusters=min(n, 30))
    fields: dict[str, Any] = {"verdict": verdict, "reading": READINGS[verdict], "ledger": known}
    return dataclasses.replace(judgement, estimate=estimate, **fields)


@pytest.mark.parametrize(
    ("verdict", "known", "strict", "outcome"),
    [
        ("supported", "", False, "passed"),
        ("supported", "known refuted (recorded)", False, "failed"),
        ("refuted", "", False, "failed"),
        ("refuted", "known refuted (recorded)", False, "xfailed"),
        ("inconclusive", "", False, "skipped"),
        ("inconclusive", "", True, "failed"),
    ],
)
def test_verdicts_become_outcomes(verdict: Verdict, known: str, strict: bool, outcome: str) -> None:
    """A row of the README's table that is not what pytest is told."""
    told = judging.conclusion(judged(verdict, known), settings(strict=strict))
    assert told.outcome == outcome
    assert told.sentence.startswith(f"{verdict}: random-prefix-helps on ")


KNOWN = "known refuted (recorded 2026-01-02, n = 1000)"


def check_few_samples() -> None:
    """Demand that fewer samples than a claim's minimum change nothing that the ledger says."""
    told = judging.conclusion(judged("supported", KNOWN, n=30), settings())
    assert told.outcome == "passed"
    assert KNOWN in told.note
    assert "n = 30 is below the claim's minimum of 100" in told.note
    assert judging.conclusion(judged("supported", KNOWN, n=100), settings()).outcome == "failed"
    assert judging.conclusion(judged("supported", n=30), settings()).note == ""


def check_recording() -> None:
    """Demand that --kv-record expects a refutation only where it records it."""
    recorded = settings(record=True)
    assert judging.conclusion(judged("refuted", n=100), recorded).outcome == "xfailed"
    assert judging.conclusion(judged("refuted", n=99), recorded).outcome == "failed"
    assert judging.conclusion(judged("refuted", n=100), settings()).outcome == "failed"


def test_few_samples_that_contradict_the_ledger_are_a_note() -> None:
    """A run of few samples that fails and asks to remove what many samples refuted."""
    check_few_samples()


def test_recording_expects_only_what_it_records() -> None:
    """A refutation by too few samples that --kv-record turns green and does not write down."""
    check_recording()


@pytest.mark.parametrize("check", [check_few_samples, check_recording])
def test_twin_a_minimum_of_samples_that_is_ignored_is_seen(
    check: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checks above, were a claim's minimum of samples not looked at."""
    right = judging.conclusion

    def ignoring(judgement: Judgement, chosen: Settings) -> judging.Conclusion:
        claim = dataclasses.replace(judgement.claim, min_n=1)
        return right(dataclasses.replace(judgement, claim=claim), chosen)

    monkeypatch.setattr(judging, "conclusion", ignoring)
    with pytest.raises(AssertionError):
        check()


def test_a_cell_is_explained_once() -> None:
    """Megabytes of explanations with every judgement of a cell."""
    session = Session(settings(), {}, {}, {})
    vars(session)["_explain"] = lambda cell: [{"condition": "bare", "model": cell.model}]
    cells = [CellKey("answer_nll", model, "docstrings") for model in ("a", "a", "b", "a")]
    explained = [session.explained_once(cell) for cell in cells]
    assert [len(each) for each in explained] == [1, 0, 1, 0]
    assert explained[2][0]["model"] == "b"
