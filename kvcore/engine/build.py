"""From a recipe to a cache, for a group of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from kvcore.cache.batch import CacheBatch
from kvcore.cache.kv_cache import KVCache
from kvcore.conditions.recipes import (
    MaskFromQuery,
    Mean,
    Mix,
    Prefill,
    Recipe,
    Reposition,
    RotateForward,
    Truncate,
    sources,
)
from kvcore.engine import forward, one_pass, rope_probe
from kvcore.engine.forward import ForwardInput, SequenceInput
from kvcore.engine.prepared import COPIES, DOCUMENT, PreparedSample
from kvcore.errors import KvError
from kvcore.models.lm import LM


def prefill_input(lm: LM, leaf: Prefill, group: Sequence[PreparedSample]) -> ForwardInput:
    """Return what the model receives to prefill one leaf for a group of samples."""
    readings = []
    for one in group:
        ids = one.prefill_ids(leaf, lm.bos_id)
        roles = one.roles(leaf)
        copies = {role for role in roles if role >= COPIES}
        blocked = frozenset((a, b) for a in copies for b in copies if a != b and leaf.isolated)
        readings.append(
            SequenceInput(ids, tuple(range(len(ids))), roles if blocked else (), blocked)
        )
    return forward.pad_sequences(lm, readings)


def prefill_samples(lm: LM, leaf: Prefill, group: Sequence[PreparedSample]) -> KVCache:
    """Run one leaf for a group of samples, equal ones once."""
    wanted = [one.prefill_spec(leaf) for one in group]
    place = {ids: i for i, ids in enumerate(dict.fromkeys(wanted))}
    firsts = [group[wanted.index(ids)] for ids in place]
    cache = forward.prefill(lm, prefill_input(lm, leaf, firsts))
    return cache if len(firsts) == len(group) else cache.rows([place[ids] for ids in wanted])


def build(
    lm: LM, recipe: Recipe, made: dict[Recipe, KVCache], group: Sequence[PreparedSample]
) -> KVCache:
    """Carry out a recipe on a group of samples.

    Parameters
    ----------
    made : dict of Recipe to KVCache
        What is there already, its prefills at least: one sequence per sample of the group, in
        its order. Shared by recipes with equal parts; what is built is added.

    Returns
    -------
    KVCache
        A new one; what was made before is not changed.
    """
    if recipe not in made:
        made[recipe] = _built(lm, recipe, made, group)
    return made[recipe]


def _built(
    lm: LM, recipe: Recipe, made: dict[Recipe, KVCache], group: Sequence[PreparedSample]
) -> KVCache:
    if isinstance(recipe, Prefill):
        return prefill_samples(lm, recipe, group)
    source = build(lm, sources(recipe)[0], made, group)
    roles = [one.roles(sources(recipe)[0]) for one in group]
    if isinstance(recipe, Truncate):
        return source.keep(
            [[i for i, role in enumerate(found) if role < COPIES] for found in roles]
        )
    if isinstance(recipe, MaskFromQuery):
        return source.hide(
            [
                [
                    i
                    for i, role in enumerate(found)
                    if role
                    in one_pass.hidden_copies(recipe.see, sorted({r for r in found if r >= COPIES}))
                ]
                for found in roles
            ]
        )
    if isinstance(recipe, Mean):
        return source.mean(source.real & (_slot_indices(source) > 0))
    if isinstance(recipe, Mix):
        other = build(lm, _unturned(recipe.values), made, group)
        return _mixed(lm, recipe, source, other, made, group)
    return _moved(lm, recipe, source, group)


def _unturned(recipe: Recipe) -> Recipe:
    """Return what has the same values as a recipe: turning changes keys and positions alone."""
    while isinstance(recipe, Reposition | RotateForward):
        recipe = recipe.source
    return recipe


def _moved(
    lm: LM, recipe: Reposition | RotateForward, source: KVCache, group: Sequence[PreparedSample]
) -> KVCache:
    if isinstance(recipe, RotateForward):
        counts = [len(one.prefixes[recipe.prefix]) for one in group]
        deltas = torch.tensor(counts, device=source.positions.device).unsqueeze(1)
        return source.reposition(lm, rope_probe.rope_plan(lm), deltas * (_slot_indices(source) > 0))
    closed = _slot_indices(source).expand_as(source.positions)
    if recipe.rope_base == "none":
        return source.renumber(closed)
    # Padding slots would move by more than any real one; they may as well stay.
    deltas = (closed - source.positions) * source.real
    return source.reposition(
        lm,
        rope_probe.rope_plan(lm),
        deltas,
        one_base=None if recipe.rope_base == "own" else recipe.rope_base,
        precision=source.keys[0].dtype if recipe.precision == "model" else None,
    )


def _mixed(
    lm: LM,
    recipe: Mix,
    own: KVCache,
    other: KVCache,
    made: dict[Recipe, KVCache],
    group: Sequence[PreparedSample],
) -> KVCache:
    """Mix in every layer once, and take from that the layers that a recipe asks for.

    Recipes that differ in their layers alone so share the memory of what they have in common.
    """
    chosen = layer_range(recipe.layers, len(own.keys))
    everywhere = replace(recipe, layers=(0, len(own.keys)))
    if recipe != everywhere:
        return own.with_values(build(lm, everywhere, made, group), chosen)
    index = torch.zeros(own.batch, own.slots, dtype=torch.int64)
    mixed = torch.zeros(own.batch, own.slots, dtype=torch.bool)
    for row, one in enumerate(group):
        ours = [i for i, role in enumerate(one.roles(recipe.keys)) if role == DOCUMENT]
        theirs = [i for i, role in enumerate(one.roles(recipe.values)) if role == DOCUMENT]
        if isinstance(recipe.values, Mean):
            theirs = theirs * len(ours)
        if len(ours) != len(theirs):
            raise KvError(
                f"mix: {len(ours)} document slots against {len(theirs)}; mix caches "
                "that hold the same document."
            )
        count = round(recipe.share * len(ours))
        index[row, ours[:count]] = torch.tensor(theirs[:count], dtype=torch.int64)
        mixed[row, ours[:count]] = True
    device = own.positions.device
    return own.mix(other, index.to(device), mixed.to(device), recipe.weight)


def layer_range(layers: tuple[int | float, int | float], depth: int) -> range:
    """Return the layers that a pair of numbers means in a model of some depth.

    An int is a layer, a float a share of the depth, rounded to the nearest layer.

    Raises
    ------
    KvError
        If a layer lies outside the model.
    """
    start, stop = (round(n * depth) if isinstance(n, float) else n for n in layers)
    if not 0 <= start <= stop <= depth:
        raise KvError(f"layers {start} to {stop}: the model has {depth}; pass 0 to {depth}.")
    return range(start, stop)


def query_input(
    lm: LM, cache: KVCache | CacheBatch, group: Sequence[PreparedSample]
) -> ForwardInput:
    """Return what the model receives to score a group's answers on top of their caches."""
    after = torch.where(cache.real, cache.positions, -1).amax(dim=1) + 1
    return forward.pad_ids(lm, [one.query_ids() for one in group], after.tolist(), cache)


def _slot_indices(cache: KVCache) -> torch.Tensor:
    """Return 0, 1, 2, ... for the slots of a cache, (1, slots)."""
    return torch.arange(cache.slots, device=cache.positions.device).unsqueeze(0)
