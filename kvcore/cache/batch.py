"""Several caches read as one batch, joined a layer at a time while a pass runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from kvcore.cache import hf_cache
from kvcore.cache.kv_cache import KVCache

Tensors = tuple[Float[Tensor, "_ kv_head _ head_dim"], ...]
"""One layer's keys, or its values, of several caches."""


@dataclass(frozen=True, eq=False)
class CacheBatch:
    """Several batches that are read as one, joined a layer at a time while a pass runs.

    Attributes
    ----------
    parts : tuple of KVCache
        Concatenated along the batch axis, each padded at the end to the longest.
    """

    parts: tuple[KVCache, ...]

    @property
    def slots(self) -> int:
        """Number of slots, padding included."""
        return max(part.slots for part in self.parts)

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return sum(part.batch for part in self.parts)

    @cached_property
    def positions(self) -> Int[Tensor, "batch slot"]:
        """The position of each slot's token."""
        slots = self.slots
        return torch.cat([_padded(part.positions, slots) for part in self.parts])

    @cached_property
    def real(self) -> Bool[Tensor, "batch slot"]:
        """False for padding slots."""
        slots = self.slots
        return torch.cat([_padded(part.real, slots) for part in self.parts])

    def lengths(self) -> Int[Tensor, " batch"]:
        """Return the number of real slots of each sequence."""
        return torch.cat([part.lengths() for part in self.parts])

    def joined(self) -> KVCache:
        """Return the one batch as a cache of its own."""
        if len(self.parts) == 1:
            return self.parts[0]
        keys, values = (
            tuple(hf_cache.join_padded(parts, self.slots) for parts in zip(*whole, strict=True))
            for whole in self._by_part()
        )
        return KVCache(keys, values, self.positions, self.real)

    def to_model(self) -> Any:
        """Return a new plain ``DynamicCache`` of the one batch, for one forward pass."""
        return self.joined().to_model()

    def position_keys(self) -> list[tuple[int, ...]]:
        """Return where in memory each row's positions lie, and what says which are real."""
        return [
            (*positions, *real)
            for part in self.parts
            for positions, real in zip(_storage(part.positions), _storage(part.real), strict=True)
        ]

    def storage_keys(self) -> Iterator[list[tuple[int, ...]]]:
        """Yield, layer by layer, where in memory each row's keys and values lie.

        Rows that share memory are equal; equal rows need not share it.
        """
        for layer in range(len(self.parts[0].keys)):
            yield [
                (*keys, *values)
                for part in self.parts
                for keys, values in zip(
                    _storage(part.keys[layer]), _storage(part.values[layer]), strict=True
                )
            ]

    def as_transient_hf_cache(self, rows: Sequence[Sequence[int]] = ()) -> Any:
        """Return what `to_model` does, for a pass whose own keys and values are not needed.

        Parameters
        ----------
        rows : sequence of int sequences, optional
            Which rows each layer reads, all by default.

        Notes
        -----
        Bit for bit the same numbers. A layer's keys and values are joined when it runs and let go
        of behind it, so that one layer's memory serves them all: the passes on top of many caches
        are spared a copy of each, and its page faults.
        """
        keys, values = (zip(*whole, strict=True) for whole in self._by_part())
        layers = list(zip(keys, values, strict=True))
        if rows:
            layers = [
                (self._some_rows(k, layer_rows), self._some_rows(v, layer_rows))
                for layer_rows, (k, v) in zip(rows, layers, strict=True)
            ]
        return hf_cache.of_transient_layers(layers, self.slots)

    def _some_rows(self, whole: Tensors, rows: Sequence[int]) -> Tensors:
        """Return some rows of one layer's parts, neighbours together: views, no copies."""
        places = [(n, row) for n, part in enumerate(self.parts) for row in range(part.batch)]
        runs: list[list[int]] = []
        for part, row in (places[n] for n in rows):
            if runs and runs[-1][0] == part and runs[-1][2] == row:
                runs[-1][2] += 1
            else:
                runs.append([part, row, row + 1])
        return tuple(whole[part][start:stop] for part, start, stop in runs)

    def _by_part(self) -> tuple[list[Tensors], list[Tensors]]:
        """Return the keys and the values of every part, layer by layer."""
        return [part.keys for part in self.parts], [part.values for part in self.parts]


def _storage(x: Tensor) -> list[tuple[int, ...]]:
    """Return for each row of a tensor where in memory it lies, and in which form."""
    start, step = x.data_ptr(), x.stride(0) * x.element_size()
    form = (*x.shape[1:], *x.stride()[1:])
    return [(start + row * step, *form) for row in range(x.shape[0])]


def concatenate(rows_of: Iterable[tuple[KVCache, Sequence[int]]]) -> CacheBatch:
    """Return some sequences of several caches as one batch; nothing is copied."""
    parts: list[KVCache] = []
    for cache, rows in rows_of:
        cuts = [0, *(i for i in range(1, len(rows)) if rows[i] != rows[i - 1] + 1), len(rows)]
        parts += [cache.rows(rows[a:b]) for a, b in pairwise(cuts)]
    return CacheBatch(tuple(parts))


def stack(caches: Sequence[KVCache]) -> KVCache:
    """Join several batches into one, padding every sequence at the end to the longest."""
    return CacheBatch(tuple(caches)).joined()


def _padded(x: Shaped[Tensor, "batch slot"], width: int) -> Shaped[Tensor, "batch wider"]:
    return x if x.shape[1] == width else torch.nn.functional.pad(x, (0, width - x.shape[1]))
