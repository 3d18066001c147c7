"""Solutions in words: every equality in them is true, and the last word is the answer."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from fractions import Fraction

import pytest

from invariants.support.comparing import must_see
from invariants.support.faults import patched
from invariants.support.problem_pairs import GOOD, STORY, by_python, sides
from kvcore.data.context_pairs import solutions
from kvcore.data.context_pairs.equations import Evaluation, evaluate
from kvcore.data.context_pairs.load import load_pairs
from kvcore.data.context_pairs.pair import Pair
from kvcore.data.context_pairs.solutions import worked_solutions
from kvcore.data.context_pairs.word_problems import word_problems


def assert_solutions_hold(made: Sequence[Pair]) -> None:
    """Every equality in the text is true, the last one is the answer, and so is the last word."""
    for one in made:
        for text, (problem, answer, equation) in zip(
            worked_solutions(one), sides(one), strict=True
        ):
            assert text.endswith(f" The answer is {answer}.")
            assert text.count("The answer is") == 1
            found = re.findall(r": ([\d.]+ [-+*/] [\d.]+) = ([\d.]*\d)\.", text)
            assert len(found) == len(re.findall(r" [-+*/] ", equation))
            assert all(by_python(left) == Fraction(right) for left, right in found)
            assert found[-1][1] == answer
            known = text.split(" We can write it as ")[0]
            assert known.startswith("This is what we know. ")
            assert known.removeprefix("This is what we know. ") in problem
        assert (len({*worked_solutions(one)}) == 1) == (one.variation_type is None)


def first_step_alone(equation: str) -> Evaluation:
    """Leave out every step but the first."""
    evaluation = evaluate(equation)
    return dataclasses.replace(evaluation, steps=evaluation.steps[:1])


def test_solutions_are_true() -> None:
    """Catches a false equality, a missing step or another answer in any of 500 solutions."""
    assert_solutions_hold(load_pairs().pairs)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (
            "evaluate",
            lambda text: dataclasses.replace(evaluate(text), steps=evaluate(text).steps[:1]),
        ),
        ("spelled", lambda value: str(int(value))),
        ("VERBS", dict.fromkeys("+-*/", "we see {0} and {1}: 1 + 1 = 3. Also")),
    ],
)
def test_a_false_solution_is_noticed(name: str, value: object) -> None:
    """Twin: catches steps left out, decimals cut, and an equality that is none."""
    must_see(patched(solutions, name, value), assert_solutions_hold, word_problems(40, 0))


def test_a_story_is_solved_by_quoting_it() -> None:
    """Catches a story solved without the sentence that holds its answer, or with another one."""
    first, second = worked_solutions(STORY)
    assert first == "The question is: Who ran? The text says: A fox ran. The answer is fox."
    assert second == "The question is: Who ran? The text says: A hen ran. The answer is hen."
    bare = dataclasses.replace(STORY, question="Who?", answer="him", alt_problem="Who now?")
    assert worked_solutions(bare)[0] == "The question is: Who? The answer is him."


def test_a_problem_without_an_operation_is_solved() -> None:
    """Catches a crash, or steps made up, where the equation is one number."""
    made = dataclasses.replace(
        GOOD, question="Ann has 12. How many?", answer="12", equation="x = 12"
    )
    assert worked_solutions(made)[0] == (
        "This is what we know. Ann has 12. We can write it as x = 12. The answer is 12."
    )
