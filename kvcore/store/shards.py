"""Measurement rows on disk: verified Parquet shards, any number of writers, no locks.

A store is a folder of shards ``part-<pid>-<hash>.parquet``, about 50 samples each. A shard is
written under a temporary name in the same folder, flushed to the disk and renamed, so that it is
either there as a whole or not at all; nothing is ever changed in place. The hash is the SHA-256
(its first 128 bits) of the very bytes of the file: the checksums of Parquet pages, which are
written and verified too, leave page headers and the footer open. ``pandas.read_parquet(folder)``
and its like read a store as it is; the metadata of a shard hold, as JSON under ``kvcore``, the
store version, the time of writing and where the rows were measured.

Other names in the folder begin with ``.`` or ``_``, which readers of Parquet folders skip:
``.tmp-*`` (being written, or left over by a killed process), ``.claims/`` (who measures what) and
``_*.damaged`` (set aside).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import time
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kvcore import io
from kvcore.errors import KvError, StoreWarning, unknown
from kvcore.store import schema
from kvcore.store.schema import NUMBER, NUMBERS, SCORES, TEXTS, Key, RowSchema

VERSION = 1
_RECORD = b"kvcore"
_SHARD = re.compile(r"part-\d+-[0-9a-f]{32}\.parquet")
_STALE_SECONDS = 86_400.0


class _Damaged(Exception):
    """What is wrong with a shard."""


class _Vanished(Exception):
    """A shard that another process has set aside since it was listed."""


class _Shard(NamedTuple):
    name: str
    written: str
    table: pa.Table


@dataclass(frozen=True)
class Store:
    """A folder of measurement rows.

    Parameters
    ----------
    root : Path
        The folder; made at the first write. Several processes and machines may share it.
    kind : Kind
        What its rows hold; a folder holds rows of one kind.
    """

    root: Path
    kind: RowSchema = SCORES

    def write(self, rows: pd.DataFrame, meta: Mapping[str, str]) -> Path:
        """Write rows as one new shard, as a whole or not at all.

        Parameters
        ----------
        rows : DataFrame
            Exactly the columns `KEY` and the kind's values, in any order. A missing count becomes
            -1; lone surrogates in strings are replaced as `clean` says.
        meta : mapping
            What is recorded but is no part of the key: library versions, device, attention backend.

        Returns
        -------
        Path
            The shard.

        Raises
        ------
        KvError
            Rows that do not fit the schema, a status "ok" without a finite nll, a full disk, a
            folder that cannot be written. No part of the shard is left behind then, and the shards
            before it are intact.
        """
        known = self.kind.schema.names
        extra = [name for name in rows.columns if name not in known]
        if extra:
            raise KvError(f"rows have no column {extra[0]!r}; known are {', '.join(known)}.")
        table = schema.to_table(rows, self.kind)
        schema.check_scores(table, self.kind.score)
        data = _encode(table, meta)
        path = self.root / f"part-{os.getpid()}-{_fingerprint(data)}.parquet"
        with io.disk_errors(self.root, f"write {len(rows)} rows"):
            self.root.mkdir(parents=True, exist_ok=True)
            io.write_atomically(path, data)
        return path

    def read(self, **filters: Any) -> pd.DataFrame:
        """Read the verified rows, each key once, sorted by key.

        Parameters
        ----------
        **filters
            A column of `KEY` and the value, or the list of values, to keep.

        Returns
        -------
        DataFrame
            Columns `KEY` and the kind's values. Of two measurements of one key the earlier is kept.

        Raises
        ------
        KvError
            An unknown filter; a shard of another store version; a key measured twice with values
            further apart than `TOLERANCES`; a folder that cannot be read.

        Warns
        -----
        StoreWarning
            For each damaged shard, which is renamed to ``_<name>.damaged``.

        Notes
        -----
        Every shard is verified as a whole before filters apply.
        """
        keep = _keep(filters)
        return _merge(self.root, self._shards(self.shards(), keep), self.kind).to_pandas()

    def missing(self, wanted: pd.DataFrame) -> pd.DataFrame:
        """Return the wanted rows whose key the store does not hold.

        Parameters
        ----------
        wanted : DataFrame
            The columns `KEY`; others are carried along.

        Returns
        -------
        DataFrame
            The rows of `wanted` that are to be measured, each key once, in the order given.
        """
        present = self.keys(self.shards())
        keys = schema.row_keys(wanted)
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        return wanted.iloc[sorted(place for key, place in first.items() if key not in present)]

    def shards(self) -> tuple[Path, ...]:
        """List the shards, damaged and unfinished ones excluded, by name.

        Files whose names are not a shard's are never read, renamed or removed.
        """
        with io.disk_errors(self.root, "list the shards"):
            try:
                names = os.listdir(self.root)
            except FileNotFoundError:
                return ()
        return tuple(self.root / name for name in sorted(names) if _SHARD.fullmatch(name))

    def keys(self, shards: Iterable[Path]) -> frozenset[Key]:
        """Read the keys of the verified rows in some shards (damaged ones are set aside)."""
        tables = [shard.table for shard in self._shards(shards, {})]
        return frozenset(
            key
            for table in tables
            for key in zip(*schema.column_lists(table, schema.KEY), strict=True)
        )

    def sweep(self) -> None:
        """Remove temporary files that killed processes left behind more than a day ago.

        Age decides rather than whether the writer is alive: its process id means nothing on another
        machine that shares the folder, and no shard takes a day to write.
        """
        for path in self.root.glob(".tmp-part-*"):
            with contextlib.suppress(OSError):  # another process may be sweeping too
                if path.stat().st_mtime < time.time() - _STALE_SECONDS:
                    path.unlink()

    def _shards(self, paths: Iterable[Path], keep: Mapping[str, pa.Array]) -> list[_Shard]:
        found = []
        for path in paths:
            try:
                shard = _verified(path, self.kind)
            except _Vanished:
                continue
            except _Damaged as damage:
                self._set_aside(path, damage)
                continue
            found.append(shard._replace(table=_select(shard.table, keep)))
        return found

    def _set_aside(self, path: Path, damage: _Damaged) -> None:
        """Rename a damaged shard so that no reader sees it, and warn."""
        aside = path.with_name(f"_{path.name}.damaged")
        try:
            os.replace(path, aside)
        except FileNotFoundError:  # another process was first, and warns
            return
        except OSError as error:
            done = f"could not be set aside ({error.strerror})"
        else:
            done = f"set aside as {aside.name}"
        warnings.warn(
            f"store {self.root}: {path.name} is damaged ({damage}); {done}, its rows count as "
            "missing.",
            StoreWarning,
            stacklevel=4,
        )


@contextlib.contextmanager
def disk_errors(root: Path, doing: str) -> Iterator[None]:
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


def _encode(table: pa.Table, meta: Mapping[str, str]) -> bytes:
    """Spell rows as the bytes of a shard, checksums and record included."""
    record = schema.json_bytes({
        "version": VERSION,
        "written": datetime.now(UTC).isoformat(timespec="microseconds"),
        "id": uuid.uuid4().hex,  # no two shards have the same bytes, hence none the same name
        "meta": {schema.clean(str(name)): schema.clean(str(value)) for name, value in meta.items()},
    })  # fmt: skip
    sink = pa.BufferOutputStream()
    measured = [f for f in table.schema if schema.holds_floats(f.type)]
    pq.write_table(
        table.replace_schema_metadata({_RECORD: record}),
        sink,
        compression="zstd",
        compression_level=15,  # a shard is written once and shipped
        # Measured numbers hardly repeat: byte by byte they take a third less than in dictionaries.
        use_dictionary=[f.name for f in table.schema if f not in measured],
        use_byte_stream_split=[
            f.name + (".list.element" if pa.types.is_list(f.type) else "") for f in measured
        ],
        write_page_checksum=True,
    )
    data: bytes = sink.getvalue().to_pybytes()
    return data


def write_atomically(data: bytes, path: Path) -> None:
    """Make a file appear under its name as a whole, on the disk, or not at all."""
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # some network file systems refuse to sync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _rename(temporary: Path, path: Path) -> None:
    try:
        os.replace(temporary, path)
    except FileNotFoundError:
        if not path.exists():  # over NFS a rename that was repeated reports failure, yet happened
            raise


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    """Call whatever fails inside damage: pyarrow meets broken bytes with any exception there is."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise _Damaged(reason[:120]) from error


def _verified(path: Path, kind: RowSchema) -> _Shard:
    """Read a shard of this version whose rows are exactly those written, or raise."""
    with io.disk_errors(path.parent, f"read {path.name}"):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise _Vanished(path.name) from None
    _check_bytes(path, data)
    with _damage():
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        record = json.loads(file.metadata.metadata[_RECORD])
        version, written = int(record["version"]), str(record["written"])
    _check_version(path, version)
    if file.schema_arrow.names != kind.schema.names:
        raise KvError(
            f"store {path.parent}: {path.name} holds rows of another kind of measurement;"
            " choose another store folder. Nothing was changed."
        )
    with _damage():
        table = file.read().replace_schema_metadata(None).cast(kind.schema)
    return _Shard(path.name, written, table)


def _fingerprint(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _check_bytes(path: Path, data: bytes) -> None:
    """Refuse bytes that are not those the shard was named after."""
    if not path.name.endswith(f"-{_fingerprint(data)}.parquet"):
        raise _Damaged(f"its {len(data)} bytes are not those written")


def _check_version(path: Path, version: int) -> None:
    if version != VERSION:
        raise KvError(
            f"store {path.parent}: {path.name} has store version {version}, this kvcore reads "
            f"version {VERSION}: choose another store folder, or use the kvcore that wrote it. "
            "Nothing was changed."
        )


def _keep(filters: Mapping[str, Any]) -> dict[str, pa.Array]:
    keep = {}
    for name, value in filters.items():
        if name not in schema.KEY:
            raise unknown("filter", name, schema.KEY)
        values = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
        kind = SCORES.schema.field(name).type
        typed = [schema.clean(str(x)) if pa.types.is_string(kind) else int(x) for x in values]
        keep[name] = pa.array(typed, kind)
    return keep


def _select(table: pa.Table, keep: Mapping[str, pa.Array]) -> pa.Table:
    for name, values in keep.items():
        table = table.filter(pc.is_in(table[name], value_set=values))
    return table


def _merge(root: Path, shards: Sequence[_Shard], kind: RowSchema) -> pa.Table:
    """Put shards together: sorted by key, each key once, the earliest written first."""
    if not shards:
        return kind.schema.empty_table()
    parts = [
        shard.table.append_column("_written", pa.repeat(shard.written, shard.table.num_rows))
        .append_column("_shard", pa.repeat(shard.name, shard.table.num_rows))
        for shard in shards
    ]  # fmt: skip
    order = [(name, "ascending") for name in (*schema.KEY, "_written", "_shard")]
    table = pa.concat_tables(parts).combine_chunks().sort_by(order)
    again = _same_key_as_before(table)
    if again.any():
        _check_agreement(root, table, again, kind)
        table = table.filter(pa.array(~again))
    return table.select(kind.schema.names)


def _same_key_as_before(table: pa.Table) -> np.ndarray[Any, np.dtype[np.bool_]]:
    same = np.ones(table.num_rows, dtype=bool)
    same[:1] = False
    for name in schema.KEY:
        column = table[name]
        same[1:] &= pc.equal(column.slice(1), column.slice(0, len(same) - 1)).to_numpy()
    return same


def _check_agreement(
    root: Path, table: pa.Table, again: np.ndarray[Any, Any], kind: RowSchema
) -> None:
    """Raise for the first key whose measurements disagree."""
    kept = np.maximum.accumulate(np.where(again, 0, np.arange(len(again))))
    rows = np.flatnonzero(again)
    first, other = table.take(kept[rows]).to_pylist(), table.take(rows).to_pylist()
    for one, two in zip(first, other, strict=True):
        column = _disagreement(one, two, kind)
        if column:
            named = ", ".join(f"{name}={one[name]}" for name in schema.KEY)
            raise KvError(
                f"store {root}: two measurements of one key disagree: {column} is {one[column]} in "
                f"{one['_shard']} and {two[column]} in {two['_shard']} (allowed: "
                f"{schema.tolerance(one['dtype'])} x max(1, value)) for {named}; move one of the "
                "two shards out of the folder."
            )


def _disagreement(one: Mapping[str, Any], two: Mapping[str, Any], kind: RowSchema) -> str | None:
    """Name the column in which two measurements of one key differ by more than rounding."""
    for name in kind.values:
        if kind.types.get(name) in (NUMBERS, TEXTS):  # what they add up to is compared
            continue
        if kind.types.get(name) != NUMBER or one[name] is None or two[name] is None:
            if one[name] != two[name]:
                return name
        elif abs(one[name] - two[name]) > schema.tolerance(one["dtype"]) * max(1.0, abs(one[name])):
            return name
    return None
