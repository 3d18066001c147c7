"""Anyone's own data: JSON Lines or Parquet; for samples with query, passage and answer."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kvcore.data.sample import Corpus, Sample
from kvcore.errors import KvError

REQUIRED = ("query", "passage", "answer")
IDENTITY = ("id", "cluster")
PAST_QUERY = "past_query"
OPTIONAL = (*IDENTITY, PAST_QUERY)


@dataclass(frozen=True)
class FileRow:
    """A row of a file, with the place that errors name."""

    path: Path
    number: int  # line of the file, or row of the table, from 1
    columns: Mapping[str, Any]

    def require(self, required: Sequence[str], optional: Sequence[str]) -> None:
        """Raise KvError where a required column is missing."""
        missing = next((column for column in required if column not in self.columns), None)
        if missing is not None:
            raise KvError(
                f"{self.path}: column {missing!r} is missing on line {self.number}; required: "
                f"{', '.join(required)}; optional: {', '.join(optional)}."
            )

    def text(self, column: str) -> str:
        """Return a column's text, empty where it is null or missing; KvError where it is none."""
        value = self.columns.get(column)
        if value is not None and not isinstance(value, str):
            raise KvError(
                f"{self.path}: {column!r} on line {self.number} is {type(value).__name__}, not text"
                "; write a text."
            )
        return value or ""

    def name(self, column: str) -> str | None:
        """Return a column that names something as text, or None where it is null or missing."""
        value = self.columns.get(column)
        return None if value is None else str(value)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return (str(error).splitlines() or ["no message"])[0]


def is_path(name: str) -> bool:
    """Tell whether a name means a file: it has a folder or a known ending, or it exists."""
    folder = os.sep in name or "/" in name
    return folder or name.lower().endswith(tuple(READERS)) or os.path.isfile(name)


def jsonl_rows(path: Path, data: bytes, _columns: Sequence[str]) -> Iterator[FileRow]:
    """Yield the objects of a JSON Lines file, whole; blank lines are skipped.

    Raises KvError where a line is not UTF-8, not JSON or not an object; the line is named.
    """
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            columns = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            why = "not UTF-8" if isinstance(error, UnicodeDecodeError) else f"not JSON ({error})"
            raise KvError(f"{path}: line {number} is {why}; one object a line is needed.") from None
        if not isinstance(columns, dict):
            raise KvError(
                f"{path}: line {number} is not a JSON object; write {{...}} on each line."
            )
        yield FileRow(path, number, columns)


def parquet_rows(path: Path, data: bytes, columns: Sequence[str]) -> Iterator[FileRow]:
    """Yield the rows of a Parquet file, counted from 1.

    `columns`: which of its columns are made into rows; none named: all.

    Raises KvError where the bytes are not Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        raise KvError(f"{path}: not a readable Parquet file ({first_line(error)})") from None
    names = [name for name in columns or table.column_names if name in table.column_names]
    for number, row in enumerate(table.select(names).to_pylist(), start=1):
        yield FileRow(path, number, row)


READERS: Mapping[str, Callable[[Path, bytes, Sequence[str]], Iterator[FileRow]]] = {
    ".jsonl": jsonl_rows,
    ".parquet": parquet_rows,
}


def read_rows(path: Path, columns: Sequence[str] = ()) -> tuple[Iterator[FileRow], str]:
    """Return the rows of a JSON Lines or Parquet file, counted from 1, and its SHA-256.

    `columns`: those that are needed: others of a Parquet file are not made into rows. Default: all.

    Raises KvError, one line: no such file, unknown extension; the bad line, as the rows are read.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise KvError(f"{path}: extension {path.suffix!r} is unknown; use {' or '.join(READERS)}.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise KvError(f"{path}: cannot be read ({error.strerror}); check the path.") from None
    return reader(path, data, columns), hashlib.sha256(data).hexdigest()


def sample_of(row: FileRow) -> Sample | str:
    """Turn a row into a sample, or into the reason why it is dropped."""
    row.require(REQUIRED, OPTIONAL)
    query, passage, answer = texts = [row.text(column) for column in REQUIRED]
    for column, text in zip(REQUIRED, texts, strict=True):
        if not text.strip():
            return f"empty {column}"
    past = row.text(PAST_QUERY)
    id, cluster = map(row.name, IDENTITY)
    further = ((PAST_QUERY, past),) if past.strip() else ()
    return Sample(query, passage, answer, id, cluster, further)  # type: ignore[arg-type]


def unique_samples(rows: Iterable[FileRow]) -> tuple[tuple[Sample, ...], dict[str, int]]:
    """Turn rows into samples with unique ids, and counts of what was dropped.

    Raises KvError where two different rows have one id.
    """
    samples: dict[str, Sample] = {}
    lines: dict[str, int] = {}
    dropped: Counter[str] = Counter()
    for row in rows:
        sample = sample_of(row)
        if isinstance(sample, str):
            dropped[sample] += 1
        elif sample.id not in samples:
            samples[sample.id], lines[sample.id] = sample, row.number
        elif (
            row.name("id") is None and replace(samples[sample.id], cluster=sample.cluster) == sample
        ):
            dropped["repeated sample"] += 1
        else:
            raise repeated_id(row, sample.id, lines[sample.id])
    return tuple(samples.values()), dict(sorted(dropped.items()))


def repeated_id(row: FileRow, id: str, earlier_line: int) -> KvError:
    """Build the error for an id that another row of the file has."""
    return KvError(
        f"{row.path}: id {id!r} on line {row.number} is already on line {earlier_line}; "
        "give each row an id of its own."
    )


def load_file(name: str) -> Corpus:
    """Load a JSON Lines or Parquet file with the columns query, passage and answer.

    `name`: path that ends in ``.jsonl`` or ``.parquet``. Optional columns: ``id``, ``cluster`` and
    ``past_query`` (text: an earlier query of the passage; blank or null where there is none).

    Raises KvError, one line: no such file, unknown extension, the bad line, or nothing left.
    """
    path = Path(name).expanduser()
    rows, revision = read_rows(path, (*REQUIRED, *OPTIONAL))
    samples, dropped = unique_samples(rows)
    if not samples:
        reasons = dropped or "nothing, the file is empty"
        raise KvError(f"{path}: no sample left; dropped: {reasons}.")
    clustered = any(sample.cluster != sample.id for sample in samples)
    unit = "cluster" if clustered else "sample"
    return Corpus(path.stem, samples, dropped, revision, unit, f"samples of {path.name}")
