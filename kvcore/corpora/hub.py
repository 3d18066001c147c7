"""Datasets of the hub: one record says all about each, and one loader serves them all.

Files are read with pyarrow, only the leaves that are needed: a split whose rows carry whole books
or web pages is never held in memory or copied to disk a second time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvcore.corpora.past import with_past_queries
from kvcore.corpora.sample import Corpus, Sample
from kvcore.errors import KvError, MissingResource

if TYPE_CHECKING:
    import pyarrow as pa

TIMEOUT = 5.0  # seconds until a hub that does not answer counts as absent
BATCH = 64  # rows decoded at a time: a row may hold a whole web page

Row = Mapping[str, Any]
# "text", "integer", "bool", [kind] for a list, {name: kind} for what has named parts
Kind = str | list["Kind"] | dict[str, "Kind"]


@dataclass(frozen=True)
class HubDataset:
    """A dataset of the hub: where it lies, what is read of it and what a row becomes.

    Parameters
    ----------
    name : str
        What the corpus is called here.
    repository, revision : str
        On the hub; the revision is a full commit hash.
    files : tuple of str
        Parquet files in the repository, read in this order.
    columns : mapping of str to Kind
        What is read, and of which kind it must be; anything else in the files is left alone.
    sample_of : callable
        Turns a row into a sample, or into the reason why it is dropped.
    cluster_unit, note : str
        As in `Corpus`.
    long : bool
        As in `kvcore.corpora.Traits`.
    others_of : callable, optional
        Returns the row's passages that do not answer its query, where the data names them.
    past_queries : bool
        Whether a passage is asked several queries, so that each has past ones.
    """

    name: str
    repository: str
    revision: str
    files: tuple[str, ...]
    columns: dict[str, Kind]
    sample_of: Callable[[Row], Sample | str]
    cluster_unit: str
    note: str
    long: bool = False
    others_of: Callable[[Row], tuple[str, ...]] | None = None
    past_queries: bool = False

    @property
    def command(self) -> str:
        """Return the command that fetches the files."""
        files = " ".join(self.files)
        return (f"hf download {self.repository} {files} --repo-type dataset "
                f"--revision {self.revision}")


def leaves(columns: Mapping[str, Kind]) -> list[str]:
    """Return the dotted paths that pyarrow is asked for: down to the first list of each."""
    paths = []
    for name, kind in columns.items():
        deeper = leaves(kind) if isinstance(kind, dict) else []
        paths += [f"{name}.{path}" for path in deeper] or [name]
    return paths


def flaw(columns: Mapping[str, Kind], given: Iterable[pa.Field], within: str = "") -> str | None:
    """Say which column lacks or is of another kind than needed, or None.

    Parameters
    ----------
    columns : mapping of str to Kind
        What is needed.
    given : iterable of pyarrow.Field
        What the file has.
    within : str
        Path of the column that holds these, with a dot at its end.
    """
    types = {field.name: field.type for field in given}
    for name, kind in columns.items():
        if name not in types:
            return (f"column {within + name!r} lacks; needed are {', '.join(columns)}, "
                    f"given are {', '.join(types)}")
        found = _wrong_kind(within + name, kind, types[name])
        if found:
            return found
    return None


def _wrong_kind(column: str, kind: Kind, given: pa.DataType) -> str | None:
    from pyarrow import types

    if isinstance(kind, dict):
        if types.is_struct(given):
            return flaw(kind, given, f"{column}.")
        return f"column {column!r} is {given}, it needs the parts {', '.join(kind)}"
    if isinstance(kind, list):
        if types.is_list(given) or types.is_large_list(given):
            return _wrong_kind(f"{column}[]", kind[0], given.value_type)
        return f"column {column!r} is {given}, not a list"
    fits = {"text": lambda t: types.is_string(t) or types.is_large_string(t),
            "integer": types.is_integer, "bool": types.is_boolean}
    return None if fits[kind](given) else f"column {column!r} is {given}, not {kind}"


def rows_of(data: HubDataset, path: Path) -> Iterator[Row]:
    """Yield the rows of one of the dataset's files: the needed columns, nulls made empty.

    Raises
    ------
    KvError
        Where the file is not Parquet, or a needed column lacks or is of another kind.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            wrong = flaw(data.columns, file.schema_arrow)
            if wrong:
                raise KvError(f"{data.name}: {wrong}.")
            for batch in file.iter_batches(batch_size=BATCH, columns=leaves(data.columns)):
                yield from (filled(data.columns, row) for row in batch.to_pylist())
    except (pa.ArrowException, OSError) as error:
        first = (str(error).splitlines() or ["no message"])[0]
        raise KvError(f"{data.name}: {path.name} is not readable Parquet ({first}); delete it and "
                      f"run: {data.command}") from None


def filled(kind: Kind, value: Any) -> Any:
    """Return a value with every null inside it made empty, save integers and truth values."""
    if isinstance(kind, dict):
        return {name: filled(inner, (value or {}).get(name)) for name, inner in kind.items()}
    if isinstance(kind, list):
        flat = isinstance(kind[0], str) and value and None not in value  # thousands of tokens
        return value if flat else [filled(kind[0], inner) for inner in value or ()]
    return value or "" if kind == "text" else value


def corpus_from(data: HubDataset, paths: Sequence[Path]) -> Corpus:
    """Make the corpus from files that have the hub's schema, wherever they lie.

    Raises
    ------
    KvError
        As `rows_of`; also where no row makes a sample.
    """
    kept: dict[str, Sample] = {}
    others: dict[str, tuple[str, ...]] = {}
    dropped: Counter[str] = Counter()
    for row in (row for path in paths for row in rows_of(data, path)):
        made = data.sample_of(row)
        if isinstance(made, str):
            dropped[made] += 1
        elif made.id in kept:
            dropped["repeated id"] += 1
        else:
            kept[made.id] = made
            others[made.id] = data.others_of(row) if data.others_of else ()
    counts = dict(sorted(dropped.items()))
    if not kept:
        raise KvError(f"{data.name}: none of {sum(counts.values())} rows makes a sample; "
                      f"dropped: {counts}.")
    samples = tuple(kept.values())
    if data.past_queries:
        samples = with_past_queries(samples)
    return Corpus(data.name, samples, counts, data.revision, data.cluster_unit, data.note,
                  {name: texts for name, texts in others.items() if texts})


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


def local_files(data: HubDataset) -> list[Path]:
    """Return the local copies of the dataset's files, fetched once where the hub answers.

    Raises
    ------
    MissingResource
        Where one has no copy and the hub cannot be reached or refuses.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    def cached(file: str) -> str | None:
        found = try_to_load_from_cache(
            data.repository, file, repo_type="dataset", revision=data.revision)
        return found if isinstance(found, str) else None

    found = [cached(file) for file in data.files]
    if all(found):
        return [Path(path) for path in found if path]
    why = "the hub is offline or does not answer"
    if hub_answers():
        try:
            return [Path(hf_hub_download(data.repository, file, repo_type="dataset",
                                         revision=data.revision, etag_timeout=TIMEOUT))
                    for file in data.files]
        except Exception as error:  # network, access and disk all end in one line
            why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    raise MissingResource(
        f"{data.name} is not on this machine ({why}); with network, run: {data.command}")


def load(data: HubDataset) -> Corpus:
    """Load a dataset of the hub at its pinned revision.

    Raises
    ------
    KvError
        Where the files are not what the dataset's card says.
    MissingResource
        Where they are neither in the hub's cache nor reachable; says the command that fetches them.
    """
    return corpus_from(data, local_files(data))
