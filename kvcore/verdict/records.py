"""What is judged and how it came out: claims, cells and judgements, and their names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from kvcore.analysis.estimate import Estimate, Record
from kvcore.errors import KvError
from kvcore.verdict.looks import Look
from kvcore.verdict.prediction import Prediction
from kvcore.verdict.published import Published
from kvcore.verdict.reading import Outcome, Verdict, outcome_words

_SLUG = re.compile(r"[a-z0-9.-]+")


def check_slug(what: str, text: str) -> str:
    """Return a name that can stand in a test id; raise KvError for anything else."""
    if not _SLUG.fullmatch(text):
        raise KvError(f"{what} must be a slug (a-z, 0-9, '.', '-'); got {text!r}.")
    return text


def slugify(text: str) -> str:
    """Spell a name (a hub id, ``ms_marco``, ``nll_tail``) with a-z, 0-9, '.' and '-' only."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-") or "-"


@dataclass(frozen=True)
class Claim(Record):
    """A statement with a prediction; its version rises when its meaning changes.

    ``id`` and ``family`` are slugs; ``statement`` is in plain words; ``min_n`` is the fewest
    samples whose refutation may enter the ledger.
    """

    id: str
    version: int
    statement: str
    source: str
    family: str
    prediction: Prediction
    min_n: int

    def __post_init__(self) -> None:
        check_slug("claim id", self.id)
        check_slug("claim family", self.family)


@dataclass(frozen=True)
class Cell:
    """Where a claim is judged: model, dataset, metric (``nll`` or ``nll_tail``) and dtype."""

    model: str
    dataset: str
    metric: str
    dtype: str

    @property
    def slug(self) -> str:
        """Test id of the cell, e.g. ``smollm2-135m-docstrings-nll-tail``; leaves the dtype out."""
        return "-".join(slugify(part) for part in (self.model, self.dataset, self.metric))

    def __str__(self) -> str:
        return f"{self.model} × {self.dataset} ({self.metric})"


@dataclass(frozen=True)
class Judgement(Record):
    """One claim judged in one cell: all that a report needs."""

    # What was judged, where, on what, and how it came out.
    claim: Claim
    cell: Cell
    estimate: Estimate
    verdict: Verdict
    reading: Outcome  # what the interval says, of which the verdict follows
    why_open: str  # what keeps the interval from being read, "" where nothing does
    benefit: bool  # whether the number is what a condition gains, so that it helps or hurts
    p: float  # two-sided p value of the verdict
    verdict_beside: Verdict | None  # by the other method's interval
    # Noise floor in the estimate's unit and in nats per token.
    floor: float
    floor_nats: float | None
    required_n: int | None  # --kv-limit that would settle it; None where no n is known to
    planning: str  # the same in words, with the effect that it is planned for
    # Published value, and whether ours agrees with it; None where that has no answer.
    published: Published | None
    consistent: bool | None
    conditions: tuple[str, ...]  # conditions compared, as they are spelled
    # Where the numbers come from.
    seed: int
    store: str
    rows_hash: str
    model_revision: str
    # ``""`` or what the ledger knows, e.g. ``"known refuted (published)"``.
    ledger: str
    outcome: str  # passed, failed, skipped or xfailed
    # Secondary numbers. The strings that `to_plain` reserves come back as numbers.
    details: Mapping[str, float | str]
    plot: Mapping[str, Any]  # what the claim's own figure shows; plain lists
    look: Look | None = None  # at which it is judged; None where no looks were declared
    primary: bool = True  # whether it is of the claim's primary metric, of which a q-value is given

    def __post_init__(self) -> None:
        for field, kind in (("verdict", Verdict), ("reading", Outcome)):
            value, allowed = getattr(self, field), get_args(kind)
            if value not in allowed:
                raise KvError(f"{field} must be one of {', '.join(allowed)}; got {value!r}.")

    @property
    def words(self) -> str:
        """What came out, in plain words: "helps, and by at least 0.09", "cannot tell yet"."""
        return outcome_words(self.reading, self.claim.prediction, benefit=self.benefit)

    @property
    def hangs_on_method(self) -> bool:
        """Whether jackknife and bootstrap give different verdicts."""
        return self.verdict_beside not in (None, self.verdict)

    @property
    def method_beside(self) -> str:
        """Name of the method whose interval stands beside: bootstrap or jackknife."""
        beside = self.estimate.beside
        return "bootstrap" if beside and "bootstrap" in beside.method else "jackknife"

    def sentence(self) -> str:
        """Say in one line what came out, on what, and what the claim needs."""
        e = self.estimate
        clusters = f" in {e.clusters} clusters" if e.clusters < e.n else ""
        said = (
            f"{self.verdict}: {self.claim.id} on {self.cell}: {self.words}; {_measured(e)} "
            f"({e.confidence * 100:.6g} %, n = {e.n}{clusters}); "
            f"the claim needs {self.claim.prediction.needs}"
        )
        if self.hangs_on_method:
            said += f"; by the {self.method_beside} interval it would be {self.verdict_beside}"
        if self.verdict == "inconclusive":
            said += f"; {self.why_open or self.planning}"
        if self.look and self.look.words:
            said += f"; {self.look.words}"
        return said


def _measured(estimate: Estimate) -> str:
    value, low, high = map(_short, (estimate.value, estimate.ci_low, estimate.ci_high))
    if estimate.unit == "nats/token":
        return f"benefit {value} nats/token [{low}, {high}]"
    return f"{estimate.unit} {value} [{low}, {high}]"


def _short(x: float) -> str:
    """Three decimals, or two significant figures where three decimals would show 0."""
    return f"{x:.3f}" if x == 0 or abs(x) >= 0.0005 or math.isnan(x) else f"{x:.1e}"
