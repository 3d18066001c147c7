"""Attention masks as functions of positions. True means: may attend."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from kvcore.errors import NotExact
from kvcore.models.lm import LM

FULL, SLIDING = "full_attention", "sliding_attention"


def layer_kinds(lm: LM) -> tuple[str, ...]:
    """Return each layer's kind of attention, ``full_attention`` or ``sliding_attention``.

    Raises
    ------
    NotExact
        For a model with any other kind of layer (chunked, linear, state space).
    """
    config = lm.config
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        windowed = getattr(config, "sliding_window", None) is not None
        kinds = [SLIDING if windowed else FULL] * config.num_hidden_layers
    odd = sorted(set(kinds) - {FULL, SLIDING})
    if odd:
        raise NotExact(
            f"{lm.name}: layers of kind {', '.join(odd)} keep no plain KV cache; only "
            "full and sliding attention are supported."
        )
    return tuple(kinds)


def visible(
    query_positions: Int[Tensor, "batch q"],
    key_positions: Int[Tensor, "batch slot"],
    key_real: Bool[Tensor, "batch slot"],
    window: int | None,
) -> Bool[Tensor, "batch 1 q slot"]:
    """Say which key slots each query token may attend to.

    Parameters
    ----------
    query_positions : int64
        Positions of the tokens of this pass; they are the last q of the key slots.
    key_positions : int64
        Positions of all key slots, cached ones first.
    key_real : bool
        False for padding.
    window : int or None
        A query sees keys fewer than ``window`` positions back; ``None``: all.

    Returns
    -------
    bool
        True where the query may attend to the slot: causal by slot, windowed by position. Every
        row has at least one True: a token always sees itself, padding included, so that no
        softmax runs over nothing.
    """
    q, slots = query_positions.shape[1], key_positions.shape[1]
    first = slots - q  # the slot of the first query token
    causal = torch.ones(q, slots, dtype=torch.bool, device=key_positions.device).tril_(first)
    allowed = causal & key_real.unsqueeze(1)
    if window is not None:
        allowed &= query_positions.unsqueeze(2) - key_positions.unsqueeze(1) < window
    allowed.diagonal(first, dim1=1, dim2=2).fill_(True)
    return allowed.unsqueeze(1)


def for_model(
    lm: LM,
    query_positions: Int[Tensor, "batch q"],
    key_positions: Int[Tensor, "batch slot"],
    key_real: Bool[Tensor, "batch slot"],
    blocked: Bool[Tensor, "batch q slot"] | None = None,
) -> Any:
    """Build the mask(s) in the form the model takes.

    Parameters
    ----------
    query_positions, key_positions, key_real
        As `visible` takes them.
    blocked : bool, optional
        True where a token may not attend although it could; itself it always sees.

    Returns
    -------
    tensor of axes (batch, 1, q, slot), or dict of them by layer kind
        Boolean for SDPA. Eager attention adds its mask, so there it is 0 or the dtype's minimum.
    """
    kinds = dict.fromkeys(layer_kinds(lm))
    masks = {}
    for kind in kinds:
        window = lm.config.sliding_window if kind == SLIDING else None
        mask = visible(query_positions, key_positions, key_real, window)
        if blocked is not None:
            mask &= ~blocked.unsqueeze(1)
        masks[kind] = in_attention_form(lm, mask)
    return masks if len(masks) > 1 else next(iter(masks.values()))


def in_attention_form(
    lm: LM, mask: Bool[Tensor, "batch 1 q slot"]
) -> Shaped[Tensor, "batch 1 q slot"]:
    """Return a boolean mask as the model's attention takes it; see `for_model`."""
    if lm.config._attn_implementation != "eager":
        return mask
    dtype = next(lm.model.parameters()).dtype
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(
        ~mask, torch.finfo(dtype).min
    )
