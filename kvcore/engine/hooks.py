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


def has_layer_list(lm: LM) -> bool:
    """Whether the model keeps its decoder layers in one list, as `layers_of` needs it."""
    layers = getattr(lm.model.get_decoder(), "layers", None)
    return layers is not None and len(layers) == lm.config.num_hidden_layers


def layers_of(lm: LM) -> Sequence[Any]:
    """Return the decoder layers, in order.

    Raises
    ------
    KvError
        Where the model has no list of them.
    """
    if not has_layer_list(lm):
        raise KvError(f"{lm.name}: no list of decoder layers found; load a causal language model.")
    layers: Sequence[Any] = lm.model.get_decoder().layers
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
                    module = module_of(layer, part)
                    handles.append(module.register_forward_hook(hook(part, number)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def module_of(layer: Any, part: str) -> Any:
    """Return what puts a part out: the last module before it is added to the stream.

    Raises
    ------
    NotExact
        Where the layer has no such module.
    """
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
    name = next((name for name in after[part] if hasattr(layer, name)), None)
    if name is None:
        raise NotExact(
            f"{type(layer).__name__} has no module for {part}; ask for the residual stream only."
        )
    return getattr(layer, name)


@contextmanager
def before_head(lm: LM, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Hand the LM head what a function makes of its input, inside the context.

    Parameters
    ----------
    change : callable
        Gets (batch, tokens, hidden size), and returns such a tensor of any batch and tokens. Of
        two such contexts the outer one's function runs first.

    Raises
    ------
    KvError
        Where the model has no LM head.

    Notes
    -----
    A hook rather than ``logits_to_keep``: that argument takes different positions per row only
    from transformers 5.22 on, and means something else before.
    """
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
