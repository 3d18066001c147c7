"""What rows hold: their key, their columns, and how far two measurements of one key may differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
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
    "code",
)
Key = tuple[str | int, ...]
NUMBER, COUNT = pa.float64(), pa.int32()
NUMBERS = pa.list_(pa.field("element", pa.float64()))
TEXTS = pa.list_(pa.field("element", pa.string()))
_KEY_FIELDS = tuple((name, pa.int64() if name == "seed" else pa.string()) for name in KEY)


@dataclass(frozen=True)
class RowSchema:
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
        return pa.schema(
            [*_KEY_FIELDS, *((name, self.types.get(name, pa.string())) for name in self.values)]
        )


SCORES = RowSchema(
    {
        "nll": NUMBER,
        "nll_tail": NUMBER,
        "token_nlls": NUMBERS,
        **dict.fromkeys(
            ("n_answer_tokens", "doc_len", "prefix_len", "cache_len", "clean_boundary"), COUNT
        ),
    },
    "nll",
)
VALUES = SCORES.values
# How far two measurements of one key may lie apart, in nats times max(1, nll): batches of another
# shape and other machines' kernels round differently. float32: five times the largest difference
# measured, 1.1e-5 over 4,328 scores on two machines (the values of one prefill under the keys of
# another; half of all differ by less than 1e-6). The others: half a unit in the last place of a
# logit of size 32, summed over a few roundings. They are there to catch rows that are not the same
# measurement; the noise floor of a run judges precision.
TOLERANCES = {"float64": 1e-5, "float32": 5e-5, "float16": 0.03, "bfloat16": 0.25}


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


def rows_hash(rows: pd.DataFrame, kind: RowSchema = SCORES) -> str:
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
    columns = column_lists(to_table(rows, kind), kind.schema.names)
    digests = sorted(hashlib.sha256(json_bytes(row)).digest() for row in zip(*columns, strict=True))
    return hashlib.sha256(b"".join(digests)).hexdigest()


def json_bytes(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=True, sort_keys=True).encode()


def column_lists(table: pa.Table, names: Iterable[str]) -> list[list[Any]]:
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


def to_table(rows: pd.DataFrame, kind: RowSchema) -> pa.Table:
    _check_columns(rows, kind.schema.names)
    columns = []
    for field in kind.schema:
        try:
            columns.append(pa.array(_cells(rows[field.name], field), field.type))
        except (pa.ArrowInvalid, OverflowError) as error:
            message = f"rows: column {field.name!r} must hold {field.type}: {error}."
            raise KvError(message) from error
    return pa.table(columns, schema=kind.schema)


def check_scores(table: pa.Table, score: str) -> None:
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


def holds_floats(kind: pa.DataType) -> bool:
    """Whether a column holds floating-point numbers, one or a list per row."""
    return bool(pa.types.is_floating(kind.value_type if pa.types.is_list(kind) else kind))


def tolerance(dtype: str) -> float:
    """Return how far two measurements in a dtype may differ, in nats times max(1, nll).

    A compound name (``"nf4-float16"``) has the tolerance of the dtype in it, an unknown one the
    largest.
    """
    known = [name for name in TOLERANCES if name in dtype]
    return TOLERANCES[max(known, key=len)] if known else max(TOLERANCES.values())
