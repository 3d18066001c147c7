"""Faults: what breaks production code until a patch is undone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Fault = Callable[[pytest.MonkeyPatch], None]


def patched(module: Any, name: str, value: object) -> Fault:
    """Return the fault that replaces one name of a module."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(module, name, value)

    fault.__name__ = name
    return fault


def each(*faults: Any) -> pytest.MarkDecorator:
    """Return the parametrization over faults, named by what they replace."""
    names = [f"{fault.__name__}-{i}" for i, fault in enumerate(faults)]
    return pytest.mark.parametrize("fault", faults, ids=names)


def all_of(*faults: Fault) -> Fault:
    """Return several faults as one."""

    def together(patch: pytest.MonkeyPatch) -> None:
        for fault in faults:
            fault(patch)

    return together
