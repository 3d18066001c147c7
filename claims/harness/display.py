"""How far a run is, where its user looks: one line that is rewritten, or now and then a plain one.

pytest captures what tests and fixtures write, so the display writes to a copy of the stream of
errors that is made before anything is captured. At a terminal one line is drawn anew after every
batch; off one (a log file, a pipe) a plain line comes at the beginning, every 30 seconds and at the
end of what took longer. A worker of pytest-xdist writes its progress to a file of its own in a
folder that the process which started it watches; that one alone shows anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import pytest
from tqdm import tqdm

from kvcore import progress
from kvcore.io import write_atomically
from kvcore.progress import Listener, Progress

LOG_SECONDS = 30.0
"""Seconds between two lines of a log."""
DRAW_SECONDS = 0.1
WATCH_SECONDS = 1.0
FOLDER = "kv_progress"
"""Under which name a worker is told the folder that is watched."""
_CLEAR = "\r\x1b[2K"
_WIDEST = 100


def drawn(told: Progress, columns: int) -> str:
    """Return progress as one line of at most so many columns, with a bar where there is room."""
    line: str = tqdm.format_meter(
        told.done,
        told.total,
        told.seconds,
        ncols=min(columns - 1, _WIDEST),
        prefix=told.label,
        unit=told.unit.removesuffix("s"),
    )
    return line[: columns - 1]


def in_words(told: Progress) -> str:
    """Return progress as a line of a log."""
    share = told.done / told.total if told.total else 1.0
    line = f"{told.label}: {told.done:,} of {told.total:,} {told.unit} ({share:.0%})"
    if told.ended:
        return f"{line}, took {progress.duration(told.seconds)}"
    if told.seconds_left is None:
        return f"{line}, {'not ended yet' if told.done else 'begun'}"
    return f"{line}, {told.rate:.3g} a second, {progress.duration(told.seconds_left)} left"


@dataclass
class Display:
    """Shows progress on a stream.

    - `stream`: where it is written; not what is captured.
    - `terminal`: whether a line can be rewritten there.
    - `on_new_line`: called before the first line, where the cursor may stand behind other text.
    - `clock`: seconds, as `time.monotonic` gives them.
    """

    stream: TextIO
    terminal: bool
    on_new_line: Callable[[], None] = lambda: None
    clock: Callable[[], float] = time.monotonic
    _last: float | None = None
    _open: bool = False

    def __call__(self, told: Progress) -> None:
        """Show progress, if it is time to."""
        (self._draw if self.terminal else self._log)(told)

    def say(self, line: str) -> None:
        """Show a line that stays; progress goes on below it."""
        if self._open and self.terminal:
            self._write(_CLEAR)
        elif not self._open:
            self.on_new_line()
        self._write(f"{line}\n")
        self._open = self._open and not self.terminal

    def _draw(self, told: Progress) -> None:
        now = self.clock()
        if told.ended:
            if self._open:
                self._write(_CLEAR)
            self._open, self._last = False, None
            return
        if self._last is not None and now - self._last < DRAW_SECONDS:
            return
        if not self._open:
            self.on_new_line()
        columns = shutil.get_terminal_size().columns
        self._write(f"{_CLEAR}{drawn(told, columns)}")
        self._open, self._last = True, now

    def _log(self, told: Progress) -> None:
        now = self.clock()
        first = self._last is None and not told.ended
        if told.ended:
            due = told.seconds >= LOG_SECONDS
            self._last = None
        else:
            due = first or now - (self._last or 0.0) >= LOG_SECONDS
        if not due:
            return
        if not self._open:
            self.on_new_line()
        self._write(f"{in_words(told)}\n")
        self._open = not told.ended
        self._last = None if told.ended else now

    def close(self) -> None:
        """Let go of the stream, unless it is the process's own."""
        if self.stream is not sys.stderr:
            with contextlib.suppress(OSError):
                self.stream.close()

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a terminal that went away ends no run
            self.stream.write(text)
            self.stream.flush()


# --- several processes ---------------------------------------------------------------------------


@dataclass
class FileListener:
    """Writes progress to a file that another process reads, at most once a second."""

    path: Path
    clock: Callable[[], float] = time.monotonic
    _last: float | None = None

    def __call__(self, told: Progress) -> None:
        """Write progress, if it is time to; at its end, the end."""
        now = self.clock()
        if told.ended or self._last is None or now - self._last >= WATCH_SECONDS:
            self._last = None if told.ended else now
            with contextlib.suppress(OSError):
                write_atomically(self.path, json.dumps(asdict(told)), flush=False)


def joined(parts: Iterable[Progress]) -> Progress | None:
    """Return the progress of several processes as one; None where none is at work.

    Those that measure one cell divide its rows between them, and each counts what others did too,
    so of one label the one that is farthest counts, not the sum.
    """
    at_work: dict[str, Progress] = {}
    for part in parts:
        if not part.ended and part.done >= at_work.get(part.label, part).done:
            at_work[part.label] = part
    if not at_work:
        return None
    several = list(at_work.values())
    label = several[0].label if len(several) == 1 else f"{len(several)} cells"
    return Progress(
        label,
        several[0].unit,
        sum(part.done for part in several),
        sum(part.total for part in several),
        max(part.seconds for part in several),
    )


@dataclass
class Watcher:
    """Shows what workers write in a folder, from a thread of its own."""

    folder: Path
    display: Display
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _shown: Progress | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._thread = threading.Thread(target=self._run, name="kv-progress", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer; the line is cleared."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._end()

    def look(self) -> None:
        """Show what the workers have written so far."""
        told = joined(read_progress(self.folder))
        if told is None:
            self._end()
        else:
            self._shown = told
            self.display(told)

    def _run(self) -> None:
        while not self._stop.wait(WATCH_SECONDS):
            self.look()

    def _end(self) -> None:
        if self._shown is not None:
            ended = asdict(self._shown) | {"ended": True}
            self.display(Progress(**ended))
            self._shown = None


def read_progress(folder: Path) -> list[Progress]:
    """Return what workers have written in a folder; a file that is no progress is left out."""
    found = []
    for path in sorted(folder.glob("gw*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            found.append(Progress(**json.loads(path.read_text(encoding="utf-8"))))
    return found


# --- in a session of pytest ----------------------------------------------------------------------


def real_errors_stream() -> TextIO:
    """Return a copy of the stream of errors that no capture of pytest will take away."""
    try:
        number = os.dup(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):  # a stream in memory: nothing to copy
        return sys.stderr
    return os.fdopen(number, "w", encoding="utf-8", errors="replace", closefd=True)


def display_of(config: pytest.Config) -> Display:
    """Return the display of a session, to be made before anything is captured."""
    stream = real_errors_stream()

    def on_new_line() -> None:
        terminal: Any = config.pluginmanager.get_plugin("terminalreporter")
        capture: Any = config.pluginmanager.get_plugin("capturemanager")
        if terminal is None:
            return
        suspended = capture.global_and_fixture_disabled() if capture else contextlib.nullcontext()
        with suspended:
            terminal.ensure_newline()
            terminal.flush()

    return Display(stream, stream.isatty(), on_new_line)


def _nobody(_told: Progress) -> None:
    """Show nothing."""


@contextlib.contextmanager
def shown(
    config: pytest.Config, telling: Callable[[Listener], Listener]
) -> Iterator[Mapping[str, str]]:
    """Show the progress of a session: its own, or that of its workers.

    Yields what each worker is to be told; nothing but a worker takes it.

    `telling`: what listens beside the display: takes the display, returns what is told.
    """
    told = vars(config).get("workerinput")
    if told is not None:
        file = Path(told.get(FOLDER, tempfile.gettempdir())) / f"{told['workerid']}.json"
        with progress.listening(telling(FileListener(file) if FOLDER in told else _nobody)):
            yield {}
        return
    display = display_of(config)
    config.add_cleanup(display.close)
    if not getattr(config.option, "numprocesses", None):
        with progress.listening(telling(display), display.say):
            yield {}
        return
    with tempfile.TemporaryDirectory(prefix="kvclaims-") as folder:
        watcher = Watcher(Path(folder), display)
        watcher.start()
        try:
            yield {FOLDER: folder}
        finally:
            watcher.stop()
