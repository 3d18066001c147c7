"""Problem pairs by name or from a file: what a context is switched from, and to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from kvcore.corpora.files import READERS, Row, rows_of_file
from kvcore.corpora.pair import (
    CHANGES,
    ENTITY,
    FRACTIONS,
    Pair,
    flaw,
    injection_fraction,
)
from kvcore.corpora.published_pairs import MAKERS, load_published
from kvcore.corpora.sample import digest
from kvcore.corpora.word_problems import word_problems, worked
from kvcore.errors import KvError, unknown

__all__ = ["CHANGES", "ENTITY", "FRACTIONS", "PAIRS", "Pair", "PairCorpus", "flaw",
           "injection_fraction", "load_pairs", "worked"]

DEFAULT_N = 500  # pairs of the generator, as many as in the published study
COLUMNS = ("question", "answer", "equation", "alt_problem", "alt_answer", "alt_equation",
           "variation_type")
NEEDED = ("question", "answer", "alt_problem", "alt_answer")  # never empty
SOURCES = ("equations.py", "pair.py", "word_problems.py")  # what decides the generator's pairs

PAIRS: Mapping[str, str] = {
    "word_problems": "word problems from templates: no network needed (default)",
    **{name: f"{data.note}; from the hub, {data.repository}" for name, (data, _) in MAKERS.items()},
}


@dataclass(frozen=True)
class PairCorpus:
    """Pairs, where they come from and what was left out.

    Parameters
    ----------
    name : str
        A key of ``PAIRS`` or the stem of a file.
    pairs : tuple of Pair
        Never empty; identities are unique, and no two pairs share a problem.
    dropped : mapping of str to int
        How many candidates were left out, by reason.
    revision : str
        Hash of the generator's code and the seed, hub revision, or SHA-256 of the file.
    note : str
        One line on what it is.
    """

    name: str
    pairs: tuple[Pair, ...]
    dropped: Mapping[str, int]
    revision: str
    note: str


def load_pairs(name_or_path: str = "word_problems", n: int | None = None, seed: int = 0
               ) -> PairCorpus:
    """Load problem pairs by name, or from a JSON Lines or Parquet file.

    Parameters
    ----------
    name_or_path : str
        A key of ``PAIRS``, or a path that ends in ``.jsonl`` or ``.parquet``. A file has the
        columns question, answer, equation, alt_problem, alt_answer, alt_equation and
        variation_type, and optionally id; equations may be empty where nothing is calculated.
    n : int, optional
        How many; by default 500 of the generator's and all of any other. All that there are
        where there are fewer; a larger number is a superset.
    seed : int
        Decides the generator's content, what MAWPS and FairytaleQA are changed to, and the order
        in which a dataset's or a file's pairs are taken.

    Raises
    ------
    KvError
        One line: an unknown name (the nearest one is told), a number out of range, a bad file, or
        the bad row of a file with its number.
    MissingResource
        Where the data is not on this machine; names the command that fetches it.
    """
    if n is not None and n < 1:
        raise KvError(f"load_pairs: n = {n} pairs; pass 1 or more, or None for all of them.")
    if name_or_path == "word_problems":
        made = word_problems(DEFAULT_N if n is None else n, seed)
        return PairCorpus(name_or_path, made, {}, digest(code_hash(), str(seed)),
                          PAIRS[name_or_path])
    if name_or_path in MAKERS:
        pairs, dropped = load_published(name_or_path, seed)
        data, _ = MAKERS[name_or_path]
        return PairCorpus(name_or_path, pairs[:n], dropped, data.revision, PAIRS[name_or_path])
    if "/" in name_or_path or Path(name_or_path).suffix.lower() in READERS:
        return _from_file(Path(name_or_path).expanduser(), n, seed)
    raise unknown("pairs", name_or_path, (*PAIRS, "a path to a .jsonl or .parquet file"))


@cache
def code_hash() -> str:
    """Return the hash of the code that makes the generator's pairs."""
    return digest(*(Path(__file__).with_name(name).read_text(encoding="utf-8")
                    for name in SOURCES))


# --- files -------------------------------------------------------------------------------------


def _from_file(path: Path, n: int | None, seed: int) -> PairCorpus:
    rows, revision = rows_of_file(path)
    pairs, dropped = _collected(path, rows)
    if not pairs:
        raise KvError(f"{path}: no pair left; dropped: {dropped or 'nothing, the file is empty'}.")
    return PairCorpus(path.stem, _ordered(pairs, seed)[:n], dropped, revision,
                      f"pairs of {path.name}")


def _ordered(pairs: list[Pair], seed: int) -> tuple[Pair, ...]:
    """Put pairs in the order of the hash of (seed, id), and number them within their types."""
    numbers: Counter[str | None] = Counter()
    made = []
    for pair in sorted(pairs, key=lambda pair: (digest(str(seed), pair.id), pair.id)):
        made.append(replace(pair, number=numbers[pair.variation_type]))
        numbers[pair.variation_type] += 1
    return tuple(made)


def _collected(path: Path, rows: Iterator[Row]) -> tuple[list[Pair], dict[str, int]]:
    """Turn rows into pairs that share no problem, and counts of what was dropped."""
    lines: dict[str, int] = {}
    asked: set[str] = set()
    dropped: Counter[str] = Counter()
    pairs = []
    for number, row in rows:
        made = pair_of(path, number, row)
        if isinstance(made, str):
            dropped[made] += 1
        elif {made.question, made.alt_problem} & asked:
            dropped["repeated problem"] += 1
        elif made.id in lines:
            raise KvError(f"{path}: id {made.id!r} on line {number} is already on line "
                          f"{lines[made.id]}; give each row an id of its own.")
        else:
            lines[made.id] = number
            asked |= {made.question, made.alt_problem}
            pairs.append(made)
    return pairs, dict(sorted(dropped.items()))


def pair_of(path: Path, number: int, row: Mapping[str, Any]) -> Pair | str:
    """Turn a row into a pair, or into the reason why it is dropped.

    Raises
    ------
    KvError
        Where a column lacks or holds something else than text, the type is unknown, or the pair
        contradicts itself; the line is named.
    """
    lacking = [column for column in COLUMNS if column not in row]
    if lacking:
        raise KvError(f"{path}: column {lacking[0]!r} lacks on line {number}; needed are "
                      f"{', '.join(COLUMNS)}, optional is id.")
    texts = {column: _text(path, number, row, column) for column in COLUMNS}
    empty = [column for column in NEEDED if not texts[column]]
    if empty:
        return f"empty {empty[0]}"
    change = None if row["variation_type"] is None else texts["variation_type"]
    if change not in (*CHANGES, ENTITY, None):
        raise KvError(f"{path}: variation_type {change!r} on line {number} is unknown; use "
                      f"{', '.join((*CHANGES, ENTITY))}, or null for an identical control.")
    name = f"p-{digest(*texts.values())[:16]}" if row.get("id") is None else str(row["id"])
    made = Pair(name, texts["question"], texts["answer"], texts["equation"],
                texts["alt_problem"], texts["alt_answer"], texts["alt_equation"], change)
    wrong = flaw(made)
    if wrong:
        raise KvError(f"{path}: line {number} contradicts itself: {wrong}.")
    return made


def _text(path: Path, number: int, row: Mapping[str, Any], column: str) -> str:
    """Return a column as stripped text; null counts as empty, and an answer may be a number."""
    value = row[column]
    if column in ("answer", "alt_answer") and type(value) in (int, float):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise KvError(f"{path}: {column!r} on line {number} is {type(value).__name__}, not text.")
    return (value or "").strip()
