"""Word problems made from templates, each with a changed twin, and their solutions in words.

A problem is an opening, none to two changes and a closing question, each a sentence with numbers in
digits and an operation on the number of things so far. Things that are counted stay whole at every
step; amounts that are measured may have two decimals. What a pair says is drawn from (seed, place)
alone, and pairs are made in the order of their places, so that a larger number is a superset.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeVar

from kvcore.corpora.equations import Step, decimals, spelled, steps_of
from kvcore.corpora.pair import Pair, flaw, numbers_in, planned, sentences_of
from kvcore.errors import KvError
from kvcore.io import digest

T = TypeVar("T")
MOST_STEPS = 3
DRAWS = 60  # of numbers for one change
ATTEMPTS = 500  # draws until a problem is new and whole: one or two are usual

NAMES = ("Ada Ben Carla Dev Elena Farid Grace Hugo Ines Jonas Kira Liam Mona Nils Olga Pavel "
         "Quinn Rosa Sami Tessa Umar Vera Wim Xenia Yusuf Zoe Amina Boris Celia Dario").split()
THINGS = ("stickers marbles apples shells pencils cards buttons stamps beads candles tulips "
          "oranges walnuts postcards pebbles badges ribbons eggs plums keys lemons bulbs acorns "
          "feathers crayons magnets figs pears pinecones tiles").split()
ADJECTIVES = ("red blue green yellow small large old new plain striped bright dark").split()
PLACES = ("at home", "in the garden shed", "on the kitchen table", "in a drawer", "at school",
          "in the attic", "by the window", "in the car", "under the stairs", "at the beach hut",
          "in the workshop", "on the balcony")
HOLDERS = ("boxes bags jars baskets crates tins trays drawers pouches buckets").split()
GROUPS = ("friends cousins neighbours classmates children visitors").split()
STUFFS = (("litres", "juice"), ("litres", "paint"), ("litres", "milk"), ("kilograms", "flour"),
          ("kilograms", "rice"), ("kilograms", "clay"), ("kilograms", "sand"), ("metres", "rope"),
          ("metres", "cloth"), ("metres", "wire"), ("pounds", "sugar"), ("grams", "saffron"))


@dataclass(frozen=True)
class Piece:
    """One sentence or two, and what they do to the number of things so far.

    Parameters
    ----------
    text : str
        With ``{0}`` (and ``{1}``) where its numbers stand, and names such as ``{thing}``.
    operator : str
        One of ``+ - * /``, or empty where it leaves the number as it is.
    numbers : int
        How many it holds: an opening has one, or two where it has an operator.
    """

    text: str
    operator: str = ""
    numbers: int = 1


def _of(operator: str, numbers: int, *texts: str) -> tuple[Piece, ...]:
    return tuple(Piece(text, operator, numbers) for text in texts)


@dataclass(frozen=True)
class Kind:
    """The sentences that go together, for things that are counted or amounts that are measured."""

    openings: tuple[Piece, ...]
    changes: tuple[Piece, ...]
    closings: tuple[Piece, ...]
    counted: bool


COUNTED = Kind(
    openings=(
        *_of("", 1, "{name} has {0} {thing} {place}.",
             "{name} keeps {0} {thing} {place}.",
             "{name} owns {0} {thing}, all of them {place}.",
             "{name} starts the week with {0} {thing}."),
        *_of("+", 2, "{name} has {0} {one} {thing} and {1} {two} {thing}.",
             "{name} picked out {0} {thing} in the morning and {1} in the afternoon.",
             "{name} has {0} {thing} {place} and another {1} {where}."),
        *_of("-", 2, "{name} had {0} {thing}, but {1} of them were lost {place}.",
             "Of the {0} {thing} that {name} brought along, {1} were broken and thrown out."),
        *_of("*", 2, "{name} has {0} {holder} with {1} {thing} in each.",
             "{name} bought {0} {holder}, each of them holding {1} {thing}.",
             "{place_first} {name} keeps {0} {holder}, and every one of them holds {1} {thing}.")),
    changes=(
        *_of("+", 1, "{other} gives {name} {0} more {thing}.",
             "Then {name} finds {0} more {where}.",
             "Later {name} buys another {0} {thing}."),
        *_of("-", 1, "{name} gives {0} of them to {other}.",
             "Then {0} of the {thing} go missing.",
             "{name} sells {0} of the {thing} at the market."),
        *_of("*", 1, "After a month there are {0} times as many {thing}.",
             "{other} brings so many that {name} now has {0} times as many {thing}.")),
    closings=(
        *_of("", 0, "How many {thing} does {name} have now?",
             "How many {thing} does {name} have in the end?"),
        *_of("/", 1,
             "{name} shares all of the {thing} equally among {0} {group}. "
             "How many {thing} does each of them get?",
             "{name} packs all of the {thing} into {holder2} of {0}. "
             "How many {holder2} does {name} fill?"),
        *_of("*", 1,
             "In the end {name} sells all {thing} that are left at {0} cents each. "
             "How many cents does {name} get for these?")),
    counted=True)
MEASURED = Kind(
    openings=(
        *_of("", 1, "{name} has {0} {unit} of {stuff} {place}.",
             "{name} starts the week with {0} {unit} of {stuff}."),
        *_of("+", 2, "{name} has {0} {unit} of {stuff} {place} and another {1} {unit} {where}.",
             "{name} bought {0} {unit} of {stuff} on Monday and {1} {unit} on Friday."),
        *_of("-", 2, "{name} had {0} {unit} of {stuff}, but {1} {unit} of it were lost {place}."),
        *_of("*", 2, "{name} has {0} {holder} with {1} {unit} of {stuff} in each.")),
    changes=(
        *_of("+", 1, "{other} gives {name} {0} {unit} more.",
             "Later {name} buys another {0} {unit}."),
        *_of("-", 1, "{name} gives {0} {unit} of it to {other}.",
             "Then {name} sells {0} {unit} of it."),
        *_of("*", 1, "After a month there is {0} times as much {stuff}.")),
    closings=(
        *_of("", 0, "How many {unit} of {stuff} does {name} have now?",
             "How many {unit} of {stuff} does {name} have in the end?"),
        *_of("/", 1,
             "{name} shares all of the {stuff} equally among {0} {group}. "
             "How many {unit} does each of them get?"),
        *_of("*", 1,
             "In the end {name} sells all {stuff} that is left at {0} dollars for each of the "
             "{unit}. How many dollars does {name} get for this?")),
    counted=False)


@dataclass(frozen=True)
class Problem:
    """A word problem before it is written out.

    Parameters
    ----------
    kind : Kind
    words : mapping of str to str
        Whom and what it is about.
    pieces : tuple of Piece
        Opening, changes and closing.
    numbers : tuple of Fraction
        Those of the pieces, in order.
    """

    kind: Kind
    words: Mapping[str, str]
    pieces: tuple[Piece, ...]
    numbers: tuple[Fraction, ...]


# --- drawing -----------------------------------------------------------------------------------


def pick(options: Sequence[T], *key: object) -> T:
    """Choose one of some options by a key alone, the same on every machine."""
    return options[int(digest(*map(str, key)), 16) % len(options)]


def shuffled(options: Sequence[T], *key: object) -> list[T]:
    """Put options in an order that a key alone decides."""
    places = sorted(range(len(options)), key=lambda i: digest(*map(str, key), str(i)))
    return [options[i] for i in places]


def words_for(*key: object) -> dict[str, str]:
    """Draw whom and what a problem is about; no two names or places in it are the same."""
    name, other = shuffled(NAMES, *key, "names")[:2]
    place, where = shuffled(PLACES, *key, "places")[:2]
    one, two = shuffled(ADJECTIVES, *key, "adjectives")[:2]
    holder, holder2 = shuffled(HOLDERS, *key, "holders")[:2]
    unit, stuff = pick(STUFFS, *key, "stuff")
    return {"name": name, "other": other, "place": place, "where": where, "one": one, "two": two,
            "place_first": place[0].upper() + place[1:], "holder": holder, "holder2": holder2,
            "unit": unit, "stuff": stuff, "thing": pick(THINGS, *key, "thing"),
            "group": pick(GROUPS, *key, "group")}


def pieces_for(kind: Kind, most: int, *key: object) -> tuple[Piece, ...]:
    """Draw an opening, changes and a closing with one to so many operations in all."""
    wanted = pick(range(1, most + 1), *key, "steps")
    opening = pick(kind.openings, *key, "opening")
    left = wanted - bool(opening.operator)
    closing = pick([c for c in kind.closings if not c.operator or left], *key, "closing")
    left -= bool(closing.operator)
    return (opening, *shuffled(kind.changes, *key, "changes")[:left], closing)


def choices(kind: Kind, piece: Piece, slot: int, before: Fraction) -> list[Fraction]:
    """Return the numbers that may stand in a slot of a piece, given the number of things so far.

    Parameters
    ----------
    before : Fraction
        What the piece starts from; within an opening, its first number.
    """
    opening = piece.numbers == 2
    grain = 1 if kind.counted else 4
    if piece.operator == "*" and not (opening and slot == 1):
        return [Fraction(n) for n in range(2, 13 if opening or piece in kind.closings else 6)]
    if piece.operator == "/":
        return [n for n in map(Fraction, range(2, 13)) if fits(kind, before / n)]
    if piece.operator == "-" and slot == piece.numbers - 1:
        top = min(int(before * grain) - 2 * grain, 40 * grain)
        return [Fraction(n, grain) for n in range(2 * grain, top + 1)]
    top = 12 if opening and piece.operator == "*" else 90
    low = 3 if not opening or piece.operator == "+" else 2
    return [Fraction(n, grain) for n in range(low * grain, top * grain + 1)]


def fits(kind: Kind, value: Fraction) -> bool:
    """Tell whether a story may come to a number: two or more; whole, or with two decimals."""
    places = decimals(value)
    return value >= 2 and places is not None and places <= (0 if kind.counted else 2)


def apply(operator: str, left: Fraction, right: Fraction) -> Fraction:
    """Carry out one operation on the running number."""
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    return left * right if operator == "*" else left / right


def values(problem: Problem) -> Iterator[tuple[Piece, int, Fraction, Fraction]]:
    """Yield each number's piece and slot, the running number before it, and the one after it."""
    numbers = iter(problem.numbers)
    so_far = Fraction(0)
    for piece in problem.pieces:
        for slot in range(piece.numbers):
            number = next(numbers)
            first = piece is problem.pieces[0] and slot == 0
            after = number if first else apply(piece.operator, so_far, number)
            yield piece, slot, so_far, after
            so_far = after


def is_sound(problem: Problem) -> bool:
    """Tell whether every number is one that may stand there, and every result fits the story."""
    return all(
        fits(problem.kind, after) and number in choices(problem.kind, piece, slot, before)
        for (piece, slot, before, after), number in zip(
            values(problem), problem.numbers, strict=True))


def with_numbers(problem: Problem, *key: object) -> Problem | None:
    """Draw all of a problem's numbers, or None where one of them has no choice left."""
    so_far, drawn = Fraction(0), list[Fraction]()
    for piece in problem.pieces:
        for slot in range(piece.numbers):
            allowed = choices(problem.kind, piece, slot, so_far)
            if not allowed:
                return None
            drawn.append(pick(allowed, *key, "number", len(drawn)))
            so_far = drawn[-1] if len(drawn) == 1 else apply(piece.operator, so_far, drawn[-1])
    made = replace(problem, numbers=tuple(drawn))
    return made if is_sound(made) else None


# --- writing out -------------------------------------------------------------------------------


def text_of(problem: Problem) -> str:
    """Write a problem out, its numbers in digits."""
    numbers = iter(problem.numbers)
    return " ".join(
        piece.text.format(*(spelled(next(numbers)) for _ in range(piece.numbers)), **problem.words)
        for piece in problem.pieces)


def equation_of(problem: Problem) -> str:
    """Write a problem's equation: ``x = (12 + 5) * 3``."""
    written = ""
    for (piece, _, _, _), number in zip(values(problem), problem.numbers, strict=True):
        left = f"({written})" if " " in written else written
        written = f"{left} {piece.operator} {spelled(number)}" if written else spelled(number)
    return f"x = {written}"


def answer_of(problem: Problem) -> str:
    """Return what a problem comes to, from its story rather than from its equation."""
    *_, (_, _, _, last) = values(problem)
    return spelled(last)


# --- changing ----------------------------------------------------------------------------------


def with_others(problem: Problem, count: int, *key: object) -> Problem | None:
    """Change exactly so many of a problem's numbers, or return None where no draw is sound."""
    at = shuffled(range(len(problem.numbers)), *key, "slots")[:count]
    if len(at) < count:
        return None
    where = list(values(problem))
    for attempt in range(DRAWS):
        numbers = list(problem.numbers)
        for slot in at:
            piece, place, before, _ = where[slot]
            allowed = choices(problem.kind, piece, place, before)
            numbers[slot] = pick(allowed, *key, attempt, slot)
        made = replace(problem, numbers=tuple(numbers))
        if all(numbers[slot] != problem.numbers[slot] for slot in at) and is_sound(made):
            return made
    return None


def with_step(problem: Problem, *key: object) -> Problem | None:
    """Put one more sentence before the closing, or return None where no draw is sound."""
    *_, closing = problem.pieces
    held = len(problem.numbers) - closing.numbers
    before = list(values(problem))[held - 1][3]
    for piece in shuffled([p for p in problem.kind.changes if p not in problem.pieces], *key):
        allowed = choices(problem.kind, piece, 0, before)
        for attempt in range(DRAWS if allowed else 0):
            number = pick(allowed, *key, piece.text, attempt)
            made = replace(
                problem, pieces=(*problem.pieces[:-1], piece, closing),
                numbers=(*problem.numbers[:held], number, *problem.numbers[held:]))
            if is_sound(made):
                return made
    return None


CHANGERS: Mapping[str, Callable[..., Problem | None]] = {
    "single_number": lambda problem, *key: with_others(problem, 1, *key),
    "multi_number": lambda problem, *key: with_others(
        problem, pick((2, 3), *key, "count") if len(problem.numbers) > 2 else 2, *key),
    "added_step": with_step,
}


# --- pairs -------------------------------------------------------------------------------------


def signature(problem: Problem) -> tuple[object, ...]:
    """Return a problem's wording, whatever names and things it is about, and its numbers."""
    return (*problem.pieces, *problem.numbers)


def drawn(change: str | None, *key: object) -> tuple[Problem, Problem] | None:
    """Draw a problem and the changed one, or None where the draw comes to nothing."""
    kind = pick((COUNTED, COUNTED, MEASURED), *key, "kind")
    most = MOST_STEPS - (change == "added_step")
    problem = with_numbers(
        Problem(kind, words_for(*key), pieces_for(kind, most, *key), ()), *key)
    if problem is None or change is None:
        return None if problem is None else (problem, problem)
    changed = CHANGERS[change](problem, *key, "change")
    if changed is None or answer_of(changed) == answer_of(problem):
        return None
    return problem, changed


def word_problems(n: int, seed: int) -> tuple[Pair, ...]:
    """Make pairs of word problems.

    Parameters
    ----------
    n : int
        How many, 1 or more. A larger number is a superset. Two in nine are controls (20 to 24 %
        from 32 pairs on), the others are of the three types in turn.
    seed : int
        Another seed makes other pairs, with other identities.

    Returns
    -------
    tuple of Pair
        No two hold a problem of the same wording and numbers, names and things left aside.

    Raises
    ------
    KvError
        Where n is below 1, or where so many new problems cannot be found.
    """
    if n < 1:
        raise KvError(f"word_problems: n = {n} pairs; pass 1 or more.")
    known: set[tuple[object, ...]] = set()
    counts: Counter[str | None] = Counter()
    made = []
    for index in range(n):
        change = planned(index)
        problem, changed = _new(change, known, seed, index)
        known |= {signature(problem), signature(changed)}
        made.append(_pair(f"wp-{seed}-{index}", problem, changed, change, counts[change]))
        counts[change] += 1
    return tuple(made)


def _new(change: str | None, known: set[tuple[object, ...]], seed: int, index: int
         ) -> tuple[Problem, Problem]:
    """Draw until both problems are new."""
    for attempt in range(ATTEMPTS):
        found = drawn(change, seed, index, attempt)
        if found and not {signature(problem) for problem in found} & known:
            return found
    raise KvError(f"word_problems: no new problem in {ATTEMPTS} draws after {index} pairs; "
                  f"pass n = {index} or fewer.")


def _pair(id: str, problem: Problem, changed: Problem, change: str | None, number: int) -> Pair:
    pair = Pair(id, text_of(problem), answer_of(problem), equation_of(problem), text_of(changed),
                answer_of(changed), equation_of(changed), change, number)
    wrong = flaw(pair)
    if wrong:
        raise AssertionError(f"word_problems: pair {id} contradicts itself: {wrong}")
    return pair


# --- solutions ---------------------------------------------------------------------------------

_VERBS = {"+": "we add {0} and {1}", "-": "we take {1} away from {0}",
          "*": "we multiply {0} by {1}", "/": "we divide {0} by {1}"}


def worked(pair: Pair) -> tuple[str, str]:
    """Return a solution in words of each of a pair's two problems.

    Returns
    -------
    tuple of (str, str)
        A few sentences, the last of which is "The answer is N.". With an equation: the problem's
        sentences with numbers, the equation, and each operation with its exact result. Without
        one: the question and the sentence of the text that holds the answer.
    """
    return (_solution(pair.question, pair.answer, pair.equation),
            _solution(pair.alt_problem, pair.alt_answer, pair.alt_equation))


def _solution(problem: str, answer: str, equation: str) -> str:
    if not equation:
        return _quoted(problem, answer)
    steps = steps_of(equation)
    starts = ("First", *["Then"] * (len(steps) - 2), "Finally") if len(steps) > 1 else ("Here",)
    known = [s for s in sentences_of(problem) if numbers_in(s) and not s.endswith("?")]
    told = [f"{start} {_told(step)}" for start, step in zip(starts, steps, strict=False)]
    return " ".join([*(["This is what we know.", *known] if known else []),
                     f"We can write it as {equation}.", *told, f"The answer is {answer}."])


def _told(step: Step) -> str:
    left, right = spelled(step.left), spelled(step.right)
    verb = _VERBS[step.operator].format(left, right)
    return f"{verb}: {left} {step.operator} {right} = {spelled(step.value)}."


def _quoted(problem: str, answer: str) -> str:
    *body, question = problem.strip().split("\n")
    told = next((s for s in sentences_of(" ".join(body)) if answer.casefold() in s.casefold()), "")
    quote = [f"The text says: {told}"] if told else []
    return " ".join([f"The question is: {question}", *quote, f"The answer is {answer}."])
