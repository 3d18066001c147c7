"""Context pairs: what makes one consistent, one place each, and pairs by name or from a file."""

from __future__ import annotations

import dataclasses
import functools
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariants.support.children import child
from invariants.support.comparing import must_see
from invariants.support.own_files import jsonl
from invariants.support.patching import Fault, each, patched
from invariants.support.problem_pairs import ADDED, CONTROL, GOOD, MULTI, STORY, row_of
from invariants.support.published_pairs import (
    CAKE,
    FAIRYTALES,
    MAWPS_GOOD,
    fairytale_file,
    mawps_file,
)
from kvcore.data import hub
from kvcore.data.context_pairs import assignment, load, pair, word_problems
from kvcore.data.context_pairs.assignment import injection_fraction
from kvcore.data.context_pairs.equations import evaluate
from kvcore.data.context_pairs.load import PAIRS, load_pairs
from kvcore.data.context_pairs.pair import Pair
from kvcore.errors import KvError, MissingResource

seeds = st.integers(-(2**31), 2**31)

INCONSISTENT: dict[str, tuple[Pair, dict[str, str | None]]] = {
    "equation gives 17, answer says 18": (GOOD, {"answer": "18"}),
    "alt_equation gives 14, alt_answer says 14.5": (GOOD, {"alt_answer": "14.5"}),
    "alt_answer 'many' is no number": (GOOD, {"alt_answer": "many"}),
    "answer '17/0' is no number": (GOOD, {"answer": "17/0"}),
    "equation has 4, which its problem never": (GOOD, {"equation": "x = 12 + 4 + 1"}),
    "equation falls below zero": (GOOD, {"answer": "-7", "equation": "x = 5 - 12"}),
    "alt_equation falls below zero": (
        GOOD,
        {"alt_equation": "x = (5 - 9) + 9 + 9", "alt_answer": "14"},
    ),
    "is not arithmetic": (GOOD, {"equation": "x = y"}),
    "divides by zero": (GOOD, {"equation": "x = 12 / (5 - 5)"}),
    "2 numbers are changed, not one": (MULTI, {"variation_type": "single_number"}),
    "1 numbers are changed, not several": (GOOD, {"variation_type": "multi_number"}),
    "differ in more than their numbers": (
        GOOD,
        {"alt_problem": GOOD.alt_problem.replace("pins", "nuts")},
    ),
    "with a sentence and an operation more": (GOOD, {"variation_type": "added_step"}),
    "the first one with a sentence": (
        ADDED,
        {"alt_problem": ADDED.alt_problem.replace("12", "12.0")},
    ),
    "a control's two problems differ": (CONTROL, {"alt_answer": "17.0"}),
    "unknown variation_type 'other'": (GOOD, {"variation_type": "other"}),
    "the two problems are the same": (CONTROL, {"variation_type": "entity"}),
    "the two answers are the same": (GOOD, {"alt_answer": "17.0"}),
    "only one of the two problems has an equation": (GOOD, {"alt_equation": ""}),
    "a change of numbers needs equations": (STORY, {"variation_type": "single_number"}),
}


def assert_flaws_are_told() -> None:
    """The good ones are good, each other one is called what it is."""
    sound = (GOOD, MULTI, ADDED, CONTROL, STORY)
    assert [pair.inconsistency(each_pair) for each_pair in sound] == [None] * 5
    for reason, (before, changes) in INCONSISTENT.items():
        message = pair.inconsistency(dataclasses.replace(before, **changes))  # type: ignore[arg-type]
        assert message is not None, reason
        assert reason in message
        assert "\n" not in message


def test_every_contradiction_is_told() -> None:
    """Catches a pair that contradicts itself, in each of twenty ways, and is taken all the same."""
    assert_flaws_are_told()


@each(
    patched(pair, "evaluate", lambda text: dataclasses.replace(evaluate(text), value=Fraction(17))),
    patched(pair, "mentioned_numbers", lambda _text: range(100)),
    patched(pair, "evaluate", lambda text: dataclasses.replace(evaluate(text), steps=())),
    patched(pair, "without_numbers", lambda _text: ""),
    patched(pair, "answers_agree", lambda *_: False),
    patched(pair, "is_subsequence", lambda *_: True),
    patched(pair, "NUMBER", re.compile(r"9")),
    patched(pair, "wrong_change", lambda _pair: None),
)
def test_a_blind_check_is_noticed(fault: Fault) -> None:
    """Twin: catches a check above that does not see one of these looked at no more."""
    must_see(fault, assert_flaws_are_told)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("Ann has 1,200 pins, 2.5 feet and .5 more. She sells 3.", ["1200", "5/2", "1/2", "3"]),
        ("It costs $5, or 20% of 25?", ["5", "20", "25"]),
        ("Room B12 of 1999-2004", ["1999", "2004"]),
        ("N_00 and x2 are names", []),
        ("12,34", ["12", "34"]),
        ("", []),
    ],
)
def test_numbers_are_read_from_a_text(text: str, numbers: list[str]) -> None:
    """Catches thousands, decimals or sums of money misread, and a full stop read as a decimal."""
    assert list(pair.numbers_in(text)) == [Fraction(n) for n in numbers]


def test_words_for_numbers_are_numbers_too() -> None:
    """Catches "half" or "dozen" not being taken for a number that an equation may use."""
    made = dataclasses.replace(
        CONTROL,
        question="Half of the 12 go, and twice a dozen come. How many?",
        answer="30",
        equation="x = 12 / 2 + 2 * 12",
    )
    same = dataclasses.replace(
        made, alt_problem=made.question, alt_answer="30", alt_equation=made.equation
    )
    assert pair.inconsistency(same) is None


# --- one place each -----------------------------------------------------------------------------


def assert_one_place_each(
    seed: int, fractions: Sequence[float], pairs_of: Callable[[int], Sequence[Pair]]
) -> None:
    """A problem has one place however many are asked for, and places come equally often."""
    places: dict[str, set[float]] = {}
    for one in (*pairs_of(20), *pairs_of(45)):
        for problem in (one.question, one.alt_problem):
            places.setdefault(problem, set()).add(injection_fraction(one, seed, fractions))
    assert all(len(found) == 1 for found in places.values())
    for change in (None, *pair.CHANGES):
        dealt = Counter(
            injection_fraction(one, seed, fractions)
            for one in pairs_of(45)
            if one.variation_type == change
        )
        assert set(dealt) <= set(fractions)
        counts = [dealt[share] for share in fractions]
        assert max(counts) - min(counts) <= 1


def anew(n: int) -> tuple[Pair, ...]:
    """Make pairs of one seed."""
    return word_problems.word_problems(n, 3)


made_once = functools.cache(anew)


@given(seed=seeds, fractions=st.sampled_from([(0.25, 0.5, 0.75), (0.5,), (0.1, 0.9)]))
def test_no_problem_is_used_at_two_places(seed: int, fractions: tuple[float, ...]) -> None:
    """Catches a problem switched at two places, and places that are not balanced in a type."""
    assert_one_place_each(seed, fractions, made_once)


def test_places_dealt_otherwise_are_noticed() -> None:
    """Twin: catches places by a digest drawn anew at each call, and one place for all."""
    luck = random.Random(0)
    for fault in (
        patched(assignment, "digest", lambda *_parts: str(luck.random())),
        patched(word_problems, "numbered", tuple),
    ):
        must_see(fault, assert_one_place_each, 0, (0.25, 0.5, 0.75), anew)


def test_places_differ_between_seeds_and_hide_no_pattern() -> None:
    """Catches places that ignore the seed, or blocks that all begin with the same place."""
    made = [dataclasses.replace(GOOD, number=i) for i in range(90)]
    dealt = [[injection_fraction(one, seed) for one in made] for seed in (0, 1)]
    assert dealt[0] != dealt[1]
    assert len(set(dealt[0][::3])) == 3


@pytest.mark.parametrize("fractions", [(), (0.5, 0.5), (0.0, 0.5), (0.5, 1.0), (float("nan"),)])
def test_places_out_of_range_are_refused(fractions: tuple[float, ...]) -> None:
    """Catches fractions that are none, repeated, or not between 0 and 1."""
    with pytest.raises(KvError, match="pass distinct shares between 0 and 1"):
        injection_fraction(GOOD, 0, fractions)


# --- files --------------------------------------------------------------------------------------


GOOD_PAIRS = (GOOD, dataclasses.replace(STORY, id="t"))


def assert_file_is_read(folder: Path) -> None:
    """Written as JSON Lines and as Parquet, pairs come back as they were, in one order."""
    written = [row_of(made) for made in (*word_problems.word_problems(30, 0), *GOOD_PAIRS)]
    path = folder / "own.parquet"
    pq.write_table(pa.Table.from_pylist(written[::-1]), path)
    one, two = load_pairs(jsonl(folder / "own.jsonl", *written)), load_pairs(str(path))
    assert one.pairs == two.pairs
    assert {json.dumps(row_of(made)) for made in one.pairs} == {json.dumps(row) for row in written}
    assert (one.name, one.dropped) == ("own", {})
    assert one.revision != two.revision
    for made in one.pairs:
        earlier = one.pairs[: one.pairs.index(made)]
        assert made.number == sum(e.variation_type == made.variation_type for e in earlier)
    assert load_pairs(str(path), n=5).pairs == one.pairs[:5]
    assert load_pairs(str(path), seed=1).pairs != one.pairs


def test_pairs_come_out_of_a_file_as_they_went_in(tmp_path: Path) -> None:
    """Catches pairs that change on the way through a file, or that follow the order of its rows."""
    assert_file_is_read(tmp_path)


def test_a_file_read_in_its_own_order_is_noticed(tmp_path: Path) -> None:
    """Twin: catches an order that is that of the rows."""
    must_see(patched(load, "in_order", lambda pairs, _seed: pairs), assert_file_is_read, tmp_path)


def test_empty_and_repeated_problems_are_dropped_and_counted(tmp_path: Path) -> None:
    """Catches a problem used twice, be it another pair's changed one, and uncounted drops."""
    row = row_of(GOOD) | {"id": None}
    other = row_of(STORY)
    again = dataclasses.replace(
        CONTROL,
        question=GOOD.alt_problem,
        answer="14",
        equation=GOOD.alt_equation,
        alt_problem=GOOD.alt_problem,
        alt_answer="14",
        alt_equation=GOOD.alt_equation,
    )
    made = load_pairs(
        jsonl(
            tmp_path / "own.jsonl",
            row | {"answer": 17, "alt_answer": 14.0},
            row,
            "",
            row_of(again) | {"id": "c"},
            other | {"question": " "},
            other | {"alt_answer": None},
            other,
        )
    )
    assert made.dropped == {"empty question": 1, "empty alt_answer": 1, "repeated problem": 2}
    assert {(one.answer, one.alt_answer) for one in made.pairs} == {("17", "14.0"), ("fox", "hen")}
    assert all(one.id for one in made.pairs)


BAD_ROWS: dict[str, dict[str, Any] | str] = {
    r"line 2 is not JSON": "{",
    r"line 2 is not a JSON object": "[]",
    r"column 'alt_equation' is missing on line 2; required: question, .*; optional: id": {
        k: v for k, v in row_of(STORY).items() if k != "alt_equation"
    },
    r"'question' on line 2 is int, not text": row_of(STORY) | {"question": 3},
    r"'answer' on line 2 is bool, not text": row_of(STORY) | {"answer": True},
    r"variation_type 'entities' on line 2 is unknown; use single_number, multi_number, added_step, "
    r"entity, or null": row_of(STORY) | {"variation_type": "entities"},
    r"variation_type '' on line 2 is unknown": row_of(STORY) | {"variation_type": ""},
    r"line 2 contradicts itself: a control's two": row_of(STORY) | {"variation_type": None},
    r"line 2 contradicts itself: equation gives 17, answer says 18": row_of(GOOD)
    | {"answer": "18", "id": "x", "question": GOOD.question + " Say."},
    r"id 'p' on line 2 is already on line 1": row_of(STORY) | {"id": "p"},
}


def assert_bad_rows_are_told(folder: Path) -> None:
    """Each bad row is one line that names the file and the line."""
    for message, row in BAD_ROWS.items():
        path = jsonl(folder / "own.jsonl", row_of(GOOD), row)
        said = message_of(path)
        assert re.search(message, said), said
        assert said.startswith(path)
        assert "\n" not in said


def message_of(path: str) -> str:
    """Return what the loader says of a file, empty where it takes it."""
    try:
        load_pairs(path)
    except KvError as error:
        return str(error)
    return ""


def test_a_bad_row_is_one_line_with_its_number(tmp_path: Path) -> None:
    """Catches a bad row that is taken, or told without its path and line."""
    assert_bad_rows_are_told(tmp_path)


def test_rows_that_nobody_checks_are_noticed(tmp_path: Path) -> None:
    """Twin: catches a loader that never asks whether a pair contradicts itself."""
    must_see(patched(load, "inconsistency", lambda _pair: None), assert_bad_rows_are_told, tmp_path)


def test_a_bad_file_is_one_line(tmp_path: Path) -> None:
    """Catches a traceback for a file that is absent, of another kind, damaged or empty."""
    damaged = tmp_path / "own.parquet"
    damaged.write_bytes(b"PAR1 this is no table")
    for name, message in (
        (str(tmp_path / "none.jsonl"), r"none\.jsonl: cannot be read \(No such file"),
        (
            str(tmp_path / "own.tsv"),
            r"extension '\.tsv' is unknown; use \.jsonl, \.json, \.csv or ",
        ),
        (str(damaged), "not a readable Parquet file"),
        (jsonl(tmp_path / "empty.jsonl"), "no pair left; dropped: nothing, the file is empty"),
        (
            jsonl(tmp_path / "bare.jsonl", row_of(STORY) | {"answer": ""}),
            r"no pair left; dropped: \{'empty answer': 1\}",
        ),
    ):
        with pytest.raises(KvError, match=message) as error:
            load_pairs(name)
        assert "\n" not in str(error.value)


def test_an_unknown_name_is_one_line() -> None:
    """Catches a name or a number out of range that is refused without saying what is allowed."""
    with pytest.raises(KvError, match=r"unknown pairs 'mawp': did you mean 'mawps'\? known are "):
        load_pairs("mawp")
    for name in ("word_problems", "mawps"):
        with pytest.raises(KvError, match="n must be 1 or more, or None for all pairs; got 0"):
            load_pairs(name, n=0)


def test_another_generator_has_another_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a revision that ignores the seed or the code, or that changes with the number."""
    assert load_pairs(n=2).revision == load_pairs(n=3).revision != load_pairs(n=2, seed=1).revision
    before, sources = load.generator_hash("word_problems"), load.SOURCES["word_problems"]
    (tmp_path / "changed.py").write_text("changed", encoding="utf-8")
    for i in range(len(sources)):
        with monkeypatch.context() as patch:
            changed = [*sources[:i], tmp_path / "changed.py", *sources[i + 1 :]]
            patch.setattr(load, "SOURCES", {"word_problems": changed})
            load.generator_hash.cache_clear()
            assert load.generator_hash("word_problems") != before, sources[i].name
    load.generator_hash.cache_clear()
    assert load.generator_hash("word_problems") == before != load.generator_hash("stories")


# --- from the hub -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", load.PUBLISHED)
def test_a_dataset_that_is_not_here_names_its_command(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a message that lacks a file, the pinned revision or the command itself."""
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_a, **_k: None)
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    with pytest.raises(MissingResource, match=rf"^{name} is not on this machine") as error:
        load_pairs(name)
    data, _ = load.PUBLISHED[name]
    assert re.fullmatch("[0-9a-f]{40}", data.revision)
    assert str(error.value).endswith(
        f"run: hf download {data.repository} {' '.join(data.files)} --repo-type dataset "
        f"--revision {data.revision}"
    )


@pytest.mark.parametrize("name", load.PUBLISHED)
def test_files_in_the_hub_cache_need_no_network(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a hub that is asked although all files are cached, and another order for fewer."""
    rows: Any = {"mawps": MAWPS_GOOD, "fairytaleqa": FAIRYTALES}[name]
    write: Any = {"mawps": mawps_file, "fairytaleqa": fairytale_file}[name]
    data, _ = load.PUBLISHED[name]
    found = {
        file: str(write(tmp_path, rows[i :: len(data.files)])) for i, file in enumerate(data.files)
    }
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda _repository, file, **_more: found[file]
    )
    monkeypatch.setattr(hub, "hub_answers", lambda: pytest.fail("the hub was asked"))
    whole = load_pairs(name)
    assert len(whole.pairs) == len(rows)
    assert (whole.name, whole.revision, whole.note) == (name, data.revision, PAIRS[name])
    assert load_pairs(name, n=7).pairs == whole.pairs[:7]
    assert load_pairs(name, seed=1).pairs != whole.pairs


def test_a_dataset_without_a_good_row_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an empty corpus, or one refused without the reasons."""
    path = str(mawps_file(tmp_path, [CAKE | {"Answer": "7.0"}]))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_a, **_k: path)
    with pytest.raises(KvError, match=r"^mawps: no row makes a pair; dropped: \{'equation and an"):
        load_pairs("mawps")


def test_the_generator_imports_nothing_heavy() -> None:
    """Catches torch or a reader of files imported for generated pairs; its twin asks for one."""
    code = """
import json, sys
from kvcore.data.context_pairs.load import load_pairs
{more}
load_pairs(n=3)
heavy = {{"torch", "transformers", "datasets", "pyarrow", "numpy", "huggingface_hub"}}
print(json.dumps(sorted(heavy & set(sys.modules))))
"""
    assert child(code.format(more="")) == []
    assert child(code.format(more="import numpy")) == ["numpy"]
