"""How large a model is and how fast a device multiplies, both told without loading a weight."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig

from kvcore.models import memory, tiny
from kvcore.models.files import ModelFiles

SIDE = {"cpu": 512, "cuda": 8192}
"""Of the square matrices that are multiplied to tell a device's rate."""
SECONDS = 0.2


@dataclass(frozen=True)
class ModelSize:
    """How large a model is.

    - `parameters`: how many each token is multiplied with, about: all of them.
    - `memory`: bytes of the weights and of one pass.
    """

    parameters: int
    memory: int


def size_of(files: ModelFiles, pass_tokens: int) -> ModelSize | None:
    """Return a model's size, None for one whose configuration builds no model.

    - `pass_tokens`: most tokens of a pass.
    """
    try:
        config = _config(files)
        need = memory.estimate_need(config, files.dtype, files.quantization)
        plain = memory.estimate_need(config, files.dtype, None)
    except Exception:  # loading says what is wrong with it, where it is measured
        return None
    per_pass = need.one_pass * pass_tokens // memory.SHORTEST_PASS
    bytes_each = torch.finfo(getattr(torch, files.dtype)).bits // 8
    return ModelSize(plain.weights // bytes_each, need.weights + per_pass)


def _config(files: ModelFiles) -> Any:
    if files.folder is None:
        return tiny.build(files.name)[0].config
    return AutoConfig.from_pretrained(files.folder, local_files_only=True, trust_remote_code=False)


@functools.cache
def products_per_second(device: torch.device, dtype: str) -> float:
    """Return how many floating-point operations a device does in matrix products, per second.

    Timed for a fifth of a second on square matrices of `SIDE`, once a process.
    """
    side = SIDE.get(device.type, 2048)
    matrix = torch.zeros(side, side, dtype=getattr(torch, dtype), device=device)
    out = matrix @ matrix
    _wait(device)
    start, count = time.perf_counter(), 0
    while (seconds := time.perf_counter() - start) < SECONDS or not count:
        torch.mm(matrix, matrix, out=out)
        _wait(device)
        count += 1
    return count * 2 * side**3 / seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
