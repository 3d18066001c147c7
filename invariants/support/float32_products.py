"""16-bit arithmetic at the speed of float32, on CPUs that have no instructions for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree


class Float32Products(TorchFunctionMode):
    """Products of 16-bit tensors are summed up in float32 and rounded once, as on a GPU.

    Of attention the whole is computed in float32, from 16-bit inputs to a 16-bit output. Sixty
    times as fast as a CPU's own 16-bit products where it has no instructions for them. Weights
    are widened once and held until the end of the context: twice their size again.
    """

    PRODUCTS = frozenset(
        (
            torch.nn.functional.linear,
            torch.nn.functional.scaled_dot_product_attention,
            torch.matmul,
            torch.Tensor.matmul,
            torch.Tensor.__matmul__,
            torch.bmm,
            torch.baddbmm,
        )
    )

    def __init__(self) -> None:
        super().__init__()
        self._weights: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._weights.clear()

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call a function of torch, a product in float32."""
        inputs = (tuple(args), kwargs or {})
        narrow = [each.dtype for each in pytree.tree_leaves(inputs) if _is_16_bit(each)]
        if func not in self.PRODUCTS or not narrow:
            return func(*inputs[0], **inputs[1])
        wide = pytree.tree_map(self.wide, inputs)
        return func(*wide[0], **wide[1]).to(narrow[0])

    def wide(self, each: Any) -> Any:
        if not _is_16_bit(each):
            return each
        if not isinstance(each, torch.nn.Parameter):
            return each.float()
        if id(each) not in self._weights:  # with the weight itself, whose id is then its own
            self._weights[id(each)] = each, each.detach().float()
        return self._weights[id(each)][1]


def _is_16_bit(each: Any) -> bool:
    return isinstance(each, torch.Tensor) and each.dtype in (torch.bfloat16, torch.float16)
