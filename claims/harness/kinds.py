"""The kinds of measurement that claims rest on: what each is made on, and how."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from claims.harness.settings import Settings
from claims.needs import EVERY_LAYER, Need, is_sweep
from kvcore.conditions.parse import condition
from kvcore.conditions.switching import switch_method
from kvcore.errors import KvError, unknown
from kvcore.tokenization import TARGETS

if TYPE_CHECKING:
    from claims.harness.rows import Measured

Explain = Callable[[str, str, Sequence[str], Settings], tuple[Mapping[str, Any], ...]]
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

    name: str
    module: str
    check_need: Callable[[str], None]
    dataset: str
    published: tuple[tuple[str, str], ...]
    prefix: str = ""

    def names(self) -> tuple[str, ...]:
        """Return the datasets it can be made on."""
        if self.prefix == "texts:":
            from kvcore.corpora.texts import TEXTS

            return tuple(TEXTS)
        if self.prefix == "pairs:":
            from kvcore.corpora.pairs import PAIRS

            return tuple(PAIRS)
        from kvcore.corpora import DATASETS

        return tuple(DATASETS)

    def knows(self, dataset: str) -> bool:
        """Whether a dataset's name or path means data of this kind."""
        from kvcore.corpora import is_path

        if dataset in self.names():
            return True
        if self.prefix:
            return dataset.startswith(self.prefix)
        return is_path(dataset) and not dataset.startswith(PREFIXES)

    @property
    def measure(self) -> Measure:
        """The function that returns a cell's rows, measuring what the store lacks."""
        function: Measure = import_module(self.module).measure
        return function

    @property
    def explain(self) -> Explain | None:
        """The function that explains conditions on one sample, where the kind has one."""
        return getattr(import_module(self.module), "explanations", None)


def _check_condition(spelled: str) -> None:
    need = Need.read(spelled)
    if need.target not in TARGETS:
        raise unknown("target", need.target, TARGETS)
    condition(need.condition.replace(EVERY_LAYER, "0") if is_sweep(spelled) else need.condition)


def _check_pair(spelled: str) -> None:
    first, separator, second = spelled.partition("~")
    if not separator:
        raise KvError(f"pair {spelled!r}: write two conditions with '~' between them.")
    condition(first)
    condition(second)


def _check_source(spelled: str) -> None:
    if spelled not in SOURCES and not TEMPERATURE.fullmatch(spelled):
        raise unknown("source", spelled, (*SOURCES, "temperature(<above 0>)"))


def _check_method(spelled: str) -> None:
    switch_method(spelled.removeprefix("free:"))


MS_MARCO = (("mistral-7b", "ms_marco"),)
SOURCES = ("human", "greedy", "shuffled")
TEMPERATURE = re.compile(r"temperature\(([0-9]+(?:\.[0-9]+)?)\)")


KINDS = {
    kind.name: kind
    for kind in (
        Kind("answer_nll", "claims.measured", _check_condition, "docstrings", MS_MARCO),
        Kind(
            "hidden_states",
            "claims.dynamics",
            _check_source,
            "pydoc",
            (("gemma2-2b", "wikitext2"), ("gemma2-2b-it", "wikitext2")),
            "texts:",
        ),
        Kind("divergence", "claims.diverging", _check_pair, "docstrings", MS_MARCO),
        Kind(
            "context_switch",
            "claims.adapting",
            _check_method,
            "word_problems",
            (("qwen2.5-math-7b", "mawps"), ("qwen2.5-math-7b", "fairytaleqa")),
            "pairs:",
        ),
    )
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
        raise unknown("kind of measurement", name, KINDS)
    return KINDS[name]
