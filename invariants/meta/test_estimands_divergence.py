"""Estimands of divergences have the sign and the slopes that claims rest on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from claims import test_divergence as claims_of_divergence
from claims.harness.estimands import divergence
from invariants.support.comparing import must_see, replaced
from invariants.support.estimand_rows import computed, divergence_rows
from kvcore.analysis import Estimate


def test_a_divergence_beyond_the_null_is_positive() -> None:
    """The smaller null subtracted, a ratio turned round, or a difference of the wrong sign."""
    rng = np.random.default_rng(0)
    moved, null = (
        divergence_rows("a", rng.uniform(0.5, 1.5, 50)),
        divergence_rows("n", rng.uniform(0.005, 0.015, 50)),
    )
    outcome = computed(divergence.beyond_the_null, moved, null, divergence_rows("m", np.zeros(50)))
    assert outcome.estimate.ci_low > 0.5
    assert outcome.details["times n"] == pytest.approx(100, rel=0.2)
    turned = computed(divergence.difference_of_divergence, moved, null)
    assert turned.estimate.ci_high < 0


def check_widths() -> None:
    spread = divergence_rows("a", np.random.default_rng(1).exponential(1.0, 300))
    ratio = computed(divergence.ratio_of_widths, spread).estimate
    assert 1.5 < ratio.ci_low < math.sqrt(8) * 1.3
    slope = computed(divergence.slope_of_widths, spread)
    # a bootstrap of few samples is too narrow, which flattens the slope by about a tenth
    assert slope.estimate.value == pytest.approx(0.05, abs=0.1)
    assert slope.plot["x"] == [4, 8, 16, 32, 64, 128, 256]
    assert slope.estimate.unit == "log-log slope"


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


@pytest.mark.parametrize(
    ("estimate", "test"),
    [
        (divergence.ratio_of_widths, claims_of_divergence.test_more_samples_narrow_the_interval),
        (
            divergence.slope_of_widths,
            claims_of_divergence.test_widths_fall_with_the_square_root_of_n,
        ),
    ],
)
def test_a_claim_about_widths_can_be_refuted(
    estimate: Callable[..., Any], test: Callable[..., Any]
) -> None:
    """A minimum above the number of draws, which is n here: no ledger would take a refutation."""
    spread = divergence_rows("a", np.random.default_rng(1).exponential(1.0, 100))
    (marked,) = test.pytestmark  # type: ignore[attr-defined]
    assert marked.args[0].min_n <= computed(estimate, spread).estimate.n


def check_held() -> None:
    spread = divergence_rows("a", np.random.default_rng(1).normal(1.0, 1.0, 3000))
    held = computed(divergence.intervals_that_hold_their_mean, spread)
    assert 0.92 < held.estimate.value < 0.98
    assert held.details["each sample"] == "32 of 3000 rows, without replacement"


def test_intervals_hold_the_mean_of_the_cell() -> None:
    """An interval asked for its own middle, which it always holds."""
    check_held()


def test_twin_intervals_asked_for_their_own_middle() -> None:
    """Intervals without end, which hold anything as they hold their own middle, are seen."""

    def endless(real: Callable[..., Estimate], *given: object, **how: object) -> Estimate:
        return dataclasses.replace(real(*given, **how), ci_low=-math.inf, ci_high=math.inf)

    must_see(replaced(divergence, "mean_difference", endless), check_held)
