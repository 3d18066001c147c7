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
from typing import Any

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
    """A claim as its author wrote it.

    Attributes
    ----------
    id, version
        The slug under which the ledger knows it, and the version of its meaning.
    predicts : Prediction
        Written down before measuring.
    family, source : str
        What it is counted with, and where it comes from.
    kind : str
        Of measurement, a name of `kvcore.measurements.registry`.
    metrics : tuple of str
        What of a row is judged, each in a cell of its own.
    min_n : int
        Fewest samples whose refutation may enter the ledger.
    slow : bool
        Left out of the default selection.
    published : Published or mapping of (model, dataset) to Published
        The published values; the first is shown in every cell, each is compared in its own.
    published_on : (model, dataset), optional
        Where a single published value was measured; by default, where the kind's were.
    applies : callable
        Takes what was measured in a cell; returns why the claim has no meaning there, or "".
    statement : str
        In place of the test's docstring.
    parameters : mapping
        Arguments that the test takes for this claim.
    """

    id: str
    predicts: Prediction
    family: str
    source: str
    version: int = 1
    kind: str = "answer_nll"
    metrics: tuple[str, ...] = BOTH
    min_n: int = 100
    slow: bool = False
    published: Published | Mapping[Place, Published] = field(default_factory=dict)
    published_on: Place | None = None
    applies: Applies = everywhere
    statement: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Topic:
    """What the claims of one file share; a claim may set any of it anew."""

    defaults: Mapping[str, Any]

    def claim(self, claim_id: str, **fields: Any) -> pytest.MarkDecorator:
        """Declare a test to be a claim.

        Parameters
        ----------
        claim_id : str
            The slug under which the ledger knows it.
        **fields
            ``predicts`` and whatever else of `Declaration` is not the topic's.
        """
        return pytest.mark.claim(self._declaration(claim_id, fields))

    def claim_for_each(
        self, parameter: str, cases: Mapping[Any, Mapping[str, Any]], **fields: Any
    ) -> pytest.MarkDecorator:
        """Declare a test to be several claims, one for each value of a parameter that it takes.

        Parameters
        ----------
        parameter : str
            The argument's name; ``{parameter}`` in the docstring stands for its value.
        cases : mapping
            By the argument's value: ``claim_id``, and fields of this claim alone.
        **fields
            What all of them share.
        """
        return pytest.mark.claim(
            *(
                self._declaration(case["claim_id"], fields | _without_id(case), {parameter: value})
                for value, case in cases.items()
            )
        )

    def _declaration(
        self, claim_id: str, fields: Mapping[str, Any], parameters: Mapping[str, Any] | None = None
    ) -> Declaration:
        return Declaration(id=claim_id, parameters=parameters or {}, **{**self.defaults, **fields})


def claims_about(family: str, *, source: str, **defaults: Any) -> Topic:
    """Begin the claims of a file.

    Parameters
    ----------
    family : str
        A slug; the verdicts of a family are corrected together with ``--kv-familywise``.
    source : str
        Where the claims come from.
    **defaults
        Any other field of `Declaration` that most of the claims share.
    """
    return Topic({"family": family, "source": source, **defaults})


def _without_id(case: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in case.items() if name != "claim_id"}


@dataclass(frozen=True)
class ClaimSpec:
    """A claim that holds together, with everything its cells need."""

    claim: Claim
    kind: MeasurementKind
    metrics: tuple[str, ...]
    published: Mapping[Place, Published]
    applies: Applies
    slow: bool
    parameters: Mapping[str, Any]

    def published_for(self, cell: Cell) -> tuple[Published | None, bool]:
        """Return the value to show in a cell, and whether it was published for that very cell."""
        own = self.published.get((cell.model, cell.dataset))
        shown = own or next(iter(self.published.values()), None)
        fits = shown is not None and shown.metric == cell.metric
        return (shown if fits else None), own is not None


@dataclass(frozen=True)
class CellClaim:
    """One claim in one cell: what a test of the run is about."""

    spec: ClaimSpec
    cell: Cell
    finding: Finding


def specified(declared: Declaration, test: Callable[..., Any]) -> ClaimSpec:
    """Return what a declared test claims.

    Raises
    ------
    KvError
        An unknown kind of measurement, no statement, an id that is no slug.
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
        declared.id,
        declared.version,
        statement,
        declared.source,
        declared.family,
        declared.predicts,
        declared.min_n,
    )
    return ClaimSpec(
        claim,
        kind,
        tuple(declared.metrics),
        published,
        declared.applies,
        declared.slow,
        declared.parameters,
    )


def finding_of(test: Callable[..., Any], spec: ClaimSpec, cell: Cell) -> Finding:
    """Call a claim's test to learn its finding; nothing is computed.

    Raises
    ------
    KvError
        A test that takes something else than ``judge``, ``cell`` and its parameters, that judges
        nothing or twice, or whose finding and prediction have different units.
    Exception
        Whatever the test itself raises.
    """
    judged: list[Finding] = []
    available = {"judge": judged.append, "cell": cell, **spec.parameters}
    names = list(inspect.signature(test).parameters)
    if "judge" not in names or not available.keys() >= set(names):
        raise KvError(
            f"its test takes ({', '.join(names)}); a claim's test takes judge and, where needed, "
            f"{' and '.join(name for name in available if name != 'judge')}."
        )
    test(**{name: available[name] for name in names})
    if len(judged) != 1 or not isinstance(judged[0], Finding):
        raise KvError("its test must call judge(...) once, with what an estimand returns.")
    unit = spec.claim.prediction.unit
    if judged[0].unit != unit:
        raise KvError(
            f"{judged[0].name} is in {judged[0].unit!r}, the prediction in {unit!r}: pass "
            f"unit={judged[0].unit!r} to the prediction."
        )
    for need in judged[0].needs:
        spec.kind.check_need(need)
    return judged[0]
