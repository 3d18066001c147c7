"""Hooks that show what a model's layers put out, or stand before its LM head.

They change nothing unless asked to and are removed whatever happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from kvcore.errors import KvError, NotExact
from kvcore.models.lm import LM

PARTS = ("residual", "attention", "mlp")
"""The stream behind a layer, and what its attention and its MLP add to it."""
Seen = Callable[[str, int, torch.Tensor], None]


def layers_of(lm: LM) -> Sequence[Any]:
    """Return the decoder layers, in order.

    Raises
    ------
    KvError
        Where the model has no list of them.
    """
    found = getattr(lm.model.get_decoder(), "layers", None)
    if found is None or len(found) != lm.config.num_hidden_layers:
        raise KvError(f"{lm.name}: no list of decoder layers found; load a causal language model.")
    layers: Sequence[Any] = found
    return layers


@contextmanager
def watching(
    lm: LM, parts: Sequence[str], seen: Seen, layers: Sequence[int] | None = None
) -> Iterator[None]:
    """Show what the model's layers put out to a function while they run; nothing is changed.

    Parameters
    ----------
    parts : sequence of str
        Of `PARTS`.
    seen : callable
        Gets part, layer and (batch, tokens, hidden size); must not change it.
    layers : sequence of int, optional
        Which of them, all by default.
    """

    def hook(part: str, layer: int) -> Callable[..., None]:
        def show(_module: Any, _inputs: Any, output: Any) -> None:
            seen(part, layer, output[0] if isinstance(output, tuple) else output)

        return show

    handles: list[Any] = []
    try:
        for number, layer in enumerate(layers_of(lm)):
            if layers is None or number in layers:
                for part in parts:
                    module = _module(layer, part)
                    handles.append(module.register_forward_hook(hook(part, number)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _module(layer: Any, part: str) -> Any:
    """Return what puts a part out: the last module before it is added to the stream."""
    if part == "residual":
        return layer
    normed = hasattr(layer, "post_feedforward_layernorm")  # Gemma 2 and 3: norms behind, too
    after = {
        "attention": (
            "post_self_attn_layernorm",
            *(("post_attention_layernorm",) if normed else ()),
            "self_attn",
        ),
        "mlp": ("post_feedforward_layernorm", "post_mlp_layernorm", "mlp"),
    }
    found = next((name for name in after[part] if hasattr(layer, name)), None)
    if found is None:
        raise NotExact(
            f"{type(layer).__name__} has no module for {part}; ask for the residual stream only."
        )
    return getattr(layer, found)


@contextmanager
def before_head(lm: LM, change: Any) -> Iterator[None]:
    """Hand the LM head's input to a function, before `forward` picks from what that returns."""
    head = lm.model.get_output_embeddings()
    if head is None:
        raise KvError(f"{lm.name}: no LM head found; load a causal language model.")
    handle = head.register_forward_pre_hook(
        lambda _module, inputs: (change(inputs[0]), *inputs[1:])
    )
    try:
        yield
    finally:
        handle.remove()
