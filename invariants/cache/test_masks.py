"""Masks are what they are defined to be, in the form that the model takes."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import example, given

from invariants.support import strategies
from invariants.support.comparing import (
    Fault,
    must_see,
)
from invariants.support.faults import (
    count_the_window_over_slots,
    forget_the_window,
    see_padding,
    see_the_future,
)
from invariants.support.plain_routes import SOME_IDS
from invariants.support.strategies import some
from kvcore import loading
from kvcore.cache import masks
from kvcore.engine import forward
from kvcore.models import tiny_configs
from kvcore.models.lm import LM

pytestmark = pytest.mark.every_model


def check_mask(
    positions: list[list[int]], real: list[list[bool]], q: int, window: int | None
) -> None:
    """Compare a mask with its definition, entry by entry."""
    keys, flags = torch.tensor(positions), torch.tensor(real)
    found = masks.visible(keys[:, -q:], keys, flags, window)
    slots = keys.shape[1]
    assert found.shape == (len(positions), 1, q, slots)
    assert found.dtype == torch.bool
    for row, i, k in itertools.product(range(len(positions)), range(q), range(slots)):
        own = slots - q + i
        near = window is None or positions[row][own] - positions[row][k] < window
        wanted = k == own or (k < own and real[row][k] and near)
        assert bool(found[row, 0, i, k]) == wanted, f"row {row}, query {i}, slot {k}"
    assert bool(found.any(dim=-1).all()), "a token attends to nothing"


LAYOUT = ([[0, 1, 2, 3, 9, 10, 11, 11]], [[True, True, True, True, True, False, True, False]])


@some
@given(layout=strategies.layouts())
@example(layout=(*LAYOUT, 4, 3))
def test_masks_are_causal_windowed_and_never_empty(
    layout: tuple[list[list[int]], list[list[bool]], int, int | None],
) -> None:
    """Would catch a mask that differs from its definition.

    1. The mask of a pass.
    2. Entry by entry: oneself, or an earlier, real and near enough token.
    """
    check_mask(*layout)


def forget_oneself(patch: pytest.MonkeyPatch) -> None:
    """Let a padding token see nothing, which is NaN on some devices."""
    right = masks.visible
    patch.setattr(
        masks,
        "visible",
        lambda q, k, real, window: right(q, k, real, window) & real[:, None, None, :],
    )


@pytest.mark.parametrize(
    "fault",
    [see_the_future, see_padding, forget_the_window, count_the_window_over_slots, forget_oneself],
)
def test_twin_masks(fault: Fault) -> None:
    """Would catch a check blind to masks that look ahead, show padding or mistake the window."""
    must_see(fault, check_mask, *LAYOUT, 4, 3)


def check_mask_form(lm: LM) -> None:
    """Demand the dtype, shape and layer kinds that the model takes."""
    step = forward.pad_ids(lm, [SOME_IDS, SOME_IDS[:3]], [0, 0])
    made = masks.for_model(lm, step.positions, step.key_positions(), step.key_real())
    kinds = set(masks.layer_kinds(lm))
    assert (set(made) if isinstance(made, dict) else kinds) == kinds
    assert isinstance(made, dict) == (len(kinds) > 1), "one mask per kind of layer"
    eager = lm.model.config._attn_implementation == "eager"
    model_dtype = next(lm.model.parameters()).dtype
    for mask in made.values() if isinstance(made, dict) else [made]:
        assert mask.shape == (2, 1, len(SOME_IDS), len(SOME_IDS))
        assert mask.dtype == (model_dtype if eager else torch.bool)
        if eager:
            assert set(mask.unique().tolist()) == {0.0, torch.finfo(model_dtype).min}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", tiny_configs.NAMES)
def test_masks_have_the_form_the_model_takes(name: str, dtype: str) -> None:
    """Would catch booleans handed to eager attention, or a bias in another dtype."""
    check_mask_form(loading.load(name, device="cpu", dtype=dtype))


def hand_out_booleans(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(masks, "in_attention_form", lambda _lm, mask: mask)


def hand_out_float32(patch: pytest.MonkeyPatch) -> None:
    right = masks.in_attention_form
    patch.setattr(masks, "in_attention_form", lambda lm, mask: right(lm, mask).float())


@pytest.mark.parametrize("fault", [hand_out_booleans, hand_out_float32])
def test_twin_mask_form(fault: Fault) -> None:
    """Would catch a check blind to a mask of another form."""
    must_see(fault, check_mask_form, loading.load("tiny-gemma2", device="cpu", dtype="bfloat16"))
