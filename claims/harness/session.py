"""The measurements of one run, each cell measured once for all its claims."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from claims.harness import ledger
from claims.harness.cells import check_gpu
from claims.harness.claims import CellClaim
from claims.harness.datasets import path_of
from claims.harness.ledger import Entry, Key
from claims.harness.rows import Measured
from claims.harness.settings import Settings
from kvcore import analysis
from kvcore.errors import KvError, MissingResource
from kvcore.io import cache_folder
from kvcore.measurements.base import MeasurementKind, MeasureRequest
from kvcore.measurements.collect import CollectedRows, collect_rows, stored_rows
from kvcore.measurements.needs import Need, is_sweep
from kvcore.measurements.registry import kind_of
from kvcore.models.registry import precision, row_name

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
            collected = self._collect(kind_of(kind), model, dataset)
        except MissingResource as missing:
            return missing
        return Measured(model, dataset, kind_of(kind).schema, collected)

    def _collect(self, kind: MeasurementKind, model: str, dataset: str) -> CollectedRows:
        settings = self.settings
        if settings.no_measure:
            return stored_rows(
                kind,
                model=row_name(model, settings.quantization),
                dtype=precision(model, settings.dtype, settings.quantization).dtype,
                dataset=path_of(dataset),
                seed=settings.seed,
                store=settings.store,
            )
        needs = self.needs[kind.name, model, dataset]
        request = self._request(model, dataset, needs)
        progress = f"{model} on {dataset}"
        return collect_rows(kind, request, settings.store, progress=progress)

    def _request(self, model: str, dataset: str, needs: tuple[str, ...]) -> MeasureRequest:
        """Return what a cell is asked to measure; the model is loaded when it is needed."""
        from kvcore import loading
        from kvcore.models.files import locate

        settings = self.settings
        check_gpu(model, settings)
        return MeasureRequest(
            files=locate(model, settings.dtype, settings.quantization),
            load=functools.cache(
                lambda: loading.load(
                    model,
                    device=settings.device,
                    dtype=settings.dtype,
                    quantization=settings.quantization,
                )
            ),
            dataset=path_of(dataset),
            needs=needs,
            limit=settings.limit,
            seed=settings.seed,
            batch_tokens=settings.batch_tokens,
            store=settings.store,
        )

    def explained_once(self, kind: str, model: str, dataset: str) -> list[Mapping[str, Any]]:
        """Return a cell's explanations the first time, then none: they are megabytes."""
        key = (kind, model, dataset)
        if key in self._explained:
            return []
        self._explained.add(key)
        return list(self._explanations(*key))

    def _explain(self, kind: str, model: str, dataset: str) -> tuple[Mapping[str, Any], ...]:
        """Return a cell's explanations, stored so that judging again loads no model."""
        explain, settings = kind_of(kind).explain, self.settings
        if explain is None or settings.no_measure:
            return ()
        measured = self.measured(kind, model, dataset)
        stored = set(measured.rows["need"])
        needs = tuple(
            need
            for need in self.needs[kind, model, dataset]
            if is_sweep(need) or str(Need.read(need)) in stored
        )
        parameters = {
            "model": model,
            "revision": measured.collected.revision,
            "dataset": dataset,
            "names": needs,
            "seed": settings.seed,
        }
        key = analysis.estimate_key(kind_of(kind).code, "explanations", parameters)

        def compute() -> Mapping[str, Any]:
            return {"all": list(explain(self._request(model, dataset, needs)))}

        return tuple(analysis.cached_json(cache_folder() / "explanations", key, compute)["all"])

    def explain_all(self) -> str:
        """Explain every condition of the run's claims, on one sample per cell."""
        parts = []
        for (kind, model, dataset), needs in self.needs.items():
            explain = kind_of(kind).explain
            if explain is None:
                continue
            try:
                explanations = explain(self._request(model, dataset, needs))
            except MissingResource as missing:
                parts.append(f"{model} on {dataset}: {missing}")
                continue
            parts.append(f"=== {model} on {dataset} ===")
            parts += [f"{explanation['text']}\n" for explanation in explanations]
        return "\n".join(parts)
