"""Corpora that are extracted once on a machine and then read from a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from kvcore.data.sample import Corpus, Sample
from kvcore.io import exclusive_lock, write_atomically

Describe = Callable[[tuple[Sample, ...], Mapping[str, int]], Corpus]
"""Puts samples and counts of what was dropped into a corpus."""


def write(path: Path, corpus: Corpus) -> None:
    """Write a corpus so that a reader sees either nothing or all of it."""
    rows = [[s.query, s.passage, s.answer, s.id, s.cluster] for s in corpus.samples]
    write_atomically(path, json.dumps({"samples": rows, "dropped": dict(corpus.dropped)}))


def read(path: Path, describe: Describe) -> Corpus | None:
    """Read a corpus written earlier, or None where there is none or it is damaged."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        samples = tuple(Sample(*row) for row in stored["samples"])
        return describe(samples, stored["dropped"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def extracted_once(
    path: Path, read_kept: Callable[[Path], Corpus | None], build: Callable[[], Corpus]
) -> Corpus:
    """Return the corpus kept in a file, else build it and keep it there.

    Processes that start together build it only once: the others wait for the first.
    """
    kept = read_kept(path)
    if kept is not None:
        return kept
    with exclusive_lock(Path(f"{path}.lock")):
        kept = read_kept(path)
        if kept is None:
            kept = build()
            write(path, kept)
        return kept
