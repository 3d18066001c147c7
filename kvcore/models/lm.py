"""A loaded model with everything the instrument needs to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kvcore.models.files import ModelFiles


def text_decoder(model: Any) -> Any:
    """Return the part of a model that reads text, the model itself where it names none."""
    decoder = model.get_decoder()
    return decoder if isinstance(decoder, PreTrainedModel) else model


@dataclass(frozen=True, eq=False, repr=False)
class LM:
    """A loaded causal language model and everything the instrument needs to know of it."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    bos_id: int
    bos_source: str  # "tokenizer", "config" or "end of text"
    files: ModelFiles
    device: torch.device
    config: Any
    has_bos: bool = True  # whether caches begin with BOS

    def __repr__(self) -> str:
        """Name the model and where it lies; its layers and settings fill thousands of lines."""
        quantized = f" in {self.files.quantization}" if self.files.quantization else ""
        return f"<LM {self.name}: {self.dtype}{quantized} on {self.device}>"

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """Show the same to pretty printers, which else list the fields of a dataclass."""
        printer.text(repr(self))

    @property
    def dtype(self) -> str:
        """Name of the dtype that keys, values and activations have."""
        return self.files.dtype

    @property
    def fingerprint(self) -> str:
        """Hash of exactly what was loaded."""
        return self.files.model_id

    @property
    def max_length(self) -> int:
        """Most positions the model was built for, in tokens."""
        return int(getattr(self.config, "max_position_embeddings", 1 << 30))
