"""SciPy's bootstrap of any statistic of per-cluster sums.

Samples that share a cluster (a module, a query) are resampled together. What SciPy is handed are
per-cluster sums (count, sum of x, sum of squares, ...), from which the statistic of any resample
follows exactly, so that 10,000 resamples of 1,000 samples take a fraction of a second.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats as sps

from kvcore.analysis.samples import FloatArray

Statistic = Callable[..., FloatArray]
Pairs = list[tuple[float, float]]
# Numbers drawn at a time (8 MB per array): bounds memory whatever the number of samples.
_BATCH_ELEMENTS = 2**20


def bootstrap(
    sums: FloatArray, statistic: Statistic, *, confidence: float, seed: int, resamples: int
) -> tuple[Pairs, Pairs]:
    """BCa and percentile intervals of each of a statistic's m values, from the same resamples.

    The statistic takes the k rows of ``sums``, (k, clusters), and ``axis``; it returns (m, ...).
    Ends are not finite where they are undefined.
    """

    def run(method: str, resamples: int, before: Any) -> Any:
        return sps.bootstrap(
            tuple(sums),
            statistic,
            paired=True,
            vectorized=True,
            method=method,
            n_resamples=resamples,
            bootstrap_result=before,
            confidence_level=confidence,
            batch=max(1, _BATCH_ELEMENTS // sums.shape[1]),
            rng=np.random.default_rng(seed),
        )

    def pairs(result: Any) -> Pairs:
        interval = result.confidence_interval
        return [(float(low), float(high)) for low, high in zip(*interval, strict=True)]

    # Degenerate resamples (a cluster drawn over and over) are expected and handled by value.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", sps.DegenerateDataWarning)
        first = run("BCa", resamples, None)
        return pairs(first), pairs(run("percentile", 0, first))
