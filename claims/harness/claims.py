"""How a claim is declared: a topic with its defaults, and one test a claim.

``topic = claims_about("priming", source=...)`` names what the claims of a file share;
``@topic.claim(id, predicts=...)`` declares a test to be a claim, whose docstring is the statement
that readers see. The test says which finding is judged and nothing else::

    def test_a_random_prefix_helps(judge):
        judge(paired_benefit("bare", "random"))

It is called once for each cell when tests are collected, to learn its finding and so the rows that
must be measured; nothing is computed there. Nothing is checked here either: a declaration that
does not hold together is reported when its test is collected, and spares the other claims.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest

from claims.harness.estimands.base import Finding
from kvcore.errors import KvError
from kvcore.measurements.base import MeasurementKind, Place
from kvcore.measurements.registry import kind_of
from kvcore.verdict import Cell, Claim, Prediction, Published

BOTH = ("nll", "nll_tail")
MISTRAL: Place = ("mistral-7b", "ms_marco")
GEMMA_4B: Place = ("gemma3-4b", "ms_marco")
Applies = Callable[[Any], str]


def everywhere(_measured: Any) -> str:
    """Say that a claim has a meaning in every cell."""
    return ""


@dataclass(frozen=True)
class Declaration:
    """A claim as its author wrote it."""

    claim_id: str  # the slug under which the ledger knows it
    predicts: Prediction  # written down before measuring
    family: str  # what it is counted with
    source: str  # where it comes from
    version: int = 1  # of its meaning
    kind: str = "answer_nll"  # of measurement, a name of `kvcore.measurements.registry`
    metrics: tuple[str, ...] = BOTH  # what of a row is judged, each in a cell of its own
    min_n: int = 100  # fewest samples whose refutation may enter the ledger
    slow: bool = False  # left out of the default selection
    # The published values by (model, dataset): the first is shown in every cell, each is compared
    # in its own. A single one was measured at `published_on`, by default where the kind's were.
    published: Published | Mapping[Place, Published] = field(default_factory=dict)
    published_on: Place | None = None
    # Takes what was measured in a cell; returns why the claim has no meaning there, or "".
    applies: Applies = everywhere
    statement: str = ""  # in place of the test's docstring
    parameters: Mapping[str, Any] = field(default_factory=dict)  # arguments of the test


@dataclass(frozen=True)
class Topic:
    """What the claims of one file share; a claim may set any of it anew."""

    defaults: Mapping[str, Any]

    def claim(self, claim_id: str, **fields: Any) -> pytest.MarkDecorator:
        """Declare a test to be a claim, by ``predicts`` and other fields of `Declaration`."""
        return pytest.mark.claim(Declaration(claim_id, **{**self.defaults, **fields}))

    def claim_for_each(
        self, parameter: str, cases: Mapping[Any, Mapping[str, Any]], **fields: Any
    ) -> pytest.MarkDecorator:
        """Declare a test to be several claims, one for each value of a parameter that it takes.

        ``{parameter}`` in the docstring stands for its value. The cases hold, by that value, the
        ``claim_id`` and fields of this claim alone; the rest of the fields is shared.
        """
        shared = {**self.defaults, **fields}
        return pytest.mark.claim(
            *(
                Declaration(**{**shared, **case}, parameters={parameter: value})
                for value, case in cases.items()
            )
        )


def claims_about(family: str, *, source: str, **defaults: Any) -> Topic:
    """Begin the claims of a file; ``defaults`` are fields of `Declaration` that most share.

    ``family`` is a slug: the verdicts of a family are corrected together (``--kv-familywise``).
    """
    return Topic({"family": family, "source": source, **defaults})


@dataclass(frozen=True)
class ClaimSpec:
    """A claim that holds together, with everything its cells need."""

    declared: Declaration
    claim: Claim
    kind: MeasurementKind
    published: Mapping[Place, Published]

    def published_for(self, cell: Cell) -> tuple[Published | None, bool]:
        """Return the value to show in a cell, and whether it was published for that very cell."""
        own = self.published.get((cell.model, cell.dataset))
        shown = own or next(iter(self.published.values()), None)
        fits = shown is not None and shown.metric == cell.metric
        return (shown if fits else None), own is not None


class CellKey(NamedTuple):
    """What a cell is measured by: all its metrics rest on the same rows."""

    kind: str
    model: str
    dataset: str

    def __str__(self) -> str:
        return f"{self.model} on {self.dataset}"


@dataclass(frozen=True)
class CellClaim:
    """One claim in one cell: what a test of the run is about."""

    spec: ClaimSpec
    cell: Cell
    finding: Finding

    @property
    def key(self) -> CellKey:
        """What its rows are measured by."""
        return CellKey(self.spec.kind.name, self.cell.model, self.cell.dataset)


def specified(declared: Declaration, test: Callable[..., Any]) -> ClaimSpec:
    """Return what a declared test claims.

    Raises KvError for an unknown kind of measurement, no statement, an id that is no slug.
    """
    kind = kind_of(declared.kind)
    statement = declared.statement or (inspect.getdoc(test) or "")
    if not statement:
        raise KvError("no statement: write it as the test's docstring, which readers see.")
    if declared.parameters and not declared.statement:
        statement = statement.format(**declared.parameters)
    published = declared.published
    if isinstance(published, Published):
        published = {declared.published_on or kind.published[0]: published}
    claim = Claim(
        declared.claim_id,
        declared.version,
        statement,
        declared.source,
        declared.family,
        declared.predicts,
        declared.min_n,
    )
    return ClaimSpec(declared, claim, kind, published)


def finding_of(test: Callable[..., Any], spec: ClaimSpec, cell: Cell) -> Finding:
    """Call a claim's test to learn its finding; nothing is computed.

    Raises KvError for a test that takes something else than ``judge``, ``cell`` and its parameters,
    that judges nothing or twice, or whose finding and prediction have different units; and
    whatever the test itself raises.
    """
    judged: list[Any] = []
    available = {"judge": judged.append, "cell": cell, **spec.declared.parameters}
    names = list(inspect.signature(test).parameters)
    if "judge" not in names or not available.keys() >= set(names):
        raise KvError(
            f"its test takes ({', '.join(names)}); a claim's test takes judge and, where needed, "
            f"{' and '.join(name for name in available if name != 'judge')}."
        )
    test(**{name: available[name] for name in names})
    if len(judged) != 1 or not isinstance(judged[0], Finding):
        raise KvError("its test must call judge(...) once, with what an estimand returns.")
    finding: Finding = judged[0]
    unit = spec.claim.prediction.unit
    if finding.unit != unit:
        raise KvError(
            f"{finding.name} is in {finding.unit!r}, the prediction in {unit!r}: pass "
            f"unit={finding.unit!r} to the prediction."
        )
    for need in finding.needs:
        spec.kind.check_need(need)
    return finding
