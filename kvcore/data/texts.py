"""Paragraphs that people wrote, each cut in two: a prompt and its continuation.

As in the published study: paragraphs of 80 to 120 tokens of the model that reads them, cut behind
the first full stop before a blank that ends beyond character 10. Paragraphs of a file may have any
length.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from kvcore.data.docstrings import prose
from kvcore.data.files import ENDINGS, FileRow, is_path, path_at, read_rows
from kvcore.data.hub import HubDataset, local_files, rows_of
from kvcore.errors import KvError, unknown
from kvcore.io import digest

TOKENS = (80, 120)
"""Tokens of a paragraph, prompt included and BOS not, of the model that reads it."""
STOP, LEAST_PROMPT = ". ", 10
"""What ends a prompt, and how many characters it exceeds, the blank counted."""

NO_STOP = "no full stop to cut it behind"
GRAMMAR = re.compile(r"::|>>>|->|\.\.\.|https?:")
GLUED = re.compile(r"[a-z)\"]{2}\.[A-Z][a-z]* [a-z]")  # two paragraphs of a note in one
HEADING = re.compile(r"=(?: =)* .+ =(?: =)*")
_TWO_BLANKS = re.compile(r"(?<=[.!?)\"\u201d\u2019])  (?=\S)")  # between sentences
TEXT_COLUMNS = ("text", "id")  # of a file; the second one may be missing
_CLOSED = re.compile(r"[.!?][\"')\]\u201d\u2019]*$")


@dataclass(frozen=True)
class Text:
    """A paragraph in two parts; one behind the other they are the paragraph itself."""

    id: str  # unique within a corpus
    prompt: str  # up to the first full stop, see `split_at_full_stop`
    continuation: str  # all that follows, the white space between them first

    @property
    def content_hash(self) -> str:
        """Return 32 hex digits that change with either part."""
        return digest(self.prompt, self.continuation)[:32]


@dataclass(frozen=True)
class TextCorpus:
    """Texts, where they come from and what was left out; name, dropped, note as in `Corpus`."""

    name: str
    texts: tuple[Text, ...]  # never empty; ids are unique, and so are the paragraphs
    dropped: Mapping[str, int]
    revision: str  # hash of all paragraphs read, hub revision, or SHA-256 of the file
    note: str
    # Fewest and most tokens of a text, of the model that reads it; None where any number will do.
    tokens: tuple[int, int] | None = None

    def fitting(self, count: Callable[[str], int]) -> tuple[Text, ...]:
        """Return the texts whose number of tokens, by a function that counts them, fits."""
        if self.tokens is None:
            return self.texts
        low, high = self.tokens
        return tuple(t for t in self.texts if low <= count(t.prompt + t.continuation) <= high)


class Dropped(NamedTuple):
    """A block of a source that is no paragraph, with the reason."""

    reason: str


WIKITEXT = HubDataset(
    "wikitext2",
    "Salesforce/wikitext",
    "b08601e04326c79dfdd32d625aee71d232d685c3",
    ("wikitext-2-raw-v1/test-00000-of-00001.parquet",),
    {"text": "text"},
    lambda _row: "a paragraph, no sample",
    "paragraph",
    "WikiText-2 raw test split, paragraphs with their ' @-@ ' and ' , ' as they are",
)

TEXTS: Mapping[str, str] = {
    "pydoc": "paragraphs of Python's own language reference: no network needed (default)",
    WIKITEXT.name: f"{WIKITEXT.note}; from the hub, {WIKITEXT.repository}",
}


def load_texts(name_or_path: str = "pydoc") -> TextCorpus:
    """Load texts by name, or from a file.

    `name_or_path`: a key of ``TEXTS``, or a path to a JSON Lines, JSON, CSV or Parquet file. A file
    has a column text, a paragraph a row, and optionally id. Of ``pydoc`` and ``wikitext2`` a model
    reads the paragraphs of `TOKENS`; a file's are of any length.

    Deterministic, in the order of the source. A paragraph is left out where there is no full stop
    to cut it behind, where it does not end with a sentence, and where it was there before.

    Raises KvError, one line: an unknown name (with the nearest one), a bad file, or no text left.
    Raises MissingResource where the data is not on this machine; names the command that fetches it.
    """
    if name_or_path == "pydoc":
        return _from_pydoc()
    if name_or_path == WIKITEXT.name:
        return from_hub(WIKITEXT, local_files(WIKITEXT))
    if is_path(name_or_path):
        return _from_file(path_at(name_or_path))
    raise unknown("texts", name_or_path, (*TEXTS, f"a path to a {ENDINGS} file"))


def split_at_full_stop(paragraph: str) -> tuple[str, str] | None:
    """Cut a paragraph as the published study did, or return None where there is no such stop.

    The stop may be that of an abbreviation.

    Examples
    --------
    >>> split_at_full_stop("Soaked: Mr. Brown got wet . He left .")
    ('Soaked: Mr.', ' Brown got wet . He left .')
    >>> split_at_full_stop("It got wet. And so on.")
    ('It got wet.', ' And so on.')
    """
    at = paragraph.find(STOP, LEAST_PROMPT - len(STOP) + 1)
    return None if at < 0 else (paragraph[: at + 1], paragraph[at + 1 :])


def unique_texts(
    source: str, paragraphs: Iterable[tuple[str | None, str | Dropped]]
) -> tuple[tuple[Text, ...], dict[str, int]]:
    """Turn paragraphs, each with an id or None, into texts and counts of what was dropped.

    Raises KvError where two paragraphs have one id, or no text is left.
    """
    texts: dict[str, Text] = {}
    seen: set[str] = set()
    dropped: Counter[str] = Counter()
    for id, paragraph in paragraphs:
        text = _text_or_reason(id, paragraph, seen)
        if isinstance(text, str):
            dropped[text] += 1
        elif text.id in texts:
            raise KvError(f"{source}: two texts have the id {text.id!r}; give each one of its own.")
        else:
            seen.add(str(paragraph))
            texts[text.id] = text
    counts = dict(sorted(dropped.items()))
    if not texts:
        raise KvError(f"{source}: no text left; dropped: {counts or 'nothing, there was none'}.")
    return tuple(texts.values()), counts


def _text_or_reason(id: str | None, paragraph: str | Dropped, seen: set[str]) -> Text | str:
    if isinstance(paragraph, Dropped):
        return paragraph.reason
    reason = drop_reason(paragraph, seen)
    parts = None if reason else split_at_full_stop(paragraph)
    if parts is None:
        return reason or NO_STOP
    return Text(f"t-{digest(paragraph)[:16]}" if id is None else id, *parts)


def drop_reason(paragraph: str, seen: set[str]) -> str | None:
    """Say why a paragraph is no text, or None."""
    if not paragraph:
        return "empty"
    if not _CLOSED.search(paragraph):
        return "does not end with a sentence"
    return "repeated" if paragraph in seen else None


def _from_pydoc() -> TextCorpus:
    from pydoc_data.topics import topics

    texts, dropped = unique_texts("pydoc", _pydoc_paragraphs(topics))
    revision = digest(*(part for topic in sorted(topics) for part in (topic, topics[topic])))
    return TextCorpus("pydoc", texts, dropped, revision, TEXTS["pydoc"], TOKENS)


def _pydoc_paragraphs(topics: Mapping[str, str]) -> Iterator[tuple[str | None, str | Dropped]]:
    for topic in sorted(topics):
        for paragraph in topic_paragraphs(topics[topic]):
            id = f"{topic}-{digest(paragraph)[:8]}" if isinstance(paragraph, str) else None
            yield id, paragraph


def topic_paragraphs(text: str) -> Iterator[str | Dropped]:
    """Yield a topic's paragraphs, line breaks and markup undone, or why a block is none."""
    for block in prose.blocks_of(text):
        paragraph = prose.plain(" ".join(block.lines))
        if not is_running_text(block) or GRAMMAR.search(paragraph):
            yield Dropped("list, table, code or grammar")
        elif GLUED.search(paragraph):
            yield Dropped("sentences run together")
        else:
            yield Dropped("begins in mid-sentence") if paragraph[:1].islower() else paragraph


def is_running_text(block: prose.Block) -> bool:
    """Tell whether a block is running text, which has two blanks between sentences here."""
    lines = tuple(_TWO_BLANKS.sub(" ", line) for line in block.lines)
    return prose.is_prose(block._replace(lines=lines))


def from_hub(data: HubDataset, paths: Iterable[Path]) -> TextCorpus:
    """Make the corpus from files that have the hub's schema, wherever they lie.

    A row is a heading between equals signs, an empty line or a paragraph. The split is tokenized
    in its own way (`` @-@ `` for a hyphen, white space before commas); that stays as it is.

    Raises KvError where a file is not what the dataset's card says, or no text is left.
    """
    lines = (row["text"].strip() for path in paths for row in rows_of(data, path))
    paragraphs = ((None, Dropped("heading") if HEADING.fullmatch(x) else x) for x in lines)
    texts, dropped = unique_texts(data.name, paragraphs)
    note = TEXTS.get(data.name, data.note)
    return TextCorpus(data.name, texts, dropped, data.revision, note, TOKENS)


def _from_file(path: Path) -> TextCorpus:
    rows, revision = read_rows(path, TEXT_COLUMNS)
    texts, dropped = unique_texts(str(path), map(_file_paragraph, rows))
    return TextCorpus(path.stem, texts, dropped, revision, f"texts of {path.name}")


def _file_paragraph(row: FileRow) -> tuple[str | None, str]:
    row.require(TEXT_COLUMNS[:1], TEXT_COLUMNS[1:])
    return row.name("id"), row.text("text").strip()
