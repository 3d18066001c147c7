"""Files of what a model wrote, kept beside the store so that each thing is written once.

They lie in one folder as ``<stem>-<pid>-<hash>.jsonl``, one thing a line, the hash that of the
file's bytes. A file appears as a whole or not at all, and nothing is changed in place; a damaged
one is set aside as ``_<name>.damaged``, and what it held is written again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from kvcore.errors import StoreWarning
from kvcore.io import digest, disk_errors, write_atomically

FOLDER = "_written"  # in the store's; the underscore keeps readers of Parquet folders out of it
Key = tuple[str, ...]
Row = dict[str, Any]


@dataclass(frozen=True)
class ArtifactKind:
    """Which files hold what.

    Parameters
    ----------
    stem : str
        How their names begin, letters only.
    key : tuple of str
        What names one thing in them.
    value : str
        What the thing itself is called.
    """

    stem: str
    key: tuple[str, ...]
    value: str


def save(folder: Path, kind: ArtifactKind, things: Mapping[Key, Any]) -> None:
    """Store things, which JSON must be able to hold, as one new file or not at all.

    Raises
    ------
    KvError
        Where the folder cannot be written.
    """
    record = {"time": time.time(), "id": uuid.uuid4().hex}  # no two files are the same
    lines = [
        json.dumps({**dict(zip(kind.key, key, strict=True)), kind.value: thing, **record})
        for key, thing in things.items()
    ]
    data = "".join(f"{line}\n" for line in lines).encode("ascii")
    with disk_errors(folder, f"write {len(things)} {kind.stem}"):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{kind.stem}-{os.getpid()}-{_fingerprint(data)}.jsonl"
        write_atomically(path, data)


def read(
    folder: Path, kind: ArtifactKind, rows_of: Callable[[Path], list[Row]] | None = None
) -> dict[Key, Any]:
    """Read all things of a kind; of two for one key, the earlier written one counts for everybody.

    Parameters
    ----------
    rows_of : callable, optional
        Reads one file; `rows` by default.

    Warns
    -----
    StoreWarning
        For each damaged file.
    """
    with disk_errors(folder, "list its files"):
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
    one = rows_of or rows
    found = [row for path in paths if _name(path, kind.stem) for row in one(path)]
    things: dict[Key, Any] = {}
    for row in sorted(found, key=lambda row: (row["time"], row["id"])):
        things.setdefault(tuple(row[name] for name in kind.key), row[kind.value])
    return things


def rows(path: Path) -> list[Row]:
    """Return a file's rows; none of a damaged one, which is set aside."""
    with disk_errors(path.parent, f"read {path.name}"):
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # another process has just set it aside
            return []
    named = _name(path, "[a-z]+")
    if named and named[1] == _fingerprint(data):
        return [json.loads(line) for line in data.splitlines()]
    with contextlib.suppress(OSError):
        os.replace(path, path.with_name(f"_{path.name}.damaged"))
    warnings.warn(
        f"store {path.parent}: {path.name} is damaged (its {len(data)} bytes are not "
        "those written); what it held counts as missing.",
        StoreWarning,
        stacklevel=6,
    )
    return []


@contextlib.contextmanager
def exclusive(folder: Path, *setting: str) -> Iterator[None]:
    """Wait until no other process writes under this setting; its lock dies with it."""
    claims = folder / ".claims"
    lock = FileLock(claims / f"{digest(*setting)[:32]}.lock")
    with disk_errors(folder, "claim its files"):
        claims.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _name(path: Path, stem: str) -> re.Match[str] | None:
    return re.fullmatch(rf"{stem}-\d+-([0-9a-f]{{32}})\.jsonl", path.name)


def _fingerprint(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
