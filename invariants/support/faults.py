"""Faults that several test modules plant: each takes a patch and breaks the production code."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from invariants.support.comparing import (
    Fault,
)
from invariants.support.plain_routes import DEPTH
from kvcore import tokenization
from kvcore.cache import kv_cache, masks, rope
from kvcore.conditions.recipes import (
    Document,
    LayerRange,
    MaskFromQuery,
    Mix,
    Prefill,
    Recipe,
    Reposition,
)
from kvcore.engine import build, forward, prepared
from kvcore.models.lm import LM


def changing_mix(name: str, change: Callable[..., tuple[Any, ...]]) -> Fault:
    """Make a fault that changes what `KVCache.mix` is given."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        right = kv_cache.KVCache.mix
        patch.setattr(
            kv_cache.KVCache, "mix", lambda self, *arguments: right(self, *change(*arguments))
        )

    fault.__name__ = name
    return fault


def changing_layers(name: str, change: Callable[[range], range]) -> Fault:
    """Make a fault that changes which layers `KVCache.with_values` takes."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        right = kv_cache.KVCache.with_values
        patch.setattr(
            kv_cache.KVCache,
            "with_values",
            lambda self, other, layers: right(self, other, change(layers)),
        )

    fault.__name__ = name
    return fault


take_the_other_weight = changing_mix(
    "take_the_other_weight", lambda other, index, slots, weight: (other, index, slots, 1 - weight)
)


mix_further_layers = changing_layers(  # by two: the values of layer 0 depend on no prefix
    "mix_further_layers", lambda layers: range(layers.start, min(layers.stop + 2, DEPTH))
)


only_from_layer_zero = changing_layers(
    "only_from_layer_zero", lambda layers: layers if layers.start == 0 else range(0)
)


values_of_the_neighbour = changing_mix(
    "values_of_the_neighbour",
    lambda other, index, slots, weight: (other, (index - 1).clamp(min=0), slots, weight),
)


values_of_the_first_slots = changing_mix(
    "values_of_the_first_slots",
    lambda other, index, slots, weight: (
        other,
        torch.arange(index.shape[1]).clamp(max=other.slots - 1).expand_as(index),
        slots,
        weight,
    ),
)


mix_bos_too = changing_mix(
    "mix_bos_too",
    lambda other, index, slots, weight: (
        other,
        index,
        slots | (torch.arange(slots.shape[1]) == 0),
        weight,
    ),
)


last_positions_first = changing_mix(
    "last_positions_first",
    lambda other, index, slots, weight: (other, index.flip(1), slots.flip(1), weight),
)


def mix_keys_too(patch: pytest.MonkeyPatch) -> None:
    right = kv_cache.KVCache.mix

    def broken(self: kv_cache.KVCache, other: kv_cache.KVCache, *more: Any) -> kv_cache.KVCache:
        swapped = right(replace(self, values=self.keys), replace(other, values=other.keys), *more)
        return replace(right(self, other, *more), keys=swapped.values)

    some = kv_cache.KVCache.with_values
    patch.setattr(kv_cache.KVCache, "mix", broken)
    patch.setattr(
        kv_cache.KVCache,
        "with_values",
        lambda self, other, layers: replace(some(self, other, layers), keys=other.keys),
    )


def count_bos_into_the_mean(patch: pytest.MonkeyPatch) -> None:
    right = kv_cache.KVCache.mean
    patch.setattr(kv_cache.KVCache, "mean", lambda self, _: right(self, self.real))


def show_all_copies(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MaskFromQuery, "hidden_copies", lambda _self, _copies: [])


def show_the_other_end(patch: pytest.MonkeyPatch) -> None:
    right = MaskFromQuery.hidden_copies
    other = {"first": "last", "last": "first", "none": "none", "all": "all"}
    patch.setattr(
        MaskFromQuery,
        "hidden_copies",
        lambda self, copies: right(replace(self, see=other[self.see]), copies),
    )


def let_copies_see_each_other(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(forward, "blocked_pairs", lambda *_: None)


def leave_positions_old(patch: pytest.MonkeyPatch) -> None:
    """Ask where the untruncated cache would have ended."""
    patch.setattr(kv_cache.KVCache, "renumber", lambda self, _: self)


def turn_them_anyway(patch: pytest.MonkeyPatch) -> None:
    """Fault: rotate keys by each layer's own base, whatever the recipe says."""
    right = build.carry_out

    def broken(recipe: Recipe, *more: Any) -> kv_cache.KVCache:
        own = replace(recipe, rope_base="own") if isinstance(recipe, Reposition) else recipe
        return right(own, *more)

    patch.setattr(build, "carry_out", broken)


def move_chunks_alike(patch: pytest.MonkeyPatch) -> None:
    """Close the first gap only, as if the prefix stood there once."""
    right = kv_cache.KVCache.reposition

    def broken(
        self: kv_cache.KVCache, lm: LM, plan: Any, deltas: torch.Tensor, **more: Any
    ) -> kv_cache.KVCache:
        first = deltas[:, 1:2].expand_as(deltas) * (deltas != 0)
        done = right(self, lm, plan, first, **more)
        return replace(done, positions=self.positions + deltas)

    patch.setattr(kv_cache.KVCache, "reposition", broken)


def lay_out(name: str, change: Callable[[Prefill], Prefill]) -> Fault:
    """Make a fault that reads a prefill's parts otherwise."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        right = prepared.PreparedSample.prefill_spec
        patch.setattr(
            prepared.PreparedSample, "prefill_spec", lambda self, spec: right(self, change(spec))
        )

    fault.__name__ = name
    return fault


read_parts_in_reverse = lay_out(
    "read_parts_in_reverse", lambda prefill: replace(prefill, parts=prefill.parts[::-1])
)


one_beacon_only = lay_out(
    "one_beacon_only",
    lambda prefill: replace(
        prefill,
        parts=tuple(
            replace(p, every=1000) if isinstance(p, Document) and p.every else p
            for p in prefill.parts
        ),
    ),
)


def one_copy_only(patch: pytest.MonkeyPatch) -> None:
    right = tokenization.prefix_ids
    patch.setattr(
        tokenization,
        "prefix_ids",
        lambda tok, read, prefix, seed: right(tok, read, replace(prefix, times=1), seed),
    )


def hand_caches_out_in_reverse(patch: pytest.MonkeyPatch) -> None:
    right = kv_cache.KVCache.rows
    patch.setattr(kv_cache.KVCache, "rows", lambda self, index: right(self, list(index)[::-1]))


def round_depth_up(patch: pytest.MonkeyPatch) -> None:
    right = LayerRange.in_depth

    def broken(self: LayerRange, depth: int) -> range:
        if self.stop is not None:
            return right(self, depth)
        return range(int(self.start), min(depth, int(self.depth_share * depth) + 1))

    patch.setattr(LayerRange, "in_depth", broken)


def question_a_position_late(patch: pytest.MonkeyPatch) -> None:
    right = forward.pad_ids
    patch.setattr(
        forward,
        "pad_ids",
        lambda lm, s, starts, past=None: right(
            lm, s, [n + (past is not None) for n in starts], past
        ),
    )


def interleave_pairs(patch: pytest.MonkeyPatch) -> None:
    """Turn the other dimensions together: neighbours for halves, halves for neighbours."""
    other: dict[str, Any] = {"half": "interleaved", "interleaved": "half", "none": "none"}
    right = rope.rotate
    patch.setattr(
        rope,
        "rotate",
        lambda k, c, s, pairing, precision=None: right(k, c, s, other[pairing], precision),
    )


def move_one_too_far(patch: pytest.MonkeyPatch) -> None:
    right = rope.rotation
    patch.setattr(rope, "rotation", lambda lm, kind, d: right(lm, kind, d - d.sign()))


def turn_values_too(patch: pytest.MonkeyPatch) -> None:
    right = kv_cache.KVCache.reposition

    def broken(
        self: kv_cache.KVCache, lm: LM, plan: Any, deltas: torch.Tensor, **more: Any
    ) -> kv_cache.KVCache:
        done = right(self, lm, plan, deltas, **more)
        swapped = right(dataclasses.replace(self, keys=self.values), lm, plan, deltas, **more)
        return dataclasses.replace(done, values=swapped.keys)

    patch.setattr(kv_cache.KVCache, "reposition", broken)


def leave_keys_unturned(patch: pytest.MonkeyPatch) -> None:
    """Count the new positions, but leave the keys as they were."""
    patch.setattr(rope, "rotate", lambda keys, *_: keys)


def lose_bos(patch: pytest.MonkeyPatch) -> None:
    """Drop as many slots as asked for, but from BOS on."""
    right = kv_cache.KVCache.keep
    patch.setattr(
        kv_cache.KVCache,
        "keep",
        lambda self, slots: right(self, [[kept[1] - 1, *kept[1:]] for kept in slots]),
    )


def drop_one_more(patch: pytest.MonkeyPatch) -> None:
    right = kv_cache.KVCache.keep
    patch.setattr(
        kv_cache.KVCache,
        "keep",
        lambda self, slots: right(self, [[kept[0], *kept[2:]] for kept in slots]),
    )


def forget_the_window(patch: pytest.MonkeyPatch) -> None:
    right = masks.visible
    patch.setattr(masks, "visible", lambda q, k, real, _window: right(q, k, real, None))


def count_the_window_over_slots(patch: pytest.MonkeyPatch) -> None:
    """Take a slot's index for its position, which it is not once the batch is padded."""
    right = masks.visible

    def broken(
        q: torch.Tensor, k: torch.Tensor, real: torch.Tensor, window: int | None
    ) -> torch.Tensor:
        slots = torch.arange(k.shape[1]).expand_as(k)
        return right(slots[:, -q.shape[1] :], slots, real, window)

    patch.setattr(masks, "visible", broken)


def see_the_future(patch: pytest.MonkeyPatch) -> None:
    right = masks.visible

    def broken(
        q: torch.Tensor, k: torch.Tensor, real: torch.Tensor, window: int | None
    ) -> torch.Tensor:
        return right(q, k, real, window) | real[:, None, None, :]

    patch.setattr(masks, "visible", broken)


def see_padding(patch: pytest.MonkeyPatch) -> None:
    right = masks.visible
    patch.setattr(
        masks, "visible", lambda q, k, real, window: right(q, k, torch.ones_like(real), window)
    )


def read_the_wrong_logit(patch: pytest.MonkeyPatch) -> None:
    """Take each answer token's NLL a token before the one that predicts it."""
    right = forward.run_model
    patch.setattr(
        forward,
        "run_model",
        lambda lm, chosen, wanted, **cache: right(
            lm, chosen, (wanted[0], [c - 1 for c in wanted[1]]), **cache
        ),
    )


def use_one_base(patch: pytest.MonkeyPatch) -> None:
    """Turn every layer with the full-attention base."""
    right = rope.rotation
    patch.setattr(rope, "rotation", lambda lm, kind, d: right(lm, kind and masks.FULL, d))


never_amplify = changing_mix(
    "never_amplify", lambda other, index, slots, weight: (other, index, slots, min(weight, 1.0))
)


mix_every_layer = changing_layers("mix_every_layer", lambda _: range(DEPTH))


def read_the_own_document(patch: pytest.MonkeyPatch) -> None:
    """Read the sample's own document where another one is to be read."""
    right = tokenization.ids_of_copy
    patch.setattr(
        tokenization,
        "ids_of_copy",
        lambda tok, tokens, prefix, seed: (
            tokens.document if prefix.kind == "another" else right(tok, tokens, prefix, seed)
        ),
    )


def drop_what_stands_behind(patch: pytest.MonkeyPatch) -> None:
    """Read nothing behind the document."""
    right = prepared.PreparedSample.prefill_spec

    def broken(
        self: prepared.PreparedSample, prefill: Prefill
    ) -> tuple[tuple[tuple[int, ...], int], ...]:
        spec = right(self, prefill)
        last = max(i for i, (_, role) in enumerate(spec) if role == prepared.DOCUMENT)
        return spec[: last + 1]

    patch.setattr(prepared.PreparedSample, "prefill_spec", broken)


def mix_from_the_start(patch: pytest.MonkeyPatch) -> None:
    """Mix as many tokens as are to be mixed, but the first ones."""
    right = Mix.tokens
    patch.setattr(Mix, "tokens", lambda self, count: range(len(right(self, count))))


def leave_keys_bare(patch: pytest.MonkeyPatch) -> None:
    """Take the keys of the bare document along with its values."""
    right = build.build
    patch.setattr(
        build,
        "build",
        lambda lm, recipe, made, group: right(
            lm, recipe.values if isinstance(recipe, Mix) else recipe, made, group
        ),
    )
