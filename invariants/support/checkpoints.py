"""Small checkpoints on disk as they are published, and damaged as they are met."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from kvcore.models import tiny

SIZE: Mapping[str, Any] = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "tie_word_embeddings": False,
}
WEIGHTS = "model.safetensors"


def build_checkpoint(
    folder: Path, config: Any, change: Callable[[Any], None] | None = None
) -> Path:
    """Write a model of random weights with its tokenizer; ``change`` edits it in place before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.copy_(torch.randn(parameter.shape) * 0.2)
                else:
                    parameter.add_(torch.randn(parameter.shape) * 0.1)
            if change is not None:
                change(model)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tiny.train_tokenizer(sentencepiece=False).save_pretrained(folder)
    return folder


def llama(folder: Path, **changes: Any) -> Path:
    """Write the plainest checkpoint."""
    return build_checkpoint(folder, transformers.LlamaConfig(**{**SIZE, **changes}))


def save_tiny(folder: Path, name: str = "tiny-llama") -> Path:
    """Write one of the models that are built in code."""
    model, tokenizer = tiny.build(name)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def edit_config(folder: Path, **changes: Any) -> Path:
    """Change keys of config.json; None takes a key out."""
    path = folder / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {key: value for key, value in settings.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")
    return folder


def add_weights(folder: Path, weights: Mapping[str, torch.Tensor]) -> Path:
    """Add tensors to the weight file, or put others in the place of those that are there."""
    path = folder / WEIGHTS
    save_file({**load_file(path), **weights}, path, metadata={"format": "pt"})
    return folder


def shard(folder: Path) -> list[Path]:
    """Split the weights into several files with an index; return them."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    (folder / WEIGHTS).unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    return sorted(folder.glob("model-*.safetensors"))
