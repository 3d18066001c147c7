"""From a finding to a verdict, and from a verdict to what pytest is told."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from claims.harness.claims import CellClaim
from claims.harness.estimands.base import Outcome
from claims.harness.ledger import key_of
from claims.harness.looking import Judge
from claims.harness.options import Settings
from claims.harness.published import published_details
from claims.harness.rows import CellRows, Measured
from claims.harness.session import Session
from kvcore import analysis, verdict
from kvcore.analysis import IntervalSettings
from kvcore.data import overlap
from kvcore.errors import KvError, MissingResource
from kvcore.io import cache_folder
from kvcore.measurements.needs import CONTROLS
from kvcore.store.code_hash import code_hash
from kvcore.store.remote import short_name
from kvcore.verdict import Judgement, Look

TestOutcome = Literal["passed", "failed", "xfailed", "skipped"]


class Conclusion(NamedTuple):
    """What a test of a claim is to tell pytest."""

    outcome: TestOutcome
    sentence: str
    note: str = ""  # what is said beside a test that passes


@dataclass(frozen=True)
class CellJudge:
    """Judges one claim in its cell, by the rows of that cell and the run's settings."""

    test: CellClaim
    measured: Measured
    session: Session
    look: Look | None = None
    final: bool = True  # whether it is told: with the other method's interval, p over all looks

    @property
    def interval(self) -> IntervalSettings:
        """Interval settings: the repeated interval of the look."""
        settings, level = self.session.settings, self.session.level(self.test)
        if self.look:
            fractions = self.look.fractions
            level = verdict.repeated_level(level, fractions, len(fractions))
        return IntervalSettings(level, settings.seed, method=settings.interval, beside=self.final)

    def judge(self) -> Judgement:
        """Judge the finding against the claim's prediction, noise floor and published value.

        Raises MissingResource if no row was measured of something that the finding needs.
        """
        spec, cell, finding = self.test.spec, self.test.cell, self.test.finding
        settings = self.session.settings
        rows = CellRows(self.measured, cell.metric)
        needs = rows.spelled_out(finding.needs)
        rows_hash = self.measured.hash_of(needs)
        outcome = self._estimated(rows, rows_hash)
        estimate, claim = outcome.estimate, spec.claim
        if estimate.unit != finding.unit:
            raise KvError(
                f"{finding.name}: declared in {finding.unit!r}, estimated in {estimate.unit!r}."
            )
        floor_nats = self._floor_nats()
        floor = 0.0 if floor_nats is None else analysis.floor_on_scale(estimate, floor_nats)
        published, own = spec.published_for(cell)
        reading = verdict.judge(estimate, claim.prediction, floor)
        beside = verdict.judge_beside(estimate, claim.prediction, floor)
        level = self.session.level(self.test)
        plan = verdict.plan(estimate, claim.prediction, floor=floor, confidence=level)
        plan = plan.scaled(self._limit_per_sample(estimate.n))
        judgement = Judgement(
            claim=claim,
            cell=cell,
            estimate=estimate,
            verdict=reading.verdict,
            reading=reading.outcome,
            why_open=reading.why_open,
            benefit=finding.benefit,
            p=self._p_over_looks(verdict.p_value(estimate, claim.prediction, reading.verdict)),
            verdict_beside=beside.verdict if beside else None,
            floor=floor,
            floor_nats=floor_nats,
            required_n=plan.n if reading.verdict == "inconclusive" else None,
            planning=plan.words if reading.verdict == "inconclusive" else "",
            published=published,
            consistent=verdict.consistent(estimate, published) if own else None,
            conditions=needs,
            seed=settings.seed,
            store=short_name(settings.store),
            rows_hash=rows_hash,
            model_revision=self.measured.collected.revision,
            ledger="",
            outcome="",
            details={
                **outcome.details,
                **published_details(spec.declared.beside),
                **self._look_details(),
            },
            plot=outcome.plot,
            look=self.look,
            primary=cell.metric == spec.primary,
        )
        entry = self.session.known.get(key_of(judgement))
        return dataclasses.replace(judgement, ledger=entry.described() if entry else "")

    def _p_over_looks(self, p: float) -> float:
        """Return a two-sided p value of this look's samples as one over all looks."""
        if self.look is None or not self.final:
            return p
        fractions = self.look.fractions
        return min(1.0, 2 * verdict.repeated_p(p / 2, fractions, len(fractions)))

    def _look_details(self) -> dict[str, str]:
        words = self.look.words if self.look else ""
        return {"look": words} if words else {}

    def _limit_per_sample(self, used: int) -> float:
        """Return how much of ``--kv-limit`` a sample of the estimate takes: it may use a part."""
        counted = self.measured.facts.get(self.test.spec.kind.counted)
        return counted / used if counted and used else 1.0

    def _floor_nats(self) -> float | None:
        metric = self.test.cell.metric
        nll, interval = metric.startswith("nll"), replace(self.interval, beside=False)
        interval = replace(interval, confidence=self.session.level(self.test))
        return noise_floor(self.measured, metric, interval) if nll else None

    def _estimated(self, rows: CellRows, rows_hash: str) -> Outcome:
        """Compute the finding, or recall it: estimates are stored by the hash of their rows."""
        finding = self.test.finding
        parameters = {
            "finding": str(finding),
            "functions": functions_hash(finding.files()),
            "metric": rows.metric,
            "interval": dataclasses.asdict(self.interval),
        }
        key = analysis.estimate_key(rows_hash, harness_hash(), parameters)

        def compute() -> dict[str, Any]:
            return finding.compute(rows, self.interval).to_dict()

        return Outcome.from_dict(analysis.cached_json(cache_folder() / "estimates", key, compute))


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


def functions_hash(files: Sequence[Path]) -> str:
    """Return the hash of what a finding's files do, computed once for each state of them."""
    try:
        states = tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files)
    except OSError:
        return code_hash(files)
    return _hash_of(states)


@functools.lru_cache(maxsize=1024)
def _hash_of(files: tuple[tuple[Path, int, int], ...]) -> str:
    return code_hash([file for file, *_ in files])


@functools.cache
def harness_hash() -> str:
    """Return the hash of what turns rows into estimates, `kvcore.analysis` apart."""
    return code_hash([*sorted(Path(__file__).parent.rglob("*.py")), Path(overlap.__file__)])


def judge_of(session: Session) -> Judge:
    """Return how the looks at a session's claims are judged: without the interval beside."""
    settings = session.settings

    def judgement(test: CellClaim, measured: Measured, look: Look) -> Judgement:
        return CellJudge(test, measured, session, look, final=False).judge()

    interval = IntervalSettings(settings.confidence, settings.seed, method=settings.interval)
    return Judge(judgement, session.level, interval)


def conclusion(judgement: Judgement, settings: Settings) -> Conclusion:
    """Return what a verdict means for the test, and what is said of it.

    Supported passes, refuted fails, inconclusive skips; a refutation that the ledger knows, or is
    about to record, is expected. A supported cell that stands in the ledger fails, but with fewer
    samples than the claim's minimum, by which the ledger does not change.
    """
    sentence, known = judgement.sentence(), judgement.ledger
    n, least = judgement.estimate.n, judgement.claim.min_n
    if judgement.verdict == "refuted":
        expected = known or (settings.record and n >= least)
        return Conclusion("xfailed" if expected else "failed", sentence)
    if judgement.verdict == "inconclusive":
        return Conclusion("failed" if settings.strict else "skipped", sentence)
    if not known:
        return Conclusion("passed", sentence)
    if n < least:
        note = (
            f"{sentence}. The ledger has it as {known}: n = {n} is below the claim's minimum of "
            f"{least}, so the entry stays."
        )
        return Conclusion("passed", sentence, note)
    return Conclusion(
        "failed",
        f"{sentence}. The ledger has it as {known}: remove the entry from "
        "claims/known.toml, or run with --kv-record.",
    )
