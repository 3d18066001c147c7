"""The guides are followed as a reader follows them: files saved, commands run, output compared."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from invariants.support import markdown
from invariants.support.markdown import Block

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
COPIED = ("kvcore", "claims", "reports")


def runs(page: Path) -> bool:
    """Whether a page has something to follow."""
    return any(b.file or "run" in b.words for b in markdown.blocks(page.read_text("utf-8")))


def project_copy(folder: Path) -> Path:
    """Return a copy of the project, in which files may be made, without tests and stored rows."""
    ignored = shutil.ignore_patterns("__pycache__", "out", "reference")
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def run_block(block: Block, folder: Path) -> str:
    """Run a block in a folder and return what it printed; a command that fails is an assertion."""
    binaries = str(Path(sys.executable).parent)
    environment = os.environ | {
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "COLUMNS": "200",
        "PYTHONDONTWRITEBYTECODE": "",  # the next command of the page starts from it
        "OMP_NUM_THREADS": "1",
    }
    command = (
        [sys.executable, "-c", block.text]
        if block.language == "python"
        else ["bash", "-euo", "pipefail", "-c", block.text]
    )
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    printed = done.stdout + done.stderr
    assert done.returncode in block.exits, (
        f"line {block.line}: exit {done.returncode}\n{printed[-3000:]}"
    )
    return printed


def assert_printed(block: Block, printed: str) -> None:
    """Demand every line of an output block, `…` standing for anything."""
    for line in filter(None, block.text.splitlines()):
        pattern = ".*".join(re.escape(part.strip()) for part in line.split("…"))
        assert re.search(pattern, printed), f"line {block.line}: {line!r} not in\n{printed[-3000:]}"


def follow(text: str, folder: Path) -> None:
    """Do what a page tells its reader: save its files, run its commands, compare their output."""
    printed = ""
    for block in markdown.blocks(text):
        if block.file:
            target = folder / block.file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, "utf-8")
        elif "run" in block.words:
            printed = run_block(block, folder)
        elif "output" in block.words:
            assert_printed(block, printed)


def followed(page: Path) -> Any:
    """Return a page as a parameter: how to add a claim always, the others nightly."""
    marks = () if page.name == "adding_a_claim.md" else pytest.mark.nightly
    return pytest.param(page, id=str(page.relative_to(ROOT)), marks=marks)


@pytest.mark.parametrize("page", [followed(page) for page in PAGES if runs(page)])
def test_a_reader_can_follow_the_page(page: Path, tmp_path: Path) -> None:
    """Fault: a template that does not run, or prints something else than the page says."""
    follow(page.read_text("utf-8"), project_copy(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        "```python run\nraise SystemExit(1)\n```\n",
        "```sh run\nfalse\ntrue\n```\n",
        "```python run\nprint('this')\n```\n```text output\nthat\n```\n",
    ],
)
def test_a_page_that_does_not_work_is_seen(text: str, tmp_path: Path) -> None:
    """Twin of `test_a_reader_can_follow_the_page`: a failing command, a wrong output."""
    with pytest.raises(AssertionError, match="line "):
        follow(text, tmp_path)


def test_files_are_saved_and_found_by_what_runs_next(tmp_path: Path) -> None:
    """Fault: blocks run in another folder than the one files are saved in."""
    follow(
        "```python file=mine.py\nx = 7\n```\n"
        "```python run\nimport mine\nprint('got', mine.x)\n```\n"
        "```text output\ngot … 7\n```\n",
        tmp_path,
    )
