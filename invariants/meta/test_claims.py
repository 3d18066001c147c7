"""The claims run as a whole: outcomes, the ledger, options and their one-line errors."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from claims.options import Settings

from claims import judging, ledger
from claims.harness.hooks import Lab
from invariants.support import invented
from kvcore.errors import KvError

ROOT = Path(__file__).parents[1]


def run(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run pytest as a user would."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False,
                          env={**os.environ, "COLUMNS": "200", **environment})


def outputs(folder: Path) -> list[str]:
    return [f"--junitxml={folder / 'junit.xml'}", f"--html={folder / 'report.html'}",
            "--self-contained-html"]


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A whole run on a tiny model: measured, judged, reported."""
    folder = tmp_path_factory.mktemp("run")
    return folder, run("claims", "--kv-models", "tiny-gemma3", "--kv-limit", "12", "--kv-store",
                       str(folder / "store"), *outputs(folder))


def test_a_run_judges_and_reports(first_run: tuple[Path, Any]) -> None:
    """Every claim that applies gets a verdict; the page and the JUnit file carry it."""
    folder, done = first_run
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert "random-prefix-helps" in done.stdout
    assert " error" not in done.stdout.splitlines()[-1]
    assert 'name="verdict"' in (folder / "junit.xml").read_text()
    page = (folder / "report.html").read_text()
    assert "one_base(random)" in page
    assert len(page) < 3_000_000


def test_a_second_run_loads_no_model(first_run: tuple[Path, Any]) -> None:
    """Stored rows are judged again to the same numbers, with no model within reach."""
    folder, before = first_run
    again = run("claims", "--kv-models", "tiny-gemma3", "--kv-no-measure", "--kv-store",
                str(folder / "store"), *outputs(folder))

    def table(done: Any) -> list[str]:
        return [line for line in done.stdout.splitlines() if "tiny-gemma3-docstrings" in line
                and ("supported" in line or "refuted" in line or "inconclusive" in line)
                and not line.startswith(("SKIPPED", "FAILED", "XFAIL"))]

    assert table(again) == table(before) != []


def test_nothing_judged_is_no_success(tmp_path: Path) -> None:
    """A run without any row says so and fails."""
    done = run("claims", "--kv-no-measure", "--kv-store", str(tmp_path), *outputs(tmp_path))
    assert done.returncode != 0
    assert "no claim was judged" in done.stdout
    assert "no stored rows for smollm2-135m" in done.stdout


@pytest.mark.parametrize(("options", "said"), [
    (["--kv-models", "smolm2"], "did you mean 'smollm2-135m'"),
    (["--kv-datasets", "docstring"], "did you mean 'docstrings'"),
    (["--kv-limit", "many"], "--kv-limit 'many': pass a whole number"),
    (["--kv-confidence", "95"], "pass a number between 0 and 1"),
    (["--kv-dtype", "int8"], "pass one of float32"),
])
def test_bad_options_are_one_line(options: list[str], said: str) -> None:
    """What was given, what is allowed."""
    done = run("claims", *options)
    assert done.returncode == 4
    assert said in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_an_option_may_come_from_the_environment() -> None:
    """Each option has a variable, and the header shows the effective value."""
    done = run("claims", "--collect-only", "-q", "-v", KVCORE_MODELS="tiny-llama", KVCORE_SEED="7")
    assert "seed 7" in done.stdout
    assert "tiny-llama-docstrings-nll" in done.stdout


def test_explain_prints_conditions_and_measures_nothing(tmp_path: Path) -> None:
    """Every condition on one sample; no row stored, nothing judged, and no failure for that."""
    done = run("claims", "--kv-explain", "--kv-models", "tiny-llama", "--kv-store",
               str(tmp_path / "store"), *outputs(tmp_path))
    assert "random: whether any prefix, read and dropped again, helps" in done.stdout
    assert not (tmp_path / "store").exists()
    assert done.returncode == 0, done.stdout
    assert "no claim was judged" not in done.stdout


def test_every_claim_runs(tmp_path: Path) -> None:
    """The full selection, long documents included, is measured and judged without an error."""
    done = run("claims", "-m", "", "--kv-models", "tiny-llama", "--kv-limit", "10", "--kv-store",
               str(tmp_path / "store"), *outputs(tmp_path))
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert " error" not in done.stdout.splitlines()[-1]
    for claim in ("primed-keys-interfere", "seeing-the-copies-hurts"):
        assert claim in done.stdout
    assert "MissingResource" not in done.stdout


def settings(**changed: Any) -> Settings:
    given: dict[str, Any] = dict.fromkeys(Settings.__dataclass_fields__)
    return Settings(**(given | {"strict": False, "record": False} | changed))


def judged(verdict: str, known: str = "") -> Any:
    return dataclasses.replace(invented.judgements()[0], verdict=verdict, ledger=known)


@pytest.mark.parametrize(("verdict", "known", "strict", "outcome"), [
    ("supported", "", False, "passed"),
    ("supported", "known refuted (recorded)", False, "failed"),
    ("refuted", "", False, "failed"),
    ("refuted", "known refuted (recorded)", False, "xfailed"),
    ("inconclusive", "", False, "skipped"),
    ("inconclusive", "", True, "failed"),
])
def test_verdicts_become_outcomes(verdict: str, known: str, strict: bool, outcome: str) -> None:
    """The table of the README, row by row."""
    said = {pytest.fail.Exception: "failed", pytest.skip.Exception: "skipped",
            pytest.xfail.Exception: "xfailed"}
    try:
        judging.conclude(judged(verdict, known), settings(strict=strict))
        told = "passed"
    except tuple(said) as raised:
        told = said[type(raised)]
    assert told == outcome


def test_the_ledger_round_trips_and_refuses_small_n(tmp_path: Path) -> None:
    """A refuted cell enters, a supported one leaves, too few samples change nothing."""
    path = tmp_path / "known.toml"
    one = judged("refuted")
    few = dataclasses.replace(one, estimate=dataclasses.replace(one.estimate, n=3, clusters=3))
    assert "not recorded" in ledger.record([few], "torch 0", path)[0]
    assert ledger.read(path) == {}
    ledger.record([one], "torch 0", path)
    assert list(ledger.read(path)) == [ledger.key_of(one)]
    ledger.record([judged("inconclusive")], "torch 0", path)
    assert list(ledger.read(path)) == [ledger.key_of(one)]
    ledger.record([judged("supported")], "torch 0", path)
    assert ledger.read(path) == {}


def test_a_broken_ledger_is_one_line(tmp_path: Path) -> None:
    """The entry and the fields it should have."""
    path = tmp_path / "known.toml"
    path.write_text('[[refuted]]\nclaim = "x"\n')
    with pytest.raises(KvError, match="entry 1") as error:
        ledger.read(path)
    assert "\n" not in str(error.value)


def test_the_shipped_rows_have_no_other_verdict_than_the_ledger() -> None:
    """Every recorded entry stands on the shipped rows: same model, enough samples."""
    entries = ledger.read()
    assert entries
    for entry in entries.values():
        assert entry.source == "recorded"
        assert entry.model in ("smollm2-135m", "gemma3-270m")
        assert entry.n >= 25
        assert json.dumps(entry.versions)


def test_a_cell_is_explained_once() -> None:
    """Explanations are megabytes: the first judgement of a cell carries them, no other."""
    lab = Lab(settings(), {}, {})
    vars(lab)["explanations"] = lambda *cell: ({"condition": "bare", "model": cell[1]},)
    told = [lab.explained_once("scores", model, "docstrings") for model in ("a", "a", "b", "a")]
    assert [len(each) for each in told] == [1, 0, 1, 0]
    assert told[2][0]["model"] == "b"
