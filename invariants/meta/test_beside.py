"""Explanations kept beside rows: stored rows are shown with those of their own conditions."""

from __future__ import annotations

from pathlib import Path

import pytest

from claims.harness import beside
from claims.harness.claims import CellKey
from invariants.support.comparing import must_see

KEY = CellKey("answer_nll", "tiny-llama", "docstrings")
KEPT = ("bare", "random", "values_layer(random,0)", "values_only(random)")


def check_explanations(folder: Path) -> None:
    """Demand of some needs the explanations of their conditions, and no other."""
    beside.keep_explanations(folder, KEY, 0, [{"condition": name} for name in KEPT])

    def of(*needs: str) -> list[str]:
        return [str(each["condition"]) for each in beside.explanations(folder, KEY, 0, needs)]

    assert of("bare@lists", "values_layer(random,*)") == ["bare", "values_layer(random,0)"]
    assert of("values_only(random)") == ["values_only(random)"]
    assert beside.explanations(folder, KEY, 1, KEPT) == []


def test_stored_rows_are_explained_by_their_own_conditions(tmp_path: Path) -> None:
    """Catches a sweep over layers left out, and a condition whose name is part of another's."""
    check_explanations(tmp_path)


def test_twin_explanations_sees_needs_taken_for_conditions(tmp_path: Path) -> None:
    """Twin: the check sees needs looked up as they are spelled."""

    def as_spelled(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(beside, "condition_of", lambda need: need)

    must_see(as_spelled, check_explanations, tmp_path)
