"""Rotary positions: how each layer rotates its keys, found by probing, and rotating them further.

Nothing is looked up by architecture. A layer's rotation is whatever the model itself does to
the keys of one short sequence when its positions are shifted; a layer that fits no known
rotation is refused by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kvcore.errors import NotExact
from kvcore.models.lm import LM, text_decoder

Pairing = Literal["none", "half", "interleaved"]
KeysAndValues = tuple[
    Float[Tensor, "1 kv_head slot head_dim"], Float[Tensor, "1 kv_head slot head_dim"]
]
Rotation = tuple[Float[Tensor, "batch 1 slot half"], Float[Tensor, "batch 1 slot half"]]
"""Cosines and sines of the angles by which keys are rotated."""
PROBE_TOKENS = 11
PROBE_SHIFT = 61
# Largest relative error of a fitting rotation: rounding of one prefill in that dtype.
PROBE_TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 6e-2}
QUANTIZED_TOLERANCE = 2e-2  # 4-bit kernels round their products more coarsely than the dtype


@dataclass(frozen=True)
class LayerRope:
    """How one layer's keys carry their position.

    Attributes
    ----------
    pairing : {"none", "half", "interleaved"}
        Which dimensions rotate together: i with i + dims/2, or 2i with 2i + 1.
    layer_type : str or None
        Which of the model's frequency sets the layer uses (``None``: it has only one).
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


def rotary_module(lm: LM) -> Any:
    """Return the rotary module of the part that reads text, not that of a part that reads images.

    Raises
    ------
    NotExact
        If the model has none (learned positions, ALiBi).
    """
    for name, module in text_decoder(lm.model).named_modules():
        if name.endswith("rotary_emb"):
            return module
    raise NotExact(
        f"{lm.name}: no rotary position module, so keys cannot be re-positioned; "
        "use a model with rotary embeddings."
    )


def layer_types(lm: LM) -> tuple[str | None, ...]:
    """Return the distinct frequency sets the model's rotary module offers."""
    if "layer_type" not in inspect.signature(rotary_module(lm).forward).parameters:
        return (None,)
    return tuple(dict.fromkeys(lm.config.layer_types))


def rotation(lm: LM, layer_type: str | None, deltas: Int[Tensor, "batch slot"]) -> Rotation:
    """Return unit cosines and sines of a position change, from the model's own frequencies.

    Parameters
    ----------
    deltas : int64
        Position changes, of either sign.

    Returns
    -------
    cos, sin : float32
        Scaling factors that some rope types multiply in are divided out again.

    Notes
    -----
    Exact to float32: the module is handed a float32 dummy, because it answers in its dtype.
    """
    module = rotary_module(lm)
    dummy = torch.zeros(1, dtype=torch.float32, device=deltas.device)
    extra = () if layer_type is None else (layer_type,)
    cos, sin = module(dummy, deltas.abs(), *extra)
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
    first, second = _pairs(moving, pairing)
    rotated = _unpaired(first * cos - second * sin, second * cos + first * sin, pairing)
    return torch.cat([rotated.to(keys.dtype), still], dim=-1)


def fit_layers(
    lm: LM,
    at_zero: Sequence[KeysAndValues],
    shifted: Sequence[KeysAndValues],
    *,
    allow_unpositioned: bool = False,
) -> RopePlan:
    """Find every layer's rotation from one sequence prefilled at two offsets.

    Parameters
    ----------
    at_zero, shifted : sequence of (keys, values)
        Per layer, of one sequence of `PROBE_TOKENS`, prefilled from position 0 and from
        position `PROBE_SHIFT`.

    Raises
    ------
    NotExact
        Naming the first layer that no rotation explains.
    """
    shift = torch.full((1, PROBE_TOKENS), PROBE_SHIFT, device=at_zero[0][0].device)
    rotations = {kind: rotation(lm, kind, shift) for kind in layer_types(lm)}
    tolerance = PROBE_TOLERANCE[lm.dtype]
    if lm.files.quantization:
        tolerance = max(tolerance, QUANTIZED_TOLERANCE)
    layers = tuple(
        _fit_layer(lm, i, old, new, rotations, tolerance)
        for i, (old, new) in enumerate(zip(at_zero, shifted, strict=True))
    )
    if all(layer.pairing == "none" for layer in layers) and not allow_unpositioned:
        raise NotExact(
            f"{lm.name}: no layer's keys carry a rotation (ALiBi or none at all); "
            "re-positioning has no meaning for this model."
        )
    return RopePlan(layers, max_positions(lm))


def _fit_layer(
    lm: LM,
    index: int,
    old: KeysAndValues,
    new: KeysAndValues,
    rotations: dict[str | None, Rotation],
    tolerance: float,
) -> LayerRope:
    if _relative(new[1], old[1]) > tolerance:
        raise NotExact(
            f"{lm.name}: layer {index}'s values change with position, so its cache "
            "cannot be re-positioned (latent attention or learned positions)."
        )
    if _relative(new[0], old[0]) < tolerance:
        return LayerRope("none", None, 0)
    fits = [
        (_relative(new[0], rotate(old[0], cos, sin, pairing)), pairing, kind)
        for kind, (cos, sin) in rotations.items()
        if 2 * cos.shape[-1] <= old[0].shape[-1]
        for pairing in ("half", "interleaved")
    ]
    error, pairing, kind = min(fits, key=lambda fit: fit[0], default=(1.0, "half", None))
    if error > tolerance:
        raise NotExact(
            f"{lm.name}: layer {index}'s keys fit no rotation (relative error "
            f"{error:.1e}, allowed {tolerance:.0e}), so they cannot be re-positioned "
            "exactly; this model is not supported."
        )
    return LayerRope(pairing, kind, 2 * rotations[kind][0].shape[-1])  # type: ignore[arg-type]


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


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).norm() / b.float().norm().clamp_min(1e-30))


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


def _pairs(x: Tensor, pairing: Pairing) -> tuple[Tensor, Tensor]:
    half = x.shape[-1] // 2
    if pairing == "half":
        return x[..., :half], x[..., half:]
    return x[..., 0::2], x[..., 1::2]


def _unpaired(first: Tensor, second: Tensor, pairing: Pairing) -> Tensor:
    if pairing == "half":
        return torch.cat([first, second], dim=-1)
    return torch.stack([first, second], dim=-1).flatten(-2)
