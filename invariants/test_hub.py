"""Datasets of the hub: files of exactly the hub's schema become samples, through one loader."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Features, List, Value
from hypothesis import given
from hypothesis import strategies as st

from invariants.support.children import child
from kvcore import io
from kvcore.corpora import DATASETS, hub, load_corpus, past, published, traits_of
from kvcore.corpora.sample import Corpus, Sample
from kvcore.errors import KvError, MissingResource
from kvcore.io import digest

TEXT, INT, LONG, BOOL = Value("string"), Value("int32"), Value("int64"), Value("bool")


def parallel(**columns: Any) -> dict[str, Any]:
    """Return what a card calls a sequence of named parts: on disk, a list for each of them."""
    return {name: List(kind) for name, kind in columns.items()}


@dataclasses.dataclass(frozen=True)
class Card:
    """What a dataset's card says of its rows, one good row, and rows that are bad in one way.

    Parameters
    ----------
    features : datasets.Features
        As ``dataset_info`` of the card at the pinned revision has it.
    row : dict
        A row as the hub has them.
    sample : Sample
        What the row becomes.
    bad : sequence of (reason, changes)
        Reason for which the row is dropped once these columns are changed.
    """

    features: Features
    row: dict[str, Any]
    sample: Sample
    bad: Sequence[tuple[str, dict[str, Any]]]


def marco_passages(texts: Sequence[str | None], selected: Sequence[int | None]) -> dict[str, Any]:
    return {"passages": {"is_selected": list(selected), "passage_text": list(texts),
                         "url": ["https://example.org"] * len(texts)}}


def nq_answers(*annotators: tuple[int, str] | None) -> dict[str, Any]:
    """Annotate a page: for each annotator the end of the one short answer and its text, or none."""
    span = {"start_token": 5, "end_token": 6, "start_byte": 0, "end_byte": 0, "candidate_index": 0}
    return {"annotations": {
        "id": [str(i) for i in range(len(annotators))],
        "long_answer": [span] * len(annotators),
        "short_answers": [
            {"start_token": [a[0] - 1] if a else [], "end_token": [a[0]] if a else [],
             "start_byte": [0] if a else [], "end_byte": [0] if a else [],
             "text": [a[1]] if a else []} for a in annotators],
        "yes_no_answer": [-1] * len(annotators)}}


def nq_page(tokens: Sequence[str]) -> dict[str, Any]:
    return {"document": {"title": "The title", "url": "u", "html": "<P>never read</P>", "tokens": {
        "token": list(tokens), "is_html": [text.startswith("<") for text in tokens],
        "start_byte": [0] * len(tokens), "end_byte": [0] * len(tokens)}}}


def story(**changes: Any) -> dict[str, Any]:
    summary = {"text": " The plot. ", "tokens": ["The", "plot"], "url": "u", "title": "t"}
    document = {"id": "abc", "kind": "movie", "url": "u", "file_size": 1, "word_count": 2,
                "start": "s", "end": "e", "summary": summary, "text": "never read"}
    return {"document": document | changes}


PLOT = {"text": "", "tokens": [], "url": "u", "title": "t"}
WORDS_50, WORDS_300 = (" ".join(["word"] * n) for n in (50, 300))
CARDS = {
    # microsoft/ms_marco, config v1.1
    "ms_marco": Card(
        Features({"answers": List(TEXT),
                  "passages": parallel(is_selected=INT, passage_text=TEXT, url=TEXT),
                  "query": TEXT, "query_id": INT, "query_type": TEXT,
                  "wellFormedAnswers": List(TEXT)}),
        {"answers": ["", " second one ", "third"], "query": " what is it ", "query_id": 7,
         "query_type": "description", "wellFormedAnswers": [],
         **marco_passages(["not this", f" {WORDS_50}\n", "nor this", "not this", "", WORDS_300],
                          [0, 1, 0, 0, 0, 1])},
        Sample("what is it", WORDS_50, "second one", "7"),
        [("no answer present", {"answers": ["No Answer Present."]}),
         ("empty answer", {"answers": ["", "  "]}),
         ("empty answer", {"answers": None}),
         ("empty query", {"query": None}),
         ("empty id", {"query_id": None}),
         ("no selected passage", marco_passages([WORDS_50], [0])),
         ("no selected passage", marco_passages([], [])),
         ("no selected passage", marco_passages([WORDS_50], [0, 1])),
         ("no selected passage", {"passages": None}),
         ("empty passage", marco_passages([WORDS_50, None], [0, 1])),
         ("passage not 50 to 300 words", marco_passages([WORDS_50[5:]], [1])),
         ("passage not 50 to 300 words", marco_passages([WORDS_300 + " x"], [1]))]),
    # rajpurkar/squad_v2, config squad_v2
    "squad_v2": Card(
        Features({"id": TEXT, "title": TEXT, "context": TEXT, "question": TEXT,
                  "answers": parallel(text=TEXT, answer_start=INT)}),
        {"id": "5a", "title": "T", "context": " One paragraph. ", "question": "which one?",
         "answers": {"text": ["this one", "one"], "answer_start": [0, 5]}},
        Sample("which one?", "One paragraph.", "this one", "5a", digest(" One paragraph. ")[:16]),
        [("unanswerable question", {"answers": {"text": [], "answer_start": []}}),
         ("unanswerable question", {"answers": None}),
         ("empty answer", {"answers": {"text": [" "], "answer_start": [0]}}),
         ("empty passage", {"context": ""}), ("empty query", {"question": None}),
         ("empty id", {"id": None})]),
    # hotpotqa/hotpot_qa, config distractor
    "hotpotqa": Card(
        Features({"id": TEXT, "question": TEXT, "answer": TEXT, "type": TEXT, "level": TEXT,
                  "supporting_facts": parallel(title=TEXT, sent_id=INT),
                  "context": parallel(title=TEXT, sentences=List(TEXT))}),
        {"id": "5b", "question": "which came first?", "answer": "yes", "type": "comparison",
         "level": "hard", "supporting_facts": {"title": ["A", "B"], "sent_id": [0, 1]},
         "context": {"title": ["A", "none", "B"],
                     "sentences": [["It is A.", " It is old."], [], ["It is B."]]}},
        Sample("which came first?", "It is A. It is old.\nIt is B.", "yes", "5b"),
        [("empty passage", {"context": {"title": [], "sentences": []}}),
         ("empty passage", {"context": {"title": ["A"], "sentences": [[None, " "]]}}),
         ("empty answer", {"answer": ""}), ("empty query", {"question": " "})]),
    # qiaojin/PubMedQA, config pqa_labeled
    "pubmedqa": Card(
        Features({"pubid": INT, "question": TEXT,
                  "context": parallel(contexts=TEXT, labels=TEXT, meshes=TEXT,
                                      reasoning_required_pred=TEXT, reasoning_free_pred=TEXT),
                  "long_answer": TEXT, "final_decision": TEXT}),
        {"pubid": 21645374, "question": "does it help?", "long_answer": " It does, a little. ",
         "final_decision": "yes",
         "context": {"contexts": ["We asked. ", "We saw."], "labels": ["AIM", "RESULTS"],
                     "meshes": ["M"], "reasoning_required_pred": ["y"],
                     "reasoning_free_pred": ["y"]}},
        Sample("does it help?", "We asked.\nWe saw.", "It does, a little.", "21645374"),
        [("empty passage", {"context": None}), ("empty answer", {"long_answer": None}),
         ("empty query", {"question": ""}), ("empty id", {"pubid": None})]),
    # abisee/cnn_dailymail, config 3.0.0
    "cnn_dailymail": Card(
        Features({"article": TEXT, "highlights": TEXT, "id": TEXT}),
        {"article": "(CNN) -- It rained. ", "highlights": "\nIt rained .\nAll day .", "id": "f0"},
        Sample("Summarize the article.", "(CNN) -- It rained.", "It rained .", "f0"),
        [("empty passage", {"article": None}), ("empty answer", {"highlights": " \n "}),
         ("empty id", {"id": ""})]),
    # deepmind/narrativeqa
    "narrativeqa": Card(
        Features({"document": {
                      "id": TEXT, "kind": TEXT, "url": TEXT, "file_size": INT, "word_count": INT,
                      "start": TEXT, "end": TEXT, "text": TEXT,
                      "summary": {"text": TEXT, "tokens": List(TEXT), "url": TEXT, "title": TEXT}},
                  "question": {"text": TEXT, "tokens": List(TEXT)},
                  "answers": List({"text": TEXT, "tokens": List(TEXT)})}),
        {**story(), "question": {"text": "Who is it?", "tokens": ["Who"]},
         "answers": [{"text": "", "tokens": []}, {"text": "Ben ", "tokens": ["Ben"]}]},
        Sample("Who is it?", "The plot.", "Ben", f"abc-{digest('Who is it?')[:8]}", "abc"),
        [("empty passage", story(summary=PLOT)), ("empty passage", story(summary=None)),
         ("empty passage", {"document": None}),
         ("empty answer", {"answers": []}), ("empty answer", {"answers": None}),
         ("empty query", {"question": {"text": None, "tokens": []}})]),
    # google-research-datasets/natural_questions, config dev
    "natural_questions": Card(
        Features({"id": TEXT,
                  "document": {"title": TEXT, "url": TEXT, "html": TEXT,
                               "tokens": parallel(token=TEXT, is_html=BOOL, start_byte=LONG,
                                                  end_byte=LONG)},
                  "question": {"text": TEXT, "tokens": List(TEXT)},
                  "long_answer_candidates": parallel(start_token=LONG, end_token=LONG,
                                                     start_byte=LONG, end_byte=LONG,
                                                     top_level=BOOL),
                  "annotations": parallel(
                      id=TEXT,
                      long_answer={"start_token": LONG, "end_token": LONG, "start_byte": LONG,
                                   "end_byte": LONG, "candidate_index": LONG},
                      short_answers=parallel(start_token=LONG, end_token=LONG, start_byte=LONG,
                                             end_byte=LONG, text=TEXT),
                      yes_no_answer=ClassLabel(names=["NO", "YES"]))}),
        {"id": "-99", "question": {"text": "who was it", "tokens": ["who"]},
         "long_answer_candidates": {"start_token": [], "end_token": [], "start_byte": [],
                                    "end_byte": [], "top_level": []},
         **nq_page(["<P>", *["word"] * 1499, "<B>", "end", "</P>", "cut"]),
         **nq_answers(None, (1502, "end"), (2, "word"))},
        Sample("who was it", " ".join([*["word"] * 1499, "end"]), "end", "-99", "The title"),
        [("no short answer", nq_answers(None, None)), ("no short answer", nq_answers()),
         ("no short answer", {"annotations": None}),
         ("answer after the first 1500 words", nq_answers((1504, "cut"))),
         ("empty answer", nq_answers((2, " "))),
         ("empty passage", nq_page(["<P>", "</P>"])), ("empty passage", {"document": None}),
         ("empty query", {"question": None}), ("empty id", {"id": None})]),
}
every_dataset = pytest.mark.parametrize("name", CARDS)


def written(folder: Path, name: str, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows as the hub does, and read the schema back to be sure of it."""
    path = folder / f"{name}-{len(list(folder.iterdir()))}.parquet"
    features = CARDS[name].features
    datasets.Dataset.from_list(list(rows), features=features).to_parquet(path)
    assert Features.from_arrow_schema(pq.read_schema(path)) == features
    return path


def all_rows(name: str) -> list[dict[str, Any]]:
    card = CARDS[name]
    return [card.row, *[card.row | changes for _, changes in card.bad], card.row]


def read_all(folder: Path, name: str) -> Corpus:
    return hub.corpus_from(published.HUB[name], [written(folder, name, all_rows(name))])


def assert_rows_are_judged(folder: Path, name: str) -> None:
    """The good row becomes its sample, each bad one is counted under its reason."""
    made = read_all(folder, name)
    card = CARDS[name]
    assert made.samples == (card.sample,)
    assert made.dropped == Counter([reason for reason, _ in card.bad] + ["repeated id"])
    assert (made.name, made.revision) == (name, published.HUB[name].revision)


@every_dataset
def test_rows_become_samples(name: str, tmp_path: Path) -> None:
    """Written in the schema of the dataset's card, good rows and bad."""
    assert_rows_are_judged(tmp_path, name)


@every_dataset
def test_a_loader_that_checks_nothing_is_noticed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twin: empty texts make samples too."""
    monkeypatch.setattr(published, "checked", Sample)
    with pytest.raises((AssertionError, TypeError)):
        assert_rows_are_judged(tmp_path, name)


@pytest.mark.parametrize(
    ("name", "rule", "value"),
    [
        ("ms_marco", "WORDS", (49, 300)),
        ("ms_marco", "WORDS", (50, 301)),
        ("ms_marco", "NO_ANSWER", "none"),
        ("ms_marco", "first_of", lambda texts: (*texts, "")[0]),
        ("squad_v2", "digest", lambda text: text),
        ("squad_v2", "first_of", lambda texts: texts[-1]),
        ("cnn_dailymail", "SUMMARIZE", "Summarise."),
        ("cnn_dailymail", "first_of", " ".join),
        ("narrativeqa", "digest", lambda text: text[::-1]),
        ("natural_questions", "PAGE_WORDS", 1499),
        ("natural_questions", "PAGE_WORDS", 1501),
    ],
)
def test_a_rule_that_is_off_is_noticed(
    name: str, rule: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twin: bounds moved by one, another instruction, another choice among the answers.

    Where the good row is lost too, nothing is left, which the loader refuses in so many words.
    """
    monkeypatch.setattr(published, rule, value)
    with pytest.raises((AssertionError, KvError), match=r"assert|makes a sample"):
        assert_rows_are_judged(tmp_path, name)


def test_every_dataset_of_the_hub_has_a_card_here() -> None:
    """A dataset added later needs its card, and everything loadable is described."""
    assert set(CARDS) == set(published.HUB)
    assert set(DATASETS) == {"docstrings", *CARDS}
    assert all(re.fullmatch("[0-9a-f]{40}", data.revision) for data in published.HUB.values())


# --- passages to rank -----------------------------------------------------------------------


def assert_others_are_told(folder: Path) -> None:
    """Passages that nobody selected, each once; none that is selected, empty or the sample's."""
    card = CARDS["ms_marco"]
    lone = card.row | {"query_id": 8} | marco_passages([WORDS_50, WORDS_50], [1, 0])
    path = written(folder, "ms_marco", [card.row, lone])
    made = hub.corpus_from(published.HUB["ms_marco"], [path])
    assert [sample.id for sample in made.samples] == ["7", "8"]
    assert made.others == {"7": ("not this", "nor this")}


def test_other_passages_of_a_query_are_kept(tmp_path: Path) -> None:
    """For ranking: the corpus names them by the sample's id."""
    assert_others_are_told(tmp_path)


def test_others_that_answer_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: every passage of the query is among the others."""
    data = dataclasses.replace(
        published.HUB["ms_marco"], others_of=lambda row: tuple(row["passages"]["passage_text"]))
    monkeypatch.setitem(published.HUB, "ms_marco", data)  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        assert_others_are_told(tmp_path)


def test_only_a_dataset_that_names_them_has_others(tmp_path: Path) -> None:
    """What a dataset is said to be good for agrees with what its loader fills in."""
    for name in CARDS:
        assert traits_of(name).ranking == bool(read_all(tmp_path, name).others)
    assert traits_of("docstrings").ranking
    assert [name for name, traits in DATASETS.items() if traits.past_queries] == [
        "squad_v2", "narrativeqa"]
    assert [name for name, traits in DATASETS.items() if traits.long] == [
        "hotpotqa", "cnn_dailymail", "narrativeqa", "natural_questions"]


ASKED = {"a": "which paragraph?", "b": "who wrote one paragraph here?",
         "c": "one paragraph or two?", "d": "one paragraph or two?"}


def assert_past_queries_are_the_nearest(folder: Path) -> None:
    """Of the other questions about a paragraph, the one that shares most words with it."""
    row = CARDS["squad_v2"].row
    rows = [{**row, "id": name, "question": text} for name, text in ASKED.items()]
    alone = {**row, "id": "e", "context": "Another.", "question": "one paragraph?"}
    path = written(folder, "squad_v2", [*rows, alone])
    made = hub.corpus_from(published.HUB["squad_v2"], [path])
    # Shared with "One paragraph.", of all their words: a 1 of 3, b 2 of 5, c and d 2 of 4.
    assert [dict(s.texts).get("past_query") for s in made.samples] == [
        ASKED["c"], ASKED["c"], ASKED["b"], ASKED["b"], None]


def test_past_queries_are_the_nearest(tmp_path: Path) -> None:
    assert_past_queries_are_the_nearest(tmp_path)


@pytest.mark.parametrize(("name", "broken"), [
    ("_overlap", lambda query, _passage: -len(query)), ("_with", lambda sample, _: sample)])
def test_twin_past_queries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str,
                           broken: Any) -> None:
    """The shortest question, and none at all, are noticed."""
    monkeypatch.setattr(past, name, broken)
    with pytest.raises(AssertionError):
        assert_past_queries_are_the_nearest(tmp_path)


def test_what_datasets_can_give_is_known_without_loading_anything() -> None:
    """Neither torch nor a reader of files is imported for it; the twin asks for a dataset."""
    code = """
import json, sys
from kvcore.corpora import traits_of
{more}
heavy = {{"torch", "transformers", "datasets", "pyarrow", "numpy", "huggingface_hub"}}
print(json.dumps([traits_of("ms_marco").ranking, sorted(heavy & set(sys.modules))]))
"""
    assert child(code.format(more="")) == [True, []]
    assert child(code.format(more="import pyarrow"))[1] != []


# --- files that are not what the card says --------------------------------------------------


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


COLUMNS = [(name, path) for name, data in published.HUB.items() for path in kinds(data.columns)]


@pytest.mark.parametrize(("name", "path"), COLUMNS)
def test_a_column_that_lacks_is_one_line(
    name: str, path: tuple[str, ...], tmp_path: Path
) -> None:
    """It says which column lacks and which are there, parts of columns too."""
    if len(CARDS[name].features) == 1:
        pytest.fail("a file needs a column")
    with pytest.raises(KvError) as error:
        hub.corpus_from(published.HUB[name], [spoilt(tmp_path, name, path, None)])
    assert str(error.value).startswith(f"{name}: column '{'.'.join(path)}' lacks; needed are ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "kind", [pa.float64(), pa.list_(pa.float64()), pa.struct([("x", pa.int8())])])
@pytest.mark.parametrize(("name", "path"), COLUMNS)
def test_a_column_of_another_kind_is_one_line(
    name: str, path: tuple[str, ...], kind: pa.DataType, tmp_path: Path
) -> None:
    """Numbers for text, a list for one, a single one for a list."""
    with pytest.raises(KvError) as error:
        hub.corpus_from(published.HUB[name], [spoilt(tmp_path, name, path, kind)])
    assert str(error.value).startswith(f"{name}: column '{'.'.join(path)}")
    assert "\n" not in str(error.value)


def test_a_schema_nobody_looks_at_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twin: no flaw is ever found, so the message is another one."""
    monkeypatch.setattr(hub, "flaw", lambda *_: None)
    with pytest.raises(AssertionError):
        test_a_column_of_another_kind_is_one_line("squad_v2", ("id",), pa.float64(), tmp_path)


@every_dataset
def test_a_file_without_a_good_row_is_one_line(name: str, tmp_path: Path) -> None:
    """The reasons are told."""
    card = CARDS[name]
    reason, changes = card.bad[0]
    path = written(tmp_path, name, [card.row | changes])
    message = rf"^{name}: none of 1 rows makes a sample; dropped: {{'{reason}': 1}}\.$"
    with pytest.raises(KvError, match=message):
        hub.corpus_from(published.HUB[name], [path])


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    """It says what to delete and the command that fetches it again."""
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 this is no table")
    with pytest.raises(KvError, match=r"^squad_v2: rows\.parquet is not .*; delete .*hf download"):
        hub.corpus_from(published.HUB["squad_v2"], [path])


def assert_files_are_read_in_order(folder: Path) -> None:
    card = CARDS["narrativeqa"]
    rows = [card.row | {"question": {"text": text, "tokens": []}} for text in ("b", "a", "c")]
    paths = [written(folder, "narrativeqa", [row]) for row in rows]
    made = hub.corpus_from(published.HUB["narrativeqa"], paths)
    assert [sample.query for sample in made.samples] == ["b", "a", "c"]
    assert {sample.cluster for sample in made.samples} == {"abc"}


def test_files_are_read_in_order(tmp_path: Path) -> None:
    """One corpus of all of them; a story is asked several questions."""
    assert_files_are_read_in_order(tmp_path)


def test_files_that_are_forgotten_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twin: all questions of a story have one identity."""
    monkeypatch.setattr(io, "digest", lambda _text: "same")
    with pytest.raises(AssertionError):
        assert_files_are_read_in_order(tmp_path)


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
    ("name", "unread"), [("narrativeqa", "text"), ("natural_questions", "html")])
def test_whole_books_are_never_decoded(name: str, unread: str, tmp_path: Path) -> None:
    """Only what a sample is made of is read."""
    assert_books_stay_on_disk(tmp_path, name, unread)


def test_a_book_that_is_read_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: whole columns are asked for."""
    monkeypatch.setattr(hub, "leaves", list)
    with pytest.raises(AssertionError):
        assert_books_stay_on_disk(tmp_path, "narrativeqa", "text")


def any_row(kind: Any) -> st.SearchStrategy[Any]:
    """Rows of a kind: nulls anywhere, parallel lists of any lengths, hostile texts."""
    if isinstance(kind, dict):
        made: Any = st.fixed_dictionaries({name: any_row(inner) for name, inner in kind.items()})
    elif isinstance(kind, list):
        made = st.lists(any_row(kind[0]), max_size=4)
    elif kind == "text":
        made = st.text(max_size=4) | st.just(WORDS_50)
    else:
        made = st.booleans() if kind == "bool" else st.integers(0, 2)
    return st.none() | made


def assert_no_row_crashes(name: str, row: dict[str, Any]) -> None:
    """A row is a sample of stripped texts, none empty, or has a reason in words."""
    data = published.HUB[name]
    clean = hub.filled(data.columns, row)
    made = data.sample_of(clean)
    if isinstance(made, Sample):
        texts = (made.query, made.passage, made.answer, made.id)
        assert all(text and text == text.strip() for text in texts)
        others = data.others_of(clean) if data.others_of else ()
        assert made.passage not in others
        assert all(others)
        assert len(set(others)) == len(others)
    else:
        assert re.fullmatch(r"[a-z][a-z0-9 ]+", made)


@every_dataset
@given(data=st.data())
def test_any_row_is_a_sample_or_has_a_reason(name: str, data: st.DataObject) -> None:
    """Nulls, empty lists and lists that do not match included."""
    columns = published.HUB[name].columns
    rows = st.fixed_dictionaries({key: any_row(kind) for key, kind in columns.items()})
    assert_no_row_crashes(name, data.draw(rows))


@every_dataset
def test_a_null_that_stays_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: nulls are not made empty."""
    monkeypatch.setattr(hub, "filled", lambda _kind, row: row)
    with pytest.raises((AssertionError, TypeError, AttributeError)):
        assert_no_row_crashes(name, dict.fromkeys(published.HUB[name].columns))


# --- where the files lie --------------------------------------------------------------------

HUB_CODE = """
import json, socket
from kvcore.corpora import load_corpus
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
    """Offline nothing is asked; with nobody listening it is asked once (a few look-ups)."""
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
        f"--repo-type dataset --revision {published.HUB['ms_marco'].revision}"
    )
    assert "\n" not in message
    assert asked <= most
    assert (asked == 0) == (offline == "1")


@pytest.fixture
def nothing_cached(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """An empty cache, and a hub that answers or does not."""
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_a, **_k: None)
    return lambda answers: monkeypatch.setattr(hub, "hub_answers", lambda: answers)


@every_dataset
def test_a_dataset_that_is_not_here_names_its_command(
    name: str, nothing_cached: Callable[[bool], None]
) -> None:
    """All of its files in one command, at the pinned revision."""
    nothing_cached(False)
    with pytest.raises(MissingResource) as error:
        load_corpus(name)
    data = published.HUB[name]
    assert str(error.value).startswith(f"{name} is not on this machine")
    assert str(error.value).endswith(
        f"run: hf download {data.repository} {' '.join(data.files)} --repo-type dataset "
        f"--revision {data.revision}")


def test_a_hub_that_refuses_is_one_line(
    nothing_cached: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first line of its reason is passed on."""

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
    """The cached copies of the pinned revision are read as they lie."""
    copy = str(written(tmp_path, name, all_rows(name)))
    asked: list[tuple[Any, ...]] = []

    def cached(repository: str, file: str, *, repo_type: str, revision: str) -> str:
        asked.append((repository, file, repo_type, revision))
        return copy

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    monkeypatch.setattr(hub, "hub_answers", lambda: pytest.fail("the hub was asked"))
    data = published.HUB[name]
    assert load_corpus(name).samples == (CARDS[name].sample,)
    assert asked == [(data.repository, file, "dataset", data.revision) for file in data.files]
