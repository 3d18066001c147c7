"""Rows of one pass that are alike up to some layer, run once up to there.

Two sequences that read the same on top of the same keys and values have the same hidden states,
layer by layer, until a layer whose cached keys or values differ. Hybrids of one prefix differ in
few layers: the layers below are run once for all of them. Batches change a number by rounding
only, and so does this.

Rows that are alike up to and including a layer's cache form a *class* of that layer, so that
there are three ways to number things:

- *rows* of the pass, as it was asked for;
- *classes of a layer*, numbered as they first appear among the rows: the batch that this layer
  runs on;
- *base classes*, those of the first layer: the batch that the model is called with, and so the
  numbering of masks, position embeddings and whatever else the model hands to every layer.

An example of three rows and three layers; a letter is a layer's cached keys and values::

    row                0   1   2     classes      first_rows  base_classes  parents
    layer 0 reads      a   a   a     {0,1,2}      (0,)        (0,)          (0,)
    layer 1 reads      b   B   B     {0} {1,2}    (0, 1)      (0, 0)        (0, 0)
    layer 2 reads      c   c   C     {0} {1} {2}  (0, 1, 2)   (0, 0, 0)     (0, 1, 1)
    last_classes       0   1   2

Layer 1 runs twice on what layer 0 put out (``parents``), layer 2 once on what layer 1 put out for
its class 0 and twice on what it put out for class 1: 6 of 9 rows' layers are run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kvcore.cache.batch import CacheBatch
from kvcore.engine import hooks
from kvcore.models.device import upload
from kvcore.models.lm import LM

MAX_SHARE_RUN = 0.95
"""Most of the rows' layers that may be left to run, else sharing is not worth its copies."""


@dataclass(frozen=True)
class RowClasses:
    """The classes of a pass's rows, layer by layer; see this module's example.

    Attributes
    ----------
    first_rows : tuple of int sequences
        Per layer, the first row of each class.
    base_classes : tuple of int sequences
        Per layer, the base class that each class is part of.
    parents : tuple of int sequences
        Per layer, the class of the layer below that each class is part of; of the first layer
        the class itself.
    last_classes : int sequence
        For each row its class in the last layer.
    """

    first_rows: tuple[tuple[int, ...], ...]
    base_classes: tuple[tuple[int, ...], ...]
    parents: tuple[tuple[int, ...], ...]
    last_classes: tuple[int, ...]

    @property
    def share_run(self) -> float:
        """Share of the rows' layers that are run, 0 .. 1."""
        return sum(map(len, self.first_rows)) / (len(self.first_rows) * len(self.last_classes))


def classify_rows(past: CacheBatch, read: Sequence[object]) -> RowClasses:
    """Find which rows of a pass are alike, and up to which layer.

    Parameters
    ----------
    past : CacheBatch
        Rows are alike in a layer where they share its memory; equal copies count as unlike.
    read : sequence
        What each row reads on top: equal where it is the same.
    """
    classes = _numbered([*zip(read, past.position_keys(), strict=True)])
    base: list[int] = []
    first_rows, base_classes, parents = [], [], []
    for memory in past.storage_keys():
        below, classes = classes, _numbered([*zip(classes, memory, strict=True)])
        if not base:
            base = below = classes
        firsts = [classes.index(number) for number in range(max(classes) + 1)]
        first_rows.append(tuple(firsts))
        base_classes.append(tuple(base[row] for row in firsts))
        parents.append(tuple(below[row] for row in firsts))
    return RowClasses(tuple(first_rows), tuple(base_classes), tuple(parents), tuple(classes))


def _numbered(things: Sequence[object]) -> list[int]:
    """Return for each thing the number of its class, classes counted as they first appear."""
    numbers: dict[object, int] = {}
    return [numbers.setdefault(thing, len(numbers)) for thing in things]


@contextmanager
def layers_shared(lm: LM, classes: RowClasses) -> Iterator[None]:
    """Let passes on the base classes spread to each layer's own classes, inside the context."""

    def index(numbers: Sequence[int]) -> torch.Tensor:
        return upload(np.array(numbers, np.int64), lm.device)

    base_size = len(classes.first_rows[0])
    handles: list[Any] = []
    for layer, base_classes, parents in zip(
        hooks.layers_of(lm), classes.base_classes, classes.parents, strict=True
    ):
        if len(base_classes) > base_size:
            hook = spread_hook(base_size, index(base_classes), index(parents))
            handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def spread_hook(base_size: int, base_classes: torch.Tensor, parents: torch.Tensor) -> Any:
    """Return the hook that gives a layer a row for each of its classes.

    Hidden states have a row for each class of the layer below; all else has one for each base
    class, or one for all of them.
    """

    def hook(
        _module: Any, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        # Hidden states come first, or by name.
        first, rest = inputs[:1], inputs[1:]
        return (
            (*(x[parents] for x in first), *(_spread(x, base_size, base_classes) for x in rest)),
            {
                name: x[parents] if name == "hidden_states" else _spread(x, base_size, base_classes)
                for name, x in named.items()
            },
        )

    return hook


def _spread(value: Any, base_size: int, base_classes: torch.Tensor) -> Any:
    """Repeat what has a row for each base class; what has one row serves all."""
    if isinstance(value, torch.Tensor):
        rowwise = value.ndim > 1 and len(value) == base_size > 1
        return value[base_classes] if rowwise else value
    if isinstance(value, dict):
        return {name: _spread(part, base_size, base_classes) for name, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_spread(part, base_size, base_classes) for part in value)
    return value
