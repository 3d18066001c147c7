"""Anyone's own data: JSON, JSON Lines, CSV or Parquet; samples with query, passage and answer.

A column may be spelled otherwise than here: case, blanks and hyphens make no difference
(``Question``, ``alt-problem``), and `ALIASES` has further names. A column of the exact name wins.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvcore.data.sample import Corpus, Sample, name_or_none
from kvcore.errors import KvError

if TYPE_CHECKING:
    import pyarrow as pa

REQUIRED = ("query", "passage", "answer")
IDENTITY = ("id", "cluster")
PAST_QUERY = "past_query"
OPTIONAL = (*IDENTITY, PAST_QUERY)
ALIASES: Mapping[str, tuple[str, ...]] = {
    "query": ("question",),
    "passage": ("context", "document"),
    "question": ("problem",),
    "alt_problem": ("alt_question",),
}
"""Further names of a column, spelled as `plain_name` spells them; the first one there is read."""


@dataclass(frozen=True)
class FileRow:
    """A row of a file, with the place that errors name."""

    path: Path
    number: int  # line of the file, or object or row of the table, from 1
    columns: Mapping[str, Any]

    def renamed(self, names: Sequence[str]) -> FileRow:
        """Return the row with these columns under these names, however the file spells them.

        Raises KvError where two columns would be the same one.
        """
        sources = column_sources(self.path, list(self.columns), names)
        others = {c: v for c, v in self.columns.items() if c not in sources.values()}
        own = {name: self.columns[source] for name, source in sources.items()}
        return replace(self, columns=others | own)

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
        """Return a column that names something as text; None where it is null, NaN or blank."""
        return name_or_none(self.columns.get(column))


def plain_name(column: str) -> str:
    """Spell a column's name in small letters, with ``_`` for blanks and hyphens.

    Examples
    --------
    >>> plain_name(" Alt-Problem")
    'alt_problem'
    """
    return "_".join(column.replace("-", " ").replace("_", " ").split()).casefold()


def column_sources(path: Path, present: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Return the file's own column for each of the names that it has, by name.

    Raises KvError where two columns of the file are spelled alike and neither has the exact name.
    """
    alike: dict[str, list[str]] = {}
    for column in present:
        alike.setdefault(plain_name(column), []).append(column)
    sources: dict[str, str] = {}
    for name in names:
        if name in present:
            sources[name] = name
            continue
        spellings = (name, *(alias for alias in ALIASES.get(name, ()) if alias not in names))
        columns = next((alike[s] for s in map(plain_name, spellings) if s in alike), [])
        if len(columns) > 1:
            raise KvError(
                f"{path}: columns {' and '.join(map(repr, columns))} are both {name!r}; call one "
                f"of them {name!r}."
            )
        if columns:
            sources[name] = columns[0]
    return sources


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


def json_rows(path: Path, data: bytes, _columns: Sequence[str]) -> Iterator[FileRow]:
    """Yield the objects of a JSON file that holds a list of them, counted from 1.

    Raises KvError where the bytes are not UTF-8, not JSON, no list, or a member is no object.
    """
    try:
        members = json.loads(data.removeprefix(b"\xef\xbb\xbf").decode("utf-8"))
    except (ValueError, RecursionError) as error:
        why = "not UTF-8" if isinstance(error, UnicodeDecodeError) else f"not JSON ({error})"
        raise KvError(f"{path}: {why}; a list of objects is needed.") from None
    if not isinstance(members, list):
        raise KvError(f"{path}: not a list of objects; write [{{...}}, {{...}}], or use .jsonl.")
    for number, columns in enumerate(members, start=1):
        if not isinstance(columns, dict):
            raise KvError(f"{path}: member {number} of the list is not an object; write {{...}}.")
        yield FileRow(path, number, columns)


def csv_rows(path: Path, data: bytes, columns: Sequence[str]) -> Iterator[FileRow]:
    """Yield the rows of a CSV file with a header, counted from 1: texts, null where empty.

    Numbers stay as they are written. Raises KvError where the bytes are not CSV in UTF-8 or two
    columns have one name.
    """
    import pyarrow as pa
    from pyarrow import csv

    parsing = csv.ParseOptions(newlines_in_values=True)
    whole = csv.ReadOptions(block_size=min(len(data) + 1, 2**31 - 1))  # a row may be of any length
    try:
        with csv.open_csv(io.BytesIO(data), whole, parsing) as reader:
            names = reader.schema.names
        converting = csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
        )
        table = csv.read_csv(io.BytesIO(data), whole, parsing, converting)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise KvError(f"{path}: not readable CSV ({first_line(error)})") from None
    yield from _table_rows(path, table, columns)


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
    yield from _table_rows(path, table, columns)


def _table_rows(path: Path, table: pa.Table, columns: Sequence[str]) -> Iterator[FileRow]:
    repeated = [name for name, n in Counter(table.column_names).items() if n > 1]
    if repeated:
        raise KvError(f"{path}: column {repeated[0]!r} is there twice; rename one of them.")
    sources = column_sources(path, table.column_names, columns)
    names = list(dict.fromkeys(sources.values())) if columns else table.column_names
    values = {name: column_values(path, table, name) for name in names}
    for row in range(table.num_rows):
        yield FileRow(path, row + 1, {name: values[name][row] for name in names})


def column_values(path: Path, table: pa.Table, name: str) -> list[Any]:
    """Return a column of a Parquet file's table; KvError where it is not what its type says."""
    try:
        return table.column(name).to_pylist()  # type: ignore[no-any-return]
    except (ValueError, OverflowError) as error:  # text that is not UTF-8, a date out of range
        raise KvError(
            f"{path}: column {name!r} holds what is no {table.schema.field(name).type} "
            f"({first_line(error)}); write the column anew, or as text."
        ) from None


READERS: Mapping[str, Callable[[Path, bytes, Sequence[str]], Iterator[FileRow]]] = {
    ".jsonl": jsonl_rows,
    ".json": json_rows,
    ".csv": csv_rows,
    ".parquet": parquet_rows,
}
ENDINGS = f"{', '.join([*READERS][:-1])} or {[*READERS][-1]}"


def read_rows(path: Path, columns: Sequence[str] = ()) -> tuple[Iterator[FileRow], str]:
    """Return the rows of a file, counted from 1, and its SHA-256.

    `columns`: those that are needed, under these names in every row however the file spells them;
    others of a table are not made into rows. Default: all, as the file has them.

    Raises KvError, one line: no such file, unknown extension; the bad line, as the rows are read.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise KvError(f"{path}: extension {path.suffix!r} is unknown; use {ENDINGS}.")
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: of a null byte in the path
        why = error.strerror if isinstance(error, OSError) else error
        raise KvError(f"{path}: cannot be read ({why}); check the path.") from None
    rows = reader(path, data, columns)
    named = (row.renamed(columns) for row in rows) if columns else rows
    return named, hashlib.sha256(data).hexdigest()


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


def path_at(name: str) -> Path:
    """Return the path that a text spells, ``~`` read as a home; it stays where there is no user."""
    return Path(os.path.expanduser(name))


def load_file(name: str) -> Corpus:
    """Load a file with the columns query, passage and answer.

    `name`: path that ends in ``.jsonl``, ``.json`` (a list of objects), ``.csv`` or ``.parquet``;
    columns may be spelled otherwise (`ALIASES`). Optional columns: ``id``, ``cluster`` and
    ``past_query`` (text: an earlier query of the passage; blank or null where there is none).

    Raises KvError, one line: no such file, unknown extension, the bad line, or nothing left.
    """
    path = path_at(name)
    rows, revision = read_rows(path, (*REQUIRED, *OPTIONAL))
    samples, dropped = unique_samples(rows)
    if not samples:
        reasons = dropped or "nothing, the file is empty"
        raise KvError(f"{path}: no sample left; dropped: {reasons}.")
    clustered = any(sample.cluster != sample.id for sample in samples)
    unit = "cluster" if clustered else "sample"
    return Corpus(path.stem, samples, dropped, revision, unit, f"samples of {path.name}")
