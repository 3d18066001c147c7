"""A finding knows the conditions it rests on, and figures leave out what was not measured."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from claims.harness.estimands.base import (
    Outcome,
    band,
    curve_plot,
    derived,
    differences_plot,
    estimand,
    scatter_plot,
)
from claims.harness.rows import Rows
from invariants.support.estimand_rows import score_rows
from kvcore.analysis import IntervalSettings, mean_difference

A, B, C, D = (score_rows(name, [[1.0, 2.0]] * 3) for name in "abcd")
ROWS = {"a": A, "b": B, "c": C, "d": D}


@derived
def second_of(first: Rows, second: Rows) -> Rows:
    """Return the second rows."""
    assert first is C
    return second


@estimand("nats/token")
def compared(
    interval: IntervalSettings,
    first: Rows,
    pairs: Mapping[str, tuple[Rows, Rows]],
    *others: Rows,
    what: str,
) -> Outcome:
    """Compare nothing."""
    assert [what, *pairs] == ["share", "x"]
    assert pairs["x"][0] is D
    assert others == (A,)
    return Outcome(mean_difference(first.values, first.clusters, interval))


def test_a_finding_rests_on_all_rows_that_it_is_computed_from() -> None:
    """Needs that are missing, named twice or in another order; rows handed to the wrong place."""
    finding = compared("b", {"x": ("d", second_of("c", "b"))}, "a", what="share")
    assert finding.needs == ("b", "d", "c", "a")
    assert finding.unit == "nats/token"
    assert str(finding) == "compared(b, {x: (d, second_of(c, b))}, a, what=share)"
    requested: list[str] = []

    def lookup(need: str) -> Rows:
        requested.append(need)
        return ROWS[need]

    outcome = finding.compute(lookup, IntervalSettings(0.9))
    assert set(requested) == set(finding.needs)
    assert (outcome.estimate.value, outcome.estimate.confidence) == (1.5, 0.9)


def test_an_estimand_is_declared_with_the_arguments_it_takes() -> None:
    """Too few rows, an unknown parameter or a number for rows, seen only when it is computed."""
    for sources, parameters in (
        (("a",), {"what": "share"}),
        (("a", {"x": ("d", "c")}), {"which": "share"}),
    ):
        with pytest.raises(TypeError):
            compared(*sources, **parameters)
    with pytest.raises(TypeError, match="5 is no need"):
        compared("a", {"x": ("d", "c")}, 5, what="share").needs  # noqa: B018


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
