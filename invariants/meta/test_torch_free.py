"""Judging stored rows needs no torch: importing it takes longer than judging does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from invariants.support import invented_cell
from invariants.support.children import child
from invariants.support.claim_runs import NO_CACHE, ROOT

JUDGE = """
import contextlib, io, json, os, sys
import pytest
{before}
with contextlib.redirect_stdout(io.StringIO()):
    import claims.harness.hooks
    imported = "torch" in sys.modules
    sys.path.insert(0, os.getcwd())
    os.chdir({folder!r})
    status = int(pytest.main({arguments!r}))
print(json.dumps([status, imported, "torch" in sys.modules]))
"""


def judged_without_torch(folder: Path, before: str = "") -> Any:
    """Judge the invented cell in a fresh interpreter; say whether torch was imported, and when."""
    invented_cell.write_store(folder / "store")
    (folder / "claims").mkdir()
    (folder / "claims" / "test_invented.py").write_text(invented_cell.CLAIMS, encoding="utf-8")
    (folder / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    arguments = ["-p", "conftest", *NO_CACHE, "claims", "--kv-no-measure", "-m", ""]
    arguments += ["--kv-store", "store", "--kv-models", invented_cell.MODEL]
    code = JUDGE.format(before=before, folder=str(folder), arguments=arguments)
    return child(code, KVCORE_CACHE=str(folder / "cache"))


def check(outcome: Any) -> None:
    status, imported, used = outcome
    assert status == 1  # one claim of the invented cell breaks; the others are judged
    assert not imported
    assert not used


def test_judging_stored_rows_imports_no_torch(tmp_path: Path) -> None:
    """An import of torch anywhere on the way from stored rows to the reports."""
    check(judged_without_torch(tmp_path))


def test_twin_an_import_of_torch_is_seen(tmp_path: Path) -> None:
    """A check that looks at the wrong interpreter."""
    with pytest.raises(AssertionError):
        check(judged_without_torch(tmp_path, before="import torch"))
