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
NO_PAGE = ("-p", "no:html")
"""For runs whose page nobody reads: drawing it takes longer than judging."""


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


def run_inside(
    capture: pytest.CaptureFixture[str], *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run pytest as `run` does, in this process: without seconds of imports, under its patches."""
    capture.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for name, value in {"COLUMNS": "200", **environment}.items():
            patch.setenv(name, value)
        status = pytest.main([*NO_CACHE, *options])
    printed, errors = capture.readouterr()
    return subprocess.CompletedProcess(options, int(status), printed, errors)


def copy_project(folder: Path) -> Path:
    """Copy what a run of the claims takes, the shipped rows linked: its reports lie apart."""
    skipped = shutil.ignore_patterns("__pycache__", "out", "reference")
    for name in ("claims", "kvcore", "reports", "conftest.py", "pyproject.toml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=skipped)
        else:
            shutil.copy(source, folder / name)
    (folder / "reports" / "reference").symlink_to(ROOT / "reports" / "reference")
    return folder


def newest(project: Path) -> Path:
    """Return the folder of the run that began last, also of one that is linked nowhere."""
    out = project / "reports" / "out"
    return max(
        (folder for folder in out.glob("2*T*") if folder.is_dir()),
        key=lambda folder: folder.stat().st_ctime_ns,
        default=out,
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


def run_here(
    folder: Path, patch: pytest.MonkeyPatch, claims: str, *options: str, measures: bool = False
) -> ClaimRun:
    """Judge the claims of a text in this process, in a folder of their own.

    Stored rows are judged, unless the run measures: on the CPU then.
    The estimates of other runs are out of reach, so that what a test breaks is computed anew.
    """
    (folder / "claims").mkdir(exist_ok=True)
    module = folder / "claims" / "test_invented.py"
    module.write_text(claims, encoding="utf-8")
    shutil.copy(ROOT / "pyproject.toml", folder)
    patch.chdir(folder)
    patch.setenv("KVCORE_CACHE", str(folder / "cache"))
    for variable in ("CI", "BUILD_NUMBER"):  # where pytest repeats errors whole in its summary
        patch.delenv(variable, raising=False)
    patch.setattr(sys, "path", [str(ROOT), *sys.path])
    patch.delitem(sys.modules, module.stem, raising=False)
    rows = ("--kv-device", "cpu") if measures else ("--kv-no-measure",)
    arguments = ["-p", "conftest", *NO_CACHE, "claims", *rows, "-m", "", *options]
    status = pytest.main(arguments)
    sys.modules.pop(module.stem, None)
    return ClaimRun(int(status), newest(folder))
