"""The published values: each is there once, claims refer to them, and predict what was published.

Where claims are compared with published values there are two routes: (1) the declarations of
``claims/test_*.py`` as the harness specifies them, (2) the entries of ``claims/published.toml``.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from claims.harness import cells, claims, published, registry, session
from claims.harness.cells import limit_of
from claims.harness.claims import CellKey, ClaimSpec, Declaration, Instead, specified
from claims.harness.judging import judge_of
from claims.harness.published import Entry, published_value, published_values
from invariants.support.settings import settings
from kvcore.errors import KvError, MissingResource
from kvcore.measurements.base import MeasureRequest
from kvcore.measurements.collect import Collection
from kvcore.models import files
from kvcore.models.registry import entry_of
from kvcore.verdict import Cell, Prediction, Published, helps, hurts

# By experiment and unit: how many published comparisons there are, their sum of effects and of n.
# Means, SDs and shares of single conditions, and what was derived here, are left out.
CONTENT: dict[tuple[str, str], tuple[int, float, int]] = {
    ("01", "d"): (7, -0.094, 9212),
    ("01", "r"): (2, 0.35, 4606),
    ("01", "proportion"): (2, 2.0, 2600),
    ("06", "d"): (19, 2.202, 34846),
    ("06", "r"): (1, -0.024, 1834),
    ("07", "d"): (18, 3.854, 33066),
    ("07", "r"): (1, 0.61, 1837),
    ("08", "d"): (7, 1.058, 6510),
    ("09", "d"): (14, 1.579, 13006),
    ("10", "d"): (11, 2.427, 10219),
    ("11", "d"): (4, -0.361, 1476),
    ("12", "d"): (8, -0.227, 2392),
    ("14", "MRR difference"): (2, -0.521, 600),
    ("14", "nats/token"): (1, -0.047, 300),
    ("14", "MRR"): (1, 0.801, 300),
    ("14", "AUC"): (1, 0.429, 300),
    ("15", "MRR difference"): (1, 0.007, 300),
    ("16", "d"): (19, -1.615, 15221),
    ("19", "d"): (9, 0.201, 19566),
    ("20", "d"): (5, 0.394, 1390),
    ("22", "AUC"): (4, 3.33, 800),
    ("22", "MRR"): (4, 3.426, 800),
    ("22", "d of groups"): (4, 5.664, 800),
    ("23", "AUC"): (19, 14.517, 3800),
    ("23", "MRR"): (17, 14.556, 3400),
    ("24", "d"): (9, 0.454, 2900),
    ("artifact", "d"): (4, -0.365, 480),
    ("dynamics", "d"): (1, 1.49, 50),
    ("dynamics", "r"): (1, 0.65, 50),
    ("legacy", "d"): (9, -2.833, 0),
    ("legacy", "r"): (2, 0.336, 0),
}


def comparisons(entries: Iterable[Entry]) -> dict[tuple[str, str], tuple[int, float, int]]:
    """Return what `CONTENT` holds, of entries."""
    groups: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        if not (entry.statistic or entry.difference or entry.derived):
            groups[entry.experiment, entry.unit].append(entry)
    return {
        key: (len(group), round(sum(e.effect for e in group), 4), sum(e.n or 0 for e in group))
        for key, group in groups.items()
    }


@pytest.fixture(scope="module")
def specs() -> list[ClaimSpec]:
    """Every claim of the project."""
    return registry.all_specs()


# --- the file ----------------------------------------------------------------------------------


def check_content(entries: Mapping[str, Entry]) -> None:
    """Demand number, sum of effects and sum of n of every experiment and unit."""
    assert comparisons(entries.values()) == CONTENT


def test_every_published_value_is_there() -> None:
    """A published value that is left out, written twice, misspelt or given another n or unit."""
    check_content(published_values())


@pytest.mark.parametrize(
    "changed",
    [{"effect": 0.19}, {"n": 2302}, {"unit": "r"}, {"experiment": "06"}, None],
    ids=["effect", "n", "unit", "experiment", "left out"],
)
def test_twin_a_changed_value_is_seen(changed: dict[str, Any] | None) -> None:
    """The check above, were one value another or not there."""
    entries = dict(published_values())
    name = "exp01-mistral-random"
    entry = entries.pop(name)
    if changed is not None:
        entries[name] = dataclasses.replace(entry, **changed)
    with pytest.raises(AssertionError):
        check_content(entries)


RIGHT = """
[a-value]
experiment = "01"
model = "mistral-7b"
dataset = "ms_marco"
n = 100
clustered_by = "sample"
metric = "nll_tail"
unit = "d"
effect = 0.1
source = "a source"
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("a-value", "a_value", "the id must be a slug"),
        ('unit = "d"', 'unit = "D"', "unit must be one of d, "),
        ("effect = 0.1", "effect = nan", "effect must be a finite number; got nan"),
        ("effect = 0.1", 'effect = "0.1"', "effect must be float; got '0.1'"),
        ("effect = 0.1", "", "either an effect or the difference"),
        ("effect = 0.1", 'difference = ["a-value", "b"]', "difference must be two ids"),
        ("n = 100", "", "n is missing; only legacy values may lack it"),
        ("n = 100", "n = 0", "n must be 1 or more; got 0"),
        ("n = 100", "n = 100.5", "n must be "),
        ("n = 100", "n = 100\nwin = 59.5", "win must be in [0, 1]; got 59.5"),
        ("n = 100", "n = 100\nsize = 3", "the fields are id, experiment"),
        ('source = "a source"', "", "missing 1 required positional argument: 'source'"),
        ("n = 100", 'n = 100\nclaim = "later"', "claim must be 'none: ' and the reason"),
        ("[a-value]", "[a-value", "is not valid TOML"),
    ],
)
def test_a_wrong_entry_is_one_line(old: str, new: str, said: str, tmp_path: Path) -> None:
    """An entry that is read as it stands, or a traceback in place of what is wrong with it."""
    path = tmp_path / "published.toml"
    path.write_text(RIGHT)
    assert published_values(path)["a-value"].effect == 0.1
    path = tmp_path / "wrong.toml"
    path.write_text(RIGHT.replace(old, new, 1))
    with pytest.raises(KvError, match=r"^wrong\.toml") as error:
        published_values(path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_difference_is_computed_from_what_was_published() -> None:
    """A difference that is written down a second time and differs from its parts."""
    for entry in published_values().values():
        if entry.difference:
            first, second = (published_value(name) for name in entry.difference)
            assert entry.effect == pytest.approx(first.effect - second.effect, abs=1e-9)
            assert entry.n == first.n == second.n
            assert entry.place == first.place == second.place


# --- claims and values -------------------------------------------------------------------------


def names_of(declared: Declaration) -> tuple[str, ...]:
    """Return the ids that a claim refers to."""
    named = declared.published
    assert isinstance(named, str | tuple), f"{declared.claim_id} has a literal published value"
    return (named,) if isinstance(named, str) else named


def check_references(declarations: Iterable[Declaration], entries: Mapping[str, Entry]) -> None:
    """Demand that each value is referred to by a claim or says why it is by none, never both."""
    used = {name for declared in declarations for name in names_of(declared)}
    unclaimed = {name for name, entry in entries.items() if entry.claim}
    assert used.isdisjoint(unclaimed), "marked as without a claim, and a claim refers to it"
    assert used | unclaimed == set(entries), "without a claim, and no reason why"
    assert all(len(entries[name].claim) > len(published.NO_CLAIM) for name in unclaimed)


def test_every_published_value_has_a_claim_or_a_reason(specs: list[ClaimSpec]) -> None:
    """A published value that nothing re-verifies and nobody misses."""
    check_references((spec.declared for spec in specs), published_values())


def check_values_beside(specs: Iterable[ClaimSpec]) -> None:
    """Demand each level and quarter of experiment 01, and each AUC of the table, beside a claim."""
    shown = {name for spec in specs for name in spec.declared.beside}
    levels = {
        name
        for name, entry in published_values().items()
        if entry.experiment == "01" and ("nll-" in name or "quarter" in name)
    }
    assert len(levels) == 9 + 12
    table = {
        name
        for name, entry in published_values().items()
        if (entry.experiment, entry.unit) == ("23", "AUC") and "-per-" not in name
    }
    assert len(table) == 13 + len(("qdoc", "qdoc, interp", "relevance", "relevance, qvi"))
    assert shown == levels | table
    details = published.published_details(sorted(levels))
    assert details["published for mistral-7b on ms_marco: mean NLL, bare (nats/token)"] == 1.1455
    assert len(details) >= len(levels)


def test_levels_and_quarters_are_shown_beside_claims(specs: list[ClaimSpec]) -> None:
    """A published level or quarter that no reader sees beside ours."""
    check_values_beside(specs)


def test_twin_a_level_that_nobody_shows_is_seen(specs: list[ClaimSpec]) -> None:
    """The check above, were a claim's values beside it lost."""
    with pytest.raises(AssertionError):
        check_values_beside(spec for spec in specs if "hardness" not in spec.claim.id)
    with pytest.raises(KvError, match="is no id of published"):
        published.published_details(["exp01-none"])


def test_twin_a_value_without_claim_or_reason_is_seen(specs: list[ClaimSpec]) -> None:
    """The check above, were a reason or a reference lost, or a literal in its place."""
    declared = [spec.declared for spec in specs]
    entries = dict(published_values())
    lost = {**entries, "new": dataclasses.replace(entries["exp07-mistral-random"], claim="")}
    less = [d for d in declared if d.claim_id != "random-prefix-helps"]
    literal = [*declared, dataclasses.replace(declared[0], published=Published(0.1, 1, "nll"))]
    for broken in ((declared, lost), (less, entries), (literal, entries)):
        with pytest.raises(AssertionError):
            check_references(*broken)


def predicted(prediction: Prediction, effect: float) -> bool:
    """Whether an effect lies on the side that a prediction names."""
    delta = prediction.delta or 0.0
    return {
        "helps": effect > 0,
        "hurts": effect < 0,
        "differs": effect != 0,
        "does_not_help": effect < delta,
        "negligible": abs(effect) < delta,
        "at_least": effect >= prediction.bound,
        "at_most": effect <= prediction.bound,
    }[prediction.name]


def check_predictions(specs: Iterable[ClaimSpec]) -> None:
    """Demand of each claim that it predicts, at a published place, what was published there."""
    for spec in specs:
        for place, value in spec.published.items():
            prediction = spec.at(place).claim.prediction
            assert value.unit == prediction.unit
            assert predicted(prediction, value.value), (spec.claim.id, place, value)


def check_margins(specs: Iterable[ClaimSpec]) -> None:
    """Demand margins of at most half of the published effect where a direction is predicted."""
    for spec in specs:
        places = [(place, value.value) for place, value in spec.published.items()]
        for place, effect in places:
            _check_margin(spec.at(place), effect)
        for place in (*spec.published, ("any model", "any dataset")):
            effect = spec.at(place).claim.prediction.effect or math.inf
            default = abs(effect) == spec.at(place).claim.prediction.delta
            _check_margin(spec.at(place), math.inf if default else effect)


def _check_margin(spec: ClaimSpec, effect: float) -> None:
    prediction = spec.claim.prediction
    if prediction.name in ("helps", "hurts", "differs"):
        assert prediction.delta is not None
        assert prediction.delta <= abs(effect) / 2 + 1e-12, (spec.claim.id, prediction, effect)


def test_a_reproduction_of_what_was_published_is_no_refutation(specs: list[ClaimSpec]) -> None:
    """A claim held against a place where the opposite was published."""
    check_predictions(specs)


def test_margins_are_at_most_half_of_the_published_effect(specs: list[ClaimSpec]) -> None:
    """A margin so wide that the published effect, were it true, would be refuted by chance."""
    check_margins(specs)


def changed(specs: Iterable[ClaimSpec], claim_id: str, prediction: Prediction) -> list[ClaimSpec]:
    """Return the claims with one that predicts otherwise, everywhere the same."""
    return [
        dataclasses.replace(
            spec,
            declared=dataclasses.replace(spec.declared, instead={}),
            claim=dataclasses.replace(spec.claim, prediction=prediction),
        )
        if spec.claim.id == claim_id
        else spec
        for spec in specs
    ]


def test_twin_a_prediction_against_what_was_published_is_seen(specs: list[ClaimSpec]) -> None:
    """The checks above, were there one prediction for all places, or a margin of the effect."""
    with pytest.raises(AssertionError):
        check_predictions(changed(specs, "random-prefix-helps", helps(0.045, 0.091)))
    with pytest.raises(AssertionError):
        check_margins(changed(specs, "oracle-worse-than-random", hurts(0.051, -0.051)))
    with pytest.raises(AssertionError):
        check_margins(changed(specs, "one-rope-base-hurts", hurts(0.2, -0.31)))


def test_a_claim_speaks_and_predicts_at_each_place(specs: list[ClaimSpec]) -> None:
    """A place whose own statement or prediction does not reach what is judged there."""
    (spec,) = (s for s in specs if s.claim.id == "random-prefix-helps")
    there, elsewhere = spec.at(claims.GEMMA_PASSAGES).claim, spec.at(claims.MISTRAL).claim
    assert there.prediction == hurts(0.054, -0.109)
    assert there.statement.endswith("makes the answer harder.")
    assert elsewhere.prediction == helps(0.045, 0.091)
    assert elsewhere.statement.endswith("makes the answer easier.")
    assert (there.id, there.family) == (elsewhere.id, elsewhere.family)


def stated() -> None:
    """It is so."""


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"published": "exp01-mistral-rnd"}, "'exp01-mistral-rnd' is no id of published.toml"),
        (
            {"published": "exp01-mistral-random-r-with-bare-nll"},
            "the value published for mistral-7b on ms_marco is in 'r', the prediction there in 'd'",
        ),
        (
            {"published": ("exp01-mistral-random", "exp06-mistral-random")},
            "are both of mistral-7b on ms_marco",
        ),
        (
            {"instead": {claims.GEMMA_4B: Instead(hurts(), "It is not so.")}},
            "instead is for gemma3-4b on ms_marco, where the claim is not judged",
        ),
        ({"primary": "latency"}, "primary must be one of nll, nll_tail; got 'latency'"),
    ],
)
def test_a_claim_that_does_not_fit_its_published_values_is_refused(
    fields: dict[str, Any], said: str
) -> None:
    """A value in nats on an axis of d, an unknown id, a place that is never judged."""
    declared = Declaration("a-claim", helps(), "a-family", "a source", **fields)
    with pytest.raises(KvError) as error:
        specified(declared, stated)
    assert said in str(error.value)


def test_what_is_shown_only_is_not_compared(specs: list[ClaimSpec]) -> None:
    """Agreement stated with a published value of another estimand."""
    shown = {s.claim.id: s for s in specs}
    cell = Cell(*claims.MISTRAL, "nll_tail", "bfloat16")
    value, compared = shown["random-gains-with-hardness-oldham"].published_for(cell)
    assert value is not None
    assert (value.value, compared) == (0.193, False)
    value, compared = shown["random-prefix-helps"].published_for(cell)
    assert value is not None
    assert (value.value, compared) == (0.091, True)


# --- primary metric and families ---------------------------------------------------------------


def test_the_primary_metric_is_the_published_one_or_the_first(specs: list[ClaimSpec]) -> None:
    """A claim that counts by a metric for which nothing was published, or by none of its own."""
    primary = {spec.claim.id: spec.primary for spec in specs}
    assert primary["random-prefix-helps"] == "nll_tail"
    assert primary["repeating-the-query-does-not-help"] == "nll"
    assert primary["own-text-is-smoother"] == "step"
    assert all(spec.primary in spec.declared.metrics for spec in specs)


def check_families() -> None:
    """Demand family sizes that hang neither on what was collected nor on the machine."""
    nothing, chosen = (
        settings(models=(), datasets=()),
        settings(models=("tiny-llama",), datasets=()),
    )
    sizes = registry.family_sizes(nothing)
    own = [spec for spec in registry.all_specs() if spec.claim.family == "deployment"]
    # One claim, two metrics, three default models and Mistral.
    assert [spec.claim.id for spec in own] == ["gate-beats-priming-everything"]
    assert sizes["deployment"] == 8
    assert registry.family_sizes(settings(models=(), datasets=(), no_measure=True)) == sizes
    assert registry.family_sizes(chosen)["deployment"] == 10


def test_families_are_counted_over_all_claims() -> None:
    """A correction that hangs on -k, on a path or on which packages are installed."""
    check_families()


def test_twin_a_family_counted_by_half_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above, were only the first default model counted."""
    right = cells.cells_of
    monkeypatch.setattr(registry, "cells_of", lambda spec, chosen: right(spec, chosen)[:2])
    with pytest.raises(AssertionError):
        check_families()


# --- how many samples a cell has ---------------------------------------------------------------


def check_limits() -> None:
    """Demand the published n of cells on a GPU, 450 elsewhere, and what is asked for anywhere."""
    default, few = settings(models=(), datasets=()), settings(models=(), datasets=(), limit=40)
    assert limit_of(claims.MISTRAL, default) == 2500
    assert limit_of(("mistral-7b", "natural_questions"), default) == 369
    assert limit_of(("gemma3-4b", "squad_v2"), default) == 400
    assert limit_of(("gemma2-2b", "wikitext2"), default) == 50
    assert limit_of(("mistral-7b", "hotpotqa"), default) == 450
    assert limit_of(("gemma3-270m", "docstrings"), default) == 450
    assert limit_of(claims.MISTRAL, few) == 40
    for entry in published_values().values():
        if entry.n and entry_of(entry.model).gpu:
            ranked = entry.unit.startswith(("AUC", "MRR", "d of groups"))
            part = 6 if ranked or entry.experiment == "20" else 1  # lists and padded documents
            assert limit_of(entry.place, default) // part >= entry.n, entry.id


def test_a_cell_on_a_gpu_measures_what_was_published() -> None:
    """A published finding held against 300 samples, by which it is open two times in three."""
    check_limits()


def test_twin_one_limit_for_all_cells_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above, were the published n not looked at, or taken of every model."""
    for known in (lambda _place: None, lambda _place: 120):
        monkeypatch.setattr(cells, "limit_for", known)
        with pytest.raises(AssertionError):
            check_limits()


def test_a_run_asks_for_the_limit_of_its_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that is known and does not reach what is measured."""
    asked: list[int] = []

    def planned(_kind: object, request: MeasureRequest, *_: object, **__: object) -> None:
        asked.append(request.limit)
        raise MissingResource("nothing is measured here")

    monkeypatch.setattr(session, "check_gpu", lambda *_: None)
    monkeypatch.setattr(files, "locate", lambda *_, **__: None)
    monkeypatch.setattr(Collection, "planned", planned)
    for limit in (None, 40):
        chosen = settings(
            models=(),
            datasets=(),
            store=Path("s"),
            seed=0,
            limit=limit,
            confidence=0.95,
            interval="jackknife",
        )
        own = session.Session(chosen, {CellKey("answer_nll", *claims.MISTRAL): ("bare",)}, {}, {})
        with pytest.raises(MissingResource):
            own.measured(CellKey("answer_nll", *claims.MISTRAL), judge_of(own))
    assert asked == [2500, 40]
