"""The first hour: the command, what is said before a download, folders of runs, bad input."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import kvcore
import setup_check
from claims import __main__ as command
from claims.harness import checks, closing, commands, options
from claims.harness.closing import MeasuredRows
from invariants.support import invented
from invariants.support.claim_runs import ROOT, run_inside
from invariants.support.comparing import must_see
from kvcore import ray_workers
from kvcore.cache.kv_cache import KVCache
from kvcore.data.sample import Sample
from kvcore.models.lm import LM
from kvcore.progress import Progress
from reports import folders, results, schema, text

BAD_OPTIONS = {
    "limit": ("--limit", "one", "pass a whole number"),
    "model": ("--models", "smolm2-135m", "did you mean 'smollm2-135m'?"),
    "gguf": ("--models", "missing.gguf", "there is no such file"),
    "dataset": ("--datasets", "dosctrings", "did you mean 'docstrings'?"),
    "file": ("--datasets", "missing.jsonl", "cannot be read"),
    "looks": ("--looks", "11", "pass 10 or fewer"),
    "dtype": ("--dtype", "float8", "pass one of float32"),
    "device": ("--device", "gpu", "pass auto, cpu, cuda"),
    "interval": ("--interval", "bootstrap", "pass one of jackknife"),
    "confidence": ("--confidence", "95", "between 0 and 1"),
    "quantization": ("--quantization", "int4", "pass one of nf4"),
    "store": ("--store", "README.md", "that is a file; pass a folder"),
    "executor": ("--executor", "slurm", "pass one of local, ray"),
    "address": ("--ray-address", "auto", "pass --kv-executor ray with it"),
    "cpus": ("--ray-cpus", "0", "pass 1 or more"),
    "empty": ("--no-measure", "--store=nowhere", "there is no such folder"),
    "option": ("--limt", "3", "did you mean --limit?"),
}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in the project's folder."""
    monkeypatch.chdir(ROOT)


def said(capture: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    """Return the exit code of the command and the lines of its errors."""
    capture.readouterr()
    try:
        code = command.main(arguments)
    except SystemExit as left:
        code = int(str(left.code))
    return code, [line for line in capture.readouterr().err.splitlines() if line]


def check_one_line(capture: pytest.CaptureFixture[str], expected: str, *arguments: str) -> None:
    """Demand one line with what is expected, and exit code 4."""
    code, lines = said(capture, *arguments)
    assert code == 4, lines
    assert len(lines) == 1, lines
    assert expected in lines[0]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_a_bad_option_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a bad option that runs, or that ends in a traceback or a screen of usage."""
    option, value, expected = BAD_OPTIONS[name]
    check_one_line(capsys, expected, "measure", option, value)


def check_absent_ray_is_told(capture: pytest.CaptureFixture[str]) -> None:
    """Without ray one line names the command that installs it, and nothing begins."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_workers, "find_spec", lambda _: None)
        check_one_line(capture, "run pip install 'kvclaims[ray]'", "measure", "--executor", "ray")


@pytest.mark.usefixtures("here")
def test_ray_that_is_not_installed_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback, hours into a run, about a package that is missing."""
    check_absent_ray_is_told(capsys)


@pytest.mark.usefixtures("here")
def test_twin_an_unchecked_package_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    """Would catch a line that another option causes."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(options, "check_installed", lambda: None)
        patch.setattr(checks, "check", lambda _: sys.exit(0))

    must_see(fault, check_absent_ray_is_told, capsys)


@pytest.mark.usefixtures("here")
def test_twin_an_unchecked_device_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    """If the settings were not checked, a device that is none would begin a run."""

    def unchecked(_settings: Any) -> None:
        raise SystemExit(0)

    must_see(
        lambda patch: patch.setattr(checks, "check", unchecked),
        check_one_line, capsys, "pass auto", "measure", "--device", "gpu",
    )  # fmt: skip


BAD_WORDS: dict[str, tuple[tuple[str, ...], str]] = {
    "command": (("lok",), "look"),
    "list": (("list", "things"), "conditions"),
    "argument": (("view", "--opne"), "--opne"),
    "page": (("view", "sample"), "samples"),
    "name": (("explain", "randm"), "did you mean 'random'?"),
    "condition": (("explain", "values_only("), "did you mean 'values_only(p)'?"),
    "share": (("explain", "interp(oracle,7)"), "pass a share"),
    "model": (("explain", "random", "--model", "smolm2-135m"), "did you mean 'smollm2-135m'?"),
}


@pytest.mark.parametrize("name", BAD_WORDS)
def test_a_bad_word_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a misspelled command, list or name that ends otherwise than in one line."""
    arguments, expected = BAD_WORDS[name]
    check_one_line(capsys, expected, *arguments)


def test_a_test_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an internal error where the file of a claim is misspelled."""
    done = run_inside(capsys, "claims/test_nothing.py")
    assert done.returncode == 4
    assert "INTERNALERROR" not in done.stdout
    assert "ERROR: file or directory not found: claims/test_nothing.py" in done.stderr
    assert "claim was judged" not in done.stdout


# --- what the command says -----------------------------------------------------------------------


@pytest.mark.parametrize("what", commands.LISTINGS)
def test_everything_listed_says_what_it_is(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a list with an empty entry, and one that lacks a well-known one."""
    known = {
        "claims": "random-prefix-helps",
        "conditions": "values_only(p)",
        "models": "smollm2-135m",
        "datasets": "docstrings",
    }
    entries = dict(commands.LISTINGS[what]())
    assert known[what] in entries
    assert all(entries.values()), [name for name, text in entries.items() if not text]
    assert command.main(["list", what]) == 0
    assert known[what] in capsys.readouterr().out


def test_a_claim_and_a_condition_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an explanation without the prediction, the rows it takes or what is tested."""
    assert command.main(["explain", "random-prefix-helps"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for part in ("makes the answer easier", "Supported when", "under bare, random", "priming"):
        assert part in shown
    assert command.main(["explain", "values_only(oracle)", "--model", "tiny-llama"]) == 0
    assert "prefill" in capsys.readouterr().out


def test_an_option_has_two_spellings() -> None:
    """Catches ``--limit`` that pytest does not know, and a changed option of pytest's own."""
    spelled = commands.spelled_out(["--limit", "8", "--kv-seed=1", "--looks=2", "-k", "x", "--co"])
    assert spelled == ["--kv-limit", "8", "--kv-seed=1", "--kv-looks=2", "-k", "x", "--co"]


# --- before a download ---------------------------------------------------------------------------


def test_setting_up_is_checked_by_old_pythons_too() -> None:
    """Catches a check that a Python which is too old cannot even read."""
    source = (ROOT / "setup_check.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 6))
    assert "from __future__ import annotations" not in source


CASES: dict[str, tuple[Callable[[], str], str]] = {
    "old": (
        lambda: setup_check.unsupported((3, 10, 2), "python3", ["python3.12"]),
        "make look PYTHON=python3.12",
    ),
    "new": (lambda: setup_check.unsupported((3, 14, 0), "python3", []), "apt install python3.11"),
    "full": (lambda: setup_check.too_full("/here", 1.5, 4), "has 1.5 GB free"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_succeed_is_said_with_what_helps(name: str) -> None:
    """Catches a download that ends in a failure which could be known before."""
    call, expected = CASES[name]
    assert expected in call()
    assert "\n" not in call()


def test_what_will_do_is_not_complained_of() -> None:
    """Catches a supported Python, or a disk that is large enough, which is refused."""
    for minor in (11, 12, 13):
        assert setup_check.unsupported((3, minor, 1), "python3", []) == ""
    assert setup_check.too_full("/here", 4.5, 4) == ""


def test_the_cuda_build_is_told_where_it_is_of_no_use(tmp_path: Path) -> None:
    """Catches gigabytes that come unsaid, and a word about them where they do not come."""
    assert setup_check.brings_cuda("Linux", False, "")
    assert not setup_check.brings_cuda("Linux", True, "")
    assert not setup_check.brings_cuda("Darwin", False, "")
    assert not setup_check.brings_cuda("Linux", False, f"x {setup_check.CPU_INDEX}")
    assert setup_check.brings_cuda("Linux", False, f"global.find-links='{tmp_path}'")
    (tmp_path / "torch-2.13.0+cpu-cp311.whl").touch()
    assert not setup_check.brings_cuda("Linux", False, f"global.find-links='{tmp_path}'")


def made(folder: Path, *arguments: str) -> str:
    """Return what make would do in a copy of the Makefile."""
    (folder / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).touch()
        os.utime(folder / name, (1, 1))
    done = subprocess.run(
        ["make", "-n", "look", *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


def environment_in(folder: Path, python: Path) -> None:
    """Make what looks like a finished environment with this interpreter."""
    binaries = folder / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "python").symlink_to(python)
    (binaries / "pip").write_text(f"#!{python}\n")
    (folder / ".venv" / "pyvenv.cfg").touch()
    (folder / ".venv" / ".ready").touch()


def test_a_broken_environment_is_built_anew(tmp_path: Path) -> None:
    """Catches an environment whose Python went away and that stays as it is for ever."""
    (tmp_path / "good").mkdir()
    environment_in(tmp_path / "good", Path(sys.executable))
    assert "-m venv" not in made(tmp_path / "good")
    (tmp_path / "broken").mkdir()
    environment_in(tmp_path / "broken", tmp_path / "python-that-was-removed")
    assert "is built anew" in made(tmp_path / "broken")


# --- folders of runs -----------------------------------------------------------------------------


def test_every_run_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """Catches two runs of one second that overwrite each other."""
    now = datetime(2026, 1, 2, 3, 4, 5)
    first = folders.new_folder(tmp_path, now)
    assert first.name == "2026-01-02T03-04-05"
    first.mkdir()
    assert folders.new_folder(tmp_path, now).name == "2026-01-02T03-04-05-2"
    assert folders.publish(first) == tmp_path / "latest"
    (tmp_path / "other").mkdir()
    assert (folders.publish(tmp_path / "other") / ".").resolve() == tmp_path / "other"


def test_a_link_that_is_a_folder_is_left_alone(tmp_path: Path) -> None:
    """Catches somebody's own folder named latest that a run takes away."""
    (tmp_path / "latest").mkdir()
    (tmp_path / "run").mkdir()
    assert folders.publish(tmp_path / "run") == tmp_path / "run"
    assert not (tmp_path / "latest").is_symlink()


# --- the end of a run ----------------------------------------------------------------------------


def measured(rows: int) -> MeasuredRows:
    """Return a count of rows that a run measured."""
    counted = MeasuredRows()
    counted.telling(lambda _told: None)(Progress("a", "rows", rows, 999, 120.0, ended=True))
    return counted


def test_what_a_run_added_is_said(tmp_path: Path) -> None:
    """Catches a run of hours that does not say what it measured and what came of it."""
    judged = invented.judgements()
    before: dict[tuple[str, ...], str] = {
        (j.claim.id, j.cell.model, j.cell.dataset, j.cell.metric, j.cell.dtype): "inconclusive"
        for j in judged[1:]
    }
    told = closing.lines(judged, [], measured(77), before, tmp_path / "store", broken_off=False)
    decided = sum(j.verdict != "inconclusive" for j in judged)
    assert told[0] == "measured: 77 rows in 2 min, kept in store/ for the next run"
    assert told[-1] == f"since the report before: 1 new, {decided} newly decided"


def test_what_is_kept_after_a_break_is_said(tmp_path: Path) -> None:
    """Catches Ctrl-C after which nobody knows what was kept and how to go on."""
    (line,) = closing.lines([], [], measured(77), {}, tmp_path / "store", broken_off=True)
    assert "77 rows measured by now are kept in store/" in line
    assert "the same command goes on" in line


# --- results.json --------------------------------------------------------------------------------


def document() -> dict[str, Any]:
    """Return results.json of an invented run, as it is read back."""
    whole = results.document(
        invented.judgements(),
        provenance=invented.provenance(),
        environment=invented.environment(),
    )
    read: dict[str, Any] = json.loads(json.dumps(whole))
    return read


def check_schema() -> None:
    """Hold an invented run's results.json to the schema."""
    jsonschema.Draft202012Validator(schema.results_schema()).validate(document())


def test_results_keep_to_the_schema_of_the_docs() -> None:
    """Catches a field that comes, goes or changes its type without the schema."""
    written = (ROOT / "docs" / "results.schema.json").read_text(encoding="utf-8")
    assert written == schema.text(), "run: python -m reports.schema > docs/results.schema.json"
    jsonschema.Draft202012Validator.check_schema(json.loads(written))
    check_schema()


def test_twin_a_field_that_is_left_out_is_seen() -> None:
    """If results.json lacked a field, the schema would see it."""
    right = text.inert_data

    def lacking(data: dict[str, Any]) -> dict[str, Any]:
        fields: dict[str, Any] = right(data)
        del fields["counts"]
        return fields

    def check() -> None:
        try:
            check_schema()
        except jsonschema.ValidationError as error:
            raise AssertionError(error.message) from error

    must_see(lambda patch: patch.setattr("reports.results.inert_data", lacking), check)


# --- the library ---------------------------------------------------------------------------------


def test_the_package_has_what_it_lists() -> None:
    """Catches a name that is listed and not there, or there and not listed."""
    for name in kvcore.__all__:
        assert getattr(kvcore, name) is not None
    assert {*kvcore.__all__, "__version__"} <= set(dir(kvcore))
    assert kvcore.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="no attribute 'rnking'"):
        kvcore.rnking  # noqa: B018


def test_things_show_themselves_on_one_line(llama: LM) -> None:
    """Catches a model of thousands of lines, a cache of all its numbers, a sample of pages."""
    sample = Sample("a query " * 50, "a passage " * 500, "an answer")
    cache: KVCache = kvcore.prime(llama, "A document.", "random", query="what")
    for thing in (llama, cache, sample):
        assert len(repr(thing)) < 200
        assert "\n" not in repr(thing)


def test_a_table_of_scores_begins_with_the_nlls(llama: LM) -> None:
    """Catches a printed table from which the numbers that one looks for are left out."""
    sample = Sample("a query", "a passage of words", "an answer")
    shown = kvcore.score(llama, [sample], ["bare", "random"])
    assert list(shown.columns[:3]) == ["condition", "nll", "nll_tail"]


def check_view(folder: Path, capture: pytest.CaptureFixture[str]) -> None:
    (folder / "report.html").touch()
    (folder / "samples.html").touch()
    for arguments, name in (((), "report"), (("report",), "report"), (("samples",), "samples")):
        assert command.main(["view", *arguments, "--no-open"]) == 0
        assert capture.readouterr().out.strip() == str(folder / f"{name}.html")
    (folder / "samples.html").unlink()
    code, lines = said(capture, "view", "samples")
    assert code == 1
    assert len(lines) == 1
    assert "kvclaims look" in lines[0]


def test_view_opens_the_page_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches `view samples` that opens the report, or ends in a traceback where it is not."""
    monkeypatch.setattr(commands, "latest", lambda: tmp_path)
    check_view(tmp_path, capsys)


def test_twin_a_view_of_the_report_alone_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command that always opens the report is seen."""
    monkeypatch.setattr(commands, "latest", lambda: tmp_path)

    def report_alone(patch: pytest.MonkeyPatch) -> None:
        def view(_given: object, _rest: object) -> int:
            print(tmp_path / "report.html")
            return 0

        patch.setattr(commands, "view", view)

    must_see(report_alone, check_view, tmp_path, capsys)
