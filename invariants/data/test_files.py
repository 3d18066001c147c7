"""Anyone's own files: texts come out as they went in, and what is wrong is one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariants.support.own_files import hostile_text, jsonl
from kvcore.data import files, hub, sample
from kvcore.data.datasets import load_corpus
from kvcore.data.sample import Sample
from kvcore.data.texts import load_texts
from kvcore.errors import KvError

GOOD = {"query": "q", "passage": "p", "answer": "a"}


@given(
    rows=st.lists(
        st.fixed_dictionaries({key: hostile_text.filter(str.strip) for key in GOOD}),
        min_size=1,
        max_size=5,
        unique_by=lambda row: tuple(row.items()),
    )
)
def test_texts_come_out_of_a_file_as_they_went_in(
    rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Catches a text that changes on the way: surrogates, control characters, white space."""
    path = tmp_path_factory.mktemp("rows") / "own.jsonl"
    loaded = load_corpus(jsonl(path, *rows))
    assert [(s.query, s.passage, s.answer) for s in loaded.samples] == [
        (row["query"], row["passage"], row["answer"]) for row in rows
    ]
    assert loaded.name == "own"


def test_empty_texts_are_dropped_and_counted(tmp_path: Path) -> None:
    """Catches an empty, blank or null text that is kept, or dropped without being counted."""
    path = jsonl(
        tmp_path / "own.jsonl",
        b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r",
        "",
        GOOD | {"passage": ""},
        GOOD | {"answer": " \n"},
        GOOD | {"answer": None},
        GOOD | {"query": ""},
        GOOD,
        GOOD | {"answer": "b", "id": 7, "cluster": "c"},
    )
    loaded = load_corpus(path)
    assert [(s.answer, s.id, s.cluster) for s in loaded.samples][1:] == [("b", "7", "c")]
    assert loaded.dropped == {
        "empty answer": 2,
        "empty passage": 1,
        "empty query": 1,
        "repeated sample": 1,
    }
    assert loaded.cluster_unit == "cluster"
    assert re.fullmatch("[0-9a-f]{64}", loaded.revision)


def assert_past_queries_are_carried(folder: Path) -> None:
    """Text is kept as it stands; blank, null and none at all are the same."""
    past_texts = [" what was asked ", "", " \n", None]
    rows: list[dict[str, Any]] = [
        {**GOOD, "id": str(i), "past_query": text} for i, text in enumerate(past_texts)
    ]
    path = jsonl(folder / "own.jsonl", *rows, GOOD | {"id": "none"})
    loaded = load_corpus(path).samples
    assert [sample.texts for sample in loaded] == [(("past_query", " what was asked "),), *[()] * 4]
    hashes = [sample.hash_with(["past_query"]) for sample in loaded]
    assert hashes[0] != hashes[1] == hashes[4]
    pq.write_table(pa.Table.from_pylist([*rows, GOOD | {"id": "none"}]), folder / "own.parquet")
    assert load_corpus(str(folder / "own.parquet")).samples == loaded


def test_a_file_may_name_past_queries(tmp_path: Path) -> None:
    """Catches a past query that is lost, stripped, or made of a blank one."""
    assert_past_queries_are_carried(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("PAST_QUERY", "query"), ("OPTIONAL", ("id", "cluster")), ("IDENTITY", ("past_query", "id"))],
)
def test_a_lost_past_query_is_noticed(
    name: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twin: catches another column read, one not taken from Parquet, or one taken for the id."""
    monkeypatch.setattr(files, name, value)
    with pytest.raises((AssertionError, KvError), match=r"assert|is already on line"):
        assert_past_queries_are_carried(tmp_path)


BAD_FILES: dict[str, tuple[list[str | bytes | dict[str, Any]], str]] = {
    "not JSON": ([GOOD, "{oops"], r"line 2 is not JSON \(.*\); one object a line is needed\."),
    "not UTF-8": ([GOOD, b'{"query": "\xff"}'], "line 2 is not UTF-8; one object a line"),
    "too deep": ([GOOD, "[" * 200_000], "line 2 is not JSON"),
    "no object": ([GOOD, "", "[1]"], "line 3 is not a JSON object"),
    "no column": (
        [GOOD, {"query": "q", "answer": "a"}],
        "column 'passage' is missing on line 2; req",
    ),
    "no text": ([GOOD, GOOD | {"answer": 3}], "'answer' on line 2 is int, not text"),
    "past number": ([GOOD | {"past_query": 3}], "'past_query' on line 1 is int, not text"),
    "past list": ([GOOD, GOOD | {"past_query": ["q"]}], "'past_query' on line 2 is list, not text"),
    "two past queries": (
        [GOOD | {"past_query": "x"}, GOOD | {"past_query": "y"}],
        "on line 2 is already on line 1; give each row an id of its own",
    ),
    "same id": (
        [GOOD | {"id": "x"}, GOOD, GOOD | {"id": "x", "answer": "b"}],
        "id 'x' on line 3 is already on line 1",
    ),
    "empty file": ([], "no sample left; dropped: nothing, the file is empty"),
    "all empty": ([GOOD | {"answer": ""}], "no sample left; dropped: {'empty answer': 1}"),
}


@pytest.mark.parametrize("fault", BAD_FILES)
def test_a_bad_file_is_one_line(fault: str, tmp_path: Path) -> None:
    """Catches a bad row that is taken, or told without its file and line."""
    lines, message = BAD_FILES[fault]
    path = jsonl(tmp_path / "own.jsonl", *lines)
    with pytest.raises(KvError, match=message) as caught:
        load_corpus(path)
    assert str(caught.value).startswith(path)
    assert "\n" not in str(caught.value)


def test_parquet_is_read_like_json_lines(tmp_path: Path) -> None:
    """Catches a Parquet file that is read otherwise than the same rows as JSON Lines."""
    rows = [GOOD | {"id": str(i), "more": [i]} for i in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "own.parquet")
    lines = load_corpus(jsonl(tmp_path / "own.jsonl", *rows))
    columns = load_corpus(str(tmp_path / "own.parquet"))
    assert columns.samples == lines.samples
    assert columns.revision != lines.revision
    assert columns.cluster_unit == "sample"


def test_bad_parquet_is_one_line(tmp_path: Path) -> None:
    """Catches a traceback for Parquet with wrong bytes or wrong columns."""
    path = tmp_path / "own.parquet"
    path.write_bytes(b"PAR1 this is no table")
    with pytest.raises(KvError, match=r"^.*own\.parquet: not a readable Parquet file .*$"):
        load_corpus(str(path))
    pq.write_table(pa.table({"query": ["q"], "answer": ["a"]}), path)
    with pytest.raises(KvError, match="column 'passage' is missing on line 1"):
        load_corpus(str(path))


NO_VALUES = {
    "date": pa.array([2**60], pa.timestamp("us")),
    "text": pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers()),
}


def check_no_values(folder: Path, kind: str) -> None:
    """Demand one line that names the column in which a table holds what is no value."""
    path = folder / "own.parquet"
    table = {"query": ["q"], "passage": ["p"], "answer": ["a"], "cluster": NO_VALUES[kind]}
    pq.write_table(pa.table(table), path)
    with pytest.raises(KvError, match=r"^.*own\.parquet: column 'cluster' holds what is no .*$"):
        load_corpus(str(path))


@pytest.mark.parametrize("kind", NO_VALUES)
def test_what_is_no_value_of_its_type_is_one_line(kind: str, tmp_path: Path) -> None:
    """Catches a traceback for a date past the calendar's end, or a text that is not UTF-8."""
    check_no_values(tmp_path, kind)


def test_twin_what_is_no_value_is_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a check that takes any error for the line."""
    monkeypatch.setattr(files, "column_values", lambda _, table, name: table[name].to_pylist())
    with pytest.raises(OverflowError):
        check_no_values(tmp_path, "date")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("docstring", "unknown dataset 'docstring': did you mean 'docstrings'"),
        ("msmarco", "did you mean 'ms_marco'"),
        ("no/such.jsonl", r"no.such\.jsonl: cannot be read \(No such file or directory\)"),
        ("no/such.tsv", r"extension '\.tsv' is unknown; use \.jsonl, \.json, \.csv or \.parquet"),
        (".", "unknown dataset '.'"),
        ("", "unknown dataset ''"),
        ("~of-nobody/own.jsonl", r"own\.jsonl: cannot be read \(No such file or directory\)"),
        ("own\0.jsonl", r"cannot be read \(embedded null byte\)"),
    ],
)
def test_a_name_that_is_nothing_is_one_line(name: str, message: str) -> None:
    """Catches an unknown name that is refused without the nearest one or what is known."""
    with pytest.raises(KvError, match=message):
        load_corpus(name)


MISSING = (None, float("nan"), "", " \t\n", "nan", "None", "<NA>", "NULL ", "NaT")


def check_missing_names(folder: Path) -> None:
    """Demand that rows without a label are clusters of their own, however it is missing."""
    for label in MISSING:
        for suffix in (".jsonl", ".parquet"):
            rows = [
                {"query": f"q{i}", "passage": "p x", "answer": "a", "id": label}
                | {"cluster": f"c{i}" if i < 10 else label}
                for i in range(40)
            ]
            path = folder / f"own{suffix}"
            if suffix == ".parquet":
                if isinstance(label, float):  # a column of one type
                    rows = [
                        row | {"cluster": float(i) if i < 10 else label}
                        for i, row in enumerate(rows)
                    ]
                pq.write_table(pa.Table.from_pylist(rows), path)
            else:
                jsonl(path, *rows)
            samples = load_corpus(str(path)).samples
            assert len({sample.cluster for sample in samples}) == 40, (label, suffix)
            assert len({sample.id for sample in samples}) == 40, (label, suffix)
        again = {"query": "q", "passage": "p x", "answer": "a", "id": label}
        corpus = load_corpus(jsonl(folder / "again.jsonl", again, again))
        assert corpus.dropped == {"repeated sample": 1}, label
    for label in MISSING:
        sample = Sample("q", "p", "a", label, label)  # type: ignore[arg-type]
        assert (sample.id, sample.cluster) == (Sample("q", "p", "a").id,) * 2
        assert hub.sample_or_reason("q", "p", "a", 3, label) == Sample("q", "p", "a", "3")  # type: ignore[arg-type]


def test_an_id_or_cluster_is_missing_whether_null_nan_or_blank(tmp_path: Path) -> None:
    """Catches rows without a label that become one cluster, or an id that is a blank."""
    check_missing_names(tmp_path)


def test_texts_and_pairs_have_ids_where_theirs_are_blank(tmp_path: Path) -> None:
    """Catches a blank id of a text, which a second one would share."""
    texts = [{"text": f"It rained {i} days. He left then.", "id": " "} for i in range(3)]
    path = jsonl(tmp_path / "texts.jsonl", *texts)
    assert len({text.id for text in load_texts(path).texts}) == 3


@pytest.mark.parametrize("module", [files, sample])  # of a hub's rows it is the sample that says so
def test_twin_null_alone_is_missing(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a check of labels that are never missing."""
    monkeypatch.setattr(module, "name_or_none", lambda value: None if value is None else str(value))
    with pytest.raises((AssertionError, KvError)):
        check_missing_names(tmp_path)
