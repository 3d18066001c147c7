"""Intervals cover what they say.

Each property is a check; its twin breaks the production function and must see the check fail.
Simulations are seeded. The binomial bounds would let one sound interval in a thousand fail.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats as sps

from invariants.support.intervals import (
    FALSE_ALARM,
    Case,
    check_coverage,
    clustered_noise,
    stretch_intervals,
    times_covered,
)
from kvcore import analysis
from kvcore.analysis import Estimate, IntervalSettings, samples

LABELS = np.repeat(np.arange(40), 4)
Generator = np.random.Generator


def mean_case(rng: Generator, settings: IntervalSettings) -> tuple[Estimate, float]:
    return analysis.mean_difference(rng.gamma(4.0, 0.5, 60), interval=settings), 2.0


def d_case(rng: Generator, settings: IntervalSettings) -> tuple[Estimate, float]:
    x = rng.laplace(0.4, 1.0, 80)
    return analysis.effect_size(x, interval=settings), 0.4 / math.sqrt(2)


def clustered_d_case(rng: Generator, settings: IntervalSettings) -> tuple[Estimate, float]:
    x = 0.3 + clustered_noise(rng, 40, 4, 0.7)
    return analysis.effect_size(x, LABELS, settings), 0.3


def difference_case(rng: Generator, settings: IntervalSettings) -> tuple[Estimate, float]:
    common = rng.normal(size=80)
    a, b = 0.5 + common + rng.normal(size=80), 0.2 + common + rng.normal(size=80)
    return analysis.effect_difference(a, b, interval=settings), 0.3 / math.sqrt(2)


def pearson_case(rng: Generator, settings: IntervalSettings) -> tuple[Estimate, float]:
    x, noise = rng.normal(size=(2, 80))
    y = 0.5 * x + math.sqrt(0.75) * noise
    return analysis.correlation(x, y, interval=settings), 0.5


def clustered_r_case(rng: Generator, settings: IntervalSettings) -> tuple[Estimate, float]:
    x, noise = clustered_noise(rng, 40, 4, 0.8), clustered_noise(rng, 40, 4, 0.8)
    y = 0.5 * x + math.sqrt(0.75) * noise
    return analysis.correlation(x, y, LABELS, settings), 0.5


def oldham_case(rng: Generator, settings: IntervalSettings) -> tuple[Estimate, float]:
    hardness, e1, e2 = rng.normal(size=(3, 80))
    base, cond = hardness + e1, 0.6 * hardness + e2
    expected = 0.5 * (2 - 1.36) / math.sqrt((0.16 + 2) * (0.64 + 0.5))
    return analysis.oldham(base, cond, interval=settings), expected


def proportion_case(rng: Generator, _settings: IntervalSettings) -> tuple[Estimate, float]:
    return analysis.proportion(int(rng.binomial(60, 0.4)), 60), 0.4


def clustered_proportion_case(
    rng: Generator, _settings: IntervalSettings
) -> tuple[Estimate, float]:
    wins = clustered_noise(rng, 40, 4, 0.7) < sps.norm.ppf(0.4)
    return analysis.clustered_proportion(wins, LABELS), 0.4


CASES: dict[str, Case] = {
    "mean": mean_case,
    "d": d_case,
    "d-clustered": clustered_d_case,
    "d-difference": difference_case,
    "pearson": pearson_case,
    "pearson-clustered": clustered_r_case,
    "oldham": oldham_case,
    "clopper-pearson": proportion_case,
    "clopper-pearson-clustered": clustered_proportion_case,
}
EXACT: dict[str, Any] = {"draws": 400, "widest": 0.98}
"""Of exact intervals, which are wider than they say and slower to compute."""


@pytest.mark.parametrize("name", CASES)
def test_every_interval_covers_what_it_says(name: str) -> None:
    """An interval of the wrong width: a wrong level, variance, or unit that is left out."""
    check_coverage(CASES[name], **EXACT if name.startswith("clopper") else {})


@pytest.mark.parametrize("name", [n for n in CASES if not n.startswith("clopper")])
def test_twin_coverage_sees_narrow_intervals(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Coverage that half of an interval would pass as well."""
    stretch_intervals(monkeypatch, 0.5)
    with pytest.raises(AssertionError, match="covers"):
        check_coverage(CASES[name], draws=120)


def test_twin_coverage_sees_wide_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coverage that twice an interval would pass as well."""
    stretch_intervals(monkeypatch, 2.0)
    with pytest.raises(AssertionError, match="covers"):
        check_coverage(mean_case)


@pytest.mark.parametrize("name", ["d-clustered", "pearson-clustered", "clopper-pearson-clustered"])
def test_twin_coverage_sees_clusters_ignored(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clustered cases in which the clusters make no difference."""
    monkeypatch.setattr(samples, "cluster_numbers", lambda _clusters, n: np.arange(n))
    with pytest.raises(AssertionError, match="covers"):
        check_coverage(CASES[name], draws=250)


def test_twin_coverage_sees_a_normal_interval_for_proportions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Coverage of proportions that half a Wald interval would pass as well."""

    def wald(successes: int, n: int, confidence: float = 0.95) -> Estimate:
        p = successes / n
        half = 0.5 * sps.norm.ppf((1 + confidence) / 2) * math.sqrt(p * (1 - p) / n)
        return Estimate(p, p - half, p + half, confidence, "half a Wald", n, n, "proportion")

    monkeypatch.setattr(analysis, "proportion", wald)
    with pytest.raises(AssertionError, match="covers"):
        check_coverage(proportion_case, draws=250)


def test_intervals_that_ignore_clusters_cover_too_little() -> None:
    """Simulated clusters so weak that ignoring them would do no harm."""

    def naive(rng: Generator, settings: IntervalSettings) -> tuple[Estimate, float]:
        x = 0.3 + clustered_noise(rng, 40, 4, 0.7)
        return analysis.effect_size(x, interval=settings), 0.3

    covered = times_covered(naive, 300)
    assert sps.binomtest(covered, 300, 0.88, alternative="less").pvalue < FALSE_ALARM
