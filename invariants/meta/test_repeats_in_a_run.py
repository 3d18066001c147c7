"""A user's file whose answers come back, through the command that a user runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from claims.harness import datasets
from invariants.support.claim_runs import NO_PAGE, run_inside
from invariants.support.comparing import must_see

WARNING = "30 rows have only 6 different answers and name no cluster"


def write(path: Path, *, clustered: bool) -> None:
    """Write 30 rows with 6 answers, as docs/adding_a_dataset.md says."""
    cluster = [{"cluster": f"lake {i % 6}"} if clustered else {} for i in range(30)]
    rows = [
        {
            "query": f"where does animal {i} live",
            "passage": f"Animal {i} lives by lake {i % 6}, in the hills.",
            "answer": f"by lake {i % 6}",
            **cluster[i],
        }
        for i in range(30)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def check_run(folder: Path, capture: pytest.CaptureFixture[str]) -> None:
    for clustered in (False, True):
        file = folder / f"own-{clustered}.jsonl"
        write(file, clustered=clustered)
        done = run_inside(
            capture, "claims/test_priming.py", "-k", "test_a_random_prefix_helps", *NO_PAGE,
            "--kv-models", "tiny-llama", "--kv-datasets", str(file), "--kv-limit", "4",
            "--kv-store", str(folder / "store"), "--kv-looks", "1",
        )  # fmt: skip
        before, _, closing = done.stdout.partition(" claims =")
        for part in (before, closing):
            said = [line for line in part.splitlines() if WARNING in line]
            assert len(said) == (0 if clustered else 1), done.stdout
        assert all("warning: " in line for line in done.stdout.splitlines() if WARNING in line)


def test_a_file_with_repeated_answers_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches 30 rows about 6 answers that are judged as 30, without a word at either end."""
    check_run(tmp_path, capsys)


def test_twin_files_that_are_not_read_are_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that does not look at the user's file is seen."""
    must_see(
        lambda patch: patch.setattr(datasets.Repeats, "of", classmethod(lambda c, _: c({}))),
        check_run, tmp_path, capsys,
    )  # fmt: skip
