"""What is missing from the store: measure it, a shard at a time, and resume after anything."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from kvcore import progress as told
from kvcore.errors import KvError
from kvcore.io import disk_errors, json_digest
from kvcore.store import claiming
from kvcore.store.keys import row_keys
from kvcore.store.remote import shown
from kvcore.store.schema import CODE, KEY, Key, RowSchema, clean
from kvcore.store.shards import Store

Measure = Callable[[pd.DataFrame], pd.DataFrame]
ROW_NAME = ("sample_id", "condition", "template")
"""What tells the rows of one shard apart."""
_POLL_SECONDS = 0.2


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
    present = PresentRows(code).updated(store)
    shards = plan(wanted, shard_samples, shard_length)
    counts = [len(shard.missing(present.keys)) for shard in shards]
    pending = [(s, rows) for s, rows in zip(shards, counts, strict=True) if rows]
    if not pending:
        return
    store.sweep()
    with told.task(progress, sum(rows for _, rows in pending)) as task:
        while pending:
            held = []
            for shard, count in pending:
                with claim(store, shard) as claimed:
                    if not claimed:
                        held.append((shard, count))
                        continue
                    present = present.updated(store)
                    missing = shard.missing(present.keys)
                    with task.part(count, missing["sample_id"].nunique()):
                        if len(missing):  # another process may have stored it between two looks
                            rows = with_keys(measure(missing), missing, store.schema, code)
                            if not claiming.is_held(store.root, shard.name):
                                held.append((shard, count))  # taken for dead: measured elsewhere
                                continue
                            store.write(rows, meta() if callable(meta) else meta)
            if len(held) == len(pending):
                time.sleep(_POLL_SECONDS)
            pending = held


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
