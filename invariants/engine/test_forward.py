"""A pass leaves what it should: prefills are whole, and the caches it reads stay as they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from invariants.support.comparing import (
    Fault,
    must_see,
)
from invariants.support.plain_routes import SOME_IDS, document_cache
from invariants.support.strategies import IDS, few
from kvcore.cache import hf_cache, kv_cache
from kvcore.engine import forward
from kvcore.models.lm import LM

pytestmark = pytest.mark.every_model


def check_a_prefill_is_a_whole_pass(lm: LM, ids: Sequence[int], n: int) -> None:
    """Demand that a pass that ends at the last layer's cache leaves what a whole one does."""
    given = forward.pad_ids(lm, [list(ids), list(ids)[: len(ids) // 2 + 1]], [n, 0])
    filled, whole = forward.prefill(lm, given), forward.run(lm, given)[1]
    assert len(filled.keys) == len(whole.keys), "layers are missing"
    for layer in range(len(whole.keys)):
        assert torch.equal(filled.keys[layer], whole.keys[layer]), f"keys of layer {layer}"
        assert torch.equal(filled.values[layer], whole.values[layer]), f"values of layer {layer}"
    assert torch.equal(filled.positions, whole.positions)
    assert torch.equal(filled.real, whole.real)


def test_a_prefill_is_a_whole_pass(lm: LM) -> None:
    """Would catch a prefill that stops too early or too late.

    1. A pass that ends at the last layer's keys and values.
    2. A whole pass: bit for bit the same cache.
    """
    check_a_prefill_is_a_whole_pass(lm, SOME_IDS, 3)
    ran: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in lm.model.named_modules()
    ]
    forward.prefill(lm, forward.pad_ids(lm, [SOME_IDS], [0]))
    for hook in hooks:
        hook.remove()
    layers = {name.split("layers.")[1].split(".")[0] for name in ran if name.endswith("mlp")}
    assert layers == {str(i) for i in range(lm.config.num_hidden_layers - 1)}


def one_place_on(
    lm: LM, given: forward.ForwardInput, real: Callable[..., kv_cache.KVCache] = forward.prefill
) -> kv_cache.KVCache:
    """Read every token one position further on."""
    return real(lm, dataclasses.replace(given, positions=given.positions + 1))


@pytest.mark.parametrize(
    "fault",
    [
        lambda patch: patch.setattr(
            hf_cache,
            "stop_after_layer",
            lambda last, real=hf_cache.stop_after_layer: real(last - 1),
        ),
        lambda patch: patch.setattr(forward, "prefill", one_place_on),
    ],
    ids=["a-layer-short", "one-place-on"],
)
def test_twin_a_prefill_is_a_whole_pass(llama: LM, fault: Fault) -> None:
    """Would catch a check blind to a layer left out, or to other positions."""
    must_see(fault, check_a_prefill_is_a_whole_pass, llama, SOME_IDS, 3)


def check_scoring_leaves_caches_alone(
    lm: LM, document: Sequence[int], queries: Sequence[Sequence[int]], order: Sequence[int]
) -> None:
    """Score one cache twice, in two orders; demand equal bits."""
    cache = document_cache(lm, [lm.bos_id, *document])
    before = [x.clone() for x in (*cache.keys, *cache.values, cache.positions, cache.real)]
    first = [_last_logits(lm, cache, query) for query in queries]
    again = {i: _last_logits(lm, cache, queries[i]) for i in order}
    after = [*cache.keys, *cache.values, cache.positions, cache.real]
    assert all(map(torch.equal, before, after)), "scoring changed the cache it scored"
    assert all(torch.equal(first[i], again[i]) for i in order), "the order changed a number"


def _last_logits(lm: LM, cache: kv_cache.KVCache, query: Sequence[int]) -> torch.Tensor:
    assert cache.to_model().get_seq_length() == cache.slots, "the model is handed a grown cache"
    step = forward.pad_ids(lm, [list(query)], [cache.slots], cache)
    return forward.run(lm, step, ([0], [len(query) - 1]))[0]


@few
@given(data=st.data(), document=IDS, queries=st.lists(IDS, min_size=2, max_size=4))
def test_scoring_changes_no_cache(
    lm: LM, data: st.DataObject, document: list[int], queries: list[list[int]]
) -> None:
    """Would catch a cache that grows, or is written to, while it is scored."""
    order = data.draw(st.permutations(range(len(queries))))
    check_scoring_leaves_caches_alone(lm, document, queries, order)


def share_one_cache(patch: pytest.MonkeyPatch) -> None:
    """Hand the model the same transformers cache every time, as the first notebooks did."""
    right = kv_cache.KVCache.to_model
    shared: dict[int, Any] = {}
    patch.setattr(
        kv_cache.KVCache, "to_model", lambda self: shared.setdefault(id(self), right(self))
    )


def write_into_the_cache(patch: pytest.MonkeyPatch) -> None:
    right = kv_cache.KVCache.to_model

    def broken(self: kv_cache.KVCache) -> Any:
        with torch.inference_mode():  # these tensors were made in it
            for keys in self.keys:
                keys.mul_(1.001)
        return right(self)

    patch.setattr(kv_cache.KVCache, "to_model", broken)


@pytest.mark.parametrize("fault", [share_one_cache, write_into_the_cache])
def test_twin_a_shared_cache(lm: LM, fault: Fault) -> None:
    """Would catch a check blind to a cache that grows or is written to."""
    must_see(fault, check_scoring_leaves_caches_alone, lm, SOME_IDS, [[7, 8, 9], [30, 40]], [1, 0])
