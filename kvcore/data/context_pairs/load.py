"""Problem pairs by name or from a file: what a context is switched from, and to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kvcore.data.context_pairs.assignment import PairsAndCounts, numbered
from kvcore.data.context_pairs.fairytaleqa import (
    FAIRYTALEQA,
    fairytale_pairs,
    fairytale_pairs_of,
)
from kvcore.data.context_pairs.mawps import (
    MAWPS,
    mawps_pairs,
    mawps_pairs_of,
    with_placeholders,
)
from kvcore.data.context_pairs.pair import CHANGES, ENTITY, Pair, WrittenProblem, inconsistency
from kvcore.data.context_pairs.stories import stories
from kvcore.data.context_pairs.word_problems import word_problems
from kvcore.data.files import (
    ENDINGS,
    FileRow,
    column_sources,
    is_path,
    path_at,
    read_rows,
    repeated_id,
)
from kvcore.data.hub import HubDataset, local_files
from kvcore.errors import KvError, unknown
from kvcore.io import digest

DEFAULT_N = 500  # pairs of the generator, as many as in the published study
ORIGINAL = ("question", "answer", "equation")
CHANGED = ("alt_problem", "alt_answer", "alt_equation")
COLUMNS = (*ORIGINAL, *CHANGED, "variation_type")
NEVER_EMPTY = ("question", "answer", "alt_problem", "alt_answer")
MAWPS_COLUMNS = (*ORIGINAL, "numbers")  # of problems without changed ones; the last may be missing
GENERATORS: Mapping[str, Callable[[int, int], tuple[Pair, ...]]] = {
    "word_problems": word_problems,
    "stories": stories,
}
# What decides a generator's pairs; a change to any of these files makes another revision.
SOURCES: Mapping[str, tuple[Path, ...]] = {
    generator: tuple(Path(__file__).with_name(f"{name}.py") for name in names.split())
    for generator, names in (
        ("word_problems", "equations pair assignment draws templates word_problems"),
        ("stories", "pair assignment draws story_templates stories"),
    )
}

PUBLISHED: Mapping[str, tuple[HubDataset, Callable[[Sequence[Path], int], PairsAndCounts]]] = {
    "mawps": (MAWPS, mawps_pairs),
    "fairytaleqa": (FAIRYTALEQA, fairytale_pairs),
}
PAIRS: Mapping[str, str] = {
    "word_problems": "word problems from templates: no network needed (default)",
    "stories": "little stories from templates, one fact of each changed: no network needed",
    **{
        name: f"{data.note}; from the hub, {data.repository}"
        for name, (data, _) in PUBLISHED.items()
    },
}


@dataclass(frozen=True)
class PairCorpus:
    """Pairs, where they come from and what was left out; name, dropped, note as in `Corpus`."""

    name: str
    pairs: tuple[Pair, ...]  # never empty; ids are unique, and no two pairs share a problem
    dropped: Mapping[str, int]
    revision: str  # hash of the generator's code and the seed, hub revision, or SHA-256 of the file
    note: str


def load_pairs(
    name_or_path: str = "word_problems", n: int | None = None, seed: int = 0
) -> PairCorpus:
    """Load problem pairs by name, or from a file.

    Raises KvError, one line: an unknown name (with the nearest one), a number out of range, a bad
    file, or the bad row of a file with its number.
    Raises MissingResource where the data is not on this machine; names the command that fetches it.

    Parameters
    ----------
    name_or_path : str
        A key of ``PAIRS``, or a path to a JSON Lines, JSON, CSV or Parquet file. A file has the
        columns question, answer, equation, alt_problem, alt_answer, alt_equation and
        variation_type, and optionally id; equations may be empty where nothing is calculated.
        Or it has question, answer and equation alone, as MAWPS has them, with ``Numbers`` or
        without, or the columns of FairytaleQA: those are changed here as the hub's are.
        Columns may be spelled otherwise (`kvcore.data.files.ALIASES`).
    n : int, optional
        How many; by default 500 of the generator's and all of any other. All that there are
        where there are fewer; a larger number is a superset.
    seed : int
        Decides the generator's content, what MAWPS and FairytaleQA are changed to, and the order
        in which a dataset's or a file's pairs are taken.
    """
    if n is not None and n < 1:
        raise KvError(f"load_pairs: n must be 1 or more, or None for all pairs; got {n}.")
    if name_or_path in GENERATORS:
        pairs = GENERATORS[name_or_path](DEFAULT_N if n is None else n, seed)
        revision = digest(generator_hash(name_or_path), str(seed))
        return PairCorpus(name_or_path, pairs, {}, revision, PAIRS[name_or_path])
    if name_or_path in PUBLISHED:
        return _from_hub(name_or_path, n, seed)
    if is_path(name_or_path):
        return _from_file(path_at(name_or_path), n, seed)
    raise unknown("pairs", name_or_path, (*PAIRS, f"a path to a {ENDINGS} file"))


@cache
def generator_hash(name: str) -> str:
    """Return the hash of the code that makes a generator's pairs."""
    return digest(*(source.read_text(encoding="utf-8") for source in SOURCES[name]))


def _from_hub(name: str, n: int | None, seed: int) -> PairCorpus:
    data, pairs_from = PUBLISHED[name]
    pairs, dropped = pairs_from(local_files(data), seed)
    if not pairs:
        raise KvError(f"{name}: no row makes a pair; dropped: {dropped}.")
    return PairCorpus(name, pairs[:n], dropped, data.revision, PAIRS[name])


def _from_file(path: Path, n: int | None, seed: int) -> PairCorpus:
    every_row, revision = read_rows(path)
    rows = list(every_row)
    pairs, dropped = _pairs_of_rows(rows, seed)
    if not pairs:
        raise KvError(f"{path}: no pair left; dropped: {dropped or 'nothing, the file is empty'}.")
    return PairCorpus(path.stem, pairs[:n], dropped, revision, f"pairs of {path.name}")


def _pairs_of_rows(rows: Sequence[FileRow], seed: int) -> PairsAndCounts:
    """Make pairs of a file's rows, which are pairs or what the hub's datasets are."""
    if rows and _has(rows[0], tuple(FAIRYTALEQA.columns)):
        return fairytale_pairs_of(_fairytale_rows(rows), seed)
    if rows and _has(rows[0], ORIGINAL) and not _has(rows[0], CHANGED[:1]):
        return mawps_pairs_of(map(_mawps_row, rows), seed)
    pairs, dropped = unique_pairs(row.renamed((*COLUMNS, "id")) for row in rows)
    return numbered(in_order(pairs, seed)), dropped


def _has(row: FileRow, columns: Sequence[str]) -> bool:
    return len(column_sources(row.path, list(row.columns), columns)) == len(columns)


def _fairytale_rows(rows: Iterable[FileRow]) -> Iterator[Mapping[str, str]]:
    columns = tuple(FAIRYTALEQA.columns)
    for row in rows:
        named = row.renamed(columns)
        named.require(columns, ())
        yield {column: named.text(column) for column in columns}


def _mawps_row(row: FileRow) -> Mapping[str, str] | str:
    named = row.renamed(MAWPS_COLUMNS)
    named.require(ORIGINAL, MAWPS_COLUMNS[-1:])
    question, answer, equation = texts = [_text(named, column) for column in ORIGINAL]
    if "" in texts:
        return f"empty {ORIGINAL[texts.index('')]}"
    numbers = named.text("numbers").strip()
    if not numbers:
        return with_placeholders(question, answer, equation)
    return {"Question": question, "Answer": answer, "Equation": equation, "Numbers": numbers}


def in_order(pairs: Iterable[Pair], seed: int) -> list[Pair]:
    """Put pairs in the order of the hash of (seed, id)."""
    return sorted(pairs, key=lambda pair: (digest(str(seed), pair.id), pair.id))


def unique_pairs(rows: Iterable[FileRow]) -> tuple[list[Pair], dict[str, int]]:
    """Turn rows into pairs that share no problem, and counts of what was dropped.

    Raises KvError as `pair_of`; also where two pairs have one id.
    """
    lines: dict[str, int] = {}
    problems: set[str] = set()
    dropped: Counter[str] = Counter()
    pairs = []
    for row in rows:
        pair = pair_of(row)
        if isinstance(pair, str):
            dropped[pair] += 1
        elif {pair.question, pair.alt_problem} & problems:
            dropped["repeated problem"] += 1
        elif pair.id in lines:
            raise repeated_id(row, pair.id, lines[pair.id])
        else:
            lines[pair.id] = row.number
            problems |= {pair.question, pair.alt_problem}
            pairs.append(pair)
    return pairs, dict(sorted(dropped.items()))


def pair_of(row: FileRow) -> Pair | str:
    """Turn a row into a pair, or into the reason why it is dropped.

    Raises KvError where a column is missing or holds something else than text, the type is unknown,
    or the pair contradicts itself; the line is named.
    """
    row.require(COLUMNS, ("id",))
    texts = {column: _text(row, column) for column in COLUMNS}
    for column in NEVER_EMPTY:
        if not texts[column]:
            return f"empty {column}"
    change = None if row.columns["variation_type"] is None else texts["variation_type"]
    if change not in (*CHANGES, ENTITY, None):
        raise KvError(
            f"{row.path}: variation_type {change!r} on line {row.number} is unknown; use "
            f"{', '.join((*CHANGES, ENTITY))}, or null for an identical control."
        )
    id = row.name("id")
    id = f"p-{digest(*texts.values())[:16]}" if id is None else id
    original, changed = (WrittenProblem(*(texts[c] for c in side)) for side in (ORIGINAL, CHANGED))
    pair = Pair.of(id, original, changed, change)
    contradiction = inconsistency(pair)
    if contradiction:
        raise KvError(f"{row.path}: line {row.number} contradicts itself: {contradiction}.")
    return pair


def _text(row: FileRow, column: str) -> str:
    """Return a column as stripped text; null counts as empty, and an answer may be a number."""
    value = row.columns[column]
    if column in ("answer", "alt_answer") and type(value) in (int, float):
        return str(value)
    return row.text(column).strip()
