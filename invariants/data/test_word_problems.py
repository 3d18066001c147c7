"""Generated word problems: no pair contradicts itself, and no two share a problem.

What a problem says is read here by cue words, sentence by sentence, without the templates.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariants.support.children import child
from invariants.support.comparing import must_see
from invariants.support.faults import Fault, all_of, patched
from invariants.support.problem_pairs import assert_shares, by_python, digits_in, sides
from kvcore.data.context_pairs import assignment, templates, word_problems
from kvcore.data.context_pairs.equations import apply
from kvcore.data.context_pairs.load import PairCorpus, load_pairs
from kvcore.data.context_pairs.pair import CHANGES, Pair
from kvcore.data.context_pairs.solutions import worked_solutions
from kvcore.errors import KvError
from kvcore.io import json_digest

seeds = st.integers(-(2**31), 2**31)
N = 27  # three times the nine pairs in which two controls come


def worked_out(text: str) -> Fraction:
    """Work a word problem out from its sentences' cue words alone."""
    so_far: Fraction | None = None
    for sentence in re.split(r"(?<=[.?]) ", text):
        match digits_in(sentence):
            case [a, b]:
                assert so_far is None, text
                cues = {"each": a * b, "every": a * b, "lost": a - b, "broken": a - b}
                so_far = next(
                    (cues[word] for word in re.findall(r"\w+", sentence) if word in cues), a + b
                )
            case [a]:
                so_far = a if so_far is None else after(sentence, so_far, a)
            case []:
                assert sentence.startswith("How many"), sentence
            case many:
                raise AssertionError(f"{many} in {sentence!r}")
    assert so_far is not None, text
    return so_far


CUES: tuple[tuple[str, Callable[[Fraction, Fraction], Fraction]], ...] = (
    (r"times as m", lambda x, a: x * a),
    (r"sells all", lambda x, a: x * a),
    (r"shares all|packs all", lambda x, a: x / a),
    (r" more\b|another", lambda x, a: x + a),
    (r"gives .* to |go missing|sells \d", lambda x, a: x - a),
)


def after(sentence: str, so_far: Fraction, number: Fraction) -> Fraction:
    """Carry out what one sentence says."""
    operations = [does for cue, does in CUES if re.search(cue, sentence)]
    assert len(operations) == 1, sentence
    return operations[0](so_far, number)


# --- pairs ---------------------------------------------------------------------------------------


def assert_consistent(seed: int, n: int) -> None:
    """Text, equation and answer of both problems agree, and the change is what the type says."""
    for pair in word_problems.word_problems(n, seed):
        for problem, answer, equation in sides(pair):
            assert worked_out(problem) == by_python(equation) == Fraction(answer), pair
            assert digits_in(problem) == digits_in(re.sub(r"[()]", "", equation)), pair
            assert_possible(problem, equation)
        assert_changed_as_said(pair)


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


def assert_changed_as_said(pair: Pair) -> None:
    """The two texts differ in one number, in several, in a sentence, or not at all."""
    one, two = (re.split(r"(?<=[.?]) ", text) for text in (pair.question, pair.alt_problem))
    words = [a == b for a, b in zip(pair.question.split(), pair.alt_problem.split(), strict=False)]
    if pair.variation_type is None:
        assert sides(pair)[0] == sides(pair)[1]
        return
    assert Fraction(pair.answer) != Fraction(pair.alt_answer), pair
    if pair.variation_type == "added_step":
        assert [s for s in two if s in one] == one, pair
        assert len(two) == len(one) + 1, pair
        return
    assert re.sub(r"[\d.]+", "", pair.question) == re.sub(r"[\d.]+", "", pair.alt_problem), pair
    assert (words.count(False) == 1) == (pair.variation_type == "single_number"), pair
    assert words.count(False) >= 1


@given(seed=seeds)
def test_no_pair_contradicts_itself(seed: int) -> None:
    """Catches a text, equation or answer that disagree, and a change that is not of its type.

    1. What the sentences say, read by cue words. 2. The equation, evaluated by Python. 3. The
    answer as it is stated.
    """
    assert_consistent(seed, N)


def wrong_numbers(problem: Any, count: int, *key: object) -> Any:
    """Change one number too many."""
    return REAL_OTHERS(problem, count + 1, *key) or REAL_OTHERS(problem, count, *key)


REAL_OTHERS = word_problems.with_other_numbers
REAL_STEP = word_problems.with_step
REAL_EQUATION = word_problems.equation_of
REAL_TEXT = word_problems.text_of
REAL_ANSWER = word_problems.answer_of


def step_untold(problem: Any, *key: object) -> Any:
    """Add a step whose sentence tells nothing."""
    draft = REAL_STEP(problem, *key)
    if draft is None:
        return None
    *before, added, closing = draft.sentences
    return dataclasses.replace(
        draft,
        sentences=(
            *before,
            dataclasses.replace(added, text="{other} looks on at {0} of them."),
            closing,
        ),
    )


UNCHECKED = patched(word_problems, "inconsistency", lambda _pair: None)
FAULTS: dict[str, Fault] = {
    "a wrong sum": patched(
        word_problems, "apply", lambda sign, a, b: apply("-" if sign == "+" else sign, a, b)
    ),
    "an equation without brackets": patched(
        word_problems,
        "equation_of",
        lambda p: "x = " + re.sub(r"[()]", "", REAL_EQUATION(p).removeprefix("x = ")),
    ),
    "numbers in another order": patched(
        word_problems,
        "text_of",
        lambda p: REAL_TEXT(dataclasses.replace(p, numbers=p.numbers[::-1])),
    ),
    "one too many": patched(
        word_problems, "answer_of", lambda p: str(Fraction(REAL_ANSWER(p)) + 1)
    ),
    "rounded numbers": patched(word_problems, "spelled", lambda value: str(round(value))),
    "a number too many": patched(word_problems, "with_other_numbers", wrong_numbers),
    "a step untold": lambda patch: patch.setitem(word_problems.CHANGERS, "added_step", step_untold),
    "halves of apples": patched(word_problems, "fits", lambda _kind, _value: True),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_pair_that_contradicts_itself_is_noticed(fault: str) -> None:
    """Twin: catches checks blind to one part of the generator, its own check switched off."""
    must_see(all_of(UNCHECKED, FAULTS[fault]), assert_consistent, 0, 90)


@pytest.mark.parametrize(
    "fault", ["a wrong sum", "an equation without brackets", "one too many", "a number too many"]
)
def test_the_generator_refuses_its_own_mistakes(fault: str) -> None:
    """Catches a generator that hands out a pair that contradicts itself."""
    with pytest.MonkeyPatch.context() as patch:
        FAULTS[fault](patch)
        with pytest.raises(AssertionError, match=r"pair wp-0-\d+ contradicts itself: "):
            word_problems.word_problems(90, 0)


@given(n=st.integers(32, 3000))
def test_thirds_and_controls_hold_for_any_number(n: int) -> None:
    """Catches types out of balance by more than one, or another share of controls."""
    assert_shares([assignment.planned_type(i) for i in range(n)])


def assert_generated_shares() -> None:
    """Sixty pairs have the shares that are planned."""
    assert_shares([pair.variation_type for pair in word_problems.word_problems(60, 1)])


def test_the_generator_makes_what_is_planned() -> None:
    """Catches a generator that makes other types than are planned."""
    assert_generated_shares()


@pytest.mark.parametrize(
    "plan",
    [
        lambda i: CHANGES[i % 3],
        lambda i: None if i % 3 == 0 else CHANGES[i % 2],
        lambda i: None if i % 4 == 0 else CHANGES[i % 3],
    ],
    ids=["none", "a third", "a quarter"],
)
def test_other_shares_are_noticed(plan: Callable[[int], str | None]) -> None:
    """Twin: catches no controls, a third of them, or a quarter."""
    must_see(patched(word_problems, "planned_type", plan), assert_generated_shares)


@pytest.fixture(scope="module")
def many() -> PairCorpus:
    """The default pairs as a user gets them."""
    return load_pairs()


def skeletons(pair: Pair) -> set[str]:
    """Return both texts with every name and thing left out: wording and numbers."""
    names = {
        word
        for part in (
            templates.NAMES,
            templates.THINGS,
            templates.ADJECTIVES,
            templates.HOLDERS,
            templates.GROUPS,
            *templates.STUFFS,
        )
        for word in part
    }
    texts = [
        re.sub("|".join(sorted(templates.PLACES, key=len)), "_", text, flags=re.IGNORECASE)
        for text in (pair.question, pair.alt_problem)
    ]
    return {
        " ".join("_" if word.strip(".,?") in names else word for word in text.split())
        for text in texts
    }


def assert_all_differ(pairs: Sequence[Pair]) -> None:
    """No two pairs share a problem's wording and numbers, or an id."""
    seen: set[str] = set()
    for pair in pairs:
        assert not skeletons(pair) & seen, pair
        seen |= skeletons(pair)
    assert len({pair.id for pair in pairs}) == len(pairs)


def test_no_two_of_500_problems_share_wording_and_numbers(many: PairCorpus) -> None:
    """Catches a problem that comes twice, be it with other names or as a changed one."""
    assert len(many.pairs) == 500
    assert_all_differ(many.pairs)
    assert_shares([pair.variation_type for pair in many.pairs])
    assert many.dropped == {}


def test_repeated_problems_are_noticed() -> None:
    """Twin: catches four draws that repeat, where nobody looks whether they are new."""
    real = word_problems.draw_pair
    fault = all_of(
        patched(word_problems.ProblemDraft, "signature", property(lambda _draft: (object(),))),
        patched(
            word_problems,
            "draw_pair",
            lambda change, _seed, index, attempt: real(change, 0, index % 4, attempt),
        ),
    )
    must_see(fault, lambda: assert_all_differ(word_problems.word_problems(30, 0)))


def test_running_out_of_problems_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a repeat or an endless search where no new problem is left."""
    real = word_problems.draw_pair
    monkeypatch.setattr(
        word_problems,
        "draw_pair",
        lambda change, *_key: real(change, 0, 0, 1) or real(change, 0, 0, 2),
    )
    with pytest.raises(KvError, match=r"no new problem in 500 draws after \d pairs; pass n = \d"):
        word_problems.word_problems(9, 0)


def assert_prefix(seed: int, n: int, more: int) -> None:
    """The first pairs are the same whatever is asked for; another seed makes others."""
    longer = word_problems.word_problems(n + more, seed)
    assert longer[:n] == word_problems.word_problems(n, seed)
    assert longer != word_problems.word_problems(n + more, seed + 1)


@given(seed=seeds, n=st.integers(1, 12), more=st.integers(0, 6))
def test_a_larger_number_is_a_superset(seed: int, n: int, more: int) -> None:
    """Catches pairs that depend on how many are asked for, or not on the seed."""
    assert_prefix(seed, n, more)


def test_pairs_made_by_luck_are_noticed() -> None:
    """Twin: catches draws that no key decides."""
    luck = random.Random(0)
    must_see(
        patched(word_problems, "pick", lambda options, *_key: luck.choice(options)),
        assert_prefix,
        0,
        5,
        3,
    )


def test_pairs_do_not_depend_on_the_hash_seed() -> None:
    """Catches draws by Python's own hash; the twin draws so, under two hash seeds."""
    code = """
import json
from kvcore.data.context_pairs import draws, word_problems
{broken}
made = word_problems.word_problems(12, 0)
print(json.dumps([pair.question for pair in made]))
"""

    def both(broken: str) -> list[Any]:
        return [child(code.format(broken=broken), PYTHONHASHSEED=seed) for seed in ("1", "2")]

    first, second = both("")
    assert first == second
    broken = both("draws.digest = lambda *parts: hex(hash(parts) % 2**64)[2:]")
    assert broken[0] != broken[1]


@pytest.mark.parametrize(("seed", "expected"), [(0, "b00820d413f2f1ed"), (3, "c7a29d8ea2ab1d2f")])
def test_generated_pairs_are_the_ones_that_were_measured(seed: int, expected: str) -> None:
    """Catches a generator or a solution that changed: stored rows are of these texts."""
    pairs = word_problems.word_problems(200, seed)
    rows = [[*dataclasses.astuple(pair), *worked_solutions(pair)] for pair in pairs]
    assert json_digest(rows)[:16] == expected


RANGES = [
    # operator, whether measured, role, slot, before -> smallest, largest, how many
    ("", False, "opening", 0, 0, 3, 90, 88),
    ("", True, "opening", 0, 0, 3, 90, 349),
    ("-", False, "opening", 0, 0, 2, 90, 89),
    ("-", False, "opening", 1, 60, 2, 40, 39),
    ("-", True, "opening", 1, 5, 2, 3, 5),
    ("*", True, "opening", 0, 0, 2, 12, 11),
    ("*", True, "opening", 1, 3, 2, 12, 41),
    ("-", False, "change", 0, 3, None, None, 0),
    ("*", True, "change", 0, 3, 2, 5, 4),
    ("*", True, "closing", 0, 3, 2, 12, 11),
    ("/", False, "closing", 0, 24, 2, 12, 6),
    ("/", True, "closing", 0, 24, 2, 12, 8),
]


@pytest.mark.parametrize(
    ("operator", "measured", "role", "slot", "before", "low", "high", "count"), RANGES
)
def test_the_numbers_of_a_sentence_are_those_of_its_operator(
    operator: str,
    measured: bool,
    role: str,
    slot: int,
    before: int,
    low: int | None,
    high: int | None,
    count: int,
) -> None:
    """Catches a bound or a step of the numbers that may stand in a sentence, moved by one."""
    among = templates.MEASURED if measured else templates.COUNTED
    sentence = templates.Sentence("", operator, templates.RANGES[role][operator])
    allowed = word_problems.allowed_numbers(among, sentence, slot, Fraction(before))
    assert (min(allowed, default=None), max(allowed, default=None)) == (low, high)
    assert len(allowed) == count
