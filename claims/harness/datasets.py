"""Datasets as options spell them, and the kinds of measurement that they are for.

A file's path may have the prefix of its kind, ``texts:my.jsonl``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kvcore.data.datasets import load_corpus
from kvcore.data.files import is_path, path_at
from kvcore.data.repeats import repeats_line
from kvcore.errors import unknown
from kvcore.measurements.base import MeasurementKind
from kvcore.measurements.registry import all_kinds


def prefixes() -> tuple[str, ...]:
    """Return what may stand before a file's path."""
    return tuple(kind.prefix for kind in all_kinds().values() if kind.prefix)


def is_for(kind: MeasurementKind, dataset: str) -> bool:
    """Whether a dataset's name or path means data of this kind."""
    if dataset in kind.datasets():
        return True
    if kind.prefix:
        return dataset.startswith(kind.prefix)
    return is_path(dataset) and not dataset.startswith(prefixes())


def check_dataset(name: str) -> None:
    """Raise KvError for a dataset that is for no kind of measurement, with the nearest name."""
    kinds = all_kinds().values()
    if not any(is_for(kind, name) for kind in kinds):
        names = dict.fromkeys(name for kind in kinds for name in kind.datasets())
        files = ("<file.jsonl>", "<file.parquet>", *(f"{p}<file>" for p in prefixes()))
        raise unknown("dataset", name, [*names, *files])


def check_file(name: str) -> None:
    """Raise KvError for a file that cannot be read as the data of its kinds; names pass."""
    kinds = [kind for kind in all_kinds().values() if is_for(kind, name)]
    if is_path(path_of(name)) and not any(name in kind.datasets() for kind in kinds):
        for load_data in dict.fromkeys(kind.load_data for kind in kinds):
            load_data(path_of(name))


@dataclass(frozen=True)
class Repeats:
    """A line for each file of samples whose texts come back without clusters."""

    lines: Mapping[str, str]

    @classmethod
    def of(cls, names: Iterable[str]) -> Repeats:
        """Read the files; those that are not there are left out: stored rows need them no more."""
        files = [name for name in names if is_path(name) and os.path.isfile(path_at(name))]
        samples = [name for name in files if name == path_of(name)]
        lines = {name: repeats_line(name, load_corpus(name).samples) for name in samples}
        return cls({name: line for name, line in lines.items() if line})

    @property
    def warnings(self) -> list[str]:
        """What a run says of them, a line each."""
        return [f"warning: {line}" for line in self.lines.values()]

    def fact(self, dataset: str) -> dict[str, str]:
        """Return what the report says of a dataset: nothing, or its line."""
        return {"warning": self.lines[dataset]} if dataset in self.lines else {}


def path_of(dataset: str) -> str:
    """Return a dataset's name or path without its prefix."""
    for prefix in prefixes():
        dataset = dataset.removeprefix(prefix)
    return dataset
