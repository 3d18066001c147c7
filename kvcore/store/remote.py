"""Object stores: what lies in a bucket counts, a folder on this machine keeps what was read of it.

A store's files are named by what they hold and never change, so three operations do: list, read and
put. A file counts once it is in the bucket; the folder (a mirror) only saves reading it again, and
may be removed at any time. Nothing in the bucket is renamed or overwritten but the record of looks;
a damaged file gets a tombstone ``_<name>.damaged`` beside it, and no reader takes it from then on.

Buckets are reached through `pyarrow.fs`, whose libraries find credentials, region and endpoint as
their users are used to (environment, profiles, machine roles). What a server refuses for the moment
is asked for again a few times: all three operations may be repeated.
"""

from __future__ import annotations

import functools
import json
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import urlsplit

from pyarrow import fs

from kvcore import io
from kvcore.errors import KvError

SCHEMES = ("s3", "gs")
"""Of object stores; ``file`` and no scheme name a folder."""
MARKER = ".remote.json"
"""In a mirror: where what it mirrors lies."""
TRIES = 7
FIRST_PAUSE = 0.1
"""Seconds before the second try; doubled before each further one."""
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Remote:
    """A folder of an object store.

    - `url`: as it was given.
    - `files`: how the object store is reached.
    - `path`: of the folder in it, the bucket first.
    """

    url: str
    files: fs.FileSystem
    path: str

    def inside(self, folder: str) -> Remote:
        """Return a folder in this one, "." for itself."""
        path = str(PurePosixPath(self.path) / folder)
        return Remote(f"{self.url.split('?')[0].rstrip('/')}/{folder}", self.files, path)

    def check_bucket(self) -> None:
        """Raise FileNotFoundError where there is no such bucket, OSError where none can be told."""
        bucket = self.path.split("/")[0]
        if _again(lambda: self.files.get_file_info(bucket)).type == fs.FileType.NotFound:
            raise FileNotFoundError(f"there is no bucket {bucket!r}")

    def names(self) -> list[str]:
        """List the files, those in folders left out, by name; OSError where that fails."""
        selector = fs.FileSelector(self.path, allow_not_found=True)
        found = _again(lambda: self.files.get_file_info(selector))
        return sorted(info.base_name for info in found if info.type == fs.FileType.File)

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises FileNotFoundError for one that is not there, OSError where it cannot be read.
        """

        def read() -> bytes:
            with self.files.open_input_stream(f"{self.path}/{name}") as file:
                data: bytes = file.read()
            return data

        return _again(read)

    def put(self, name: str, data: bytes) -> None:
        """Make a file appear as a whole, or not at all; OSError where that fails."""

        def put() -> None:
            with self.files.open_output_stream(f"{self.path}/{name}") as file:
                file.write(data)

        _again(put)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there; OSError where that fails."""

        def remove() -> None:
            try:
                self.files.delete_file(f"{self.path}/{name}")
            except FileNotFoundError:
                pass

        _again(remove)


def _again(do: Callable[[], Result]) -> Result:
    """Do something that may be repeated, up to `TRIES` times where the server refuses it."""
    attempt = 1
    while True:
        try:
            return do()
        except FileNotFoundError:
            raise
        except OSError as error:
            if attempt >= TRIES or _is_final(error):
                raise
        time.sleep(FIRST_PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
        attempt += 1


def _is_final(error: OSError) -> bool:
    """Whether a server's answer will be the same the next time."""
    return any(sign in str(error) for sign in ("ACCESS_DENIED", "NoSuchBucket", "InvalidAccessKey"))


# --- mirrors -------------------------------------------------------------------------------------


def open_store(text: str, base: Path) -> Path:
    """Return the folder through which a store is reached, as its user names it.

    Parameters
    ----------
    text : str
        A folder, or a URL: ``file:///folder``, ``s3://bucket/folder``, ``gs://bucket/folder``.
        ``endpoint_override``, ``scheme`` and ``region`` may follow as a query, as pyarrow has them.
    base : Path
        What relative folders are in.

    Returns
    -------
    Path
        The folder itself, or the mirror of the object store.

    Raises
    ------
    KvError
        For an unknown scheme, credentials in the URL, and a bucket that cannot be listed.
    """
    scheme, separator, _ = text.partition(":/")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return base / text
    if scheme == "file":
        return Path(urlsplit(text).path)
    if scheme not in SCHEMES:
        raise KvError(
            f"--kv-store {text!r}: no store has the scheme {scheme!r}; pass a folder, or file://, "
            f"{' or '.join(f'{name}://bucket/folder' for name in SCHEMES)}."
        )
    parts = urlsplit(text)
    if not parts.netloc or not text.startswith(f"{scheme}://"):
        raise KvError(f"--kv-store {text!r}: name a bucket, as in {scheme}://bucket/folder.")
    if "@" in parts.netloc:
        raise KvError(
            f"--kv-store {scheme}://…@{parts.hostname}: leave out the credentials; they are taken "
            "from the environment, a profile or the machine's role."
        )
    mirror = io.cache_folder() / "stores" / io.digest(text)[:24]
    mirror.mkdir(parents=True, exist_ok=True)
    io.write_atomically(mirror / MARKER, json.dumps({"url": text}))
    remote = _remote(text)
    try:
        remote.check_bucket()
        remote.names()
    except OSError as error:
        reason = " ".join(str(error).split())[:300]
        raise KvError(
            f"--kv-store {text!r}: its files cannot be listed ({reason}); check "
            "bucket, credentials and region."
        ) from error
    return mirror


def remote_of(folder: Path) -> Remote | None:
    """Return what a folder mirrors, None for a folder that is the store itself."""
    for parent in (folder, *folder.parents[:2]):  # rows of other kinds lie in folders of their own
        url = _url_of(parent)
        if url is not None:
            remote = _remote(url)
            return remote if parent == folder else remote.inside(str(folder.relative_to(parent)))
    return None


def shown(folder: Path) -> str:
    """Return a store's folder as its user knows it: of a mirror what it mirrors."""
    remote = remote_of(folder)
    return str(folder) if remote is None else remote.url.split("?")[0]


def short_name(folder: Path) -> str:
    """Return a store's name without what it lies in; of an object store its URL."""
    return folder.name if remote_of(folder) is None else shown(folder)


def _url_of(folder: Path) -> str | None:
    """Return the URL that a mirror's marker names."""
    if "stores" not in folder.parts:  # most folders are no mirror: the disk is not asked
        return None
    return _read_marker(folder)


@functools.cache
def _read_marker(folder: Path) -> str | None:
    try:
        content = json.loads((folder / MARKER).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return str(content["url"])


@functools.cache
def _remote(url: str) -> Remote:
    try:
        files, path = fs.FileSystem.from_uri(url)
    except (OSError, ValueError) as error:  # a region that cannot be found, an unknown query
        reason = " ".join(str(error).split())
        raise KvError(f"--kv-store {url!r}: {reason}; check the URL and its query.") from error
    return Remote(url, files, path.rstrip("/"))
