"""Where chosen tokens look: the share of their attention on groups of key slots, per layer.

The shares come from the very queries, keys and masks that the model's own attention gets, of the
chosen tokens only. The model keeps the attention it was loaded with: its output is unchanged, and
no attention matrix of all tokens is ever made for this.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from kvcore.errors import NotExact
from kvcore.models.device import upload
from kvcore.models.lm import LM

RECORDING_ATTENTION = "kvcore_shares"
"""What the recording attention is called where transformers looks attention functions up."""


@dataclass(frozen=True, eq=False)
class ShareRecord:
    """Whose attention is recorded in a pass, and the shares.

    Attributes
    ----------
    columns : int64
        Tokens of the pass whose attention is recorded.
    groups : float32
        1 where a key slot belongs to a group.
    own_attention : str
        The attention that the model was loaded with, by its name.
    by_layer : dict of int to float32
        Per layer, the mean over heads of the attention on each group.
    """

    columns: Int[Tensor, "batch n"]
    groups: Float[Tensor, "batch group_slot group"]
    own_attention: str
    by_layer: dict[int, Float[Tensor, "batch n group"]] = field(default_factory=dict)


_RECORD: ContextVar[ShareRecord] = ContextVar("_RECORD")


@contextmanager
def record_shares(
    lm: LM, columns: Sequence[Sequence[int]], groups: Sequence[Sequence[int]], count: int
) -> Iterator[tuple[LM, ShareRecord]]:
    """Record attention shares while passes run on the model that this hands out.

    Parameters
    ----------
    columns : sequence of int sequences
        For each row of the pass, the tokens that are recorded, counted within the pass.
    groups : sequence of int sequences
        For each row, the group of each key slot, cached ones first, in 0 .. count - 1. Slots that
        nothing attends to may be left out at the end.
    count : int
        Number of groups.

    Yields
    ------
    lm : LM
        The same model; run passes on it, inside the context.
    record : ShareRecord
        Filled by each pass; the latest counts. Rows with fewer tokens than others repeat their
        last one.

    Raises
    ------
    NotExact
        For a model whose attention has sinks, on which shares would not sum to 1.

    Notes
    -----
    Equal to the weights of eager attention up to rounding (1e-5 in float32). Cost: one product
    of the recorded queries with all keys per layer. Only one context per model at a time.
    """
    AttentionInterface.register(RECORDING_ATTENTION, attend)
    own = str(lm.config._attn_implementation)
    widest = max(map(len, columns))
    padded = upload([[*c, *[c[-1]] * (widest - len(c))] for c in columns], lm.device)
    belongs = torch.zeros(len(groups), max(map(len, groups)), count)
    for row, of_slots in enumerate(groups):
        belongs[row, range(len(of_slots)), list(of_slots)] = 1.0
    record = ShareRecord(padded, upload(belongs, lm.device), own)
    # Masks are built in the form that this configuration asks for; the model's own names ours.
    as_loaded = replace(lm, config=copy.copy(lm.config))
    token = _RECORD.set(record)
    lm.config._attn_implementation = RECORDING_ATTENTION
    try:
        yield as_loaded, record
    finally:
        lm.config._attn_implementation = own
        _RECORD.reset(token)


def attend(
    module: Any,
    query: Float[Tensor, "batch head q head_dim"],
    key: Float[Tensor, "batch kv_head slot head_dim"],
    value: Float[Tensor, "batch kv_head slot head_dim"],
    attention_mask: Shaped[Tensor, "batch 1 q slot"],
    **settings: Any,
) -> Any:
    """Do what the model's own attention does, and record the shares of the chosen queries."""
    record = _RECORD.get()
    if getattr(module, "sinks", None) is not None or settings.get("s_aux") is not None:
        raise NotExact(
            f"{type(module).__name__}: attention with sinks; its shares on tokens do "
            "not sum to 1. Follow without attention=True."
        )
    record.by_layer[int(module.layer_idx)] = shares(
        query,
        key,
        attention_mask,
        record.columns,
        record.groups,
        settings.get("scaling"),
        settings.get("softcap"),
    )
    own = _own_attention(module, record.own_attention)
    return own(module, query, key, value, attention_mask, **settings)


def _own_attention(module: Any, name: str) -> Any:
    """Return the model's own attention; eager is written anew in each architecture's file."""
    if name == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS[name]


def shares(
    query: Float[Tensor, "batch head q head_dim"],
    key: Float[Tensor, "batch kv_head slot head_dim"],
    mask: Shaped[Tensor, "batch 1 q slot"],
    columns: Int[Tensor, "batch n"],
    groups: Float[Tensor, "batch group_slot group"],
    scaling: float | None = None,
    softcap: float | None = None,
) -> Float[Tensor, "batch n group"]:
    """Return how much of the chosen queries' attention falls on each group of slots.

    Parameters
    ----------
    query : tensor
        After rotation and any norm, as attention gets it.
    mask : tensor
        Boolean, True where a token may attend, or added to the scores.
    columns : int64
        The chosen queries.
    groups : float
        1 where one of the first slots belongs to a group; on later slots no weight may fall.
    scaling : float, optional
        1 / sqrt(head_dim) by default.
    softcap : float, optional
        Scores become softcap * tanh(score / softcap).

    Returns
    -------
    float32
        Mean over heads.
    """
    batch, heads, _, dim = query.shape
    kv_heads, slots = key.shape[1], key.shape[2]
    n = columns.shape[1]
    chosen = query.gather(2, columns[:, None, :, None].expand(-1, heads, -1, dim))
    # Heads that share a key head stand side by side: they become further queries of that one.
    grouped = chosen.reshape(batch, kv_heads, heads // kv_heads * n, dim).float()
    scores = grouped @ key.float().transpose(2, 3) * (scaling or dim**-0.5)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.view(batch, heads, n, slots)
    allowed = mask.gather(2, columns[:, None, :, None].expand(-1, mask.shape[1], -1, slots))
    if allowed.dtype == torch.bool:
        scores = scores.masked_fill_(~allowed, -torch.inf)
    else:
        scores = scores + allowed.float()
    weights = scores.softmax(dim=-1).mean(dim=1)
    return weights[:, :, : groups.shape[1]] @ groups
