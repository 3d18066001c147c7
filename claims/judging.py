"""From a finding to a verdict, and from a verdict to what pytest is told."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from claims import ledger
from claims.cells import ClaimSpec
from claims.harness.estimands.base import Finding, Outcome
from claims.measured import Measured
from claims.needs import CONTROLS
from claims.options import Settings
from kvcore import analysis, overlap, verdict
from kvcore.analysis import Estimate, IntervalSettings
from kvcore.errors import MissingResource
from kvcore.models import cache_dir
from kvcore.store import code_hash
from kvcore.verdict import Cell, Judgement


@dataclass(frozen=True)
class Bench:
    """What is needed to judge one claim in one cell."""

    spec: ClaimSpec
    cell: Cell
    measured: Measured
    settings: Settings
    family_size: int

    @property
    def interval(self) -> IntervalSettings:
        """Interval settings, widened over the family where that is asked for."""
        level = self.settings.confidence
        if self.settings.familywise:
            level = verdict.familywise(level, self.family_size)
        return IntervalSettings(level, self.settings.seed)

    def judge(self, finding: Finding) -> Judgement:
        """Judge a finding against the claim's prediction, noise floor and published value."""
        rows_hash = self.measured.hash_of(finding.conditions)
        outcome = self._estimated(finding, rows_hash)
        estimate, claim = outcome.estimate, self.spec.claim
        floor_nats = _floor(self.measured, self.cell.metric, self.interval) if (
            self.cell.metric.startswith("nll")) else None
        floor = analysis.floor_on_scale(estimate, floor_nats) if floor_nats is not None else 0.0
        published, there = self.spec.published_for(self.cell)
        made = Judgement(
            claim=claim, cell=self.cell, estimate=estimate,
            verdict=verdict.judge(estimate, claim.prediction, floor), floor=floor,
            floor_nats=floor_nats,
            required_n=verdict.required_n(estimate, claim.prediction, floor=floor),
            published=published,
            consistent=verdict.consistent(estimate, published) if there else None,
            conditions=finding.conditions, seed=self.settings.seed,
            store=self.settings.store.name, rows_hash=rows_hash,
            model_revision=self.measured.revision, ledger="", outcome="",
            details=outcome.details, plot=outcome.plot)
        known = ledger.read().get(ledger.key_of(made))
        return dataclasses.replace(made, ledger=known.said() if known else "")

    def _estimated(self, finding: Finding, rows_hash: str) -> Outcome:
        """Compute the finding, or recall it: estimates are kept by the hash of their rows."""
        parameters = {"kind": finding.kind, "conditions": list(finding.conditions),
                      "metric": self.cell.metric, "interval": dataclasses.asdict(self.interval)}
        key = analysis.estimate_key(rows_hash, _code(), parameters)

        def compute() -> Mapping[str, Any]:
            found = finding.compute(self.interval)
            return {"estimate": found.estimate.to_dict(), "details": dict(found.details),
                    "plot": dict(found.plot)}

        kept = analysis.cached_json(cache_dir() / "estimates", key, compute)
        return Outcome(Estimate.from_dict(kept["estimate"]), analysis.from_plain(kept["details"]),
                       analysis.from_plain(kept["plot"]))


@functools.lru_cache(maxsize=64)
def _floor(measured: Measured, metric: str, interval: IntervalSettings) -> float | None:
    """Return a cell's noise floor in nats per token, None where no control was stored."""
    try:
        bare = measured.of("bare", metric)
        controls = [measured.of(name, metric) for name in CONTROLS]
    except MissingResource:
        return None
    return analysis.noise_floor(*(bare.values - c.values for c in controls), clusters=bare.clusters,
                                interval=interval)


@functools.cache
def _code() -> str:
    """Return the hash of the modules that turn rows into estimates, `kvcore.analysis` apart."""
    modules = [path for path in sorted(Path(__file__).parent.rglob("*.py"))
               if not path.name.startswith(("test_", "__"))]
    return code_hash([*modules, Path(overlap.__file__)])


def conclude(judgement: Judgement, settings: Settings) -> None:
    """Tell pytest: supported passes, refuted fails, inconclusive skips; the ledger is heeded.

    Raises
    ------
    pytest's outcomes
        ``xfail`` for a refutation the ledger knows; ``fail`` for a supported cell that stands in
        it.
    """
    __tracebackhide__ = True
    said = judgement.sentence()
    if judgement.verdict == "supported":
        if judgement.ledger:
            pytest.fail(f"{said}. The ledger has it as {judgement.ledger}: remove the entry from "
                        "claims/known.toml, or run with --kv-record.", pytrace=False)
    elif judgement.verdict == "refuted":
        if judgement.ledger or settings.record:
            pytest.xfail(said)
        pytest.fail(said, pytrace=False)
    elif settings.strict:
        pytest.fail(said, pytrace=False)
    else:
        pytest.skip(said)
