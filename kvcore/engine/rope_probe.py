"""How a model's keys carry their position, found by running it at two offsets.

Each layer is handed the same hidden states at both, those it had at the first: no error of lower
layers reaches it, so that its values stay and its keys differ by one rotation. In 16 bits the
layers run in float32 one at a time, where memory allows.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from kvcore.cache import rope, rope_fit
from kvcore.cache.kv_cache import KVCache
from kvcore.engine import forward
from kvcore.errors import KvError
from kvcore.models import memory
from kvcore.models.lm import LM

PROBE_TOKENS = 11
PROBE_SHIFT = 61
_PLANS: weakref.WeakKeyDictionary[LM, rope.RopePlan] = weakref.WeakKeyDictionary()


def rope_plan(lm: LM) -> rope.RopePlan:
    """Probe how each layer's keys carry their position; remembered per loaded model.

    Raises
    ------
    NotExact
        Naming the layer that cannot be re-positioned exactly.
    """
    if lm not in _PLANS:
        _PLANS[lm] = _probe(lm)
    return _PLANS[lm]


def _probe(lm: LM) -> rope.RopePlan:
    rope.rotary_module(lm)  # refused first, where there is none
    shift = max(1, min(PROBE_SHIFT, (rope.max_positions(lm) or lm.max_length) - PROBE_TOKENS))
    wide = lm.dtype != "float32" and _room_for_float32(lm)
    try:
        caches = _read_twice(lm, shift, in_float32=wide)
    except RuntimeError:
        if not wide:
            raise
        # Something between the layers insists on its dtype, or memory ran out.
        caches = _read_twice(lm, shift, in_float32=False)
    at_zero, shifted = (list(zip(c.keys, c.values, strict=True)) for c in caches)
    return rope_fit.fit_layers(lm, at_zero, shifted, shift)


def _read_twice(lm: LM, shift: int, *, in_float32: bool) -> tuple[KVCache, KVCache]:
    """Read the probe's tokens from position 0 and from a shifted one, on equal inputs."""
    tokens = range(lm.bos_id + 3, lm.bos_id + 3 + 7 * PROBE_TOKENS, 7)
    ids = [i % lm.config.vocab_size for i in tokens]
    first: list[torch.Tensor] = []

    def read(start: int, inputs: Sequence[torch.Tensor]) -> KVCache:
        with ExitStack() as contexts:
            if in_float32:
                contexts.enter_context(_layers_in_float32(lm))
            contexts.enter_context(_layer_inputs(lm, first, inputs))
            return forward.prefill(lm, forward.pad_ids(lm, [ids], [start]))

    return read(0, ()), read(shift, first)


def decoder_layers(lm: LM) -> Sequence[nn.Module]:
    """Return the decoder's layers in order, whatever their list is called.

    Raises
    ------
    KvError
        Where no list of modules is as long as the model has layers.
    """
    decoder: Any = lm.model.get_decoder() or lm.model
    for module in decoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == lm.config.num_hidden_layers:
            return list(module)
    raise KvError(f"{lm.name}: no list of decoder layers found; load a causal language model.")


@contextmanager
def _layer_inputs(
    lm: LM, record: list[torch.Tensor], replay: Sequence[torch.Tensor]
) -> Iterator[None]:
    """Append the hidden states that layers are handed to a list, or replace them by earlier ones.

    In the order of the calls, which is the same in both passes.
    """
    earlier = iter(replay)

    def change(_module: nn.Module, args: Any, options: Any) -> Any:
        name = "hidden_states" if "hidden_states" in options else next(iter(options), "")
        if not replay:
            record.append(args[0] if args else options[name])
            return None
        if args:
            return (next(earlier), *args[1:]), options
        return args, {**options, name: next(earlier)}

    with ExitStack() as hooks:
        for layer in decoder_layers(lm):
            handle = layer.register_forward_pre_hook(change, with_kwargs=True)
            hooks.callback(handle.remove)
        yield


@contextmanager
def _layers_in_float32(lm: LM) -> Iterator[None]:
    """Run each layer and the angles of its rotation in float32; the model stays as it is.

    Weights in 4 bits stay, and compute in their own dtype.
    """
    cast: list[tuple[dict[str, Any], str, Any]] = []

    def restore() -> None:
        while cast:
            tensors, name, tensor = cast.pop()
            tensors[name] = tensor

    def cast_layer(layer: nn.Module, args: Any, options: Any) -> Any:
        restore()
        for module in layer.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None and _is_16_bit(tensor):
                        cast.append((tensors, name, tensor))
                        tensors[name] = tensor.float()  # type: ignore[assignment]
        return _in_float32(args), _in_float32(options)

    def cast_input(_module: nn.Module, args: Any, options: Any) -> Any:
        return _in_float32(args), _in_float32(options)

    with ExitStack() as hooks:
        hooks.callback(restore)
        for layer in decoder_layers(lm):
            handle = layer.register_forward_pre_hook(cast_layer, with_kwargs=True)
            hooks.callback(handle.remove)
        for _, module in rope.rotary_modules(lm):
            handle = module.register_forward_pre_hook(cast_input, with_kwargs=True)
            hooks.callback(handle.remove)
        yield


def _is_16_bit(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.dtype in (torch.float16, torch.bfloat16)


def _in_float32(x: Any) -> Any:
    """Return tensors in 16 bits, in tuples and dictionaries too, in float32; all else as it is."""
    if isinstance(x, tuple):
        return tuple(map(_in_float32, x))
    if isinstance(x, dict):
        return {key: _in_float32(value) for key, value in x.items()}
    return x.float() if _is_16_bit(x) else x


def _room_for_float32(lm: LM) -> bool:
    """Whether the largest layer fits beside the model once more, in float32."""
    largest = max(
        sum(4 * p.numel() for p in layer.parameters() if _is_16_bit(p))
        for layer in decoder_layers(lm)
    )
    return 2 * largest < memory.available_memory(lm.device)
