"""What rows hold: their key, where their numbers come from, and the columns of their kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from kvcore.errors import KvError

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
    "method",
)
"""What a row depends on. ``method`` is the kind of measurement and its version
(``answer_nll/1``), with a hash of the recipe behind it where a user defined the condition."""
CODE = "code"
"""Provenance, no part of the key: the hash of the code that measured the row."""
Key = tuple[str | int, ...]
NUMBER, COUNT = pa.float64(), pa.int32()
NUMBERS = pa.list_(pa.field("element", pa.float64()))
TEXTS = pa.list_(pa.field("element", pa.string()))
_ROW_FIELDS = tuple(
    pa.field(name, pa.int64() if name == "seed" else pa.string()) for name in (*KEY, CODE)
)
FIELD_OF = {field.name: field for field in _ROW_FIELDS}
"""The columns of `KEY`, and `CODE`."""


@dataclass(frozen=True)
class RowSchema:
    """What the rows of one kind of measurement hold beside their key.

    - `types`: `NUMBER`, `NUMBERS`, `COUNT`, `TEXTS` or text by column; ``status`` and ``cluster``
      come before.
    - `score`: the column that is finite in every row whose status is ``ok``.
    """

    types: Mapping[str, pa.DataType]
    score: str

    @property
    def values(self) -> tuple[str, ...]:
        """The columns beside key and provenance."""
        return ("status", "cluster", *self.types)

    @property
    def schema(self) -> pa.Schema:
        """All columns and their types: `KEY`, `CODE`, `values`."""
        values = (pa.field(name, self.types.get(name, pa.string())) for name in self.values)
        return pa.schema([*_ROW_FIELDS, *values])


def clean(text: str) -> str:
    r"""Replace lone surrogates, which no file can hold, by their escapes (``\udc80``).

    Deterministic; text without lone surrogates is returned unchanged. An escape written out in the
    text stays as it is, so two ids could become one, which `kvcore.store.fill.plan` refuses.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def key_columns(rows: pd.DataFrame, names: Sequence[str] = KEY) -> list[list[Any]]:
    """Return columns of `KEY`, or `CODE`, as lists of plain Python objects, texts cleaned."""
    check_columns(rows, names)
    return [_cells(rows[name], FIELD_OF[name]) for name in names]


def check_columns(rows: pd.DataFrame, required: Sequence[str]) -> None:
    """Raise KvError for the first required column that is absent."""
    absent = [name for name in required if name not in rows.columns]
    if absent:
        raise KvError(f"rows: column {absent[0]!r} is missing; required: {', '.join(required)}.")


def to_table(rows: pd.DataFrame, schema: RowSchema) -> pa.Table:
    """Return rows as a table of exactly the schema's columns.

    Raises KvError where a column is absent, or a value is not of its column's type.
    """
    check_columns(rows, schema.schema.names)
    columns = []
    for field in schema.schema:
        try:
            columns.append(pa.array(_cells(rows[field.name], field), field.type))
        except (pa.ArrowInvalid, OverflowError) as error:
            message = f"rows: column {field.name!r} must hold {field.type}: {error}."
            raise KvError(message) from error
    return pa.table(columns, schema=schema.schema)


def _cells(column: pd.Series[Any], field: pa.Field) -> list[Any]:
    """Return a column's values as plain Python objects of the schema's type."""
    name, kind = field.name, field.type
    empty = column.isna().tolist()
    if (name in FIELD_OF or name == "status") and any(empty):
        raise KvError(f"rows: column {name!r} has an empty value; every row needs one.")
    cells = zip(column.tolist(), empty, strict=True)
    try:
        if pa.types.is_string(kind):
            return [clean(str(value)) for value, _ in cells]
        if pa.types.is_integer(kind):
            return [-1 if is_empty else int(value) for value, is_empty in cells]
        if pa.types.is_floating(kind):
            return [None if is_empty else float(value) for value, is_empty in cells]
        element = clean if kind == TEXTS else float
        return [None if is_empty else [element(x) for x in value] for value, is_empty in cells]
    except (TypeError, ValueError, OverflowError) as error:
        raise KvError(f"rows: column {name!r} must hold {kind}: {error}.") from error


def check_scores(table: pa.Table, score: str) -> None:
    """Raise KvError for rows whose status is ``ok`` and that have no finite score."""
    is_ok = np.array([status == "ok" for status in table["status"].to_pylist()], dtype=bool)
    finite = np.isfinite(table[score].to_numpy())
    bad = np.flatnonzero(is_ok & ~finite)
    if bad.size:
        row = table.slice(int(bad[0]), 1).to_pylist()[0]
        raise KvError(
            f"rows: sample {row['sample_id']!r} under {row['condition']!r} has status 'ok' and "
            f"{score} {row[score]}; a row without a finite {score} needs a status that says why."
        )


def holds_floats(kind: pa.DataType) -> bool:
    """Whether a column holds floating-point numbers, one or a list per row."""
    return bool(pa.types.is_floating(kind.value_type if pa.types.is_list(kind) else kind))
