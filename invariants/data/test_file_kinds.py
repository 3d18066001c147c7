"""One table in every kind of file is one corpus, however the file spells its columns."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from invariants.support.comparing import must_see
from invariants.support.patching import Fault, each, patched
from invariants.support.problem_pairs import CONTROL, GOOD, MULTI, STORY, by_python, row_of
from invariants.support.published_pairs import FAIRYTALES, MAWPS_GOOD
from kvcore.data import files
from kvcore.data.context_pairs import load, mawps
from kvcore.data.context_pairs.fairytaleqa import fairytale_pairs_of
from kvcore.data.context_pairs.load import load_pairs
from kvcore.data.context_pairs.mawps import mawps_pairs_of
from kvcore.data.datasets import load_corpus
from kvcore.data.texts import load_texts
from kvcore.errors import KvError

Row = Mapping[str, Any]


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as Python's own writer does, null as nothing."""
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


WRITERS: dict[str, Callable[[Path, Sequence[Row]], object]] = {
    ".jsonl": lambda path, rows: path.write_text("\n".join(map(json.dumps, rows))),
    ".json": lambda path, rows: path.write_text(json.dumps(rows)),
    ".csv": write_csv,
    ".parquet": lambda path, rows: pq.write_table(pa.Table.from_pylist(list(rows)), path),
}


def in_every_kind(folder: Path, rows: Sequence[Row]) -> list[str]:
    """Write the same rows into a file of every kind."""
    paths = [folder / f"own{suffix}" for suffix in WRITERS]
    for path in paths:
        WRITERS[path.suffix](path, rows)
    return [str(path) for path in paths]


def renamed(rows: Sequence[Row], names: Mapping[str, str]) -> list[Row]:
    """Spell columns otherwise."""
    return [{names.get(name, name): value for name, value in row.items()} for row in rows]


SAMPLES: list[Row] = [
    {"query": 'who, "then"', "passage": "A fox\nran off.", "answer": "the fox", "id": "7", "n": 3},
    {"query": "07", "passage": "It is 1.50, NaN or null.", "answer": "1.50", "id": None, "n": 4},
]
SPELLINGS: list[dict[str, str]] = [
    {},
    {"query": "Question", "passage": "Context", "answer": "Answer"},
    {"query": "QUERY", "passage": " document ", "answer": "ANSWER", "id": "ID"},
]
PAIRS = [row_of(pair) for pair in (GOOD, CONTROL, STORY)]
PAIR_SPELLINGS: list[dict[str, str]] = [
    {},
    {"question": "Question", "answer": "Answer", "equation": "Equation"},
    {"question": "Problem", "alt_problem": "Alt Question", "variation_type": "Variation-Type"},
]


def check_every_kind(folder: Path) -> None:
    """Samples, pairs and texts are the same from every kind of file and spelling.

    1. The rows as JSON Lines under the documented names.
    2. The same rows in each other kind of file, columns spelled otherwise.
    """
    texts: list[Row] = [{"Text": "It rained. He left."}]
    first = in_every_kind(folder, SAMPLES)[0]
    expected = load_corpus(first).samples
    assert [sample.answer for sample in expected] == ["the fox", "1.50"]
    assert [sample.query for sample in expected] == ['who, "then"', "07"]
    for spelling in SPELLINGS:
        for path in in_every_kind(folder, renamed(SAMPLES, spelling)):
            assert load_corpus(path).samples == expected, (path, spelling)
    distinct: list[Row] = [{**PAIRS[0], "id": "a"}, {**PAIRS[2], "id": "c"}]
    assert len({load_texts(path).texts for path in in_every_kind(folder, texts)}) == 1
    pairs = load_pairs(in_every_kind(folder, distinct)[0]).pairs
    assert len(pairs) == 2
    for spelling in PAIR_SPELLINGS:
        for path in in_every_kind(folder, renamed(distinct, spelling)):
            assert load_pairs(path).pairs == pairs, (path, spelling)


def test_every_kind_of_file_is_read_alike(tmp_path: Path) -> None:
    """Catches a text that becomes a number, a column not found, a null that is read as a text."""
    check_every_kind(tmp_path)


def test_a_row_of_a_csv_may_be_long(tmp_path: Path) -> None:
    """Catches a long passage refused, or cut, because a reader takes a file in blocks."""
    long = {"query": "q", "passage": "word, \n" * 400_000 + "end", "answer": "a"}
    write_csv(tmp_path / "own.csv", [long, {**long, "passage": "p"}])
    assert [s.passage for s in load_corpus(str(tmp_path / "own.csv")).samples] == [
        long["passage"],
        "p",
    ]


def test_a_control_has_no_type_in_a_csv(tmp_path: Path) -> None:
    """Catches an empty cell of a table that is no null, so that a control is refused."""
    write_csv(tmp_path / "own.csv", [PAIRS[1]])
    assert load_pairs(str(tmp_path / "own.csv")).pairs[0].variation_type is None


@each(
    patched(files, "plain_name", lambda column: column),
    patched(files, "ALIASES", {}),
    patched(
        files,
        "column_sources",
        lambda _path, present, names: {name: name for name in names if name in present},
    ),
    patched(files, "csv_rows", lambda *_: iter(())),
)
def test_a_reader_that_is_off_is_noticed(
    fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twin: catches columns read by their exact names alone, and a kind of file that is empty."""
    check_every_kind(tmp_path)
    fault(monkeypatch)
    monkeypatch.setattr(files, "READERS", {**files.READERS, ".csv": files.csv_rows})
    with pytest.raises((AssertionError, KvError)):
        check_every_kind(tmp_path)


BAD: dict[str, tuple[str, bytes]] = {
    r"own\.json: not JSON \(.*\); a list of objects is needed": (".json", b"[{"),
    r"own\.json: not UTF-8; a list": (".json", b'["\xff"]'),
    r"own\.json: not a list of objects; write": (".json", b'{"query": "q"}'),
    r"own\.json: member 2 of the list is not an object": (
        ".json",
        b'[{"query": "q", "passage": "p", "answer": "a"}, 3]',
    ),
    r"own\.json: column 'passage' is missing on line 1": (".json", b'[{"query": "q"}]'),
    r"columns 'Answer' and 'ANSWER' are both 'answer'; call one": (
        ".json",
        b'[{"query": "q", "passage": "p", "Answer": "a", "ANSWER": "b"}]',
    ),
    r"own\.csv: not readable CSV \(.*Expected 3 columns, got 2": (
        ".csv",
        b"query,passage,answer\nq,p\n",
    ),
    r"own\.csv: not readable CSV": (".csv", b"query,passage,answer\nq,p,\xff\n"),
    r"own\.csv: not readable CSV \(Empty CSV file\)": (".csv", b""),
    r"own\.csv: column 'query' is there twice": (".csv", b"query,query,passage,answer\na,b,c,d\n"),
}


@pytest.mark.parametrize("message", BAD)
def test_what_is_wrong_is_one_line(message: str, tmp_path: Path) -> None:
    """Catches a traceback, or a bad member that is told without its file and place."""
    suffix, data = BAD[message]
    path = tmp_path / f"own{suffix}"
    path.write_bytes(data)
    with pytest.raises(KvError, match=message) as caught:
        load_corpus(str(path))
    assert "\n" not in str(caught.value)


# --- what the hub's datasets are, as files of one's own ------------------------------------------

WRITTEN_OUT = [
    {
        "Question": f"Ann has {12 + i} pins and finds {5 + i % 4} more. How many has she now?",
        "Equation": f"x={12 + i} + {5 + i % 4}",
        "Answer": f"{17 + i + i % 4}",
    }
    for i in range(40)
]


def check_problems_without_changes(folder: Path) -> None:
    """Problems with numbers in digits are changed as MAWPS's are: equations give the answers."""
    for path in in_every_kind(folder, WRITTEN_OUT):
        corpus = load_pairs(path)
        assert len(corpus.pairs) == len(WRITTEN_OUT) - sum(corpus.dropped.values()) >= 30
        assert {pair.variation_type for pair in corpus.pairs} >= {None, "single_number"}
        originals = {row["Question"]: row for row in WRITTEN_OUT}
        for pair in corpus.pairs:
            row = originals[pair.question]
            assert pair.answer == row["Answer"]
            assert by_python(pair.equation) == Fraction(row["Answer"])
            assert by_python(pair.alt_equation) == Fraction(pair.alt_answer)
            assert (pair.variation_type is None) == (pair.question == pair.alt_problem)


def test_problems_without_changes_are_changed(tmp_path: Path) -> None:
    """Catches a list of Question, Answer and Equation that is refused, or changed wrongly."""
    check_problems_without_changes(tmp_path)


@each(
    patched(
        load,
        "with_placeholders",
        lambda q, a, e: {"Question": q, "Answer": a, "Equation": e, "Numbers": ""},
    ),
    patched(
        mawps,
        "assign_types",
        lambda rows, _seed: (
            tuple(made for _, make in rows if not isinstance(made := make(None), str)),
            {},
        ),
    ),
)
def test_problems_left_as_they_are_are_noticed(fault: Fault, tmp_path: Path) -> None:
    """Twin: catches numbers that are not found, or controls alone."""
    check_problems_without_changes(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        with pytest.raises((AssertionError, KvError)):
            check_problems_without_changes(tmp_path)


def test_a_number_that_stands_twice_is_counted(tmp_path: Path) -> None:
    """Catches a problem in which it is open which number an equation means."""
    bad = {"Question": "Ann has 5 pins and finds 5. How many?", "Equation": "5 + 5", "Answer": "10"}
    WRITERS[".json"](tmp_path / "own.json", [*WRITTEN_OUT, bad, bad | {"Equation": ""}])
    dropped = load_pairs(str(tmp_path / "own.json")).dropped
    assert dropped["equation has a number that the question has twice"] == 1
    assert dropped["empty equation"] == 1


def check_the_hub_s_own_rows(folder: Path) -> None:
    """The hub's rows in a file of one's own are the hub's pairs.

    1. Rows through the hub's own path.
    2. The same rows as a list, a table of text, or Parquet.
    """
    for rows, pairs_of in ((FAIRYTALES, fairytale_pairs_of), (MAWPS_GOOD, mawps_pairs_of)):
        expected, dropped = pairs_of(rows, 0)
        assert expected
        for path in in_every_kind(folder, rows):
            corpus = load_pairs(path)
            assert corpus.pairs == expected, path
            assert corpus.dropped == dropped


def test_a_local_copy_of_a_hub_s_dataset_is_read(tmp_path: Path) -> None:
    """Catches a FairytaleQA table on disk that is refused, or pairs other than the hub's."""
    check_the_hub_s_own_rows(tmp_path)


def test_a_local_copy_read_otherwise_is_noticed(tmp_path: Path) -> None:
    """Twin: catches other pairs of a local copy."""
    fault = patched(load, "fairytale_pairs_of", lambda rows, _seed: fairytale_pairs_of(rows, 9))
    must_see(fault, check_the_hub_s_own_rows, tmp_path)


def test_pairs_win_where_both_are_there(tmp_path: Path) -> None:
    """Catches a file of pairs that is taken for problems without changes."""
    WRITERS[".json"](tmp_path / "own.json", renamed([row_of(MULTI)], PAIR_SPELLINGS[1]))
    assert load_pairs(str(tmp_path / "own.json")).pairs[0].variation_type == "multi_number"
