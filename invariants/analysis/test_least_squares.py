"""Slopes are NumPy's own fits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvcore import analysis
from kvcore.analysis import least_squares


def check_slopes(seed: int, points: int) -> None:
    """Slopes of five columns.

    1. ours, in one product and by weights; 2. `numpy.polyfit`, column by column.
    """
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=points) * 3 + 7, rng.normal(size=(points, 5))
    expected = [np.polyfit(x, column, 1)[0] for column in y.T]
    assert least_squares.slopes(x, y) == pytest.approx(expected, abs=1e-9)
    assert least_squares.slope_weights(x) @ y == pytest.approx(expected, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), points=st.integers(3, 9))
def test_slopes_are_numpys(seed: int, points: int) -> None:
    """x not centred, or a slope over the number of the point."""
    check_slopes(seed, points)


def test_twin_slopes_see_x_replaced_by_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of slopes that equally spaced points pass."""
    right = least_squares.slopes
    monkeypatch.setattr(least_squares, "slopes", lambda x, y: right(np.arange(len(x)), y))
    with pytest.raises(AssertionError):
        check_slopes(1, 5)


def test_a_column_with_a_nan_has_no_slope_and_leaves_the_others_alone() -> None:
    """A sample that was not measured everywhere, counted or spread over the others."""
    y = np.array([[1.0, 1.0], [np.nan, 2.0], [3.0, 3.0]])
    assert np.isnan(analysis.slopes([0, 1, 2], y)).tolist() == [True, False]
    assert analysis.slopes([0, 1, 2], y)[1] == pytest.approx(1.0)
