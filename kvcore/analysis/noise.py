"""The noise floor: how far measuring alone may move a number."""

from __future__ import annotations

import math

from numpy.typing import ArrayLike

from kvcore.analysis.estimate import Estimate
from kvcore.analysis.interval import DEFAULT_INTERVAL, IntervalSettings
from kvcore.analysis.paired import mean_difference
from kvcore.analysis.samples import Clusters
from kvcore.errors import KvError


def noise_floor(
    *controls: ArrayLike, clusters: Clusters = None, interval: IntervalSettings = DEFAULT_INTERVAL
) -> float:
    """Largest mean difference, in nats per token, that measuring alone may produce.

    A control holds the differences, (n,), between a condition and itself measured another way
    (another batch composition, keys rotated there and back). The floor is the end of the mean's
    interval that is farthest from 0, over all controls; infinite for fewer than two samples.
    """
    if not controls:
        raise KvError("controls must be the differences of at least one A/A control; got none.")
    means = [mean_difference(control, clusters, interval) for control in controls]
    return max(max(abs(mean.ci_low), abs(mean.ci_high)) for mean in means)


def floor_on_scale(estimate: Estimate, floor_nats: float) -> float:
    """Express a floor in nats per token in the unit of an estimate.

    0 for units that nats do not turn into (correlations, proportions), and where every difference
    is exactly 0, so that noise has nothing to hide; infinite for a d without variance.
    """
    if not floor_nats >= 0:
        raise KvError(f"floor_nats must be a number of nats >= 0; got {floor_nats}.")
    if estimate.unit == "nats/token":
        return floor_nats
    scaled = ("d", "d difference", "d of groups")
    if estimate.unit not in scaled or estimate.value == 0 == estimate.sd:
        return 0.0
    return floor_nats / estimate.sd if estimate.sd else (math.inf if floor_nats else 0.0)
