"""Attention masks as functions of positions. True means: may attend."""

from __future__ import annotations

from typing import Any

import torch

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
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    key_real: torch.Tensor,
    window: int | None,
) -> torch.Tensor:
    """Say which key slots each query token may attend to.

    Parameters
    ----------
    query_positions : (batch, q) int64
        Positions of the tokens of this pass; they are the last q of the key slots.
    key_positions : (batch, slots) int64
        Positions of all key slots, cached ones first.
    key_real : (batch, slots) bool
        False for padding.
    window : int or None
        A query sees keys fewer than ``window`` positions back; ``None``: all.

    Returns
    -------
    (batch, 1, q, slots) bool
        Causal by slot, windowed by position. Every row has at least one True: a token always
        sees itself, padding included, so that no softmax runs over nothing.
    """
    q, slots = query_positions.shape[1], key_positions.shape[1]
    slot = torch.arange(slots, device=key_positions.device)
    own = torch.arange(slots - q, slots, device=key_positions.device).unsqueeze(1)
    allowed = (slot <= own) & key_real.unsqueeze(1)
    if window is not None:
        allowed &= query_positions.unsqueeze(2) - key_positions.unsqueeze(1) < window
    return (allowed | (slot == own)).unsqueeze(1)


def for_model(
    lm: LM,
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    key_real: torch.Tensor,
    blocked: torch.Tensor | None = None,
) -> Any:
    """Build the mask(s) in the form the model takes.

    Parameters
    ----------
    query_positions, key_positions, key_real
        As `visible` takes them.
    blocked : (batch, q, slots) bool, optional
        True where a token may not attend although it could; itself it always sees.

    Returns
    -------
    (batch, 1, q, slots) tensor, or dict of them by layer kind
        Boolean for SDPA. Eager attention adds its mask, so there it is 0 or the dtype's minimum.
    """
    kinds = dict.fromkeys(layer_kinds(lm))
    masks = {
        kind: _as_attention_wants(
            lm,
            _less(
                visible(
                    query_positions,
                    key_positions,
                    key_real,
                    lm.config.sliding_window if kind == SLIDING else None,
                ),
                blocked,
            ),
        )
        for kind in kinds
    }
    return masks if len(masks) > 1 else next(iter(masks.values()))


def _less(mask: torch.Tensor, blocked: torch.Tensor | None) -> torch.Tensor:
    return mask if blocked is None else mask & ~blocked.unsqueeze(1)


def _as_attention_wants(lm: LM, mask: torch.Tensor) -> torch.Tensor:
    if lm.config._attn_implementation != "eager":
        return mask
    dtype = next(lm.model.parameters()).dtype
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(
        ~mask, torch.finfo(dtype).min
    )
