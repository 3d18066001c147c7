"""Samples that examples and twins are tried on."""

from __future__ import annotations

from kvcore.data.sample import Sample

TEXTS = (
    ("past_query", "the mean of what"),
    ("surrogate(need)", "i need the mean"),
    ("other_passage", "keys are looked up in a table and every key has one value"),
    ("keywords(passage)", "entries axis"),
    ("keywords(another)", "table value key"),
    ("shuffled(need)", "mean i the need"),
    ("another(need)", "what is a table for"),
)
LONG = Sample(
    "what does the mean do",
    "it returns the sum of entries along an axis divided by the number of entries and nothing else",
    "the sample mean",
    texts=TEXTS,
)
SHORT = Sample("key", "<s> value", "prefix", texts=TEXTS)
TINY = Sample("key", "<s>", "prefix")  # so short that a windowed query still sees BOS


def words(count: int) -> Sample:
    """Return a sample whose passage is a number of equal words, named by it."""
    return Sample("q", " ".join(["sum"] * count), "mean value", id=f"{count} words")
