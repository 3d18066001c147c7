"""Longer documents: the same passages, followed by unrelated ones up to a length in tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kvcore.data.sample import Sample
from kvcore.io import digest

CHARACTERS_PER_TOKEN = 8  # more than any tokenizer here packs into a token of prose


def lengthened(
    samples: Sequence[Sample], pool: Sequence[Sample], length: int, seed: int
) -> tuple[Sample, ...]:
    """Pad every sample's document to one length with passages of other clusters.

    Each has ``@length`` behind its id. A sample whose own passage is longer stays, and is counted
    as not measurable then.

    Parameters
    ----------
    pool : sequence of Sample
        Where padding comes from; passages of the sample's own cluster are left out.
    length : int
        Tokens of the document, the answer's own passage first; which tokenizer counts them is
        settled when the sample is tokenized.
    seed : int
        With the two ids it fixes the order in which passages follow.
    """
    return tuple(pad_sample(sample, pool, length, seed) for sample in samples)


def pad_sample(sample: Sample, pool: Sequence[Sample], length: int, seed: int) -> Sample:
    """Pad one sample's document, as `lengthened` does."""
    unrelated = sorted(
        (other for other in pool if other.cluster != sample.cluster),
        key=lambda other: digest(str(seed), sample.id, other.id),
    )
    padding: list[str] = []
    for other in unrelated:
        if sum(map(len, padding)) >= length * CHARACTERS_PER_TOKEN:
            break
        padding.append(other.passage)
    return replace(sample, id=f"{sample.id}@{length}", padding=tuple(padding), length=length)
