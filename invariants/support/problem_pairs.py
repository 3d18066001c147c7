"""Pairs that are sound, and routes of their own to what a problem and an equation say.

Equations are evaluated by Python itself over fractions, numbers are read word by word.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from kvcore.data.context_pairs.pair import Pair

GOOD = Pair(
    "p",
    "Ann has 12 pins. Ben gives Ann 5 more. How many pins has Ann?",
    "17",
    "x = 12 + 5",
    "Ann has 9 pins. Ben gives Ann 5 more. How many pins has Ann?",
    "14",
    "x = 9 + 5",
    "single_number",
)
MULTI = dataclasses.replace(
    GOOD,
    alt_problem=GOOD.question.replace("12", "9").replace("5", "6"),
    alt_answer="15",
    alt_equation="x = 9 + 6",
    variation_type="multi_number",
)
ADDED = dataclasses.replace(
    GOOD,
    alt_problem=GOOD.question.replace("How", "She loses 3. How"),
    alt_answer="14",
    alt_equation="x = (12 + 5) - 3",
    variation_type="added_step",
)
CONTROL = dataclasses.replace(
    GOOD,
    alt_problem=GOOD.question,
    alt_answer=GOOD.answer,
    alt_equation=GOOD.equation,
    variation_type=None,
)
STORY = Pair("s", "A fox ran.\nWho ran?", "fox", "", "A hen ran.\nWho ran?", "hen", "", "entity")


def by_python(equation: str) -> Fraction:
    """Evaluate an equation by Python, each number in it made a fraction first."""
    right = equation.split("=")[-1]
    return Fraction(eval(re.sub(r"\d+(\.\d+)?", r"Fraction('\g<0>')", right)))


def digits_in(text: str) -> list[Fraction]:
    """Read the numbers of a text word by word."""
    words = (word.strip(".,?!") for word in text.split())
    return [Fraction(word) for word in words if word.replace(".", "", 1).isdecimal()]


def sides(pair: Pair) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
    """Return text, answer and equation of the original and of the changed problem."""
    return (
        (pair.question, pair.answer, pair.equation),
        (pair.alt_problem, pair.alt_answer, pair.alt_equation),
    )


def assert_shares(types: Sequence[str | None]) -> None:
    """Demand equal thirds, up to one pair, and 20 to 24 % controls."""
    counts = Counter(types)
    changed = [counts[name] for name in ("single_number", "multi_number", "added_step")]
    assert sum(changed) + counts[None] == len(types)
    assert max(changed) - min(changed) <= 1
    assert 0.20 <= counts[None] / len(types) <= 0.24


def row_of(pair: Pair) -> dict[str, Any]:
    """Return a pair as a row of a file."""
    row = dataclasses.asdict(pair)
    del row["number"]
    return row
