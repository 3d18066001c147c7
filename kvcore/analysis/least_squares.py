"""Least-squares slopes over a known x."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from kvcore.analysis.samples import FloatArray


def _centred(x: ArrayLike) -> tuple[FloatArray, float]:
    """Return x less its mean, and the sum of its squares."""
    values = np.asarray(x, dtype=np.float64)
    centred = values - values.mean()
    return centred, float(np.square(centred).sum())


def slope_weights(x: ArrayLike) -> FloatArray:
    """Return the weights, (k,), whose product with y, (k,), is the slope of y over x, (k,).

    For a statistic that is computed point by point; a table of numbers takes `slopes`.
    """
    centred, squares = _centred(x)
    return centred / squares


def slopes(x: ArrayLike, y: FloatArray) -> FloatArray:
    """Return the least-squares slope over x, (k,), of every column of y, (k, n), as (n,).

    NaN for a column that holds one.
    """
    centred, squares = _centred(x)
    return np.asarray(centred @ y / squares)
