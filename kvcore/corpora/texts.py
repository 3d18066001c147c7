"""Paragraphs that people wrote, each cut behind its first sentence: a prompt and its continuation.

One rule cuts them all: the first sentence ends with the first full stop, question mark or
exclamation mark (and the quotation marks and brackets that follow at once) before white space
and a capital letter or a digit, which quotation marks and brackets may open. An abbreviation or
an initial ends none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

from kvcore.corpora import prose
from kvcore.corpora.files import READERS, rows_of_file
from kvcore.corpora.files import Row as FileRow
from kvcore.corpora.hub import HubDataset, Row, local_files, rows_of
from kvcore.errors import KvError, unknown
from kvcore.io import digest

__all__ = ["TEXTS", "WIKITEXT", "Text", "TextCorpus", "load_texts"]

WORDS = (60, 90)
"""Words of a paragraph of 80 to 120 tokens: a tokenizer makes about 4 tokens of 3 words."""

_END = re.compile(r"[.!?][\"')\]\u201d\u2019]*(?=\s+[\"'(\[`\u201c\u2018]*[A-Z0-9])")
_WORD = re.compile(r"\S*\w\S*")
_GRAMMAR = re.compile(r"::|>>>|->|\.\.\.|https?:")
_GLUED = re.compile(r"[a-z)\"]{2}\.[A-Z][a-z]* [a-z]")  # two paragraphs of a note in one
_TWO_BLANKS = re.compile(r"(?<=[.!?)\"\u201d\u2019])  (?=\S)")  # between sentences
_CLOSED = re.compile(r"[.!?][\"')\]\u201d\u2019]*$")
_HEADING = re.compile(r"=(?: =)* .+ =(?: =)*")


@dataclass(frozen=True)
class Text:
    """A paragraph in two parts; one behind the other they are the paragraph itself.

    Parameters
    ----------
    id : str
        Unique within a corpus.
    prompt : str
        The first sentence.
    continuation : str
        All that follows, the white space between them first.
    """

    id: str
    prompt: str
    continuation: str

    @property
    def content_hash(self) -> str:
        """Return 32 hex digits that change with either part."""
        return digest(self.prompt, self.continuation)[:32]


@dataclass(frozen=True)
class TextCorpus:
    """Texts, where they come from and what was left out.

    Parameters
    ----------
    name : str
        A key of ``TEXTS`` or the stem of a file.
    texts : tuple of Text
        Never empty; identities are unique, and so are the paragraphs.
    dropped : mapping of str to int
        How many paragraphs were left out, by reason.
    revision : str
        Hash of all paragraphs read, hub revision, or SHA-256 of the file.
    note : str
        One line on what it is.
    """

    name: str
    texts: tuple[Text, ...]
    dropped: Mapping[str, int]
    revision: str
    note: str


def _no_sample(_row: Row) -> str:
    """Return why a row makes no sample: it is a paragraph, nothing is asked about it."""
    return "a paragraph, no sample"


WIKITEXT = HubDataset(
    "wikitext2", "Salesforce/wikitext", "b08601e04326c79dfdd32d625aee71d232d685c3",
    ("wikitext-2-raw-v1/test-00000-of-00001.parquet",), {"text": "text"}, _no_sample, "paragraph",
    "WikiText-2 raw test split, paragraphs with their ' @-@ ' and ' , ' as they are")

TEXTS: Mapping[str, str] = {
    "pydoc": "paragraphs of Python's own language reference: no network needed (default)",
    WIKITEXT.name: f"{WIKITEXT.note}; from the hub, {WIKITEXT.repository}",
}


def load_texts(name_or_path: str = "pydoc") -> TextCorpus:
    """Load texts by name, or from a JSON Lines or Parquet file.

    Parameters
    ----------
    name_or_path : str
        A key of ``TEXTS``, or a path that ends in ``.jsonl`` or ``.parquet``. A file has a column
        text, a paragraph a row, and optionally id. The named corpora keep paragraphs of 60 to 90
        words; a file's are of any length.

    Raises
    ------
    KvError
        One line: an unknown name (the nearest one is told), a bad file, or no text left.
    MissingResource
        Where the data is not on this machine; names the command that fetches it.

    Notes
    -----
    Deterministic, in the order of the source. A paragraph is left out where it has no second
    sentence or does not end with one, and where it was there before.
    """
    if name_or_path == "pydoc":
        return _pydoc()
    if name_or_path == WIKITEXT.name:
        return from_hub(WIKITEXT, local_files(WIKITEXT))
    if "/" in name_or_path or Path(name_or_path).suffix.lower() in READERS:
        return _from_file(Path(name_or_path).expanduser())
    raise unknown("texts", name_or_path, (*TEXTS, "a path to a .jsonl or .parquet file"))


def split(paragraph: str) -> tuple[str, str] | None:
    """Cut a paragraph behind its first sentence, or return None where there is no second one.

    Examples
    --------
    >>> split("It rained, i.e. E. Brown got wet. He left.")
    ('It rained, i.e. E. Brown got wet.', ' He left.')
    """
    for end in _END.finditer(paragraph):
        if not prose._ABBREVIATION.search(paragraph[:end.end()]):
            return paragraph[:end.end()], paragraph[end.end():]
    return None


def n_words(text: str) -> int:
    """Count what stands between white space and has a letter or a digit."""
    return len(_WORD.findall(text))


# --- one rule for all --------------------------------------------------------------------------

Found = tuple[str | None, str]  # id or None, and the paragraph or why there is none
_DROPPED = "\0"  # before a reason: no paragraph holds it


def _collected(name: str, found: Iterable[Found]) -> tuple[tuple[Text, ...], dict[str, int]]:
    """Turn paragraphs into texts, and into counts of what was dropped.

    Raises
    ------
    KvError
        Where two paragraphs have one id, or no text is left.
    """
    kept: dict[str, Text] = {}
    seen: set[str] = set()
    dropped: Counter[str] = Counter()
    for given, paragraph in found:
        made = _reason(paragraph, seen) or split(paragraph) or "no second sentence"
        if isinstance(made, str):
            dropped[made] += 1
            continue
        seen.add(paragraph)
        at = f"t-{digest(paragraph)[:16]}" if given is None else given
        if at in kept:
            raise KvError(f"{name}: two texts have the id {at!r}; give each one of its own.")
        kept[at] = Text(at, *made)
    counts = dict(sorted(dropped.items()))
    if not kept:
        raise KvError(f"{name}: no text left; dropped: {counts or 'nothing, there was none'}.")
    return tuple(kept.values()), counts


def _reason(paragraph: str, seen: set[str]) -> str | None:
    """Say why a paragraph is no text, or None."""
    if paragraph.startswith(_DROPPED):
        return paragraph.removeprefix(_DROPPED)
    if not paragraph:
        return "empty"
    if not _CLOSED.search(paragraph):
        return "does not end with a sentence"
    return "repeated" if paragraph in seen else None


def _sized(paragraph: str) -> str:
    fits = WORDS[0] <= n_words(paragraph) <= WORDS[1]
    return paragraph if fits else f"{_DROPPED}not {WORDS[0]} to {WORDS[1]} words"


# --- Python's language reference ---------------------------------------------------------------


def _pydoc() -> TextCorpus:
    texts, dropped = _collected("pydoc", (
        (f"{topic}-{digest(paragraph)[:8]}", paragraph)
        for topic in sorted(topics) for paragraph in _topic(topics[topic])))
    revision = digest(*(part for topic in sorted(topics) for part in (topic, topics[topic])))
    return TextCorpus("pydoc", texts, dropped, revision, TEXTS["pydoc"])


def _topic(text: str) -> Iterator[str]:
    """Yield a topic's paragraphs, line breaks and markup undone, or why a block is none."""
    for block in prose.blocks_of(text):
        paragraph = _sized(prose.plain(" ".join(block.lines)))
        if paragraph.startswith(_DROPPED):
            yield paragraph
        elif not _is_prose(block) or _GRAMMAR.search(paragraph):
            yield f"{_DROPPED}list, table, code or grammar"
        elif _GLUED.search(paragraph):
            yield f"{_DROPPED}sentences run together"
        else:
            yield paragraph if not paragraph[0].islower() else f"{_DROPPED}begins in mid-sentence"


def _is_prose(block: prose.Block) -> bool:
    """Tell whether a block is running text, which has two blanks between sentences here."""
    return prose.is_prose(block._replace(
        lines=tuple(_TWO_BLANKS.sub(" ", line) for line in block.lines)))


# --- the hub -----------------------------------------------------------------------------------


def from_hub(data: HubDataset, paths: Iterable[Path]) -> TextCorpus:
    """Make the corpus from files that have the hub's schema, wherever they lie.

    A row is a heading between equals signs, an empty line or a paragraph. The split is tokenized
    in its own way (`` @-@ `` for a hyphen, white space before commas); that stays as it is.

    Raises
    ------
    KvError
        Where a file is not what the dataset's card says, or no text is left.
    """
    found = (_wiki_line(row["text"].strip()) for path in paths for row in rows_of(data, path))
    texts, dropped = _collected(data.name, ((None, line) for line in found))
    return TextCorpus(data.name, texts, dropped, data.revision, TEXTS.get(data.name, data.note))


def _wiki_line(line: str) -> str:
    if _HEADING.fullmatch(line):
        return f"{_DROPPED}heading"
    return _sized(line) if line else ""


# --- files -------------------------------------------------------------------------------------


def _from_file(path: Path) -> TextCorpus:
    rows, revision = rows_of_file(path)
    texts, dropped = _collected(str(path), (_row(path, row) for row in rows))
    return TextCorpus(path.stem, texts, dropped, revision, f"texts of {path.name}")


def _row(path: Path, given: FileRow) -> Found:
    number, row = given
    if "text" not in row:
        raise KvError(f"{path}: column 'text' lacks on line {number}; needed is text, optional "
                      "is id.")
    if not isinstance(row["text"], str | None):
        raise KvError(f"{path}: 'text' on line {number} is {type(row['text']).__name__}, not text.")
    return None if row.get("id") is None else str(row["id"]), (row["text"] or "").strip()
