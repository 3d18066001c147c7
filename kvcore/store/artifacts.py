"""Files of what a model wrote, kept beside the store so that each text is written once.

They lie in one folder as ``<stem>-<pid>-<hash>.jsonl``, one text a line, the hash that of the
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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvcore.errors import StoreWarning
from kvcore.io import digest, disk_errors, exclusive_lock, write_atomically

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
        What names one text in them.
    value : str
        What the text itself is called.
    defaults : mapping of str to str
        Parts of the key that older files do not name.
    """

    stem: str
    key: tuple[str, ...]
    value: str
    defaults: Mapping[str, str] = field(default_factory=dict)


def save(folder: Path, kind: ArtifactKind, texts: Mapping[Key, Any], code: str = "") -> None:
    """Store texts, which JSON must be able to hold, as one new file or not at all.

    Parameters
    ----------
    code : str
        Hash of the code that wrote them: provenance, no part of their key.

    Raises
    ------
    KvError
        Where the folder cannot be written.
    """
    record = {"code": code, "time": time.time(), "id": uuid.uuid4().hex}  # no two files are equal
    lines = [
        json.dumps({**dict(zip(kind.key, key, strict=True)), kind.value: text, **record})
        for key, text in texts.items()
    ]
    data = "".join(f"{line}\n" for line in lines).encode("ascii")
    with disk_errors(folder, f"write {len(texts)} {kind.stem}"):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{kind.stem}-{os.getpid()}-{_fingerprint(data)}.jsonl"
        write_atomically(path, data)


def read(folder: Path, kind: ArtifactKind) -> dict[Key, Any]:
    """Read all texts of a kind; of two for one key, the earlier written one counts for everybody.

    Warns
    -----
    StoreWarning
        For each damaged file.
    """
    with disk_errors(folder, "list its files"):
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
    rows = [row for path in paths if _name(path, kind.stem) for row in read_file(path)]
    texts: dict[Key, Any] = {}
    for row in sorted(rows, key=lambda row: (row["time"], row["id"])):
        parts = {**kind.defaults, **row}
        texts.setdefault(tuple(parts[name] for name in kind.key), row[kind.value])
    return texts


def read_file(path: Path) -> list[Row]:
    """Return a file's rows; none of a damaged one, which is set aside."""
    with disk_errors(path.parent, f"read {path.name}"):
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # another process has just set it aside
            return []
    name = _name(path, "[a-z]+")
    if name and name[1] == _fingerprint(data):
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
    with contextlib.ExitStack() as stack:
        with disk_errors(folder, "claim its files"):
            lock = folder / ".claims" / f"{digest(*setting)[:32]}.lock"
            stack.enter_context(exclusive_lock(lock))
        yield


def _name(path: Path, stem: str) -> re.Match[str] | None:
    return re.fullmatch(rf"{stem}-\d+-([0-9a-f]{{32}})\.jsonl", path.name)


def _fingerprint(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
