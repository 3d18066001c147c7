"""Checkpoints of random weights, configured as the hub's models were published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig

from kvcore.models import attention, tiny

SMALL = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "max_position_embeddings": 2048,
}
IDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
GEMMA_2 = (
    SMALL
    | IDS
    | {
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window": 8,
        "rope_theta": 10000.0,
        "cache_implementation": "hybrid",
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
    }
)
QWEN_2 = SMALL | {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "bos_token_id": 0,
    "eos_token_id": 1,
    "rope_theta": 1_000_000.0,
    "sliding_window": 8,
    "max_window_layers": 2,
    "use_sliding_window": False,
    "tie_word_embeddings": True,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "mistral-7b": SMALL
    | IDS
    | {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "rope_theta": 1_000_000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
    },
    # The text model's heads, vocabulary and rope bases are left to the class there.
    "gemma3-4b": {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "boi_token_index": 397,
        "eoi_token_index": 398,
        "image_token_index": 399,
        "eos_token_id": [1, 3],
        "initializer_range": 0.2,
        "mm_tokens_per_image": 4,
        "text_config": SMALL
        | IDS
        | {
            "model_type": "gemma3_text",
            "num_hidden_layers": 6,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": 8,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
            "vision_use_head": False,
        },
    },
    "gemma2-2b": GEMMA_2,
    "gemma2-2b-it": GEMMA_2,
    "llama3.2-1b": SMALL
    | IDS
    | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "head_dim": 8,
        "rope_theta": 500_000.0,
        "tie_word_embeddings": True,
        "eos_token_id": [1, 3],
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 64,
            "rope_type": "llama3",
        },
    },
    "qwen2.5-0.5b": QWEN_2,
    "qwen2.5-math-7b": QWEN_2 | {"tie_word_embeddings": False},
}
WINDOWED = {name for name in PUBLISHED if name.startswith("gemma")}
WITHOUT_BOS = {name for name in PUBLISHED if name.startswith("qwen")}


def save(name: str, folder: Path, published: dict[str, Any]) -> Any:
    """Write a random checkpoint with a published configuration; return the model."""
    (folder / "config.json").write_text(json.dumps(published), encoding="utf-8")
    config = AutoConfig.from_pretrained(folder)
    config._attn_implementation = attention.choose_attention(config)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        built = getattr(transformers, published["architectures"][0])(config).eval()
    built.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(published), encoding="utf-8")
    tokenizer = tiny.train_tokenizer(sentencepiece=name not in WITHOUT_BOS | {"llama3.2-1b"})
    if name in WITHOUT_BOS:
        tokenizer.bos_token = None
    tokenizer.save_pretrained(folder)
    return built
