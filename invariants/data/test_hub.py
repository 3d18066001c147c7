"""One loader for the hub: what its files must hold, and where they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariants.support.children import child
from invariants.support.hub_cards import (
    CARDS,
    WORDS_50,
    all_rows,
    read_all,
    written,
)
from kvcore.data import datasets, hub
from kvcore.data.datasets import load_corpus
from kvcore.data.sample import Sample
from kvcore.errors import KvError, MissingResource

every_dataset = pytest.mark.parametrize("name", CARDS)


def kinds(columns: Any, within: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """List the paths of all named columns that are read, parts of lists left out."""
    found = []
    for name, kind in columns.items():
        found.append((*within, name))
        found += kinds(kind, (*within, name)) if isinstance(kind, dict) else []
    return found


def without(kind: pa.DataType | pa.Schema, path: tuple[str, ...], put: pa.DataType | None) -> Any:
    """Return a struct type with the column at a path left out, or of another type."""
    fields = []
    for field in kind:
        if field.name != path[0]:
            fields.append(field)
        elif len(path) > 1:
            fields.append(pa.field(field.name, without(field.type, path[1:], put)))
        elif put is not None:
            fields.append(pa.field(field.name, put))
    return pa.struct(fields)


def spoilt(folder: Path, name: str, path: tuple[str, ...], put: pa.DataType | None) -> Path:
    """Write an empty file whose schema is the card's but for one column."""
    schema = pa.schema(list(without(CARDS[name].features.arrow_schema, path, put)))
    file = folder / "spoilt.parquet"
    pq.write_table(schema.empty_table(), file)
    return file


COLUMNS = [(name, path) for name, data in datasets.HUB.items() for path in kinds(data.columns)]


@pytest.mark.parametrize(("name", "path"), COLUMNS)
def test_a_column_that_is_missing_is_one_line(
    name: str, path: tuple[str, ...], tmp_path: Path
) -> None:
    """Catches a missing column, or a part of one, that only shows row by row."""
    if len(CARDS[name].features) == 1:
        pytest.fail("a file needs a column")
    with pytest.raises(KvError) as error:
        hub.corpus_from(datasets.HUB[name], [spoilt(tmp_path, name, path, None)])
    assert str(error.value).startswith(f"{name}: column '{'.'.join(path)}' is missing; required: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "kind", [pa.float64(), pa.list_(pa.float64()), pa.struct([("x", pa.int8())])]
)
@pytest.mark.parametrize(("name", "path"), COLUMNS)
def test_a_column_of_another_kind_is_one_line(
    name: str, path: tuple[str, ...], kind: pa.DataType, tmp_path: Path
) -> None:
    """Catches numbers for text, a list for one text, and one text for a list."""
    with pytest.raises(KvError) as error:
        hub.corpus_from(datasets.HUB[name], [spoilt(tmp_path, name, path, kind)])
    assert str(error.value).startswith(f"{name}: column '{'.'.join(path)}")
    assert "\n" not in str(error.value)


def test_a_schema_nobody_looks_at_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twin: catches a schema that nobody compares: the message is another one."""
    monkeypatch.setattr(hub, "schema_mismatch", lambda *_: None)
    with pytest.raises(AssertionError):
        test_a_column_of_another_kind_is_one_line("squad_v2", ("id",), pa.float64(), tmp_path)


@every_dataset
def test_a_file_without_a_good_row_is_one_line(name: str, tmp_path: Path) -> None:
    """Catches an empty corpus, or one refused without the reasons."""
    card = CARDS[name]
    reason, changes = card.bad[0]
    path = written(tmp_path, name, [card.row | changes])
    message = rf"^{name}: none of 1 rows makes a sample; dropped: {{'{reason}': 1}}\.$"
    with pytest.raises(KvError, match=message):
        hub.corpus_from(datasets.HUB[name], [path])


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    """Catches a message that lacks what to delete or the command that fetches it again."""
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 this is no table")
    with pytest.raises(KvError, match=r"^squad_v2: rows\.parquet is not .*; delete .*hf download"):
        hub.corpus_from(datasets.HUB["squad_v2"], [path])


def assert_files_are_read_in_order(folder: Path) -> None:
    """Three files make one corpus of one story, question by question."""
    card = CARDS["narrativeqa"]
    rows = [card.row | {"question": {"text": text, "tokens": []}} for text in ("b", "a", "c")]
    paths = [written(folder, "narrativeqa", [row]) for row in rows]
    made = hub.corpus_from(datasets.HUB["narrativeqa"], paths)
    assert [sample.query for sample in made.samples] == ["b", "a", "c"]
    assert {sample.cluster for sample in made.samples} == {"abc"}


def test_files_are_read_in_order(tmp_path: Path) -> None:
    """Catches a file left out, another order, or a cluster that is not the story."""
    assert_files_are_read_in_order(tmp_path)


def test_files_that_are_forgotten_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twin: catches one id for all questions of a story."""
    monkeypatch.setattr(datasets, "digest", lambda _text: "same")
    with pytest.raises(AssertionError):
        assert_files_are_read_in_order(tmp_path)


def assert_both_readers_agree(folder: Path) -> None:
    """Every dataset's rows are the same by two readers.

    1. As the dataset is read: ``datasets``, or pyarrow where columns hold whole books.
    2. Its rows as they were written, of the needed columns, nulls made empty.
    """
    for name, card in CARDS.items():
        data = datasets.HUB[name]
        rows = [card.row, *({**card.row, **changes} for _, changes in card.bad)] * 30
        path = written(folder, name, rows)
        expected = [hub.without_nulls(data.columns, row) for row in rows]
        with mock.patch.object(hub, "streamed", wraps=hub.streamed) as streamed:
            assert [*hub.rows_of(data, path)] == expected, name
        assert streamed.called != data.within_columns, name


def test_datasets_reads_the_hub_s_files(tmp_path: Path) -> None:
    """Catches rows that the library loses, reorders or changes, or a dataset that bypasses it."""
    assert_both_readers_agree(tmp_path)


def test_rows_that_the_library_loses_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twin: catches a batch of rows left out."""
    right = hub.streamed
    monkeypatch.setattr(hub, "streamed", lambda path, columns: [*right(path, columns)][1:])
    with pytest.raises(AssertionError):
        assert_both_readers_agree(tmp_path)


def test_a_path_with_brackets_is_one_file(tmp_path: Path) -> None:
    """Catches a folder's name that is taken for a pattern of names."""
    folder = tmp_path / "a[1]*"
    folder.mkdir()
    path = written(folder, "squad_v2", [CARDS["squad_v2"].row])
    assert len([*hub.rows_of(datasets.HUB["squad_v2"], path)]) == 1


def assert_books_stay_on_disk(folder: Path, name: str, unread: str) -> None:
    """A column of whole books or pages is not decoded."""
    decoded: set[str] = set()
    right = pq.ParquetFile.iter_batches

    def spy(self: Any, **options: Any) -> Any:
        for batch in right(self, **options):
            decoded.update(field.name for field in batch.schema.field("document").type)
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pq.ParquetFile, "iter_batches", spy)
        read_all(folder, name)
    assert decoded
    assert unread not in decoded


@pytest.mark.parametrize(
    ("name", "unread"), [("narrativeqa", "text"), ("natural_questions", "html")]
)
def test_whole_books_are_never_decoded(name: str, unread: str, tmp_path: Path) -> None:
    """Catches columns of whole books or pages that are decoded although no sample needs them."""
    assert_books_stay_on_disk(tmp_path, name, unread)


def test_a_book_that_is_read_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: catches whole columns asked for."""
    monkeypatch.setattr(hub, "column_paths", list)
    with pytest.raises(AssertionError):
        assert_books_stay_on_disk(tmp_path, "narrativeqa", "text")


def any_row(kind: Any) -> st.SearchStrategy[Any]:
    """Return rows of a type: nulls anywhere, parallel lists of any lengths, hostile texts."""
    if isinstance(kind, dict):
        parts = {name: any_row(inner) for name, inner in kind.items()}
        return st.none() | st.fixed_dictionaries(parts)
    if isinstance(kind, list):
        return st.none() | st.lists(any_row(kind[0]), max_size=4)
    if kind == "text":
        return st.none() | st.text(max_size=4) | st.just(WORDS_50)
    return st.none() | (st.booleans() if kind == "bool" else st.integers(0, 2))


def assert_no_row_crashes(name: str, row: dict[str, Any]) -> None:
    """A row is a sample of stripped texts, none empty, or has a reason in words."""
    data = datasets.HUB[name]
    clean = hub.without_nulls(data.columns, row)
    try:
        sample = data.sample_of(clean)
    except (TypeError, AttributeError) as error:
        raise AssertionError(f"{name}: a row crashes the loader: {error}") from error
    if isinstance(sample, Sample):
        texts = (sample.query, sample.passage, sample.answer, sample.id)
        assert all(text and text == text.strip() for text in texts)
        others = data.others_of(clean) if data.others_of else ()
        assert sample.passage not in others
        assert all(others)
        assert len(set(others)) == len(others)
        relevant = data.relevant_of(clean) if data.relevant_of else ()
        assert {sample.passage, *others}.isdisjoint(relevant)
        assert all(relevant)
    else:
        assert re.fullmatch(r"[a-z][a-z0-9 ]+", sample)


@every_dataset
@given(data=st.data())
def test_any_row_is_a_sample_or_has_a_reason(name: str, data: st.DataObject) -> None:
    """Catches a crash, or an empty text, for nulls, empty lists and lists that do not match."""
    columns = datasets.HUB[name].columns
    rows = st.fixed_dictionaries({key: any_row(kind) for key, kind in columns.items()})
    assert_no_row_crashes(name, data.draw(rows))


@every_dataset
def test_a_null_that_stays_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: catches nulls that are not made empty."""
    monkeypatch.setattr(hub, "without_nulls", lambda _type, row: row)
    with pytest.raises(AssertionError, match="a row crashes the loader"):
        assert_no_row_crashes(name, dict.fromkeys(datasets.HUB[name].columns))


# --- where the files lie --------------------------------------------------------------------

HUB_CODE = """
import json, socket
from kvcore.data.datasets import load_corpus
from kvcore.errors import MissingResource
asked, real = [], socket.getaddrinfo
def spy(*args, **kwargs):
    asked.append(1)
    return real(*args, **kwargs)
socket.getaddrinfo = spy
try:
    load_corpus("ms_marco")
except MissingResource as error:
    print(json.dumps([str(error), len(asked)]))
"""


@pytest.mark.parametrize(("offline", "most"), [("1", 0), ("0", 4)])
def test_an_absent_hub_is_one_line_without_a_retry_storm(
    offline: str, most: int, tmp_path: Path
) -> None:
    """Catches a hub that is asked while offline, or again and again while nobody listens."""
    message, asked = child(
        HUB_CODE,
        HF_HUB_OFFLINE=offline,
        HF_HUB_CACHE=str(tmp_path),
        HF_ENDPOINT="http://127.0.0.1:9",
        NO_PROXY="*",
        no_proxy="*",
    )
    assert message.endswith(
        "run: hf download microsoft/ms_marco v1.1/validation-00000-of-00001.parquet "
        f"--repo-type dataset --revision {datasets.HUB['ms_marco'].revision}"
    )
    assert "\n" not in message
    assert asked <= most
    assert (asked == 0) == (offline == "1")


@pytest.fixture
def nothing_cached(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Return what makes the hub answer or not; its cache is empty."""
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_a, **_k: None)
    return lambda answers: monkeypatch.setattr(hub, "hub_answers", lambda: answers)


@every_dataset
def test_a_dataset_that_is_not_here_names_its_command(
    name: str, nothing_cached: Callable[[bool], None]
) -> None:
    """Catches a message that lacks a file, the pinned revision or the command itself."""
    nothing_cached(False)
    with pytest.raises(MissingResource) as error:
        load_corpus(name)
    data = datasets.HUB[name]
    assert str(error.value).startswith(f"{name} is not on this machine")
    assert str(error.value).endswith(
        f"run: hf download {data.repository} {' '.join(data.files)} --repo-type dataset "
        f"--revision {data.revision}"
    )


def test_a_hub_that_refuses_is_one_line(
    nothing_cached: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a refusal whose reason is lost, or passed on with a page of HTML."""

    def refuse(*_args: object, **_kwargs: object) -> str:
        raise RuntimeError("403 for you\nand a page of HTML")

    nothing_cached(True)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(MissingResource, match=r"\(RuntimeError: 403 for you\); with network, run"):
        load_corpus("pubmedqa")


@every_dataset
def test_files_in_the_hub_cache_need_no_network(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a hub that is asked although all files are cached, or another revision."""
    copy = str(written(tmp_path, name, all_rows(name)))
    asked: list[tuple[Any, ...]] = []

    def cached(repository: str, file: str, *, repo_type: str, revision: str) -> str:
        asked.append((repository, file, repo_type, revision))
        return copy

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    monkeypatch.setattr(hub, "hub_answers", lambda: pytest.fail("the hub was asked"))
    data = datasets.HUB[name]
    assert load_corpus(name).samples == (CARDS[name].sample,)
    assert asked == [(data.repository, file, "dataset", data.revision) for file in data.files]
