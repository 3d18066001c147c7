"""Load the corpus of service manuals: extracted once for given data, then read from a file."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from kvcore.data import kept
from kvcore.data.sample import Corpus, Sample
from kvcore.data.service_manuals.manuals import Operation, read
from kvcore.errors import MissingResource
from kvcore.io import cache_folder, digest

NAME, PACKAGE = "service_manuals", "botocore"
# What decides which samples come out; a change to any of them makes a new cache file.
SOURCES = tuple(
    Path(__file__).parent / name
    for name in (
        "load.py",
        "manuals.py",
        "../docstrings/prose.py",
        "../docstrings/clean.py",
        "../sample.py",
        "../overlap.py",
    )
)


def version() -> str:
    """Return the installed version of botocore, without importing it.

    Raises MissingResource where it is not installed.
    """
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        raise MissingResource(
            f"{NAME}: package {PACKAGE!r} is not installed; run: pip install {PACKAGE}"
        ) from None


def manuals_folder() -> Path:
    """Return the folder in which botocore keeps a folder a service.

    Raises MissingResource where it is not there.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / "data").is_dir():
            return Path(place) / "data"
    raise MissingResource(
        f"{NAME}: {PACKAGE} is installed without its data; run: pip install --force-reinstall "
        f"{PACKAGE}"
    )


def revision_of(installed: str) -> str:
    """Return 16 hex digits that change with botocore's version."""
    return digest(f"{PACKAGE}=={installed}")[:16]


def cache_file(revision: str) -> Path:
    """Name the file that holds the cleaned corpus of this version and this code."""
    code = [source.read_text(encoding="utf-8") for source in SOURCES]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return cache_folder() / "corpora" / f"{NAME}-{digest(revision, python, *code)[:16]}.json"


def samples_of(
    operations: Iterable[Operation],
) -> tuple[tuple[Sample, ...], dict[str, int]]:
    """Turn operations into clean samples and counts of what was dropped, as docstrings are.

    The first sentence is the answer, the rest the passage; a cluster is a family of services.
    """
    from kvcore.data.docstrings.clean import clean  # needs NumPy and SciPy; a cached load does not

    by_id = {operation.id: operation for operation in operations}
    samples, dropped = clean((o.id, o.family, o.text) for o in by_id.values())
    return tuple(replace(s, query=question(by_id[s.id])) for s in samples), dropped


def question(operation: Operation) -> str:
    """Return what is asked of an operation."""
    return f"what does {operation.name} of {operation.title} do"


def build(revision: str) -> Corpus:
    """Extract and clean the corpus anew.

    Raises MissingResource where botocore's data has no manual that makes a sample.
    """
    folder = manuals_folder()
    samples, dropped = samples_of(read(folder))
    if not samples:
        raise MissingResource(f"{NAME}: no manual of {PACKAGE} {version()} makes a sample.")
    return corpus_of(samples, dropped, revision)


def corpus_of(samples: tuple[Sample, ...], dropped: Mapping[str, int], revision: str) -> Corpus:
    """Put the samples into a corpus with the words that describe it."""
    note = f"what operations of web services do, from the manuals that {PACKAGE} ships"
    return Corpus(NAME, samples, dropped, revision, "family of services", note)


def load_service_manuals() -> Corpus:
    """Load the corpus of service manuals: from the cache, else by extracting it once.

    Deterministic for a given version of botocore, which is not imported.
    """
    revision = revision_of(version())
    return kept.extracted_once(
        cache_file(revision),
        lambda path: kept.read(path, lambda s, dropped: corpus_of(s, dropped, revision)),
        lambda: build(revision),
    )
