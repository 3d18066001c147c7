"""Pairs from the hub's MAWPS: arithmetic word problems with their numbers changed.

The dataset has no changed problems of its own. They are made here under rules that can be checked
from the text, and a row to which the rules do not apply is dropped and counted. Which type a row
gets is decided by `assign_types`; a control could have been changed as well.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

from kvcore.data.context_pairs.assignment import PairsAndCounts, assign_types
from kvcore.data.context_pairs.draws import pick, shuffled
from kvcore.data.context_pairs.equations import decimal_places, evaluate, spelled
from kvcore.data.context_pairs.pair import NUMBER, Pair, WrittenProblem, inconsistency, numbers_in
from kvcore.data.hub import HubDataset, HubRow, missing_column
from kvcore.data.sample import Sample
from kvcore.errors import KvError
from kvcore.io import digest

DRAWS = 60  # of numbers for one change, before the row is given up
ROUNDED = Fraction(1, 10**9)  # a stated answer is a float in decimals, such as 28.299999999999997
STEPS = (
    ("Then add {0} to this. What number is that?", "+"),
    ("Then take {0} away from this. What number is that?", "-"),
    ("Then multiply this by {0}. What number is that?", "*"),
)
_LEFT_SIDE = re.compile(r"^\s*[A-Za-z]\s*=\s*")
_PLACEHOLDER = re.compile(r"\bN_([0-9]+)\b")


def mawps_sample(row: HubRow) -> Sample | str:
    """Return a MAWPS row as a sample without a passage, placeholders still in its query.

    Rows have no id: it is made of their question and numbers. Card: mwpt5/MAWPS.
    """
    columns = ("Question", "Equation", "Answer", "Numbers")
    texts = {column: (row[column] or "").strip() for column in columns}
    for column in columns[:3]:
        if not texts[column]:
            return f"empty {column.lower()}"
    question, equation, answer, numbers = texts.values()
    further = (("numbers", numbers), ("equation", equation))
    return Sample(question, "", answer, f"mawps-{digest(question, numbers)[:16]}", texts=further)


MAWPS = HubDataset(
    "mawps",
    "mwpt5/MAWPS",
    "5769dc9a31ea36eaeaab1f1e0aa1a54b6c08d804",
    ("MAWPS.csv",),
    {"Question": "text", "Numbers": "text", "Equation": "text", "Answer": "text"},
    mawps_sample,
    "problem",
    "MAWPS, arithmetic word problems with their numbers changed",
)


def with_placeholders(question: str, answer: str, equation: str) -> HubRow | str:
    """Return a problem with its numbers written out as a row of MAWPS, or why it is none.

    Numbers of the equation that the question has once get its placeholder; others stay. Numbers
    are spelled anew: "1,200" and "5.50" become 1200 and 5.5.

    Examples
    --------
    >>> with_placeholders("Ann has 12 pins and finds 5 more.", "17", "x = 12 + 5")["Equation"]
    'N_00 + N_01'
    """
    numbers = numbers_in(question)
    right = _LEFT_SIDE.sub("", equation)
    if any(numbers.count(number) > 1 for number in numbers_in(right)):
        return "equation has a number that the question has twice"
    places = iter(range(len(numbers)))
    row = {
        "Question": NUMBER.sub(lambda _: f"N_{next(places):02}", question),
        "Answer": answer,
        "Equation": NUMBER.sub(lambda match: _placeholder_of(match[0], numbers), right),
        "Numbers": " ".join(map(str, numbers)),
    }
    return row


def _placeholder_of(spelling: str, numbers: Sequence[Fraction]) -> str:
    (number,) = numbers_in(spelling)
    return f"N_{numbers.index(number):02}" if number in numbers else spelling


def csv_rows(data: HubDataset, path: Path) -> list[HubRow]:
    """Return the rows of a CSV file as text: decimals are not rounded to floats on the way.

    Raises KvError where the file is not readable CSV, or a column is missing.
    """
    import pyarrow as pa
    from pyarrow import csv

    as_text = csv.ConvertOptions(column_types=dict.fromkeys(data.columns, pa.string()))
    parsing = csv.ParseOptions(newlines_in_values=True)
    try:
        table = csv.read_csv(path, parse_options=parsing, convert_options=as_text)
    except (pa.ArrowException, OSError) as error:
        raise data.unreadable(path, "CSV", error) from None
    for name in data.columns:
        if name not in table.column_names:
            message = missing_column(name, data.columns, table.column_names)
            raise KvError(f"{data.name}: {message}.")
    return list(table.select(list(data.columns)).to_pylist())


@dataclass(frozen=True)
class MawpsProblem:
    """A MAWPS problem whose placeholders can be filled with any numbers."""

    sample: Sample  # as `mawps_sample` makes it
    equation: str  # with placeholders
    numbers: tuple[Fraction, ...]  # those of the problem as it was published

    def written_with(self, numbers: Sequence[Fraction]) -> WrittenProblem:
        """Write the problem with these numbers; KvError where its equation is not arithmetic."""
        equation = self.equation.replace("( ", "(").replace(" )", ")")
        question = substituted(self.sample.query, numbers)
        return with_answer(question, f"x = {substituted(equation, numbers)}")


def with_answer(question: str, equation: str) -> WrittenProblem:
    """Work a problem's answer out."""
    return WrittenProblem(question, spelled(evaluate(equation).value), equation)


def substituted(text: str, numbers: Sequence[Fraction]) -> str:
    """Replace each placeholder ``N_00``, ``N_01`` … by its number."""
    return _PLACEHOLDER.sub(lambda match: spelled(numbers[int(match[1])]), text)


def _placeholders_in(text: str) -> set[int]:
    return {int(i) for i in _PLACEHOLDER.findall(text)}


def problem_of(sample: Sample) -> MawpsProblem | str:
    """Return a row's problem, or why it cannot be used."""
    texts = dict(sample.texts)
    try:
        numbers = tuple(Fraction(word) for word in texts["numbers"].split())
    except (ValueError, ZeroDivisionError):
        return "numbers are not numbers"
    used = _placeholders_in(f"{sample.query} {texts['equation']}")
    endless = any(decimal_places(n) is None for n in numbers)
    if not used or max(used) >= len(numbers) or endless:
        return "placeholders and numbers do not agree"
    problem = MawpsProblem(sample, texts["equation"], numbers)
    try:
        original = problem.written_with(numbers)
        value, stated = Fraction(original.answer), Fraction(sample.answer)
    except (KvError, ValueError, ZeroDivisionError):
        return "equation or answer is not arithmetic"
    if decimal_places(value) is None:
        return "answer has no end of decimals"
    if abs(value - stated) > ROUNDED * max(Fraction(1), abs(value)):
        return "equation and answer disagree"
    contradiction = inconsistency(Pair.of("", original, original, None))
    if not contradiction:
        return problem
    if "below zero" in contradiction:
        return "equation falls below zero"
    return "equation has a number that the question lacks"


def mawps_pairs(paths: Sequence[Path], seed: int) -> PairsAndCounts:
    """Make pairs of the files of MAWPS; see `mawps_pairs_of`, KvError as `csv_rows`."""
    return mawps_pairs_of((row for path in paths for row in csv_rows(MAWPS, path)), seed)


def mawps_pairs_of(hub_rows: Iterable[HubRow | str], seed: int) -> PairsAndCounts:
    """Make pairs of MAWPS rows by changing their numbers, or by asking for one step more.

    Numbers of the equation are changed where they stand in the question and in the equation. A
    number up to 1 stays ("1 apple"), and nothing becomes one. A changed problem keeps to what the
    first one is: results, those on the way too, are not below zero, have no more decimals than the
    first one's and are whole where those are. The step that is added is a sentence after the
    question. A row may be the reason why there is none.
    """
    dropped: Counter[str] = Counter()
    rows = []
    for row in hub_rows:
        sample = row if isinstance(row, str) else mawps_sample(row)
        problem = sample if isinstance(sample, str) else problem_of(sample)
        if isinstance(problem, str):
            dropped[problem] += 1
        else:
            rows.append((problem.sample.id, partial(mawps_pair, problem, seed)))
    pairs, without_type = assign_types(rows, seed)
    return pairs, dict(sorted((dropped + Counter(without_type)).items()))


def mawps_pair(problem: MawpsProblem, seed: int, change: str | None) -> Pair | str:
    """Make the pair of one type, or say that no change of that type was found."""
    original = problem.written_with(problem.numbers)
    if change is None:  # a control is a row that could have been changed
        possible = mawps_pair(problem, seed, "single_number")
        unchanged = Pair.of(problem.sample.id, original, original, None)
        return possible if isinstance(possible, str) else unchanged
    for attempt in range(DRAWS):
        try:
            changed = _draw_change(problem, change, seed, attempt)
        except KvError:  # it divides by zero
            continue
        if changed is None:
            break
        if not results_fit(original.equation, changed.equation):
            continue
        pair = Pair.of(problem.sample.id, original, changed, change)
        if inconsistency(pair) is None:
            return pair
    return f"no {change} change found"


def _draw_change(
    problem: MawpsProblem, change: str, seed: int, attempt: int
) -> WrittenProblem | None:
    """Draw a changed problem, or None where there is nothing to change."""
    key = (seed, problem.sample.id, change, attempt)
    if change == "added_step":
        return _with_step(problem.written_with(problem.numbers), *key)
    in_both = _placeholders_in(problem.equation) & _placeholders_in(problem.sample.query)
    changeable = [i for i in sorted(in_both) if problem.numbers[i] > 1]
    count = 1 if change == "single_number" else 2
    if len(changeable) < count:
        return None
    numbers = list(problem.numbers)
    for i in shuffled(changeable, *key)[:count]:
        numbers[i] = draw_number(numbers[i], *key, i)
    return problem.written_with(numbers)


def draw_number(number: Fraction, *key: object) -> Fraction:
    """Draw a number of the same size and as many decimals, never 1 or less."""
    grain = 10 ** (decimal_places(number) or 0)
    options = range(2 * grain, max(10 * grain, int(2 * number * grain)) + 1)
    return Fraction(pick(options, *key), grain)


def _with_step(problem: WrittenProblem, *key: object) -> WrittenProblem:
    sentence, operator = pick(STEPS, *key, "operator")
    number = pick(range(2, 6 if operator == "*" else 21), *key, "number")
    equation = f"x = ({problem.equation.removeprefix('x = ')}) {operator} {number}"
    return with_answer(f"{problem.text} {sentence.format(number)}", equation)


def results_fit(equation: str, changed: str) -> bool:
    """Tell whether a changed equation's results are of the kind of the first one's."""
    before, after = evaluate(equation), evaluate(changed)
    if after.value <= 0 or (decimal_places(after.value) or 0) > (decimal_places(before.value) or 0):
        return False
    most = max(decimal_places(number) or 0 for number in before.all_numbers)
    # A third of something on the way is as it is in the first problem, or it does not come up.
    places = map(decimal_places, after.all_numbers)
    return all(n is not None and n <= most for n in places)
