"""The KV cache as an immutable value. Only this module touches transformers' cache classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from kvcore import rope
from kvcore.errors import KvError

if TYPE_CHECKING:
    import torch

    from kvcore.models import LM

Tensors = tuple["torch.Tensor", ...]


@dataclass(frozen=True, eq=False)
class KVCache:
    """Keys and values of a batch of sequences; every operation returns a new one.

    Attributes
    ----------
    keys, values : tuple of (batch, kv_head, slot, head_dim)
        One tensor per layer.
    positions : (batch, slot) int64
        The position of each slot's token: the number given to RoPE, not the slot's index.
    real : (batch, slot) bool
        False for padding slots, which nothing attends to.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    positions: torch.Tensor
    real: torch.Tensor

    @property
    def slots(self) -> int:
        """Number of slots, padding included."""
        return int(self.positions.shape[1])

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return int(self.positions.shape[0])

    def lengths(self) -> torch.Tensor:
        """Return the number of real slots of each sequence, (batch,) int64."""
        return self.real.sum(dim=1)

    def select(self, index: torch.Tensor, real: torch.Tensor) -> KVCache:
        """Return the slots ``index`` of each sequence, in that order.

        Parameters
        ----------
        index : (batch, n) int64
            Slots to keep, in 0 .. slots - 1.
        real : (batch, n) bool
            Which of them count; the others are padding.

        Raises
        ------
        KvError
            If a slot lies outside the cache.
        """
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < self.slots:
            raise KvError(f"select: slots {int(index.min())}..{int(index.max())} are outside the "
                          f"cache; pass 0..{self.slots - 1}.")
        return KVCache(
            tuple(_take(k, index) for k in self.keys), tuple(_take(v, index) for v in self.values),
            self.positions.gather(1, index), self.real.gather(1, index) & real)

    def keep(self, slots: Sequence[Sequence[int]]) -> KVCache:
        """Return the given slots of each sequence, padded at the end to the longest choice."""
        import torch

        width = max(len(s) for s in slots)
        device = self.positions.device
        index = torch.tensor([[*s, *[0] * (width - len(s))] for s in slots], dtype=torch.int64)
        kept = torch.arange(width) < torch.tensor([len(s) for s in slots]).unsqueeze(1)
        return self.select(index.to(device), kept.to(device))

    def hide(self, slots: Sequence[Sequence[int]]) -> KVCache:
        """Return the cache with the given slots of each sequence out of sight: nothing attends."""
        import torch

        seen = torch.ones_like(self.real)
        for row, hidden in enumerate(slots):
            seen[row, list(hidden)] = False
        return replace(self, real=self.real & seen)

    def reposition(self, lm: LM, plan: rope.RopePlan, deltas: torch.Tensor, *,
                   one_base: str | None = None, precision: torch.dtype | None = None) -> KVCache:
        """Return the cache with each slot's position changed, its keys turned to match.

        Parameters
        ----------
        plan : RopePlan
            From `kvcore.forward.rope_plan`.
        deltas : (batch, slot) int64
            Change of position per slot; 0 leaves a slot bit for bit as it is.
        one_base : str, optional
            Turn every layer with this frequency set instead of its own: wrong on purpose, the
            artifact control for models with two bases.
        precision : torch.dtype, optional
            What the rotation is computed in; float32 by default.

        Notes
        -----
        Exact to float32 rounding of one rotation; values are untouched. Only padding slots may
        be given any delta.
        """
        switch = plan.max_positions
        if switch is not None and deltas.numel() and int(deltas.abs().max()) >= switch:
            raise KvError(f"reposition: a move of {int(deltas.abs().max())} positions reaches past "
                          f"{switch}, where this model changes its frequencies; move less.")
        types = [one_base if one_base is not None and layer.layer_type is not None
                 else layer.layer_type for layer in plan.layers]
        turns = {kind: rope.rotation(lm, kind, deltas) for kind in set(types)}
        keys = tuple(
            rope.rotate(k, *turns[kind], layer.pairing, precision)
            for k, kind, layer in zip(self.keys, types, plan.layers, strict=True))
        return replace(self, keys=keys, positions=self.positions + deltas)

    def renumber(self, positions: torch.Tensor) -> KVCache:
        """Return the cache with other positions and its keys left as they are."""
        return replace(self, positions=positions)

    def mix(self, other: KVCache, index: torch.Tensor, mixed: torch.Tensor, weight: float
            ) -> KVCache:
        """Return the cache with values of another mixed in; keys and positions stay.

        Parameters
        ----------
        other : KVCache
            Of as many sequences, of any number of slots.
        index : (batch, slot) int64
            For each slot of this cache the other's slot that it takes its value from.
        mixed : (batch, slot) bool
            Which slots are mixed at all.
        weight : float
            Share of the other's value, 0 .. 1; 0 and 1 leave the endpoints bit for bit.
        """
        import torch

        # Documents mostly lie in the same slots of both, and a copy less is felt.
        own_slots = torch.arange(self.slots, device=index.device)
        aligned = other.slots == self.slots and bool(((index == own_slots) | ~mixed).all())

        def blend(own: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
            taken = theirs if aligned else _take(theirs, index)
            both = taken if weight == 1 else own if weight == 0 else torch.lerp(own, taken, weight)
            return torch.where(mixed[:, None, :, None], both, own)

        return replace(self, values=tuple(
            blend(own, theirs) for own, theirs in zip(self.values, other.values, strict=True)))

    def with_values(self, other: KVCache, layers: range) -> KVCache:
        """Return the cache with another's values in some layers; both have the same slots."""
        return replace(self, values=tuple(
            theirs if layer in layers else own
            for layer, (own, theirs) in enumerate(zip(self.values, other.values, strict=True))))

    def mean(self, counted: torch.Tensor) -> KVCache:
        """Return one slot per sequence: the mean of the keys and values of the counted slots.

        Parameters
        ----------
        counted : (batch, slot) bool
            At least one per sequence. The mean is taken in float32.
        """
        share = counted.float() / counted.sum(dim=1, keepdim=True)

        def averaged(x: torch.Tensor) -> torch.Tensor:
            return (x.float() * share[:, None, :, None]).sum(dim=2, keepdim=True).to(x.dtype)

        return KVCache(tuple(map(averaged, self.keys)), tuple(map(averaged, self.values)),
                       self.positions[:, :1], self.real[:, :1])

    def rows(self, index: Sequence[int]) -> KVCache:
        """Return the given sequences of the batch, in that order."""
        rows = list(index)
        if rows == list(range(self.batch)):
            return self
        run = range(rows[0], rows[0] + len(rows))
        picked = slice(run.start, run.stop) if rows == list(run) else rows  # a view where it can be
        return KVCache(tuple(k[picked] for k in self.keys), tuple(v[picked] for v in self.values),
                       self.positions[picked], self.real[picked])

    def to_model(self) -> Any:
        """Return a new plain ``DynamicCache`` of these keys and values, for one forward pass.

        Notes
        -----
        Plain (built without a config) so that sliding layers drop nothing. The model appends by
        concatenation, so this cache's tensors are never written to, and need no copy here.
        """
        return _plain(_grown(), zip(self.keys, self.values, strict=True))

    def to_read(self) -> Any:
        """Return what `to_model` does, for a pass whose own keys and values nobody wants."""
        return Pile((self,)).to_read()


@dataclass(frozen=True, eq=False)
class Pile:
    """Several batches that are read as one, joined a layer at a time while a pass runs.

    Attributes
    ----------
    parts : tuple of KVCache
        Sequence stands under sequence, each padded at the end to the longest.
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

    @property
    def positions(self) -> torch.Tensor:
        """The position of each slot's token, (batch, slot) int64."""
        import torch

        return torch.cat([_padded(part.positions, self.slots) for part in self.parts])

    @property
    def real(self) -> torch.Tensor:
        """False for padding slots, (batch, slot) bool."""
        import torch

        return torch.cat([_padded(part.real, self.slots) for part in self.parts])

    def lengths(self) -> torch.Tensor:
        """Return the number of real slots of each sequence, (batch,) int64."""
        import torch

        return torch.cat([part.lengths() for part in self.parts])

    def joined(self) -> KVCache:
        """Return the one batch as a cache of its own."""
        if len(self.parts) == 1:
            return self.parts[0]
        keys, values = (tuple(_joined(parts, self.slots) for parts in zip(*whole, strict=True))
                        for whole in self._by_part())
        return KVCache(keys, values, self.positions, self.real)

    def to_model(self) -> Any:
        """Return a new plain ``DynamicCache`` of the one batch, for one forward pass."""
        return self.joined().to_model()

    def places(self) -> list[tuple[int, ...]]:
        """Return where in memory each row's positions stand, and what says which are real."""
        return [(*at, *seen) for part in self.parts
                for at, seen in zip(_where(part.positions), _where(part.real), strict=True)]

    def memory(self) -> Iterator[list[tuple[int, ...]]]:
        """Yield, layer by layer, where in memory each row's keys and values stand.

        Rows that share memory are equal; equal rows need not share it.
        """
        for layer in range(len(self.parts[0].keys)):
            yield [(*own, *worth) for part in self.parts for own, worth in zip(
                _where(part.keys[layer]), _where(part.values[layer]), strict=True)]

    def to_read(self, rows: Sequence[Sequence[int]] = ()) -> Any:
        """Return what `to_model` does, for a pass whose own keys and values nobody wants.

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
            layers = [(self._some(k, of_layer), self._some(v, of_layer))
                      for of_layer, (k, v) in zip(rows, layers, strict=True)]
        return _plain(_passing(self.slots), layers)

    def _some(self, whole: Tensors, rows: Sequence[int]) -> Tensors:
        """Return some rows of one layer's parts, neighbours together: views, no copies."""
        at = [(part, row) for part, held in enumerate(self.parts) for row in range(held.batch)]
        runs: list[list[int]] = []
        for part, row in (at[n] for n in rows):
            if runs and runs[-1][0] == part and runs[-1][2] == row:
                runs[-1][2] += 1
            else:
                runs.append([part, row, row + 1])
        return tuple(whole[part][start:stop] for part, start, stop in runs)

    def _by_part(self) -> tuple[list[Tensors], list[Tensors]]:
        """Return the keys and the values of every part, layer by layer."""
        return [part.keys for part in self.parts], [part.values for part in self.parts]


def _where(x: torch.Tensor) -> list[tuple[int, ...]]:
    """Return for each row of a tensor where in memory it stands, and in which form."""
    step = x.stride(0) * x.element_size()
    return [(x.data_ptr() + row * step, *x.shape[1:], *x.stride()[1:]) for row in range(len(x))]


def pile(picked: Iterable[tuple[KVCache, Sequence[int]]]) -> Pile:
    """Return the given sequences of several caches as one batch; nothing is copied."""
    parts: list[KVCache] = []
    for cache, rows in picked:
        cuts = [0, *(i for i in range(1, len(rows)) if rows[i] != rows[i - 1] + 1), len(rows)]
        parts += [cache.rows(rows[a:b]) for a, b in pairwise(cuts)]
    return Pile(tuple(parts))


def stack(caches: Sequence[KVCache]) -> KVCache:
    """Join several batches into one, padding every sequence at the end to the longest."""
    return Pile(tuple(caches)).joined()


def _plain(layer_class: Any, layers: Iterable[tuple[Any, Any]]) -> Any:
    """Return a plain ``DynamicCache`` whose layers hold what is given for each."""
    cache = empty()
    for keys, values in layers:
        layer = layer_class()
        layer.keys, layer.values, layer.is_initialized = keys, values, True
        cache.layers.append(layer)
    return cache


def _grown() -> Any:
    """Return the class of cache layers that keep what they are given."""
    from transformers.cache_utils import DynamicLayer

    return DynamicLayer


def _passing(slots: int) -> Any:
    """Return the class of cache layers that hand out what is new behind what is there, once.

    Their keys and values are those of several batches, of at most so many slots.
    """
    class Passing(_grown()):  # type: ignore[misc]
        def update(self, key_states: Any, value_states: Any, *_args: Any, **_options: Any
                   ) -> tuple[torch.Tensor, torch.Tensor]:
            return (_joined(self.keys, slots, key_states),
                    _joined(self.values, slots, value_states))

        def get_seq_length(self, *_args: Any) -> int:
            return slots

    return Passing


def empty() -> Any:
    """Return an empty plain ``DynamicCache``."""
    from transformers import DynamicCache

    return DynamicCache()


class Filled(Exception):
    """Raised from within a forward pass when every layer has cached its keys and values."""


def until(last: int) -> Any:
    """Return an empty plain ``DynamicCache`` that ends the pass when a layer has been cached."""
    from transformers import DynamicCache

    class Until(DynamicCache):
        def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any,
                   **options: Any) -> Any:
            both = super().update(key_states, value_states, layer_idx, *args, **options)
            if layer_idx == last:
                raise Filled
            return both

    return Until()


def from_model(cache: Any, positions: torch.Tensor, real: torch.Tensor) -> KVCache:
    """Take over what a forward pass left in a ``DynamicCache``.

    Raises
    ------
    KvError
        If the cache does not hold one slot per position (layers that share or drop entries).
    """
    layers = cache.layers
    slots = positions.shape[1]
    for i, layer in enumerate(layers):
        keys = getattr(layer, "keys", None)
        if keys is None or keys.ndim != 4 or keys.shape[2] != slots:
            raise KvError(f"layer {i} does not cache one key per token (shared, latent or state "
                          "layers); this model is not supported.")
    return KVCache(tuple(x.keys for x in layers), tuple(x.values for x in layers), positions, real)


def _take(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return the slots ``index`` of each sequence; where all take the same, whole slots at once."""
    if bool((index == index[:1]).all()):
        return x.index_select(2, index[0])
    return x.gather(2, index[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))


def _joined(parts: Sequence[torch.Tensor], width: int, behind: torch.Tensor | None = None
            ) -> torch.Tensor:
    """Join batches of unequally many slots, padded with zeros, and what stands behind each row."""
    first, more = parts[0], 0 if behind is None else behind.shape[2]
    joined = first.new_empty(sum(len(x) for x in parts), first.shape[1], width + more,
                             first.shape[3])
    row = 0
    for x in parts:
        joined[row : row + len(x), :, : x.shape[2]] = x
        joined[row : row + len(x), :, x.shape[2] : width] = 0
        row += len(x)
    if behind is not None:
        joined[:, :, width:] = behind
    return joined


def _padded(x: torch.Tensor, width: int) -> torch.Tensor:
    import torch

    return torch.nn.functional.pad(x, (0, width - x.shape[1]))
