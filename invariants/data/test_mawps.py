"""MAWPS rows become consistent pairs, or are counted under a reason."""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from invariants.support.comparing import must_see
from invariants.support.faults import Fault, all_of, each, patched
from invariants.support.problem_pairs import assert_shares, by_python, digits_in, sides
from invariants.support.published_pairs import CAKE, MAWPS_COLUMNS, MAWPS_GOOD, mawps_file
from kvcore.data.context_pairs import assignment, mawps
from kvcore.data.context_pairs.pair import Pair
from kvcore.data.sample import Sample
from kvcore.errors import KvError

MAWPS_BAD: list[tuple[str, dict[str, str]]] = [
    ("empty question", {"Question": " "}),
    ("empty equation", {"Equation": ""}),
    ("empty answer", {"Answer": ""}),
    ("numbers are not numbers", {"Numbers": "8.0 two"}),
    ("placeholders and numbers do not agree", {"Numbers": "8.0"}),
    ("placeholders and numbers do not agree", {"Question": "None", "Equation": "8 - 2"}),
    ("equation or answer is not arithmetic", {"Equation": "N_00 ** N_01"}),
    ("equation or answer is not arithmetic", {"Equation": "- N_00 N_01"}),
    ("equation or answer is not arithmetic", {"Answer": "six"}),
    ("equation or answer is not arithmetic", {"Numbers": "8.0 0.0", "Equation": "N_00 / N_01"}),
    ("equation and answer disagree", {"Answer": "7.0"}),
    ("equation and answer disagree", {"Answer": "6.001"}),
    (
        "answer has no end of decimals",
        {"Numbers": "8.0 3.0", "Equation": "N_00 / N_01", "Answer": "2.6666666666666665"},
    ),
    ("equation falls below zero", {"Numbers": "2.0 8.0", "Answer": "-6.0"}),
    ("equation has a number that the question lacks", {"Equation": "N_00 - N_01 + 5 - 5"}),
    ("repeated problem", MAWPS_GOOD[3]),
]


def assert_mawps_is_read(folder: Path) -> None:
    """Good rows make consistent pairs in thirds, bad ones are counted under their reasons."""
    bad = [CAKE | changes for _, changes in MAWPS_BAD]
    pairs, dropped = mawps.mawps_pairs([mawps_file(folder, [*MAWPS_GOOD, *bad])], 0)
    assert dropped == Counter(reason for reason, _ in MAWPS_BAD)
    assert len(pairs) == len(MAWPS_GOOD)
    assert_shares([pair.variation_type for pair in pairs])
    for pair in pairs:
        for problem, answer, equation in sides(pair):
            assert by_python(equation) == Fraction(answer) >= 0
            assert digits_in(problem) == digits_in(re.sub(r"[()]", "", equation)), pair
            if not re.search(r"\d\.\d", pair.question):
                assert Fraction(answer).denominator == 1, pair
            assert "N_0" not in problem
        assert_mawps_change(pair)
    again, _ = mawps.mawps_pairs([mawps_file(folder, [*bad, *MAWPS_GOOD[::-1]])], 0)
    assert again == pairs
    assert mawps.mawps_pairs([mawps_file(folder, MAWPS_GOOD)], 1)[0] != pairs


def assert_mawps_change(pair: Pair) -> None:
    """The question differs in the type's own way alone."""
    if pair.variation_type == "added_step":
        assert pair.alt_problem.startswith(f"{pair.question} Then ")
        assert pair.alt_problem.endswith("What number is that?")
        assert pair.answer != pair.alt_answer
        return
    before, now = digits_in(pair.question), digits_in(pair.alt_problem)
    changed = sum(a != b for a, b in zip(before, now, strict=True))
    assert re.sub(r"[\d.]+", "", pair.question) == re.sub(r"[\d.]+", "", pair.alt_problem)
    assert {None: changed == 0, "single_number": changed == 1, "multi_number": changed == 2}[
        pair.variation_type
    ], pair
    assert all(n >= 1 for n in now)


def test_mawps_rows_become_pairs(tmp_path: Path) -> None:
    """Catches a pair that is inconsistent or of another type, and a bad row that is not counted."""
    assert_mawps_is_read(tmp_path)


REAL_SUBSTITUTED = mawps.substituted


def last_letters(*parts: str) -> str:
    """Digest by the end alone, which rows have in common."""
    return str(parts)[-3:]


@each(
    patched(
        mawps,
        "substituted",
        lambda text, numbers: REAL_SUBSTITUTED(text, [numbers[0], *numbers[1:][::-1]]),
    ),
    patched(
        mawps,
        "substituted",
        lambda text, numbers: REAL_SUBSTITUTED(
            text, [*numbers[:-1], Fraction(numbers[-1]) + (" " in text and "?" in text)]
        ),
    ),
    patched(mawps, "results_fit", lambda *_: True),
    patched(mawps, "inconsistency", lambda _pair: None),
    patched(mawps, "ROUNDED", Fraction(1, 2)),
    patched(assignment, "planned_type", lambda _index: "multi_number"),
    patched(mawps, "draw_number", lambda number, *_key: number + Fraction(1, 3)),
    all_of(patched(mawps, "digest", last_letters), patched(assignment, "digest", last_letters)),
)
def test_a_mawps_rule_that_is_off_is_noticed(fault: Fault, tmp_path: Path) -> None:
    """Twin: catches numbers put elsewhere, checks left out, other shares, an order that is none."""
    must_see(fault, assert_mawps_is_read, tmp_path)


def test_a_row_that_cannot_take_its_type_is_dropped(tmp_path: Path) -> None:
    """Catches a number up to 1 that is changed, or a row kept although nothing can change."""
    lone = [
        CAKE
        | {
            "Question": f"Mary has N_00 cups and loses N_01 on day {i} . How many ?",
            "Numbers": "1.0 0.5",
            "Answer": "0.5",
        }
        for i in range(6)
    ]
    pairs, dropped = mawps.mawps_pairs([mawps_file(tmp_path, lone)], 0)
    assert pairs == ()
    assert dropped == {"no single_number change found": 6}


def test_a_control_could_have_been_changed() -> None:
    """Catches a control made of a row that could not have been changed."""
    lone = Sample(
        "Mary has N_00 cups and loses N_01 . How many ?",
        "",
        "0.5",
        texts=(("numbers", "1.0 0.5"), ("equation", "N_00 - N_01")),
    )
    cake = Sample(
        CAKE["Question"], "", "6.0", texts=(("numbers", "8.0 2.0"), ("equation", "N_00 - N_01"))
    )
    problems = [mawps.problem_of(sample) for sample in (lone, cake)]
    assert all(isinstance(problem, mawps.MawpsProblem) for problem in problems)
    first, second = (
        mawps.mawps_pair(problem, 0, None)  # type: ignore[arg-type]
        for problem in problems
    )
    assert first == "no single_number change found"
    assert isinstance(second, Pair)
    assert second.variation_type is None


def test_a_mawps_file_that_is_none_is_one_line(tmp_path: Path) -> None:
    """Catches a traceback for a column that is missing or a file that is no table."""
    without_answer = mawps_file(tmp_path, [CAKE], MAWPS_COLUMNS[:-1])
    with pytest.raises(
        KvError, match=r"^mawps: column 'Answer' is missing; required: Question, Numb"
    ):
        mawps.mawps_pairs([without_answer], 0)
    ragged = tmp_path / "MAWPS.csv"
    ragged.write_text("Question,Numbers\na,b,c\n", encoding="utf-8")
    message = r"^mawps: MAWPS\.csv is not readable CSV \(.*; delete it and run: hf download mwpt5/M"
    with pytest.raises(KvError, match=message):
        mawps.mawps_pairs([ragged], 0)


def test_a_change_that_divides_by_zero_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a load that ends where a changed number makes the divisor zero."""
    texts = (("numbers", "24.0 9.0 5.0"), ("equation", "N_00 / ( N_01 - N_02 )"))
    question = "N_00 pins are shared by the N_01 who came less the N_02 who left . How many each ?"
    problem = mawps.problem_of(Sample(question, "", "6.0", texts=texts))
    assert isinstance(problem, mawps.MawpsProblem)
    draws = iter(map(Fraction, (5, 7)))
    monkeypatch.setattr(mawps, "shuffled", lambda slots, *_key: [slots[1], slots[0], slots[2]])
    monkeypatch.setattr(mawps, "draw_number", lambda *_key: next(draws))
    pair = mawps.mawps_pair(problem, 0, "single_number")
    assert isinstance(pair, Pair), pair
    assert pair.alt_equation == "x = 24 / (7 - 5)"
