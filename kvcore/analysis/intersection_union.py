"""The smallest of several estimates of one thing: what holds in whatever way it is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from kvcore.analysis.estimate import Beside, Estimate
from kvcore.analysis.interval import IntervalSettings
from kvcore.errors import KvError

Way = Callable[[IntervalSettings], Estimate]
"""Measures the same thing in one way, with an interval as the settings say."""


@dataclass(frozen=True)
class Smallest:
    """The smallest value with an interval for it, and every way's own estimate."""

    estimate: Estimate
    least: str  # name of the way with the smallest value
    ways: Mapping[str, Estimate]


def smallest(ways: Mapping[str, Way], interval: IntervalSettings) -> Smallest:
    """Estimate the smallest of the true values behind several ways of measuring, in one unit.

    Intersection-union (Berger 1982, Technometrics 24): the lower end is the smallest of the ways'
    own, for that all lie above a bound needs no correction; the upper end is the smallest of the
    ways' Bonferroni ends, for that some way lies below a bound is found by looking at all. Either
    error stays within that of one end, however the ways hang together. A way without a value has
    no bounds.

    No standard error belongs to such an interval. The other method's interval, where the settings
    have one beside, is approximate: its ends are those of the two ways that set the ends. Costs
    two intervals a way, and two with the other method. Raises KvError without any way.
    """
    if not ways:
        raise KvError("ways must hold one way of measuring or more; got none.")
    wide = replace(interval, confidence=1 - (1 - interval.confidence) / len(ways))
    own = {name: way(interval.alone) for name, way in ways.items()}
    upper = {name: way(wide.alone) for name, way in ways.items()}
    lowest = min(ways, key=lambda name: own[name].ci_low)
    uppermost = min(ways, key=lambda name: upper[name].ci_high)
    least = min(ways, key=lambda name: np.nan_to_num(own[name].value, nan=np.inf))
    beside = None
    if interval.beside:
        beside = _ends_of(ways[lowest](interval).beside, ways[uppermost](wide).beside)
    telling = [e.informative for e in own.values() if e.informative is not None]
    estimate = replace(
        own[least],
        ci_low=own[lowest].ci_low,
        ci_high=upper[uppermost].ci_high,
        clusters=min(e.clusters for e in own.values()),
        method=f"{own[least].method}; smallest lower end of {len(ways)} ways, and smallest upper "
        "end corrected for as many (Bonferroni)",
        se=None,
        effective=None,
        df=None,
        informative=min(telling, default=None),
        beside=beside,
    )
    return Smallest(estimate, least, own)


def _ends_of(lower: Beside | None, upper: Beside | None) -> Beside | None:
    """Join the lower end of one interval and the upper end of another."""
    if lower is None or upper is None:
        return None
    return Beside(min(lower.low, upper.high), upper.high, lower.method)
