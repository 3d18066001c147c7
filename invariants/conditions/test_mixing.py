"""Hybrids hold the values that they are mixed from, in the layers and slots asked for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from invariants.support import strategies
from invariants.support.comparing import (
    Fault,
    must_see,
)
from invariants.support.faults import (
    mix_further_layers,
    mix_keys_too,
    only_from_layer_zero,
    read_the_own_document,
    take_the_other_weight,
    values_of_the_first_slots,
    values_of_the_neighbour,
)
from invariants.support.plain_routes import DEPTH, assert_same_cache, caches
from invariants.support.samples import LONG
from invariants.support.strategies import few
from kvcore.cache.kv_cache import KVCache
from kvcore.conditions.recipes import (
    LayerRange,
    Mix,
    Recipe,
)
from kvcore.conditions.registry import BARE, QUERY, primed, truncation
from kvcore.data.sample import Sample
from kvcore.models.lm import LM


def check_mixing_with_itself(lm: LM, sample: Sample, weight: float) -> None:
    """Demand that a cache mixed with itself stays as it is, in every bit."""
    for own in (BARE, truncation(QUERY), primed(QUERY)):
        mixed_, alone = caches(lm, sample, Mix(own, own, weight=weight), own)
        assert_same_cache(mixed_, alone, f"mixed with itself at {weight}")


@few
@given(sample=strategies.samples(max_words=8), weight=st.floats(0, 1))
def test_mixing_a_cache_with_itself_changes_nothing(lm: LM, sample: Sample, weight: float) -> None:
    """Would catch mixing that changes a bit it should leave."""
    check_mixing_with_itself(lm, sample, weight)


def check_endpoints(lm: LM, sample: Sample) -> None:
    """Demand bare at weight, depth and share 0, and values_only at 1."""
    for name, least, most in (
        ("interp", "0", "1"),
        ("interp", "0.0", "1.0"),
        ("values_early_layers", "0", str(DEPTH)),
        ("values_early_layers", "0.0", "1.0"),
        ("values_early_positions", "0", "1"),
    ):
        bare, none, all_, every = caches(
            lm,
            sample,
            "bare",
            f"{name}(oracle,{least})",
            f"{name}(oracle,{most})",
            "values_only(oracle)",
        )
        assert_same_cache(none, bare, f"{name} {least}")
        assert_same_cache(all_, every, f"{name} {most}")
        assert all(map(torch.equal, every.keys, bare.keys)), "mixing values changed keys"
        assert not torch.equal(bare.values[-1], every.values[-1]), "priming changed no value"


@few
@given(sample=strategies.samples(max_words=8))
def test_the_endpoints_are_bare_and_values_only(lm: LM, sample: Sample) -> None:
    """Would catch endpoints of a sweep that are not bare and values_only, bit for bit."""
    check_endpoints(lm, sample)


def check_layers(lm: LM, sample: Sample) -> None:
    """Compare each single layer with the caches it is mixed from, and the sweep with their sum."""
    bare, full_ = caches(lm, sample, "bare", "full_context(oracle)")
    first = full_.slots - bare.slots + 1
    swept: Recipe = BARE
    for layer in range(DEPTH):
        (one,) = caches(lm, sample, f"values_layer(oracle,{layer})")
        for i in range(DEPTH):
            document = full_.values[i][:, :, first:] if i == layer else bare.values[i][:, :, 1:]
            assert torch.allclose(one.values[i][:, :, 1:], document, rtol=0, atol=1e-5), (
                f"values_layer {layer}: values of layer {i}"
            )
            assert torch.allclose(one.keys[i], bare.keys[i], rtol=0, atol=1e-5)
        swept = Mix(swept, primed(QUERY), layers=LayerRange.single(layer))
        below = Mix(BARE, primed(QUERY), layers=LayerRange.first(layer + 1))
        together, early = caches(lm, sample, swept, below)
        assert_same_cache(together, early, f"layers 0 to {layer} one by one")


@few
@given(sample=strategies.samples(max_words=8))
def test_single_layers_add_up(lm: LM, sample: Sample) -> None:
    """Would catch values mixed into another layer than the one asked for."""
    check_layers(lm, sample)


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (values_of_the_neighbour, check_mixing_with_itself),
        (mix_keys_too, check_endpoints),
        (take_the_other_weight, check_endpoints),
        (mix_further_layers, check_endpoints),
        (mix_further_layers, check_layers),
        (only_from_layer_zero, check_layers),
        (values_of_the_first_slots, check_layers),
    ],
)
def test_twin_mixing(lm: LM, fault: Fault, check: Callable[..., None]) -> None:
    """Would catch checks of mixing blind to another slot, layer or weight, or to keys mixed too."""
    must_see(fault, check, lm, LONG, *([0.5] if check is check_mixing_with_itself else []))


def check_positive_control(lm: LM, sample: Sample) -> None:
    """Demand that another document's values lie further from the bare ones than primed ones do."""
    bare, primed_, foreign = caches(
        lm, sample, "bare", "values_only(oracle)", "values_of_another(oracle)"
    )

    def distance(cache: KVCache) -> float:
        pairs = zip(cache.values, bare.values, strict=True)
        return sum(float((a - b).double().square().sum()) for a, b in pairs)

    assert all(map(torch.equal, foreign.keys, bare.keys)), "the keys are not the bare ones"
    assert distance(foreign) > 2 * distance(primed_), "no further than primed values"


def test_values_of_another_document_are_a_positive_control(lm: LM) -> None:
    """Would catch a control that shows nothing: the document's own values in place of others."""
    check_positive_control(lm, LONG)


def test_twin_positive_control(llama: LM) -> None:
    """Would catch a check blind to the sample's own document in the other's place."""
    must_see(read_the_own_document, check_positive_control, llama, LONG)
