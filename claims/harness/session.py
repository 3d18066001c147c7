"""The measurements of one run, each cell measured once for all its claims."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from claims.harness import ledger
from claims.harness.claims import CellClaim
from claims.harness.kinds import kind_of
from claims.harness.ledger import Entry, Key
from claims.harness.rows import Measured
from claims.harness.settings import Settings
from claims.needs import is_sweep
from kvcore import analysis
from kvcore.errors import KvError, MissingResource
from kvcore.io import cache_folder

CellKey = tuple[str, str, str]
"""Kind of measurement, model and dataset."""


class Session:
    """What a run measures and judges by.

    Parameters
    ----------
    settings : Settings
    needs : mapping of (kind, model, dataset) to needs
        What the claims of each cell rest on, as they spell it.
    families : mapping of family to int
        How many judgements it has in this run.
    known : mapping of key to Entry
        The ledger.
    """

    def __init__(
        self,
        settings: Settings,
        needs: Mapping[CellKey, tuple[str, ...]],
        families: Mapping[str, int],
        known: Mapping[Key, Entry],
    ) -> None:
        self.settings = settings
        self.needs = needs
        self.families = families
        self.known = known
        self._measured = functools.cache(self._measured_or_missing)
        self._explanations = functools.cache(self._explain)
        self._explained: set[CellKey] = set()

    @classmethod
    def of(cls, settings: Settings, tests: Iterable[CellClaim]) -> Session:
        """Return the session of a run's tests.

        Raises
        ------
        pytest.UsageError
            If the ledger cannot be read.
        """
        needs: dict[CellKey, set[str]] = {}
        members: dict[str, set[tuple[str, str]]] = {}
        for test in tests:
            claim, cell = test.spec.claim, test.cell
            key = (test.spec.kind.name, cell.model, cell.dataset)
            needs.setdefault(key, set()).update(test.finding.needs)
            members.setdefault(claim.family, set()).add((claim.id, str(cell)))
        try:
            known = ledger.read()
        except KvError as error:
            raise pytest.UsageError(str(error)) from error
        return cls(
            settings,
            {key: tuple(sorted(names)) for key, names in needs.items()},
            {family: len(judgements) for family, judgements in members.items()},
            known,
        )

    def measured(self, kind: str, model: str, dataset: str) -> Measured:
        """Return what was measured in a cell, measuring what the store lacks.

        Raises
        ------
        MissingResource
            What this machine lacks; it is remembered, not looked for once more per claim.
        """
        result: Measured | MissingResource = self._measured(kind, model, dataset)
        if isinstance(result, MissingResource):
            raise result
        return result

    def _measured_or_missing(
        self, kind: str, model: str, dataset: str
    ) -> Measured | MissingResource:
        try:
            needs = self.needs[kind, model, dataset]
            return kind_of(kind).measure(model, dataset, needs, self.settings)
        except MissingResource as missing:
            return missing

    def explained_once(self, kind: str, model: str, dataset: str) -> list[Mapping[str, Any]]:
        """Return a cell's explanations the first time, then none: they are megabytes."""
        key = (kind, model, dataset)
        if key in self._explained:
            return []
        self._explained.add(key)
        return list(self._explanations(*key))

    def _explain(self, kind: str, model: str, dataset: str) -> tuple[Mapping[str, Any], ...]:
        """Return a cell's explanations, stored so that judging again loads no model."""
        explain = kind_of(kind).explain
        if explain is None or self.settings.no_measure:
            return ()
        measured = self.measured(kind, model, dataset)
        stored = set(measured.rows["need"])
        needs = self.needs[kind, model, dataset]
        names = [need for need in needs if is_sweep(need) or need in stored]
        parameters = {
            "model": model,
            "revision": measured.revision,
            "dataset": dataset,
            "names": names,
            "seed": self.settings.seed,
        }
        key = analysis.estimate_key(kind_of(kind).code(), "explanations", parameters)

        def compute() -> Mapping[str, Any]:
            return {"all": list(explain(model, dataset, names, self.settings))}

        return tuple(analysis.cached_json(cache_folder() / "explanations", key, compute)["all"])

    def explain_all(self) -> str:
        """Explain every condition of the run's claims, on one sample per cell."""
        parts = []
        for (kind, model, dataset), needs in self.needs.items():
            explain = kind_of(kind).explain
            if explain is None:
                continue
            try:
                explanations = explain(model, dataset, needs, self.settings)
            except MissingResource as missing:
                parts.append(f"{model} on {dataset}: {missing}")
                continue
            parts.append(f"=== {model} on {dataset} ===")
            parts += [f"{explanation['text']}\n" for explanation in explanations]
        return "\n".join(parts)
