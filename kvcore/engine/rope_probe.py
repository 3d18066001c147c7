"""How a model's keys carry their position, found by running it at two offsets.

Each layer is handed the same hidden states at both, those it had at the first: no error of lower
layers reaches it, so that its values and its output stay and its keys differ by one rotation. In 16
bits the layers run in float32 one at a time, where memory allows.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kvcore.cache import hf_cache, kv_cache, rope, rope_fit
from kvcore.cache.kv_cache import KVCache
from kvcore.engine import forward, hooks, limits
from kvcore.errors import KvError, NotExact
from kvcore.models import memory
from kvcore.models.lm import LM

PROBE_TOKENS = 11
PROBE_SHIFT = 61
# Largest change of what a layer adds to its input, of the median token, in float32: 1.3e-6 measured
# on tiny models and real ones, 6e-6 with key biases of norm 900, 1e-4 and more where queries grow
# by 0.3 % over the shift.
OUTPUT_TOLERANCE = 3e-5
_PLANS: weakref.WeakKeyDictionary[LM, rope.RopePlan] = weakref.WeakKeyDictionary()


def rope_plan(lm: LM) -> rope.RopePlan:
    """Probe how each layer's keys carry their position; remembered per loaded model.

    Raises
    ------
    NotExact
        Naming the layer that cannot be re-positioned exactly.
    """
    if lm not in _PLANS:
        _PLANS[lm] = probe(lm)
    return _PLANS[lm]


def probe(lm: LM) -> rope.RopePlan:
    """Probe a model anew; see `rope_plan`. Exact in choosing; costs two prefills of 11 tokens."""
    rope.rotary_module(lm)  # refused first, where there is none
    shift = max(1, min(PROBE_SHIFT, (rope.max_positions(lm) or lm.max_length) - PROBE_TOKENS))
    if lm.dtype != "float32" and room_for_float32(lm):
        # Refused here where memory runs out, or where something outside the layers insists on
        # the model's dtype; the layers' own dtype then decides.
        with suppress(RuntimeError, NotExact):
            return _fit(lm, shift, in_float32=True)
    return _fit(lm, shift, in_float32=False)


def _fit(lm: LM, shift: int, *, in_float32: bool) -> rope.RopePlan:
    caches, outputs = _read_twice(lm, shift, in_float32=in_float32)
    at_zero, shifted = (list(zip(cache.keys, cache.values, strict=True)) for cache in caches)
    plan = rope_fit.fit_layers(lm, at_zero, shifted, shift)
    # Where a setting says from when on queries are scaled, no sequence reaches that far.
    exact = lm.dtype == "float32" or (in_float32 and lm.files.quantization is None)
    if exact and limits.scaling_start(lm.config) is None:
        _check_outputs(lm, *outputs)
    return plan


Outputs = Sequence[torch.Tensor]
"""What the first layer is handed, and what each puts out, all on the inputs of the first pass."""


def _check_outputs(lm: LM, at_zero: Outputs, shifted: Outputs) -> None:
    """Refuse a model that makes something of positions beside turning keys and queries."""
    for layer in range(len(at_zero) - 1):
        old = at_zero[layer + 1].float()
        added = (old - at_zero[layer].float()).norm(dim=-1).clamp_min(1e-30)
        change = (shifted[layer + 1].float() - old).norm(dim=-1)
        moved = float((change / added).median())  # another expert for a token is no position
        if moved > OUTPUT_TOLERANCE:
            raise NotExact(
                f"{lm.name}: layer {layer}'s output changes with position (by {moved:.1e} of what "
                f"it adds, allowed {OUTPUT_TOLERANCE:.0e}; are queries scaled by their position?), "
                "so no cache can be re-positioned exactly; use a model with rotary positions alone."
            )


def _read_twice(
    lm: LM, shift: int, *, in_float32: bool
) -> tuple[tuple[KVCache, KVCache], tuple[Outputs, Outputs]]:
    """Read the probe's tokens from position 0 and from a shifted one, on equal inputs."""
    tokens = range(lm.bos_id + 3, lm.bos_id + 3 + 7 * PROBE_TOKENS, 7)
    ids = [i % lm.config.vocab_size for i in tokens]

    def read(start: int, inputs: LayerInputs) -> KVCache:
        with ExitStack() as contexts:
            if in_float32:
                contexts.enter_context(layers_in_float32(lm))
            contexts.enter_context(layer_inputs(lm, inputs))
            contexts.enter_context(suppress(hf_cache.PrefillComplete))
            step, cache = forward.pad_ids(lm, [ids], [start]), hf_cache.empty()
            forward.run_model(lm, step, forward.NO_TOKENS, past_key_values=cache, use_cache=True)
        return kv_cache.from_model(cache, step.key_positions(), step.key_real())

    first = LayerInputs([])
    second = LayerInputs([], first.own)
    caches = read(0, first), read(shift, second)
    moved = rope_fit.relative_change(first.own[0], second.own[0])
    if moved > 0:
        raise NotExact(
            f"{lm.name}: what is handed to the first layer changes with position (by {moved:.1e} "
            "of its size: learned positions), so no cache can be re-positioned; use a model with "
            "rotary positions alone."
        )
    return caches, (first.own, second.own)


def decoder_layers(lm: LM) -> Sequence[nn.Module]:
    """Return the decoder's layers in order, whatever their list is called.

    Raises
    ------
    KvError
        Where no list of modules is as long as the model has layers.
    """
    if hooks.has_layer_list(lm):
        return hooks.layers_of(lm)
    decoder: Any = lm.model.get_decoder() or lm.model
    for module in decoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == lm.config.num_hidden_layers:
            return list(module)
    raise KvError(f"{lm.name}: no list of decoder layers found; load a causal language model.")


@dataclass(frozen=True)
class LayerInputs:
    """The hidden states that layers are handed in a pass, in the order of their calls.

    Attributes
    ----------
    own : list of tensor
        Filled by the pass: what its layers would be handed, and what the last puts out.
    replayed : sequence of tensor
        What they are handed instead, if anything.
    """

    own: list[torch.Tensor]
    replayed: Sequence[torch.Tensor] = ()


@contextmanager
def layer_inputs(lm: LM, inputs: LayerInputs) -> Iterator[None]:
    """Record what every layer is handed, and hand it something else where there is such.

    A pass ends behind its last layer, by `PrefillComplete`.
    """

    def change(_module: nn.Module, args: Any, options: Any) -> Any:
        name = "hidden_states" if "hidden_states" in options else next(iter(options), "")
        call = len(inputs.own)
        inputs.own.append(args[0] if args else options[name])
        if not inputs.replayed:
            return None
        if args:
            return (inputs.replayed[call], *args[1:]), options
        return args, {**options, name: inputs.replayed[call]}

    def stop(_module: nn.Module, _args: Any, output: Any) -> None:
        inputs.own.append(output[0] if isinstance(output, tuple) else output)
        raise hf_cache.PrefillComplete

    layers = decoder_layers(lm)
    with ExitStack() as handles:
        for layer in layers:
            handle = layer.register_forward_pre_hook(change, with_kwargs=True)
            handles.callback(handle.remove)
        handles.callback(layers[-1].register_forward_hook(stop).remove)
        yield


@contextmanager
def layers_in_float32(lm: LM) -> Iterator[None]:
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

    with ExitStack() as handles:
        handles.callback(restore)
        for layer in decoder_layers(lm):
            handle = layer.register_forward_pre_hook(cast_layer, with_kwargs=True)
            handles.callback(handle.remove)
        for _, module in rope.rotary_modules(lm):
            handle = module.register_forward_pre_hook(cast_input, with_kwargs=True)
            handles.callback(handle.remove)
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


def room_for_float32(lm: LM) -> bool:
    """Whether the largest layer fits beside the model once more, in float32."""
    largest = max(
        sum(4 * p.numel() for p in layer.parameters() if _is_16_bit(p))
        for layer in decoder_layers(lm)
    )
    return 2 * largest < memory.available_memory(lm.device)
