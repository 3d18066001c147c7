"""Tiny models with random weights, one for every cache layout and rope type that is supported.

They are built in code, offline and in milliseconds: the invariants run on them.
"""

from __future__ import annotations

import functools
import json
from typing import Any

_SHAPE = {
    "vocab_size": 384, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 2048, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
    "tie_word_embeddings": False, "initializer_range": 0.2,
}
_LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
           "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
         "original_max_position_embeddings": 128}
_LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
_TWO_BASES = {"full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0},
              "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0}}
_MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
_PARTIAL = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
_LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "factor": 2.0,
             "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.5, 2.0, 3.0, 4.0],
             "original_max_position_embeddings": 256}

_SPECS: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny-llama": ("LlamaConfig", {}),
    "tiny-llama3": ("LlamaConfig", {"rope_parameters": _LLAMA3}),
    "tiny-yarn": ("LlamaConfig", {"rope_parameters": _YARN}),
    "tiny-linear": ("LlamaConfig", {"rope_parameters": _LINEAR}),
    "tiny-mistral": ("MistralConfig", {"sliding_window": 8}),
    "tiny-gemma2": ("Gemma2Config", {
        "sliding_window": 8, "layer_types": _MIXED, "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}),
    "tiny-gemma3": ("Gemma3TextConfig", {
        "sliding_window": 8, "layer_types": _MIXED, "query_pre_attn_scalar": 8,
        "rope_parameters": _TWO_BASES}),
    "tiny-qwen2": ("Qwen2Config", {}),
    "tiny-qwen3": ("Qwen3Config", {}),
    "tiny-phi3": ("Phi3Config", {"rope_parameters": _PARTIAL}),
    "tiny-glm": ("GlmConfig", {"rope_parameters": _PARTIAL}),
    "tiny-smollm3": ("SmolLM3Config", {"no_rope_layers": [1, 0, 1]}),
    "tiny-longrope": ("Phi3Config", {
        "rope_parameters": _LONGROPE, "original_max_position_embeddings": 256}),
}
NAMES = tuple(_SPECS)
SENTENCEPIECE = ("tiny-mistral", "tiny-gemma3")

_TEXT = """The position of a key is the number given to the rotary embedding. A prefix is read
before the document and dropped again; what remains of it is in the keys and the values. Query:
what does the function do? Answer: it returns the sum of the entries along an axis.
Document: the sample mean is the sum divided by the number of samples, and nothing else."""


def spec(name: str) -> str:
    """Return everything that determines a tiny model's numbers, as text."""
    return json.dumps([name, *_SPECS[name], _SHAPE, 2], sort_keys=True)


def settings(name: str) -> dict[str, Any]:
    """Return a tiny model's configuration."""
    return {**_SHAPE, **_SPECS[name][1]}


@functools.lru_cache(maxsize=len(NAMES))
def _template(name: str) -> tuple[Any, Any]:
    import torch
    import transformers

    from kvcore.models import attention_of

    config_class = _SPECS[name][0]
    config = getattr(transformers, config_class)(**settings(name))
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation=attention_of(config))
    return model, _tokenizer(sentencepiece=name in SENTENCEPIECE)


def build(name: str) -> tuple[Any, Any]:
    """Build a tiny model and its tokenizer; every call returns the same weights, newly copied."""
    import copy

    model, tokenizer = _template(name)
    return copy.deepcopy(model), tokenizer


def _tokenizer(*, sentencepiece: bool) -> Any:
    """Train a small BPE: byte-level as GPT-2's, or SentencePiece-like with a dummy prefix."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "</s>"]
    if sentencepiece:
        byte_tokens = [f"<0x{b:02X}>" for b in range(256)]
        raw = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="</s>"))
        raw.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        raw.decoder = decoders.Sequence([
            decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
            decoders.Strip(" ", 1, 0)])
        trainer = trainers.BpeTrainer(vocab_size=384, special_tokens=[*special, *byte_tokens],
                                      show_progress=False)
        text = [word for line in _TEXT.split("\n") for word in line.split()]
    else:
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=384, special_tokens=special, show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        text = [_TEXT]
    raw.train_from_iterator(text, trainer)
    if sentencepiece:
        raw = _without_special_bytes(raw, special)
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")


def _without_special_bytes(raw: Any, special: list[str]) -> Any:
    """Make the byte tokens ordinary ones again: the trainer could only add them as special."""
    from tokenizers import Tokenizer

    state = json.loads(raw.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] in special]
    return Tokenizer.from_str(json.dumps(state))
