"""What the cards of the hub's datasets say of their rows, with rows good and bad."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, List, Value

from kvcore.data.datasets import HUB
from kvcore.data.hub import corpus_from
from kvcore.data.sample import Corpus, Sample
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
    """Return the passages of an MS MARCO row."""
    return {
        "passages": {
            "is_selected": list(selected),
            "passage_text": list(texts),
            "url": ["https://example.org"] * len(texts),
        }
    }


def nq_answers(*annotators: tuple[int, str] | None) -> dict[str, Any]:
    """Annotate a page: for each annotator the end of the one short answer and its text, or none."""
    span = {"start_token": 5, "end_token": 6, "start_byte": 0, "end_byte": 0, "candidate_index": 0}
    return {
        "annotations": {
            "id": [str(i) for i in range(len(annotators))],
            "long_answer": [span] * len(annotators),
            "short_answers": [
                {
                    "start_token": [a[0] - 1] if a else [],
                    "end_token": [a[0]] if a else [],
                    "start_byte": [0] if a else [],
                    "end_byte": [0] if a else [],
                    "text": [a[1]] if a else [],
                }
                for a in annotators
            ],
            "yes_no_answer": [-1] * len(annotators),
        }
    }


def nq_page(tokens: Sequence[str]) -> dict[str, Any]:
    """Return a page of Natural Questions: markup is what begins with <."""
    return {
        "document": {
            "title": "The title",
            "url": "u",
            "html": "<P>never read</P>",
            "tokens": {
                "token": list(tokens),
                "is_html": [text.startswith("<") for text in tokens],
                "start_byte": [0] * len(tokens),
                "end_byte": [0] * len(tokens),
            },
        }
    }


def story(**changes: Any) -> dict[str, Any]:
    """Return a story of NarrativeQA."""
    summary = {"text": " The plot. ", "tokens": ["The", "plot"], "url": "u", "title": "t"}
    document = {
        "id": "abc",
        "kind": "movie",
        "url": "u",
        "file_size": 1,
        "word_count": 2,
        "start": "s",
        "end": "e",
        "summary": summary,
        "text": "never read",
    }
    return {"document": document | changes}


PLOT = {"text": "", "tokens": [], "url": "u", "title": "t"}
WORDS_50, WORDS_300 = (" ".join(["word"] * n) for n in (50, 300))
CARDS = {
    # microsoft/ms_marco, config v1.1
    "ms_marco": Card(
        Features(
            {
                "answers": List(TEXT),
                "passages": parallel(is_selected=INT, passage_text=TEXT, url=TEXT),
                "query": TEXT,
                "query_id": INT,
                "query_type": TEXT,
                "wellFormedAnswers": List(TEXT),
            }
        ),
        {
            "answers": ["", " second one ", "third"],
            "query": " what is it ",
            "query_id": 7,
            "query_type": "description",
            "wellFormedAnswers": [],
            **marco_passages(
                ["not this", f" {WORDS_50}\n", "nor this", "not this", "", WORDS_300],
                [0, 1, 0, 0, 0, 1],
            ),
        },
        Sample("what is it", WORDS_50, "second one", "7"),
        [
            ("no answer present", {"answers": ["No Answer Present."]}),
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
            ("passage not 50 to 300 words", marco_passages([WORDS_300 + " x"], [1])),
        ],
    ),
    # rajpurkar/squad_v2, config squad_v2
    "squad_v2": Card(
        Features(
            {
                "id": TEXT,
                "title": TEXT,
                "context": TEXT,
                "question": TEXT,
                "answers": parallel(text=TEXT, answer_start=INT),
            }
        ),
        {
            "id": "5a",
            "title": "T",
            "context": " One paragraph. ",
            "question": "which one?",
            "answers": {"text": ["this one", "one"], "answer_start": [0, 5]},
        },
        Sample("which one?", "One paragraph.", "this one", "5a", digest(" One paragraph. ")[:16]),
        [
            ("unanswerable question", {"answers": {"text": [], "answer_start": []}}),
            ("unanswerable question", {"answers": None}),
            ("empty answer", {"answers": {"text": [" "], "answer_start": [0]}}),
            ("empty passage", {"context": ""}),
            ("empty query", {"question": None}),
            ("empty id", {"id": None}),
        ],
    ),
    # hotpotqa/hotpot_qa, config distractor
    "hotpotqa": Card(
        Features(
            {
                "id": TEXT,
                "question": TEXT,
                "answer": TEXT,
                "type": TEXT,
                "level": TEXT,
                "supporting_facts": parallel(title=TEXT, sent_id=INT),
                "context": parallel(title=TEXT, sentences=List(TEXT)),
            }
        ),
        {
            "id": "5b",
            "question": "which came first?",
            "answer": "yes",
            "type": "comparison",
            "level": "hard",
            "supporting_facts": {"title": ["A", "B"], "sent_id": [0, 1]},
            "context": {
                "title": ["A", "none", "B"],
                "sentences": [["It is A.", " It is old."], [], ["It is B."]],
            },
        },
        Sample("which came first?", "It is A. It is old.\nIt is B.", "yes", "5b"),
        [
            ("empty passage", {"context": {"title": [], "sentences": []}}),
            ("empty passage", {"context": {"title": ["A"], "sentences": [[None, " "]]}}),
            ("empty answer", {"answer": ""}),
            ("empty query", {"question": " "}),
        ],
    ),
    # qiaojin/PubMedQA, config pqa_labeled
    "pubmedqa": Card(
        Features(
            {
                "pubid": INT,
                "question": TEXT,
                "context": parallel(
                    contexts=TEXT,
                    labels=TEXT,
                    meshes=TEXT,
                    reasoning_required_pred=TEXT,
                    reasoning_free_pred=TEXT,
                ),
                "long_answer": TEXT,
                "final_decision": TEXT,
            }
        ),
        {
            "pubid": 21645374,
            "question": "does it help?",
            "long_answer": " It does, a little. ",
            "final_decision": "yes",
            "context": {
                "contexts": ["We asked. ", "We saw."],
                "labels": ["AIM", "RESULTS"],
                "meshes": ["M"],
                "reasoning_required_pred": ["y"],
                "reasoning_free_pred": ["y"],
            },
        },
        Sample("does it help?", "We asked.\nWe saw.", "It does, a little.", "21645374"),
        [
            ("empty passage", {"context": None}),
            ("empty answer", {"long_answer": None}),
            ("empty query", {"question": ""}),
            ("empty id", {"pubid": None}),
        ],
    ),
    # abisee/cnn_dailymail, config 3.0.0
    "cnn_dailymail": Card(
        Features({"article": TEXT, "highlights": TEXT, "id": TEXT}),
        {"article": "(CNN) -- It rained. ", "highlights": "\nIt rained .\nAll day .", "id": "f0"},
        Sample("Summarize the article.", "(CNN) -- It rained.", "It rained .", "f0"),
        [
            ("empty passage", {"article": None}),
            ("empty answer", {"highlights": " \n "}),
            ("empty id", {"id": ""}),
        ],
    ),
    # deepmind/narrativeqa
    "narrativeqa": Card(
        Features(
            {
                "document": {
                    "id": TEXT,
                    "kind": TEXT,
                    "url": TEXT,
                    "file_size": INT,
                    "word_count": INT,
                    "start": TEXT,
                    "end": TEXT,
                    "text": TEXT,
                    "summary": {"text": TEXT, "tokens": List(TEXT), "url": TEXT, "title": TEXT},
                },
                "question": {"text": TEXT, "tokens": List(TEXT)},
                "answers": List({"text": TEXT, "tokens": List(TEXT)}),
            }
        ),
        {
            **story(),
            "question": {"text": "Who is it?", "tokens": ["Who"]},
            "answers": [{"text": "", "tokens": []}, {"text": "Ben ", "tokens": ["Ben"]}],
        },
        Sample("Who is it?", "The plot.", "Ben", f"abc-{digest('Who is it?')[:8]}", "abc"),
        [
            ("empty passage", story(summary=PLOT)),
            ("empty passage", story(summary=None)),
            ("empty passage", {"document": None}),
            ("empty answer", {"answers": []}),
            ("empty answer", {"answers": None}),
            ("empty query", {"question": {"text": None, "tokens": []}}),
        ],
    ),
    # google-research-datasets/natural_questions, config dev
    "natural_questions": Card(
        Features(
            {
                "id": TEXT,
                "document": {
                    "title": TEXT,
                    "url": TEXT,
                    "html": TEXT,
                    "tokens": parallel(token=TEXT, is_html=BOOL, start_byte=LONG, end_byte=LONG),
                },
                "question": {"text": TEXT, "tokens": List(TEXT)},
                "long_answer_candidates": parallel(
                    start_token=LONG, end_token=LONG, start_byte=LONG, end_byte=LONG, top_level=BOOL
                ),
                "annotations": parallel(
                    id=TEXT,
                    long_answer={
                        "start_token": LONG,
                        "end_token": LONG,
                        "start_byte": LONG,
                        "end_byte": LONG,
                        "candidate_index": LONG,
                    },
                    short_answers=parallel(
                        start_token=LONG, end_token=LONG, start_byte=LONG, end_byte=LONG, text=TEXT
                    ),
                    yes_no_answer=ClassLabel(names=["NO", "YES"]),
                ),
            }
        ),
        {
            "id": "-99",
            "question": {"text": "who was it", "tokens": ["who"]},
            "long_answer_candidates": {
                "start_token": [],
                "end_token": [],
                "start_byte": [],
                "end_byte": [],
                "top_level": [],
            },
            **nq_page(["<P>", *["word"] * 1499, "<B>", "end", "</P>", "cut"]),
            **nq_answers(None, (1502, "end"), (2, "word")),
        },
        Sample("who was it", " ".join([*["word"] * 1499, "end"]), "end", "-99", "The title"),
        [
            ("no short answer", nq_answers(None, None)),
            ("no short answer", nq_answers()),
            ("no short answer", {"annotations": None}),
            ("answer after the first 1500 words", nq_answers((1504, "cut"))),
            ("empty answer", nq_answers((2, " "))),
            ("empty passage", nq_page(["<P>", "</P>"])),
            ("empty passage", {"document": None}),
            ("empty query", {"question": None}),
            ("empty id", {"id": None}),
        ],
    ),
}


def written(folder: Path, name: str, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows as the hub does, and read the schema back to be sure of it."""
    path = folder / f"{name}-{len(list(folder.iterdir()))}.parquet"
    features = CARDS[name].features
    Dataset.from_list(list(rows), features=features).to_parquet(path)
    assert Features.from_arrow_schema(pq.read_schema(path)) == features
    return path


def all_rows(name: str) -> list[dict[str, Any]]:
    """Return the good row, each bad one, and the good one again."""
    card = CARDS[name]
    return [card.row, *[card.row | changes for _, changes in card.bad], card.row]


def read_all(folder: Path, name: str) -> Corpus:
    """Write all rows and load them."""
    return corpus_from(HUB[name], [written(folder, name, all_rows(name))])
