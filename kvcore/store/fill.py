"""What is missing from the store: measure it, a shard at a time, and resume after anything."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout
from tqdm import tqdm

from kvcore.errors import KvError
from kvcore.io import disk_errors
from kvcore.store.schema import KEY, SCORES, Key, RowSchema, clean, row_keys
from kvcore.store.shards import Store

Score = Callable[[pd.DataFrame], pd.DataFrame]
_PLACE = ("sample_id", "condition", "template")  # what tells the rows of one shard apart
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Shard:
    """Wanted rows that are measured and stored together.

    Parameters
    ----------
    name : str
        Hash of the keys: processes that want the same rows name their shards alike.
    rows : DataFrame
        All conditions of some samples under one configuration, as they were wanted.
    keys : tuple
        The key of each row.
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
    score: Score,
    *,
    meta: Mapping[str, str] | Callable[[], Mapping[str, str]],
    shard_samples: int = 50,
    progress: str | None = "measuring",
) -> None:
    """Measure the wanted rows that the store lacks, and store each shard as soon as it is done.

    Parameters
    ----------
    store : Store
        Where rows are looked up and written. Killed at any instant, all but the shard at work is
        kept; called again, it goes on from there.
    wanted : DataFrame
        The columns ``KEY`` and, if samples differ in cost, ``length`` (any unit): samples of
        similar length then share a shard. Order does not count.
    score : callable
        Takes some of the wanted rows, which agree in all but sample, condition and template, and
        returns one row for each, in any order: ``sample_id``, ``condition``, ``template`` and the
        values of the store's kind.
    meta : mapping, or callable that returns one
        Recorded with every shard: library versions, device, attention backend.
    shard_samples : int
        Samples per shard, from 1.
    progress : str or None
        Label of the progress bar on stderr (samples per second, time left); None for no bar.

    Raises
    ------
    KvError
        Scores for other rows than those asked for, or whatever `Store` raises.

    Notes
    -----
    Any number of processes may fill one store. Each shard is claimed by a file lock in
    ``.claims/``, which the operating system drops with its process, so nothing stays claimed by the
    dead. Shards that others hold are left for last and looked up again before they are measured.
    Shards come in an order that has nothing to do with length, so rates and partial results are
    those of the whole.
    """
    seen = _Seen(frozenset(), frozenset()).look(store)
    shards = plan(wanted, shard_samples)
    pending = [(shard, _samples(shard.missing(seen.keys))) for shard in shards]
    pending = [(shard, samples) for shard, samples in pending if samples]
    if not pending:
        return
    store.sweep()
    with _bar(progress, sum(samples for _, samples in pending)) as bar:
        while pending:
            held = []
            for shard, samples in pending:
                with _claim(store, shard) as claimed:
                    if not claimed:
                        held.append((shard, samples))
                        continue
                    seen = seen.look(store)
                    _measure(store, shard.missing(seen.keys), score, meta)
                bar.update(samples)
            if len(held) == len(pending):
                time.sleep(_POLL_SECONDS)
            pending = held


def plan(wanted: pd.DataFrame, shard_samples: int) -> tuple[Shard, ...]:
    """Divide the wanted rows into shards, the same way for any order of the rows.

    Raises
    ------
    KvError
        A column of ``KEY`` is absent, or one sample id stands for two texts.
    """
    if shard_samples < 1:
        raise KvError(f"shard_samples={shard_samples}: a shard holds at least 1 sample.")
    keys = row_keys(wanted)
    lengths = wanted["length"].tolist() if "length" in wanted.columns else [0] * len(keys)
    groups: dict[Key, dict[object, list[int]]] = {}
    for place in {key: place for place, key in enumerate(keys)}.values():
        named = dict(zip(KEY, keys[place], strict=True))
        sample = named["sample_id"]
        for name in (*_PLACE, "sample_hash"):
            del named[name]
        groups.setdefault(tuple(named.values()), {}).setdefault(sample, []).append(place)
    shards = []
    for samples in groups.values():
        _check_ids([keys[p] for places in samples.values() for p in places])
        order = sorted(samples, key=lambda s: (max(lengths[p] for p in samples[s]), str(s)))
        for start in range(0, len(order), shard_samples):
            places = [p for s in order[start : start + shard_samples] for p in samples[s]]
            shards.append(_shard(wanted, keys, places))
    return tuple(sorted(shards, key=lambda shard: shard.name))  # a hash: as good as shuffled


def with_keys(rows: pd.DataFrame, asked: pd.DataFrame, kind: RowSchema = SCORES) -> pd.DataFrame:
    """Give scored rows the keys of the rows asked for, matched by what tells them apart.

    Raises
    ------
    KvError
        Rows that were not asked for, came twice, or did not come.
    """
    places = {name: place for place, name in enumerate(_names(asked))}
    names = _names(rows)
    if sorted(names) != sorted(places):
        odd = [str(name) for name in sorted(set(names) ^ set(places))]
        raise KvError(
            f"scores: {len(places)} rows were asked for and {len(names)} came; first difference: "
            f"{(odd or ['a row twice'])[0]}. Return each asked row once."
        )
    keys = asked[list(KEY)].iloc[[places[name] for name in names]].reset_index(drop=True)
    return pd.concat([keys, rows[list(kind.values)].reset_index(drop=True)], axis=1)


@dataclass(frozen=True)
class _Seen:
    """The shards looked at so far and the keys in them, so that each is read once."""

    shards: frozenset[Path]
    keys: frozenset[Key]

    def look(self, store: Store) -> _Seen:
        new = [path for path in store.shards() if path not in self.shards]
        return _Seen(self.shards | set(new), self.keys | store.keys(new))


def _measure(
    store: Store,
    todo: pd.DataFrame,
    score: Score,
    meta: Mapping[str, str] | Callable[[], Mapping[str, str]],
) -> None:
    if len(todo):  # another process may have stored it between two looks
        rows = with_keys(score(todo), todo, store.kind)
        store.write(rows, meta() if callable(meta) else meta)


@contextlib.contextmanager
def _claim(store: Store, shard: Shard) -> Iterator[bool]:
    """Hold a shard's lock, if no other process does, and say whether we do."""
    folder = store.root / ".claims"
    lock = FileLock(folder / f"{shard.name}.lock")
    with disk_errors(store.root, "claim a shard"):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:  # an OSError, hence inside
            pass
    try:
        yield lock.is_locked
    finally:
        lock.release()


def _bar(label: str | None, samples: int) -> tqdm[None]:
    return tqdm(
        total=samples,
        desc=label,
        unit="sample",
        file=sys.stderr,
        disable=label is None,
        smoothing=0,  # shards differ in length: the mean over all so far predicts the rest best
        dynamic_ncols=True,
    )


def _names(rows: pd.DataFrame) -> list[tuple[str, ...]]:
    columns = [[clean(str(value)) for value in rows[name].tolist()] for name in _PLACE]
    return list(zip(*columns, strict=True))


def _samples(rows: pd.DataFrame) -> int:
    return len(set(rows["sample_id"].tolist()))


def _check_ids(keys: list[Key]) -> None:
    places = [tuple(key[KEY.index(name)] for name in _PLACE) for key in keys]
    if len(set(places)) < len(places):
        twice = next(place[0] for at, place in enumerate(places) if place in places[:at])
        raise KvError(f"sample id {twice!r} stands for two texts; give each sample its own id.")


def _shard(wanted: pd.DataFrame, keys: list[Key], places: list[int]) -> Shard:
    chosen = tuple(sorted((keys[place], place) for place in places))
    spelled = json.dumps([key for key, _ in chosen], ensure_ascii=True)
    name = hashlib.sha256(spelled.encode()).hexdigest()[:32]
    rows = wanted.iloc[[place for _, place in chosen]]
    return Shard(name, rows, tuple(key for key, _ in chosen))
