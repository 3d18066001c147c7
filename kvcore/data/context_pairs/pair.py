"""A problem and the same problem changed: what a pair is, and what makes it consistent."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from kvcore.data.context_pairs.equations import evaluate, spelled
from kvcore.errors import KvError

CHANGES = ("single_number", "multi_number", "added_step")
"""How a word problem is changed: one number, several, or a further sentence and operation."""
ENTITY = "entity"
"""How a story is changed: whom or what it names where it answers the question."""

# With thousands grouped by commas, as in 1,200; a full stop after a number ends the sentence.
NUMBER = re.compile(r"(?<![\w.])(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|(?<!\w)\.[0-9]+")
# What an equation may take from a word: "half of them" is a division by 2, or times 0.5.
_COUNT_WORDS = "one two three four five six seven eight nine ten eleven twelve".split()
_WORDS = {word: (Fraction(number),) for number, word in enumerate(_COUNT_WORDS, start=1)} | {
    "twice": (Fraction(2),),
    "double": (Fraction(2),),
    "triple": (Fraction(3),),
    "dozen": (Fraction(12),),
    "half": (Fraction(1, 2), Fraction(2)),
    "quarter": (Fraction(1, 4), Fraction(4)),
    "third": (Fraction(1, 3), Fraction(3)),
}
_SENTENCE = re.compile(r"(?<=[.?!])\s+")


class WrittenProblem(NamedTuple):
    """All that is read before the answer, the answer, and the equation that gives it, or ""."""

    text: str
    answer: str
    equation: str


@dataclass(frozen=True)
class Pair:
    """One problem, and the changed one that takes its place while it is being answered."""

    id: str  # unique within a corpus
    # All that is read before the answer; the answer; the equation that gives it, or the empty
    # text where the problem is no arithmetic.
    question: str
    answer: str
    equation: str
    # The same of the changed problem.
    alt_problem: str
    alt_answer: str
    alt_equation: str
    # One of ``CHANGES``, ``ENTITY``, or None for a control whose two problems are identical.
    variation_type: str | None
    # Place among the corpus's pairs of the same type, from 0: what `injection_fraction` deals
    # by. It never depends on how many pairs are asked for.
    number: int = 0

    @classmethod
    def of(
        cls, id: str, original: WrittenProblem, changed: WrittenProblem, change: str | None
    ) -> Pair:
        """Return the pair of two problems."""
        return cls(id, *original, *changed, change)

    @property
    def problems(self) -> tuple[WrittenProblem, WrittenProblem]:
        """Return the original and the changed problem."""
        changed = WrittenProblem(self.alt_problem, self.alt_answer, self.alt_equation)
        return WrittenProblem(self.question, self.answer, self.equation), changed


def numbers_in(text: str) -> tuple[Fraction, ...]:
    """Return the numbers written in digits in a text, in order.

    Examples
    --------
    >>> [str(n) for n in numbers_in("Ann has 1,200 pins and 2.5 feet of wire. She sells 3.")]
    ['1200', '5/2', '3']
    """
    return tuple(Fraction(match[0].replace(",", "")) for match in NUMBER.finditer(text))


def mentioned_numbers(text: str) -> frozenset[Fraction]:
    """Return the numbers that a text mentions, in digits or by a common word for one."""
    words = re.findall(r"[a-z]+", text.casefold())
    return frozenset((*numbers_in(text), *(n for word in words for n in _WORDS.get(word, ()))))


def without_numbers(text: str) -> str:
    """Return a text with every number in it replaced by the same sign."""
    return NUMBER.sub("#", text)


def sentences_of(text: str) -> list[str]:
    """Cut a text after every full stop, question mark or exclamation mark before white space."""
    return _SENTENCE.split(text.strip())


def inconsistency(pair: Pair) -> str | None:
    """Say in which way a pair contradicts itself, or None.

    Each equation must give its answer exactly, hold no number that its problem does not mention,
    and never fall below zero on the way. The two problems must differ in what the type says and
    in nothing else: numbers are read back out of the text. Whether a story is plausible is not
    judged. Without equations, only the identical or different texts and answers are checked.
    """
    original, changed = pair.problems
    if pair.variation_type is None:
        if original != changed:
            return "a control's two problems differ"
        return wrong_problem(original, "")
    if pair.variation_type not in (*CHANGES, ENTITY):
        return f"unknown variation_type {pair.variation_type!r}"
    if original.text == changed.text:
        return "the two problems are the same"
    if answers_agree(original.answer, changed.answer):
        return "the two answers are the same"
    if bool(original.equation) != bool(changed.equation):
        return "only one of the two problems has an equation"
    if pair.variation_type in CHANGES and not original.equation:
        return "a change of numbers needs equations"
    return wrong_problem(original, "") or wrong_problem(changed, "alt_") or wrong_change(pair)


def answers_agree(a: str, b: str) -> bool:
    """Tell whether two answers are the same number, or the same text up to case and blanks."""
    try:
        return _number(a) == _number(b)
    except ValueError:
        return " ".join(a.split()).casefold() == " ".join(b.split()).casefold()


def _number(text: str) -> Fraction:
    stripped = text.strip()
    if not re.fullmatch(r"-?[0-9,]*\.?[0-9]+(/[0-9]*[1-9][0-9]*)?", stripped):
        raise ValueError(stripped)
    return Fraction(stripped.replace(",", ""))


def wrong_problem(problem: WrittenProblem, prefix: str) -> str | None:
    """Say what is wrong with one of the two problems, whose fields begin with a prefix."""
    text, answer, equation = problem
    if not equation:
        return None
    try:
        worked = evaluate(equation)
    except KvError as error:
        return str(error).removesuffix(".")
    try:
        stated = _number(answer)
    except ValueError:
        return f"{prefix}answer {answer!r} is no number, although there is an equation"
    if worked.value != stated:
        return f"{prefix}equation gives {spelled(worked.value)}, {prefix}answer says {answer}"
    if worked.value < 0 or any(step.value < 0 for step in worked.steps):
        return f"{prefix}equation falls below zero"
    absent = [n for n in worked.numbers if n not in mentioned_numbers(text)]
    if absent:
        return f"{prefix}equation has {spelled(absent[0])}, which its problem never mentions"
    return None


def wrong_change(pair: Pair) -> str | None:
    """Say in which way the two problems differ other than the type says."""
    if pair.variation_type == ENTITY:
        return None
    operations, alt_operations = (len(evaluate(p.equation).steps) for p in pair.problems)
    if pair.variation_type == "added_step":
        before, after = sentences_of(pair.question), sentences_of(pair.alt_problem)
        if (
            alt_operations <= operations
            or {*after} <= {*before}
            or not is_subsequence(before, after)
        ):
            return "the changed problem is not the first one with a sentence and an operation more"
        return None
    same_wording = without_numbers(pair.question) == without_numbers(pair.alt_problem)
    if not same_wording or operations != alt_operations:
        return "the two problems differ in more than their numbers"
    numbers = zip(numbers_in(pair.question), numbers_in(pair.alt_problem), strict=True)
    changed = sum(a != b for a, b in numbers)
    if pair.variation_type == "single_number" and changed != 1:
        return f"{changed} numbers are changed, not one"
    if pair.variation_type == "multi_number" and changed < 2:
        return f"{changed} numbers are changed, not several"
    return None


def is_subsequence(part: Iterable[str], whole: Iterable[str]) -> bool:
    """Tell whether all of some texts stand among others, in their order."""
    rest = iter(whole)
    return all(text in rest for text in part)
