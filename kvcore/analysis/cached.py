"""Results kept on disk under a hash of all that they depend on."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from kvcore.analysis.estimate import to_plain
from kvcore.errors import KvError
from kvcore.io import digest, file_sha256, json_digest, write_atomically

CODE = Path(__file__).parent
"""The folder whose modules are part of every key."""


def estimate_key(rows_hash: str, function: str, parameters: Mapping[str, Any]) -> str:
    """Hash all that an estimate depends on: its rows, its function, its parameters, this package.

    The order of the parameters' keys does not matter.
    """
    code = _code_hash(CODE)
    versions = [scipy.__version__, np.__version__]
    return json_digest([rows_hash, function, to_plain(parameters), code, *versions])


@functools.cache
def _code_hash(folder: Path) -> str:
    """Hash the modules of a folder by their paths in it and their bytes."""
    files = sorted(folder.rglob("*.py"))
    return digest(*(part for f in files for part in (str(f.relative_to(folder)), file_sha256(f))))


def cached_json(
    cache_dir: str | Path, key_hash: str, compute: Callable[[], Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what is stored under a key of `estimate_key`, else compute and store it.

    What is damaged is computed anew. A folder that cannot be written costs time, not the result.
    Raises KvError for a key that cannot name a file.
    """
    if not key_hash or not all(c.isascii() and (c.isalnum() or c == "-") for c in key_hash):
        raise KvError(
            f"key_hash must be letters, digits and '-', for it names a file; got {key_hash!r}, "
            "pass what estimate_key returns."
        )
    path = Path(cache_dir) / f"{key_hash}.json"
    stored = _read_checked(path, key_hash)
    if stored is not None:
        return stored
    value: dict[str, Any] = to_plain(compute())
    record = {"key": key_hash, "sha256": json_digest(value), "value": value}
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(record, allow_nan=False), flush=False)
    return value


def _read_checked(path: Path, key_hash: str) -> dict[str, Any] | None:
    """Return the stored value; None where there is none or its checksum does not fit."""
    try:
        record = json.loads(path.read_bytes())
        value: dict[str, Any] = record["value"]
        fits = record["key"] == key_hash and record["sha256"] == json_digest(value)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return value if fits else None
