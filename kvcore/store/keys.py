"""Keys and hashes of rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import pandas as pd
import pyarrow as pa

from kvcore.store import schema
from kvcore.store.schema import CODE, Key, RowSchema


def row_keys(rows: pd.DataFrame) -> list[Key]:
    """Return the key of every row, cleaned, in the order of `KEY`."""
    return list(zip(*schema.key_columns(rows, schema.KEY), strict=True))


def rows_hash(rows: pd.DataFrame, row_schema: RowSchema) -> str:
    """Return a SHA-256 over all rows that does not depend on their order.

    Returns 64 hex digits. Equal exactly if every value is (NaN and null are one); the same for any
    version of pandas, pyarrow and Python.

    `rows`: at least the columns of the schema; others do not count, nor does `CODE`: rows that
    equal one another are the same whichever code measured them.
    """
    return hash_of_digests(row_digests(rows, row_schema))


def row_digests(rows: pd.DataFrame, row_schema: RowSchema) -> list[bytes]:
    """Return the SHA-256 of every row's values, from which `hash_of_digests` joins `rows_hash`."""
    names = [name for name in row_schema.schema.names if name != CODE]
    columns = column_lists(schema.to_table(rows, row_schema), names)
    return [hashlib.sha256(json_bytes(row)).digest() for row in zip(*columns, strict=True)]


def hash_of_digests(digests: Iterable[bytes]) -> str:
    """Return the hash of all rows that have these digests, in any order."""
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def json_bytes(value: object) -> bytes:
    """Spell a value as JSON in ASCII, the same for every Python."""
    return json.dumps(value, ensure_ascii=True, sort_keys=True).encode()


def column_lists(table: pa.Table, names: Iterable[str]) -> list[list[Any]]:
    """Return columns of a table as lists of Python objects."""
    return [table[name].to_pylist() for name in names]
