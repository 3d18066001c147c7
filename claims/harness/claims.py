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
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pytest

from claims.harness.estimands.base import Finding
from claims.harness.published import Entry, published_details, published_value
from kvcore.errors import KvError
from kvcore.measurements.base import MeasurementKind, Place
from kvcore.measurements.registry import kind_of
from kvcore.verdict import Cell, Claim, Prediction, Published

BOTH = ("nll", "nll_tail")
MISTRAL: Place = ("mistral-7b", "ms_marco")
GEMMA_4B: Place = ("gemma3-4b", "ms_marco")
GEMMA_PASSAGES: Place = ("gemma3-4b", "ms_marco_passages")  # all passages of 300 queries
LONG_PAGES: Place = ("mistral-7b", "natural_questions")
MANUALS: Place = ("smollm2-135m", "service_manuals")  # the default model on a second corpus
GEMMA_MANUALS: Place = ("gemma3-270m", "service_manuals")
QWEN_MANUALS: Place = ("qwen2.5-coder-0.5b", "service_manuals")
MANUALS_OF_ALL = (MANUALS, GEMMA_MANUALS, QWEN_MANUALS)
Applies = Callable[[Any], str]


def everywhere(_measured: Any) -> str:
    """Say that a claim has a meaning in every cell."""
    return ""


@dataclass(frozen=True)
class Instead:
    """What a claim predicts at one place, and says there, in place of what it does elsewhere."""

    predicts: Prediction
    statement: str


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
    # Ids of `claims/published.toml`; the first is shown in every cell, each is compared in its own.
    # Claims of another project pass the values themselves, by place or as of the kind's own place.
    published: str | tuple[str, ...] | Published | Mapping[Place, Published] = ()
    beside: tuple[str, ...] = ()  # ids of further published values, among the claim's details
    also_at: tuple[Place, ...] = ()  # judged by default beside the places of published values
    # Judged by default where stored rows alone are judged, and measured only where it is asked for.
    also_stored_at: tuple[Place, ...] = ()
    instead: Mapping[Place, Instead] = field(default_factory=dict)  # where it predicts otherwise
    primary: str = ""  # the metric that counts; by default the published one, else the first
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
    shown_only: frozenset[Place]  # whose published value is of something else than the claim is

    @property
    def places(self) -> tuple[Place, ...]:
        """Where it is judged beside the default models: published, asked for, or the kind's."""
        own = dict.fromkeys((*self.published, *self.declared.also_at))
        return tuple(own) or self.kind.published

    @property
    def primary(self) -> str:
        """The metric whose verdict counts as the claim's."""
        published = (value.metric for value in self.published.values())
        known = (metric for metric in published if metric in self.declared.metrics)
        return self.declared.primary or next(known, self.declared.metrics[0])

    def at(self, place: Place) -> ClaimSpec:
        """Return the claim as it predicts and speaks at a place."""
        other = self.declared.instead.get(place)
        if other is None:
            return self
        claim = replace(self.claim, prediction=other.predicts, statement=other.statement)
        return replace(self, claim=claim)

    def published_for(self, cell: Cell) -> tuple[Published | None, bool]:
        """Return the value to show in a cell, and whether ours is to be compared with it there."""
        place = (cell.model, cell.dataset)
        own = self.published.get(place)
        shown = own or next(iter(self.published.values()), None)
        fits = shown is not None and shown.metric == cell.metric
        return (shown if fits else None), own is not None and place not in self.shown_only


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

    Raises KvError for an unknown kind of measurement, no statement, an id that is no slug; for
    an unknown published value, or one in another unit than the prediction at its place.
    """
    kind = kind_of(declared.kind)
    statement = declared.statement or (inspect.getdoc(test) or "")
    if not statement:
        raise KvError("no statement: write it as the test's docstring, which readers see.")
    if declared.parameters and not declared.statement:
        statement = statement.format(**declared.parameters)
    published, shown_only = _published(declared.published, kind)
    published_details(declared.beside)
    claim = Claim(
        declared.claim_id,
        declared.version,
        statement,
        declared.source,
        declared.family,
        declared.predicts,
        declared.min_n,
    )
    spec = ClaimSpec(declared, claim, kind, published, shown_only)
    _check_places(spec)
    return spec


def _published(
    declared: str | tuple[str, ...] | Published | Mapping[Place, Published], kind: MeasurementKind
) -> tuple[Mapping[Place, Published], frozenset[Place]]:
    """Return the published values by place, and the places where one is shown only."""
    if isinstance(declared, Published):
        return {kind.published[0]: declared}, frozenset()
    if isinstance(declared, Mapping):
        return declared, frozenset()
    entries: dict[Place, Entry] = {}
    for name in (declared,) if isinstance(declared, str) else declared:
        entry = published_value(name)
        if entry.place in entries:
            raise KvError(
                f"published values {entries[entry.place].id!r} and {name!r} are both of "
                f"{entry.model} on {entry.dataset}: refer to one a place."
            )
        entries[entry.place] = entry
    shown_only = frozenset(place for place, entry in entries.items() if entry.shown_only)
    return {place: entry.published for place, entry in entries.items()}, shown_only


def _check_places(spec: ClaimSpec) -> None:
    """Raise KvError for a published value in another unit, an unknown place or metric."""
    declared = spec.declared
    for place, value in spec.published.items():
        unit = spec.at(place).claim.prediction.unit
        if value.unit != unit:
            raise KvError(
                f"the value published for {' on '.join(place)} is in {value.unit!r}, the "
                f"prediction there in {unit!r}: predict and judge in {value.unit!r}."
            )
    for place in declared.instead:
        if place not in spec.places:
            raise KvError(
                f"instead is for {' on '.join(place)}, where the claim is not judged: refer to a "
                "value published for it, or add it to also_at."
            )
    if declared.primary and declared.primary not in declared.metrics:
        raise KvError(
            f"primary must be one of {', '.join(declared.metrics)}; got {declared.primary!r}."
        )


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
