"""How far a piece of work is: told by those who do it, shown by whoever listens.

What measures opens a `task` of so many rows, and inside it a `part` for each shard; whatever runs
a batch tells that it is done (`batch_done`). Nothing is shown here: `listening` names who is told,
after every batch, and without it nobody is. One process does one task at a time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """How far a task is.

    - `label`: what is done, e.g. a model on a dataset.
    - `unit`: of what it has so many, in the plural.
    - `done`, `total`: how many; `done` never exceeds `total`.
    - `seconds`: since the task began.
    - `ended`: whether this is the last that is told of it.
    """

    label: str
    unit: str
    done: int
    total: int
    seconds: float
    ended: bool = False

    @property
    def rate(self) -> float:
        """How many a second, over the whole task; 0 where none is done."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Seconds to its end at the rate so far; None where none is done, or all and it goes on."""
        some_are_left = self.ended or self.done < self.total
        return (self.total - self.done) / self.rate if self.done and some_are_left else None


Listener = Callable[[Progress], None]
"""What is told of every step."""
Say = Callable[[str], None]
"""What shows a line between steps."""


@dataclass
class Part:
    """A piece of a task of which batches are told; they count at most its rows.

    - `told`: rows as its batches told them, several passes over one thing each time.
    - `worth`: rows that a told row is worth, from 0 to 1.
    """

    rows: int
    rows_per_item: float
    worth: float = 1.0
    told: float = 0.0

    @property
    def done(self) -> float:
        """Rows that count as done."""
        return min(float(self.rows), self.told * self.worth)

    def drop(self) -> None:
        """Count nothing of it, now or at its end: it is to be done once more, or by others."""
        self.rows, self.told = 0, 0.0


@dataclass
class Task:
    """Work of which it is known how much there is."""

    label: str
    total: int
    unit: str = "rows"
    heard: bool = True  # whether anybody is told of it
    started: float = field(default_factory=time.monotonic)
    _done: int = 0
    _parts: list[Part] = field(default_factory=list)
    _worth: float = 1.0

    @contextlib.contextmanager
    def part(self, rows: int, items: int | None = None) -> Iterator[Part]:
        """Count the batches inside as some of these rows; at its end all of them are done.

        Of several at work, batches are the latest one's. Where a part's batches told more rows than
        it has, those of the next one count for as much less.

        - `rows`: of the task, that the part has.
        - `items`: how many things its batches are made of; by default as many as rows.
        """
        part = Part(rows, rows / items if items else 1.0, self._worth)
        self._parts.append(part)
        try:
            yield part
        finally:
            self._parts = [other for other in self._parts if other is not part]
        if part.told > part.rows > 0:
            self._worth = part.rows / part.told
        self.advance(part.rows)

    def advance(self, rows: int) -> None:
        """Count rows that are done."""
        self._done = min(self.total, self._done + rows)
        self.tell()

    def batch(self, items: int, rows_per_item: float | None = None) -> None:
        """Count a batch as rows of the part that is at work, at most all of it."""
        if self._parts:
            part = self._parts[-1]
            each = part.rows_per_item if rows_per_item is None else rows_per_item
            part.told += items * each
            self.tell()

    def tell(self, *, ended: bool = False) -> None:
        """Tell who listens how far it is."""
        if self.heard and _state.listener is not None:
            inside = sum(int(part.done) for part in self._parts)
            done = min(self.total, self._done + inside)
            seconds = time.monotonic() - self.started
            _state.listener(Progress(self.label, self.unit, done, self.total, seconds, ended))


@dataclass
class _State:
    listener: Listener | None = None
    say: Say | None = None
    task: Task | None = None


_state = _State()


@contextlib.contextmanager
def listening(listener: Listener, say: Say | None = None) -> Iterator[None]:
    """Tell this listener of every task inside; ``say`` shows lines that are no progress."""
    before = _state.listener, _state.say
    _state.listener, _state.say = listener, say
    try:
        yield
    finally:
        _state.listener, _state.say = before


def is_heard() -> bool:
    """Whether anybody would show a line that is said."""
    return _state.say is not None


def say(line: str) -> None:
    """Show a line, if anybody shows any."""
    if _state.say is not None:
        _state.say(line)


@contextlib.contextmanager
def uncounted() -> Iterator[None]:
    """Count nothing inside as done of the task that is at work."""
    before, _state.task = _state.task, None
    try:
        yield
    finally:
        _state.task = before


@contextlib.contextmanager
def task(label: str | None, total: int, unit: str = "rows") -> Iterator[Task]:
    """Begin a task; one inside another of the same unit is a piece of that, under its own label.

    Parameters
    ----------
    label : str or None
        What is done; None tells nobody.
    total : int
        How many of `unit` there are to do.
    unit : str
        What is counted, in the plural.
    """
    outer = _state.task
    if label is None or (outer is not None and outer.unit != unit):
        yield Task(label or "", total, unit, heard=False)
    elif outer is not None:
        before, outer.label = outer.label, label
        try:
            yield outer
        finally:
            outer.label = before
    else:
        own = _state.task = Task(label, total, unit)
        own.tell()
        try:
            yield own
        finally:
            own.tell(ended=True)
            _state.task = None


def batch_done(items: int, what: str = "") -> None:
    """Tell that a batch is done, if any task is at work.

    Parameters
    ----------
    items : int
        How many things were in it.
    what : str
        What they are; ``"scores"`` are a row each, anything else as many rows as the part says.
    """
    if _state.task is not None:
        _state.task.batch(items, 1.0 if what == "scores" else None)


def duration(seconds: float) -> str:
    """Return a time as a reader says it: ``45 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
