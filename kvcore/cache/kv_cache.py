"""The KV cache as an immutable value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from kvcore.cache import hf_cache, rope
from kvcore.errors import KvError
from kvcore.models.lm import LM


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

    def slot_indices(self) -> torch.Tensor:
        """Return 0, 1, 2, ... for the slots, (1, slot) int64."""
        return torch.arange(self.slots, device=self.positions.device).unsqueeze(0)

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
            raise KvError(
                f"select: slots {int(index.min())}..{int(index.max())} are outside the "
                f"cache; pass 0..{self.slots - 1}."
            )
        return KVCache(
            tuple(_take(k, index) for k in self.keys),
            tuple(_take(v, index) for v in self.values),
            self.positions.gather(1, index),
            self.real.gather(1, index) & real,
        )

    def keep(self, slots: Sequence[Sequence[int]]) -> KVCache:
        """Return the given slots of each sequence, padded at the end to the longest choice."""
        width = max(len(s) for s in slots)
        device = self.positions.device
        index = torch.tensor([[*s, *[0] * (width - len(s))] for s in slots], dtype=torch.int64)
        kept = torch.arange(width) < torch.tensor([len(s) for s in slots]).unsqueeze(1)
        return self.select(index.to(device), kept.to(device))

    def hide(self, slots: Sequence[Sequence[int]]) -> KVCache:
        """Return the cache with the given slots of each sequence out of sight: nothing attends."""
        seen = torch.ones_like(self.real)
        for row, hidden in enumerate(slots):
            seen[row, list(hidden)] = False
        return replace(self, real=self.real & seen)

    def reposition(
        self,
        lm: LM,
        plan: rope.RopePlan,
        deltas: torch.Tensor,
        *,
        one_base: str | None = None,
        precision: torch.dtype | None = None,
    ) -> KVCache:
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
            raise KvError(
                f"reposition: a move of {int(deltas.abs().max())} positions reaches past "
                f"{switch}, where this model changes its frequencies; move less."
            )
        types = [
            one_base if one_base is not None and layer.layer_type is not None else layer.layer_type
            for layer in plan.layers
        ]
        turns = {kind: rope.rotation(lm, kind, deltas) for kind in set(types)}
        keys = tuple(
            rope.rotate(k, *turns[kind], layer.pairing, precision)
            for k, kind, layer in zip(self.keys, types, plan.layers, strict=True)
        )
        return replace(self, keys=keys, positions=self.positions + deltas)

    def renumber(self, positions: torch.Tensor) -> KVCache:
        """Return the cache with other positions and its keys left as they are."""
        return replace(self, positions=positions)

    def mix(
        self, other: KVCache, index: torch.Tensor, mixed: torch.Tensor, weight: float
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
        # Documents mostly lie in the same slots of both, and a copy less is felt.
        own_slots = torch.arange(self.slots, device=index.device)
        aligned = other.slots == self.slots and bool(((index == own_slots) | ~mixed).all())

        def blend(own: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
            taken = theirs if aligned else _take(theirs, index)
            both = taken if weight == 1 else own if weight == 0 else torch.lerp(own, taken, weight)
            return torch.where(mixed[:, None, :, None], both, own)

        return replace(
            self,
            values=tuple(
                blend(own, theirs) for own, theirs in zip(self.values, other.values, strict=True)
            ),
        )

    def with_values(self, other: KVCache, layers: range) -> KVCache:
        """Return the cache with another's values in some layers; both have the same slots."""
        return replace(
            self,
            values=tuple(
                theirs if layer in layers else own
                for layer, (own, theirs) in enumerate(zip(self.values, other.values, strict=True))
            ),
        )

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

        return KVCache(
            tuple(map(averaged, self.keys)),
            tuple(map(averaged, self.values)),
            self.positions[:, :1],
            self.real[:, :1],
        )

    def rows(self, index: Sequence[int]) -> KVCache:
        """Return the given sequences of the batch, in that order."""
        rows = list(index)
        if rows == list(range(self.batch)):
            return self
        run = range(rows[0], rows[0] + len(rows))
        picked = slice(run.start, run.stop) if rows == list(run) else rows  # a view where it can be
        return KVCache(
            tuple(k[picked] for k in self.keys),
            tuple(v[picked] for v in self.values),
            self.positions[picked],
            self.real[picked],
        )

    def to_model(self) -> Any:
        """Return a new plain ``DynamicCache`` of these keys and values, for one forward pass.

        Notes
        -----
        Plain (built without a config) so that sliding layers drop nothing. The model appends by
        concatenation, so this cache's tensors are never written to, and need no copy here.
        """
        return hf_cache.of_layers(zip(self.keys, self.values, strict=True))


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
            raise KvError(
                f"layer {i} does not cache one key per token (shared, latent or state "
                "layers); this model is not supported."
            )
    return KVCache(tuple(x.keys for x in layers), tuple(x.values for x in layers), positions, real)


def _take(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return the slots ``index`` of each sequence; where all take the same, whole slots at once."""
    if bool((index == index[:1]).all()):
        return x.index_select(2, index[0])
    return x.gather(2, index[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
