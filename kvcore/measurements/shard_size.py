"""How much is measured and stored together: what is lost when a run is killed.

On a GPU a shard has 400 samples or more, so that passes are full; on a CPU it has about as many
tokens as a minute reads, so that little is lost. Processes must divide the same rows alike, so the
size hangs on the model and the kind of device alone, and on no clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from kvcore.conditions.parse import condition
from kvcore.measurements.base import MeasureRequest

if TYPE_CHECKING:
    from kvcore.models.files import ModelFiles

MINUTE = 6e12
"""Floating-point operations of a minute of a CPU, a cautious one."""
GPU_SAMPLES, GPU_TOKENS = 400, 2**21
"""A shard on a GPU has so many samples, and more until it has so many tokens."""
TOKENS_PER_CHARACTER = 0.25
"""Of a document in English, about."""
TOKENS_BESIDE = 60
"""Tokens that a row reads beside its document, about: prefix, question and answer."""


@dataclass(frozen=True)
class ShardSize:
    """Where a shard ends.

    - `samples`: most samples, from 1.
    - `length`: most that the lengths of its rows make together, in characters; one sample is
      measured as a whole, whatever its length.
    """

    samples: int
    length: float = math.inf


def on_gpu(request: MeasureRequest) -> bool:
    """Whether a request's model runs on a GPU, by the option and by what torch finds."""
    import torch

    if request.device == "auto":
        return torch.cuda.is_available()
    return request.device.startswith("cuda")


def samples_on(request: MeasureRequest, samples: int) -> int:
    """Return the samples of a shard of a kind that has so many on a CPU."""
    return max(samples, GPU_SAMPLES) if on_gpu(request) else samples


def shard_size(request: MeasureRequest, keys: pd.DataFrame, *, most_samples: int) -> ShardSize:
    """Return the shard size of rows that share prefills.

    Parameters
    ----------
    request : MeasureRequest
        Its model and device.
    keys : DataFrame
        Of all rows, with their ``length`` in characters.
    most_samples : int
        On a CPU, whatever their tokens.
    """
    if keys.empty:
        return ShardSize(most_samples)
    names = keys["condition"].unique()
    prefills = {prefill for name in names for prefill in condition(name).prefills()}
    length = float(keys["length"].sum())
    read = length * TOKENS_PER_CHARACTER * min(1.0, len(prefills) / len(names))
    tokens = read + len(keys) * TOKENS_BESIDE
    if on_gpu(request):
        samples = len(keys[["dataset", "seed", "sample_id"]].drop_duplicates())
        return ShardSize(max(GPU_SAMPLES, int(GPU_TOKENS * samples / tokens)))
    in_a_minute = MINUTE / (2 * max(1, parameters(request.files)))
    return ShardSize(most_samples, max(1.0, length) * in_a_minute / tokens)


def parameters(files: ModelFiles) -> int:
    """Return how many parameters a model has, about, by the size of its files; 0 if built here."""
    if files.folder is None:
        return 0
    weights = sum(path.stat().st_size for path in files.folder.glob("*.safetensors"))
    return weights // (4 if files.dtype == "float32" else 2)
