"""One shard: a Parquet file that proves to hold exactly what was written.

The hash in its name is the SHA-256 (its first 128 bits) of the very bytes of the file: the
checksums of Parquet pages, which are written and verified too, leave page headers and the footer
open. The file's metadata hold, as JSON under ``kvcore``, the store version, the time of writing and
where the rows were measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kvcore import io
from kvcore.errors import KvError
from kvcore.store import keys, schema
from kvcore.store.artifact_names import fingerprint
from kvcore.store.remote import shown
from kvcore.store.schema import CODE, RowSchema

VERSION = 2
_RECORD = b"kvcore"
NAME = re.compile(r"part-\d+-[0-9a-f]{32}\.parquet")


class Damaged(Exception):
    """What is wrong with a shard."""


class Vanished(Exception):
    """A shard that another process has set aside since it was listed."""


@dataclass(frozen=True)
class ShardFile:
    """A shard that was read and verified.

    - `name`: of its file.
    - `written`: when, as ISO 8601 in UTC: of two measurements of one row the earlier counts.
    - `table`: its rows.
    """

    name: str
    written: str
    table: pa.Table


def encode(table: pa.Table, meta: Mapping[str, str]) -> bytes:
    """Spell rows as the bytes of a shard, checksums and record included."""
    record = keys.json_bytes(
        {
            "version": VERSION,
            "written": datetime.now(UTC).isoformat(timespec="microseconds"),
            "id": uuid.uuid4().hex,  # no two shards have the same bytes, hence none the same name
            "meta": {
                schema.clean(str(name)): schema.clean(str(value)) for name, value in meta.items()
            },
        }
    )
    sink = pa.BufferOutputStream()
    floats = [field for field in table.schema if schema.holds_floats(field.type)]
    pq.write_table(
        table.replace_schema_metadata({_RECORD: record}),
        sink,
        compression="zstd",
        compression_level=15,  # a shard is written once and shipped
        # Measured numbers hardly repeat: byte by byte they take a third less than in dictionaries.
        use_dictionary=[field.name for field in table.schema if field not in floats],
        use_byte_stream_split=[
            field.name + (".list.element" if pa.types.is_list(field.type) else "")
            for field in floats
        ],
        write_page_checksum=True,
    )
    data: bytes = sink.getvalue().to_pybytes()
    return data


def name_of(data: bytes) -> str:
    """Return the file name of a shard with these bytes, written by this process."""
    return f"part-{os.getpid()}-{fingerprint(data)}.parquet"


def read(path: Path, row_schema: RowSchema, first_method: str) -> ShardFile:
    """Read a shard whose bytes are exactly those written.

    `first_method`: what measured the rows of store version 1, which had no column for it.

    Raises Damaged or Vanished where the file holds other bytes than those written, or is no longer
    there.
    Raises KvError for a store version that this code cannot read, another kind of measurement, a
    folder that cannot be read.
    """
    with io.disk_errors(shown(path.parent), f"read {path.name}"):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise Vanished(path.name) from None
    check_bytes(path, data)
    with _damage():
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        record = json.loads(file.metadata.metadata[_RECORD])
        version, written = int(record["version"]), str(record["written"])
    check_version(path, version)
    columns = list(row_schema.schema.names)
    stored = columns if version > 1 else [name for name in columns if name != "method"]
    if file.schema_arrow.names != stored:
        raise KvError(
            f"store {shown(path.parent)}: {path.name} holds rows of another kind of measurement;"
            " choose another store folder. Nothing was changed."
        )
    with _damage():
        table = file.read().replace_schema_metadata(None)
        if version == 1:
            methods = pa.repeat(first_method, table.num_rows)
            table = table.add_column(columns.index(CODE) - 1, "method", methods)
        return ShardFile(path.name, written, table.cast(row_schema.schema))


def check_bytes(path: Path, data: bytes) -> None:
    """Raise `Damaged` for bytes that are not those the shard was named after."""
    if not path.name.endswith(f"-{fingerprint(data)}.parquet"):
        raise Damaged(f"its {len(data)} bytes are not those written")


def check_version(path: Path, version: int) -> None:
    """Raise KvError for a store version that this code cannot read."""
    if not 1 <= version <= VERSION:
        raise KvError(
            f"store {shown(path.parent)}: {path.name} has store version {version}, this kvcore "
            f"reads versions 1 to {VERSION}: choose another store folder, or use the kvcore that "
            "wrote it. Nothing was changed."
        )


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    """Call whatever fails inside damage: pyarrow meets broken bytes with any exception there is."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Damaged(reason[:120]) from error
