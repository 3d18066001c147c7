"""Estimands of hidden states have the sign and the layers that claims rest on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats as sps

from claims.harness.estimands import hidden_states
from claims.harness.estimands.hidden_states import (
    differences_of_surprise_and_steps,
    gap_at_the_end,
    gap_over_depth,
    per_layer,
    smoother,
    steps_and_token_nlls,
    surprise_and_steps,
)
from invariants.support.comparing import must_see
from invariants.support.estimand_rows import computed, step_rows


def check_smoother() -> None:
    rough, smooth = step_rows("human", 5.0, seed=1), step_rows("greedy", 4.0, seed=2)
    assert computed(smoother, rough, smooth, metric="step").estimate.ci_low > 0
    assert computed(smoother, smooth, rough, metric="step").estimate.ci_high < 0


def test_larger_steps_of_the_first_source_are_positive() -> None:
    """Second less first, where every claim on steps is first less second; the twin turns it."""
    check_smoother()

    def turned(patch: pytest.MonkeyPatch) -> None:
        right = hidden_states.per_layer
        patch.setattr(hidden_states, "per_layer", lambda rows, metric: -right(rows, metric))

    must_see(turned, check_smoother)


def check_layer_table() -> None:
    """Compare every cell with d and SciPy's paired t test, variances taken with ddof 1."""
    first, second = step_rows("human", 5.0, seed=1), step_rows("greedy", 4.9, seed=2)
    outcome = computed(smoother, first, second, metric="step")
    table = outcome.plot["figures"][1]
    assert [len(row) for row in table["rows"]] == [7] * 10
    n = np.arange(20, 60)

    def at(rows: Any, column: str, layer: int) -> Any:
        values = np.array([x[layer] for x in rows.frame[column]])
        return values * n / (n - 1) if column == "norm_variance" else values

    for layer, row in enumerate(table["rows"]):
        assert row[0] == str(layer)
        for place, column in enumerate(("smoothness", "norm", "norm_variance")):
            a, b = (at(rows, column, layer) for rows in (first, second))
            d, p = (float(x) for x in row[1 + 2 * place : 3 + 2 * place])
            assert d == pytest.approx((a - b).mean() / (a - b).std(ddof=1), abs=0.006), column
            assert p == pytest.approx(sps.ttest_rel(a, b).pvalue, rel=0.06), column


def test_the_table_of_layers_is_that_of_paired_tests() -> None:
    """Catches a layer beside another one, an unpaired test or a variance of the whole population.

    The twin weighs the variances of texts by their length.
    """
    check_layer_table()

    def weighed(patch: pytest.MonkeyPatch) -> None:
        right = hidden_states.sample_variance
        patch.setattr(
            hidden_states,
            "sample_variance",
            lambda rows: right(rows) * (1 + np.arange(40)[:, np.newaxis] / 40),
        )

    must_see(weighed, check_layer_table)


def test_a_gap_that_grows_has_a_positive_slope() -> None:
    """A slope of the wrong sign, one of a constant gap, or another layer taken for the last."""
    flat, growing = step_rows("a", 4.0, seed=3), step_rows("b", 4.0, slope=0.2, seed=4)
    assert computed(gap_over_depth, growing, flat, metric="step").estimate.ci_low > 0
    same = computed(gap_over_depth, step_rows("c", 5.0, seed=5), flat, metric="step").estimate
    assert same.ci_low < 0 < same.ci_high
    end = computed(gap_at_the_end, growing, flat, metric="step")
    assert end.details["mean difference"] == pytest.approx(0.2 * 9, abs=0.3)


def test_the_slope_is_least_squares() -> None:
    """A slope over other layers than the first four fifths.

    1. the mean slope; 2. `numpy.polyfit` of the mean gap.
    """
    a, b = step_rows("a", 4.0, slope=0.3, seed=6), step_rows("b", 4.0, seed=7)
    gap = (per_layer(a, "step") - per_layer(b, "step")).mean(axis=0)[:8]
    slope = computed(gap_over_depth, a, b, metric="step").details["mean slope per layer"]
    assert slope == pytest.approx(np.polyfit(np.arange(8), gap, 1)[0], abs=1e-12)


def test_surprise_and_steps_are_correlated_text_by_text() -> None:
    """Texts mixed up, or two sources of one text resampled as two."""
    coupled = step_rows("human", 4.0, couple=1.0, seed=8)
    alone = step_rows("greedy", 4.0, seed=9)
    assert computed(surprise_and_steps, coupled, metric="step").estimate.value > 0.8
    free = computed(surprise_and_steps, alone, metric="step").estimate
    assert free.ci_low < 0 < free.ci_high
    pooled = computed(surprise_and_steps, coupled, alone, metric="step").estimate
    assert (pooled.n, pooled.clusters) == (80, 40)
    differences = computed(differences_of_surprise_and_steps, coupled, alone, metric="step")
    assert differences.estimate.ci_low > 0


def test_steps_that_follow_token_nlls_are_seen() -> None:
    """Tokens and steps shifted against each other, or steps missing from the table."""
    outcome = computed(steps_and_token_nlls, step_rows("human", 4.0, seed=10))
    correlation = outcome.details["mean rank correlation"]
    assert isinstance(correlation, float)
    assert correlation > 0.9
    table, trace = outcome.plot["figures"]
    counts = {row[0]: int(row[1].replace(",", "")) for row in table["rows"]}
    assert counts["word"] + counts["space"] + counts["number"] == 40 * 29
    assert len(trace["tokens"]) == len(trace["y"]) == 29
