"""Docstrings made of common words: sound ones, and families that a corpus must thin out."""

from __future__ import annotations

import random

WORDS = (
    "river stone cloud paper music garden window bridge forest candle mirror island harbour"
    " meadow shadow winter summer letter coffee bottle ladder pencil basket button copper"
    " silver marble velvet cotton linen pepper ginger butter walnut cherry orange lemon"
).split()


def sentence(seed: int, length: int = 12) -> str:
    """Make a sentence of common words that shares no shingle with another by design."""
    return " ".join(random.Random(seed).sample(WORDS, length)).capitalize() + "."


def doc_of(seed: int, summary: str | None = None, n_sentences: int = 6) -> str:
    """Make a docstring of a summary and sentences."""
    lines = [sentence(1000 * seed + i) for i in range(n_sentences)]
    return "\n\n".join([summary or f"Return the {WORDS[seed]} of a thing.", "\n".join(lines)])


SHARED = "\n".join(sentence(7 + i) for i in range(4))
FAMILIES = {
    "fewer than 40 words without boilerplate": (
        "boilerplate",
        [(f"p.f{i}", "p", f"Return the {WORDS[i]} of a thing.\n\n{SHARED}") for i in range(3)],
        3,
    ),
    "repeated answer": (
        "repeated_answers",
        [(f"p.f{i}", "p", doc_of(i, "Return the same to all!")) for i in range(3)],
        2,
    ),
    "near-duplicate": (
        "near_duplicates",
        [("p.f", "p", doc_of(5)), ("p.q.f", "p", doc_of(5, "Return it anew.") + "\nNew words.")],
        1,
    ),
}
