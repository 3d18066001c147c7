"""Equations such as ``x = (12 + 5) * 3``: worked out exactly, as fractions, and nothing else."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from operator import add, mul, sub, truediv
from typing import Any

from kvcore.errors import KvError

LONGEST = 1000  # characters: a word problem's equation has some thirty
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?|\.[0-9]+")
_NAMED = re.compile(r"[A-Za-z]\w*\s*=(?!=)")
OPERATORS: Mapping[type[ast.operator], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("+", add), ast.Sub: ("-", sub), ast.Mult: ("*", mul), ast.Div: ("/", truediv),
}


@dataclass(frozen=True)
class Step:
    """One operation of an equation, with the exact numbers that go in and come out.

    Parameters
    ----------
    left : Fraction
    operator : str
        One of ``+ - * /``.
    right, value : Fraction
    """

    left: Fraction
    operator: str
    right: Fraction
    value: Fraction


def value_of(equation: str) -> Fraction:
    """Return the exact value of an equation's right side.

    Parameters
    ----------
    equation : str
        Whole or decimal numbers, ``+ - * /``, brackets and a leading minus, with or without a
        name and an equals sign before them: ``x = (12 + 5) * 3``.

    Raises
    ------
    KvError
        One line, for anything else and for a division by zero.
    """
    return _worked(equation)[0]


def steps_of(equation: str) -> tuple[Step, ...]:
    """Return the operations of an equation in the order in which they are carried out.

    Raises
    ------
    KvError
        As `value_of`.
    """
    return _worked(equation)[1]


def numbers_of(equation: str) -> tuple[Fraction, ...]:
    """Return the numbers that stand in an equation, from left to right, repeats included.

    Raises
    ------
    KvError
        As `value_of`.
    """
    _worked(equation)
    return tuple(Fraction(found[0]) for found in _NUMBER.finditer(_right_side(equation)))


def spelled(value: Fraction) -> str:
    """Spell a number as a person writes it: ``17``, ``2.5``, or ``7/3`` where no decimals end it.

    Examples
    --------
    >>> spelled(Fraction(5, 2)), spelled(Fraction(-7, 3))
    ('2.5', '-7/3')
    """
    places = decimals(value)
    if places is None or places == 0:
        return str(value)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' * (value < 0)}{digits[:-places]}.{digits[-places:]}"


def decimals(value: Fraction) -> int | None:
    """Return how many decimals spell a number exactly, or None where no number of them does."""
    twos, fives, rest = 0, 0, value.denominator
    while rest % 2 == 0:
        twos, rest = twos + 1, rest // 2
    while rest % 5 == 0:
        fives, rest = fives + 1, rest // 5
    return max(twos, fives) if rest == 1 else None


def _right_side(equation: str) -> str:
    return _NAMED.sub("", equation.strip(), count=1).strip() if (
        _NAMED.match(equation.strip())) else equation.strip()


def _worked(equation: str) -> tuple[Fraction, tuple[Step, ...]]:
    text = _right_side(equation)
    if len(text) > LONGEST:
        raise KvError(f"equation of {len(text)} characters; {LONGEST} are allowed.")
    try:
        tree = ast.parse(text, mode="eval").body
        steps: list[Step] = []
        return _evaluated(tree, text, steps), tuple(steps)
    except ZeroDivisionError:
        raise KvError(f"equation {equation!r} divides by zero; change its numbers.") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise KvError(f"equation {equation!r} is not arithmetic; write numbers, + - * / and "
                      "brackets, as in 'x = (12 + 5) * 3'.") from None


def _evaluated(node: ast.expr, text: str, steps: list[Step]) -> Fraction:
    """Return a node's exact value and append its operations, the inner ones first."""
    match node:
        case ast.Constant():
            # The text, not the value: 0.1 has been rounded to a float by the time it is parsed.
            written = ast.get_source_segment(text, node) or ""
            if _NUMBER.fullmatch(written):
                return Fraction(written)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluated(operand, text, steps)
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in OPERATORS:
            sign, apply = OPERATORS[type(operator)]
            a, b = (_evaluated(side, text, steps) for side in (left, right))
            steps.append(Step(a, sign, b, Fraction(apply(a, b))))
            return steps[-1].value
    raise ValueError(f"no arithmetic: {type(node).__name__}")
