"""What is missing from the store: measure it, a shard at a time, and resume after anything."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kvcore import progress as told
from kvcore.errors import KvError
from kvcore.io import disk_errors, json_digest
from kvcore.store import claiming, folder
from kvcore.store.keys import row_keys
from kvcore.store.remote import shown
from kvcore.store.schema import CODE, KEY, Key, RowSchema, clean
from kvcore.store.shards import Store

Measure = Callable[[pd.DataFrame], pd.DataFrame]
ROW_NAME = ("sample_id", "condition", "template")
"""What tells the rows of one shard apart."""
_POLL_SECONDS = 0.2
_TURN_SECONDS = 0.0005
"""How long a thread waits for the interpreter: five milliseconds, the default, for each operation
that is sent to a GPU would take more than is gained."""


@dataclass(frozen=True)
class Shard:
    """Wanted rows that are measured and stored together.

    - `name`: hash of the keys: processes that want the same rows name their shards alike.
    - `rows`: all conditions of some samples under one configuration, as they were wanted.
    - `keys`: the key of each row.
    """

    name: str
    rows: pd.DataFrame
    keys: tuple[Key, ...]

    def missing(self, present: frozenset[Key]) -> pd.DataFrame:
        """Return the rows that are not present yet."""
        return self.rows[[key not in present for key in self.keys]]


def measure_missing(
    store: Store,
    wanted: pd.DataFrame,
    measure: Measure,
    *,
    code: str,
    meta: Mapping[str, str] | Callable[[], Mapping[str, str]],
    shard_samples: int = 50,
    shard_length: float = math.inf,
    progress: str | None = "measuring",
) -> None:
    """Measure the wanted rows that the store lacks, and store each shard as soon as it is done.

    Raises KvError for measurements of other rows than those asked for, or whatever `Store` raises.

    Parameters
    ----------
    store : Store
        Where rows are looked up and written. Killed at any instant, all but the shard at work is
        kept; called again, it goes on from there.
    wanted : DataFrame
        The columns ``KEY`` and, if samples differ in cost, ``length`` (any unit): samples of
        similar length then share a shard. Order does not count.
    measure : callable
        Takes some of the wanted rows, which agree in all but sample, condition and template, and
        returns one row for each, in any order: ``sample_id``, ``condition``, ``template`` and the
        values of the store's schema.
    code : str
        Hash of the code that measures: recorded with every row. Rows that other code measured
        count as missing; see `kvcore.store.adoption` for those that need not.
    meta : mapping, or callable that returns one
        Recorded with every shard: library versions, device, attention backend.
    shard_samples : int
        Most samples per shard, from 1.
    shard_length : float
        Most that the lengths of a shard's rows make together; a sample is not divided.
    progress : str or None
        What is said to be done while rows are measured (`kvcore.progress`); None says nothing.

    Notes
    -----
    Any number of processes may fill one store. Each shard is claimed by a file lock in
    ``.claims/``, which the operating system drops with its process, so nothing stays claimed by the
    dead. Shards that others hold are left for last and looked up again before they are measured.
    Shards come in an order that has nothing to do with length, so rates and partial results are
    those of the whole.
    """
    executor = here(measure, meta)
    fill(
        store,
        wanted,
        executor,
        code=code,
        shard_samples=shard_samples,
        shard_length=shard_length,
        progress=progress,
    )


def fill(
    store: Store,
    wanted: pd.DataFrame,
    executor: Executor,
    *,
    code: str,
    shard_samples: int,
    shard_length: float = math.inf,
    progress: str | None,
) -> None:
    """Have what the store lacks measured, by whatever measures; see `measure_missing`.

    - `executor`: takes shards one at a time, as soon as it has use for one, and returns each with
      its rows. Shards that it has taken are claimed by this process until their rows are written.
    """
    present = PresentRows(code).updated(store)
    shards = plan(wanted, shard_samples, shard_length)
    counts = [len(shard.missing(present.keys)) for shard in shards]
    pending = [(s, rows) for s, rows in zip(shards, counts, strict=True) if rows]
    if not pending:
        return
    store.sweep()
    written: list[str] = []
    with told.task(progress, sum(rows for _, rows in pending)) as task:
        while pending:
            held: list[tuple[Shard, int]] = []
            with contextlib.ExitStack() as claims:
                work = _claimed(store, pending, held, present, task, claims)
                measured = claims.enter_context(contextlib.closing(executor(work)))
                for each, rows, meta in measured:
                    own = with_keys(rows, each.missing, store.schema, code)
                    if claiming.is_held(store.root, each.shard.name):
                        written.append(store.write(own, meta).name)
                    else:  # taken for dead: measured elsewhere
                        each.part.drop()
                        held.append((each.shard, each.count))
                    each.release.close()
            if len(held) == len(pending):
                time.sleep(_POLL_SECONDS)
            pending = held
            present = present.updated(store) if held else present
    if written:
        see_written(store, written)


def see_written(store: Store, written: list[str]) -> None:
    """Wait until shards that were written show in the store's list.

    Raises KvError where none does.
    """
    end = time.monotonic() + claiming.SHOWN_SECONDS
    with disk_errors(shown(store.root), "list the shards"):
        while not set(written) & set(folder.names(store.root)):
            if time.monotonic() >= end:
                raise KvError(
                    f"store {shown(store.root)}: {len(written)} shards were written without error "
                    f"and do not show in its list after {claiming.SHOWN_SECONDS:.0f} s; use "
                    "another --kv-store."
                )
            time.sleep(_POLL_SECONDS)


@dataclass(frozen=True, eq=False)
class Work:
    """A shard that this process has claimed.

    - `missing`: its rows that are to be measured.
    - `count`: of them, when the work began.
    - `part`: how far it is told to be.
    - `release`: ends part and claim.
    """

    shard: Shard
    missing: pd.DataFrame
    count: int
    part: told.Part
    release: contextlib.ExitStack


Measured = tuple[Work, pd.DataFrame, Mapping[str, str]]
"""A shard, the rows that were measured of it, and what is recorded with them."""
Executor = Callable[[Iterator[Work]], Generator[Measured, None, None]]
"""Measures shards, in this process or elsewhere, several at a time or not."""


def here(measure: Measure, meta: Mapping[str, str] | Callable[[], Mapping[str, str]]) -> Executor:
    """Return what measures shard after shard in this process; arguments as `measure_missing`."""

    def measured(work: Iterator[Work]) -> Generator[Measured, None, None]:
        for each in work:
            rows = measure(each.missing)
            yield each, rows, meta() if callable(meta) else meta

    return measured


def preparing_ahead(
    prepare: Callable[[pd.DataFrame], Any],
    measure: Callable[[pd.DataFrame, Any], pd.DataFrame],
    meta: Callable[[], Mapping[str, str]],
) -> Executor:
    """Return what measures shard after shard here and prepares the next one meanwhile.

    One shard more than the one at work is claimed. The first is prepared in the caller's thread, so
    that whatever is loaded is loaded there; the others in a thread of their own.

    - `prepare`: does what of measuring a shard's rows need not wait for those before it.
    - `measure`: takes rows, and what was prepared of them.
    - `meta`: returns what is recorded with a shard.
    """

    def measured(work: Iterator[Work]) -> Generator[Measured, None, None]:
        each = next(work, None)
        if each is None:
            return
        ready = prepare(each.missing)
        with _short_turns(), ThreadPoolExecutor(1, "prepares-the-next-shard") as thread:
            while each is not None:
                following = next(work, None)
                preparing = thread.submit(prepare, following.missing) if following else None
                rows = measure(each.missing, ready)
                yield each, rows, meta()
                each = following
                ready = preparing.result() if preparing else None

    return measured


@contextlib.contextmanager
def _short_turns() -> Iterator[None]:
    """Have threads take turns as often as `_TURN_SECONDS` says."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(_TURN_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _claimed(
    store: Store,
    pending: Iterable[tuple[Shard, int]],
    held: list[tuple[Shard, int]],
    present: PresentRows,
    task: told.Task,
    claims: contextlib.ExitStack,
) -> Iterator[Work]:
    """Claim shard after shard; what others hold is added to `held`."""
    for shard, count in pending:
        release = claims.enter_context(contextlib.ExitStack())
        if not release.enter_context(claim(store, shard)):
            release.close()
            held.append((shard, count))
            continue
        present = present.updated(store)
        missing = shard.missing(present.keys)
        part = release.enter_context(task.part(count, missing["sample_id"].nunique()))
        if len(missing):
            yield Work(shard, missing, count, part, release)
        else:  # another process has stored it between two looks
            release.close()


def plan(
    wanted: pd.DataFrame, shard_samples: int, shard_length: float = math.inf
) -> tuple[Shard, ...]:
    """Divide the wanted rows into shards, the same way for any order of the rows.

    Raises KvError where a column of ``KEY`` is absent, or one sample id stands for two texts.
    """
    if shard_samples < 1:
        raise KvError(f"shard_samples must be at least 1; got {shard_samples}.")
    keys = row_keys(wanted)
    lengths = wanted["length"].tolist() if "length" in wanted.columns else [0] * len(keys)
    groups: dict[Key, dict[object, list[int]]] = {}
    for index in {key: index for index, key in enumerate(keys)}.values():
        parts = dict(zip(KEY, keys[index], strict=True))
        sample = parts["sample_id"]
        for name in (*ROW_NAME, "sample_hash"):
            del parts[name]
        groups.setdefault(tuple(parts.values()), {}).setdefault(sample, []).append(index)
    shards = []
    for samples in groups.values():
        _check_ids([keys[i] for indices in samples.values() for i in indices])
        order = sorted(samples, key=lambda s: (max(lengths[i] for i in samples[s]), str(s)))
        of_sample = [sum(lengths[i] for i in samples[s]) for s in order]
        for start, stop in _cuts(of_sample, shard_samples, shard_length):
            indices = [i for s in order[start:stop] for i in samples[s]]
            shards.append(_shard(wanted, keys, indices))
    return tuple(sorted(shards, key=lambda shard: shard.name))  # a hash: as good as shuffled


def _cuts(
    lengths: Sequence[float], most_samples: int, most_length: float
) -> Iterator[tuple[int, int]]:
    """Yield where each shard starts and stops among samples of some lengths."""
    start, together = 0, 0.0
    for stop, length in enumerate(lengths):
        together += length
        if stop > start and (stop - start == most_samples or together > most_length):
            yield start, stop
            start, together = stop, length
    if lengths:
        yield start, len(lengths)


def with_keys(
    rows: pd.DataFrame, asked: pd.DataFrame, schema: RowSchema, code: str
) -> pd.DataFrame:
    """Give measured rows the keys of the rows asked for, matched by what tells them apart.

    Raises KvError for rows that were not asked for, came twice, or did not come.
    """
    indices = {name: index for index, name in enumerate(_row_names(asked))}
    names = _row_names(rows)
    if sorted(names) != sorted(indices):
        odd = [str(name) for name in sorted(set(names) ^ set(indices))]
        raise KvError(
            f"measured rows: {len(indices)} were asked for and {len(names)} came; first "
            f"difference: {(odd or ['a row twice'])[0]}. Return each asked row once."
        )
    keys = asked[list(KEY)].iloc[[indices[name] for name in names]].reset_index(drop=True)
    values = rows[list(schema.values)].reset_index(drop=True)
    return pd.concat([keys.assign(**{CODE: code}), values], axis=1)


@dataclass(frozen=True)
class PresentRows:
    """The keys that a code has measured in the shards looked at so far, each read once."""

    code: str
    shards: frozenset[Path] = frozenset()
    keys: frozenset[Key] = frozenset()

    def updated(self, store: Store) -> PresentRows:
        """Return it with the keys of shards that came since."""
        new = [path for path in store.shards() if path not in self.shards]
        return PresentRows(
            self.code, self.shards | set(new), self.keys | store.keys(new, self.code)
        )


@contextlib.contextmanager
def claim(store: Store, shard: Shard) -> Iterator[bool]:
    """Claim a shard, if no other process has it, and say whether we have."""
    with contextlib.ExitStack() as stack:
        with disk_errors(shown(store.root), "claim a shard"):
            claimed = stack.enter_context(claiming.claim(store.root, shard.name))
        yield claimed


def _row_names(rows: pd.DataFrame) -> list[tuple[str, ...]]:
    columns = [[clean(str(value)) for value in rows[name].tolist()] for name in ROW_NAME]
    return list(zip(*columns, strict=True))


def _check_ids(keys: list[Key]) -> None:
    names = [tuple(key[KEY.index(column)] for column in ROW_NAME) for key in keys]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise KvError(
            f"sample id {repeated[0][0]!r} stands for two texts; give each sample its own id."
        )


def _shard(wanted: pd.DataFrame, keys: list[Key], indices: list[int]) -> Shard:
    chosen = tuple(sorted((keys[index], index) for index in indices))
    rows = wanted.iloc[[index for _, index in chosen]]
    chosen_keys = tuple(key for key, _ in chosen)
    return Shard(json_digest(chosen_keys)[:32], rows, chosen_keys)
