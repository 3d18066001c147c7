"""Measurement rows on disk: verified Parquet shards, any number of writers, no locks.

A store is a folder of shards ``part-<pid>-<hash>.parquet``, about 50 samples each (see
`kvcore.store.shard_file`). A shard is written under a temporary name in the same folder, flushed to
the disk and renamed, so that it is either there as a whole or not at all; nothing is ever changed
in place. ``pandas.read_parquet(folder)`` and its like read a store as it is.

Other names in the folder begin with ``.`` or ``_``, which readers of Parquet folders skip:
``.tmp-*`` (being written, or left over by a killed process), ``.claims/`` (who measures what),
``_adopted-*.json`` (which rows of other code count, see `kvcore.store.adoption`), ``_looks-*.json``
(the looks declared at a cell, see `kvcore.measurements.looks`) and
``_*.damaged`` (set aside).
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from kvcore import io
from kvcore.errors import KvError, StoreWarning, unknown
from kvcore.store import agreement, folder, keys, schema, shard_file
from kvcore.store.remote import shown
from kvcore.store.schema import CODE, KEY, Key, RowSchema
from kvcore.store.shard_file import Damaged, ShardFile, Vanished

STALE_SECONDS = 86_400.0
"""Age from which a temporary file is taken for one that a killed process left behind."""


@dataclass(frozen=True)
class Store:
    """A folder of measurement rows.

    - `root`: the folder; made at the first write. Several processes and machines may share it.
    - `schema`: what its rows hold; a folder holds rows of one kind.
    - `first_method`: what measured the rows of shards that were written before rows named their
      method.
    """

    root: Path
    schema: RowSchema
    first_method: str = ""

    def write(self, rows: pd.DataFrame, meta: Mapping[str, str]) -> Path:
        """Write rows as one new shard, as a whole or not at all.

        Returns the shard.

        - `rows`: exactly the schema's columns, in any order. A missing count becomes -1; lone
          surrogates in strings are replaced as `clean` says.
        - `meta`: what is recorded but is no part of the key: library versions, device, attention
          backend.

        Raises KvError for rows that do not fit the schema, a status "ok" without a finite score, a
        full disk, a folder that cannot be written. No part of the shard is left behind then, and
        the shards before it are intact.
        """
        known = self.schema.schema.names
        extra = [name for name in rows.columns if name not in known]
        if extra:
            raise KvError(f"rows have no column {extra[0]!r}; known are {', '.join(known)}.")
        table = schema.to_table(rows, self.schema)
        schema.check_scores(table, self.schema.score)
        data = shard_file.encode(table, meta)
        path = self.root / shard_file.name_of(data)
        with io.disk_errors(shown(self.root), f"write {len(rows)} rows"):
            folder.put(path, data)
        return path

    def read(self, **filters: Any) -> pd.DataFrame:
        """Read the verified rows, each key once per hash of the code, sorted by both.

        `**filters`: a column of `KEY`, or `CODE`, and the value, or the list of values, to keep.

        Raises KvError for an unknown filter; a shard of another store version; a key measured twice
        by one code with values further apart than `agreement.TOLERANCES`; a folder that cannot be
        read.
        Warns StoreWarning for each damaged shard, which is renamed to ``_<name>.damaged``.

        Returns
        -------
        DataFrame
            The schema's columns. Of two measurements of one key by one code the earlier is kept.

        Notes
        -----
        Every shard is verified as a whole before filters apply.
        """
        keep = _typed_filters(filters)
        return self._merge(self._verified(self.shards(), keep)).to_pandas()

    def shards(self) -> tuple[Path, ...]:
        """List the shards, damaged and unfinished ones excluded, by name.

        Files whose names are not a shard's are never read, renamed or removed.
        """
        with io.disk_errors(shown(self.root), "list the shards"):
            return tuple(folder.paths(self.root, shard_file.NAME))

    def keys(self, shards: Iterable[Path], code: str) -> frozenset[Key]:
        """Read the keys that a code measured in some shards (damaged ones are set aside)."""
        tables = [shard.table for shard in self._verified(shards, _typed_filters({CODE: code}))]
        return frozenset(
            key for table in tables for key in zip(*keys.column_lists(table, KEY), strict=True)
        )

    def sweep(self) -> None:
        """Remove temporary files that killed processes left behind more than a day ago.

        Age decides rather than whether the writer is alive: its process id means nothing on another
        machine that shares the folder, and no shard takes a day to write.
        """
        for path in self.root.glob(f"{io.TEMPORARY}*"):
            with contextlib.suppress(OSError):  # another process may be sweeping too
                if path.stat().st_mtime < time.time() - STALE_SECONDS:
                    path.unlink()

    def _verified(self, paths: Iterable[Path], keep: Mapping[str, pa.Array]) -> list[ShardFile]:
        read = (self._read(path) for path in paths)
        return [replace(s, table=_select(s.table, keep)) for s in read if s is not None]

    def _read(self, path: Path) -> ShardFile | None:
        """Read a shard, None where it is damaged or was set aside by another process."""
        for _ in range(2):  # of a mirror: the second time as it was fetched anew
            try:
                return shard_file.read(path, self.schema, self.first_method)
            except Vanished:
                return None
            except Damaged as damage:
                self._set_aside(path, damage)
        return None

    def _set_aside(self, path: Path, damage: Damaged) -> None:
        """Rename a damaged shard so that no reader sees it, and warn."""
        done = folder.set_aside(path)
        if done is None:
            return
        warnings.warn(
            f"store {shown(self.root)}: {path.name} is damaged ({damage}); {done}, its rows "
            "count as missing.",
            StoreWarning,
            stacklevel=5,
        )

    def _merge(self, shards: Sequence[ShardFile]) -> pa.Table:
        """Put shards together: sorted by key and code, each once, the earliest written first."""
        if not shards:
            return self.schema.schema.empty_table()
        parts = [
            shard.table.append_column(
                "_written", pa.repeat(shard.written, shard.table.num_rows)
            ).append_column("_shard", pa.repeat(shard.name, shard.table.num_rows))
            for shard in shards
        ]
        order = [(name, "ascending") for name in (*KEY, CODE, "_written", "_shard")]
        table = pa.concat_tables(parts).combine_chunks().sort_by(order)
        again = _same_row_as_before(table)
        if again.any():
            self._check_agreement(table, again)
            table = table.filter(pa.array(~again))
        return table.select(self.schema.schema.names)

    def _check_agreement(self, table: pa.Table, again: np.ndarray[Any, Any]) -> None:
        """Raise for the first key whose measurements by one code disagree."""
        first_of = np.maximum.accumulate(np.where(again, 0, np.arange(len(again))))
        repeated = np.flatnonzero(again)
        pairs = zip(
            table.take(first_of[repeated]).to_pylist(),
            table.take(repeated).to_pylist(),
            strict=True,
        )
        for first, second in pairs:
            column = agreement.disagreement(first, second, self.schema)
            if column:
                named = ", ".join(f"{name}={first[name]}" for name in (*KEY, CODE))
                raise KvError(
                    f"store {shown(self.root)}: two measurements of one key disagree: {column} is "
                    f"{first[column]} in {first['_shard']} and {second[column]} in "
                    f"{second['_shard']} (allowed: {agreement.tolerance(first['dtype'])} x max(1, "
                    f"value)) for {named}; move one of the two shards out of the folder."
                )


def _typed_filters(filters: Mapping[str, Any]) -> dict[str, pa.Array]:
    keep = {}
    for name, value in filters.items():
        if name not in (*KEY, CODE):
            raise unknown("filter", name, (*KEY, CODE))
        values = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
        kind = schema.FIELD_OF[name].type
        typed = [schema.clean(str(x)) if pa.types.is_string(kind) else int(x) for x in values]
        keep[name] = pa.array(typed, kind)
    return keep


def _select(table: pa.Table, keep: Mapping[str, pa.Array]) -> pa.Table:
    for name, values in keep.items():
        table = table.filter(pc.is_in(table[name], value_set=values))
    return table


def _same_row_as_before(table: pa.Table) -> np.ndarray[Any, np.dtype[np.bool_]]:
    same = np.ones(table.num_rows, dtype=bool)
    same[:1] = False
    for name in (*KEY, CODE):
        column = table[name]
        same[1:] &= pc.equal(column.slice(1), column.slice(0, len(same) - 1)).to_numpy()
    return same
