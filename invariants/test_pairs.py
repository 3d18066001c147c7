"""Problem pairs: no pair contradicts itself, no two share a problem, no problem has two places.

What a word problem says is read here by cue words, sentence by sentence, without the templates;
equations are evaluated by Python itself over fractions.
"""

from __future__ import annotations

import csv
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

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Features, Value
from hypothesis import given
from hypothesis import strategies as st

from invariants.support.children import child
from invariants.support.comparing import must_see
from kvcore import io
from kvcore.corpora import equations, hub, pair, pairs, published_pairs, word_problems
from kvcore.corpora.pair import Pair, injection_fraction
from kvcore.corpora.pairs import load_pairs
from kvcore.corpora.sample import Sample
from kvcore.corpora.word_problems import worked
from kvcore.errors import KvError, MissingResource

seeds = st.integers(-(2**31), 2**31)
N = 27  # three times the nine pairs in which two controls come
Fault = Callable[[pytest.MonkeyPatch], None]


def patched(module: Any, name: str, value: object) -> Fault:
    """Return the fault that replaces one name of a module."""
    def fault(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(module, name, value)

    fault.__name__ = name
    return fault


def each(*faults: Any) -> pytest.MarkDecorator:
    """Return the parametrization over faults, named by what they replace."""
    names = [f"{fault.__name__}-{i}" for i, fault in enumerate(faults)]
    return pytest.mark.parametrize("fault", faults, ids=names)


def all_of(*faults: Fault) -> Fault:
    """Return several faults as one."""
    def together(patch: pytest.MonkeyPatch) -> None:
        for fault in faults:
            fault(patch)

    return together


# --- routes of our own ------------------------------------------------------------------------


def by_python(equation: str) -> Fraction:
    """Evaluate an equation by Python, each number in it made a fraction first."""
    right = equation.split("=")[-1]
    return Fraction(eval(re.sub(r"\d+(\.\d+)?", r"Fraction('\g<0>')", right)))


def digits_in(text: str) -> list[Fraction]:
    """Read the numbers of a text word by word."""
    words = (word.strip(".,?!") for word in text.split())
    return [Fraction(word) for word in words if word.replace(".", "", 1).isdecimal()]


def told(text: str) -> Fraction:
    """Work a word problem out from its sentences' cue words alone."""
    so_far: Fraction | None = None
    for sentence in re.split(r"(?<=[.?]) ", text):
        match digits_in(sentence):
            case [a, b]:
                assert so_far is None, text
                cues = {"each": a * b, "every": a * b, "lost": a - b, "broken": a - b}
                so_far = next((cues[word] for word in re.findall(r"\w+", sentence)
                               if word in cues), a + b)
            case [a] if so_far is None:
                so_far = a
            case [a]:
                so_far = after(sentence, so_far, a)
            case []:
                assert sentence.startswith("How many"), sentence
            case many:
                raise AssertionError(f"{many} in {sentence!r}")
    assert so_far is not None, text
    return so_far


CUES: tuple[tuple[str, Callable[[Fraction, Fraction], Fraction]], ...] = (
    (r"times as m", lambda x, a: x * a), (r"sells all", lambda x, a: x * a),
    (r"shares all|packs all", lambda x, a: x / a),
    (r" more\b|another", lambda x, a: x + a),
    (r"gives .* to |go missing|sells \d", lambda x, a: x - a),
)


def after(sentence: str, so_far: Fraction, number: Fraction) -> Fraction:
    """Carry out what one sentence tells."""
    found = [does for cue, does in CUES if re.search(cue, sentence)]
    assert len(found) == 1, sentence
    return found[0](so_far, number)


# --- equations --------------------------------------------------------------------------------

plain_numbers = st.one_of(
    st.integers(0, 999).map(str), st.decimals(0, 99, places=2).map(str), st.just("0.1"))
expressions = st.recursive(
    plain_numbers,
    lambda inner: st.builds("({} {} {})".format, inner, st.sampled_from("+-*/"), inner)
    | inner.map("-{}".format), max_leaves=6)


def assert_exact(equation: str) -> None:
    """Python over fractions comes to the same, and the last step to the value."""
    try:
        wanted = by_python(equation)
    except ZeroDivisionError:
        with pytest.raises(KvError, match="divides by zero"):
            equations.value_of(equation)
        return
    assert equations.value_of(equation) == wanted
    assert list(equations.numbers_of(equation)) == digits_in(re.sub(r"[-+*/()=]", " ", equation))
    for step in equations.steps_of(equation):
        assert step.value == eval(f"a {step.operator} b", {"a": step.left, "b": step.right})


@given(expression=expressions, named=st.booleans())
def test_equations_are_exact(expression: str, named: bool) -> None:
    """Decimals, brackets, minus signs and thirds; with a name before it or without."""
    assert_exact(f"x = {expression}" if named else expression)


@each(
    patched(equations, "Fraction", lambda x: Fraction(float(x)).limit_denominator(10)),
    patched(equations, "OPERATORS", dict(zip(
        equations.OPERATORS, [*equations.OPERATORS.values()][::-1], strict=True))),
)
def test_an_equation_that_is_off_is_noticed(fault: Fault) -> None:
    """Twin: numbers rounded to small fractions; other operations."""
    must_see(fault, assert_exact, "x = (0.13 + 7) * 3")


def test_a_decimal_is_not_a_float() -> None:
    """0.1 is one tenth, however many digits follow."""
    assert equations.value_of("x = 0.1 + 0.2") == Fraction(3, 10)
    assert equations.value_of("0.10000000000000000000000001 * 1") != Fraction(1, 10)
    assert equations.value_of("X=(70.0-27.0)") == 43


@pytest.mark.parametrize("given_", [
    "", "x =", "x = y", "2 ** 3", "7 // 2", "7 % 2", "1e3", "0x10", "1_000", "2j", "True", "x == 2",
    "abs(3)", "[1]", "1 if 2 else 3", "'3'", "1, 2", "3 < 4", "lambda: 1", "007", "1 +",
    "x = 1 = 1", "+3", "(" * 300 + "1" + ")" * 300, "__import__('os')", "\ud800", "1\x00", "٣ + 1",
])
def test_anything_else_is_refused(given_: str) -> None:
    """One line, without evaluating any of it."""
    with pytest.raises(KvError, match=r"^equation ") as error:
        equations.value_of(given_)
    assert "\n" not in str(error.value)


def test_a_long_equation_is_refused() -> None:
    """Before it is parsed."""
    with pytest.raises(KvError, match=r"of 2001 characters; 1000 are"):
        equations.value_of("1+" * 1000 + "1")


@given(value=st.fractions(max_denominator=10**6))
def test_a_number_is_spelled_exactly(value: Fraction) -> None:
    """Read back it is the same, and what has decimals shows no fraction bar."""
    written = equations.spelled(value)
    assert Fraction(written) == value
    has_end = not set(factors(value.denominator)) - {2, 5}
    assert ("/" in written) == (not has_end)
    assert (equations.decimals(value) is None) == (not has_end)
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


# --- the generator's pairs --------------------------------------------------------------------


def assert_consistent(seed: int, n: int) -> None:
    """Text, equation and answer of both problems agree, and the change is what the type says."""
    for made in word_problems.word_problems(n, seed):
        for problem, answer, equation in sides(made):
            assert told(problem) == by_python(equation) == Fraction(answer), made
            assert digits_in(problem) == digits_in(re.sub(r"[()]", "", equation)), made
            assert_possible(problem, equation)
        assert_changed_as_said(made)


def sides(made: Pair) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
    return ((made.question, made.answer, made.equation),
            (made.alt_problem, made.alt_answer, made.alt_equation))


def assert_possible(problem: str, equation: str) -> None:
    """Nothing is negative, and what is counted stays whole at every step."""
    inner = re.findall(r"\([^()]*\)|\((?:[^()]|\([^()]*\))*\)|(?:(?<=x = ).*)", equation)
    assert inner
    for part in inner:
        value = by_python(part)
        assert value > 0, equation
        if not re.search(r"litres|kilograms|metres|pounds|grams", problem):
            assert value.denominator == 1, equation
        assert (value * 100).denominator == 1, equation
    assert 1 <= len(re.findall(r" [-+*/] ", equation)) <= word_problems.MOST_STEPS


def assert_changed_as_said(made: Pair) -> None:
    """The two texts differ in one number, in several, in a sentence, or not at all."""
    one, two = (re.split(r"(?<=[.?]) ", text) for text in (made.question, made.alt_problem))
    words = [a == b for a, b in zip(made.question.split(), made.alt_problem.split(), strict=False)]
    if made.variation_type is None:
        assert sides(made)[0] == sides(made)[1]
        return
    assert Fraction(made.answer) != Fraction(made.alt_answer), made
    if made.variation_type == "added_step":
        assert [s for s in two if s in one] == one, made
        assert len(two) == len(one) + 1, made
        return
    assert re.sub(r"[\d.]+", "", made.question) == re.sub(r"[\d.]+", "", made.alt_problem), made
    assert (words.count(False) == 1) == (made.variation_type == "single_number"), made
    assert words.count(False) >= 1


@given(seed=seeds)
def test_no_pair_contradicts_itself(seed: int) -> None:
    """Whatever the seed, each problem is read back from its text."""
    assert_consistent(seed, N)


def wrong_numbers(problem: Any, count: int, *key: object) -> Any:
    """Change one number too many."""
    return REAL_OTHERS(problem, count + 1, *key) or REAL_OTHERS(problem, count, *key)


REAL_OTHERS = word_problems.with_others
REAL_STEP = word_problems.with_step
REAL_APPLY = word_problems.apply


def step_untold(problem: Any, *key: object) -> Any:
    """Add a step whose sentence tells nothing."""
    made = REAL_STEP(problem, *key)
    if made is None:
        return None
    *before, added, closing = made.pieces
    return dataclasses.replace(made, pieces=(
        *before, dataclasses.replace(added, text="{other} looks on at {0} of them."), closing))


UNCHECKED = patched(pair, "flaw", lambda _pair: None)
FAULTS: dict[str, Fault] = {
    "a wrong sum": patched(
        word_problems, "apply", lambda sign, a, b: REAL_APPLY("-" if sign == "+" else sign, a, b)),
    "an equation without brackets": patched(
        word_problems, "equation_of", lambda p: "x = " + re.sub(
            r"[()]", "", REAL_EQUATION(p).removeprefix("x = "))),
    "numbers in another order": patched(
        word_problems, "text_of", lambda p: REAL_TEXT(
            dataclasses.replace(p, numbers=p.numbers[::-1]))),
    "one too many": patched(
        word_problems, "answer_of", lambda p: str(Fraction(REAL_ANSWER(p)) + 1)),
    "rounded numbers": patched(equations, "spelled", lambda value: str(round(value))),
    "a number too many": patched(word_problems, "with_others", wrong_numbers),
    "a step untold": lambda patch: patch.setitem(
        word_problems.CHANGERS, "added_step", step_untold),  # type: ignore[arg-type]
    "halves of apples": patched(word_problems, "fits", lambda _kind, _value: True),
}
REAL_EQUATION, REAL_TEXT, REAL_ANSWER = (
    word_problems.equation_of, word_problems.text_of, word_problems.answer_of)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_pair_that_contradicts_itself_is_noticed(fault: str) -> None:
    """Twin: each part of the generator off in turn, and its own check switched off."""
    must_see(all_of(UNCHECKED, FAULTS[fault]), assert_consistent, 0, 90)


@pytest.mark.parametrize("fault", [
    "a wrong sum", "an equation without brackets", "one too many", "a number too many"])
def test_the_generator_refuses_its_own_mistakes(fault: str) -> None:
    """The same faults with the check left on: no pair comes out."""
    with pytest.MonkeyPatch.context() as patch:
        FAULTS[fault](patch)
        with pytest.raises(AssertionError, match=r"pair wp-0-\d+ contradicts itself: "):
            word_problems.word_problems(90, 0)


def assert_shares(types: Sequence[str | None]) -> None:
    """Equal thirds, up to one pair; 20 to 24 % controls."""
    counts = Counter(types)
    changed = [counts[name] for name in ("single_number", "multi_number", "added_step")]
    assert sum(changed) + counts[None] == len(types)
    assert max(changed) - min(changed) <= 1
    assert 0.20 <= counts[None] / len(types) <= 0.24


@given(n=st.integers(32, 3000))
def test_thirds_and_controls_hold_for_any_number(n: int) -> None:
    """From 32 pairs on."""
    assert_shares([pair.planned(i) for i in range(n)])


def assert_generated_shares() -> None:
    assert_shares([made.variation_type for made in word_problems.word_problems(60, 1)])


def test_the_generator_makes_what_is_planned() -> None:
    """Sixty pairs, counted."""
    assert_generated_shares()


@pytest.mark.parametrize("plan", [
    lambda i: pair.CHANGES[i % 3], lambda i: None if i % 3 == 0 else pair.CHANGES[i % 2],
    lambda i: None if i % 4 == 0 else pair.CHANGES[i % 3]], ids=["none", "a third", "a quarter"])
def test_other_shares_are_noticed(plan: Callable[[int], str | None]) -> None:
    """Twin: no controls, a third of them, or a quarter."""
    must_see(patched(pair, "planned", plan), assert_generated_shares)


@pytest.fixture(scope="module")
def many() -> pairs.PairCorpus:
    """The default pairs as a user gets them."""
    return load_pairs()


def skeletons(made: Pair) -> set[str]:
    """Return both texts with every name and thing left out: wording and numbers."""
    names = {word for part in (
        word_problems.NAMES, word_problems.THINGS, word_problems.ADJECTIVES, word_problems.HOLDERS,
        word_problems.GROUPS, *word_problems.STUFFS) for word in part}
    texts = [re.sub("|".join(sorted(word_problems.PLACES, key=len)), "_", text, flags=re.IGNORECASE)
             for text in (made.question, made.alt_problem)]
    return {" ".join("_" if word.strip(".,?") in names else word for word in text.split())
            for text in texts}


def assert_all_differ(made: Sequence[Pair]) -> None:
    seen: set[str] = set()
    for one in made:
        assert not skeletons(one) & seen, one
        seen |= skeletons(one)
    assert len({one.id for one in made}) == len(made)


def test_no_two_of_500_problems_share_wording_and_numbers(many: pairs.PairCorpus) -> None:
    """Not even with other names and things in them, nor with another's changed problem."""
    assert len(many.pairs) == 500
    assert_all_differ(many.pairs)
    assert_shares([made.variation_type for made in many.pairs])
    assert many.dropped == {}


def test_repeated_problems_are_noticed() -> None:
    """Twin: of four draws always the same ones, and nobody looks whether they are new."""
    real = word_problems.drawn
    fault = all_of(
        patched(word_problems, "signature", lambda _problem: (object(),)),
        patched(word_problems, "drawn",
                lambda change, _seed, index, attempt: real(change, 0, index % 4, attempt)))
    must_see(fault, lambda: assert_all_differ(word_problems.word_problems(30, 0)))


def test_running_out_of_problems_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than a repeat or an endless search."""
    real = word_problems.drawn
    monkeypatch.setattr(word_problems, "drawn",
                        lambda change, *_key: real(change, 0, 0, 1) or real(change, 0, 0, 2))
    with pytest.raises(KvError, match=r"no new problem in 500 draws after \d pairs; pass n = \d"):
        word_problems.word_problems(9, 0)


def assert_prefix(seed: int, n: int, more: int) -> None:
    longer = word_problems.word_problems(n + more, seed)
    assert longer[:n] == word_problems.word_problems(n, seed)
    assert longer != word_problems.word_problems(n + more, seed + 1)


@given(seed=seeds, n=st.integers(1, 12), more=st.integers(0, 6))
def test_a_larger_number_is_a_superset(seed: int, n: int, more: int) -> None:
    """The first pairs are the same whatever is asked for; another seed makes others."""
    assert_prefix(seed, n, more)


def test_pairs_made_by_luck_are_noticed() -> None:
    """Twin: draws that no key decides."""
    luck = random.Random(0)
    must_see(patched(word_problems, "pick", lambda options, *_key: luck.choice(options)),
             assert_prefix, 0, 5, 3)


def test_pairs_do_not_depend_on_the_hash_seed() -> None:
    """Two interpreters with different string hashing agree; the twin hashes by Python itself."""
    code = """
import json
from kvcore.corpora import word_problems
{broken}
made = word_problems.word_problems(12, 0)
print(json.dumps([pair.question for pair in made]))
"""
    def both(broken: str) -> list[Any]:
        return [child(code.format(broken=broken), PYTHONHASHSEED=seed) for seed in ("1", "2")]

    first, second = both("")
    assert first == second
    broken = both("word_problems.digest = lambda *parts: hex(hash(parts) % 2**64)[2:]")
    assert broken[0] != broken[1]


# --- what makes a pair consistent -------------------------------------------------------------

GOOD = Pair("p", "Ann has 12 pins. Ben gives Ann 5 more. How many pins has Ann?", "17",
            "x = 12 + 5", "Ann has 9 pins. Ben gives Ann 5 more. How many pins has Ann?", "14",
            "x = 9 + 5", "single_number")
MULTI = dataclasses.replace(
    GOOD, alt_problem=GOOD.question.replace("12", "9").replace("5", "6"), alt_answer="15",
    alt_equation="x = 9 + 6", variation_type="multi_number")
ADDED = dataclasses.replace(
    GOOD, alt_problem=GOOD.question.replace("How", "She loses 3. How"), alt_answer="14",
    alt_equation="x = (12 + 5) - 3", variation_type="added_step")
CONTROL = dataclasses.replace(
    GOOD, alt_problem=GOOD.question, alt_answer=GOOD.answer, alt_equation=GOOD.equation,
    variation_type=None)
STORY = Pair("s", "A fox ran.\nWho ran?", "fox", "", "A hen ran.\nWho ran?", "hen", "", "entity")
FLAWED: dict[str, tuple[Pair, dict[str, str | None]]] = {
    "equation gives 17, answer says 18": (GOOD, {"answer": "18"}),
    "alt_equation gives 14, alt_answer says 14.5": (GOOD, {"alt_answer": "14.5"}),
    "alt_answer 'many' is no number": (GOOD, {"alt_answer": "many"}),
    "answer '17/0' is no number": (GOOD, {"answer": "17/0"}),
    "equation has 4, which its problem never": (GOOD, {"equation": "x = 12 + 4 + 1"}),
    "equation falls below zero": (GOOD, {"answer": "-7", "equation": "x = 5 - 12"}),
    "alt_equation falls below zero": (
        GOOD, {"alt_equation": "x = (5 - 9) + 9 + 9", "alt_answer": "14"}),
    "is not arithmetic": (GOOD, {"equation": "x = y"}),
    "divides by zero": (GOOD, {"equation": "x = 12 / (5 - 5)"}),
    "2 numbers are changed, not one": (MULTI, {"variation_type": "single_number"}),
    "1 numbers are changed, not several": (GOOD, {"variation_type": "multi_number"}),
    "differ in more than their numbers": (
        GOOD, {"alt_problem": GOOD.alt_problem.replace("pins", "nuts")}),
    "with a sentence and an operation more": (GOOD, {"variation_type": "added_step"}),
    "the first one with a sentence": (
        ADDED, {"alt_problem": ADDED.alt_problem.replace("12", "12.0")}),
    "a control's two problems differ": (CONTROL, {"alt_answer": "17.0"}),
    "unknown variation_type 'other'": (GOOD, {"variation_type": "other"}),
    "the two problems are the same": (CONTROL, {"variation_type": "entity"}),
    "the two answers are the same": (GOOD, {"alt_answer": "17.0"}),
    "only one of the two problems has an equation": (GOOD, {"alt_equation": ""}),
    "a change of numbers needs equations": (STORY, {"variation_type": "single_number"}),
}


def assert_flaws_are_told() -> None:
    """The good ones are good, each other one is called what it is."""
    assert [pair.flaw(made) for made in (GOOD, MULTI, ADDED, CONTROL, STORY)] == [None] * 5
    for reason, (made, changes) in FLAWED.items():
        told_of = pair.flaw(dataclasses.replace(made, **changes))  # type: ignore[arg-type]
        assert told_of is not None, reason
        assert reason in told_of
        assert "\n" not in told_of


def test_every_contradiction_is_told() -> None:
    """Wrong answers, numbers that are nowhere, changes of another type."""
    assert_flaws_are_told()


@each(
    patched(equations, "value_of", lambda _equation: Fraction(17)),
    patched(pair, "mentioned", lambda _text: range(100)),
    patched(equations, "steps_of", lambda _equation: ()),
    patched(pair, "wording_of", lambda _text: ""),
    patched(pair, "answers_agree", lambda *_: False),
    patched(pair, "_within", lambda *_: True),
    patched(pair, "_NUMBER", re.compile(r"9")),
    patched(pair, "_wrong_change", lambda _pair: None),
)
def test_a_blind_check_is_noticed(fault: Fault) -> None:
    """Twin: each thing that is looked at, not looked at."""
    must_see(fault, assert_flaws_are_told)


@pytest.mark.parametrize(("text", "numbers"), [
    ("Ann has 1,200 pins, 2.5 feet and .5 more. She sells 3.", ["1200", "5/2", "1/2", "3"]),
    ("It costs $5, or 20% of 25?", ["5", "20", "25"]), ("Room B12 of 1999-2004", ["1999", "2004"]),
    ("N_00 and x2 are names", []), ("12,34", ["12", "34"]), ("", [])])
def test_numbers_are_read_from_a_text(text: str, numbers: list[str]) -> None:
    """Thousands, decimals, sums of money; a full stop ends the sentence."""
    assert list(pair.numbers_in(text)) == [Fraction(n) for n in numbers]


def test_words_for_numbers_are_numbers_too() -> None:
    """A half is a division by two, a dozen is twelve."""
    made = dataclasses.replace(
        CONTROL, question="Half of the 12 go, and twice a dozen come. How many?", answer="30",
        equation="x = 12 / 2 + 2 * 12")
    same = dataclasses.replace(made, alt_problem=made.question, alt_answer="30",
                               alt_equation=made.equation)
    assert pair.flaw(same) is None


# --- one place each ---------------------------------------------------------------------------


def assert_one_place_each(
    seed: int, fractions: Sequence[float], made: Callable[[int], Sequence[Pair]]
) -> None:
    """A problem has one place however many are asked for, and places come equally often."""
    places: dict[str, set[float]] = {}
    for one in (*made(20), *made(45)):
        for problem in (one.question, one.alt_problem):
            places.setdefault(problem, set()).add(injection_fraction(one, seed, fractions))
    assert all(len(found) == 1 for found in places.values())
    for change in (None, *pair.CHANGES):
        dealt = Counter(injection_fraction(one, seed, fractions) for one in made(45)
                        if one.variation_type == change)
        assert set(dealt) <= set(fractions)
        counts = [dealt[share] for share in fractions]
        assert max(counts) - min(counts) <= 1


def anew(n: int) -> tuple[Pair, ...]:
    return word_problems.word_problems(n, 3)


once = functools.cache(anew)


@given(seed=seeds, fractions=st.sampled_from([(0.25, 0.5, 0.75), (0.5,), (0.1, 0.9)]))
def test_no_problem_is_used_at_two_places(seed: int, fractions: tuple[float, ...]) -> None:
    """Neither as the first nor as the changed problem; places are balanced in every type."""
    assert_one_place_each(seed, fractions, once)


REAL_PAIR = word_problems._pair


def test_places_dealt_otherwise_are_noticed() -> None:
    """Twin: by a digest that is drawn anew at each call; one place for all."""
    luck = random.Random(0)
    for fault in (
        patched(io, "digest", lambda *_parts: str(luck.random())),
        patched(word_problems, "_pair", lambda *given_: dataclasses.replace(
            REAL_PAIR(*given_), number=0)),
    ):
        must_see(fault, assert_one_place_each, 0, (0.25, 0.5, 0.75), anew)


def test_places_differ_between_seeds_and_hide_no_pattern() -> None:
    """Of 90 pairs of a type, two seeds deal most blocks otherwise; the first is not always 0.25."""
    made = [dataclasses.replace(GOOD, number=i) for i in range(90)]
    dealt = [[injection_fraction(one, seed) for one in made] for seed in (0, 1)]
    assert dealt[0] != dealt[1]
    assert len(set(dealt[0][::3])) == 3


@pytest.mark.parametrize("fractions", [(), (0.5, 0.5), (0.0, 0.5), (0.5, 1.0), (float("nan"),)])
def test_places_out_of_range_are_refused(fractions: tuple[float, ...]) -> None:
    """One line says what is allowed."""
    with pytest.raises(KvError, match="pass distinct shares between 0 and 1"):
        injection_fraction(GOOD, 0, fractions)


# --- solutions --------------------------------------------------------------------------------


def assert_solutions_hold(made: Sequence[Pair]) -> None:
    """Every equality in the text is true, the last one is the answer, and so is the last word."""
    for one in made:
        for text, (problem, answer, equation) in zip(worked(one), sides(one), strict=True):
            assert text.endswith(f" The answer is {answer}.")
            assert text.count("The answer is") == 1
            found = re.findall(r": ([\d.]+ [-+*/] [\d.]+) = ([\d.]*\d)\.", text)
            assert len(found) == len(re.findall(r" [-+*/] ", equation))
            assert all(by_python(left) == Fraction(right) for left, right in found)
            assert found[-1][1] == answer
            known = text.split(" We can write it as ")[0]
            assert known.startswith("This is what we know. ")
            assert known.removeprefix("This is what we know. ") in problem
        assert (len({*worked(one)}) == 1) == (one.variation_type is None)


def test_solutions_are_true(many: pairs.PairCorpus) -> None:
    """Of all 500 pairs, both problems."""
    assert_solutions_hold(many.pairs)


@pytest.mark.parametrize(("name", "value"), [
    ("steps_of", lambda equation: equations.steps_of(equation)[:1]),
    ("spelled", lambda value: str(int(value))),
    ("_VERBS", dict.fromkeys("+-*/", "we see {0} and {1}: 1 + 1 = 3. Also")),
])
def test_a_false_solution_is_noticed(name: str, value: object) -> None:
    """Twin: steps left out, decimals cut, an equality that is none."""
    made = word_problems.word_problems(40, 0)
    must_see(patched(word_problems, name, value), assert_solutions_hold, made)


def test_a_story_is_solved_by_quoting_it() -> None:
    """The sentence that holds the answer; without one, only the question and the answer."""
    first, second = worked(STORY)
    assert first == "The question is: Who ran? The text says: A fox ran. The answer is fox."
    assert second == "The question is: Who ran? The text says: A hen ran. The answer is hen."
    bare = dataclasses.replace(STORY, question="Who?", answer="him", alt_problem="Who now?")
    assert worked(bare)[0] == "The question is: Who? The answer is him."


def test_a_problem_without_an_operation_is_solved() -> None:
    """The equation is one number."""
    made = dataclasses.replace(GOOD, question="Ann has 12. How many?", answer="12",
                               equation="x = 12")
    assert worked(made)[0] == (
        "This is what we know. Ann has 12. We can write it as x = 12. The answer is 12.")


# --- files ------------------------------------------------------------------------------------


def row_of(made: Pair) -> dict[str, Any]:
    row = dataclasses.asdict(made)
    del row["number"]
    return row


def jsonl(path: Path, *rows: dict[str, Any] | str) -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


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
        earlier = one.pairs[:one.pairs.index(made)]
        assert made.number == sum(e.variation_type == made.variation_type for e in earlier)
    assert load_pairs(str(path), n=5).pairs == one.pairs[:5]
    assert load_pairs(str(path), seed=1).pairs != one.pairs


def test_pairs_come_out_of_a_file_as_they_went_in(tmp_path: Path) -> None:
    """Whatever the order of the rows; fewer pairs are the first of them."""
    assert_file_is_read(tmp_path)


def test_a_file_read_in_its_own_order_is_noticed(tmp_path: Path) -> None:
    """Twin: the order is that of the rows."""
    must_see(patched(pairs, "_ordered", lambda made, _seed: tuple(made)),
             assert_file_is_read, tmp_path)


def test_empty_and_repeated_problems_are_dropped_and_counted(tmp_path: Path) -> None:
    """Also where the repeat is another pair's changed problem; an answer may be a number."""
    row = row_of(GOOD) | {"id": None}
    other = row_of(STORY)
    again = dataclasses.replace(
        CONTROL, question=GOOD.alt_problem, answer="14", equation=GOOD.alt_equation,
        alt_problem=GOOD.alt_problem, alt_answer="14", alt_equation=GOOD.alt_equation)
    made = load_pairs(jsonl(
        tmp_path / "own.jsonl", row | {"answer": 17, "alt_answer": 14.0}, row, "",
        row_of(again) | {"id": "c"}, other | {"question": " "}, other | {"alt_answer": None},
        other))
    assert made.dropped == {"empty question": 1, "empty alt_answer": 1, "repeated problem": 2}
    assert {(one.answer, one.alt_answer) for one in made.pairs} == {("17", "14.0"), ("fox", "hen")}
    assert all(one.id for one in made.pairs)


BAD_ROWS: dict[str, dict[str, Any] | str] = {
    r"line 2 is not JSON": "{",
    r"line 2 is not a JSON object": "[]",
    r"column 'alt_equation' lacks on line 2; needed are question, .* optional is id":
        {k: v for k, v in row_of(STORY).items() if k != "alt_equation"},
    r"'question' on line 2 is int, not text": row_of(STORY) | {"question": 3},
    r"'answer' on line 2 is bool, not text": row_of(STORY) | {"answer": True},
    r"variation_type 'entities' on line 2 is unknown; use single_number, multi_number, added_step, "
    r"entity, or null": row_of(STORY) | {"variation_type": "entities"},
    r"variation_type '' on line 2 is unknown": row_of(STORY) | {"variation_type": ""},
    r"line 2 contradicts itself: a control's two": row_of(STORY) | {"variation_type": None},
    r"line 2 contradicts itself: equation gives 17, answer says 18":
        row_of(GOOD) | {"answer": "18", "id": "x", "question": GOOD.question + " Say."},
    r"id 'p' on line 2 is already on line 1": row_of(STORY) | {"id": "p"},
}


def assert_bad_rows_are_told(folder: Path) -> None:
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
    """What lacks, what is not text, what is unknown, what contradicts itself."""
    assert_bad_rows_are_told(tmp_path)


def test_rows_that_nobody_checks_are_noticed(tmp_path: Path) -> None:
    """Twin: no pair ever contradicts itself."""
    must_see(patched(pair, "flaw", lambda _pair: None), assert_bad_rows_are_told, tmp_path)


def test_a_bad_file_is_one_line(tmp_path: Path) -> None:
    """Not there, of another kind, damaged, or empty."""
    damaged = tmp_path / "own.parquet"
    damaged.write_bytes(b"PAR1 this is no table")
    for given_, message in (
        (str(tmp_path / "none.jsonl"), r"none\.jsonl: cannot be read \(No such file"),
        (str(tmp_path / "own.csv"), r"extension '\.csv' is unknown; use \.jsonl or \.parquet"),
        (str(damaged), "not a readable Parquet file"),
        (jsonl(tmp_path / "empty.jsonl"), "no pair left; dropped: nothing, the file is empty"),
        (jsonl(tmp_path / "bare.jsonl", row_of(STORY) | {"answer": ""}),
         r"no pair left; dropped: \{'empty answer': 1\}"),
    ):
        with pytest.raises(KvError, match=message) as error:
            load_pairs(given_)
        assert "\n" not in str(error.value)


def test_an_unknown_name_is_one_line() -> None:
    """The nearest one is told; so is what a number must be."""
    with pytest.raises(KvError, match=r"unknown pairs 'mawp': did you mean 'mawps'\? known are "):
        load_pairs("mawp")
    for given_ in ("word_problems", "mawps"):
        with pytest.raises(KvError, match="n = 0 pairs; pass 1 or more"):
            load_pairs(given_, n=0)


def test_another_generator_has_another_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It changes with the seed and with the code, not with how many are asked for."""
    assert load_pairs(n=2).revision == load_pairs(n=3).revision != load_pairs(n=2, seed=1).revision
    before = pairs.code_hash()
    for name in pairs.SOURCES:
        (tmp_path / name).write_text("changed", encoding="utf-8")
    monkeypatch.setattr(pairs, "__file__", str(tmp_path / "pairs.py"))
    pairs.code_hash.cache_clear()
    assert pairs.code_hash() != before
    pairs.code_hash.cache_clear()


# --- MAWPS ------------------------------------------------------------------------------------

CAKE = {"Question": "Mary bakes . She wants N_00 cups of flour and has N_01 . How many more ?",
        "Numbers": "8.0 2.0", "Equation": "N_00 - N_01", "Answer": "6.0"}
MAWPS_GOOD = [
    *[CAKE | {"Numbers": f"{8 + i}.0 {2 + i % 3}.0", "Answer": f"{6 + i - i % 3}.0"}
      for i in range(30)],
    *[{"Question": "A waiter had N_00 customers . If N_01 left and the rest had N_02 people at each"
                   " table , how many tables did he have ?",
       "Numbers": f"{22 + 4 * i}.0 14.0 4.0", "Equation": "( N_00 - N_01 ) / N_02",
       "Answer": f"{2 + i}.0"} for i in range(10)],
    *[{"Question": "Tom paid N_00 dollars , then N_01 , \"all told\" .\nHow much ?",
       "Numbers": f"28.3 {i}.25", "Equation": "N_00 + N_01", "Answer": f"{28 + i}.549999999999997"}
      for i in range(2, 8)],
]
MAWPS_BAD: list[tuple[str, dict[str, str]]] = [
    ("empty question", {"Question": " "}), ("empty equation", {"Equation": ""}),
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
    ("answer has no end of decimals", {"Numbers": "8.0 3.0", "Equation": "N_00 / N_01",
                                       "Answer": "2.6666666666666665"}),
    ("equation falls below zero", {"Numbers": "2.0 8.0", "Answer": "-6.0"}),
    ("equation has a number that the question lacks", {"Equation": "N_00 - N_01 + 5 - 5"}),
    ("repeated problem", MAWPS_GOOD[3]),
]
MAWPS_COLUMNS = ["Question", "Numbers", "Equation", "Answer"]


def mawps_file(folder: Path, rows: Sequence[dict[str, str]],
               columns: Sequence[str] = MAWPS_COLUMNS) -> Path:
    """Write a file as mwpt5/MAWPS has it: comma-separated, quoted where needed."""
    path = folder / f"MAWPS-{len(list(folder.iterdir()))}.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def assert_mawps_is_read(folder: Path) -> None:
    """Good rows make consistent pairs in thirds, bad ones are counted under their reasons."""
    bad = [CAKE | changes for _, changes in MAWPS_BAD]
    made, dropped = published_pairs.mawps_pairs([mawps_file(folder, [*MAWPS_GOOD, *bad])], 0)
    assert dropped == Counter(reason for reason, _ in MAWPS_BAD)
    assert len(made) == len(MAWPS_GOOD)
    assert_shares([one.variation_type for one in made])
    for one in made:
        for problem, answer, equation in sides(one):
            assert by_python(equation) == Fraction(answer) >= 0
            assert digits_in(problem) == digits_in(re.sub(r"[()]", "", equation)), one
            if not re.search(r"\d\.\d", one.question):
                assert Fraction(answer).denominator == 1, one
            assert "N_0" not in problem
        assert_mawps_change(one)
    again, _ = published_pairs.mawps_pairs([mawps_file(folder, [*bad, *MAWPS_GOOD[::-1]])], 0)
    assert again == made
    assert published_pairs.mawps_pairs([mawps_file(folder, MAWPS_GOOD)], 1)[0] != made


def assert_mawps_change(one: Pair) -> None:
    """The question differs in the type's own way alone."""
    if one.variation_type == "added_step":
        assert one.alt_problem.startswith(f"{one.question} Then ")
        assert one.alt_problem.endswith("What number is that?")
        assert one.answer != one.alt_answer
        return
    before, now = digits_in(one.question), digits_in(one.alt_problem)
    changed = sum(a != b for a, b in zip(before, now, strict=True))
    assert re.sub(r"[\d.]+", "", one.question) == re.sub(r"[\d.]+", "", one.alt_problem)
    assert {None: changed == 0, "single_number": changed == 1,
            "multi_number": changed == 2}[one.variation_type], one
    assert all(n >= 1 for n in now)


def test_mawps_rows_become_pairs(tmp_path: Path) -> None:
    """Written as the hub has them, good rows and bad, in any order."""
    assert_mawps_is_read(tmp_path)


REAL_SUBSTITUTED = published_pairs.substituted


@each(
    patched(published_pairs, "substituted",
            lambda text, numbers: REAL_SUBSTITUTED(text, [numbers[0], *numbers[1:][::-1]])),
    patched(published_pairs, "substituted", lambda text, numbers: REAL_SUBSTITUTED(
        text, [*numbers[:-1], Fraction(numbers[-1]) + (" " in text and "?" in text)])),
    patched(published_pairs, "_keeps_to", lambda *_: True),
    patched(pair, "flaw", lambda _pair: None),
    patched(published_pairs, "ROUNDED", Fraction(1, 2)),
    patched(pair, "planned", lambda _index: "multi_number"),
    patched(published_pairs, "_another", lambda number, *_key: number + Fraction(1, 3)),
    patched(io, "digest", lambda *parts: str(parts)[-3:]),
)
def test_a_mawps_rule_that_is_off_is_noticed(fault: Fault, tmp_path: Path) -> None:
    """Twin: numbers put elsewhere, no check of what is drawn or stated, other shares, an order
    that is none.
    """
    must_see(fault, assert_mawps_is_read, tmp_path)


def test_a_row_that_cannot_take_its_type_is_dropped(tmp_path: Path) -> None:
    """Numbers up to 1 stay, so that nothing is left to change; the next row takes the type."""
    lone = [CAKE | {"Question": f"Mary has N_00 cups and loses N_01 on day {i} . How many ?",
                    "Numbers": "1.0 0.5", "Answer": "0.5"} for i in range(6)]
    made, dropped = published_pairs.mawps_pairs([mawps_file(tmp_path, lone)], 0)
    assert made == ()
    assert dropped == {"no single_number change found": 6}


def test_a_control_could_have_been_changed() -> None:
    """A row in which nothing can be changed is no control either; another row is."""
    lone = Sample("Mary has N_00 cups and loses N_01 . How many ?", "", "0.5",
                  texts=(("numbers", "1.0 0.5"), ("equation", "N_00 - N_01")))
    cake = Sample(CAKE["Question"], "", "6.0", texts=(("numbers", "8.0 2.0"),
                                                      ("equation", "N_00 - N_01")))
    problems = [published_pairs.filled_in(sample) for sample in (lone, cake)]
    assert all(isinstance(problem, published_pairs.Filled) for problem in problems)
    first, second = (published_pairs.mawps_pair(problem, None, 0)  # type: ignore[arg-type]
                     for problem in problems)
    assert first == "no single_number change found"
    assert isinstance(second, Pair)
    assert second.variation_type is None


def test_a_mawps_file_that_is_none_is_one_line(tmp_path: Path) -> None:
    """A column lacks, or it is no table; nothing left is told through the loader."""
    lacking = mawps_file(tmp_path, [CAKE], MAWPS_COLUMNS[:-1])
    with pytest.raises(KvError, match=r"^mawps: column 'Answer' lacks; needed are Question, Numb"):
        published_pairs.mawps_pairs([lacking], 0)
    ragged = tmp_path / "MAWPS.csv"
    ragged.write_text("Question,Numbers\na,b,c\n", encoding="utf-8")
    message = r"^mawps: MAWPS\.csv is not readable CSV \(.*; delete it and run: hf download mwpt5/M"
    with pytest.raises(KvError, match=message):
        published_pairs.mawps_pairs([ragged], 0)


# --- FairytaleQA ------------------------------------------------------------------------------

TEXT = Value("string")
# WorkInTheDark/FairytaleQA, config plain_text
FAIRYTALE_FEATURES = Features({
    "story_name": TEXT, "story_section": TEXT, "question": TEXT, "answer1": TEXT, "answer2": TEXT,
    "local-or-sum": TEXT, "attribute": TEXT, "ex-or-im": TEXT, "ex-or-im2": TEXT})


def tale(story: str, section: str, question: str, answer: str | None, **more: str | None
         ) -> dict[str, str | None]:
    return {"story_name": story, "story_section": section, "question": question,
            "answer1": answer, "answer2": "", "local-or-sum": "local", "attribute": "character",
            "ex-or-im": "explicit", "ex-or-im2": ""} | more


WHO = ("fox", "old woman", "king of the hills", "miller", "golden bird", "Hans", "giant", "smith")
FAIRYTALES = [
    tale(f"story-{i % 8 // 4}",
         f"one day the {name} went out, far away.  the {name}'s horse was gone. "
         f"{name} wept for {i} days .", f"who lost a horse on day {i} ?", f"The {name}.")
    for i, name in enumerate(WHO * 5)]
HILL = "in the castle by the lake lived a frog. it was the castle that he loved."
FAIRYTALE_BAD: list[tuple[str, dict[str, Any]]] = [
    ("asks neither whom nor where", {"attribute": "action"}),
    ("asks neither whom nor where", {"attribute": None}),
    ("answer is not in the text", {"ex-or-im": "implicit"}),
    ("empty answer", {"answer1": " . "}), ("empty query", {"question": ""}),
    ("empty passage", {"story_section": None}),
    ("answer not 1 to 4 words", {"answer1": "the frog that lived there long"}),
    ("answer not 1 to 4 words", {"answer1": "the"}),
    ("answer is not in the section", {"answer1": "the hen"}),
    ("question names the answer", {"question": "did a frog live there ?"}),
    ("part of the answer stands in the section elsewhere",
     {"answer1": "castle by the lake", "attribute": "setting"}),
    ("no other answer of its kind in the story", {"attribute": "setting", "answer1": "the lake"}),
]


def fairytale_file(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path = folder / f"{len(list(folder.iterdir()))}.parquet"
    datasets.Dataset.from_list(list(rows), features=FAIRYTALE_FEATURES).to_parquet(path)
    assert Features.from_arrow_schema(pq.read_schema(path)) == FAIRYTALE_FEATURES
    return path


def assert_fairytales_are_read(folder: Path) -> None:
    """Sections name someone else of the same story throughout; bad rows are counted."""
    bad = [tale(f"bad-{i}", HILL, "who lived there ?", "a frog.") | changes
           for i, (_, changes) in enumerate(FAIRYTALE_BAD)]
    files = [fairytale_file(folder, part) for part in (FAIRYTALES, bad)]
    made, dropped = published_pairs.fairytale_pairs(files, 0)
    assert dropped == Counter(reason for reason, _ in FAIRYTALE_BAD)
    assert len(made) == len(FAIRYTALES)
    kinds = Counter(one.variation_type for one in made)
    assert set(kinds) == {None, "entity"}
    assert 0.20 <= kinds[None] / len(made) <= 0.24
    for one in made:
        assert_only_the_name_differs(one)
    again, _ = published_pairs.fairytale_pairs(files[::-1], 0)
    assert again == made
    assert published_pairs.fairytale_pairs(files[:1], 1)[0] != made


def assert_only_the_name_differs(one: Pair) -> None:
    """Cut at every mention, the two sections leave the same pieces."""
    (section, question), (other, same) = (
        text.rsplit("\n", 1) for text in (one.question, one.alt_problem))
    assert question == same
    assert one.answer in section
    pieces = section.casefold().split(one.answer.casefold())
    assert pieces == other.casefold().split(one.alt_answer.casefold())
    assert len(pieces) == 4
    assert one.equation == one.alt_equation == ""
    if one.variation_type is None:
        assert section == other
    else:
        assert WHO.index(one.answer) // 4 == WHO.index(one.alt_answer) // 4, "of another story"
    assert "  " not in one.question
    for text, (_, answer, _) in zip(worked(one), sides(one), strict=True):
        assert text.endswith(f" The answer is {answer}.")
        assert f"{answer} went out, far away." in text


def test_fairytales_become_pairs(tmp_path: Path) -> None:
    """Written in the schema of the dataset's card, good rows and bad, in any order."""
    assert_fairytales_are_read(tmp_path)


REAL_OCCURRENCES = published_pairs.occurrences


@each(
    patched(published_pairs, "occurrences",
            lambda name: re.compile(REAL_OCCURRENCES(name).pattern + "(?!')")),
    patched(published_pairs, "NAMED", ("character", "setting", "action")),
    patched(published_pairs, "ANSWER_WORDS", 3),
    patched(published_pairs, "bare_name", lambda answer: tuple(answer.split())),
    patched(published_pairs, "words_in", lambda text: text.split()[:1]),
    patched(published_pairs, "_LITTLE", frozenset()),
    patched(pair, "planned", lambda _index: None),
    patched(published_pairs, "_kind", lambda _sample: ("one story", "one kind")),
)
def test_a_fairytale_rule_that_is_off_is_noticed(fault: Fault, tmp_path: Path) -> None:
    """Twin: mentions left over, other kinds of answer, other lengths, controls only."""
    must_see(fault, assert_fairytales_are_read, tmp_path)


def test_names_keep_their_capitals(tmp_path: Path) -> None:
    """A name is spelled as its own section spells it, with a capital where a sentence starts."""
    rows = [tale("s", f"{name.capitalize()} ran. then {name} slept {i}.", f"who ran {i} ?",
                 f"The {name}.") for i, name in enumerate(("foxes", "Hans"))]
    made, _ = published_pairs.fairytale_pairs([fairytale_file(tmp_path, rows)], 0)
    assert {(one.alt_problem, one.alt_answer) for one in made} == {
        ("Hans ran. then Hans slept 0.\nwho ran 0 ?", "Hans"),
        ("Foxes ran. then foxes slept 1.\nwho ran 1 ?", "Foxes")}


def test_a_fairytale_column_that_lacks_is_one_line(tmp_path: Path) -> None:
    """As for every dataset of the hub."""
    path = tmp_path / "0.parquet"
    schema = FAIRYTALE_FEATURES.arrow_schema
    pq.write_table(schema.remove(schema.get_field_index("ex-or-im")).empty_table(), path)
    with pytest.raises(KvError, match=r"^fairytaleqa: column 'ex-or-im' lacks; needed are story_"):
        published_pairs.fairytale_pairs([path], 0)


# --- from the hub -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", published_pairs.MAKERS)
def test_a_dataset_that_is_not_here_names_its_command(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of its files in one command, at the pinned revision."""
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_a, **_k: None)
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    with pytest.raises(MissingResource, match=rf"^{name} is not on this machine") as error:
        load_pairs(name)
    data, _ = published_pairs.MAKERS[name]
    assert re.fullmatch("[0-9a-f]{40}", data.revision)
    assert str(error.value).endswith(
        f"run: hf download {data.repository} {' '.join(data.files)} --repo-type dataset "
        f"--revision {data.revision}")


@pytest.mark.parametrize("name", published_pairs.MAKERS)
def test_files_in_the_hub_cache_need_no_network(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer pairs are the first of them; the revision is the pinned one."""
    rows: Any = {"mawps": MAWPS_GOOD, "fairytaleqa": FAIRYTALES}[name]
    write: Any = {"mawps": mawps_file, "fairytaleqa": fairytale_file}[name]
    data, _ = published_pairs.MAKERS[name]
    found = {file: str(write(tmp_path, rows[i::len(data.files)]))
             for i, file in enumerate(data.files)}
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache",
                        lambda _repository, file, **_more: found[file])
    monkeypatch.setattr(hub, "hub_answers", lambda: pytest.fail("the hub was asked"))
    whole = load_pairs(name)
    assert len(whole.pairs) == len(rows)
    assert (whole.name, whole.revision, whole.note) == (name, data.revision, pairs.PAIRS[name])
    assert load_pairs(name, n=7).pairs == whole.pairs[:7]
    assert load_pairs(name, seed=1).pairs != whole.pairs


def test_a_dataset_without_a_good_row_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reasons are told."""
    path = str(mawps_file(tmp_path, [CAKE | {"Answer": "7.0"}]))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_a, **_k: path)
    with pytest.raises(KvError, match=r"^mawps: no row makes a pair; dropped: \{'equation and an"):
        load_pairs("mawps")


def test_the_generator_imports_nothing_heavy() -> None:
    """Neither torch nor a reader of files; the twin asks for one."""
    code = """
import json, sys
from kvcore.corpora.pairs import load_pairs
{more}
load_pairs(n=3)
heavy = {{"torch", "transformers", "datasets", "pyarrow", "numpy", "huggingface_hub"}}
print(json.dumps(sorted(heavy & set(sys.modules))))
"""
    assert child(code.format(more="")) == []
    assert child(code.format(more="import numpy")) == ["numpy"]
