"""Load the corpus of docstrings: extracted once for given package versions, then from a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from kvcore.data import kept
from kvcore.data.sample import Corpus, Sample
from kvcore.errors import MissingResource
from kvcore.io import cache_folder, digest

PACKAGES = ("numpy", "scipy", "pandas", "torch", "matplotlib")
WALK = Path(__file__).with_name("walk.py")
# What decides which samples come out; a change to any of them makes a new cache file.
SOURCES = tuple(
    Path(__file__).parent / name
    for name in ("walk.py", "prose.py", "clean.py", "../sample.py", "../overlap.py")
)


def versions(packages: tuple[str, ...] = PACKAGES) -> Mapping[str, str]:
    """Return the installed version of each package, without importing it.

    Raises MissingResource where a package is not installed.
    """
    try:
        return {package: metadata.version(package) for package in packages}
    except metadata.PackageNotFoundError as error:
        raise MissingResource(
            f"docstrings: package {error.name!r} is not installed; run: pip install {error.name}"
        ) from None


def revision_of(installed: Mapping[str, str]) -> str:
    """Return 16 hex digits that change with any package's version."""
    return digest(*(f"{name}=={installed[name]}" for name in sorted(installed)))[:16]


def cache_file(revision: str) -> Path:
    """Name the file that holds the cleaned corpus of these versions and this code."""
    code = [source.read_text(encoding="utf-8") for source in SOURCES]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return cache_folder() / "corpora" / f"docstrings-{digest(revision, python, *code)[:16]}.json"


def extract(packages: tuple[str, ...] = PACKAGES) -> Mapping[str, Any]:
    """Collect the docstrings of packages in a child process (about ten seconds).

    Under ``"callables"`` (name, module, docstring) triples, under ``"failed"`` modules that do not
    import.

    Raises MissingResource where the child process fails; the last line it wrote is in the message.
    """
    settings = {"PYTHONHASHSEED": "0", "PYTHONOPTIMIZE": "", "MPLBACKEND": "agg"}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callables.json"
        child = subprocess.run(
            [sys.executable, "-P", "-W", "ignore", str(WALK), str(out), *packages],
            env={**os.environ, **settings},
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if child.returncode != 0:
            last = (child.stderr.strip().splitlines() or ["no message"])[-1]
            raise MissingResource(f"docstrings: reading {', '.join(packages)} failed: {last}")
        return dict(json.loads(out.read_text(encoding="utf-8")))


def build(revision: str) -> Corpus:
    """Extract and clean the corpus anew."""
    from kvcore.data.docstrings.clean import clean  # needs NumPy and SciPy; a cached load does not

    walked = extract()
    samples, dropped = clean(walked["callables"])
    failed = {"module does not import": len(walked["failed"])} if walked["failed"] else {}
    return corpus_of(samples, {**dropped, **failed}, revision)


def corpus_of(samples: tuple[Sample, ...], dropped: Mapping[str, int], revision: str) -> Corpus:
    """Put the samples into a corpus with the words that describe it."""
    note = f"summaries and explanations from the docstrings of {', '.join(PACKAGES)}"
    return Corpus("docstrings", samples, dropped, revision, "module", note)


def read_cached(path: Path, revision: str) -> Corpus | None:
    """Read a corpus written earlier, or None where there is none or it is damaged."""
    return kept.read(path, lambda samples, dropped: corpus_of(samples, dropped, revision))


def load_docstrings() -> Corpus:
    """Load the corpus of docstrings: from the cache, else by extracting it once.

    Deterministic for given package versions. Processes that start together extract only once: the
    others wait for the first. A cached load imports none of the packages.
    """
    revision = revision_of(versions())
    return kept.extracted_once(
        cache_file(revision),
        lambda path: read_cached(path, revision),
        lambda: build(revision),
    )
