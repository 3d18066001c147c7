"""The KV cache as an immutable value."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kvcore.cache import hf_cache, rope
from kvcore.errors import KvError
from kvcore.models.device import upload
from kvcore.models.lm import LM


@dataclass(frozen=True, eq=False, repr=False)
class KVCache:
    """Keys and values of a batch of sequences; every operation returns a new one.

    Attributes
    ----------
    keys, values : tuple of tensors
        One per layer.
    positions : int64
        The position of each slot's token: the number given to RoPE, not the slot's index.
    real : bool
        False for padding slots, which nothing attends to.
    """

    keys: tuple[Float[Tensor, "batch kv_head slot head_dim"], ...]
    values: tuple[Float[Tensor, "batch kv_head slot head_dim"], ...]
    positions: Int[Tensor, "batch slot"]
    real: Bool[Tensor, "batch slot"]

    def __repr__(self) -> str:
        """Say how large it is; its numbers fill screens."""
        _, heads, _, width = self.keys[0].shape if self.keys else (0, 0, 0, 0)
        return (
            f"<KVCache of {self.batch} rows, {self.slots} slots: {len(self.keys)} layers, "
            f"{heads} heads of {width}, {self.keys[0].dtype if self.keys else 'empty'}>"
        )

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """Show the same to pretty printers, which else list the fields of a dataclass."""
        printer.text(repr(self))

    @property
    def slots(self) -> int:
        """Number of slots, padding included."""
        return int(self.positions.shape[1])

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return int(self.positions.shape[0])

    def lengths(self) -> Int[Tensor, " batch"]:
        """Return the number of real slots of each sequence."""
        return self.real.sum(dim=1)

    def slot_indices(self) -> Int[Tensor, "1 slot"]:
        """Return 0, 1, 2, ... for the slots."""
        return torch.arange(self.slots, device=self.positions.device).unsqueeze(0)

    def select(self, index: Int[Tensor, "batch n"], real: Bool[Tensor, "batch n"]) -> KVCache:
        """Return the slots ``index`` of each sequence, in that order.

        Parameters
        ----------
        index : int64
            Slots to keep, in 0 .. slots - 1. On the host nothing waits for the device.
        real : bool
            Which of them count; the others are padding.

        Raises
        ------
        KvError
            If a slot lies outside the cache.
        """
        least, most, alike = _extent(index)
        if index.numel() and not 0 <= least <= most < self.slots:
            raise KvError(
                f"select: `index` must lie in 0..{self.slots - 1}, the cache's slots; got "
                f"{least}..{most}."
            )
        index, real = (upload(x, self.positions.device) for x in (index, real))
        return KVCache(
            tuple(_take(k, index, alike) for k in self.keys),
            tuple(_take(v, index, alike) for v in self.values),
            self.positions.gather(1, index),
            self.real.gather(1, index) & real,
        )

    def keep(self, slots: Sequence[Sequence[int]]) -> KVCache:
        """Return some slots of each sequence, padded at the end to the longest choice."""
        width = max(len(s) for s in slots)
        index = torch.tensor([[*s, *[0] * (width - len(s))] for s in slots], dtype=torch.int64)
        real = torch.arange(width) < torch.tensor([len(s) for s in slots]).unsqueeze(1)
        return self.select(index, real)

    def hide(self, slots: Sequence[Sequence[int]]) -> KVCache:
        """Return the cache with some slots of each sequence masked: nothing attends to them."""
        seen = torch.ones(self.real.shape, dtype=torch.bool)  # on the host, a copy for all rows
        for row, hidden in enumerate(slots):
            seen[row, list(hidden)] = False
        return replace(self, real=self.real & upload(seen, self.real.device))

    def reposition(
        self,
        lm: LM,
        plan: rope.RopePlan,
        deltas: Int[Tensor, "batch slot"],
        *,
        one_base: str | None = None,
        precision: torch.dtype | None = None,
    ) -> KVCache:
        """Return the cache with each slot's position changed, and each key rotated by that change.

        Parameters
        ----------
        plan : RopePlan
            From `kvcore.engine.rope_probe.rope_plan`.
        deltas : int64
            Change of position per slot; 0 leaves a slot bit for bit as it is.
        one_base : str, optional
            Rotate every layer with this frequency set instead of its own: wrong on purpose, the
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
                f"reposition: `deltas` must be below {switch}, where this model changes its "
                f"frequencies; got a move of {int(deltas.abs().max())} positions, move less."
            )
        types = [
            one_base if one_base is not None and layer.layer_type is not None else layer.layer_type
            for layer in plan.layers
        ]
        rotated = [layer.pairing != "none" for layer in plan.layers]
        in_use = set(itertools.compress(types, rotated))  # a model may have none for the others
        rotations = {kind: rope.rotation(lm, kind, deltas) for kind in in_use}
        keys = tuple(
            rope.rotate(k, *rotations[kind], layer.pairing, precision) if turns else k
            for k, kind, layer, turns in zip(self.keys, types, plan.layers, rotated, strict=True)
        )
        return replace(self, keys=keys, positions=self.positions + deltas)

    def renumber(self, positions: Int[Tensor, "batch slot"]) -> KVCache:
        """Return the cache with other positions and its keys left as they are."""
        return replace(self, positions=positions)

    def mix(
        self,
        other: KVCache,
        index: Int[Tensor, "batch slot"],
        mixed: Bool[Tensor, "batch slot"],
        weight: float,
    ) -> KVCache:
        """Return the cache with values of another mixed in; keys and positions stay.

        Parameters
        ----------
        other : KVCache
            Of as many sequences, of any number of slots.
        index : int64
            For each slot of this cache the other's slot that it takes its value from.
        mixed : bool
            Which slots are mixed at all. With `index` on the host nothing waits for the device.
        weight : float
            Share of the other's value, at least 0; 0 and 1 leave the endpoints bit for bit, more
            than 1 goes on in a straight line beyond the other's value.
        """
        # Documents mostly lie in the same slots of both, and a copy less is felt.
        own_slots = torch.arange(self.slots, device=index.device)
        aligned = other.slots == self.slots and bool(((index == own_slots) | ~mixed).all())
        alike = not aligned and _extent(index)[2]
        index, mixed = (upload(x, self.positions.device) for x in (index, mixed))

        def blend(own: Tensor, theirs: Tensor) -> Tensor:
            moved = theirs if aligned else _take(theirs, index, alike)
            both = moved if weight == 1 else own if weight == 0 else torch.lerp(own, moved, weight)
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

    def with_bos_of(self, other: KVCache) -> KVCache:
        """Return the cache with the first slot's keys and values of another; all else stays.

        Raises
        ------
        KvError
            If the first slots have other positions.
        """
        if not torch.equal(self.positions[:, :1], other.positions[:, :1]):
            raise KvError(
                "with_bos_of: the first slots have other positions; re-position one of the caches."
            )

        def swapped(own: Tensor, theirs: Tensor) -> Tensor:
            return torch.cat([theirs[:, :, :1], own[:, :, 1:]], dim=2)

        return replace(
            self,
            keys=tuple(map(swapped, self.keys, other.keys)),
            values=tuple(map(swapped, self.values, other.values)),
        )

    def mean(self, counted: Bool[Tensor, "batch slot"]) -> KVCache:
        """Return one slot per sequence: the mean of the keys and values of the counted slots.

        Parameters
        ----------
        counted : bool
            At least one per sequence. The mean is taken in float32.
        """
        share = counted.float() / counted.sum(dim=1, keepdim=True)

        def average(x: Tensor) -> Tensor:
            return (x.float() * share[:, None, :, None]).sum(dim=2, keepdim=True).to(x.dtype)

        return KVCache(
            tuple(map(average, self.keys)),
            tuple(map(average, self.values)),
            self.positions[:, :1],
            self.real[:, :1],
        )

    def rows(self, index: Sequence[int]) -> KVCache:
        """Return some sequences of the batch, in the order of their index."""
        rows = list(index)
        if rows == list(range(self.batch)):
            return self
        run = range(rows[0], rows[0] + len(rows))
        # A view where it can be.
        picked = (
            slice(run.start, run.stop) if rows == list(run) else upload(rows, self.positions.device)
        )
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

    def for_generate(self, ids: Sequence[int]) -> dict[str, Any]:
        """Return what transformers' ``generate`` takes to go on from this cache with some tokens.

        The ids that stand for cached slots are never read.

        Raises
        ------
        KvError
            If there are no tokens, or slots are hidden or not at positions 0, 1, 2, ...:
            ``generate`` counts positions from the slots that are seen.
        """
        compact = self.slot_indices().expand_as(self.positions)
        if not ids or not bool(self.real.all()) or not torch.equal(self.positions, compact):
            raise KvError(
                "for_generate: pass at least one token, and a cache whose slots are all seen and "
                "stand at positions 0, 1, 2, ...; others can be scored (kvcore.score_cache)."
            )
        row = torch.tensor([[0] * self.slots + [int(i) for i in ids]], device=self.positions.device)
        rows = row.expand(self.batch, -1)
        return {
            "input_ids": rows,
            "attention_mask": torch.ones_like(rows),
            "past_key_values": self.to_model(),
        }


def of_one_sequence(cache: Any) -> KVCache:
    """Take over a ``DynamicCache`` of one sequence at positions 0, 1, 2, ..., all of them seen.

    Raises
    ------
    KvError
        If it is empty or layers hold other numbers of slots.
    """
    first = cache.layers[0].keys if len(getattr(cache, "layers", ())) else None
    if first is None:
        raise KvError("the cache holds no layers; pass a KVCache or a filled DynamicCache.")
    positions = torch.arange(first.shape[2], device=first.device).expand(first.shape[0], -1)
    return from_model(cache, positions, torch.ones_like(positions, dtype=torch.bool))


def from_model(
    cache: Any, positions: Int[Tensor, "batch slot"], real: Bool[Tensor, "batch slot"]
) -> KVCache:
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


def _extent(index: Int[Tensor, "batch n"]) -> tuple[int, int, bool]:
    """Return the least and the largest slot, and whether all sequences take the same ones."""
    if not index.numel():
        return 0, 0, True
    alike = (index == index[:1]).all().to(index.dtype)
    least, most, same = torch.stack([index.min(), index.max(), alike]).tolist()  # one copy
    return least, most, bool(same)


def _take(
    x: Float[Tensor, "batch kv_head slot head_dim"], index: Int[Tensor, "batch n"], alike: bool
) -> Float[Tensor, "batch kv_head n head_dim"]:
    """Return the slots ``index`` of each sequence; where all are the same, whole slots at once."""
    if alike:
        return x.index_select(2, index[0])
    return x.gather(2, index[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
