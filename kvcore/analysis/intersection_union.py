"""The smallest of several estimates of one thing: what holds in whatever way it is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from kvcore.analysis.estimate import Estimate
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
    no bounds. Costs two intervals a way. Raises KvError without any way.
    """
    if not ways:
        raise KvError("ways must hold one way of measuring or more; got none.")
    wide = replace(interval, confidence=1 - (1 - interval.confidence) / len(ways))
    own = {name: way(interval) for name, way in ways.items()}
    upper = {name: way(wide) for name, way in ways.items()}
    values = {name: np.nan_to_num(e.value, nan=np.inf) for name, e in own.items()}
    least = min(values, key=lambda name: values[name])
    estimate = replace(
        own[least],
        ci_low=min(e.ci_low for e in own.values()),
        ci_high=min(e.ci_high for e in upper.values()),
        clusters=min(e.clusters for e in own.values()),
        method=f"smallest of {len(ways)} ways: least lower end, least Bonferroni upper end; "
        f"{own[least].method}",
    )
    return Smallest(estimate, least, own)
