"""Docstring to plain prose: what a person would read aloud of it, and nothing else.

Works on text alone: blocks (paragraphs of equal indentation) are kept or dropped as a whole, then
inline markup is undone. Numpydoc, Google and plain reStructuredText conventions are understood.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import NamedTuple

# Sections whose body is prose; every other titled section (Parameters, Examples, ...) is not.
PROSE_SECTIONS = frozenset({"notes", "note", "description", "extended summary"})
# Directives whose body reads as prose; code, maths, plots and version remarks do not.
PROSE_DIRECTIVES = frozenset({"note", "warning", "tip", "hint", "important", "caution"})

UNDERLINE = re.compile(r"^[-=~^]{3,}\s*$")
GOOGLE = re.compile(
    r"^(arg(?:ument)?s?|keyword arg(?:ument)?s?|parameters?|attributes?|members|variables|returns?"
    r"|yields?|raises|shape|inputs?|outputs?|examples?(?: usage)?|usage|references?|see also|notes?"
    r"|warnings?|type|dynamic shapes|supported features)\s?::?$",
    re.IGNORECASE,
)
DIRECTIVE = re.compile(r"^\.\.\s+([\w-]+(?::[\w-]+)?)::\s*(.*)$")
# SciPy generates this part of "Notes"; it ends where the next section begins.
ARRAY_API = re.compile(
    r"^\*\*Array API Standard Support\*\*.*?(?=^\S[^\n]*\n[-=]{3,}|\Z)", re.DOTALL | re.MULTILINE
)
INLINE_DIRECTIVE = re.compile(r"^( *\.\. [a-z]+::) +(\S.*)\n( +)(?=\S)", re.MULTILINE)
# A citation that is part of the sentence ("described in [1]_"): without it the sentence is broken.
CITED = re.compile(
    r"(?:(?:^|(?<=[.!?] ))(?=\[\w+\]_ [a-z])|\b(?:in|see|of|by|from|to|with|and|or|on|as|per"
    r"|following|refs?\.?|eqs?\.?|section \S+|pp?\. \S+)\s+(?:e\.g\. |also )?)\[\w+\]_",
    re.IGNORECASE,
)
DANGLING = re.compile(
    r"\b(?:as follows|(?:see|listed|shown|described|given|discussed|explained|defined|noted"
    r"|mentioned|and|examples?) (?:the )?(?:below|above|notes)|user guide|this link"
    r"|following (?:figure|table|example|code|list|formula|equation|combinations|plot)"
    r"|the above (?:example|code|figure|table|equation|formula)|see the references?"
    r"|(?:equation|formula|definition|example|table|expression|code|figure)s? (?:above|below))\b",
    re.IGNORECASE,
)
MARKUP = re.compile(r"\\|\$|[`|^]|::|https?:|_\{|\.\. |%\(|\*\*|<\w+>|\bobject at 0x")
SIGNATURE = re.compile(r"^(?:\d+\.\s*)?[\w.]+\([^\n]*(?:\)|->.*|,)\s*\\?$")
BULLET = re.compile(r"^(?:[-*+•]|\(?[0-9a-z]{1,2}[.)]|#\.|\[\d+\]|:\w[^:]*:)\s")
SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[`]*[A-Z0-9`])")
ABBREVIATION = re.compile(
    r"\b(?:e\.g|i\.e|cf|vs|etc|al|eqn?|eqs|fig|refs?|sec|resp|no|approx|vol|pp|chap|ch|see|dr|st"
    r"|[a-z])\.$",
    re.IGNORECASE,
)

INLINE = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\s?\[(?:\d+|[A-Za-z]+\d*)\](?!\()_", ""),  # footnote and citation marks
        (r"\s?\[#\w*\]_", ""),
        (r":(?:ref|eq|numref|doc|cite|math):`[^`<]*[_\\^{][^`<]*`", "^"),  # labels, formulas
        (r":[\w:+-]+:`~[\w.]*?([\w()]+)`", r"\1"),  # :func:`~a.b.c` shows c
        (r":[\w:+-]+:`!?([^`<]+?)\s*<[^`>]*>`", r"\1"),  # :role:`text <target>` shows text
        (r":[\w:+-]+:`!?([^`]+)`", r"\1"),
        (r"``([^`]+)``", r"\1"),
        (r"`([^`<]+?)\s*<[^`>]*>`__?", r"\1"),
        (r"`~?([^`]+)`_{0,2}", r"\1"),
        (r"\*\*([^*\n]+)\*\*", r"\1"),
        (r"(?<![\w*])\*([^*\s](?:[^*\n]*[^*\s])?)\*(?![\w*])", r"\1"),
        (r"(?<=[A-Za-z]{3})_(?=[\s.,;)]|$)", ""),  # reference_
        (r"\|([A-Z]\w+)\|", r"\1"),  # |Substitution|
        (r"\\ ", ""),  # an escaped blank joins markup to what follows
        (r"\\([*_|`~])", r"\1"),  # escaped markup
        (r"\s+([.,;:)])(?=\s|$)", r"\1"),
        (r"(?<![^\s(])\.(?=[A-Za-z_]\w*\.\w)", ""),  # .axes.Axes.plot
        (r"\s+", " "),
    )
)


class Block(NamedTuple):
    """Lines without a blank between them: their indentation in columns and their text."""

    indent: int
    lines: tuple[str, ...]


class Prose(NamedTuple):
    """What a docstring says in words: its one-sentence summary, then its sentences."""

    summary: str
    sentences: tuple[str, ...]


def blocks_of(text: str) -> Iterator[Block]:
    """Split a text at blank lines and at changes to a smaller or larger indentation."""
    block: list[str] = []
    for line in [*text.splitlines(), ""]:
        indent = len(line) - len(line.lstrip())
        block_indent = len(block[0]) - len(block[0].lstrip()) if block else indent
        if block and (not line.strip() or indent != block_indent):
            yield Block(block_indent, tuple(x.strip() for x in block))
            block = []
        if line.strip():
            block.append(line)


def is_prose(block: Block) -> bool:
    """Tell whether a block is running text: no code, list, table, heading or directive."""
    first, text = block.lines[0], " ".join(block.lines)
    shaped = BULLET.match(first) or first.startswith((">>>", "..", "|", "+--", "==", "$", "@"))
    formula = "\\begin" in text or text.count("  ") > 2
    return not shaped and not formula and not text.startswith("In [")


def section_of(block: Block) -> tuple[str, bool] | None:
    """Return the lower-case title a block begins with and whether it is underlined, if any."""
    if len(block.lines) > 1 and UNDERLINE.match(block.lines[1]):
        return block.lines[0].lower(), True
    google = GOOGLE.match(block.lines[0]) if len(block.lines) == 1 else None
    return (google[1].lower(), False) if google else None


def paragraphs_of(text: str) -> Iterator[str]:
    """Yield the running-text paragraphs of a docstring, markup still inside.

    An underlined section lasts until the next one, a Google section ("Args:") or a directive as
    long as its body is indented.
    """
    section_is_prose, body_is_prose = True, False
    for block in blocks_of(INLINE_DIRECTIVE.sub(r"\1\n\n\3\2\n\3", text)):
        lines, section, directive = block.lines, section_of(block), DIRECTIVE.match(block.lines[0])
        if directive:
            body_is_prose = directive[1].lower() in PROSE_DIRECTIVES
            lines = (directive[2],) if body_is_prose and directive[2] else ()
        elif section and section[1]:
            section_is_prose, body_is_prose = section[0] in PROSE_SECTIONS, False
            lines = lines[2:]
        elif section:
            body_is_prose, lines = section[0] in PROSE_SECTIONS, ()
        elif block.indent == 0:
            body_is_prose = False
        shown = section_is_prose and (block.indent == 0 or body_is_prose)
        if lines and shown and is_prose(Block(block.indent, lines)):
            yield " ".join(lines)


def plain(text: str) -> str:
    """Undo inline markup and collapse white space."""
    for pattern, replacement in INLINE:
        text = pattern.sub(replacement, text)
    return text.strip()


def sentences_of(paragraph: str) -> Iterator[str]:
    """Split a paragraph into sentences; abbreviations and initials do not end one."""
    sentence = ""
    for piece in SENTENCE_END.split(paragraph):
        sentence = f"{sentence} {piece}".strip()
        if not ABBREVIATION.search(sentence):
            yield sentence
            sentence = ""
    if sentence:
        yield sentence


def stands_alone(sentence: str) -> bool:
    """Tell whether a sentence stands alone: it ends, closes, holds no formula, points nowhere."""
    ended = sentence.endswith((".", "!", "?", '."', ".)"))
    closed = sentence.count("(") == sentence.count(")") and sentence.count('"') % 2 == 0
    return ended and closed and not MARKUP.search(sentence) and not DANGLING.search(sentence)


def without_signature(text: str) -> str:
    """Drop the signature lines that compiled functions begin with."""
    lines = text.splitlines()
    while lines and (not lines[0].strip() or SIGNATURE.match(lines[0].strip())):
        lines = lines[1:]
    return "\n".join(lines)


def read(doc: str) -> Prose:
    """Read the summary sentence and the sentences that follow it out of a docstring.

    The summary is empty where the docstring does not begin with a sentence.

    `doc`: a raw docstring.
    """
    text = ARRAY_API.sub("", without_signature(inspect.cleandoc(doc)))
    first, *rest = list(paragraphs_of(text)) or [""]
    summary, *more = list(sentences_of(plain(CITED.sub("^", first)))) or [""]
    following = [sentence for paragraph in rest for sentence in complete_sentences(paragraph)]
    return Prose(summary, (*filter(stands_alone, more), *following))


def complete_sentences(paragraph: str) -> list[str]:
    """Return the sentences of a raw paragraph that stand alone, as plain text."""
    sentences = list(sentences_of(plain(CITED.sub("^", paragraph))))
    # "where x is ..." goes on after a formula that was dropped; "`x` is" begins with a name.
    return [x for x in sentences[paragraph[:1].islower() :] if stands_alone(x)]
