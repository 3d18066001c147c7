"""Estimands of divergences have the sign and the slopes that claims rest on."""

from __future__ import annotations

import math

import numpy as np
import pytest

from claims.harness.estimands import divergence
from invariants.support.comparing import must_see
from invariants.support.estimand_rows import divergence_rows
from kvcore.analysis import IntervalSettings


def test_a_divergence_beyond_the_null_is_positive() -> None:
    """The smaller null subtracted, a ratio turned round, or a difference of the wrong sign."""
    rng = np.random.default_rng(0)
    moved, null = (
        divergence_rows("a", rng.uniform(0.5, 1.5, 50)),
        divergence_rows("n", rng.uniform(0.005, 0.015, 50)),
    )
    outcome = divergence.beyond_the_null(moved, null, divergence_rows("m", np.zeros(50))).compute(
        IntervalSettings()
    )
    assert outcome.estimate.ci_low > 0.5
    assert outcome.details["times n"] == pytest.approx(100, rel=0.2)
    turned = divergence.difference_of_divergence(moved, null).compute(IntervalSettings())
    assert turned.estimate.ci_high < 0


def check_widths() -> None:
    spread = divergence_rows("a", np.random.default_rng(1).exponential(1.0, 300))
    ratio = divergence.ratio_of_widths(spread).compute(IntervalSettings()).estimate
    assert 1.5 < ratio.ci_low < math.sqrt(8) * 1.3
    slope = divergence.slope_of_widths(spread).compute(IntervalSettings())
    # a bootstrap of few samples is too narrow, which flattens the slope by about a tenth
    assert slope.estimate.value == pytest.approx(0.05, abs=0.1)
    assert slope.plot["x"] == [4, 8, 16, 32, 64, 128, 256]
    held = divergence.intervals_that_hold_their_mean(spread).compute(IntervalSettings()).estimate
    assert held.value == 1


def test_widths_fall_with_the_square_root_of_n() -> None:
    """Widths that do not fall as they must on independent numbers; constant ones are seen."""
    check_widths()

    def constant(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(
            divergence,
            "interval_widths",
            lambda _x, sizes, draws, _interval: np.ones((draws, len(sizes))),
        )

    must_see(constant, check_widths)
