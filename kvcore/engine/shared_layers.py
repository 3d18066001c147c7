"""Rows of one pass that are alike up to some layer, run once up to there.

Two sequences that ask the same on top of the same keys and values have the same hidden states,
layer by layer, until a layer whose cached keys or values differ. Hybrids of one prefix differ in
few layers: the layers below are run once for all of them, and a layer's rows branch off where it
is the first to differ. Batches change a number by rounding only, and so does this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from kvcore.cache.batch import CacheBatch
from kvcore.models.lm import LM

WORTHWHILE = 0.95
"""Most of the rows' layers that may be left to run, else branching is not worth its copies."""


@dataclass(frozen=True)
class Branches:
    """Which rows each layer runs, every one for all rows that are alike up to there.

    Attributes
    ----------
    rows : tuple of int sequences
        Per layer, the first of the pass's rows of each kind.
    stems : tuple of int sequences
        Per layer, for each of its kinds the place in the first layer's kinds it descends from.
    parents : tuple of int sequences
        Per layer, for each of its kinds the place of its parent in the layer below.
    last : int sequence
        For each row of the pass its place in the last layer.
    """

    rows: tuple[tuple[int, ...], ...]
    stems: tuple[tuple[int, ...], ...]
    parents: tuple[tuple[int, ...], ...]
    last: tuple[int, ...]

    @property
    def share(self) -> float:
        """Share of the rows' layers that are run."""
        return sum(map(len, self.rows)) / (len(self.rows) * len(self.last))


def branches(past: CacheBatch, asked: Sequence[object]) -> Branches:
    """Find which rows of a pass are alike, and up to which layer.

    Parameters
    ----------
    past : Pile
        Rows are alike in a layer where they share its memory; equal copies count as unlike.
    asked : sequence
        What each row reads on top: equal where it is the same.
    """
    kinds = _numbered([*zip(asked, past.position_keys(), strict=True)])
    first = kinds
    rows, stems, parents = [], [], []
    for layer, held in enumerate(past.storage_keys()):
        below, kinds = kinds, _numbered([*zip(kinds, held, strict=True)])
        if layer == 0:
            first = below = kinds
        heads = [kinds.index(kind) for kind in range(max(kinds) + 1)]
        rows.append(tuple(heads))
        stems.append(tuple(first[row] for row in heads))
        parents.append(tuple(below[row] for row in heads))
    return Branches(tuple(rows), tuple(stems), tuple(parents), tuple(kinds))


def _numbered(things: Sequence[object]) -> list[int]:
    """Return for each thing the number of its kind, kinds counted as they first appear."""
    seen: dict[object, int] = {}
    return [seen.setdefault(thing, len(seen)) for thing in things]


def layers_of(lm: LM) -> list[Any]:
    """Return a model's layers from first to last, or none where they cannot be told."""
    found = getattr(lm.model.get_decoder(), "layers", None)
    depth = lm.config.num_hidden_layers
    return list(found) if found is not None and len(found) == depth else []


@contextmanager
def branching(lm: LM, made: Branches) -> Iterator[None]:
    """Let passes of the first layer's rows branch on their way up, inside the context."""

    def index(places: Sequence[int]) -> torch.Tensor:
        return torch.tensor(places, device=lm.device)

    base = len(made.rows[0])
    hooks = []
    for layer, stems, parents in zip(layers_of(lm), made.stems, made.parents, strict=True):
        if len(stems) > base:
            hook = _branch(base, index(stems), index(parents))
            hooks.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def _branch(base: int, stems: torch.Tensor, parents: torch.Tensor) -> Any:
    """Return the hook that gives a layer its rows: hidden states are the layer below's."""

    def hook(
        _module: Any, given: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        named = {
            name: _spread(value, base, stems)
            for name, value in named.items()
            if name != "hidden_states"
        } | {name: named[name][parents] for name in ("hidden_states",) if name in named}
        rest = tuple(_spread(value, base, stems) for value in given[1:])
        return (*(hidden[parents] for hidden in given[:1]), *rest), named

    return hook


def _spread(value: Any, base: int, stems: torch.Tensor) -> Any:
    """Repeat what has a row for each of the first layer's rows; what has one row serves all."""
    if isinstance(value, torch.Tensor):
        rowwise = value.ndim > 1 and len(value) == base > 1
        return value[stems] if rowwise else value
    if isinstance(value, dict):
        return {name: _spread(part, base, stems) for name, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_spread(part, base, stems) for part in value)
    return value
