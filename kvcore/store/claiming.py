"""Who works on what: a name in a store is claimed by one process at a time.

On a file system whose locks exclude, a claim is a lock in ``.claims/`` that the operating system
drops with its process. Object stores have no locks, and those of some file systems do nothing:
there a claim is a file, ``.claims/<name>@<process>``. Each process first writes its own, then
looks whether another one's is there, and withdraws if so. Of two that begin at once, the one that
looks last sees the other's, whatever the order: no two go on. Both may withdraw; they come again.

A process that died leaves its file. Every process writes a number into ``.claims/alive@<process>``,
a higher one every `BEAT_SECONDS`; whoever sees it stand still for `LEASE_SECONDS` on their own
clock, or knows from the same machine that the process is gone, takes the claim away. One that only
slept finds that its claim is gone before it stores what it measured (`is_held`).
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import functools
import itertools
import os
import platform
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from kvcore import io
from kvcore.errors import StoreWarning
from kvcore.store.remote import remote_of

FOLDER = ".claims"
BEAT_SECONDS = 10.0
LEASE_SECONDS = 90.0
POLL_SECONDS = 0.2
SHOWN_SECONDS = 30.0
"""How long a file that was written may take to show in the list of files."""
_ALIVE = "alive"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def claim(root: Path, name: str) -> Iterator[bool]:
    """Claim a name of a store's folder, if no other process has it, and say whether we have.

    Warns StoreWarning once for a file system whose locks do not work.
    """
    leases = leases_of(root)
    if leases is not None:
        with leases.taken(name) as taken:
            yield taken
        return
    lock = FileLock(root / FOLDER / f"{name}.lock")
    with contextlib.suppress(Timeout):
        lock.acquire(blocking=False)
    try:
        yield lock.is_locked
    finally:
        lock.release()


@contextlib.contextmanager
def exclusive(root: Path, name: str) -> Iterator[None]:
    """Wait until no other process has a name of a store's folder, and have it."""
    if leases_of(root) is None:
        with io.exclusive_lock(root / FOLDER / f"{name}.lock"):
            yield
        return
    while True:
        with claim(root, name) as claimed:
            if claimed:
                yield
                return
        time.sleep(POLL_SECONDS)


def is_held(root: Path, name: str) -> bool:
    """Whether what this process has claimed is still its own."""
    leases = leases_of(root)
    return leases is None or leases.is_mine(name)


def leases_of(root: Path) -> Leases | None:
    """Return how names of a folder are claimed by files, None where locks do it.

    Raises OSError where the folder cannot be written.
    """
    return _leases_of(root)


_KNOWN: list[Leases] = []


@functools.cache
def _leases_of(root: Path) -> Leases | None:
    remote = remote_of(root)
    if remote is not None:
        _KNOWN.append(Leases(remote.inside(FOLDER)))
        return _KNOWN[-1]
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    reason = why_no_locks(folder)
    if reason is None:
        return None
    warnings.warn(
        f"store {root}: its file system has no locks that exclude ({reason}); shards are claimed "
        f"by files, and one that a killed process held is free after {LEASE_SECONDS:.0f} s.",
        StoreWarning,
        stacklevel=5,
    )
    _KNOWN.append(Leases(Folder(folder)))
    return _KNOWN[-1]


def end_all() -> None:
    """Let no claim by files of this process beat any more, and forget which folders have locks."""
    while _KNOWN:
        _KNOWN.pop().end()
    _leases_of.cache_clear()


def why_no_locks(folder: Path) -> str | None:
    """Return why locks in a folder exclude nobody, None where they do.

    Raises OSError where the folder cannot be written.
    """
    path = folder / f"probe-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    first, second = (os.open(path, os.O_RDWR | os.O_CREAT, 0o666) for _ in range(2))
    try:
        lock_at_once(first)
        try:
            lock_at_once(second)
        except BlockingIOError:
            return None
        return "two hold one lock"
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return str(error.strerror)
        raise
    finally:
        os.close(first)
        os.close(second)
        path.unlink(missing_ok=True)


@functools.cache
def machine() -> str:
    """Return what tells the processes of this machine, or container, from those of others."""
    parts = [platform.node()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with contextlib.suppress(OSError):
            file = Path(path)
            parts.append(os.readlink(file) if file.is_symlink() else file.read_text())
    return io.digest(*parts)[:12]


def lock_at_once(descriptor: int) -> None:
    """Lock an open file; BlockingIOError where another one holds it, OSError where that fails."""
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Medium(Protocol):
    """Where claims lie: whoever lists after a put sees it."""

    def names(self) -> list[str]:
        """List the files."""

    def read(self, name: str) -> bytes:
        """Return a file's bytes; FileNotFoundError for one that is not there."""

    def put(self, name: str, data: bytes) -> None:
        """Make a file appear, or replace it."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""


@dataclass(frozen=True)
class Folder:
    """A folder of a file system as a `Medium`."""

    path: Path

    def names(self) -> list[str]:
        """List the files."""
        return sorted(os.listdir(self.path))

    def read(self, name: str) -> bytes:
        """Return a file's bytes; FileNotFoundError for one that is not there."""
        return (self.path / name).read_bytes()

    def put(self, name: str, data: bytes) -> None:
        """Make a file appear, or replace it."""
        io.write_atomically(self.path / name, data, flush=False)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.path / name).unlink(missing_ok=True)


@dataclass(eq=False)
class Leases:
    """Claims by files, as one process makes them."""

    medium: Medium
    own: str = field(default_factory=lambda: f"{machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    _seen: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    _held: set[str] = field(default_factory=set)
    _beats: Iterator[int] = field(default_factory=itertools.count)
    _stop: threading.Event = field(default_factory=threading.Event)
    _heart: threading.Thread | None = None

    @contextlib.contextmanager
    def taken(self, name: str) -> Iterator[bool]:
        """Take a name, if no process that is alive has it, and say whether it is taken."""
        taken = self._take(name)
        try:
            yield taken
        finally:
            if taken:
                self._held.discard(name)
                self.medium.remove(self._file(name))

    def is_mine(self, name: str) -> bool:
        """Whether a name that was taken has not been taken away since."""
        return self._file(name) in self.medium.names()

    def _take(self, name: str) -> bool:
        if name in self._held or self._others(name, self.medium.names()):
            return False
        self._begin_to_beat()
        if self._others(name, self._names_with_own(name)):
            self.medium.remove(self._file(name))
            return False
        self._held.add(name)
        return True

    def _names_with_own(self, name: str) -> list[str]:
        """Write the own claim, and list the files once it shows.

        Raises OSError where it does not, time and again: no claim would ever be seen.
        """
        end = time.monotonic() + SHOWN_SECONDS
        while True:
            self.medium.put(self._file(name), b"")
            listed = self.medium.names()
            if self._file(name) in listed:
                return listed
            if time.monotonic() >= end:
                raise OSError(
                    f"what is written there without error does not show in its list of files "
                    f"after {SHOWN_SECONDS:.0f} s"
                )
            time.sleep(POLL_SECONDS)

    def _others(self, name: str, listed: Sequence[str]) -> bool:
        """Whether another process that is alive has a name; claims of the dead are removed."""
        held = False
        for file in listed:
            claimed, _, process = file.rpartition("@")
            if claimed == name and process != self.own:
                if self._is_dead(process):
                    self.medium.remove(file)
                else:
                    held = True
        return held

    def _file(self, name: str) -> str:
        return f"{name}@{self.own}"

    def _is_dead(self, process: str) -> bool:
        where, number, _ = process.split("-")
        if where == machine() and not _runs(int(number)):
            return True
        try:
            beat = self.medium.read(f"{_ALIVE}@{process}")
        except FileNotFoundError:
            beat = b""
        now = time.monotonic()
        last, since = self._seen.get(process, (None, now))
        if beat != last:
            since = now
        self._seen[process] = beat, since
        return now - since > LEASE_SECONDS

    def _begin_to_beat(self) -> None:
        if self._heart is None:
            self._beat()
            self._heart = threading.Thread(target=self._go_on_beating, daemon=True)
            self._heart.start()
            atexit.register(self.end)

    def _beat(self) -> None:
        self.medium.put(f"{_ALIVE}@{self.own}", str(next(self._beats)).encode())

    def _go_on_beating(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):  # the next one may get through
                self._beat()

    def end(self) -> None:
        """Beat no more."""
        self._stop.set()
        if self._heart is not None:
            self._heart.join()
            self._heart = None
            with contextlib.suppress(OSError):
                self.medium.remove(f"{_ALIVE}@{self.own}")


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True
