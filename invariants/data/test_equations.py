"""Equations are worked out exactly, and nothing else is evaluated."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariants.support.comparing import must_see
from invariants.support.faults import Fault, each, patched
from invariants.support.problem_pairs import by_python, digits_in
from kvcore.data.context_pairs import equations
from kvcore.errors import KvError

plain_numbers = st.one_of(
    st.integers(0, 999).map(str), st.decimals(0, 99, places=2).map(str), st.just("0.1")
)
expressions = st.recursive(
    plain_numbers,
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from("+-*/"), inner)
        | inner.map("-{}".format)
    ),
    max_leaves=6,
)


def assert_exact(equation: str) -> None:
    """Python over fractions comes to the same, and the last step to the value."""
    try:
        expected = by_python(equation)
    except ZeroDivisionError:
        with pytest.raises(KvError, match="divides by zero"):
            equations.evaluate(equation)
        return
    assert equations.evaluate(equation).value == expected
    assert list(equations.evaluate(equation).numbers) == digits_in(
        re.sub(r"[-+*/()=]", " ", equation)
    )
    for step in equations.evaluate(equation).steps:
        assert step.value == eval(f"a {step.operator} b", {"a": step.left, "b": step.right})


@given(expression=expressions, named=st.booleans())
def test_equations_are_exact(expression: str, named: bool) -> None:
    """Catches a wrong value, step or number, for decimals, brackets, minus signs and thirds."""
    assert_exact(f"x = {expression}" if named else expression)


@each(
    patched(equations, "Fraction", lambda x: Fraction(float(x)).limit_denominator(10)),
    patched(
        equations,
        "OPERATORS",
        dict(zip(equations.OPERATORS, [*equations.OPERATORS.values()][::-1], strict=True)),
    ),
)
def test_an_equation_that_is_off_is_noticed(fault: Fault) -> None:
    """Twin: catches numbers rounded to small fractions, and operations swapped."""
    must_see(fault, assert_exact, "x = (0.13 + 7) * 3")


def test_a_decimal_is_not_a_float() -> None:
    """Catches a decimal that goes through a float: 0.1 is one tenth, however many digits follow."""
    assert equations.evaluate("x = 0.1 + 0.2").value == Fraction(3, 10)
    assert equations.evaluate("0.10000000000000000000000001 * 1").value != Fraction(1, 10)
    assert equations.evaluate("X=(70.0-27.0)").value == 43


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x =",
        "x = y",
        "2 ** 3",
        "7 // 2",
        "7 % 2",
        "1e3",
        "0x10",
        "1_000",
        "2j",
        "True",
        "x == 2",
        "abs(3)",
        "[1]",
        "1 if 2 else 3",
        "'3'",
        "1, 2",
        "3 < 4",
        "lambda: 1",
        "007",
        "1 +",
        "x = 1 = 1",
        "+3",
        "(" * 300 + "1" + ")" * 300,
        "__import__('os')",
        "\ud800",
        "1\x00",
        "٣ + 1",
    ],
)
def test_anything_else_is_refused(name: str) -> None:
    """Catches code, other operators or malformed text that is evaluated."""
    with pytest.raises(KvError, match=r"^equation ") as error:
        equations.evaluate(name)
    assert "\n" not in str(error.value)


def test_a_long_equation_is_refused() -> None:
    """Catches a long text that reaches the parser."""
    with pytest.raises(KvError, match=r"of 2001 characters; 1000 are"):
        equations.evaluate("1+" * 1000 + "1")


@given(value=st.fractions(max_denominator=10**6))
def test_a_number_is_spelled_exactly(value: Fraction) -> None:
    """Catches a number that reads back as another, or that shows a fraction bar needlessly."""
    written = equations.spelled(value)
    assert Fraction(written) == value
    has_end = not set(factors(value.denominator)) - {2, 5}
    assert ("/" in written) == (not has_end)
    assert (equations.decimal_places(value) is None) == (not has_end)
    assert not written.endswith("0") or "." not in written


def factors(n: int) -> list[int]:
    """Return the prime factors of a number."""
    found, p = [], 2
    while n > 1:
        if n % p:
            p += 1
        else:
            found.append(p)
            n //= p
    return found
