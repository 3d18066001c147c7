"""All claims of the project, whatever a run collects: by them families are counted."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from claims.harness.cells import cells_of
from claims.harness.claims import CellClaim, ClaimSpec, Declaration, specified
from claims.harness.options import Settings

FOLDER = Path(__file__).parent.parent
Declared = tuple[Declaration, Callable[..., Any]]
"""A claim as declared, and the test that judges it."""


def declared_claims() -> Iterator[Declared]:
    """Yield every claim declared in ``claims/test_*.py``; imports those modules."""
    for path in sorted(FOLDER.glob("test_*.py")):
        yield from declared_in(importlib.import_module(f"{FOLDER.name}.{path.stem}"))


def declared_in(module: ModuleType) -> Iterator[Declared]:
    """Yield the claims that a module declares, in their order."""
    for test in vars(module).values():
        for mark in getattr(test, "pytestmark", ()) if inspect.isfunction(test) else ():
            if mark.name == "claim":
                yield from ((declared, test) for declared in mark.args)


def all_specs() -> list[ClaimSpec]:
    """Return every claim of the project; KvError for one that does not hold together."""
    return [specified(declared, test) for declared, test in declared_claims()]


def family_sizes(settings: Settings, declared: Iterable[CellClaim] = ()) -> dict[str, int]:
    """Return how many judgements each family of claims has.

    Counted are the project's claims in their default cells and in those that the run's options
    name, on any machine the same and whatever ``-k``, ``-m`` and paths select; and claims that are
    ``declared`` in files of another project.
    """
    default = dataclasses.replace(settings, models=(), datasets=(), no_measure=True)
    members: dict[str, set[tuple[str, str]]] = {}
    for spec in all_specs():
        for chosen in (default, settings):
            for cell in cells_of(spec, chosen):
                members.setdefault(spec.claim.family, set()).add((spec.claim.id, str(cell)))
    for test in declared:
        claim = test.spec.claim
        members.setdefault(claim.family, set()).add((claim.id, str(test.cell)))
    return {family: len(judgements) for family, judgements in members.items()}
