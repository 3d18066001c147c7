"""Rotary positions: what rotation a layer's keys have had, and rotating them further.

Nothing is looked up by architecture; `kvcore.cache.rope_fit` finds each layer's rotation from
what the model does.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kvcore.errors import KvError, NotExact
from kvcore.models.lm import LM, text_decoder

Pairing = Literal["none", "half", "interleaved"]
Rotation = tuple[Float[Tensor, "batch 1 slot half"], Float[Tensor, "batch 1 slot half"]]
"""Cosines and sines of the angles by which keys are rotated."""
FrequencySets = dict[str | None, tuple[Any, str | None]]
"""Rotary modules and the layer types that they are asked for, by the names of the sets."""
_FREQUENCY_SETS: weakref.WeakKeyDictionary[LM, FrequencySets] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class LayerRope:
    """How one layer's keys carry their position.

    Attributes
    ----------
    pairing : {"none", "half", "interleaved"}
        Which dimensions rotate together: i with i + dims/2, or 2i with 2i + 1.
    layer_type : str or None
        Which of the model's frequency sets the layer uses, of `frequency_sets`.
    dims : int
        How many of the head's dimensions rotate; the others pass unchanged.
    """

    pairing: Pairing
    layer_type: str | None
    dims: int


@dataclass(frozen=True)
class RopePlan:
    """Every layer's rotation, and the positions up to which it is exact.

    Attributes
    ----------
    max_positions : int or None
        Number of positions a sequence may have before the model changes its frequencies
        (dynamic and longrope scaling); ``None`` where it never does.
    """

    layers: tuple[LayerRope, ...]
    max_positions: int | None

    @property
    def bases(self) -> tuple[str | None, ...]:
        """The distinct frequency sets in use, sorted."""
        used = {layer.layer_type for layer in self.layers if layer.pairing != "none"}
        return tuple(sorted(used, key=str))


def rotary_modules(lm: LM) -> Iterator[tuple[str, Any]]:
    """Yield path and module of what turns positions into angles, in the part that reads text."""
    for path, module in text_decoder(lm.model).named_modules():
        if "rotary" in path.lower() and "position_ids" in _parameters(module):
            yield path, module


def rotary_module(lm: LM) -> Any:
    """Return the model's first rotary module.

    Raises
    ------
    NotExact
        If the model has none (learned positions, ALiBi).
    """
    for _, module in rotary_modules(lm):
        return module
    raise NotExact(
        f"{lm.name}: no rotary position module, so keys cannot be re-positioned; "
        "use a model with rotary embeddings."
    )


def frequency_sets(lm: LM) -> FrequencySets:
    """Return every rotary module with each layer type that it has frequencies for; remembered.

    Returns
    -------
    dict
        Of the first module under its layer types, or None where it has no such types; of further
        modules under their paths in the decoder, with the layer type where they have such.
    """
    if lm not in _FREQUENCY_SETS:
        first = rotary_module(lm)
        _FREQUENCY_SETS[lm] = {
            layer_type if module is first else " ".join(filter(None, (path, layer_type))): (
                module,
                layer_type,
            )
            for path, module in rotary_modules(lm)
            for layer_type in _layer_types(lm, module)
        }
    return _FREQUENCY_SETS[lm]


def _layer_types(lm: LM, module: Any) -> tuple[str | None, ...]:
    if "layer_type" not in _parameters(module):
        return (None,)
    served = getattr(module, "rope_type", None)  # by layer type, without those that do not rotate
    types = dict.fromkeys(lm.config.layer_types)
    return tuple(t for t in types if not isinstance(served, dict) or t in served)


def _parameters(module: Any) -> Any:
    return inspect.signature(module.forward).parameters


def rotation(lm: LM, layer_type: str | None, deltas: Int[Tensor, "batch slot"]) -> Rotation:
    """Return unit cosines and sines of a position change, from the model's own frequencies.

    Parameters
    ----------
    layer_type : str or None
        Of `frequency_sets`.
    deltas : int64
        Position changes, of either sign.

    Returns
    -------
    cos, sin : float32
        Scaling factors that some rope types multiply in are divided out again.

    Raises
    ------
    KvError
        For a frequency set that the model does not have.

    Notes
    -----
    Exact to float32: the module is handed a float32 dummy, because it answers in its dtype.
    """
    sets = frequency_sets(lm)
    if layer_type not in sets:
        known = ", ".join(map(str, sets))
        raise KvError(f"{lm.name}: rope base must be one of {known}; got {layer_type!r}.")
    module, kind = sets[layer_type]
    dummy = torch.zeros(1, dtype=torch.float32, device=deltas.device)
    angles = module(dummy, deltas.abs(), *(() if kind is None else (kind,)))
    cos, sin = (angles.real, angles.imag) if torch.is_tensor(angles) else angles
    cos, sin = _distinct(cos.float(), sin.float())
    norm = torch.sqrt(cos**2 + sin**2)
    sign = torch.where(deltas < 0, -1.0, 1.0).unsqueeze(-1)
    return (cos / norm).unsqueeze(1), (sin / norm * sign).unsqueeze(1)


def rotate(
    keys: Float[Tensor, "batch kv_head slot head_dim"],
    cos: Float[Tensor, "#batch 1 slot half"],
    sin: Float[Tensor, "#batch 1 slot half"],
    pairing: Pairing,
    precision: torch.dtype | None = None,
) -> Float[Tensor, "batch kv_head slot head_dim"]:
    """Rotate keys.

    Parameters
    ----------
    keys : tensor
        Any float dtype; computed in `precision` and returned in the same dtype.
    cos, sin : float32
        Of half as many angles as dimensions rotate.
    pairing : {"none", "half", "interleaved"}
    precision : torch.dtype, optional
        float32 by default.

    Returns
    -------
    Tensor
        New, of the keys' shape; the input is not changed.
    """
    if pairing == "none":
        return keys
    half = cos.shape[-1]
    cos, sin = (x.to(precision or torch.float32) for x in (cos, sin))
    moving, still = keys[..., : 2 * half].to(cos.dtype), keys[..., 2 * half :]
    first, second = pairs(moving, pairing)
    rotated = _unpaired(first * cos - second * sin, second * cos + first * sin, pairing)
    return torch.cat([rotated.to(keys.dtype), still], dim=-1)


def max_positions(lm: LM) -> int | None:
    """Return the positions up to which frequencies stay the same, None where they always do.

    Dynamic and longrope scaling switch at the original length.
    """
    parameters = getattr(lm.config, "rope_parameters", None) or {}
    sets = [p for p in parameters.values() if isinstance(p, dict)] or [parameters]
    limits = [
        int(
            p.get("original_max_position_embeddings")
            or getattr(lm.config, "original_max_position_embeddings", None)
            or lm.max_length
        )
        for p in sets
        if p.get("rope_type") in ("dynamic", "longrope")
    ]
    return min(limits) if limits else None


def _distinct(
    cos: Float[Tensor, "batch slot angle"], sin: Float[Tensor, "batch slot angle"]
) -> tuple[Float[Tensor, "batch slot half"], Float[Tensor, "batch slot half"]]:
    """Undo the doubling of frequencies, whichever way the module doubles them."""
    half = cos.shape[-1] // 2
    if torch.equal(sin[..., :half], sin[..., half:]):
        return cos[..., :half], sin[..., :half]
    if torch.equal(sin[..., 0::2], sin[..., 1::2]):
        return cos[..., 0::2], sin[..., 0::2]
    return cos, sin


def pairs(x: Tensor, pairing: Pairing) -> tuple[Tensor, Tensor]:
    half = x.shape[-1] // 2
    if pairing == "half":
        return x[..., :half], x[..., half:]
    return x[..., 0::2], x[..., 1::2]


def _unpaired(first: Tensor, second: Tensor, pairing: Pairing) -> Tensor:
    if pairing == "half":
        return torch.cat([first, second], dim=-1)
    return torch.stack([first, second], dim=-1).flatten(-2)
