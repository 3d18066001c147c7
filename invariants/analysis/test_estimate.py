"""Estimates survive JSON, and exchanged ends are refused."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invariants.support.intervals import strict_json
from kvcore import analysis
from kvcore.analysis import Estimate, estimate
from kvcore.analysis.estimate import Beside
from kvcore.analysis.jackknife import Scale
from kvcore.errors import KvError

any_float = st.floats(allow_nan=True, allow_infinity=True)


@st.composite
def estimates(draw: st.DrawFn) -> Estimate:
    """Any estimate whose ends are in order."""
    low, high = sorted(draw(st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False))))
    return Estimate(
        draw(any_float),
        low,
        high,
        draw(st.floats(0.01, 0.99)),
        draw(st.text()),
        draw(st.integers(0, 10**6)),
        draw(st.integers(0, 10**6)),
        draw(st.text()),
        draw(st.none() | st.floats(0, 1e6)),
        draw(st.none() | any_float),
        draw(st.sampled_from(get_args(Scale))),
        draw(st.none() | st.integers(0, 10**6)),
        draw(st.none() | any_float),
        draw(st.none() | any_float),
        draw(st.none() | st.builds(Beside, any_float, any_float, st.text())),
    )


def check_round_trip(written: Estimate) -> None:
    back = Estimate.from_dict(json.loads(strict_json(written.to_dict())))
    assert repr(back) == repr(written)


@settings(max_examples=15, deadline=None)
@given(written=estimates())
def test_an_estimate_survives_json(written: Estimate) -> None:
    """A field lost, or NaN and the infinities turned into text."""
    check_round_trip(written)


def test_twin_round_trip_sees_naked_infinities(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round trip that infinities pass, which strict JSON lacks."""
    monkeypatch.setattr(estimate, "to_plain", asdict)
    with pytest.raises(AssertionError, match="JSON"):
        check_round_trip(analysis.effect_size([1.0]))


def test_exchanged_ends_are_refused() -> None:
    """An interval that no value lies in."""
    with pytest.raises(KvError, match="ci_low must not exceed ci_high; got 1 and 0"):
        Estimate(0, 1, 0, 0.95, "", 1, 1, "d")
