"""A finding knows the conditions it rests on, and figures leave out what was not measured."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from claims.measured import Rows

from claims.harness.estimands.base import (
    Outcome,
    band,
    curve_plot,
    differences_plot,
    estimand,
    scatter_plot,
)
from invariants.support.estimand_rows import score_rows
from kvcore.analysis import IntervalSettings, mean_difference

A, B, C, D = (score_rows(name, [[1.0, 2.0]] * 3) for name in "abcd")


@estimand("{what} of {conditions}")
def compared(
    interval: IntervalSettings,
    what: str,
    first: Rows,
    pairs: Mapping[str, tuple[Rows, Rows]],
    *others: Rows,
) -> Outcome:
    """Compare nothing."""
    assert [what, *pairs] == ["share", "x"]
    assert others == (A,)
    return Outcome(mean_difference(first.values, first.clusters, interval))


def test_a_finding_rests_on_all_rows_that_it_is_made_from() -> None:
    """Rows whose conditions are missing, twice, or in another order than passed."""
    finding = compared("share", B, {"x": (D, C)}, A)
    assert finding.conditions == ("b", "d", "c", "a")
    assert finding.kind == "share of b and d and c and a"
    assert compared("share", A, {"x": (A, C)}, A).conditions == ("a", "c")
    outcome = finding.compute(IntervalSettings(0.9))
    assert (outcome.estimate.value, outcome.estimate.confidence) == (1.5, 0.9)


def test_figures_leave_out_what_was_not_measured() -> None:
    """NaN in a figure, which strict JSON cannot hold, or a pair torn apart."""
    x, y = np.array([1.0, np.nan, 3.0, 4.0]), np.array([5.0, 6.0, np.nan, 8.00004])
    assert differences_plot(x)["differences"] == [1.0, 3.0, 4.0]
    plot = scatter_plot(x, y, "x", "y")
    assert (plot["x"], plot["y"]) == ([1.0, 4.0], [5.0, 8.0])


def test_bands_and_curves_show_each_estimate_at_its_place() -> None:
    """Columns counted from the wrong number, or bounds exchanged."""
    values = np.random.default_rng(0).normal(size=(20, 3)) + np.arange(3)
    shown = band("a", values, [f"s{i}" for i in range(20)], IntervalSettings(), start=1)
    assert shown["x"] == [1, 2, 3]
    assert shown["y"] == values.mean(axis=0).tolist()
    bounds = zip(shown["low"], shown["y"], shown["high"], strict=True)
    assert all(low < y < high for low, y, high in bounds)
    e = mean_difference(values[:, 0])
    curve = curve_plot([4.0], [e], "n", y_label="width")
    assert (curve["d"], curve["low"], curve["high"]) == ([e.value], [e.ci_low], [e.ci_high])
    assert (curve["x"], curve["y_label"], curve["log"]) == ([4.0], "width", False)
