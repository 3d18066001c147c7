"""What is done with a store's files, alike for a folder and for the mirror of an object store."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from kvcore import io
from kvcore.store import remote
from kvcore.store.artifact_names import holds_what_it_says

DAMAGED = re.compile(r"_(.+)\.damaged")


def names(folder: Path) -> list[str]:
    """List the names of a folder's files, those set aside left out; none where there is no folder.

    Raises OSError where the folder cannot be listed.
    """
    there = remote.remote_of(folder)
    if there is not None:
        return without_damaged(there.names())
    try:
        return without_damaged(sorted(os.listdir(folder)))
    except FileNotFoundError:
        return []


def without_damaged(found: Iterable[str]) -> list[str]:
    """Leave out the names of files that have a tombstone."""
    listed = list(found)
    aside = {match[1] for name in listed if (match := DAMAGED.fullmatch(name))}
    return [name for name in listed if name not in aside]


def paths(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Return the files whose whole name fits a pattern, by name; each lies on this machine.

    Raises OSError where the folder cannot be listed or a file not be fetched.
    """
    found = [folder / name for name in names(folder) if pattern.fullmatch(name)]
    there = remote.remote_of(folder)
    if there is None:
        return found
    return [path for path in found if path.exists() or fetch(path)]


def fetch(path: Path) -> bool:
    """Bring a file of an object store into its mirror; say whether it was there.

    Raises OSError where it cannot be read.
    """
    there = remote.remote_of(path.parent)
    if there is None:
        return path.exists()
    try:
        data = there.read(path.name)
        if not holds_what_it_says(path.name, data):  # once more: a transfer may have been cut
            data = there.read(path.name)
    except FileNotFoundError:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    io.write_atomically(path, data, flush=False)
    return True


def put(path: Path, data: bytes | str) -> None:
    """Make a file appear as a whole, or not at all, in the folder or in what it mirrors.

    Raises OSError where that fails.
    """
    there = remote.remote_of(path.parent)
    if there is not None:  # there first: what is in the mirror alone counts for nothing
        there.put(path.name, data.encode("utf-8") if isinstance(data, str) else data)
    path.parent.mkdir(parents=True, exist_ok=True)
    io.write_atomically(path, data, flush=there is None)


def read_newest(path: Path) -> bytes | None:
    """Return the bytes of a file that may have been replaced, None for one that is not there.

    Raises OSError where it cannot be read.
    """
    there = remote.remote_of(path.parent)
    try:
        return path.read_bytes() if there is None else there.read(path.name)
    except FileNotFoundError:
        return None


def set_aside(path: Path) -> str | None:
    """Take a damaged file out of all readers' sight, and say what became of it.

    Returns
    -------
    str or None
        None where there is nothing to warn of: another process was first, or the damage was in the
        mirror alone and the file is whole again.
    """
    there = remote.remote_of(path.parent)
    aside = path.with_name(f"_{path.name}.damaged")
    if there is not None:
        path.unlink(missing_ok=True)
        if not fetch(path) or holds_what_it_says(path.name, path.read_bytes()):
            return None
    try:
        if there is not None:
            there.put(aside.name, b"")
        os.replace(path, aside)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"could not be set aside ({error.strerror or error})"
    return f"set aside as {aside.name}"
