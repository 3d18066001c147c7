"""Files of what a model wrote, kept beside the store so that each text is written once.

They lie in one folder as ``<stem>-<pid>-<hash>.jsonl``, one text a line, the hash that of the
file's bytes. A file appears as a whole or not at all, and nothing is changed in place; a damaged
one is set aside as ``_<name>.damaged``, and what it held is written again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvcore import progress
from kvcore.errors import StoreWarning
from kvcore.io import digest, disk_errors
from kvcore.store import claiming
from kvcore.store import folder as store_folder
from kvcore.store.artifact_names import fingerprint
from kvcore.store.remote import shown

FOLDER = "_written"  # in the store's; the underscore keeps readers of Parquet folders out of it
NAME = re.compile(r"[a-z]+-\d+-([0-9a-f]{32})\.jsonl")
"""Of its files, whatever they hold."""
COMPARED_TEXTS = 3
Key = tuple[str, ...]
Row = dict[str, Any]


@dataclass(frozen=True)
class ArtifactKind:
    """Which files hold what.

    - `stem`: how their names begin, letters only.
    - `key`: what names one text in them.
    - `value`: what the text itself is called.
    - `defaults`: parts of the key that older files do not name.
    """

    stem: str
    key: tuple[str, ...]
    value: str
    defaults: Mapping[str, str] = field(default_factory=dict)


def save(folder: Path, kind: ArtifactKind, texts: Mapping[Key, Any], code: str = "") -> None:
    """Store texts, which JSON must be able to hold, as one new file or not at all.

    `code`: hash of the code that wrote them: provenance, no part of their key.

    Raises KvError where the folder cannot be written.
    """
    record = {"code": code, "time": time.time(), "id": uuid.uuid4().hex}  # no two files are equal
    lines = [
        json.dumps({**dict(zip(kind.key, key, strict=True)), kind.value: text, **record})
        for key, text in texts.items()
    ]
    data = "".join(f"{line}\n" for line in lines).encode("ascii")
    with disk_errors(shown(folder), f"write {len(texts)} {kind.stem}"):
        store_folder.put(folder / f"{kind.stem}-{os.getpid()}-{fingerprint(data)}.jsonl", data)


def obtain(
    folder: Path,
    kind: ArtifactKind,
    keys: Sequence[Key],
    write: Callable[[Sequence[int]], Sequence[Any]],
    *,
    code: str,
    setting: Sequence[str],
    per_file: int,
) -> list[Any]:
    """Return the texts of some keys; what is missing is written, and each text once.

    Texts that other code wrote count if `COMPARED_TEXTS` of them, written again, are the same.

    Raises KvError where the folder cannot be read or written.
    Warns StoreWarning for each damaged file, and where other code wrote other texts.

    Parameters
    ----------
    keys : sequence of Key
        Of texts that one model writes in one way.
    write : callable
        Takes indices into ``keys`` and returns a text for each.
    code : str
        Hash of the code that writes.
    setting : sequence of str
        The part of the key that they share: of several processes that want it one writes.
    per_file : int
        Texts that are written and stored together. Files are divided by all keys, present or not,
        so that a run that resumes forms the batches of one that was never interrupted.
    """
    texts = usable_texts(folder, kind, keys, code)
    if len(texts) == len(keys):
        return [texts[key] for key in keys]

    def write_and_save(indices: Sequence[int]) -> None:
        if indices:
            written = zip((keys[i] for i in indices), write(indices), strict=True)
            save(folder, kind, dict(written), code)

    with exclusive(folder, *setting):
        by_code = _by_code(folder, kind, keys)
        own = by_code.pop(code, {})
        missing = {keys.index(key) for other in by_code.values() for key in _drawn(other)
                   if not set(other) <= set(own) and key not in own}  # fmt: skip
        write_and_save(sorted(missing))
        texts = usable_texts(folder, kind, keys, code, warn=True)
        absent = sum(key not in texts for key in keys)
        with progress.task(f"writing {kind.stem}", absent, kind.stem) as task:
            for start in range(0, len(keys), per_file):
                block = range(start, min(start + per_file, len(keys)))
                lacking = [i for i in block if keys[i] not in texts]
                with task.part(len(lacking)):
                    write_and_save(lacking)
    texts = usable_texts(folder, kind, keys, code)
    return [texts[key] for key in keys]


def usable_texts(
    folder: Path, kind: ArtifactKind, keys: Sequence[Key], code: str, *, warn: bool = False
) -> dict[Key, Any]:
    """Return the texts that a code wrote, or other code whose texts it was seen to write too."""
    by_code = _by_code(folder, kind, keys)
    own = by_code.get(code, {})
    usable: dict[Key, Any] = {}
    for other, texts in by_code.items():
        drawn = _drawn(texts)
        same = all(key in own and own[key] == texts[key] for key in drawn)
        if other == code or same:
            usable = texts | usable
        elif warn and not set(texts) <= set(own):
            warnings.warn(
                f"store {shown(folder)}: {kind.stem} written again differ from those that code "
                f"{other or 'unknown'} wrote; all {len(texts)} are written anew.",
                StoreWarning,
                stacklevel=4,
            )
    return usable


def _drawn(texts: Mapping[Key, Any]) -> list[Key]:
    return sorted(texts, key=lambda key: digest("compare", *key))[:COMPARED_TEXTS]


def _by_code(folder: Path, kind: ArtifactKind, keys: Sequence[Key]) -> dict[str, dict[Key, Any]]:
    """Return the texts of some keys by the code that wrote them, the earliest code first.

    Of two for one key by one code, the earlier written one counts for everybody.
    """
    with disk_errors(shown(folder), "list its files"):
        paths = store_folder.paths(folder, _pattern(kind.stem))
    rows = [row for path in paths for row in read_file(path)]
    wanted = set(keys)
    by_code: dict[str, dict[Key, Any]] = {}
    for row in sorted(rows, key=lambda row: (row["time"], row["id"])):
        parts = {**kind.defaults, **row}
        key = tuple(parts[name] for name in kind.key)
        if key in wanted:
            by_code.setdefault(row["code"], {}).setdefault(key, row[kind.value])
    return by_code


def read_file(path: Path) -> list[Row]:
    """Return a file's rows; none of a damaged one, which is set aside."""
    with disk_errors(shown(path.parent), f"read {path.name}"):
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # another process has just set it aside
            return []
    name = NAME.fullmatch(path.name)
    if name and name[1] == fingerprint(data):
        return [json.loads(line) for line in data.splitlines()]
    with contextlib.suppress(OSError):
        if store_folder.set_aside(path) is None and path.exists():  # whole where it is mirrored
            return read_file(path)
    warnings.warn(
        f"store {shown(path.parent)}: {path.name} is damaged (its {len(data)} bytes are not "
        "those written); what it held counts as missing.",
        StoreWarning,
        stacklevel=6,
    )
    return []


@contextlib.contextmanager
def exclusive(folder: Path, *setting: str) -> Iterator[None]:
    """Wait until no other process writes under this setting; its lock dies with it."""
    with contextlib.ExitStack() as stack:
        with disk_errors(shown(folder), "claim its files"):
            stack.enter_context(claiming.exclusive(folder, digest(*setting)[:32]))
        yield


def _pattern(stem: str) -> re.Pattern[str]:
    return re.compile(rf"{stem}-\d+-([0-9a-f]{{32}})\.jsonl")
