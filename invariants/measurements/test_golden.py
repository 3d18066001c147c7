"""Numbers that no refactoring may move: every kind on tiny models, a dozen conditions.

The values were measured with the code as it was before kinds of measurement were registered. Where
a kind's numbers are meant to change, its version is raised and the values are written anew.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from invariants.support import golden
from invariants.support.comparing import replaced
from kvcore.measurements import answer_nll
from kvcore.measurements.registry import kind_of


@functools.cache
def known() -> dict[str, Any]:
    """Return the committed values."""
    return golden.known()


def check_golden(model: str, kind: str, folder: Path) -> None:
    """Demand the committed numbers of one kind on one model."""
    method = known()["methods"][kind]
    assert kind_of(kind).method() == method, (
        f"{kind} is now {kind_of(kind).method()}, the golden values are {method}'s: write them "
        "anew with `python -m invariants.support.golden` and say why they changed."
    )
    wrong = golden.differences(known()["values"][model][kind], golden.measured(model, kind, folder))
    assert not wrong, (
        f"{len(wrong)} numbers of {method} moved on {model}. Undo that, or, if they are meant to, "
        f"raise the version in kvcore/measurements/kinds/{kind}.py. First: {wrong[0]}"
    )


@pytest.mark.parametrize(("model", "kind"), golden.pairs())
def test_no_number_moves_without_its_version_being_raised(
    model: str, kind: str, tmp_path: Path
) -> None:
    """Catches any change of engine, cache or conditions that shifts a number by 1e-6 nats."""
    check_golden(model, kind, tmp_path)


def test_twin_a_shifted_number_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Catches golden values that are compared with themselves: 2e-6 nats more must fail."""
    shifted = replaced(
        answer_nll,
        "score_pairs",
        lambda real, *args, **kwargs: real(*args, **kwargs).assign(
            nll=lambda rows: rows["nll"] * (1 + 2e-6)
        ),
    )
    shifted(monkeypatch)
    with pytest.raises(AssertionError, match="raise the version in"):
        check_golden("tiny-llama", "answer_nll", tmp_path)


def test_twin_a_raised_version_asks_for_new_values(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Catches a version that was raised while the golden values stayed those of the last one."""
    monkeypatch.setitem(known()["methods"], "divergence", "divergence/0")
    with pytest.raises(AssertionError, match="write them anew"):
        check_golden("tiny-llama", "divergence", tmp_path)
