"""Every causal architecture of transformers, built small from its configuration class."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from kvcore.models import tiny

MODEL_TYPES = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
REPRESENTATIVE = (
    "bloom",
    "cohere2",
    "deepseek_v3",
    "falcon",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "gpt_oss",
    "llama4_text",
    "mamba",
    "olmo2",
    "qwen3_moe",
    "t5gemma",
)
LAYERS = 4
# What makes a configuration small, under all the names that classes have for it.
SIZES: dict[str, Any] = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "encoder_ffn_dim": 48,
    "ffn_hidden_size": 48,
    "num_hidden_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_layers": 2,
    "num_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "v_head_dim": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "max_position_embeddings": 512,
    "n_positions": 512,
    "sliding_window": 24,
    "n_routed_experts": 4,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "query_pre_attn_scalar": 8,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 384,
    "embedding_size": 32,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "decoder_start_token_id": 0,
    "is_decoder": True,
    "tie_word_embeddings": False,
    "use_cache": True,
}
MAPPED = {"num_kv_heads": 2, "n_embd": 32, "n_layer": LAYERS, "n_head": 4, "d_model": 32}
# What a type needs beside its sizes.
OWN: dict[str, dict[str, Any]] = {
    "falcon": {"new_decoder_architecture": True, "alibi": False, "num_kv_heads": 2},
    "gptj": {"rotary_dim": 4},
    "codegen": {"rotary_dim": 4},
    "cpmant": {"dim_head": 8, "dim_ff": 48},
    "gpt_neo": {"attention_types": [[["global", "local"], LAYERS // 2]], "num_layers": LAYERS},
    "dots1": {"n_shared_experts": 1},
    "dots3_note_text": {"num_key_value_heads": 4},
    "zaya": {"num_experts_per_tok": 1},
    "granitemoehybrid": {"mamba_n_heads": 8, "mamba_d_head": 8},
    "reformer": {"axial_pos_embds_dim": (16, 16), "axial_pos_shape": (16, 32)},
}


def build(model_type: str, folder: Path) -> None:
    """Save a small model of a type with random weights, and a tokenizer that fits it.

    Raises whatever its classes raise where it cannot be built from these sizes.
    """
    config_class = CONFIG_MAPPING[model_type]
    config = _shrunk(config_class, OWN.get(model_type, {}))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if sum(p.numel() for p in model.parameters()) > 20_000_000:
        raise ValueError("does not become small")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape) * 0.2)
            else:
                parameter.add_(torch.randn(parameter.shape) * 0.1)
    model.save_pretrained(folder)
    tiny.train_tokenizer(sentencepiece=False).save_pretrained(folder)


def _shrunk(config_class: Any, own: dict[str, Any]) -> Any:
    """Return a configuration of a class, made small, parts of it included."""
    default = config_class()
    sizes = {name: value for name, value in {**SIZES, **MAPPED}.items() if _takes(default, name)}
    layer_types = getattr(default, "layer_types", None)
    if layer_types and _takes(default, "layer_types"):
        sizes["layer_types"] = _few(layer_types)
    if isinstance(getattr(default, "mlp_layer_types", None), list):
        sizes["mlp_layer_types"] = _few(default.mlp_layer_types)
    parts = {
        name: _shrunk(part, {})
        for name, part in (getattr(config_class, "sub_configs", None) or {}).items()
        if hasattr(part, "model_type") and name == "text_config"
    }
    return config_class(**{**sizes, **parts, **own})


def _few(kinds: list[str]) -> list[str]:
    """Return the first layers' kinds, with one of each where there is room."""
    others = [kind for kind in dict.fromkeys(kinds) if kind not in kinds[:LAYERS]]
    return (kinds[: LAYERS - len(others)] + others)[:LAYERS]


def _takes(default: Any, name: str) -> bool:
    known = (
        {field.name for field in dataclasses.fields(default)}
        if dataclasses.is_dataclass(default)
        else vars(default)
    )
    return name in known
