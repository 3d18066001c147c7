"""FairytaleQA sections name someone else throughout, or are counted under a reason."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from invariants.support.comparing import must_see
from invariants.support.faults import Fault, each, patched
from invariants.support.problem_pairs import sides
from invariants.support.published_pairs import (
    FAIRYTALE_FEATURES,
    FAIRYTALES,
    WHO,
    fairytale_file,
    tale,
)
from kvcore.data.context_pairs import assignment, fairytaleqa
from kvcore.data.context_pairs.pair import Pair
from kvcore.data.context_pairs.solutions import worked_solutions
from kvcore.errors import KvError

HILL = "in the castle by the lake lived a frog. it was the castle that he loved."
FAIRYTALE_BAD: list[tuple[str, dict[str, Any]]] = [
    ("asks neither whom nor where", {"attribute": "action"}),
    ("asks neither whom nor where", {"attribute": None}),
    ("answer is not in the text", {"ex-or-im": "implicit"}),
    ("empty answer", {"answer1": " . "}),
    ("empty query", {"question": ""}),
    ("empty passage", {"story_section": None}),
    ("answer not 1 to 4 words", {"answer1": "the frog that lived there long"}),
    ("answer not 1 to 4 words", {"answer1": "the"}),
    ("answer is not in the section", {"answer1": "the hen"}),
    ("question names the answer", {"question": "did a frog live there ?"}),
    (
        "part of the answer stands in the section elsewhere",
        {"answer1": "castle by the lake", "attribute": "setting"},
    ),
    ("no other answer of its kind in the story", {"attribute": "setting", "answer1": "the lake"}),
]


def assert_fairytales_are_read(folder: Path) -> None:
    """Sections name someone else of the same story throughout; bad rows are counted."""
    bad = [
        tale(f"bad-{i}", HILL, "who lived there ?", "a frog.") | changes
        for i, (_, changes) in enumerate(FAIRYTALE_BAD)
    ]
    files = [fairytale_file(folder, part) for part in (FAIRYTALES, bad)]
    pairs, dropped = fairytaleqa.fairytale_pairs(files, 0)
    assert dropped == Counter(reason for reason, _ in FAIRYTALE_BAD)
    assert len(pairs) == len(FAIRYTALES)
    kinds = Counter(pair.variation_type for pair in pairs)
    assert set(kinds) == {None, "entity"}
    assert 0.20 <= kinds[None] / len(pairs) <= 0.24
    for pair in pairs:
        assert_only_the_name_differs(pair)
    again, _ = fairytaleqa.fairytale_pairs(files[::-1], 0)
    assert again == pairs
    assert fairytaleqa.fairytale_pairs(files[:1], 1)[0] != pairs


def assert_only_the_name_differs(pair: Pair) -> None:
    """Cut at every mention, the two sections leave the same pieces."""
    (section, question), (other, same) = (
        text.rsplit("\n", 1) for text in (pair.question, pair.alt_problem)
    )
    assert question == same
    assert pair.answer in section
    pieces = section.casefold().split(pair.answer.casefold())
    assert pieces == other.casefold().split(pair.alt_answer.casefold())
    assert len(pieces) == 4
    assert pair.equation == pair.alt_equation == ""
    if pair.variation_type is None:
        assert section == other
    else:
        assert WHO.index(pair.answer) // 4 == WHO.index(pair.alt_answer) // 4, "of another story"
    assert "  " not in pair.question
    for text, (_, answer, _) in zip(worked_solutions(pair), sides(pair), strict=True):
        assert text.endswith(f" The answer is {answer}.")
        assert f"{answer} went out, far away." in text


def test_fairytales_become_pairs(tmp_path: Path) -> None:
    """Catches a mention left over, a name of another story, and a bad row that is not counted."""
    assert_fairytales_are_read(tmp_path)


REAL_OCCURRENCES = fairytaleqa.occurrences


@each(
    patched(
        fairytaleqa,
        "occurrences",
        lambda name: re.compile(REAL_OCCURRENCES(name).pattern + "(?!')"),
    ),
    patched(fairytaleqa, "NAMED", ("character", "setting", "action")),
    patched(fairytaleqa, "ANSWER_WORDS", 3),
    patched(fairytaleqa, "bare_name", lambda answer: tuple(answer.split())),
    patched(fairytaleqa, "words_in", lambda text: text.split()[:1]),
    patched(fairytaleqa, "LITTLE_WORDS", frozenset()),
    patched(assignment, "planned_type", lambda _index: None),
    patched(fairytaleqa, "story_and_attribute", lambda _sample: ("one story", "one kind")),
)
def test_a_fairytale_rule_that_is_off_is_noticed(fault: Fault, tmp_path: Path) -> None:
    """Twin: catches mentions left over, other kinds of answer, other lengths, controls only."""
    must_see(fault, assert_fairytales_are_read, tmp_path)


def test_names_keep_their_capitals(tmp_path: Path) -> None:
    """Catches a name in lower case at the start of a sentence, or in capitals within one."""
    rows = [
        tale(
            "s",
            f"{name.capitalize()} ran. then {name} slept {i}.",
            f"who ran {i} ?",
            f"The {name}.",
        )
        for i, name in enumerate(("foxes", "Hans"))
    ]
    pairs, _ = fairytaleqa.fairytale_pairs([fairytale_file(tmp_path, rows)], 0)
    assert {(pair.alt_problem, pair.alt_answer) for pair in pairs} == {
        ("Hans ran. then Hans slept 0.\nwho ran 0 ?", "Hans"),
        ("Foxes ran. then foxes slept 1.\nwho ran 1 ?", "Foxes"),
    }


def test_a_fairytale_column_that_lacks_is_one_line(tmp_path: Path) -> None:
    """Catches a column that is missing and only found out row by row."""
    path = tmp_path / "0.parquet"
    schema = FAIRYTALE_FEATURES.arrow_schema
    pq.write_table(schema.remove(schema.get_field_index("ex-or-im")).empty_table(), path)
    with pytest.raises(
        KvError, match=r"^fairytaleqa: column 'ex-or-im' is missing; required: story_"
    ):
        fairytaleqa.fairytale_pairs([path], 0)
