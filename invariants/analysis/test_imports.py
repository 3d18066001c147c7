"""Judging stored numbers loads no engine and no test runner."""

from __future__ import annotations

import subprocess
import sys

import pytest

ENGINE = {"torch", "transformers"}
RUNNERS = {"pytest", "hypothesis"}
MODULES = ("kvcore.analysis", "kvcore.verdict")
ESTIMANDS = tuple(
    f"claims.harness.estimands.{name}"
    for name in ("paired", "ranking", "divergence", "hidden_states", "context_switch")
)


def imported_by(statement: str) -> set[str]:
    """Return the modules that a fresh interpreter holds after a statement."""
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_no_engine_is_loaded() -> None:
    """An import of torch, without which stored rows could be judged, too."""
    assert not ENGINE & imported_by(f"import {', '.join([*MODULES, *ESTIMANDS])}")


def test_no_test_runner_is_loaded() -> None:
    """An import of pytest or hypothesis, which a notebook may lack."""
    assert not RUNNERS & imported_by(f"import {', '.join(MODULES)}")


@pytest.mark.parametrize("name", sorted(RUNNERS | {"torch"}))
def test_twin_an_import_is_seen(name: str) -> None:
    """The tests above look where an import would be."""
    assert name in imported_by(f"import kvcore.analysis, {name}")
