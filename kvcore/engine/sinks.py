"""Where the attention sink of a pass is: the slot whose hidden state is by far the longest.

Models put much of their attention on one slot that says nothing (StreamingLLM, massive
activations). Halfway up the layers its hidden state has a norm ten to a hundred times that of the
others, which is how it is found here, without any attention matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch

from kvcore.cache import hf_cache
from kvcore.engine import forward, hooks
from kvcore.models.lm import LM


def middle_layer(lm: LM) -> int:
    """Return the layer, counted from 0, behind which half of the layers have run."""
    return max(0, int(lm.config.num_hidden_layers) // 2 - 1)


def hidden_norms(lm: LM, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the norm of every token's hidden state behind the middle layer, by a half pass.

    Parameters
    ----------
    sequences : sequence of int sequences
        Ids as they are cached, BOS included where there is one; read from position 0.

    Returns
    -------
    (batch, slot) float32
        Euclidean norms of the residual stream; 0 behind a sequence's end.
    """
    step = forward.pad_ids(lm, sequences, [0] * len(sequences))
    layer, seen = middle_layer(lm), list[torch.Tensor]()
    cache = hf_cache.stop_after_layer(layer + 1)  # what lies above need not be run
    with (
        hooks.watching(
            lm, ["residual"], lambda _part, _layer, hidden: seen.append(hidden), [layer]
        ),
        suppress(hf_cache.PrefillComplete),
    ):
        forward.run_model(lm, step, forward.NO_TOKENS, past_key_values=cache, use_cache=True)
    norms: torch.Tensor = torch.linalg.vector_norm(seen[0].float(), dim=-1)
    return norms * step.real
