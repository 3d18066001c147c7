"""q-values: Benjamini and Hochberg's step-up procedure, and the numbers it may not change.

Two routes to each q:

1. `kvcore.verdict.q_values`, which is SciPy's;
2. the definition: the smallest level at which the step-up procedure rejects that hypothesis.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as sps

from invariants.support.comparing import must_see
from kvcore.errors import KvError
from kvcore.verdict import multiple

ps = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def rejected(p: list[float], level: float) -> list[bool]:
    """Reject as Benjamini and Hochberg (1995) do: all up to the last that lies below its line."""
    order = sorted(range(len(p)), key=p.__getitem__)
    below = [k for k, i in enumerate(order, 1) if p[i] <= level * k / len(p)]
    last = max(below, default=0)
    return [order.index(i) < last for i in range(len(p))]


def check_definition(p: list[float]) -> None:
    q = multiple.q_values(p)
    assert q.shape == (len(p),)
    for level in (0.01, 0.05, 0.2, 0.7):
        near = np.abs(q - level) < 1e-9  # where rounding decides
        assert (near | ((q <= level) == rejected(p, level))).all(), level


@given(ps)
def test_a_verdict_stands_where_the_step_up_procedure_rejects(p: list[float]) -> None:
    """Catches q-values of another procedure, in another order, or over another number of them."""
    check_definition(p)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(lambda p, **_: np.asarray(p), id="no correction"),
        pytest.param(lambda p, **_: np.minimum(1, len(p) * np.asarray(p)), id="Bonferroni"),
        pytest.param(
            lambda p, **_: sps.false_discovery_control(p, method="by"), id="Benjamini-Yekutieli"
        ),
    ],
)
def test_definition_twin(fault: Callable[..., object]) -> None:
    """No correction, and two other ones, are seen."""
    real = sps.false_discovery_control
    spoiled = [0.001, 0.03, 0.04, 0.3, 0.5]
    assert real(spoiled).tolist() == pytest.approx([0.005, 0.2 / 3, 0.2 / 3, 0.375, 0.5])

    def broken(p: object, **other: str) -> object:
        return fault(np.asarray(p)) if other.get("method") == "bh" else real(p, **other)

    must_see(
        lambda patch: patch.setattr(sps, "false_discovery_control", broken),
        check_definition,
        spoiled,
    )


def test_what_tells_nothing_counts_as_one() -> None:
    """Catches a NaN that spreads to the others, or that makes them look fewer than they are."""
    known = multiple.q_values([0.001, 0.2, 1.0])
    assert multiple.q_values([0.001, 0.2, math.nan]).tolist() == known.tolist()
    assert known.tolist() == pytest.approx([0.003, 0.3, 1.0])
    assert multiple.q_values([]).shape == (0,)
    assert multiple.q_values([1.0, 1.0]).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("p", [-0.1, 1.5, math.inf])
def test_no_p_value_is_refused(p: float) -> None:
    """Catches a number that is no p value and gets a q."""
    with pytest.raises(KvError, match=r"p must be in \[0, 1\]; got"):
        multiple.q_values([0.5, p])
