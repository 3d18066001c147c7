"""What 4-bit weights stand for: the full weights, quantized and dequantized one by one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from bitsandbytes import functional

from kvcore.data.sample import Sample
from kvcore.measurements import answer_nll
from kvcore.models.lm import LM

# Nats; computing in 16 bits leaves its roundoff times the size of logits and three layers.
TOLERANCES = {"float32": 1e-4, "float16": 0.02, "bfloat16": 0.2}


def check_nf4(full: LM, small: LM, samples: Sequence[Sample], conditions: Sequence[str]) -> None:
    """Demand the scores of the full model with each of its layers' weights rounded to nf4.

    ``full`` is changed in place.
    """
    before = answer_nll.score(full, samples, conditions)
    linear = {
        name: module
        for name, module in full.model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not full.model.get_output_embeddings()
    }
    quantized = {
        name
        for name, module in small.model.named_modules()
        if type(module).__name__ == "Linear4bit"
    }
    assert quantized == set(linear), "other modules are quantized than the linear layers"
    dtype = getattr(torch, small.dtype)
    for module in linear.values():
        packed, state = functional.quantize_4bit(
            module.weight.data.to(dtype), blocksize=64, compress_statistics=True, quant_type="nf4"
        )
        module.weight.data = functional.dequantize_4bit(packed, state).to(module.weight.dtype)
    reference, scored = (answer_nll.score(lm, samples, conditions) for lm in (full, small))
    assert set(scored.status) == {"ok"}
    off = float((scored.nll - reference.nll).abs().max())
    assert off <= TOLERANCES[small.dtype], f"off by {off:.1e} nats"
    assert float((scored.nll - before.nll).abs().max()) > 0, "the weights are whole"
