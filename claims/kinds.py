"""The kinds of measurement that claims rest on: what each is made on, and how."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from claims.options import Settings
from kvcore.errors import KvError, unknown

if TYPE_CHECKING:
    from claims.measured import Measured

Measure = Callable[[str, str, Sequence[str], Settings], "Measured"]


@dataclass(frozen=True)
class Kind:
    """One kind of measurement.

    Attributes
    ----------
    module : str
        Holds ``measure(model, dataset, needs, settings)``; imported when it is needed.
    dataset : str
        What it is made on where no dataset is asked for.
    published : tuple of (model, dataset)
        What it was published or planned for.
    prefix : str
        What stands before the path of a file of such data: ``texts:my.jsonl``.
    """

    module: str
    dataset: str
    published: tuple[tuple[str, str], ...]
    prefix: str = ""

    def names(self) -> tuple[str, ...]:
        """Return the datasets it can be made on."""
        if self.prefix == "texts:":
            from kvcore.data.texts import TEXTS

            return tuple(TEXTS)
        if self.prefix == "pairs:":
            from kvcore.data.context_pairs.load import PAIRS

            return tuple(PAIRS)
        from kvcore.data.datasets import DATASETS

        return tuple(DATASETS)

    def knows(self, dataset: str) -> bool:
        """Whether a dataset's name or path means data of this kind."""
        from kvcore.data.files import is_path

        if dataset in self.names():
            return True
        if self.prefix:
            return dataset.startswith(self.prefix)
        return is_path(dataset) and not dataset.startswith(PREFIXES)

    @property
    def measure(self) -> Measure:
        """The function that returns a cell's rows, measuring what the store lacks."""
        found: Measure = import_module(self.module).measure
        return found


KINDS = {
    "scores": Kind("claims.measured", "docstrings", (("mistral-7b", "ms_marco"),)),
    "dynamics": Kind("claims.dynamics", "pydoc",
                     (("gemma2-2b", "wikitext2"), ("gemma2-2b-it", "wikitext2")), "texts:"),
    "divergence": Kind("claims.diverging", "docstrings", (("mistral-7b", "ms_marco"),)),
    "adaptation": Kind("claims.adapting", "word_problems", (
        ("qwen2.5-math-7b", "mawps"), ("qwen2.5-math-7b", "fairytaleqa")), "pairs:"),
}
PREFIXES = tuple(kind.prefix for kind in KINDS.values() if kind.prefix)


def check_dataset(name: str) -> None:
    """Raise KvError for a dataset that no kind of measurement knows, with the nearest name."""
    if not any(kind.knows(name) for kind in KINDS.values()):
        names = dict.fromkeys(n for kind in KINDS.values() for n in kind.names())
        raise unknown("dataset", name, [
            *names, "<file.jsonl>", "<file.parquet>", *(f"{p}<file>" for p in PREFIXES)])


def path_of(dataset: str) -> str:
    """Return a dataset's name or path without what says which kind of data it is."""
    for prefix in PREFIXES:
        dataset = dataset.removeprefix(prefix)
    return dataset


def kind_of(name: str) -> Kind:
    """Return a kind by its name."""
    if name not in KINDS:
        raise KvError(f"kind {name!r}: use one of {', '.join(KINDS)}.")
    return KINDS[name]
