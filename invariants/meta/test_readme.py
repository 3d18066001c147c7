"""The tutorial's examples do what it says: a new claim needs a file and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from invariants.support.children import child
from invariants.support.claim_runs import ROOT, ClaimRun, copy_project, newest, run


def example(heading: str, number: int = 0) -> str:
    """Return a code block below a heading of the tutorial."""
    section = (
        (ROOT / "docs" / "tutorial.md")
        .read_text("utf-8")
        .split(f"## {heading}\n")[1]
        .split("\n## ")[0]
    )
    blocks: list[str] = re.findall(r"(?s)```python[^\n]*\n(.*?)```", section)
    return blocks[number]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the README's claim in it, the shipped rows linked."""
    folder = copy_project(tmp_path_factory.mktemp("checkout"))
    (folder / "claims" / "test_mine.py").write_text(example("Add a claim"), encoding="utf-8")
    return folder


def test_the_readmes_claim_is_judged(checkout: Path) -> None:
    """An example that cannot be pasted: another import, a setting that must list the file."""
    stored = ("--kv-no-measure", "--kv-store", "reports/reference")
    done = run("claims/test_mine.py", *stored, "--kv-models", "smollm2-135m", cwd=checkout)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    judgements = ClaimRun(0, newest(checkout)).results["judgements"]
    assert [j["claim"]["id"] for j in judgements] == ["static-question-helps"] * 2
    assert all(j["estimate"]["n"] >= 100 for j in judgements)
    # The same pair of conditions is judged among the project's own claims.
    assert {tuple(j["conditions"]) for j in judgements} == {("bare", "static_fact")}


@pytest.mark.parametrize("tool", [["ruff", "check"], ["mypy"]])
def test_the_readmes_claim_passes_lint_and_types(checkout: Path, tool: list[str]) -> None:
    """A new claim that lint or types refuse until a list in the settings has its name."""
    pytest.importorskip(tool[0])
    command = [sys.executable, "-m", *tool, "claims/test_mine.py"]
    env = {**os.environ, "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache")}  # else it takes minutes
    done = subprocess.run(
        command, cwd=checkout, capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readmes_condition_can_be_asked_for() -> None:
    """An example of a condition whose names are elsewhere, or that a claim cannot spell."""
    code = example("Add a claim", 1) + (
        "\nimport json\nfrom kvcore.conditions.parse import condition\n"
        'print(json.dumps(condition("two_prefixes").tests))'
    )
    assert child(code) == "two prefixes at once"
