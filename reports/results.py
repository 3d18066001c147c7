"""results.json: every judgement of a run, what it ran on and where its rows lie."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kvcore.io import write_atomically
from kvcore.verdict import Q_LEVEL, Judgement, difference_from_published
from reports import multiple
from reports.text import inert_data
from reports.words import counts

SCHEMA_VERSION = 3

PACKAGES = (
    "kvclaims torch transformers accelerate bitsandbytes datasets gguf numpy scipy pandas pyarrow "
    "matplotlib pytest pytest-html pytest-xdist"
).split()


def environment(root: Path) -> dict[str, Any]:
    """Return what a run ran on: Python, platform, versions of installed packages, commit.

    The commit is that of the project's folder: its SHA, with ``" + changes"`` where tracked files
    differ from it, None outside a git checkout. Imports none of the packages.
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": _commit(root),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit(root: Path) -> str | None:
    sha = _git(root, "rev-parse", "HEAD")
    if not sha:
        return None
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{sha} + changes" if changed else sha


def _git(root: Path, *arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run(
        [git, "-C", str(root), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None


def document(
    judgements: Sequence[Judgement],
    *,
    provenance: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what results.json holds, as plain JSON data.

    Numbers are unrounded; NaN and infinities are the strings ``"NaN"``, ``"Infinity"`` and
    ``"-Infinity"`` in estimates, null elsewhere. ``q`` is null for judgements that are not primary.
    The data behind the plots is left out: it lies in the rows, under ``rows``. Of each cell there
    are the folder of its rows and the line of pandas that reads them (``rows in pandas``).
    """
    q = multiple.primary_q_values(judgements)
    standing = multiple.standing(judgements)
    stores = dict.fromkeys((j.store, j.rows_hash) for j in judgements)
    data: dict[str, Any] = inert_data(
        {
            "schema_version": SCHEMA_VERSION,
            "command": provenance.get("command"),
            "configuration": dict(provenance.get("configuration", {})),
            "environment": dict(environment),
            "cells": [dict(cell) for cell in provenance.get("cells", ())],
            "counts": counts(judgements),
            "q_values": {"level": Q_LEVEL, **dataclasses.asdict(standing)},
            "judgements": [_judged(j, q.get(multiple.key_of(j))) for j in judgements],
            "rows": [{"store": store, "rows_hash": rows_hash} for store, rows_hash in stores],
        }
    )
    return data


def _judged(judgement: Judgement, q: float | None) -> dict[str, Any]:
    """Return a judgement's own fields, its words and q-value, and ours less the published value."""
    ours_less_theirs = difference_from_published(judgement.estimate, judgement.published)
    said = {
        "words": judgement.words,
        "sentence": judgement.sentence(),
        "q": q,
        "less_published": dataclasses.asdict(ours_less_theirs) if ours_less_theirs else None,
    }
    fields = judgement.to_dict() | said
    del fields["plot"]
    return fields


def write(path: Path, data: Mapping[str, Any]) -> None:
    """Write results.json, readable by any strict JSON parser; its folder is made when needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, text + "\n")
