"""Datasets of the hub: one record says all about each, and one loader serves them all.

Files are streamed batch by batch with Hugging Face's ``datasets``, only the columns that are
needed: a split is never held in memory or copied to disk a second time. Where a column holds whole
books or web pages beside what is needed of it (`HubDataset.within_columns`), pyarrow reads the
needed parts alone, which ``datasets`` cannot.
"""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvcore.data.files import first_line
from kvcore.data.past_queries import with_past_queries
from kvcore.data.sample import Corpus, Sample, name_or_none
from kvcore.errors import KvError, MissingResource

if TYPE_CHECKING:
    import pyarrow as pa

TIMEOUT = 5.0  # seconds until a hub that does not answer counts as absent
BATCH = 64  # rows decoded at a time: a row may hold a whole web page

HubRow = Mapping[str, Any]
# "text", "integer", "bool", [type] for a list, {name: type} for what has named parts
ColumnType = str | list["ColumnType"] | dict[str, "ColumnType"]


@dataclass(frozen=True)
class HubDataset:
    """A dataset of the hub: where it lies, what is read of it and what a row becomes."""

    name: str  # what the corpus is called here
    repository: str  # on the hub
    revision: str  # a full commit hash
    files: tuple[str, ...]  # Parquet files in the repository, read in this order
    # What is read, and of which type it must be; anything else in the files is left alone.
    columns: dict[str, ColumnType]
    # Turns a row into a sample, or into the reason why it is dropped.
    sample_of: Callable[[HubRow], Sample | str]
    cluster_unit: str  # this and the note as in `Corpus`
    note: str
    # Returns the row's passages that do not answer its query, where the data names them.
    others_of: Callable[[HubRow], tuple[str, ...]] | None = None
    # Whether only parts of large columns are decoded, those that are named in ``columns``.
    within_columns: bool = False
    # Likewise those that answer it too, beside the sample's own.
    relevant_of: Callable[[HubRow], tuple[str, ...]] | None = None
    # Whether a passage is asked several queries, so that each has past ones.
    past_queries: bool = False

    @property
    def fetch_command(self) -> str:
        """Return the command that fetches the files."""
        files = " ".join(self.files)
        return (
            f"hf download {self.repository} {files} --repo-type dataset --revision {self.revision}"
        )

    def unreadable(self, path: Path, format: str, error: Exception) -> KvError:
        """Build the error for a local file that cannot be read."""
        return KvError(
            f"{self.name}: {path.name} is not readable {format} ({first_line(error)}); delete it "
            f"and run: {self.fetch_command}"
        )


def column_paths(columns: Mapping[str, ColumnType]) -> list[str]:
    """Return the dotted paths that pyarrow is asked for: down to the first list of each."""
    paths = []
    for name, type_ in columns.items():
        parts = column_paths(type_) if isinstance(type_, dict) else []
        paths += [f"{name}.{part}" for part in parts] or [name]
    return paths


def missing_column(column: str, required: Iterable[str], present: Iterable[str]) -> str:
    """Say that a column is missing, and which ones are there."""
    return (
        f"column {column!r} is missing; required: {', '.join(required)}; "
        f"present: {', '.join(present)}"
    )


def schema_mismatch(
    required: Mapping[str, ColumnType], fields: Iterable[pa.Field], within: str = ""
) -> str | None:
    """Say which column is missing or of another type than required, or None.

    - `fields`: what the file has.
    - `within`: path of the column that holds these, with a dot at its end.
    """
    types = {field.name: field.type for field in fields}
    for name, type_ in required.items():
        if name not in types:
            return missing_column(within + name, required, types)
        mismatch = _type_mismatch(within + name, type_, types[name])
        if mismatch:
            return mismatch
    return None


def _type_mismatch(column: str, required: ColumnType, actual: pa.DataType) -> str | None:
    from pyarrow import types

    if isinstance(required, dict):
        if types.is_struct(actual):
            return schema_mismatch(required, actual, f"{column}.")
        return f"column {column!r} is {actual}, it needs the parts {', '.join(required)}"
    if isinstance(required, list):
        if types.is_list(actual) or types.is_large_list(actual):
            return _type_mismatch(f"{column}[]", required[0], actual.value_type)
        return f"column {column!r} is {actual}, not a list"
    fits = {
        "text": types.is_string(actual) or types.is_large_string(actual),
        "integer": types.is_integer(actual),
        "bool": types.is_boolean(actual),
    }
    return None if fits[required] else f"column {column!r} is {actual}, not {required}"


def rows_of(data: HubDataset, path: Path) -> Iterator[HubRow]:
    """Yield the rows of one of the dataset's files: the needed columns, nulls made empty.

    Raises KvError where the file is not Parquet, or a needed column is missing or of another type.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            mismatch = schema_mismatch(data.columns, file.schema_arrow)
            if mismatch:
                raise KvError(f"{data.name}: {mismatch}.")
            if data.within_columns:
                paths = column_paths(data.columns)
                batches = file.iter_batches(batch_size=BATCH, columns=paths)
            else:
                batches = streamed(path, list(data.columns))
            for batch in batches:
                yield from (without_nulls(data.columns, row) for row in batch.to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise data.unreadable(path, "Parquet", error) from None


def streamed(path: Path, columns: list[str]) -> Iterator[pa.Table]:
    """Yield tables of at most `BATCH` rows of a local Parquet file, through ``datasets``.

    Nothing is written, and no network is asked. Raises what pyarrow raises for a damaged file.
    """
    from datasets import load_dataset

    rows = load_dataset(
        "parquet",
        data_files=glob.escape(str(path)),
        split="train",
        streaming=True,
        columns=columns,
        batch_size=BATCH,
    )
    yield from rows.with_format("arrow").iter(batch_size=BATCH)


def without_nulls(type_: ColumnType, value: Any) -> Any:
    """Return a value with every null inside it made empty, save integers and truth values."""
    if isinstance(type_, dict):
        return {name: without_nulls(part, (value or {}).get(name)) for name, part in type_.items()}
    if isinstance(type_, list):
        flat = isinstance(type_[0], str) and value and None not in value  # thousands of tokens
        return value if flat else [without_nulls(type_[0], item) for item in value or ()]
    return value or "" if type_ == "text" else value


def sample_or_reason(
    query: str, passage: str, answer: str, id: str | int | None, cluster: str | None = None
) -> Sample | str:
    """Return the sample of these texts, stripped, or which of them is empty."""
    texts = [text.strip() for text in (query, passage, answer, "" if id is None else str(id))]
    if "" in texts:
        return f"empty {('query', 'passage', 'answer', 'id')[texts.index('')]}"
    query, passage, answer, name = texts
    return Sample(query, passage, answer, name, name_or_none(cluster) or name)


def corpus_from(data: HubDataset, paths: Sequence[Path]) -> Corpus:
    """Make the corpus from files that have the hub's schema, wherever they lie.

    Raises KvError as `rows_of`; also where no row makes a sample.
    """
    return corpus_of_rows(data, (row for path in paths for row in rows_of(data, path)))


def corpus_of_rows(data: HubDataset, rows: Iterable[HubRow]) -> Corpus:
    """Make the corpus from rows of the hub's schema; KvError where none makes a sample."""
    samples: dict[str, Sample] = {}
    others: dict[str, tuple[str, ...]] = {}
    relevant: dict[str, tuple[str, ...]] = {}
    dropped: Counter[str] = Counter()
    for row in rows:
        sample = data.sample_of(row)
        if isinstance(sample, str):
            dropped[sample] += 1
        elif sample.id in samples:
            dropped["repeated id"] += 1
        else:
            samples[sample.id] = sample
            if data.others_of and (passages := data.others_of(row)):
                others[sample.id] = passages
            if data.relevant_of and (passages := data.relevant_of(row)):
                relevant[sample.id] = passages
    counts = dict(sorted(dropped.items()))
    if not samples:
        raise KvError(
            f"{data.name}: none of {sum(counts.values())} rows makes a sample; dropped: {counts}."
        )
    unique = tuple(samples.values())
    if data.past_queries:
        unique = with_past_queries(unique)
    facts = data.revision, data.cluster_unit, data.note
    return Corpus(data.name, unique, counts, *facts, others, relevant)


def hub_answers() -> bool:
    """Tell whether the hub may be asked and answers in time; proxies are honoured."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT)
    except Exception:  # whatever the transport raises, it means no hub
        return False
    return True


def cached_files(data: HubDataset) -> list[Path]:
    """Return the copies of the dataset's files that the hub's cache has; nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache

    cached = [
        try_to_load_from_cache(data.repository, file, repo_type="dataset", revision=data.revision)
        for file in data.files
    ]
    return [Path(path) for path in cached if isinstance(path, str)]


def local_files(data: HubDataset) -> list[Path]:
    """Return the local copies of the dataset's files, fetched once where the hub answers.

    Raises MissingResource where one has no copy and the hub cannot be reached or refuses.
    """
    from huggingface_hub import hf_hub_download

    local = cached_files(data)
    if len(local) == len(data.files):
        return local
    fetch = partial(
        hf_hub_download, repo_type="dataset", revision=data.revision, etag_timeout=TIMEOUT
    )
    why = "the hub is offline or does not answer"
    if hub_answers():
        try:
            return [Path(fetch(data.repository, file)) for file in data.files]
        except Exception as error:  # network, access and disk all end in one line
            why = f"{type(error).__name__}: {first_line(error)}"
    raise MissingResource(
        f"{data.name} is not on this machine ({why}); with network, run: {data.fetch_command}"
    )
