"""The only place that touches transformers' cache classes.

All caches are plain ``DynamicCache()`` objects, built without a config: sliding layers drop
nothing then, and windows are enforced by masks over positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


def empty() -> Any:
    """Return an empty plain ``DynamicCache``."""
    return DynamicCache()


def of_layers(layers: Iterable[tuple[Tensor, Tensor]]) -> Any:
    """Return a plain ``DynamicCache`` of the keys and values of each layer."""
    return _filled((DynamicLayer(), keys, values) for keys, values in layers)


def of_transient_layers(
    layers: Iterable[tuple[Sequence[Tensor], Sequence[Tensor]]], slots: int
) -> Any:
    """Return a ``DynamicCache`` that keeps nothing of the pass that reads it.

    Parameters
    ----------
    layers : iterable of (keys, values)
        Per layer the keys and the values of several batches, of at most `slots` slots.
    """
    return _filled((_TransientLayer(slots), keys, values) for keys, values in layers)


def _filled(layers: Iterable[tuple[Any, Any, Any]]) -> Any:
    cache = empty()
    for layer, keys, values in layers:
        layer.keys, layer.values, layer.is_initialized = keys, values, True
        cache.layers.append(layer)
    return cache


class _TransientLayer(DynamicLayer):
    """A layer that hands out its batches joined, with the pass's own entries behind, once."""

    keys: Any  # of several batches
    values: Any

    def __init__(self, slots: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._slots = slots

    def update(
        self, key_states: Any, value_states: Any, *_args: Any, **_options: Any
    ) -> tuple[Tensor, Tensor]:
        return (
            join_padded(self.keys, self._slots, key_states),
            join_padded(self.values, self._slots, value_states),
        )

    def get_seq_length(self, *_args: Any) -> int:
        return self._slots


class PrefillComplete(Exception):
    """Raised from within a forward pass when every layer has cached its keys and values."""


class _StoppingCache(DynamicCache):
    """An empty plain cache that ends the pass when a layer has been cached."""

    last_layer = 0

    def update(
        self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **options: Any
    ) -> Any:
        both = super().update(key_states, value_states, layer_idx, *args, **options)
        if layer_idx == self.last_layer:
            raise PrefillComplete
        return both


def stop_after_layer(last: int) -> Any:
    """Return an empty ``DynamicCache`` that raises `PrefillComplete` when a layer is cached."""
    cache = _StoppingCache()
    cache.last_layer = last
    return cache


def join_padded(
    parts: Sequence[Float[Tensor, "_ kv_head _ head_dim"]],
    width: int,
    behind: Float[Tensor, "rows kv_head n head_dim"] | None = None,
) -> Float[Tensor, "rows kv_head longer head_dim"]:
    """Concatenate batches along the batch axis, each padded with zeros to `width` slots.

    Parameters
    ----------
    parts : sequence of tensors
        Of any rows, and of at most `width` slots.
    behind : optional
        Put behind the `width` slots of each row.

    Returns
    -------
    Tensor
        New, of `width` + n slots.
    """
    first, more = parts[0], 0 if behind is None else behind.shape[2]
    joined = first.new_empty(
        sum(len(x) for x in parts), first.shape[1], width + more, first.shape[3]
    )
    row = 0
    for x in parts:
        joined[row : row + len(x), :, : x.shape[2]] = x
        joined[row : row + len(x), :, x.shape[2] : width] = 0
        row += len(x)
    if behind is not None:
        joined[:, :, width:] = behind
    return joined
