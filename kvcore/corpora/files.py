"""Anyone's own samples: JSON Lines or Parquet with query, passage and answer."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kvcore.corpora.sample import Corpus, Sample
from kvcore.errors import KvError

REQUIRED = ("query", "passage", "answer")
PAST_QUERY = "past_query"
OPTIONAL = ("id", "cluster", PAST_QUERY)
Row = tuple[int, Mapping[str, Any]]  # line number from 1, columns


def jsonl_rows(path: Path, data: bytes, _columns: Sequence[str]) -> Iterator[Row]:
    """Yield the objects of a JSON Lines file, whole; blank lines are skipped.

    Raises
    ------
    KvError
        Where a line is not UTF-8, not JSON or not an object; the line is named.
    """
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            why = "not UTF-8" if isinstance(error, UnicodeDecodeError) else f"not JSON ({error})"
            raise KvError(f"{path}: line {number} is {why}; one object a line is needed.") from None
        if not isinstance(row, dict):
            raise KvError(
                f"{path}: line {number} is not a JSON object; write {{...}} on each line."
            )
        yield number, row


def parquet_rows(path: Path, data: bytes, columns: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a Parquet file, counted from 1.

    Parameters
    ----------
    columns : sequence of str
        Which of its columns are made into rows; none named: all.

    Raises
    ------
    KvError
        Where the bytes are not Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        first = (str(error).splitlines() or ["no message"])[0]
        raise KvError(f"{path}: not a readable Parquet file ({first})") from None
    kept = [name for name in columns or table.column_names if name in table.column_names]
    yield from enumerate(table.select(kept).to_pylist(), start=1)


READERS: Mapping[str, Callable[[Path, bytes, Sequence[str]], Iterator[Row]]] = {
    ".jsonl": jsonl_rows,
    ".parquet": parquet_rows,
}


def rows_of_file(path: Path, columns: Sequence[str] = ()) -> tuple[Iterator[Row], str]:
    """Return the rows of a JSON Lines or Parquet file, counted from 1, and its SHA-256.

    Parameters
    ----------
    columns : sequence of str
        Those that are needed: others of a Parquet file are not made into rows. Default: all.

    Raises
    ------
    KvError
        One line: no such file, unknown extension; the bad line, as the rows are read.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise KvError(f"{path}: extension {path.suffix!r} is unknown; use {' or '.join(READERS)}.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise KvError(f"{path}: cannot be read ({error.strerror}); check the path.") from None
    return reader(path, data, columns), hashlib.sha256(data).hexdigest()


def text_of(path: Path, number: int, row: Mapping[str, Any], column: str) -> str:
    """Return a column of a row; null counts as empty, and so does an optional one that lacks.

    Raises
    ------
    KvError
        Where a required column lacks, or the column does not hold text.
    """
    if column in REQUIRED and column not in row:
        raise KvError(
            f"{path}: column {column!r} lacks on line {number}; "
            f"needed are {', '.join(REQUIRED)}, optional are {', '.join(OPTIONAL)}."
        )
    value = row.get(column)
    if value is not None and not isinstance(value, str):
        raise KvError(f"{path}: {column!r} on line {number} is {type(value).__name__}, not text.")
    return value or ""


def sample_of(path: Path, number: int, row: Mapping[str, Any]) -> Sample | str:
    """Turn a row into a sample, or into the reason why it is dropped."""
    texts = {column: text_of(path, number, row, column) for column in REQUIRED}
    empty = next((column for column, text in texts.items() if not text.strip()), None)
    if empty:
        return f"empty {empty}"
    name, cluster = (None if row.get(key) is None else str(row[key]) for key in OPTIONAL[:2])
    past = text_of(path, number, row, PAST_QUERY)
    further = ((PAST_QUERY, past),) if past.strip() else ()
    return Sample(**texts, id=name, cluster=cluster, texts=further)  # type: ignore[arg-type]


def same(one: Sample, other: Sample) -> bool:
    """Tell whether two samples ask the same, with the same further texts."""
    return (one.content_hash, one.texts) == (other.content_hash, other.texts)


def collect(path: Path, rows: Iterator[Row]) -> tuple[tuple[Sample, ...], dict[str, int]]:
    """Turn rows into samples with unique identities, and counts of what was dropped.

    Raises
    ------
    KvError
        Where two different rows have one id.
    """
    kept: dict[str, tuple[int, Sample]] = {}
    dropped: Counter[str] = Counter()
    for number, row in rows:
        made = sample_of(path, number, row)
        if isinstance(made, str):
            dropped[made] += 1
        elif made.id not in kept:
            kept[made.id] = (number, made)
        elif row.get("id") is None and same(kept[made.id][1], made):
            dropped["repeated sample"] += 1
        else:
            first = kept[made.id][0]
            raise KvError(f"{path}: id {made.id!r} on line {number} is already on line {first}; "
                          "give each row an id of its own.")
    return tuple(sample for _, sample in kept.values()), dict(sorted(dropped.items()))


def load_file(given: str) -> Corpus:
    """Load a JSON Lines or Parquet file with the columns query, passage and answer.

    Parameters
    ----------
    given : str
        Path that ends in ``.jsonl`` or ``.parquet``. Optional columns: ``id``, ``cluster`` and
        ``past_query`` (text: an earlier query of the passage; blank or null where there is none).

    Raises
    ------
    KvError
        One line: no such file, unknown extension, the bad line, or nothing left.
    """
    path = Path(given).expanduser()
    rows, revision = rows_of_file(path, (*REQUIRED, *OPTIONAL))
    samples, dropped = collect(path, rows)
    if not samples:
        raise KvError(
            f"{path}: no sample left; dropped: {dropped or 'nothing, the file is empty'}."
        )
    clustered = any(sample.cluster != sample.id for sample in samples)
    unit = "cluster" if clustered else "sample"
    return Corpus(path.stem, samples, dropped, revision, unit, f"samples of {path.name}")
