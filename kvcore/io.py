"""Files and hashes: everything is written as a whole or not at all, and named by what it holds."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock

from kvcore.errors import KvError

TEMPORARY = ".tmp-"
"""How the names of files begin that are being written, or that a killed process left behind."""


def cache_folder() -> Path:
    """Return the project's own cache folder (``KVCORE_CACHE``, else the platform's)."""
    return Path(os.environ.get("KVCORE_CACHE") or platformdirs.user_cache_dir("kvcore"))


# --- hashes ------------------------------------------------------------------------------------


def digest(*parts: str) -> str:
    """Hash texts in sequence; the length before each keeps ("ab", "c") and ("a", "bc") apart.

    Returns
    -------
    str
        64 lower-case hex digits (SHA-256). Lone surrogates are hashed as they stand.
    """
    hashed = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hashed.update(len(data).to_bytes(8, "big") + data)
    return hashed.hexdigest()


def json_digest(value: Any) -> str:
    """Hash a value that strict JSON can hold; the order of a mapping's keys does not count.

    Returns
    -------
    str
        64 lower-case hex digits (SHA-256).
    """
    spelled = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(spelled.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, 64 lower-case hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- files -------------------------------------------------------------------------------------


def write_atomically(path: Path, data: bytes | str, *, flush: bool = True) -> None:
    """Make a file appear under its name as a whole, or not at all; one that is there is replaced.

    Parameters
    ----------
    path : Path
        Its folder must exist.
    data : bytes or str
        A text is written as UTF-8.
    flush : bool
        Wait until the bytes are on the disk, so that not even a power failure leaves half of them.

    Raises
    ------
    OSError
        Where the folder cannot be written or the disk is full; nothing is left behind then.
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    handle, name = tempfile.mkstemp(prefix=TEMPORARY, suffix=f"-{path.name}", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            if flush:
                file.flush()
                os.fsync(file.fileno())
        # mkstemp's files are private to their owner; this one is readable as the umask allows
        temporary.chmod(0o666 & ~_umask())
        _rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if flush:
        _flush_folder(path.parent)


def _rename(temporary: Path, path: Path) -> None:
    try:
        os.replace(temporary, path)
    except FileNotFoundError:
        if not path.exists():  # over NFS a rename that was repeated reports failure, yet happened
            raise


def _flush_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some network file systems refuse to sync a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Wait until no other process holds this lock file; it is freed with the process that dies.

    Parameters
    ----------
    path : Path
        The lock file; its folder is made where it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path):
        yield


@contextlib.contextmanager
def disk_errors(root: Path | str, doing: str) -> Iterator[None]:
    """Turn any error of the file system into one line that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "free some space and run again"
        else:
            advice = "check the folder or choose another one"
        raise KvError(
            f"store {root}: cannot {doing}: {error.strerror or error}; {advice}. "
            "What was stored before is intact."
        ) from error
