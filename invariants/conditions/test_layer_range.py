"""Layers, counted or as a share of the depth, are those that are meant."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from invariants.support.comparing import (
    must_see,
)
from invariants.support.faults import round_depth_up
from invariants.support.plain_routes import DEPTH
from invariants.support.samples import LONG
from kvcore.conditions.recipes import (
    LayerRange,
)
from kvcore.errors import KvError
from kvcore.measurements import answer_nll
from kvcore.models.lm import LM

# Layers below the stop, for the published 16 and 8 of Gemma 3 4B's 34 and models of other depths.
PUBLISHED_DEPTHS = (
    (34, LayerRange.share(0.47), range(16)),
    (34, LayerRange.share(0.25), range(8)),
    (30, LayerRange.share(0.47), range(14)),
    (18, LayerRange.share(0.47), range(8)),
    (34, LayerRange.first(16), range(16)),
    (34, LayerRange.share(0.5), range(17)),
    (18, LayerRange.share(0.5), range(9)),
    (3, LayerRange.first(1), range(1)),
    (3, LayerRange.share(1.0), range(3)),
    (3, LayerRange.all(), range(3)),
    (3, LayerRange.first(0), range(0)),
    (3, LayerRange.share(0.0), range(0)),
    (3, LayerRange.single(2), range(2, 3)),
)


def check_depths(expected: Sequence[tuple[int, LayerRange, range]]) -> None:
    """Compare shares of the depth, and counts of layers, with the layers that they mean."""
    for depth, layers, meant in expected:
        assert layers.in_depth(depth) == meant, f"layers {layers} of {depth}"


def test_a_share_of_the_depth_is_the_nearest_layer() -> None:
    """Would catch a count of layers taken for a share, or a share rounded otherwise."""
    check_depths(PUBLISHED_DEPTHS)


def test_twin_depths() -> None:
    """Would catch a check of layers blind to rounding."""
    must_see(round_depth_up, check_depths, PUBLISHED_DEPTHS)


def test_a_layer_that_the_model_lacks_is_refused(llama: LM) -> None:
    """Would catch a condition that silently takes all layers where it asks for more."""
    for name in ("values_early_layers(oracle,16)", f"values_layer(oracle,{DEPTH})"):
        with pytest.raises(KvError, match=f"the model has {DEPTH}"):
            answer_nll.score(llama, [LONG], [name])


def test_a_layer_the_model_lacks_is_refused_before_anything_is_measured(llama: LM) -> None:
    """Would catch a refusal that comes after hours of measuring."""
    with pytest.raises(KvError, match="layers 40 to 41: the model has"):
        answer_nll.score(llama, [LONG], ["bare", "values_layer(oracle,40)"])
