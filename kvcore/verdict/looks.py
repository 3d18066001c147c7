"""Looks: a claim is judged several times while it is measured, and errs no more often for it.

Each look's interval is wider than a fixed one, by the error that it may spend. The spending
function is that of Lan and DeMets (Biometrika 70, 1983, 659-663) which resembles the bounds of
O'Brien and Fleming (Biometrics 35, 1979, 549-556): of the error a on one side,
2 - 2 Phi(z(1 - a / 2) / sqrt(t)) is spent by information fraction t. The bounds follow by the
recursive integration of Armitage, McPherson and Rowe (JRSS A 132, 1969, 235-244). Estimate +- bound
x standard error holds the true value at every look together with the overall confidence: it is the
repeated confidence interval of Jennison and Turnbull (JRSS B 51, 1989, 305-361). Information is
counted in samples, whose number is fixed before the first look.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import optimize
from scipy import stats as sps

from kvcore.analysis.estimate import Record
from kvcore.errors import KvError

MOST_LOOKS = 10
LEAST_STEP = 0.001
"""The least information between two looks: the integration resolves no smaller step."""
FUTILE = 0.10
"""Below this predictive power of a verdict at the limit, going on is futile."""
_LEAST_ERROR = 1e-12
_LEAST_SHARE = 1e-300
_SPACING = 10  # nodes of the integration per standard deviation of a step
_QUANTILES = (np.arange(400) + 0.5) / 400

Why = Literal["decided", "futile", "limit", "not measured further", "not applicable"]


@dataclass(frozen=True)
class Look(Record):
    """The look at which a claim is judged.

    - `number`, `of`: which of how many looks that were declared.
    - `fractions`: information at the looks taken until then, as in `bounds`.
    - `limit`: samples of the cell that were declared.
    - `why`: why none came after it.
    - `power`: predictive power of a verdict at the limit where it was below `FUTILE`.
    - `note`: that this is not the analysis that was declared first, "" where it is.
    """

    number: int
    of: int
    fractions: tuple[float, ...]
    limit: int
    why: Why = "limit"
    power: float | None = None
    note: str = ""

    @property
    def words(self) -> str:
        """Where it stopped and why, in words; "" for a fixed design with nothing to say of it."""
        where = f"look {self.number} of {self.of}"
        said = {
            "decided": f"stopped at {where}",
            "futile": f"stopped at {where}: going on to {self.limit} would hardly settle it",
            "limit": f"{where}, the limit",
            "not measured further": f"measured to {where}",
            "not applicable": f"stopped at {where}",
        }[self.why]
        if self.of == 1:
            said = ""
        return "; ".join(part for part in (said, self.note) if part)


def spent(error: float, fraction: float) -> float:
    """Return the part of a two-sided error in (0, 1) that is spent by an information fraction.

    `fraction` is in (0, 1]; at 1 all of the error is spent.
    """
    return float(4 * sps.norm.sf(sps.norm.isf(error / 4) / math.sqrt(fraction)))


def bounds(error: float, fractions: Sequence[float]) -> tuple[float, ...]:
    """Return the bound of every look, in standard errors to either side.

    Parameters
    ----------
    error : float
        Two-sided, over all looks together, in (0, 1).
    fractions : sequence of float
        Information at every look as a fraction of that at the limit: rising, above 0, the last is
        1 where the last look is at the limit. At most `MOST_LOOKS`.

    Raises
    ------
    KvError
        For an error or fractions out of range.

    Notes
    -----
    Exact to about 1e-6. Costs milliseconds; remembered. With one look at 1 it is the quantile of
    the normal distribution.
    """
    if not 0 < error < 1:
        raise KvError(f"error must be in (0, 1); got error={error}.")
    return _bounds(error, _checked(fractions))


def repeated_level(confidence: float, fractions: Sequence[float], look: int) -> float:
    """Return the level at which a fixed interval is the repeated interval of a look.

    A t interval at this level takes the t quantile that has the tail of the look's bound.

    Parameters
    ----------
    confidence : float
        Of the intervals of all looks together, in (0, 1).
    fractions : sequence of float
        As in `bounds`, of all looks; those behind `look` do not matter.
    look : int
        From 1.

    Returns
    -------
    float
        Above ``confidence``; ``confidence`` itself where the first look is at the limit.
    """
    fractions = _until(fractions, look)
    if not 0 < confidence < 1:
        raise KvError(f"confidence must be in (0, 1); got {confidence}.")
    if fractions == (1.0,):
        return confidence
    bound = bounds(1 - confidence, fractions)[-1]
    # A level of 1 is none: beyond 8 standard errors the double next to it must do.
    return min(float(1 - 2 * sps.norm.sf(bound)), math.nextafter(1.0, 0.0))


def repeated_p(tail: float, fractions: Sequence[float], look: int) -> float:
    """Return the one-sided p value over all looks of what was seen at one of them.

    It is half the smallest two-sided error at which the look's bound would be crossed.

    Parameters
    ----------
    tail : float
        One-sided p value of a fixed design with this look's samples, in [0, 1].
    fractions, look
        As in `repeated_level`.

    Returns
    -------
    float
        ``tail`` itself where the first look is at the limit; 0.5 at most and 5e-13 at least
        otherwise, and 1 - that of the other side for a tail above 0.5.
    """
    fractions = _until(fractions, look)
    if not 0 <= tail <= 1:
        raise KvError(f"tail must be in [0, 1]; got tail={tail}.")
    if fractions == (1.0,):
        return tail
    if tail > 0.5:
        return 1 - repeated_p(1 - tail, fractions, look)
    z = float(sps.norm.isf(max(tail, 1e-300)))

    def short_by(log_error: float) -> float:
        return _bounds(math.exp(log_error), fractions)[-1] - z

    low, high = math.log(_LEAST_ERROR), math.log(1 - 1e-6)
    if short_by(low) <= 0:
        return _LEAST_ERROR / 2
    if short_by(high) >= 0:
        return 0.5
    return math.exp(optimize.brentq(short_by, low, high, xtol=1e-6)) / 2


def predictive_power(
    decides: Callable[[float, float], bool],
    value: float,
    error: float,
    fraction: float,
    bound: float,
) -> float:
    """Return the probability that the interval at the limit will decide, by what is known now.

    Averaged over what the true value may be (flat prior), so that the estimate at the limit is
    normal about today's with variance ``error**2 * (1 - fraction)``; to about 0.003.

    Parameters
    ----------
    decides : callable
        Takes an interval's ends and says whether it supports or refutes.
    value, error : float
        Estimate and standard error at this look, on the scale on which the interval is symmetric.
    fraction : float
        Information at this look, in (0, 1].
    bound : float
        Of the last look, in standard errors.
    """
    if not 0 < fraction <= 1:
        raise KvError(f"fraction must be in (0, 1]; got fraction={fraction}.")
    moves = sps.norm.ppf(_QUANTILES) * error * math.sqrt(1 - fraction)
    width = bound * error * math.sqrt(fraction)
    ends = ((float(end - width), float(end + width)) for end in value + moves)
    return sum(decides(low, high) for low, high in ends) / len(_QUANTILES)


def _until(fractions: Sequence[float], look: int) -> tuple[float, ...]:
    if not 1 <= look <= len(fractions):
        raise KvError(f"look must be between 1 and {len(fractions)}; got look={look}.")
    return _checked(fractions)[:look]


def _checked(fractions: Sequence[float]) -> tuple[float, ...]:
    """Return fractions that a design can have; KvError for others."""
    checked = tuple(float(fraction) for fraction in fractions)
    steps = np.diff([0.0, *checked])
    if not 1 <= len(checked) <= MOST_LOOKS:
        raise KvError(f"looks must be 1 to {MOST_LOOKS}; got {len(checked)}.")
    if not (steps >= LEAST_STEP * (1 - 1e-9)).all() or checked[-1] > 1:
        raise KvError(
            f"fractions must rise by {LEAST_STEP} or more from 0 to at most 1; got {checked}."
        )
    return checked


@functools.lru_cache(maxsize=4096)
def _bounds(error: float, fractions: tuple[float, ...]) -> tuple[float, ...]:
    """Find the bounds one after the other, as bounds of a Brownian motion at the fractions."""
    if fractions == (1.0,):
        return (float(sps.norm.isf(error / 2)),)
    critical: list[float] = []
    nodes, mass = np.zeros(1), np.ones(1)  # where the motion may be, and with which probability
    for k, fraction in enumerate(fractions):
        before = fractions[k - 1] if k else 0.0
        sd = math.sqrt(fraction - before)
        # An early share can be below the smallest float; what is spent instead adds nothing.
        share = max(spent(error, fraction) - (spent(error, before) if k else 0.0), _LEAST_SHARE)
        bound = _bound(nodes, mass, sd, share)
        critical.append(bound / math.sqrt(fraction))
        if k + 1 < len(fractions):
            next_sd = math.sqrt(fractions[k + 1] - fraction)
            count = math.ceil(_SPACING * 2 * bound / min(sd, next_sd))
            unit, weights = _legendre(min(1600, max(200, count)))
            moved = bound * unit
            density = sps.norm.pdf((moved[:, None] - nodes) / sd) @ mass / sd
            nodes, mass = moved, density * weights * bound
    return tuple(critical)


def _bound(nodes: np.ndarray, mass: np.ndarray, sd: float, share: float) -> float:
    """Return the bound beyond which the motion's next step ends with a given probability."""

    def excess(bound: float) -> float:
        beyond = sps.norm.sf((bound - nodes) / sd) + sps.norm.cdf((-bound - nodes) / sd)
        return float(beyond @ mass) / share - 1

    far = 40 * sd + float(np.abs(nodes).max())
    if excess(1e-9) <= 0:  # nothing is left to be spent on
        return 1e-9
    return float(optimize.brentq(excess, 1e-9, far, xtol=1e-10))


@functools.lru_cache(maxsize=64)
def _legendre(count: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return nodes, weights
