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

import ast
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

from kvcore.errors import KvError, unknown

VERSION = 1
KEY = (
    "model",
    "model_id",
    "dtype",
    "tokenizer",
    "dataset",
    "sample_id",
    "sample_hash",
    "condition",
    "seed",
    "template",
    "code",
)
Key = tuple[str | int, ...]

NUMBER, COUNT = pa.float64(), pa.int32()
NUMBERS = pa.list_(pa.field("element", pa.float64()))
TEXTS = pa.list_(pa.field("element", pa.string()))
_KEY_FIELDS = tuple((name, pa.int64() if name == "seed" else pa.string()) for name in KEY)


@dataclass(frozen=True)
class Kind:
    """What the rows of one kind of measurement hold beside their key.

    Parameters
    ----------
    types : mapping of str to pyarrow type
        `NUMBER`, `NUMBERS`, `COUNT`, `TEXTS` or text by column; ``status`` and ``cluster`` come
        before.
    score : str
        The column that is finite in every row whose status is ``ok``.
    """

    types: Mapping[str, pa.DataType]
    score: str

    @property
    def values(self) -> tuple[str, ...]:
        """The columns beside the key."""
        return ("status", "cluster", *self.types)

    @property
    def schema(self) -> pa.Schema:
        """All columns and their types."""
        return pa.schema([*_KEY_FIELDS, *(
            (name, self.types.get(name, pa.string())) for name in self.values)])


SCORES = Kind({"nll": NUMBER, "nll_tail": NUMBER, "token_nlls": NUMBERS,
               **dict.fromkeys(("n_answer_tokens", "doc_len", "prefix_len", "cache_len",
                                "clean_boundary"), COUNT)}, "nll")
VALUES = SCORES.values

# How far two measurements of one key may lie apart, in nats times max(1, nll): batches of another
# shape and other machines' kernels round differently. float32: five times the largest difference
# measured, 1.1e-5 over 4,328 scores on two machines (the values of one prefill under the keys of
# another; half of all differ by less than 1e-6). The others: half a unit in the last place of a
# logit of size 32, summed over a few roundings. They are there to catch rows that are not the same
# measurement; the noise floor of a run judges precision.
TOLERANCES = {"float64": 1e-5, "float32": 5e-5, "float16": 0.03, "bfloat16": 0.25}

_RECORD = b"kvcore"
_SHARD = re.compile(r"part-\d+-[0-9a-f]{32}\.parquet")
_STALE_SECONDS = 86_400.0


class StoreWarning(UserWarning):
    """A shard is damaged: it was set aside and its rows count as missing."""


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
    kind: Kind = SCORES

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
        table = _table(rows, self.kind)
        _check_scores(table, self.kind.score)
        data = _encode(table, meta)
        path = self.root / f"part-{os.getpid()}-{_fingerprint(data)}.parquet"
        with disk_errors(self.root, f"write {len(rows)} rows"):
            self.root.mkdir(parents=True, exist_ok=True)
            _publish(data, path)
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
        keys = row_keys(wanted)
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        return wanted.iloc[sorted(place for key, place in first.items() if key not in present)]

    def shards(self) -> tuple[Path, ...]:
        """List the shards, damaged and unfinished ones excluded, by name.

        Files whose names are not a shard's are never read, renamed or removed.
        """
        with disk_errors(self.root, "list the shards"):
            try:
                names = os.listdir(self.root)
            except FileNotFoundError:
                return ()
        return tuple(self.root / name for name in sorted(names) if _SHARD.fullmatch(name))

    def keys(self, shards: Iterable[Path]) -> frozenset[Key]:
        """Read the keys of the verified rows in some shards (damaged ones are set aside)."""
        tables = [shard.table for shard in self._shards(shards, {})]
        return frozenset(key for table in tables for key in zip(*_lists(table, KEY), strict=True))

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


def clean(text: str) -> str:
    r"""Replace lone surrogates, which no file can hold, by their escapes (``\udc80``).

    Deterministic; text without lone surrogates is returned unchanged. An escape written out in the
    text stays as it is, so two ids could become one, which `kvcore.measure.plan` refuses.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def row_keys(rows: pd.DataFrame) -> list[Key]:
    """Return the key of every row, cleaned, in the order of `KEY`."""
    _check_columns(rows, KEY)
    columns = [_cells(rows[name], SCORES.schema.field(name)) for name in KEY]
    return list(zip(*columns, strict=True))


def rows_hash(rows: pd.DataFrame, kind: Kind = SCORES) -> str:
    """Return a SHA-256 over all rows and columns that does not depend on their order.

    Parameters
    ----------
    rows : DataFrame
        At least the columns `KEY` and the kind's values; others do not count.

    Returns
    -------
    str
        64 hex digits. Equal exactly if every value is (NaN and null are one); the same for any
        version of pandas, pyarrow and Python.
    """
    columns = _lists(_table(rows, kind), kind.schema.names)
    digests = sorted(hashlib.sha256(_json(row)).digest() for row in zip(*columns, strict=True))
    return hashlib.sha256(b"".join(digests)).hexdigest()


def code_hash(paths: Iterable[Path]) -> str:
    """Return a hash of what Python sources do, comments, docstrings and layout left out.

    Parameters
    ----------
    paths : iterable of Path
        Source files; their order and folders do not count, their names do.

    Returns
    -------
    str
        16 hex digits, the same for every supported Python.

    Raises
    ------
    KvError
        A file that cannot be read or is no Python.
    """
    parts = []
    for path in paths:
        try:
            parts.append([path.name, _outline(ast.parse(path.read_bytes()))])
        except (OSError, SyntaxError, ValueError) as error:
            raise KvError(f"code hash: {path} is no readable Python source: {error}.") from error
    return hashlib.sha256(_json(sorted(parts))).hexdigest()[:16]


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


def _outline(node: object) -> Any:
    """Spell a syntax tree as nested lists, without what no number depends on.

    Not ``ast.dump``, which spells the same tree differently from one Python to the next.
    """
    if isinstance(node, list):
        return [_outline(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        documented = ast.get_docstring(node, clean=False) is not None
        fields["body"] = node.body[1:] if documented else node.body
    if isinstance(node, ast.JoinedStr):  # Python 3.12.1 ends a nested format with an empty piece
        fields["values"] = [v for v in node.values if getattr(v, "value", None) != ""]
    kept = {name: value for name, value in fields.items() if value is not None and value != []}
    return [type(node).__name__, {name: _outline(value) for name, value in kept.items()}]


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=True, sort_keys=True).encode()


def _lists(table: pa.Table, names: Iterable[str]) -> list[list[Any]]:
    return [table[name].to_pylist() for name in names]


def _check_columns(rows: pd.DataFrame, names: Sequence[str]) -> None:
    absent = [name for name in names if name not in rows.columns]
    if absent:
        raise KvError(f"rows lack the column {absent[0]!r}; needed are {', '.join(names)}.")


def _cells(column: pd.Series[Any], field: pa.Field) -> list[Any]:
    """Return a column's values as plain Python objects of the schema's type."""
    name, kind = field.name, field.type
    empty = column.isna().tolist()
    if name in (*KEY, "status") and any(empty):
        raise KvError(f"rows: column {name!r} has an empty value; every row needs one.")
    cells = zip(column.tolist(), empty, strict=True)
    try:
        if pa.types.is_string(kind):
            return [clean(str(value)) for value, _ in cells]
        if pa.types.is_integer(kind):
            return [-1 if none else int(value) for value, none in cells]
        if pa.types.is_floating(kind):
            return [None if none else float(value) for value, none in cells]
        one = clean if kind == TEXTS else float
        return [None if none else [one(x) for x in value] for value, none in cells]
    except (TypeError, ValueError, OverflowError) as error:
        raise KvError(f"rows: column {name!r} must hold {kind}: {error}.") from error


def _table(rows: pd.DataFrame, kind: Kind) -> pa.Table:
    _check_columns(rows, kind.schema.names)
    columns = []
    for field in kind.schema:
        try:
            columns.append(pa.array(_cells(rows[field.name], field), field.type))
        except (pa.ArrowInvalid, OverflowError) as error:
            message = f"rows: column {field.name!r} must hold {field.type}: {error}."
            raise KvError(message) from error
    return pa.table(columns, schema=kind.schema)


def _check_scores(table: pa.Table, score: str) -> None:
    """Refuse rows that claim to be scored and have no finite score."""
    scored = np.array([status == "ok" for status in table["status"].to_pylist()], dtype=bool)
    finite = np.isfinite(table[score].to_numpy())
    bad = np.flatnonzero(scored & ~finite)
    if bad.size:
        row = table.slice(int(bad[0]), 1).to_pylist()[0]
        raise KvError(
            f"rows: sample {row['sample_id']!r} under {row['condition']!r} has status 'ok' and "
            f"{score} {row[score]}; a row without a finite {score} needs a status that says why."
        )


def _encode(table: pa.Table, meta: Mapping[str, str]) -> bytes:
    """Spell rows as the bytes of a shard, checksums and record included."""
    record = _json({
        "version": VERSION,
        "written": datetime.now(UTC).isoformat(timespec="microseconds"),
        "id": uuid.uuid4().hex,  # no two shards have the same bytes, hence none the same name
        "meta": {clean(str(name)): clean(str(value)) for name, value in meta.items()},
    })  # fmt: skip
    sink = pa.BufferOutputStream()
    measured = [f for f in table.schema if _is_measured(f.type)]
    pq.write_table(
        table.replace_schema_metadata({_RECORD: record}),
        sink,
        compression="zstd",
        compression_level=15,  # a shard is written once and shipped
        # Measured numbers hardly repeat: byte by byte they take a third less than in dictionaries.
        use_dictionary=[f.name for f in table.schema if f not in measured],
        use_byte_stream_split=[f.name + (".list.element" if pa.types.is_list(f.type) else "")
                               for f in measured],
        write_page_checksum=True,
    )
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _is_measured(kind: pa.DataType) -> bool:
    """Whether a column holds floating-point numbers, one or a list per row."""
    return bool(pa.types.is_floating(kind.value_type if pa.types.is_list(kind) else kind))


def _publish(data: bytes, path: Path) -> None:
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


def _verified(path: Path, kind: Kind) -> _Shard:
    """Read a shard of this version whose rows are exactly those written, or raise."""
    with disk_errors(path.parent, f"read {path.name}"):
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
        raise KvError(f"store {path.parent}: {path.name} holds rows of another kind of measurement;"
                      " choose another store folder. Nothing was changed.")
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
        if name not in KEY:
            raise unknown("filter", name, KEY)
        values = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
        kind = SCORES.schema.field(name).type
        typed = [clean(str(x)) if pa.types.is_string(kind) else int(x) for x in values]
        keep[name] = pa.array(typed, kind)
    return keep


def _select(table: pa.Table, keep: Mapping[str, pa.Array]) -> pa.Table:
    for name, values in keep.items():
        table = table.filter(pc.is_in(table[name], value_set=values))
    return table


def _merge(root: Path, shards: Sequence[_Shard], kind: Kind) -> pa.Table:
    """Put shards together: sorted by key, each key once, the earliest written first."""
    if not shards:
        return kind.schema.empty_table()
    parts = [
        shard.table.append_column("_written", pa.repeat(shard.written, shard.table.num_rows))
        .append_column("_shard", pa.repeat(shard.name, shard.table.num_rows))
        for shard in shards
    ]  # fmt: skip
    order = [(name, "ascending") for name in (*KEY, "_written", "_shard")]
    table = pa.concat_tables(parts).combine_chunks().sort_by(order)
    again = _same_key_as_before(table)
    if again.any():
        _check_agreement(root, table, again, kind)
        table = table.filter(pa.array(~again))
    return table.select(kind.schema.names)


def _same_key_as_before(table: pa.Table) -> np.ndarray[Any, np.dtype[np.bool_]]:
    same = np.ones(table.num_rows, dtype=bool)
    same[:1] = False
    for name in KEY:
        column = table[name]
        same[1:] &= pc.equal(column.slice(1), column.slice(0, len(same) - 1)).to_numpy()
    return same


def _check_agreement(root: Path, table: pa.Table, again: np.ndarray[Any, Any], kind: Kind
                     ) -> None:
    """Raise for the first key whose measurements disagree."""
    kept = np.maximum.accumulate(np.where(again, 0, np.arange(len(again))))
    rows = np.flatnonzero(again)
    first, other = table.take(kept[rows]).to_pylist(), table.take(rows).to_pylist()
    for one, two in zip(first, other, strict=True):
        column = _disagreement(one, two, kind)
        if column:
            named = ", ".join(f"{name}={one[name]}" for name in KEY)
            raise KvError(
                f"store {root}: two measurements of one key disagree: {column} is {one[column]} in "
                f"{one['_shard']} and {two[column]} in {two['_shard']} (allowed: "
                f"{tolerance(one['dtype'])} x max(1, value)) for {named}; move one of the two "
                "shards out of the folder."
            )


def _disagreement(one: Mapping[str, Any], two: Mapping[str, Any], kind: Kind) -> str | None:
    """Name the column in which two measurements of one key differ by more than rounding."""
    for name in kind.values:
        if kind.types.get(name) in (NUMBERS, TEXTS):  # what they add up to is compared
            continue
        if kind.types.get(name) != NUMBER or one[name] is None or two[name] is None:
            if one[name] != two[name]:
                return name
        elif abs(one[name] - two[name]) > tolerance(one["dtype"]) * max(1.0, abs(one[name])):
            return name
    return None


def tolerance(dtype: str) -> float:
    """Return how far two measurements in a dtype may differ, in nats times max(1, nll).

    A compound name (``"nf4-float16"``) has the tolerance of the dtype in it, an unknown one the
    largest.
    """
    known = [name for name in TOLERANCES if name in dtype]
    return TOLERANCES[max(known, key=len)] if known else max(TOLERANCES.values())
