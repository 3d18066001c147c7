"""How much arithmetic a measurement needs, and how fast this machine multiplies matrices."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.contenders import Request
from kvcore.cache import masks
from kvcore.models.lm import LM

SHAPE = (2048, 576, 1536)
"""The product that sets the limit: 2048 tokens through one of SmolLM2's MLP matrices."""


@dataclass(frozen=True)
class ModelWork:
    """What one token costs in a model, in floating-point operations.

    Attributes
    ----------
    per_token : int
        Linear layers, embeddings and LM head left out.
    per_pair : int
        Scores and weighted values of one query-key pair in one layer.
    per_scored : int
        The LM head, for one predicted token.
    windows : tuple of int or None
        For each layer, how many positions back a token sees.
    """

    per_token: int
    per_pair: int
    per_scored: int
    windows: tuple[int | None, ...]


def model_work(lm: LM) -> ModelWork:
    """Count a model's arithmetic from its own layers and configuration."""
    model: Any = lm.model
    head = model.get_output_embeddings()
    linear = sum(
        module.weight.numel()
        for module in model.modules()
        if isinstance(module, nn.Linear) and module is not head
    )
    config = lm.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    windows = tuple(
        config.sliding_window if kind == masks.SLIDING else None for kind in masks.layer_kinds(lm)
    )
    return ModelWork(
        per_token=2 * linear,
        per_pair=4 * head_dim * config.num_attention_heads,
        per_scored=2 * config.hidden_size * config.vocab_size,
        windows=windows,
    )


def needed(work: ModelWork, requests: Sequence[Request]) -> int:
    """Return the operations that scoring the requests takes, nothing wasted.

    Real tokens and real query-key pairs only: padding, masked pairs, an LM head off the answer
    and the last answer token (whose prediction nobody asks for) count nothing.
    """
    return sum(_one(work, request) for request in requests)


def matmul_rate(seconds: float = 1.0) -> float:
    """Return the float32 operations per second of the machine's own matrix product."""
    m, k, n = SHAPE
    left, right, out = torch.randn(m, k), torch.randn(k, n), torch.empty(m, n)
    torch.mm(left, right, out=out)
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        torch.mm(left, right, out=out)
        count += 1
    return 2 * m * k * n * count / elapsed


def _one(work: ModelWork, request: Request) -> int:
    prefilled = 1 + len(request.prefix) + len(request.doc)
    kept = prefilled if request.sees_prefix else 1 + len(request.doc)
    asked = len(request.query) + len(request.answer) - 1
    pairs = sum(
        _pairs(0, prefilled, window) + _pairs(kept, asked, window) for window in work.windows
    )
    return (
        (prefilled + asked) * work.per_token
        + pairs * work.per_pair
        + len(request.answer) * work.per_scored
    )


def _pairs(cached: int, tokens: int, window: int | None) -> int:
    """Count the query-key pairs of `tokens` new tokens behind `cached` ones in one layer."""
    return sum(min(cached + i + 1, window or cached + i + 1) for i in range(tokens))
