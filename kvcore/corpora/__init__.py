"""What can be asked: samples with a query, a passage and an answer, by name or from a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from kvcore.corpora.docstrings import load_docstrings
from kvcore.corpora.files import READERS, load_file
from kvcore.corpora.hub import load_ms_marco
from kvcore.corpora.sample import Corpus, Sample, choose
from kvcore.errors import unknown

__all__ = ["DATASETS", "Corpus", "Sample", "choose", "load_corpus"]

DATASETS: Mapping[str, str] = {
    "docstrings": "docstrings of installed packages: no network needed (default)",
    "ms_marco": "MS MARCO v1.1 validation, from the hub at a pinned revision",
}
_LOADERS: Mapping[str, Callable[[], Corpus]] = {
    "docstrings": load_docstrings,
    "ms_marco": load_ms_marco,
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
    if name_or_path in _LOADERS:
        return _LOADERS[name_or_path]()
    if is_path(name_or_path):
        return load_file(name_or_path)
    raise unknown("dataset", name_or_path, (*DATASETS, "a path to a .jsonl or .parquet file"))
