"""The measurements of one run, each cell measured once for all its claims."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from claims.harness import beside, ledger, looking, registry
from claims.harness.cells import check_gpu, limit_of
from claims.harness.claims import CellClaim, CellKey
from claims.harness.datasets import path_of
from claims.harness.held import (
    HeldModel,
    as_text,
    drop_locals,
    is_out_of_memory,
    is_said_in_a_line,
    lasting,
)
from claims.harness.ledger import Entry, Key
from claims.harness.looking import Judge, Stop
from claims.harness.options import Settings
from claims.harness.sink_lines import SinkLines
from claims.harness.sources import LookedAt, MeasuredCell, StoredCell, facts_of, name_of
from kvcore import analysis, verdict
from kvcore.errors import KvError, MissingResource
from kvcore.io import cache_folder
from kvcore.measurements.base import MeasureRequest
from kvcore.measurements.collect import CollectedRows, Collection, record_of, stored_rows
from kvcore.measurements.errands import Sender
from kvcore.measurements.needs import Need, is_sweep
from kvcore.measurements.registry import kind_of
from kvcore.models.registry import entry_of, precision, row_name
from kvcore.ray_workers import RayWorkers

if TYPE_CHECKING:
    from kvcore.models.files import ModelFiles
    from kvcore.models.lm import LM


@dataclass(eq=False)
class Session:
    """What a run measures and judges by."""

    settings: Settings
    needs: Mapping[CellKey, tuple[str, ...]]  # of the claims of each cell, as they spell them
    families: Mapping[str, int]  # how many judgements each has, where those are counted
    known: Mapping[Key, Entry]  # the ledger
    tests: Mapping[CellKey, Sequence[CellClaim]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._model = HeldModel(self.settings)
        self._sink_lines = SinkLines()
        self._measured: dict[CellKey, LookedAt] = {}
        self._failures: dict[CellKey, Exception] = {}
        self._untold: dict[CellKey, Exception] = {}  # of the measuring before the first test
        self._explained: set[CellKey] = set()
        self._ray: RayWorkers | None = None

    @classmethod
    def of(
        cls, settings: Settings, tests: Iterable[CellClaim], declared: Iterable[CellClaim]
    ) -> Session:
        """Return the session of a run's tests, which are some of those that are declared.

        Raises pytest.UsageError for an unreadable ledger.
        """
        needs: dict[CellKey, set[str]] = {}
        by_cell: dict[CellKey, list[CellClaim]] = {}
        for test in tests:
            needs.setdefault(test.key, set()).update(test.finding.needs)
            by_cell.setdefault(test.key, []).append(test)
        try:
            known = ledger.read()
        except KvError as error:
            raise pytest.UsageError(str(error)) from error
        return cls(
            settings,
            {key: tuple(sorted(names)) for key, names in needs.items()},
            registry.family_sizes(settings, declared) if settings.familywise else {},
            known,
            by_cell,
        )

    def level(self, test: CellClaim) -> float:
        """Return the confidence of a claim's interval, widened over its family where asked for."""
        level = self.settings.confidence
        if self.settings.familywise:
            level = verdict.familywise(level, self.families[test.spec.claim.family])
        return level

    def measured(self, key: CellKey, judge: Judge) -> LookedAt:
        """Return what was measured in a cell, measuring what the store lacks, look by look.

        Raises
        ------
        MissingResource, KvError
            What this machine lacks, memory included, or why the cell cannot be measured, in one
            line; it is remembered, so that nothing is loaded or measured once more per claim.
        Exception
            Whatever else breaks, for the first claim; the others get its line.
        """
        if key in self._untold:
            raise self._untold.pop(key)
        if key in self._failures:
            raise self._failures[key]
        if key not in self._measured:
            try:
                self._measured[key] = self._look(key, judge)
            except Exception as error:
                if is_said_in_a_line(error, self.remember(key, error)):
                    raise self._failures[key] from None
                raise
        return self._measured[key]

    def remember(self, key: CellKey, error: Exception) -> Exception:
        """Remember why a cell was not measured, and return it as an error of one line."""
        self._failures[key] = lasting(error, f"{key} was not measured")
        return self._failures[key]

    def measure_first(self, judge: Judge) -> None:
        """Measure all cells look by look, those of one model side by side, and explain them.

        What breaks is told by the first claim that needs the cell.
        """
        for key in itertools.chain.from_iterable(self.by_model().values()):
            try:
                self.measured(key, judge)
                self.explained_once(key)  # kept in the cache: the model need not be loaded again
                self._explained.discard(key)
            except Exception as error:
                self._untold[key] = as_text(error)

    def by_model(self) -> dict[str, list[CellKey]]:
        """Return the cells by their model, each model's side by side."""
        grouped: dict[str, list[CellKey]] = {}
        for key in self.tests:
            grouped.setdefault(key.model, []).append(key)
        return grouped

    def _look(self, key: CellKey, judge: Judge) -> LookedAt:
        stops: dict[tuple[str, str], Stop] = {}
        sources = self._sources(key)
        for source, tests in sources:
            stopped = looking.stops(tests, source, judge)
            stops |= zip(map(name_of, tests), stopped, strict=True)
        everything = sources[0][0].at(None)
        plans = [source.plan for source, _ in sources if source.plan is not None]
        facts = facts_of(key, everything, plans, self.settings.store)
        return LookedAt(stops, everything, facts)

    def _sources(
        self, key: CellKey
    ) -> Sequence[tuple[StoredCell | MeasuredCell, Sequence[CellClaim]]]:
        """Return where the rows of a cell's claims come from: measured, or stored, by plan."""
        settings, tests = self.settings, self.tests.get(key, ())
        if not settings.no_measure:
            return [(MeasuredCell.declared(key, self.collection(key), settings.looks), tests)]
        record = record_of(kind_of(key.kind), settings.store, *self._where(key))
        plans, collected = record.read(), self.stored(key)
        chosen = [looking.plan_of(test, plans) for test in tests]
        return [
            (
                StoredCell(key, collected, plan),
                [test for test, own in zip(tests, chosen, strict=True) if own is plan],
            )
            for plan in (plans or (None,))
            if plan in chosen or not tests
        ]

    def collection(self, key: CellKey) -> Collection:
        """Plan a cell, with what was adopted of it; errors as `measured`."""
        return Collection.planned(
            kind_of(key.kind),
            self.request(key),
            self.settings.store,
            progress=str(key),
            sender=self.sender(key.model),
        ).adopting()

    def stored(self, key: CellKey) -> CollectedRows:
        """Return all stored rows of a cell; MissingResource if there are none."""
        model, dtype, dataset, seed = self._where(key)
        return stored_rows(
            kind_of(key.kind),
            model=model,
            dtype=dtype,
            dataset=dataset,
            seed=seed,
            store=self.settings.store,
        )

    def _where(self, key: CellKey) -> tuple[str, str, str, int]:
        """Return model, dtype, dataset and seed as a cell's rows have them."""
        settings, model = self.settings, key.model
        dtype = precision(model, settings.dtype, settings.quantization).dtype
        name = row_name(model, settings.quantization, settings.bos)
        return name, dtype, path_of(key.dataset), settings.seed

    def files(self, model: str) -> ModelFiles:
        """Return where a model lies; errors as `kvcore.models.files.locate`."""
        from kvcore.models.files import locate

        settings = self.settings
        return locate(model, settings.dtype, settings.quantization, bos=settings.bos)

    def sender(self, model: str) -> Sender | None:
        """Return what sends a model's work to other processes, None where this one does it.

        Raises MissingResource for a model that needs a GPU where no worker has one.
        """
        settings = self.settings
        if settings.executor != "ray":
            return None
        if self._ray is None:
            gpus = {"cpu": False, "cuda": True}.get(settings.device)
            self._ray = RayWorkers(settings.ray_address, cpus=settings.ray_cpus, gpus=gpus)
        if entry_of(model).gpu and settings.device != "cpu" and not self._ray.have_gpus:
            raise MissingResource(
                f"{model} needs a GPU and the Ray cluster has none; force it with --kv-device cpu."
            )
        return Sender(self._ray, settings.device)

    @property
    def lost_shards(self) -> int:
        """How many shards were begun again because the process that measured them was lost."""
        return self._ray.losses if self._ray is not None else 0

    def close(self) -> None:
        """End the processes that measured for this run, if there are any."""
        if self._ray is not None:
            self._ray.close()

    def free(self, model: str) -> None:
        """Let go of a model, if it is the one that is held."""
        self._model.free(model)

    def request(self, key: CellKey, needs: tuple[str, ...] | None = None) -> MeasureRequest:
        """Return what a cell is asked to measure; the model is loaded when it is needed.

        `needs`: all of its claims by default.
        """
        settings, model = self.settings, key.model
        self._model.free_others(model)
        check_gpu(model, settings)
        return MeasureRequest(
            files=self.files(model),
            load=functools.partial(self._load, key),
            dataset=path_of(key.dataset),
            needs=self.needs[key] if needs is None else needs,
            limit=limit_of((key.model, path_of(key.dataset)), settings),
            seed=settings.seed,
            batch_tokens=settings.batch_tokens,
            store=settings.store,
            device=settings.device,
        )

    def _load(self, key: CellKey) -> LM:
        """Return a cell's model; the first time, say where it keeps its attention sink."""
        lm = self._model.load(key.model)
        kind, dataset = kind_of(key.kind), path_of(key.dataset)
        self._sink_lines.tell(key.model, lm, kind, dataset, self.settings.seed)
        return lm

    def explained_once(self, key: CellKey) -> list[Mapping[str, Any]]:
        """Return a cell's explanations the first time, then none: they are megabytes.

        None where they do not fit in memory: verdicts do not hang on them.
        """
        if key in self._explained:
            return []
        self._explained.add(key)
        try:
            return self._explain(key)
        except Exception as error:
            drop_locals(error)
            if not is_out_of_memory(error):
                raise
            return []

    def _explain(self, key: CellKey) -> list[Mapping[str, Any]]:
        """Return a cell's explanations, stored so that judging again loads no model."""
        kind, settings = kind_of(key.kind), self.settings
        explain = kind.explain
        if explain is None:
            return []
        measured = self._measured[key].everything
        folder = measured.collected.folder
        if settings.no_measure:
            return beside.explanations(folder, key, settings.seed, self.needs[key])
        stored = set(measured.rows["need"])
        needs = tuple(
            need for need in self.needs[key] if is_sweep(need) or str(Need.read(need)) in stored
        )
        parameters = {
            "model": key.model,
            "revision": measured.collected.revision,
            "dataset": key.dataset,
            "names": needs,
            "seed": settings.seed,
        }
        file = analysis.estimate_key(kind.code, "explanations", parameters)

        def ask(do: Callable[[MeasureRequest], Any]) -> Any:
            request, sender = self.request(key, needs), self.sender(key.model)
            return do(request) if sender is None else sender.ask(do, kind, request)

        def compute() -> Mapping[str, Any]:
            return {"all": list(ask(explain))}

        explained = analysis.cached_json(cache_folder() / "explanations", file, compute)["all"]
        beside.keep_explanations(folder, key, settings.seed, explained)
        beside.keep_token_ends(folder, measured.rows, lambda: ask(beside.tokenizer_of))
        return list(explained)

    def explain_all(self) -> str:
        """Explain every condition of the run's claims, on one sample per cell."""
        parts = []
        for key, needs in self.needs.items():
            explain = kind_of(key.kind).explain
            if explain is None:
                continue
            try:
                explanations = explain(self.request(key, needs))
            except MissingResource as missing:
                parts.append(f"{key}: {missing}")
                continue
            parts.append(f"=== {key} ===")
            parts += [f"{explanation['text']}\n" for explanation in explanations]
        return "\n".join(parts)
