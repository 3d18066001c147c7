"""From a finding to a verdict, and from a verdict to what pytest is told."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from claims.harness.claims import ClaimSpec
from claims.harness.estimands.base import Finding, Outcome
from claims.harness.ledger import Entry, Key, key_of
from claims.harness.options import Settings
from claims.harness.rows import CellRows, Measured
from kvcore import analysis, verdict
from kvcore.analysis import Estimate, IntervalSettings
from kvcore.data import overlap
from kvcore.errors import KvError, MissingResource
from kvcore.io import cache_folder
from kvcore.measurements.needs import CONTROLS
from kvcore.store.code_hash import code_hash
from kvcore.verdict import Cell, Judgement

TestOutcome = Literal["passed", "failed", "xfailed", "skipped"]


@dataclass(frozen=True)
class CellJudge:
    """Judges the claims of one cell.

    Attributes
    ----------
    measured : Measured
        The cell's rows.
    family_size : int
        How many judgements of the run share the claim's family.
    known : mapping of key to Entry
        The ledger.
    """

    spec: ClaimSpec
    cell: Cell
    measured: Measured
    settings: Settings
    family_size: int
    known: Mapping[Key, Entry]

    @property
    def interval(self) -> IntervalSettings:
        """Interval settings, widened over the family where that is asked for."""
        level = self.settings.confidence
        if self.settings.familywise:
            level = verdict.familywise(level, self.family_size)
        return IntervalSettings(level, self.settings.seed)

    def judge(self, finding: Finding) -> Judgement:
        """Judge a finding against the claim's prediction, noise floor and published value.

        Raises
        ------
        MissingResource
            If no row was measured of something that the finding needs.
        """
        rows = CellRows(self.measured, self.cell.metric)
        needs = rows.spelled_out(finding.needs)
        rows_hash = self.measured.hash_of(needs)
        outcome = self._estimated(finding, rows, rows_hash)
        estimate, claim = outcome.estimate, self.spec.claim
        if estimate.unit != finding.unit:
            raise KvError(
                f"{finding.name}: declared in {finding.unit!r}, estimated in {estimate.unit!r}."
            )
        floor_nats = self._floor_nats()
        floor = 0.0 if floor_nats is None else analysis.floor_on_scale(estimate, floor_nats)
        published, own = self.spec.published_for(self.cell)
        judgement = Judgement(
            claim=claim,
            cell=self.cell,
            estimate=estimate,
            verdict=verdict.judge(estimate, claim.prediction, floor),
            floor=floor,
            floor_nats=floor_nats,
            required_n=verdict.required_n(estimate, claim.prediction, floor=floor),
            published=published,
            consistent=verdict.consistent(estimate, published) if own else None,
            conditions=needs,
            seed=self.settings.seed,
            store=self.settings.store.name,
            rows_hash=rows_hash,
            model_revision=self.measured.collected.revision,
            ledger="",
            outcome="",
            details=outcome.details,
            plot=outcome.plot,
        )
        entry = self.known.get(key_of(judgement))
        return dataclasses.replace(judgement, ledger=entry.described() if entry else "")

    def _floor_nats(self) -> float | None:
        nll = self.cell.metric.startswith("nll")
        return noise_floor(self.measured, self.cell.metric, self.interval) if nll else None

    def _estimated(self, finding: Finding, rows: CellRows, rows_hash: str) -> Outcome:
        """Compute the finding, or recall it: estimates are stored by the hash of their rows."""
        parameters = {
            "finding": str(finding),
            "functions": code_hash(finding.files()),
            "metric": self.cell.metric,
            "interval": dataclasses.asdict(self.interval),
        }
        key = analysis.estimate_key(rows_hash, harness_hash(), parameters)

        def compute() -> Mapping[str, Any]:
            outcome = finding.compute(rows, self.interval)
            return {
                "estimate": outcome.estimate.to_dict(),
                "details": dict(outcome.details),
                "plot": dict(outcome.plot),
            }

        stored = analysis.cached_json(cache_folder() / "estimates", key, compute)
        return Outcome(
            Estimate.from_dict(stored["estimate"]),
            analysis.from_plain(stored["details"]),
            analysis.from_plain(stored["plot"]),
        )


@functools.lru_cache(maxsize=64)
def noise_floor(measured: Measured, metric: str, interval: IntervalSettings) -> float | None:
    """Return a cell's noise floor in nats per token, None where no control was stored."""
    try:
        bare = measured.of("bare", metric)
        controls = [measured.of(name, metric) for name in CONTROLS]
    except MissingResource:
        return None
    return analysis.noise_floor(
        *(bare.values - control.values for control in controls),
        clusters=bare.clusters,
        interval=interval,
    )


@functools.cache
def harness_hash() -> str:
    """Return the hash of what turns rows into estimates, `kvcore.analysis` apart."""
    return code_hash([*sorted(Path(__file__).parent.rglob("*.py")), Path(overlap.__file__)])


def conclusion(judgement: Judgement, settings: Settings) -> tuple[TestOutcome, str]:
    """Return what a verdict means for the test, and what is said of it.

    Supported passes, refuted fails, inconclusive skips; a refutation that the ledger knows is
    expected, and a supported cell that stands in it fails.
    """
    sentence = judgement.sentence()
    if judgement.verdict == "supported":
        if not judgement.ledger:
            return "passed", sentence
        return "failed", (
            f"{sentence}. The ledger has it as {judgement.ledger}: remove the entry from "
            "claims/known.toml, or run with --kv-record."
        )
    if judgement.verdict == "refuted":
        return ("xfailed" if judgement.ledger or settings.record else "failed"), sentence
    return ("failed" if settings.strict else "skipped"), sentence
