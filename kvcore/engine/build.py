"""From a recipe to a cache, for a group of samples: one function per kind of recipe."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from kvcore.cache.batch import CacheBatch
from kvcore.cache.kv_cache import KVCache
from kvcore.conditions.recipes import (
    DropPrefix,
    LayerRange,
    MaskFromQuery,
    Mean,
    Mix,
    Prefill,
    Recipe,
    Reposition,
    RotateForward,
    SwapBos,
    Truncate,
    TruncateBut,
)
from kvcore.engine import forward, one_pass, rope_probe
from kvcore.engine.forward import ForwardInput, SequenceInput
from kvcore.engine.prepared import PreparedSample
from kvcore.errors import KvError
from kvcore.models.device import upload
from kvcore.models.lm import LM

Caches = dict[Recipe, KVCache]
"""Caches of one group of samples by their recipes: one sequence per sample, in its order."""
Group = Sequence[PreparedSample]


def build(lm: LM, recipe: Recipe, caches: Caches, group: Group) -> KVCache:
    """Carry out a recipe on a group of samples.

    Parameters
    ----------
    caches : dict of Recipe to KVCache
        What is built already. Shared by recipes with equal parts; what is built is added.

    Returns
    -------
    KVCache
        A new one; what was built before is not changed.
    """
    if recipe not in caches:
        caches[recipe] = carry_out(recipe, lm, caches, group)
    return caches[recipe]


@functools.singledispatch
def carry_out(recipe: Recipe, _lm: LM, _caches: Caches, _group: Group) -> KVCache:
    """Build a recipe's cache from those of its sources; see `build`."""
    raise KvError(f"`recipe={recipe!r}` must be one of kvcore.conditions.recipes' primitives.")


@carry_out.register
def _prefill(recipe: Prefill, lm: LM, _caches: Caches, group: Group) -> KVCache:
    return prefill_group(lm, recipe, group)


@carry_out.register(Truncate)
@carry_out.register(TruncateBut)
@carry_out.register(DropPrefix)
def _leave_slots(
    recipe: Truncate | TruncateBut | DropPrefix, lm: LM, caches: Caches, group: Group
) -> KVCache:
    source = build(lm, recipe.source, caches, group)
    return source.keep([sample.slots_left(recipe) for sample in group])


@carry_out.register
def _swap_bos(recipe: SwapBos, lm: LM, caches: Caches, group: Group) -> KVCache:
    source, bos = (build(lm, part, caches, group) for part in (recipe.source, recipe.bos))
    return source.with_bos_of(bos)


@carry_out.register
def _mask_from_query(recipe: MaskFromQuery, lm: LM, caches: Caches, group: Group) -> KVCache:
    source = build(lm, recipe.source, caches, group)
    return source.hide([sample.hidden_slots(recipe) for sample in group])


@carry_out.register
def _mean(recipe: Mean, lm: LM, caches: Caches, group: Group) -> KVCache:
    source = build(lm, recipe.source, caches, group)
    return source.mean(source.real & (source.slot_indices() >= lm.has_bos))


@carry_out.register
def _rotate_forward(recipe: RotateForward, lm: LM, caches: Caches, group: Group) -> KVCache:
    source = build(lm, recipe.source, caches, group)
    lengths = [len(sample.prefixes[recipe.prefix]) for sample in group]
    deltas = upload(lengths, source.positions.device).unsqueeze(1)
    return source.reposition(
        lm, rope_probe.rope_plan(lm), deltas * (source.slot_indices() >= lm.has_bos)
    )


@carry_out.register
def _reposition(recipe: Reposition, lm: LM, caches: Caches, group: Group) -> KVCache:
    source = build(lm, recipe.source, caches, group)
    compact = source.slot_indices().expand_as(source.positions)
    if recipe.rope_base == "none":
        return source.renumber(compact)
    # Padding slots would move by more than any real one; they may as well stay.
    deltas = (compact - source.positions) * source.real
    return source.reposition(
        lm,
        rope_probe.rope_plan(lm),
        deltas,
        one_base=None if recipe.rope_base == "own" else recipe.rope_base,
        precision=source.keys[0].dtype if recipe.precision == "model" else None,
    )


@carry_out.register
def _mix(recipe: Mix, lm: LM, caches: Caches, group: Group) -> KVCache:
    """Mix in every layer once, and take from that the layers that a recipe asks for.

    Recipes that differ in their layers alone so share the memory of what they have in common.
    """
    own = build(lm, recipe.keys, caches, group)
    other = build(lm, _same_values(recipe.values), caches, group)
    in_all_layers = replace(recipe, layers=LayerRange.all())
    if recipe != in_all_layers:
        mixed = build(lm, in_all_layers, caches, group)
        return own.with_values(mixed, recipe.layers.in_depth(len(own.keys)))
    index = torch.zeros(own.batch, own.slots, dtype=torch.int64)
    is_mixed = torch.zeros(own.batch, own.slots, dtype=torch.bool)
    as_arrays = index.numpy(), is_mixed.numpy()  # the same memory
    for row, sample in enumerate(group):
        slots, value_slots = _mixed_slots(recipe, sample)
        as_arrays[0][row, slots] = value_slots
        as_arrays[1][row, slots] = True
    return own.mix(other, index, is_mixed, recipe.weight)


def _same_values(recipe: Recipe) -> Recipe:
    """Return what has the same values as a recipe: rotation changes keys and positions alone."""
    while isinstance(recipe, Reposition | RotateForward):
        recipe = recipe.source
    return recipe


def _mixed_slots(recipe: Mix, sample: PreparedSample) -> tuple[np.ndarray, np.ndarray]:
    """Return the slots that are mixed, and for each the slot of the other cache's value."""
    slots, value_slots = map(sample.document_slots, (recipe.keys, recipe.values))
    if isinstance(recipe.values, Mean):
        value_slots = value_slots.repeat(len(slots))
    if len(slots) != len(value_slots):
        raise KvError(
            f"mix: {len(slots)} document slots against {len(value_slots)}; mix caches "
            "that hold the same document."
        )
    mixed = recipe.tokens(len(slots))
    return slots[mixed.start : mixed.stop], value_slots[mixed.start : mixed.stop]


def prefill_input(lm: LM, prefill: Prefill, group: Group) -> ForwardInput:
    """Return what the model receives to run one prefill for a group of samples."""
    sequences = []
    for sample in group:
        ids, roles = sample.prefill_ids(prefill, lm.bos_id), sample.roles(prefill)
        blocked = one_pass.blocked_in_prefill(prefill.isolated, sample.copies(prefill))
        sequences.append(
            SequenceInput(ids, tuple(range(len(ids))), roles if blocked else (), blocked)
        )
    return forward.pad_sequences(lm, sequences)


def prefill_group(lm: LM, prefill: Prefill, group: Group) -> KVCache:
    """Run one prefill for a group of samples, equal ones once."""
    read = [(sample.prefill_ids(prefill, lm.bos_id), sample.roles(prefill)) for sample in group]
    firsts: dict[object, PreparedSample] = {}
    for each, sample in zip(read, group, strict=True):
        firsts.setdefault(each, sample)
    cache = forward.prefill(lm, prefill_input(lm, prefill, list(firsts.values())))
    if len(firsts) == len(group):
        return cache
    row_of = {each: row for row, each in enumerate(firsts)}
    return cache.rows([row_of[each] for each in read])


def query_input(lm: LM, cache: KVCache | CacheBatch, group: Group) -> ForwardInput:
    """Return what the model receives to read each sample's query and answer on top of its cache.

    The first token stands behind the last that is seen.
    """
    starts = torch.where(cache.real, cache.positions, -1).amax(dim=1) + 1
    return forward.pad_ids(lm, [sample.query_ids() for sample in group], starts.tolist(), cache)
