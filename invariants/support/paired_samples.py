"""Made-up baselines, conditions and clusters of paired samples."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def paired_samples(seed: int, n: int = 40) -> tuple[FloatArray, FloatArray, NDArray[Any]]:
    """Return baseline, condition and cluster labels of n samples."""
    rng = np.random.default_rng(seed)
    base = rng.gamma(2.0, 1.0, n)
    cond = base + rng.normal(rng.normal(0, 0.3), rng.uniform(0.1, 1.0), n)
    return base, cond, rng.integers(0, n // 2, n)
