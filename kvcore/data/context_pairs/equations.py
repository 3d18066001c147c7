"""Equations such as ``x = (12 + 5) * 3``: worked out exactly, as fractions, and nothing else."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from operator import add, mul, sub, truediv

from kvcore.errors import KvError

MAX_CHARACTERS = 1000  # a word problem's equation has some thirty
OPERATORS: Mapping[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
}
FUNCTIONS = {"+": add, "-": sub, "*": mul, "/": truediv}
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?|\.[0-9]+")
_NAMED = re.compile(r"[A-Za-z]\w*\s*=(?!=)")


@dataclass(frozen=True)
class Step:
    """One operation of an equation, with the exact numbers that go in and come out."""

    left: Fraction
    operator: str  # one of ``+ - * /``
    right: Fraction
    value: Fraction


@dataclass(frozen=True)
class Evaluation:
    """What the right side of an equation comes to."""

    value: Fraction  # exact
    steps: tuple[Step, ...]  # its operations in the order in which they are carried out
    numbers: tuple[Fraction, ...]  # those that stand in it, from left to right, repeats included

    @property
    def all_numbers(self) -> tuple[Fraction, ...]:
        """Every result on the way, then every number that stands in the equation."""
        return (*(step.value for step in self.steps), *self.numbers)


def evaluate(equation: str) -> Evaluation:
    """Work out an equation's right side.

    `equation`: whole or decimal numbers, ``+ - * /``, brackets and a leading minus, with or without
    a name and an equals sign before them: ``x = (12 + 5) * 3``.

    Raises KvError, one line, for anything else and for a division by zero.
    """
    stripped = equation.strip()
    name = _NAMED.match(stripped)
    text = stripped[name.end() :].strip() if name else stripped
    if len(text) > MAX_CHARACTERS:
        raise KvError(f"equation of {len(text)} characters; {MAX_CHARACTERS} are allowed.")
    steps: list[Step] = []
    try:
        value = _value(ast.parse(text, mode="eval").body, text, steps)
    except ZeroDivisionError:
        raise KvError(f"equation {equation!r} divides by zero; change its numbers.") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise KvError(
            f"equation {equation!r} is not arithmetic; write numbers, + - * / and brackets, as in "
            "'x = (12 + 5) * 3'."
        ) from None
    numbers = tuple(Fraction(match[0]) for match in _NUMBER.finditer(text))
    return Evaluation(value, tuple(steps), numbers)


def apply(operator: str, left: Fraction, right: Fraction) -> Fraction:
    """Carry out one operation, ``+ - *`` or ``/``, exactly."""
    return Fraction(FUNCTIONS[operator](left, right))


def spelled(value: Fraction) -> str:
    """Spell a number as a person writes it: ``17``, ``2.5``, or ``7/3`` where no decimals end it.

    Examples
    --------
    >>> spelled(Fraction(5, 2)), spelled(Fraction(-7, 3))
    ('2.5', '-7/3')
    """
    places = decimal_places(value)
    if not places:
        return str(value)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' * (value < 0)}{digits[:-places]}.{digits[-places:]}"


def decimal_places(value: Fraction) -> int | None:
    """Return how many decimals spell a number exactly, or None where no number of them does."""
    twos, fives, rest = 0, 0, value.denominator
    while rest % 2 == 0:
        twos, rest = twos + 1, rest // 2
    while rest % 5 == 0:
        fives, rest = fives + 1, rest // 5
    return max(twos, fives) if rest == 1 else None


def _value(node: ast.expr, text: str, steps: list[Step]) -> Fraction:
    """Return a node's exact value and append its operations, the inner ones first."""
    match node:
        case ast.Constant():
            # The text, not the value: 0.1 has been rounded to a float by the time it is parsed.
            number = ast.get_source_segment(text, node) or ""
            if _NUMBER.fullmatch(number):
                return Fraction(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, text, steps)
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in OPERATORS:
            sign = OPERATORS[type(operator)]
            a, b = (_value(side, text, steps) for side in (left, right))
            steps.append(Step(a, sign, b, apply(sign, a, b)))
            return steps[-1].value
    raise ValueError(f"no arithmetic: {type(node).__name__}")
