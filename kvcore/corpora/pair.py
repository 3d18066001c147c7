"""A problem and the same problem changed: what a pair is, and what makes it consistent."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from kvcore.corpora.equations import numbers_of, spelled, steps_of, value_of
from kvcore.errors import KvError
from kvcore.io import digest

CHANGES = ("single_number", "multi_number", "added_step")
"""How a word problem is changed: one number, several, or a further sentence and operation."""
ENTITY = "entity"
"""How a story is changed: whom or what it names where it answers the question."""
FRACTIONS = (0.25, 0.5, 0.75)
"""Where in the solution the context may be switched, as shares of its length."""

# With thousands grouped by commas, as in 1,200; a full stop after a number ends the sentence.
_NUMBER = re.compile(r"(?<![\w.])(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|(?<!\w)\.[0-9]+")
# What an equation may take from a word: "half of them" is a division by 2, or times 0.5.
_WORDS = {word: Fraction(number) for number, word in enumerate(
    "one two three four five six seven eight nine ten eleven twelve".split(), start=1)} | {
    "twice": Fraction(2), "double": Fraction(2), "triple": Fraction(3), "dozen": Fraction(12)}
_HALVES = {"half": (Fraction(1, 2), Fraction(2)), "quarter": (Fraction(1, 4), Fraction(4)),
           "third": (Fraction(1, 3), Fraction(3))}
_SENTENCE = re.compile(r"(?<=[.?!])\s+")


@dataclass(frozen=True)
class Pair:
    """One problem, and the changed one that takes its place while it is being answered.

    Parameters
    ----------
    id : str
        Unique within a corpus.
    question, answer, equation : str
        All that is read before the answer; the answer; the equation that gives it, or the empty
        text where the problem is no arithmetic.
    alt_problem, alt_answer, alt_equation : str
        The same of the changed problem.
    variation_type : str or None
        One of ``CHANGES``, ``ENTITY``, or None for a control whose two problems are identical.
    number : int
        Place among the corpus's pairs of the same type, from 0: what `injection_fraction` deals
        by. It never depends on how many pairs are asked for.
    """

    id: str
    question: str
    answer: str
    equation: str
    alt_problem: str
    alt_answer: str
    alt_equation: str
    variation_type: str | None
    number: int = 0


def numbers_in(text: str) -> tuple[Fraction, ...]:
    """Return the numbers written in digits in a text, in order.

    Examples
    --------
    >>> [str(n) for n in numbers_in("Ann has 1,200 pins and 2.5 feet of wire. She sells 3.")]
    ['1200', '5/2', '3']
    """
    return tuple(Fraction(found[0].replace(",", "")) for found in _NUMBER.finditer(text))


def mentioned(text: str) -> frozenset[Fraction]:
    """Return the numbers that a text mentions, in digits or by a common word for one."""
    words = re.findall(r"[a-z]+", text.casefold())
    return frozenset((*numbers_in(text), *(_WORDS[word] for word in words if word in _WORDS),
                      *(n for word in words for n in _HALVES.get(word, ()))))


def wording_of(text: str) -> str:
    """Return a text with every number in it replaced by the same sign."""
    return _NUMBER.sub("#", text)


def sentences_of(text: str) -> list[str]:
    """Cut a text after every full stop, question mark or exclamation mark before white space."""
    return _SENTENCE.split(text.strip())


def flaw(pair: Pair) -> str | None:
    """Say in which way a pair contradicts itself, or None.

    Notes
    -----
    Each equation must give its answer exactly, hold no number that its problem does not mention,
    and never fall below zero on the way. The two problems must differ in what the type says and
    in nothing else: numbers are read back out of the text. Whether a story is plausible is not
    judged. Without equations, only the identical or different texts and answers are checked.
    """
    if pair.variation_type is None:
        same = (pair.question, pair.answer, pair.equation) == (
            pair.alt_problem, pair.alt_answer, pair.alt_equation)
        return _wrong(pair.question, pair.answer, pair.equation, "") if same else (
            "a control's two problems differ")
    if pair.variation_type not in (*CHANGES, ENTITY):
        return f"unknown variation_type {pair.variation_type!r}"
    if pair.question == pair.alt_problem:
        return "the two problems are the same"
    if answers_agree(pair.answer, pair.alt_answer):
        return "the two answers are the same"
    if bool(pair.equation) != bool(pair.alt_equation):
        return "only one of the two problems has an equation"
    if pair.variation_type in CHANGES and not pair.equation:
        return "a change of numbers needs equations"
    return (_wrong(pair.question, pair.answer, pair.equation, "")
            or _wrong(pair.alt_problem, pair.alt_answer, pair.alt_equation, "alt_")
            or _wrong_change(pair))


def answers_agree(one: str, other: str) -> bool:
    """Tell whether two answers are the same number, or the same text up to case and blanks."""
    try:
        return _number(one) == _number(other)
    except ValueError:
        return " ".join(one.split()).casefold() == " ".join(other.split()).casefold()


def _number(text: str) -> Fraction:
    written = text.strip()
    if not re.fullmatch(r"-?[0-9,]*\.?[0-9]+(/[0-9]*[1-9][0-9]*)?", written):
        raise ValueError(written)
    return Fraction(written.replace(",", ""))


def _wrong(problem: str, answer: str, equation: str, which: str) -> str | None:
    """Say what is wrong with one of the two problems."""
    if not equation:
        return None
    try:
        value, steps, numbers = value_of(equation), steps_of(equation), numbers_of(equation)
    except KvError as error:
        return str(error).removesuffix(".")
    try:
        stated = _number(answer)
    except ValueError:
        return f"{which}answer {answer!r} is no number, although there is an equation"
    if value != stated:
        return f"{which}equation gives {spelled(value)}, {which}answer says {answer}"
    if value < 0 or any(step.value < 0 for step in steps):
        return f"{which}equation falls below zero"
    lacking = [n for n in numbers if n not in mentioned(problem)]
    if lacking:
        return f"{which}equation has {spelled(lacking[0])}, which its problem never mentions"
    return None


def _wrong_change(pair: Pair) -> str | None:
    """Say in which way the two problems differ other than the type says."""
    if pair.variation_type == ENTITY:
        return None
    before, after = numbers_in(pair.question), numbers_in(pair.alt_problem)
    more = len(steps_of(pair.alt_equation)) - len(steps_of(pair.equation))
    if pair.variation_type == "added_step":
        added = [s for s in sentences_of(pair.alt_problem) if s not in sentences_of(pair.question)]
        if more < 1 or not added or not _within(
                sentences_of(pair.question), sentences_of(pair.alt_problem)):
            return "the changed problem is not the first one with a sentence and an operation more"
        return None
    if wording_of(pair.question) != wording_of(pair.alt_problem) or more:
        return "the two problems differ in more than their numbers"
    changed = sum(a != b for a, b in zip(before, after, strict=True))
    if pair.variation_type == "single_number" and changed != 1:
        return f"{changed} numbers are changed, not one"
    if pair.variation_type == "multi_number" and changed < 2:
        return f"{changed} numbers are changed, not several"
    return None


def _within(some: Iterable[str], all_of: Iterable[str]) -> bool:
    """Tell whether all of some texts stand among others, in their order."""
    rest = iter(all_of)
    return all(text in rest for text in some)


def planned(index: int) -> str | None:
    """Return the type of a corpus's pair by its place, from 0: two controls in nine.

    After any number of pairs, the three types differ by one at most; from 32 pairs on, 20 to 24 %
    are controls.
    """
    before = index * 2 // 9
    return None if (index + 1) * 2 // 9 > before else CHANGES[(index - before) % len(CHANGES)]


def injection_fraction(pair: Pair, seed: int, fractions: Sequence[float] = FRACTIONS) -> float:
    """Return the one place in a pair's solution at which its context is switched.

    Parameters
    ----------
    pair : Pair
    seed : int
        Another seed deals otherwise.
    fractions : sequence of float
        Distinct shares of the solution's length, each above 0 and below 1.

    Returns
    -------
    float
        One of the fractions. It depends on the seed and on the pair's own type and number alone,
        so that a problem never has two; every fraction comes once in as many successive pairs of
        a type as there are fractions.

    Raises
    ------
    KvError
        Where the fractions are none, repeated or out of range.
    """
    if not fractions or len({*fractions}) != len(fractions) or not all(
            0 < share < 1 for share in fractions):
        raise KvError(f"injection fractions {list(fractions)}: pass distinct shares between 0 and "
                      "1, such as 0.25, 0.5 and 0.75.")
    block, place = divmod(pair.number, len(fractions))
    dealt = sorted(fractions, key=lambda share: digest(
        str(seed), str(pair.variation_type), str(block), repr(share)))
    return dealt[place]
