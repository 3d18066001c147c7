"""Runs of the claims: as a user starts them, and inside this process where a test breaks code."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NO_CACHE = ("-p", "no:cacheprovider")


def run(*options: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run pytest as a user would."""
    command = [sys.executable, "-m", "pytest", *NO_CACHE, *options]
    return subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


@dataclass(frozen=True)
class ClaimRun:
    """What a run left behind."""

    status: int
    folder: Path

    @property
    def results(self) -> dict[str, Any]:
        """What results.json holds."""
        document: dict[str, Any] = json.loads((self.folder / "results.json").read_text("utf-8"))
        return document

    @property
    def junit(self) -> dict[str, ET.Element]:
        """The test cases of the JUnit file by name."""
        cases = ET.parse(self.folder / "junit.xml").getroot().iter("testcase")
        return {f"{case.get('name')}": case for case in cases}

    @property
    def page(self) -> str:
        """The text of the report's page, every run of white space one space."""
        markup = html.unescape((self.folder / "report.html").read_text("utf-8"))
        markup = re.sub(r"(?s)<(script|style)\b.*?</\1>", " ", markup)
        return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


def run_here(pytester: pytest.Pytester, claims: str, *options: str) -> ClaimRun:
    """Judge the claims of a text in this process, in a folder of their own.

    The estimates of other runs are out of reach, so that what a test breaks is computed anew.
    """
    folder = pytester.path / "claims"
    folder.mkdir(exist_ok=True)
    (folder / "test_invented.py").write_text(claims, encoding="utf-8")
    shutil.copy(ROOT / "pyproject.toml", pytester.path)
    pytester.syspathinsert(ROOT)
    arguments = ["-p", "conftest", *NO_CACHE, "claims", "--kv-no-measure", "-m", "", *options]
    result = pytester.inline_run(*arguments)
    return ClaimRun(int(result.ret), pytester.path / "reports" / "out")
