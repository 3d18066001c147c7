"""Effects side by side: over models, over packages of a corpus, and what another model may show.

Effects are taken as independent of each other. Models that score the same samples share some of
their error; the difference of two then has an interval that is too wide rather than too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as sps
from statsmodels.stats import meta_analysis

from kvcore.analysis.estimate import Estimate
from kvcore.analysis.samples import FloatArray
from kvcore.errors import KvError

MIN_MODELS = 5
"""Fewer models give no pooled estimate: their spread is then hardly known."""


@dataclass(frozen=True)
class Heterogeneity:
    """How far effects differ beyond their own errors."""

    tau: float  # SD of the true effects (Paule and Mandel 1982), in the effects' unit
    q: float  # Cochran's Q
    df: int
    p: float  # of Q, by chi squared: how often equal effects would differ as much


@dataclass(frozen=True)
class Pooled:
    """Random-effects mean over models, and the interval for the effect on one more model."""

    mean: Estimate  # t(k - 1) interval by Hartung and Knapp
    low: float
    high: float


def standard_error(estimate: Estimate) -> float:
    """Return the error of an estimate in its unit: the jackknife's, else half its interval's.

    Where there is no jackknife, half the interval in normal quantiles: infinite where it is, 0 for
    one without width, approximate where it is not symmetric. On Fisher's scale by the delta method.
    """
    if estimate.se is not None and math.isfinite(estimate.se):
        return estimate.se * (1 - estimate.value**2 if estimate.scale == "fisher" else 1.0)
    return estimate.half_width / float(sps.norm.ppf((1 + estimate.confidence) / 2))


def heterogeneity(estimates: Sequence[Estimate]) -> Heterogeneity | None:
    """Return how far effects in one unit differ; None for fewer than two that have an error.

    An effect that is not finite, or whose interval is not or has no width, is left out. Raises
    KvError for units that differ.
    """
    usable = _usable(estimates)
    if len(usable) < 2:
        return None
    combined = _combined(usable)
    test = combined.test_homogeneity()
    tau = math.sqrt(float(combined.tau2))
    return Heterogeneity(tau, float(test.statistic), int(test.df), float(test.pvalue))


def difference(first: Estimate, second: Estimate) -> Estimate:
    """Return the second effect less the first, as independent: normal interval from their errors.

    At the first one's level, unbounded where an error is not known. Raises KvError for units that
    differ.
    """
    _one_unit((first, second))
    value = second.value - first.value
    error = math.hypot(standard_error(first), standard_error(second))
    reach = float(sps.norm.ppf((1 + first.confidence) / 2)) * error
    known = math.isfinite(value + reach)
    low, high = (value - reach, value + reach) if known else (-math.inf, math.inf)
    method = "normal, effects taken as independent" if known else "none: an error is not known"
    n, clusters = min(first.n, second.n), min(first.clusters, second.clusters)
    unit = first.unit if first.unit.endswith("difference") else f"{first.unit} difference"
    return Estimate(value, low, high, first.confidence, method, n, clusters, unit)


def pooled(estimates: Sequence[Estimate]) -> Pooled | None:
    """Return the mean over models in one unit; None below `MIN_MODELS` that have an error.

    Between-model variance by Paule and Mandel, interval by Hartung and Knapp with t(k - 1), never
    narrower than without their correction (Röver, Knapp and Friede 2015, BMC Medical Research
    Methodology 15). Prediction interval: mean ± t(k - 2) sqrt(tau^2 + SE^2) (Higgins, Thompson and
    Spiegelhalter 2009, JRSS A 172), with that SE. At the first estimate's level; statsmodels
    computes all but the prediction interval. Raises KvError for units that differ.
    """
    usable = _usable(estimates)
    if len(usable) < MIN_MODELS:
        return None
    k, confidence = len(usable), usable[0].confidence
    combined = _combined(usable)
    value = float(combined.mean_effect_re)
    _, plain, _, corrected = combined.conf_int(alpha=1 - confidence)
    half = max(float(ends[1] - ends[0]) / 2 for ends in (plain, corrected))
    error = half / float(sps.t.ppf((1 + confidence) / 2, k - 1))
    beyond = float(sps.t.ppf((1 + confidence) / 2, k - 2))
    reach = beyond * math.sqrt(float(combined.tau2) + error**2)
    method = f"random effects over {k} models, Paule-Mandel, Hartung-Knapp"
    n, clusters = sum(e.n for e in usable), sum(e.clusters for e in usable)
    ends = (value - half, value + half, confidence, method, n, clusters, usable[0].unit)
    return Pooled(Estimate(value, *ends), value - reach, value + reach)


def _combined(usable: Sequence[Estimate]) -> meta_analysis.CombineResults:
    effects: FloatArray = np.array([e.value for e in usable])
    variances = np.square([standard_error(e) for e in usable])
    combine = meta_analysis.combine_effects
    # It also divides by Q, for an I squared that nothing here reads; equal effects have Q = 0.
    with np.errstate(divide="ignore"):
        return combine(effects, variances, method_re="iterated", use_t=True)


def _usable(estimates: Sequence[Estimate]) -> list[Estimate]:
    _one_unit(estimates)
    return [e for e in estimates if math.isfinite(e.value) and 0 < standard_error(e) < math.inf]


def _one_unit(estimates: Sequence[Estimate]) -> None:
    units = sorted({e.unit for e in estimates})
    if len(units) > 1:
        raise KvError(f"estimates must have one unit; got {units}, compare those of one claim.")
