"""Tiny models with random weights, one for every cache layout and rope type that is supported.

They are built in code, offline and in milliseconds: the invariants run on them.
"""

from __future__ import annotations

import copy
import functools
import json
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from kvcore.models import tiny_configs
from kvcore.models.attention import choose_attention
from kvcore.models.tiny_configs import NAMES, SENTENCEPIECE, SPECS

_TEXT = """The position of a key is the number given to the rotary embedding. A prefix is read
before the document and dropped again; what remains of it is in the keys and the values. Query:
what does the function do? Answer: it returns the sum of the entries along an axis.
Document: the sample mean is the sum divided by the number of samples, and nothing else."""


@functools.lru_cache(maxsize=len(NAMES))
def _template(name: str) -> tuple[Any, Any]:
    config_class = SPECS[name][0]
    config = getattr(transformers, config_class)(**tiny_configs.settings(name))
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation=choose_attention(config)
        )
    return model, train_tokenizer(sentencepiece=name in SENTENCEPIECE)


def build(name: str) -> tuple[Any, Any]:
    """Build a tiny model and its tokenizer; every call returns the same weights, newly copied."""
    model, tokenizer = _template(name)
    return copy.deepcopy(model), tokenizer


def train_tokenizer(*, sentencepiece: bool) -> Any:
    """Train a small BPE: byte-level as GPT-2's, or SentencePiece-like with a dummy prefix."""
    special = ["<s>", "</s>"]
    if sentencepiece:
        byte_tokens = [f"<0x{b:02X}>" for b in range(256)]
        raw = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="</s>"))
        raw.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        raw.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        trainer = trainers.BpeTrainer(
            vocab_size=384, special_tokens=[*special, *byte_tokens], show_progress=False
        )
        text = [word for line in _TEXT.split("\n") for word in line.split()]
    else:
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=384,
            special_tokens=special,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        text = [_TEXT]
    raw.train_from_iterator(text, trainer)
    if sentencepiece:
        raw = _without_special_bytes(raw, special)
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")


def _without_special_bytes(raw: Any, special: list[str]) -> Any:
    """Make the byte tokens ordinary ones again: the trainer could only add them as special."""
    state = json.loads(raw.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] in special]
    return Tokenizer.from_str(json.dumps(state))
