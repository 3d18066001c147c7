"""Configurations of the tiny models: one for every cache layout and rope type that is supported."""

from __future__ import annotations

import json
from typing import Any

_SHAPE = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "tie_word_embeddings": False,
    "initializer_range": 0.2,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
_LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
_TWO_BASES = {
    "full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
}
_MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
_PARTIAL = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "factor": 2.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.5, 2.0, 3.0, 4.0],
    "original_max_position_embeddings": 256,
}
# The configuration class in transformers, and what differs from `_SHAPE`.
SPECS: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny-llama": ("LlamaConfig", {}),
    "tiny-llama3": ("LlamaConfig", {"rope_parameters": _LLAMA3}),
    "tiny-yarn": ("LlamaConfig", {"rope_parameters": _YARN}),
    "tiny-linear": ("LlamaConfig", {"rope_parameters": _LINEAR}),
    "tiny-mistral": ("MistralConfig", {"sliding_window": 8}),
    "tiny-gemma2": (
        "Gemma2Config",
        {
            "sliding_window": 8,
            "layer_types": _MIXED,
            "query_pre_attn_scalar": 8,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
    ),
    "tiny-gemma3": (
        "Gemma3TextConfig",
        {
            "sliding_window": 8,
            "layer_types": _MIXED,
            "query_pre_attn_scalar": 8,
            "rope_parameters": _TWO_BASES,
        },
    ),
    "tiny-qwen2": ("Qwen2Config", {}),
    "tiny-qwen3": ("Qwen3Config", {}),
    "tiny-phi3": ("Phi3Config", {"rope_parameters": _PARTIAL}),
    "tiny-glm": ("GlmConfig", {"rope_parameters": _PARTIAL}),
    "tiny-smollm3": ("SmolLM3Config", {"no_rope_layers": [1, 0, 1]}),
    "tiny-longrope": (
        "Phi3Config",
        {"rope_parameters": _LONGROPE, "original_max_position_embeddings": 256},
    ),
}
NAMES = tuple(SPECS)
SENTENCEPIECE = ("tiny-mistral", "tiny-gemma3")


def spec(name: str) -> str:
    """Return everything that determines a tiny model's numbers, as text."""
    return json.dumps([name, *SPECS[name], _SHAPE, 2], sort_keys=True)


def settings(name: str) -> dict[str, Any]:
    """Return a tiny model's configuration."""
    return {**_SHAPE, **SPECS[name][1]}
