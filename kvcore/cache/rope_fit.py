"""Which rotation explains how a layer's keys change when nothing but their positions does.

Every explanation is tried: no rotation, and each of the model's frequency sets with each way of
pairing dimensions. An explanation is as good as its worst pair of dimensions, relative to that
pair's own size: a large bias on pairs that turn slowly hides no pair that turns fast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kvcore.cache import rope
from kvcore.cache.rope import LayerRope, Pairing, RopePlan, Rotation
from kvcore.errors import NotExact
from kvcore.models.lm import LM

KeysAndValues = tuple[
    Float[Tensor, "1 kv_head slot head_dim"], Float[Tensor, "1 kv_head slot head_dim"]
]
Rotations = dict[str | None, Rotation]
"""By frequency set."""
# Largest relative error of a pair of dimensions under the right rotation. float32: the rounding
# of an angle of 72 radians, 1e-5 measured. 16 bits: cosine, sine and two products are rounded.
TOLERANCE = {"float32": 1e-4, "float16": 4e-3, "bfloat16": 3e-2}
RIVAL = 3  # times the best error (or the rounding of angles): what is not told apart from it
ANGLE_ROUNDING = 2e-5
FARTHEST = 1 << 17  # positions over which explanations may not differ, at most


@dataclass(frozen=True)
class Explanation:
    """One way in which keys may have changed, and how well it fits.

    Attributes
    ----------
    error : float
        Of the worst pair of dimensions, relative to its size.
    change : float
        By how much the explanation changes that pair, relative to its size.
    """

    layer: LayerRope
    error: float
    change: float

    def __str__(self) -> str:
        if self.layer.pairing == "none":
            return f"no rotation (error {self.error:.1e})"
        base = f" of {self.layer.layer_type}" if self.layer.layer_type else ""
        return (
            f"{self.layer.pairing} pairs{base} (error {self.error:.1e} where the rotation "
            f"changes {self.change:.1e})"
        )


def fit_layers(
    lm: LM,
    at_zero: Sequence[KeysAndValues],
    shifted: Sequence[KeysAndValues],
    shift: int,
    *,
    allow_unpositioned: bool = False,
) -> RopePlan:
    """Find every layer's rotation from its keys and values of equal inputs at two offsets.

    Parameters
    ----------
    at_zero, shifted : sequence of (keys, values)
        Per layer, of one sequence from position 0 and from position `shift`, each layer having
        been handed the same inputs both times. Float32, or the dtype they were computed in.

    Raises
    ------
    NotExact
        Naming the first layer whose values change, that no rotation explains, or that several
        explain which differ elsewhere.
    """
    rotations = _rotations(lm, at_zero[0][0], shift)
    layers = tuple(
        _fit_layer(lm, rotations, i, old, new)
        for i, (old, new) in enumerate(zip(at_zero, shifted, strict=True))
    )
    if all(layer.pairing == "none" for layer in layers) and not allow_unpositioned:
        raise NotExact(
            f"{lm.name}: no layer's keys carry a rotation (ALiBi or none at all); "
            "re-positioning has no meaning for this model."
        )
    return RopePlan(layers, rope.max_positions(lm))


def _rotations(lm: LM, keys: Tensor, distance: int) -> Rotations:
    """Return the rotations by a distance of which layers may have had one."""
    deltas = torch.full((1, keys.shape[2]), distance, device=keys.device)
    return {kind: rope.rotation(lm, kind, deltas) for kind in rope.frequency_sets(lm)}


def _fit_layer(
    lm: LM, rotations: Rotations, index: int, old: KeysAndValues, new: KeysAndValues
) -> LayerRope:
    where = f"{lm.name}: layer {index}"
    dtype = str(old[0].dtype).removeprefix("torch.")
    moved = relative_change(old[1], new[1])
    explanations = explain(rotations, old[0], new[0])
    if not all(map(math.isfinite, (moved, *(e.error for e in explanations)))):
        advice = {"float16": "use --kv-dtype bfloat16", "bfloat16": "use --kv-dtype float32"}
        raise NotExact(
            f"{lm.name} overflows in {dtype} (keys or values of layer {index}): "
            f"{advice.get(dtype, 'its weights are damaged')}."
        )
    if moved > 4 * torch.finfo(old[1].dtype).eps:
        raise NotExact(
            f"{where}'s values change with position (by {moved:.1e} of their size), so its "
            "cache cannot be re-positioned (latent attention or learned positions)."
        )
    best = explanations[0]
    if best.error > TOLERANCE[dtype]:
        raise NotExact(
            f"{where}'s keys fit no rotation (best: {best}; allowed {TOLERANCE[dtype]:.0e}), so "
            "they cannot be re-positioned exactly; this model is not supported."
        )
    limit = RIVAL * max(best.error, ANGLE_ROUNDING)
    for rival in explanations[1:]:
        if rival.error <= limit and _differ(lm, old[0], best.layer, rival.layer):
            raise NotExact(
                f"{where}'s keys are explained by {best} as well as by {rival}, which differ at "
                "other distances; load the model in float32."
            )
    return best.layer


def explain(rotations: Rotations, old: Tensor, new: Tensor) -> list[Explanation]:
    """Return every explanation of how keys changed, the best first."""
    pairings: tuple[Pairing, ...] = ("half", "interleaved")
    layers = [LayerRope("none", None, 0)] + [
        LayerRope(pairing, kind, 2 * cos.shape[-1])
        for kind, (cos, _) in rotations.items()
        if 2 * cos.shape[-1] <= old.shape[-1]
        for pairing in pairings
    ]
    return sorted(
        (_explanation(layer, old, new, rotations) for layer in layers), key=lambda e: e.error
    )


def _explanation(layer: LayerRope, old: Tensor, new: Tensor, rotations: Rotations) -> Explanation:
    expected, before = _rotated(layer, old, rotations), old.float()
    size, off, turned = _pair_norms(
        torch.stack([expected, new.float() - expected, expected - before]), layer
    )
    # Below this, 16 bits round more coarsely than relative to the size.
    size = size.clamp_min(max(1e-30, torch.finfo(old.dtype).smallest_normal))
    error, change = off / size, turned / size
    worst = int(error.argmax())
    return Explanation(layer, float(error.flatten()[worst]), float(change.flatten()[worst]))


def _differ(lm: LM, keys: Tensor, one: LayerRope, other: LayerRope) -> bool:
    """Whether two explanations rotate keys otherwise, over the longest distance."""
    farthest = min(lm.max_length, rope.max_positions(lm) or FARTHEST, FARTHEST) - 1
    rotations = _rotations(lm, keys, farthest)
    a, b = (_rotated(layer, keys, rotations) for layer in (one, other))
    size, off = _pair_norms(torch.stack([a, a - b]), one)
    return bool((off / size.clamp_min(1e-30)).max() > TOLERANCE["float32"])


def _rotated(layer: LayerRope, keys: Tensor, rotations: Rotations) -> Tensor:
    """Return keys as an explanation says, in float32."""
    if layer.pairing == "none":
        return keys.float()
    return rope.rotate(keys.float(), *rotations[layer.layer_type], layer.pairing)


def _pair_norms(x: Tensor, layer: LayerRope) -> Tensor:
    """Return the norms over tokens of each head's pairs of dimensions, single ones behind them.

    Parameters
    ----------
    x : (several, 1, kv_head, slot, head_dim) float32

    Returns
    -------
    (several, kv_head, pairs and single dimensions)
    """
    per_dimension: Tensor = x.square().sum(dim=(1, 3))
    turning, still = per_dimension[..., : layer.dims], per_dimension[..., layer.dims :]
    if layer.pairing == "none":
        return still.sqrt()
    first, second = rope.pairs(turning, layer.pairing)
    norms: Tensor = torch.cat([first + second, still], dim=-1).sqrt()
    return norms


def relative_change(old: Tensor, new: Tensor) -> float:
    """Return the norm of a tensor's change, relative to its own."""
    return float((new.float() - old.float()).norm() / old.float().norm().clamp_min(1e-30))
