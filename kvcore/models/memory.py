"""How much memory a model takes, known from its configuration before any weight is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from kvcore.errors import KvError
from kvcore.models import attention, registry
from kvcore.models import files as model_files

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight in nf4: four bits, a byte per 64 weights, a float32 per 256 of those bytes."""
SHORTEST_PASS = 1024
"""Tokens of the smallest pass that a cell can be measured with: a prefix and a document."""
CACHED = ("k_proj", "v_proj")
"""Where keys and values come from; other names are not counted."""
GIB = 2**30


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that a model takes at least.

    Attributes
    ----------
    weights : int
        Of all parameters and buffers, in their dtype or quantized.
    one_pass : int
        Of a pass over `SHORTEST_PASS` tokens: cache, activations of the largest layer and logits.
    """

    weights: int
    one_pass: int

    @property
    def total(self) -> int:
        """Weights and one pass."""
        return self.weights + self.one_pass


def estimate_need(
    config: Any, dtype: str, quantization: registry.Quantization | None
) -> MemoryNeed:
    """Estimate the least memory that a model is measured in.

    Parameters
    ----------
    config : PretrainedConfig
        Of the whole model.

    Notes
    -----
    Parameters are counted exactly, on a model without storage (a second at most). A pass is
    approximate, and counted low: activations of one layer, no copies.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config,
            dtype=getattr(torch, dtype),
            attn_implementation=attention.choose_attention(config),  # not the configuration's
        )
    size = torch.finfo(getattr(torch, dtype)).bits // 8
    head = model.get_output_embeddings()
    quantized = {
        id(module.weight)
        for module in model.modules()
        if quantization and isinstance(module, nn.Linear) and module is not head
    }
    weights = sum(
        p.numel() * (NF4_BYTES if id(p) in quantized else p.element_size())
        for p in (*model.parameters(), *model.buffers())
    )
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }
    cached = sum(m.out_features for name, m in linear.items() if name.endswith(CACHED))
    hidden = int(getattr(config.get_text_config(), "hidden_size", 0))
    widest = max((max(m.in_features, m.out_features) for m in linear.values()), default=hidden)
    logits = 0 if head is None else head.weight.shape[0] // 8  # an answer of an eighth of the pass
    per_token = cached + 2 * hidden + 2 * widest + logits
    return MemoryNeed(int(weights), SHORTEST_PASS * per_token * size)


def check_fits(files: model_files.ModelFiles, config: Any, device: torch.device) -> None:
    """Refuse a model that cannot be measured in the memory there is.

    Raises
    ------
    KvError
        Naming what the weights and the smallest pass take and what the device has.
    """
    need = estimate_need(config, files.dtype, files.quantization)
    available = available_memory(device)
    if need.total > available:
        spelled = " ".join(filter(None, (files.quantization, files.dtype)))
        raise KvError(
            f"model {files.name!r} in {spelled} takes at least {_gib(need.total)} (weights "
            f"{_gib(need.weights)}, the smallest pass {_gib(need.one_pass)}), device "
            f"{str(device)!r} has {_gib(available)} left; use --kv-quantization nf4, a smaller "
            "--kv-dtype or a larger device."
        )


def available_memory(device: torch.device) -> int:
    """Return the bytes that can still be taken on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(psutil.virtual_memory().available)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
