"""Texts that come back in samples without clusters: rows that look independent and are not."""

from __future__ import annotations

from collections.abc import Sequence

from kvcore.data.sample import Sample

PARTS = ("query", "passage", "answer")
PLURALS = ("queries", "passages", "answers")


def repeated_texts(samples: Sequence[Sample]) -> dict[str, int]:
    """Count the different texts of those parts that several samples share.

    Returns "queries", "passages" and "answers" to how many different ones there are, without those
    that never come back; case and white space make no difference. Empty where any samples share a
    cluster: somebody has said then what depends on what.
    """
    if len({sample.cluster for sample in samples}) < len(samples):
        return {}
    distinct = (
        len({" ".join(getattr(sample, part).casefold().split()) for sample in samples})
        for part in PARTS
    )
    return {
        name: count for name, count in zip(PLURALS, distinct, strict=True) if count < len(samples)
    }


def repeats_line(name: str, samples: Sequence[Sample]) -> str:
    """Return one line on texts that come back without clusters, "" where none does.

    Parameters
    ----------
    name : str
        Of the data, as the user gave it.
    samples : sequence of Sample
        All of the data.
    """
    counts = [f"{count:,} different {what}" for what, count in repeated_texts(samples).items()]
    if not counts:
        return ""
    return (
        f"{name}: {len(samples):,} rows have only {' and '.join(counts)} and name no cluster, so "
        "intervals take the rows for independent and come out too narrow; "
        "add a column cluster (docs/faq.md)"
    )
