"""Word problems made from templates, each with the same problem changed.

A problem is an opening, none to two changes and a closing question, each a sentence with numbers in
digits and an operation on the number of things so far. Things that are counted stay whole at every
step; amounts that are measured may have two decimals. What a pair says is drawn from (seed, place)
alone, and pairs are made in the order of their places, so that a larger number is a superset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from kvcore.data.context_pairs import templates
from kvcore.data.context_pairs.assignment import numbered, planned_type
from kvcore.data.context_pairs.draws import pick, shuffled
from kvcore.data.context_pairs.equations import apply, decimal_places, spelled
from kvcore.data.context_pairs.pair import Pair, WrittenProblem, inconsistency
from kvcore.data.context_pairs.templates import COUNTED, MEASURED, Sentence, TemplateSet
from kvcore.errors import KvError

MOST_STEPS = 3
DRAWS = 60  # of numbers for one change
ATTEMPTS = 500  # draws until a problem is new and whole: one or two are usual


@dataclass(frozen=True)
class ProblemDraft:
    """A word problem before it is written out."""

    templates: TemplateSet
    words: Mapping[str, str]  # whom and what it is about
    sentences: tuple[Sentence, ...]  # opening, changes and closing
    numbers: tuple[Fraction, ...] = ()  # those of the sentences, in order

    @property
    def signature(self) -> tuple[object, ...]:
        """The wording, whatever names and things it is about, and the numbers."""
        return (*self.sentences, *self.numbers)


# --- drawing -----------------------------------------------------------------------------------


def draw_words(*key: object) -> dict[str, str]:
    """Draw whom and what a problem is about; no two names or places in it are the same."""
    words = {}
    for name, second, options in (
        ("name", "other", templates.NAMES),
        ("place", "where", templates.PLACES),
        ("adjective", "adjective2", templates.ADJECTIVES),
        ("holder", "holder2", templates.HOLDERS),
    ):
        words[name], words[second] = shuffled(options, *key, f"{name}s")[:2]
    words["unit"], words["stuff"] = pick(templates.STUFFS, *key, "stuff")
    words["thing"] = pick(templates.THINGS, *key, "thing")
    words["group"] = pick(templates.GROUPS, *key, "group")
    words["place_first"] = words["place"][0].upper() + words["place"][1:]
    return words


def draw_sentences(among: TemplateSet, most: int, *key: object) -> tuple[Sentence, ...]:
    """Draw an opening, changes and a closing with one to so many operations in all."""
    steps = pick(range(1, most + 1), *key, "steps")
    opening = pick(among.openings, *key, "opening")
    steps -= bool(opening.operator)
    closing = pick([c for c in among.closings if not c.operator or steps], *key, "closing")
    steps -= bool(closing.operator)
    return (opening, *shuffled(among.changes, *key, "changes")[:steps], closing)


def allowed_numbers(
    among: TemplateSet, sentence: Sentence, slot: int, before: Fraction
) -> list[Fraction]:
    """Return the numbers that may stand in a slot of a sentence, by the number of things so far.

    `before`: what the sentence starts from; within an opening, its first number.
    """
    bounds = sentence.ranges[slot]
    grain = 1 if among.counted or bounds.whole else 4
    numbers = [Fraction(n, grain) for n in range(bounds.low * grain, bounds.high * grain + 1)]
    if slot < len(sentence.ranges) - 1:  # the first number of an opening
        return numbers
    if sentence.operator == "-":
        return [n for n in numbers if n <= before - 2]
    if sentence.operator == "/":
        return [n for n in numbers if fits(among, before / n)]
    return numbers


def fits(among: TemplateSet, value: Fraction) -> bool:
    """Tell whether a story may come to a number: two or more; whole, or with two decimals."""
    places = decimal_places(value)
    return value >= 2 and places is not None and places <= (0 if among.counted else 2)


def values(draft: ProblemDraft) -> Iterator[tuple[Sentence, int, Fraction, Fraction]]:
    """Yield each number's sentence and slot, the running number before it and the one after it."""
    numbers = iter(draft.numbers)
    before: Fraction | None = None
    for sentence in draft.sentences:
        for slot in range(len(sentence.ranges)):
            number = next(numbers)
            after = number if before is None else apply(sentence.operator, before, number)
            yield sentence, slot, before or Fraction(0), after
            before = after


def is_sound(draft: ProblemDraft) -> bool:
    """Tell whether every number is one that may stand there, and every result fits the story."""
    return all(
        fits(draft.templates, after)
        and number in allowed_numbers(draft.templates, sentence, slot, before)
        for (sentence, slot, before, after), number in zip(
            values(draft), draft.numbers, strict=True
        )
    )


def with_numbers(draft: ProblemDraft, *key: object) -> ProblemDraft | None:
    """Draw all of a problem's numbers, or None where one of them has no choice left."""
    so_far, numbers = Fraction(0), list[Fraction]()
    for sentence in draft.sentences:
        for slot in range(len(sentence.ranges)):
            allowed = allowed_numbers(draft.templates, sentence, slot, so_far)
            if not allowed:
                return None
            number = pick(allowed, *key, "number", len(numbers))
            so_far = apply(sentence.operator, so_far, number) if numbers else number
            numbers.append(number)
    complete = replace(draft, numbers=tuple(numbers))
    return complete if is_sound(complete) else None


# --- writing out -------------------------------------------------------------------------------


def text_of(draft: ProblemDraft) -> str:
    """Write a problem out, its numbers in digits."""
    numbers = map(spelled, draft.numbers)
    return " ".join(
        sentence.text.format(*(next(numbers) for _ in sentence.ranges), **draft.words)
        for sentence in draft.sentences
    )


def equation_of(draft: ProblemDraft) -> str:
    """Write a problem's equation: ``x = (12 + 5) * 3``."""
    first, *rest = draft.numbers
    equation = spelled(first)
    operators = [sentence.operator for sentence, *_ in values(draft)][1:]
    for operator, number in zip(operators, rest, strict=True):
        left = f"({equation})" if " " in equation else equation
        equation = f"{left} {operator} {spelled(number)}"
    return f"x = {equation}"


def answer_of(draft: ProblemDraft) -> str:
    """Return what a problem comes to, from its story rather than from its equation."""
    *_, (_, _, _, last) = values(draft)
    return spelled(last)


def written(draft: ProblemDraft) -> WrittenProblem:
    """Write a problem, its answer and its equation out."""
    return WrittenProblem(text_of(draft), answer_of(draft), equation_of(draft))


# --- changing ----------------------------------------------------------------------------------


def with_other_numbers(draft: ProblemDraft, count: int, *key: object) -> ProblemDraft | None:
    """Change exactly so many of a problem's numbers, or return None where no draw is sound."""
    changing = shuffled(range(len(draft.numbers)), *key, "slots")[:count]
    if len(changing) < count:
        return None
    places = list(values(draft))
    for attempt in range(DRAWS):
        numbers = list(draft.numbers)
        for i in changing:
            sentence, slot, before, _ = places[i]
            allowed = allowed_numbers(draft.templates, sentence, slot, before)
            numbers[i] = pick(allowed, *key, attempt, i)
        changed = replace(draft, numbers=tuple(numbers))
        if all(numbers[i] != draft.numbers[i] for i in changing) and is_sound(changed):
            return changed
    return None


def with_step(draft: ProblemDraft, *key: object) -> ProblemDraft | None:
    """Put one more sentence before the closing, or return None where no draw is sound."""
    *earlier, closing = draft.sentences
    at = len(draft.numbers) - len(closing.ranges)
    _, _, _, before = list(values(draft))[at - 1]
    unused = [s for s in draft.templates.changes if s not in draft.sentences]
    for sentence in shuffled(unused, *key):
        allowed = allowed_numbers(draft.templates, sentence, 0, before)
        for attempt in range(DRAWS if allowed else 0):
            number = pick(allowed, *key, sentence.text, attempt)
            numbers = (*draft.numbers[:at], number, *draft.numbers[at:])
            changed = replace(draft, sentences=(*earlier, sentence, closing), numbers=numbers)
            if is_sound(changed):
                return changed
    return None


def with_several_numbers(draft: ProblemDraft, *key: object) -> ProblemDraft | None:
    """Change two or three of a problem's numbers, or return None where no draw is sound."""
    count = pick((2, 3), *key, "count") if len(draft.numbers) > 2 else 2
    return with_other_numbers(draft, count, *key)


CHANGERS: Mapping[str, Callable[..., ProblemDraft | None]] = {
    "single_number": lambda draft, *key: with_other_numbers(draft, 1, *key),
    "multi_number": with_several_numbers,
    "added_step": with_step,
}


# --- pairs -------------------------------------------------------------------------------------


def draw_pair(change: str | None, *key: object) -> tuple[ProblemDraft, ProblemDraft] | None:
    """Draw a problem and the changed one, or None where the draw comes to nothing."""
    among = pick((COUNTED, COUNTED, MEASURED), *key, "kind")
    most = MOST_STEPS - (change == "added_step")
    draft = ProblemDraft(among, draw_words(*key), draw_sentences(among, most, *key))
    problem = with_numbers(draft, *key)
    if problem is None:
        return None
    if change is None:
        return problem, problem
    changed = CHANGERS[change](problem, *key, "change")
    if changed is None or answer_of(changed) == answer_of(problem):
        return None
    return problem, changed


def word_problems(n: int, seed: int) -> tuple[Pair, ...]:
    """Make pairs of word problems.

    No two pairs hold a problem of the same wording and numbers, names and things left aside.

    - `n`: how many, 1 or more. A larger number is a superset. Two in nine are controls (20 to 24 %
      from 32 pairs on), the others are of the three types in turn.
    - `seed`: another seed makes other pairs, with other ids.

    Raises KvError where n is below 1, or where so many new problems cannot be found.
    """
    if n < 1:
        raise KvError(f"word_problems: n must be 1 or more; got {n}.")
    known: set[tuple[object, ...]] = set()
    pairs = []
    for index in range(n):
        change = planned_type(index)
        drafts = _draw_new_pair(change, known, seed, index)
        known |= {draft.signature for draft in drafts}
        pairs.append(_written_pair(f"wp-{seed}-{index}", *drafts, change))
    return numbered(pairs)


def _draw_new_pair(
    change: str | None, known: set[tuple[object, ...]], seed: int, index: int
) -> tuple[ProblemDraft, ProblemDraft]:
    """Draw until both problems are new."""
    for attempt in range(ATTEMPTS):
        drafts = draw_pair(change, seed, index, attempt)
        if drafts and not {draft.signature for draft in drafts} & known:
            return drafts
    raise KvError(
        f"word_problems: no new problem in {ATTEMPTS} draws after {index} pairs; "
        f"pass n = {index} or fewer."
    )


def _written_pair(
    id: str, problem: ProblemDraft, changed: ProblemDraft, change: str | None
) -> Pair:
    pair = Pair.of(id, written(problem), written(changed), change)
    contradiction = inconsistency(pair)
    if contradiction:
        raise AssertionError(f"word_problems: pair {id} contradicts itself: {contradiction}")
    return pair
