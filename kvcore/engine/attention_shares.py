"""Where chosen tokens look: the share of their attention on groups of key slots, per layer.

The shares come from the very queries, keys and masks that the model's own attention gets, of the
wanted tokens only. The model keeps the attention it was loaded with: its output is unchanged, and
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
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from kvcore.errors import NotExact
from kvcore.models.lm import LM

WATCHING_ATTENTION = "kvcore_shares"
"""What the watching attention is called where transformers looks attention functions up."""


@dataclass(frozen=True, eq=False)
class Watch:
    """What is looked at in a pass, and what was seen.

    Attributes
    ----------
    columns : (batch, n) int64
        Tokens of the pass whose attention is wanted.
    groups : (batch, slot, group) float32
        1 where a key slot belongs to a group.
    own : str
        The attention that the model was loaded with, by its name.
    seen : dict of int to (batch, n, group) float32
        Per layer, the mean over heads of the attention on each group.
    """

    columns: torch.Tensor
    groups: torch.Tensor
    own: str
    seen: dict[int, torch.Tensor] = field(default_factory=dict)


_WATCH: ContextVar[Watch] = ContextVar("_WATCH")


@contextmanager
def watched(
    lm: LM, columns: Sequence[Sequence[int]], groups: Sequence[Sequence[int]], count: int
) -> Iterator[tuple[LM, Watch]]:
    """Record attention shares while passes run on the model that this hands out.

    Parameters
    ----------
    columns : sequence of int sequences
        For each row of the pass, the tokens that are wanted, counted within the pass.
    groups : sequence of int sequences
        For each row, the group of each key slot, cached ones first, in 0 .. count - 1. Slots that
        nothing attends to may be left out at the end.
    count : int
        Number of groups.

    Yields
    ------
    lm : LM
        The same model; run passes on it, inside the context.
    watch : Watch
        Its `seen` is filled by each pass; the latest counts. Rows with fewer wanted tokens than
        others repeat their last one.

    Raises
    ------
    NotExact
        For a model whose attention has sinks, on which shares would not sum to 1.

    Notes
    -----
    Equal to the weights of eager attention up to rounding (1e-5 in float32). Cost: one product
    of the wanted queries with all keys per layer. Only one context per model at a time.
    """
    AttentionInterface.register(WATCHING_ATTENTION, _attend)
    own = str(lm.config._attn_implementation)
    widest = max(map(len, columns))
    at = torch.tensor([[*c, *[c[-1]] * (widest - len(c))] for c in columns], device=lm.device)
    slots = max(map(len, groups))
    spread = torch.zeros(len(groups), slots, count)
    for row, found in enumerate(groups):
        spread[row, range(len(found)), list(found)] = 1.0
    watch = Watch(at, spread.to(lm.device), own)
    # Masks are built in the form that this configuration asks for; the model's own names ours.
    as_loaded = replace(lm, config=copy.copy(lm.config))
    token = _WATCH.set(watch)
    lm.config._attn_implementation = WATCHING_ATTENTION
    try:
        yield as_loaded, watch
    finally:
        lm.config._attn_implementation = own
        _WATCH.reset(token)


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    **settings: Any,
) -> Any:
    """Do what the model's own attention does, and note the shares of the wanted queries."""
    watch = _WATCH.get()
    if getattr(module, "sinks", None) is not None or settings.get("s_aux") is not None:
        raise NotExact(
            f"{type(module).__name__}: attention with sinks; its shares on tokens do "
            "not sum to 1. Follow without attention=True."
        )
    watch.seen[int(module.layer_idx)] = shares(
        query,
        key,
        attention_mask,
        watch.columns,
        watch.groups,
        settings.get("scaling"),
        settings.get("softcap"),
    )
    return _own(module, watch.own)(module, query, key, value, attention_mask, **settings)


def _own(module: Any, name: str) -> Any:
    """Return the model's own attention; eager is written anew in each architecture's file."""
    if name == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS[name]


def shares(
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor,
    columns: torch.Tensor,
    groups: torch.Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Return how much of the wanted queries' attention falls on each group of slots.

    Parameters
    ----------
    query : (batch, head, q, head_dim)
        After rotation and any norm, as attention gets it.
    key : (batch, kv_head, slot, head_dim)
    mask : (batch, 1, q, slot)
        Boolean, True where a token may attend, or added to the scores.
    columns : (batch, n) int64
    groups : (batch, slots, group)
        Of the first slots; on later ones no weight may fall.
    scaling : float, optional
        1 / sqrt(head_dim) by default.
    softcap : float, optional
        Scores become softcap * tanh(score / softcap).

    Returns
    -------
    (batch, n, group) float32
        Mean over heads.
    """
    batch, heads, _, dim = query.shape
    kv_heads, slots = key.shape[1], key.shape[2]
    n = columns.shape[1]
    picked = query.gather(2, columns[:, None, :, None].expand(-1, heads, -1, dim))
    # Heads that share a key head stand side by side: they become further queries of that one.
    grouped = picked.reshape(batch, kv_heads, heads // kv_heads * n, dim).float()
    scores = grouped @ key.float().transpose(2, 3) * (scaling or dim**-0.5)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.view(batch, heads, n, slots)
    seen = mask.gather(2, columns[:, None, :, None].expand(-1, mask.shape[1], -1, slots))
    scores = (
        scores.masked_fill_(~seen, -torch.inf)
        if seen.dtype == torch.bool
        else scores + seen.float()
    )
    weights = scores.softmax(dim=-1).mean(dim=1)
    return weights[:, :, : groups.shape[1]] @ groups
