"""Values as they were published, and whether ours agree with them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import stats as sps

from kvcore.analysis import Estimate


@dataclass(frozen=True)
class Published:
    """A value as it was published, on the claim's scale.

    ``n`` samples, on ``metric`` (``nll`` or ``nll_tail``), in ``unit`` as `Estimate.unit`;
    ``legacy`` values come from a first version known to be wrong and are shown, never judged;
    ``text`` is how the source words it.
    """

    value: float
    n: int | None
    metric: str
    legacy: bool = False
    text: str = ""
    unit: str = "d"


def consistent(estimate: Estimate, published: Published | None) -> bool | None:
    """Whether our value and a published one differ by no more than their errors allow.

    abs(ours - published) <= 1.96 sqrt(se^2 + se_published^2); ours from the interval's width, the
    published from its n: d sqrt(1/n + d^2/2n), r (1 - r^2)/sqrt(n - 1), proportion
    sqrt(p (1 - p)/n).

    None for legacy values, without n, for other units and where our error is unknown.
    """
    if published is None or published.legacy or published.n is None or published.n < 2:
        return None
    theirs = published_error(estimate.unit, published.value, published.n)
    if theirs is None or not math.isfinite(estimate.half_width + estimate.value):
        return None
    ours = estimate.half_width / float(sps.norm.ppf((1 + estimate.confidence) / 2))
    allowed = float(sps.norm.ppf(0.975)) * math.hypot(ours, theirs)
    return bool(abs(estimate.value - published.value) <= allowed)


def published_error(unit: str, value: float, n: int) -> float | None:
    if unit == "d":
        return math.sqrt(1 / n + value**2 / (2 * n))
    if unit == "r":
        return (1 - value**2) / math.sqrt(n - 1)
    if unit == "proportion":
        return math.sqrt(value * (1 - value) / n)
    return None
