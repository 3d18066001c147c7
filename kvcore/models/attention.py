"""Which attention a model runs with: SDPA on grouped heads as they are, or eager.

transformers repeats each key head for all query heads that share it as soon as a mask is given,
which every pass here has. On a CPU, PyTorch's kernel takes grouped heads with a mask; the numbers
are the same bit for bit. On a GPU its fast kernels do not, so there the query heads that share a
key head are read as further queries of that head, each with its own row of the mask.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from kvcore.models.lm import text_decoder


def choose_attention(config: Any) -> str:
    """Return the attention to pin: SDPA, or eager for a model that SDPA cannot be exact on.

    SDPA has no soft-capping: older transformers use it for Gemma 2 all the same and leave the
    capping out, newer ones refuse.
    """
    if getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None:
        return "eager"
    known = AutoModelForCausalLM._model_mapping
    model_class: Any = known[type(config)] if type(config) in known else None
    if isinstance(model_class, tuple):
        model_class = model_class[0]
    return "sdpa" if getattr(model_class, "_supports_sdpa", True) else "eager"


GROUPED_SDPA = "kvcore_sdpa"
"""What this attention is called where transformers looks attention functions up."""
DEVICES = ("cpu", "cuda")
"""Kinds of devices that it is used on."""


def pin_attention(model: Any, device: torch.device) -> None:
    """Make a model that was loaded with SDPA attend without copies, where that is faster.

    Parameters
    ----------
    model : PreTrainedModel
        The attention of its text part is changed in place. Eager attention stays, and so does
        SDPA where the model's code does not look its attention up by the configured name.
    device : torch.device
        Where the model runs.
    """
    config = model.config.get_text_config()
    if config._attn_implementation != "sdpa" or device.type not in DEVICES or not takes_any(model):
        return
    AttentionInterface.register(GROUPED_SDPA, attend)
    AttentionMaskInterface.register(GROUPED_SDPA, sdpa_mask)
    config._attn_implementation = GROUPED_SDPA


def takes_any(model: Any) -> bool:
    """Whether a model runs any attention that is registered, whatever its name.

    Some classes call their own, and some ask whether the name is ``"sdpa"``.
    """
    parts = {type(model), type(text_decoder(model))}
    return all(part._supports_attention_backend and not _asks_for_name(part) for part in parts)


def _asks_for_name(model_class: type) -> bool:
    source = inspect.getsource(sys.modules[model_class.__module__])
    return (
        re.search(r"_attn_implementation\s*(==|!=|in)\s*[^\n]*[\"']sdpa[\"']", source) is not None
    )


@contextmanager
def stock_attention(config: Any) -> Iterator[None]:
    """Let a model run, inside the context, with the attention that ours stands for.

    Parameters
    ----------
    config : PretrainedConfig
        Of the model's text part.
    """
    pinned = config._attn_implementation
    config._attn_implementation = "sdpa" if pinned == GROUPED_SDPA else pinned
    try:
        yield
    finally:
        config._attn_implementation = pinned


def attend(
    module: Any,
    query: Float[Tensor, "batch head q head_dim"],
    key: Float[Tensor, "batch kv_head slot head_dim"],
    value: Float[Tensor, "batch kv_head slot head_dim"],
    attention_mask: Shaped[Tensor, "#batch 1 q slot"] | None,
    scaling: float | None = None,
    **settings: Any,
) -> tuple[Float[Tensor, "batch q head head_dim"], None]:
    """Attend as transformers' SDPA does, in its form.

    Parameters
    ----------
    query, key, value : tensors
        Query heads that share a key head stand side by side.
    attention_mask : bool, or None
        None leaves everything to transformers.
    """
    if attention_mask is None or settings.get("position_bias") is not None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **settings
        )
    shared = query.shape[1] // key.shape[1]
    packed = shared > 1 and query.device.type != "cpu"
    if packed:
        query, attention_mask = pack_heads(query, attention_mask, shared)
    out = torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attention_mask,
        dropout_p=settings.get("dropout", 0.0),
        scale=scaling,
        enable_gqa=shared > 1 and not packed,
    )
    if packed:
        out = out.unflatten(2, (shared, -1)).flatten(1, 2)
    return out.transpose(1, 2).contiguous(), None


def pack_heads(
    query: Float[Tensor, "batch head q head_dim"],
    mask: Shaped[Tensor, "#batch 1 q slot"],
    shared: int,
) -> tuple[Float[Tensor, "batch kv_head packed head_dim"], Shaped[Tensor, "#batch 1 packed slot"]]:
    """Put the query heads that share a key head one behind the other, as queries of one head.

    Parameters
    ----------
    shared : int
        How many query heads share a key head; they stand side by side.
    """
    return query.unflatten(1, (-1, shared)).flatten(2, 3), mask.repeat(1, 1, shared, 1)
