"""Values as they were published, and how far ours lie from them."""

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


@dataclass(frozen=True)
class Difference:
    """Our value less a published one, with its interval at our level."""

    value: float
    low: float
    high: float

    @property
    def consistent(self) -> bool:
        """Whether the interval holds 0: no difference is shown, which is not that there is none."""
        return self.low <= 0 <= self.high


def difference_from_published(estimate: Estimate, published: Published | None) -> Difference | None:
    """Return ours less the published value, as independent, with a normal interval.

    Our error comes from our interval's width, the published one from its n (`published_error`).
    None for legacy values, without n, in another unit than ours, for units whose published error is
    unknown, and where ours is.
    """
    if published is None or published.legacy or published.n is None or published.n < 2:
        return None
    if published.unit != estimate.unit:
        return None
    theirs = published_error(estimate.unit, published.value, published.n)
    if theirs is None or not math.isfinite(estimate.half_width + estimate.value):
        return None
    quantile = float(sps.norm.ppf((1 + estimate.confidence) / 2))
    reach = math.hypot(estimate.half_width, quantile * theirs)
    value = float(estimate.value - published.value)
    return Difference(value, value - reach, value + reach)


def consistent(estimate: Estimate, published: Published | None) -> bool | None:
    """Whether the interval of ours less the published value holds 0; None where there is none."""
    difference = difference_from_published(estimate, published)
    return None if difference is None else difference.consistent


def published_error(
    unit: str, value: float, n: int, relevant: int | None = None, other: int | None = None
) -> float | None:
    """Return the standard error of a published value of n samples; None where n does not tell it.

    d: sqrt(1/n + d^2/2n); r: (1 - r^2)/sqrt(n - 1); proportion: sqrt(p (1 - p)/n); AUC: by Hanley
    and McNeil (1982, Radiology 143) from the numbers of relevant and of other passages, None
    without both. The MRR and nats hang on a spread that n does not tell.
    """
    if unit == "d":
        return math.sqrt(1 / n + value**2 / (2 * n))
    if unit == "r":
        return (1 - value**2) / math.sqrt(n - 1)
    if unit == "proportion":
        return math.sqrt(value * (1 - value) / n)
    if unit == "AUC" and relevant and other:
        return hanley_mcneil(value, relevant, other)
    return None


def hanley_mcneil(auc: float, relevant: int, other: int) -> float:
    """Return the standard error of an AUC, [0, 1], from counts of 1 or more; approximate."""
    both_relevant, both_other = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (
        auc * (1 - auc)
        + (relevant - 1) * (both_relevant - auc**2)
        + (other - 1) * (both_other - auc**2)
    ) / (relevant * other)
    return math.sqrt(max(0.0, variance))
