"""Pairs from the hub: MAWPS with its numbers changed, FairytaleQA with its answer changed.

Neither dataset has a changed problem of its own. Each is made here under rules that can be checked
from the text, and a row to which they do not apply is dropped and counted. Rows are taken in the
order of the hash of (seed, id), and each takes the next type that is due: two controls in nine, the
other types in turn. A control could have been changed as well. A larger number of pairs is a
superset.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from kvcore.corpora.equations import decimals, numbers_of, spelled, steps_of, value_of
from kvcore.corpora.hub import HubDataset, Row, corpus_from, local_files
from kvcore.corpora.pair import ENTITY, Pair, flaw, planned
from kvcore.corpora.published import checked
from kvcore.corpora.sample import Sample
from kvcore.corpora.word_problems import pick, shuffled
from kvcore.errors import KvError
from kvcore.io import digest

DRAWS = 60  # of numbers for one change, before the row is given up
ROUNDED = Fraction(1, 10**9)  # a stated answer is a float in decimals, such as 28.299999999999997
ANSWER_WORDS = 4  # of a name or a place; longer answers are clauses that fit one sentence only
NAMED = ("character", "setting")  # kinds of FairytaleQA answers that are whom or where

_PLACEHOLDER = re.compile(r"\bN_([0-9]+)\b")
_ARTICLES = frozenset("a an the his her their its my our your".split())
_LITTLE = _ARTICLES | frozenset("and at by from in of on to with".split())  # name nothing
Made = tuple[tuple[Pair, ...], dict[str, int]]


def in_turn(rows: Iterable[tuple[str, Callable[[str | None], Pair | str]]], seed: int) -> Made:
    """Give each row the type that is due, or drop it where it cannot take that type.

    Parameters
    ----------
    rows : iterable of (str, callable)
        An identity, and what makes the pair of a type or says why it cannot.
    seed : int
        Decides the order of the rows.

    Returns
    -------
    tuple of (tuple of Pair, dict)
        The pairs in their order, numbered within their types, and counts of what was dropped.
    """
    pairs: list[Pair] = []
    dropped: Counter[str] = Counter()
    numbers: Counter[str | None] = Counter()
    asked: set[str] = set()
    for _, make in sorted(rows, key=lambda row: (digest(str(seed), row[0]), row[0])):
        made = make(planned(len(pairs)))
        if isinstance(made, str):
            dropped[made] += 1
        elif {made.question, made.alt_problem} & asked:
            dropped["repeated problem"] += 1
        else:
            asked |= {made.question, made.alt_problem}
            pairs.append(replace(made, number=numbers[made.variation_type]))
            numbers[made.variation_type] += 1
    return tuple(pairs), dict(sorted(dropped.items()))


# --- MAWPS -------------------------------------------------------------------------------------


def mawps_sample(row: Row) -> Sample | str:
    """Return a MAWPS row as a sample without a passage, placeholders still in its query.

    Rows have no identity: it is made of their question and numbers. Card: mwpt5/MAWPS.
    """
    question, numbers, equation, answer = (
        (row[column] or "").strip() for column in ("Question", "Numbers", "Equation", "Answer"))
    for name, text in (("question", question), ("equation", equation), ("answer", answer)):
        if not text:
            return f"empty {name}"
    return Sample(question, "", answer, f"mawps-{digest(question, numbers)[:16]}",
                  texts=(("numbers", numbers), ("equation", equation)))


MAWPS = HubDataset(
    "mawps", "mwpt5/MAWPS", "5769dc9a31ea36eaeaab1f1e0aa1a54b6c08d804", ("MAWPS.csv",),
    {"Question": "text", "Numbers": "text", "Equation": "text", "Answer": "text"},
    mawps_sample, "problem", "MAWPS, arithmetic word problems with their numbers changed")


def csv_rows(data: HubDataset, path: Path) -> list[Row]:
    """Return the rows of a CSV file as text: decimals are not rounded to floats on the way.

    Raises
    ------
    KvError
        Where the file is not readable CSV, or a column lacks.
    """
    try:
        table = csv.read_csv(
            path, parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                column_types={name: pa.string() for name in data.columns}))
    except (pa.ArrowException, OSError) as error:
        first = (str(error).splitlines() or ["no message"])[0]
        raise KvError(f"{data.name}: {path.name} is not readable CSV ({first}); delete it and "
                      f"run: {data.command}") from None
    lacking = [name for name in data.columns if name not in table.column_names]
    if lacking:
        raise KvError(f"{data.name}: column {lacking[0]!r} lacks; needed are "
                      f"{', '.join(data.columns)}, given are {', '.join(table.column_names)}.")
    return list(table.select(list(data.columns)).to_pylist())


def mawps_pairs(paths: Sequence[Path], seed: int) -> Made:
    """Make pairs of MAWPS rows by changing their numbers, or by asking for one step more.

    Numbers of the equation are changed where they stand in the question and in the equation. A
    number up to 1 stays ("1 apple"), and nothing becomes one. A changed problem keeps to what the
    first one is: results, those on the way too, are not below zero, have no more decimals than the
    first one's and are whole where those are. The step that is added is a sentence after the
    question.

    Raises
    ------
    KvError
        As `csv_rows`.
    """
    dropped: Counter[str] = Counter()
    rows = []
    for row in (row for path in paths for row in csv_rows(MAWPS, path)):
        sample = mawps_sample(row)
        filled = sample if isinstance(sample, str) else filled_in(sample)
        if isinstance(filled, str):
            dropped[filled] += 1
        else:
            rows.append((filled.sample.id, filled.pair_of(seed)))
    pairs, further = in_turn(rows, seed)
    return pairs, dict(sorted((dropped + Counter(further)).items()))


@dataclass(frozen=True)
class Filled:
    """A MAWPS problem whose placeholders can be filled with any numbers.

    Parameters
    ----------
    sample : Sample
        As `mawps_sample` makes it.
    equation : str
        With placeholders.
    numbers : tuple of Fraction
        Those of the problem as it was published.
    """

    sample: Sample
    equation: str
    numbers: tuple[Fraction, ...]

    def written(self, numbers: Sequence[Fraction]) -> tuple[str, str]:
        """Return the question and the equation with these numbers."""
        equation = self.equation.replace("( ", "(").replace(" )", ")")
        return substituted(self.sample.query, numbers), f"x = {substituted(equation, numbers)}"

    def pair_of(self, seed: int) -> Callable[[str | None], Pair | str]:
        """Return what makes the pair of a type."""
        return lambda change: mawps_pair(self, change, seed)


def substituted(text: str, numbers: Sequence[Fraction]) -> str:
    """Replace each placeholder ``N_00``, ``N_01`` … by its number."""
    return _PLACEHOLDER.sub(lambda found: spelled(numbers[int(found[1])]), text)


def filled_in(sample: Sample) -> Filled | str:
    """Return a row's problem, or why it cannot be used."""
    texts = dict(sample.texts)
    try:
        numbers = tuple(Fraction(word) for word in texts["numbers"].split())
    except (ValueError, ZeroDivisionError):
        return "numbers are not numbers"
    used = {int(i) for i in _PLACEHOLDER.findall(f"{sample.query} {texts['equation']}")}
    if not used or max(used) >= len(numbers) or any(decimals(n) is None for n in numbers):
        return "placeholders and numbers do not agree"
    problem = Filled(sample, texts["equation"], numbers)
    question, equation = problem.written(numbers)
    try:
        value, stated = value_of(equation), Fraction(sample.answer)
    except (KvError, ValueError, ZeroDivisionError):
        return "equation or answer is not arithmetic"
    if decimals(value) is None:
        return "answer has no end of decimals"
    if abs(value - stated) > ROUNDED * max(Fraction(1), abs(value)):
        return "equation and answer disagree"
    wrong = flaw(Pair("", question, spelled(value), equation, question, spelled(value), equation,
                      None))
    if wrong:
        return "equation falls below zero" if "below zero" in wrong else (
            "equation has a number that the question lacks")
    return problem


def mawps_pair(problem: Filled, change: str | None, seed: int) -> Pair | str:
    """Make the pair of one type, or say that no change of that type was found."""
    question, equation = problem.written(problem.numbers)
    answer = spelled(value_of(equation))
    base = Pair(problem.sample.id, question, answer, equation, question, answer, equation, None)
    if change is None:  # a control is a row that could have been changed
        possible = mawps_pair(problem, "single_number", seed)
        return possible if isinstance(possible, str) else base
    for attempt in range(DRAWS):
        changed = _changed(problem, change, seed, attempt)
        if changed is None:
            break
        text, formula = changed
        if not _keeps_to(equation, formula):
            continue
        made = replace(base, alt_problem=text, alt_equation=formula, variation_type=change,
                       alt_answer=spelled(value_of(formula)))
        if flaw(made) is None:
            return made
    return f"no {change} change found"


def _changed(problem: Filled, change: str, seed: int, attempt: int) -> tuple[str, str] | None:
    """Draw a changed question and equation, or None where there is nothing to change."""
    key = (seed, problem.sample.id, change, attempt)
    if change == "added_step":
        return _with_step(*problem.written(problem.numbers), *key)
    used = {int(i) for i in _PLACEHOLDER.findall(problem.equation)}
    shown = {int(i) for i in _PLACEHOLDER.findall(problem.sample.query)}
    slots = [i for i in sorted(used & shown) if problem.numbers[i] > 1]
    count = 1 if change == "single_number" else 2
    if len(slots) < count:
        return None
    numbers = list(problem.numbers)
    for slot in shuffled(slots, *key)[:count]:
        numbers[slot] = _another(numbers[slot], *key, slot)
    return problem.written(numbers)


def _another(number: Fraction, *key: object) -> Fraction:
    """Draw a number of the same size and as many decimals, never 1 or less."""
    grain = 10 ** (decimals(number) or 0)
    return Fraction(pick(range(2 * grain, max(10 * grain, int(2 * number * grain)) + 1), *key),
                    grain)


def _with_step(question: str, equation: str, *key: object) -> tuple[str, str]:
    sentence, operator = pick((
        ("Then add {0} to this. What number is that?", "+"),
        ("Then take {0} away from this. What number is that?", "-"),
        ("Then multiply this by {0}. What number is that?", "*")), *key, "operator")
    number = pick(range(2, 6 if operator == "*" else 21), *key, "number")
    right = equation.removeprefix("x = ")
    return f"{question} {sentence.format(number)}", f"x = ({right}) {operator} {number}"


def _keeps_to(equation: str, changed: str) -> bool:
    """Tell whether a changed equation's results are of the kind of the first one's."""
    before, after = ([*(step.value for step in steps_of(e)), *numbers_of(e)]
                     for e in (equation, changed))
    most = max(decimals(value) or 0 for value in before)
    value = value_of(changed)
    if value <= 0 or (decimals(value) or 0) > (decimals(value_of(equation)) or 0):
        return False
    # A third of something on the way is as it is in the first problem, or it does not come up.
    return all(decimals(value) is not None and (decimals(value) or 0) <= most for value in after)


# --- FairytaleQA -------------------------------------------------------------------------------


def fairytale_sample(row: Row) -> Sample | str:
    """Ask a section of a story a question about whom or where; its first answer.

    Card: WorkInTheDark/FairytaleQA (converted to Parquet by the hub).
    """
    if row["attribute"].strip() not in NAMED:
        return "asks neither whom nor where"
    if row["ex-or-im"].strip() != "explicit":
        return "answer is not in the text"
    answer = row["answer1"].strip().rstrip(".").strip()
    name = f"fairytale-{digest(row['story_name'], row['story_section'], row['question'])[:16]}"
    made = checked(" ".join(row["question"].split()), " ".join(row["story_section"].split()),
                   answer, name, row["story_name"].strip() or name)
    return made if isinstance(made, str) else replace(
        made, texts=(("attribute", row["attribute"].strip()),))


FAIRYTALEQA = HubDataset(
    "fairytaleqa", "WorkInTheDark/FairytaleQA", "fad16faf261459cc55d6d516b6fb3e68c0ddd5a6",
    tuple(f"plain_text/{split}/0000.parquet" for split in ("train", "validation", "test")),
    {"story_name": "text", "story_section": "text", "question": "text", "answer1": "text",
     "attribute": "text", "ex-or-im": "text"},
    fairytale_sample, "story", "FairytaleQA, sections of stories that name another answer")


def words_in(text: str) -> list[str]:
    """Return a text's words in lower case, apostrophes inside them kept."""
    return re.findall(r"\w+(?:['\u2019]\w+)*", text.casefold())


def bare_name(answer: str) -> tuple[str, ...]:
    """Return an answer's words without a leading article or possessive."""
    words = words_in(answer)
    return tuple(words[1:] if words[:1] and words[0] in _ARTICLES else words)


def occurrences(name: Sequence[str]) -> re.Pattern[str]:
    """Return what finds a name as whole words, whatever its case and the blanks in it."""
    spaced = r"\s+".join(map(re.escape, name))
    return re.compile(rf"(?<!\w){spaced}(?!\w)", re.IGNORECASE)


def fairytale_pairs(paths: Sequence[Path], seed: int) -> Made:
    """Make pairs of FairytaleQA rows: the section names someone or some place else everywhere.

    The answer is a character or a place of at most four words that stands in the section; the
    other one is such an answer, of the same kind, to another question on the same story. Neither
    is in the question, no word of the other one is in the section, and no word of the answer
    stands in the section outside it. Both problems are the section, a line break and the question;
    there are no equations, and pronouns and grammar are left as they are.

    Raises
    ------
    KvError
        As `corpus_from`.
    """
    corpus = corpus_from(FAIRYTALEQA, paths)
    others: dict[tuple[str, str], set[str]] = defaultdict(set)
    for sample in corpus.samples:
        others[_kind(sample)] |= named_in(sample)
    pairs, dropped = in_turn(
        [(sample.id, _maker(sample, sorted(others[_kind(sample)]), seed))
         for sample in corpus.samples], seed)
    return pairs, dict(sorted((Counter(corpus.dropped) + Counter(dropped)).items()))


def named_in(sample: Sample) -> set[str]:
    """Return the sample's answer as its section spells it last, or nothing where it does not.

    The last time rather than the first: that is less often the start of the story.
    """
    name = bare_name(sample.answer)
    if not {*name} - _LITTLE or len(name) > ANSWER_WORDS:
        return set()
    return {found[0] for found in [*occurrences(name).finditer(sample.passage)][-1:]}


def _kind(sample: Sample) -> tuple[str, str]:
    return sample.cluster, dict(sample.texts)["attribute"]


def _maker(sample: Sample, others: Sequence[str], seed: int
           ) -> Callable[[str | None], Pair | str]:
    return lambda change: fairytale_pair(sample, others, change, seed)


def fairytale_pair(sample: Sample, others: Sequence[str], change: str | None, seed: int
                   ) -> Pair | str:
    """Make one pair, a control where no change is due, or say why there is none."""
    name = bare_name(sample.answer)
    telling, here = {*name} - _LITTLE, occurrences(name)
    if not telling or len(name) > ANSWER_WORDS:
        return f"answer not 1 to {ANSWER_WORDS} words"
    first = here.search(sample.passage)
    if not first:
        return "answer is not in the section"
    if telling & {*words_in(sample.query)}:
        return "question names the answer"
    if telling & {*words_in(here.sub(" ", sample.passage))}:
        return "part of the answer stands in the section elsewhere"
    question = f"{sample.passage}\n{sample.query}"
    base = Pair(sample.id, question, first[0], "", question, first[0], "", None)
    fitting = [o for o in others if not ({*words_in(o)} - _LITTLE) & {*words_in(question)}]
    if not fitting:
        return "no other answer of its kind in the story"
    if change is None:
        return base
    other = pick(fitting, seed, sample.id)
    passage = here.sub(lambda found: _as(found, other), sample.passage)
    made = replace(base, alt_problem=f"{passage}\n{sample.query}", variation_type=ENTITY,
                   alt_answer=_as(first, other))
    return flaw(made) or made


def _as(found: re.Match[str], other: str) -> str:
    """Spell the other name with a capital where it comes to stand at the start of a sentence."""
    before = found.string[:found.start()].rstrip(" \"'\u201c\u2018")
    starts = found[0][0].isupper() and (not before or before[-1] in ".?!")
    return other[0].upper() + other[1:] if starts else other


# --- by name -----------------------------------------------------------------------------------

MAKERS: Mapping[str, tuple[HubDataset, Callable[[Sequence[Path], int], Made]]] = {
    "mawps": (MAWPS, mawps_pairs), "fairytaleqa": (FAIRYTALEQA, fairytale_pairs)}


def load_published(name: str, seed: int) -> Made:
    """Load a dataset of the hub at its pinned revision and make its pairs.

    Raises
    ------
    KvError
        Where its files are not what its card says, or no row makes a pair.
    MissingResource
        Where they are neither in the hub's cache nor reachable; says the command that fetches them.
    """
    data, pairs_of = MAKERS[name]
    pairs, dropped = pairs_of(local_files(data), seed)
    if not pairs:
        raise KvError(f"{name}: no row makes a pair; dropped: {dropped}.")
    return pairs, dropped
