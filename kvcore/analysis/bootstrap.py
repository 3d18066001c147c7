"""SciPy's bootstrap of any statistic of how often each cluster counts.

Samples that share a cluster (a module, a query) are resampled together. What is drawn are counts,
(resamples, k), one per cluster: the same for every statistic of as many clusters, so that they are
drawn once, and sums over a resample are one product of matrices.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats as sps

from kvcore.analysis.samples import FloatArray

Statistic = Callable[..., FloatArray]
"""Takes rows of per-cluster sums, each (..., clusters), and ``axis``; returns (m, ...)."""
OfCounts = Callable[[FloatArray], FloatArray]
"""Takes how often each cluster counts, (..., k); returns (m, ...)."""
ROUNDING = 1e-12
"""Values nearer to each other than this share of them are equal."""
Pairs = list[tuple[float, float]]
# Numbers drawn at a time (8 MB per array): bounds memory whatever the number of samples.
_BATCH_ELEMENTS = 2**20


def of_sums(sums: FloatArray, statistic: Statistic) -> OfCounts:
    """Return a statistic of per-cluster sums, (n, clusters), as one of counts."""

    def of_counts(counts: FloatArray) -> FloatArray:
        return statistic(*np.moveaxis(counts @ sums.T, -1, 0)[..., None], axis=-1)

    return of_counts


def bootstrap(
    statistic: OfCounts, k: int, *, confidence: float, seed: int, resamples: int
) -> tuple[Pairs, Pairs]:
    """BCa and percentile intervals of each of a statistic's m values, from the same resamples.

    Of k clusters. Ends are not finite where they are undefined. The draws are those that SciPy
    makes from this seed, the intervals SciPy's.
    """
    batch = max(1, _BATCH_ELEMENTS // k)

    def of_indices(indices: NDArray[np.intp], axis: int) -> FloatArray:
        return statistic(draw_counts(np.moveaxis(indices, axis, -1), k).astype(np.float64))

    def pairs(method: str, drawn: Any) -> Pairs:
        result = sps.bootstrap(
            (np.arange(k),),
            of_indices,
            vectorized=True,
            method=method,
            n_resamples=0,
            bootstrap_result=drawn,
            confidence_level=confidence,
            batch=batch,
        )
        ends = result.confidence_interval
        return [(float(low), float(high)) for low, high in zip(*ends, strict=True)]

    # Degenerate resamples (a cluster drawn over and over) are expected and handled by value.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", sps.DegenerateDataWarning)
        counts = drawn_counts(k, seed, resamples)
        parts = [
            statistic(counts[start : start + batch].astype(np.float64))
            for start in range(0, resamples, batch)
        ]
        values = np.concatenate(parts, axis=-1)
        # Sums in another order differ by rounding, but BCa counts what is equal to the value.
        value = of_indices(np.arange(k), -1)[..., None]
        values = np.where(np.isclose(values, value, rtol=ROUNDING, atol=0), value, values)
        drawn = SimpleNamespace(bootstrap_distribution=values)
        return pairs("BCa", drawn), pairs("percentile", drawn)


@functools.lru_cache(maxsize=4)
def drawn_counts(k: int, seed: int, resamples: int) -> NDArray[np.uint16]:
    """Return how often each of k clusters is drawn in each resample, (resamples, k)."""
    rng, batch = np.random.default_rng(seed), max(1, _BATCH_ELEMENTS // k)
    sizes = [min(batch, resamples - start) for start in range(0, resamples, batch)]
    counts = np.concatenate([draw_counts(rng.integers(0, k, (n, k)), k) for n in sizes])
    counts.setflags(write=False)
    return counts


def draw_counts(indices: NDArray[np.intp], k: int) -> NDArray[np.uint16]:
    """How often each of k clusters stands in the last axis, (..., draws) to (..., k)."""
    flat = indices.reshape(-1, indices.shape[-1])
    offset = np.arange(len(flat))[:, None] * k
    counted = np.bincount((flat + offset).ravel(), minlength=len(flat) * k)
    return counted.reshape(*indices.shape[:-1], k).astype(np.uint16)
