"""How far two measurements of one key may lie apart, and whether they do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from kvcore.store.schema import NUMBER, NUMBERS, TEXTS, RowSchema

# How far two measurements of one key may lie apart, in nats times max(1, nll): batches of another
# shape and other machines' kernels round differently. float32: twice the largest difference
# measured, 1.4e-4 over 24 scores of Qwen2.5-Coder-0.5B with primed values under the bare keys: half
# of a head's attention goes to the sink's slot, whose value is large there, and so is its rounding
# (other conditions on that model 2.6e-5 over 135; other models 1.1e-5 over 11,000). The others:
# half a unit in the last place of a logit of size 32, summed over a few roundings. They are there
# to catch rows that are not the same measurement; the noise floor of a run judges precision.
TOLERANCES = {"float64": 1e-5, "float32": 3e-4, "float16": 0.03, "bfloat16": 0.25}


def tolerance(dtype: str) -> float:
    """Return how far two measurements in a dtype may differ, in nats times max(1, nll).

    A compound name (``"nf4-float16"``) has the tolerance of the dtype in it, an unknown one the
    largest.
    """
    known = [name for name in TOLERANCES if name in dtype]
    return TOLERANCES[max(known, key=len)] if known else max(TOLERANCES.values())


def disagreement(
    first: Mapping[str, Any], second: Mapping[str, Any], schema: RowSchema, *, lists: bool = False
) -> str | None:
    """Return the first column in which two rows differ by more than rounding, None for no column.

    - `first`, `second`: two measurements of one key.
    - `lists`: compare lists of numbers too, element by element. Lists of texts are never compared:
      they describe choices between logits that may lie closer than rounding.
    """
    largest = tolerance(first["dtype"])
    for name in schema.values:
        kind = schema.types.get(name, pa.string())
        if kind == TEXTS or (kind == NUMBERS and not lists):
            continue
        a, b = first[name], second[name]
        if kind not in (NUMBER, NUMBERS) or a is None or b is None:
            if a is not b and a != b:
                return name
        elif np.size(a) != np.size(b) or not distance(a, b) <= largest:
            return name
    return None


def largest_distance(
    first: Mapping[str, Any], second: Mapping[str, Any], schema: RowSchema
) -> float:
    """Return how far the numbers of two rows that agree lie apart, as `distance` measures it."""
    numbers = [name for name, kind in schema.types.items() if kind in (NUMBER, NUMBERS)]
    both = [(first[name], second[name]) for name in numbers]
    return max((distance(a, b) for a, b in both if a is not None and b is not None), default=0.0)


def distance(a: Any, b: Any) -> float:
    """Return the largest difference of two numbers or lists, relative where they exceed 1.

    Elements that are NaN in both do not count; NaN in one alone is infinitely far.
    """
    x, y = np.atleast_1d(np.asarray(a, dtype=float)), np.atleast_1d(np.asarray(b, dtype=float))
    both_nan = np.isnan(x) & np.isnan(y)
    apart = np.abs(x - y) / np.maximum(1.0, np.abs(x))
    apart = np.where(both_nan | (x == y), 0.0, np.where(np.isnan(apart), np.inf, apart))
    return float(apart.max(initial=0.0))
