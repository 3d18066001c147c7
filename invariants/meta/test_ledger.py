"""The ledger: its keys, what enters and leaves it, and that the shipped rows agree with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from claims.harness import ledger
from invariants.support import invented
from invariants.support.claim_runs import ClaimRun, copy_project, run
from kvcore.errors import KvError
from kvcore.verdict import Cell, Claim, Judgement, Verdict, helps


def judged(verdict: Verdict, **changes: Any) -> Judgement:
    return dataclasses.replace(invented.judgements()[0], verdict=verdict, ledger="", **changes)


def test_an_entry_stands_under_claim_version_metric_model_dtype_and_dataset() -> None:
    """A key that leaves one of the six out, or takes two of them for one another."""
    claim = Claim("a-claim", 7, "It is so.", "a source", "a-family", helps(), 5)
    cell = Cell("a-model", "a-dataset", "a-metric", "a-dtype")
    key = ("a-claim", 7, "a-metric", "a-model", "a-dtype", "a-dataset")
    assert ledger.key_of(judged("refuted", claim=claim, cell=cell)) == key
    entry = ledger.Entry(*key, "recorded", 0.0, -1.0, 1.0, 10, "2026-01-02", "torch 0")
    assert entry.key == key


def test_the_ledger_round_trips_and_refuses_small_n(tmp_path: Path) -> None:
    """A refuted cell that does not enter, a supported one that stays, too few samples written."""
    path = tmp_path / "known.toml"
    one = judged("refuted")
    few = dataclasses.replace(one, estimate=dataclasses.replace(one.estimate, n=3, clusters=3))
    assert "not recorded" in ledger.record([few], "torch 0", path)[0]
    assert ledger.read(path) == {}
    ledger.record([one], "torch 0", path)
    (key,) = ledger.read(path)
    assert key == ("random-prefix-helps", 1, "nll", "invented-small", "float32", "docstrings")
    ledger.record([judged("inconclusive")], "torch 0", path)
    assert list(ledger.read(path)) == [key]
    ledger.record([judged("supported")], "torch 0", path)
    assert ledger.read(path) == {}


def test_writing_the_shipped_ledger_again_changes_no_byte(tmp_path: Path) -> None:
    """Entries lost or reformatted by the first --kv-record."""
    path = tmp_path / "known.toml"
    path.write_bytes(ledger.PATH.read_bytes())
    ledger.record([], "torch 0", path)
    assert path.read_bytes() == ledger.PATH.read_bytes()


def test_a_broken_ledger_is_one_line(tmp_path: Path) -> None:
    """A traceback in place of the entry and the fields it should have."""
    path = tmp_path / "known.toml"
    path.write_text('[[refuted]]\nclaim = "x"\n')
    with pytest.raises(KvError, match="entry 1") as error:
        ledger.read(path)
    assert "\n" not in str(error.value)


# --- the shipped rows --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What results.json says of each cell when the shipped rows are judged."""
    folder = copy_project(tmp_path_factory.mktemp("shipped"))
    stored = ("--kv-no-measure", "--kv-store", "reports/reference")
    models = ("--kv-models", "smollm2-135m,gemma3-270m")
    done = run("claims", "-m", "", *stored, *models, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    judgements: list[dict[str, Any]] = ClaimRun(0, folder / "reports" / "out").results["judgements"]
    return judgements


# Refuted on the 150 samples they were recorded from; the 300 shipped since leave them undecided.
UNDECIDED = {
    (claim, 1, "nll", "gemma3-270m", "float32", "docstrings")
    for claim in (
        "oracle-does-not-beat-random",
        "oracle-does-not-help",
        "random-gains-with-hardness",
        "random-prefix-helps",
    )
}


def check_against_ledger(
    judgements: Iterable[dict[str, Any]], entries: Iterable[tuple[Any, ...]]
) -> None:
    """Compare cells that enough samples refute with entries, both ways."""
    refuted = {
        (
            judgement["claim"]["id"],
            judgement["claim"]["version"],
            *(judgement["cell"][name] for name in ("metric", "model", "dtype", "dataset")),
        )
        for judgement in judgements
        if judgement["verdict"] == "refuted"
        and judgement["estimate"]["n"] >= judgement["claim"]["min_n"]
    }
    known = set(entries)
    assert refuted - known == set(), "refuted and not in the ledger"
    assert known - refuted == UNDECIDED, "in the ledger and not refuted"


def test_the_shipped_rows_have_no_other_verdict_than_the_ledger(
    shipped: list[dict[str, Any]],
) -> None:
    """A refutation that the ledger lacks, or an entry that the shipped rows do not bear out."""
    assert len(shipped) > 300
    entries = list(ledger.read())
    check_against_ledger(shipped, entries)
    nobody = ("nobody-measured-this", 1, "nll", "smollm2-135m", "float32", "docstrings")
    missing = [entry for entry in entries if entry != entries[0]]
    for broken in ([*entries, nobody], missing):
        with pytest.raises(AssertionError):
            check_against_ledger(shipped, broken)
