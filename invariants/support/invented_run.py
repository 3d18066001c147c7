"""Runs of claims that judge the stored rows of the invented cell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from claims.harness import ledger
from invariants.support import invented_cell
from invariants.support.claim_runs import ClaimRun, run_here

Judge = Callable[..., ClaimRun]


def judge_invented_cell(folder: Path, patch: pytest.MonkeyPatch) -> Judge:
    """Write the invented cell's rows and ledger; return what judges a text of claims on them.

    It is called with the text of the claims and options of the run.
    """
    invented_cell.write_store(folder / "store")
    known = folder / "known.toml"
    known.write_text(invented_cell.KNOWN, encoding="utf-8")
    patch.setattr(ledger, "PATH", known)
    cell = ("--kv-store", "store", "--kv-models", invented_cell.MODEL)

    def judge(claims: str, *options: str) -> ClaimRun:
        return run_here(folder, patch, claims, *cell, *options)

    return judge
