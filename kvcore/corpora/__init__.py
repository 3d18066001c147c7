"""What can be asked: samples with a query, a passage and an answer, by name or from a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from kvcore.corpora import hub
from kvcore.corpora.docstrings import load_docstrings
from kvcore.corpora.files import PAST_QUERY, READERS, load_file
from kvcore.corpora.published import HUB
from kvcore.corpora.sample import Corpus, Sample, choose
from kvcore.errors import unknown

__all__ = ["DATASETS", "Corpus", "Sample", "Traits", "choose", "load_corpus", "traits_of"]

LONG_WORDS = 400  # about 512 tokens: twice the length from which no benefit was found


@dataclass(frozen=True)
class Traits:
    """What a dataset can give, known without loading it: what a claim may ask of its cells.

    Parameters
    ----------
    description : str
        One line, with where the data comes from.
    ranking : bool
        Whether a query has several passages to rank.
    long : bool
        Whether the typical passage has ``LONG_WORDS`` words or more.
    past_queries : bool
        Whether samples carry a past query of their passage, as the text ``past_query``.
    """

    description: str
    ranking: bool = False
    long: bool = False
    past_queries: bool = False


DATASETS: Mapping[str, Traits] = {
    "docstrings": Traits(
        "docstrings of installed packages: no network needed (default)", ranking=True),
    **{name: Traits(f"{data.note}; from the hub, {data.repository}",
                    ranking=data.others_of is not None, long=data.long,
                    past_queries=data.past_queries)
       for name, data in HUB.items()},
}


def is_path(name: str) -> bool:
    """Tell whether a name means a file: it has a folder or a known ending, or it exists."""
    folder = os.sep in name or "/" in name
    return folder or name.lower().endswith(tuple(READERS)) or os.path.isfile(name)


def load_corpus(name_or_path: str) -> Corpus:
    """Load a corpus by name, or from a JSON Lines or Parquet file.

    Parameters
    ----------
    name_or_path : str
        A key of ``DATASETS``, or a path (see :func:`kvcore.corpora.files.load_file`).

    Raises
    ------
    KvError
        Unknown name (the nearest one is told) or a bad file, in one line.
    MissingResource
        Where the data is not on this machine; names the command that fetches it.
    """
    if name_or_path == "docstrings":
        return load_docstrings()
    if name_or_path in HUB:
        return hub.load(HUB[name_or_path])
    if is_path(name_or_path):
        return load_file(name_or_path)
    raise unknown("dataset", name_or_path, (*DATASETS, "a path to a .jsonl or .parquet file"))


def traits_of(name_or_path: str) -> Traits:
    """Return what a dataset can give: from the table above, or from what a file holds.

    Raises
    ------
    KvError
        As `load_corpus`, for a name that is unknown or a file that cannot be read.
    """
    if name_or_path in DATASETS:
        return DATASETS[name_or_path]
    corpus = load_corpus(name_or_path)
    words = median(len(sample.passage.split()) for sample in corpus.samples)
    asked_before = any(name == PAST_QUERY for sample in corpus.samples for name, _ in sample.texts)
    return Traits(corpus.note, long=words >= LONG_WORDS, past_queries=asked_before)
