"""How long a sequence and how large a pass may be."""

from __future__ import annotations

import torch

from kvcore.cache import rope
from kvcore.models.lm import LM

BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}  # more gains nothing, and falls out of CPU caches
PASS_COST = {"cpu": 64, "cuda": 512}  # what starting a pass costs, in tokens: reading the weights


def exact_positions(lm: LM) -> int:
    """Return how many positions a pass may reach: past them some models change frequencies.

    What is cached keeps the frequencies of its own pass, so a score past the switch would hang
    on how the work is divided into passes, whether or not any key is turned.
    """
    return min(lm.max_length, rope.max_positions(lm) or lm.max_length)


def is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "out of memory" in text or "can't allocate memory" in text
    )
