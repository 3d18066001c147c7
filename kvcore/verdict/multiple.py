"""Many verdicts at once: q-values, by which the false ones among a report's verdicts are few."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats as sps

from kvcore.analysis.samples import FloatArray
from kvcore.errors import KvError

Q_LEVEL = 0.05
"""Verdicts stand where their q is at most this: about 5 % of those that stand are false."""


def q_values(ps: ArrayLike) -> FloatArray:
    """Return the Benjamini-Hochberg q-value of each p value, (m,) to (m,), in [0, 1].

    A verdict's q is the share of false ones to be expected among all whose q is no larger. A NaN
    tells nothing, counts as 1 and is one of the m. Raises KvError for a p outside [0, 1].
    """
    p = np.asarray(ps, dtype=np.float64).reshape(-1)
    wrong = p[(p < 0) | (p > 1)]
    if wrong.size:
        raise KvError(f"p must be in [0, 1]; got {wrong[0]:g}, pass p values.")
    known = np.where(np.isnan(p), 1.0, p)
    return np.asarray(sps.false_discovery_control(known, method="bh")) if p.size else known
