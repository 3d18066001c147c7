"""Published truth in, published verdict out: the replay of the whole record.

Rows with exactly the published moments are written for every published cell that a claim refers
to, and judged as stored rows are: store, looks, verdict, report. A verdict may be open where the
published n cannot tell, and then says which n would do; it is never the opposite one.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy import stats as sps

from claims.harness import registry
from claims.harness.cells import cell_id
from claims.harness.claims import ClaimSpec, finding_of, specified
from claims.harness.published import Entry, published_values
from invariants.support.claim_runs import NO_PAGE, ClaimRun, run_here, run_inside
from invariants.support.published_replay import (
    Comparison,
    write_apart,
    write_record,
    write_store,
)
from kvcore.measurements.base import Place
from kvcore.measurements.needs import Need
from kvcore.models.registry import entry_of
from kvcore.verdict import Cell, Prediction, published_error, slugify
from kvcore.verdict.planning import settling

POWER = 0.8
PASSAGES = {"gemma3-4b": (221, 1471), "mistral-7b": (300, 2700)}  # relevant and other ones
NEAR = {"MRR difference": 1e-3, "r": 2e-3}  # what rows can meet; Oldham's follow from two digits
DIGITS = 6e-4
NOT_REPLAYED = {
    "random-gains-with-hardness": "by a hardness without the document, which was not published",
    "oracle-gains-with-hardness": "by a hardness without the document, which was not published",
    "oracle-hurts-the-easy-quarter": "by a hardness without the document, which was not published",
    "oracle-helps-the-hard-quarter": "by a hardness without the document, which was not published",
    "static-prefix-helps-the-hard-quarter": "by a hardness without the document, as above",
    "a-semantic-signal-exists": "takes the texts of the dataset",
    "the-semantic-signal-is-tiny": "takes the texts of the dataset",
    "overlap-does-not-drive-the-benefit": "takes the texts of the dataset",
    "nll-sets-relevant-passages-apart": "the shape of the scores was not published",
    "nll-of-primed-values-sets-relevant-passages-apart": "the shape, as above",
    "pmi-sets-relevant-passages-apart": "the shape, as above",
    "pmi-of-primed-values-sets-relevant-passages-apart": "the shape, as above",
    "keywords-do-as-well-as-a-question": "of each benefit the spread was not published",
}
# Published of samples that others share their place with: their rows have a store of their own.
APART = {
    "keywords-of-the-query-beat-the-query",
    "keywords-beat-random",
    "static-prefix-helps-at-the-original-length",
    "benefit-itself-ranks-worse",
    "benefit-itself-does-not-rank",
    "mean-over-conditions-does-not-improve-ranks",
}
# Published is a correlation coupled by arithmetic; Oldham's follows from the same moments.
BY_OLDHAM = {"random-gains-with-hardness-oldham": 0.094, "oracle-gains-with-hardness-oldham": 0.040}
ARTIFACT = {
    "random": "artifact-gemma270m-random",
    "one_base(random)": "artifact-gemma270m-one-base-random",
}
ENOUGH = re.compile(r"about [\d,]+ samples would settle it|lies on a margin")


Replayed = tuple[ClaimSpec, Callable[..., Any], Entry]


def replayed() -> Iterator[Replayed]:
    """Yield every claim at every place for which something was published of it."""
    for declared, test in registry.declared_claims():
        spec, named = specified(declared, test), declared.published
        names = (named,) if isinstance(named, str) else named
        if declared.claim_id not in NOT_REPLAYED and isinstance(names, tuple):
            for name in names:
                entry = published_values()[name]
                yield spec.at(entry.place), test, entry


def cell_of(entry: Entry) -> Cell:
    """Return the cell in which a value was published."""
    return Cell(*entry.place, entry.metric, entry_of(entry.model).dtype)


def comparisons(values: Mapping[str, Entry]) -> dict[tuple[Place, str], list[Comparison]]:
    """Return what the claims compare, by place and set of samples, with the published d of each."""
    by_set: dict[tuple[Place, str], list[Comparison]] = {}
    for spec, test, entry in replayed():
        finding = finding_of(test, spec, cell_of(entry))
        if spec.claim.id in APART:
            continue
        if finding.name != "paired_benefit" or entry.shown_only:
            continue
        first, *others = (Need.read(str(need)) for need in finding.sources)
        group = by_set.setdefault((entry.place, first.sample_set), [])
        for other in others:  # a second one is shown beside, and given the same moments
            own = Comparison(values[entry.id], first.condition, other.condition)
            if own not in group:
                group.append(own)
    by_set[values[ARTIFACT["random"]].place, "samples"] = [
        Comparison(values[id], "bare", condition) for condition, id in ARTIFACT.items()
    ]
    return by_set


def replay(
    folder: Path,
    patch: pytest.MonkeyPatch,
    values: Mapping[str, Entry],
    *options: str,
    only: Place | None = None,
) -> ClaimRun:
    """Write the rows that some published values describe, and judge the claims on them.

    ``only``: a place without lists to rank; by default all of them. Those `APART` are left out.
    """
    chosen = comparisons(values)
    if only is None:
        write_record(folder / "replay", chosen, values)
    else:
        own = {key: group for key, group in chosen.items() if key[0] == only}
        write_store(folder / "replay", own, values)
    together = [each for each in replayed() if each[0].claim.id not in APART]
    judged_here = [each for each in together if only in (None, each[2].place)]
    return judge_stored(folder, patch, together, judged_here, options)


def replay_apart(folder: Path, patch: pytest.MonkeyPatch) -> ClaimRun:
    """Write the rows of the values whose samples share their place, and judge their claims."""
    write_apart(folder / "replay", published_values())
    own = [each for each in replayed() if each[0].claim.id in APART]
    return judge_stored(folder, patch, own, own)


def judge_stored(
    folder: Path,
    patch: pytest.MonkeyPatch,
    imported: Sequence[Replayed],
    judged_here: Sequence[Replayed],
    options: Sequence[str] = (),
) -> ClaimRun:
    """Judge some claims on the stored rows of a folder, in the cells that were published."""
    tests = dict.fromkeys((test.__module__, test.__name__) for _, test, _ in imported)
    text = "".join(f"from {module} import {name}\n" for module, name in tests)
    cells = " or ".join(dict.fromkeys(cell_id(cell_of(entry)) for _, _, entry in judged_here))
    return run_here(folder, patch, text, "--kv-store", "replay", "-q", "-k", cells, *options)


def judged(run: ClaimRun) -> dict[tuple[str, str, str, str], dict[str, Any]]:
    """Return the judgements of a run by claim, model, dataset and metric."""
    return {
        (
            each["claim"]["id"],
            *(each["cell"][name] for name in ("model", "dataset", "metric")),
        ): each
        for each in run.results["judgements"]
    }


def power(entry: Entry, prediction: Prediction) -> float:
    """Return the chance of the published verdict at the published n, were the effect true.

    0 where the n does not tell the standard error: differences of AUC and MRR, nats.
    """
    n = entry.n or 0
    if n < 2:
        return 0.0
    counts = PASSAGES[entry.model] if entry.unit == "AUC" else (None, None)
    se = published_error(entry.unit, entry.effect, n, *counts)
    if se is None:
        return 0.0
    return settling(entry.effect, se, float(sps.norm.ppf(0.975)), prediction)


def expected(spec: ClaimSpec, entry: Entry) -> float | None:
    """Return what the claim's own estimand gives on the rows, None where nothing tells."""
    if spec.claim.id in BY_OLDHAM:
        return BY_OLDHAM[spec.claim.id]
    if entry.shown_only:
        return None
    sample = math.sqrt((entry.n - 1) / entry.n) if entry.n and "ddof 0" in entry.note else 1.0
    return entry.effect * sample


def check(spec: ClaimSpec, entry: Entry, judgement: Mapping[str, Any]) -> None:
    """Demand the published verdict where its n suffices, else that or an open one with an n."""
    where = (spec.claim.id, entry.id, judgement["verdict"], judgement["planning"])
    effect = expected(spec, entry)
    if effect is not None:
        ours = judgement["estimate"]["value"]
        assert abs(ours - effect) < NEAR.get(entry.unit, DIGITS), (*where, ours)
    assert judgement["verdict"] != "refuted", where
    if judgement["verdict"] == "supported":
        return
    published = entry if effect is None else dataclasses.replace(entry, effect=effect)
    assert power(published, spec.claim.prediction) < POWER, where
    assert ENOUGH.search(judgement["planning"]), where


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ClaimRun:
    """The replay of the record as it was published."""
    with pytest.MonkeyPatch.context() as patch:
        return replay(tmp_path_factory.mktemp("record"), patch, published_values())


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> ClaimRun:
    """The replay of what has a store of its own."""
    with pytest.MonkeyPatch.context() as patch:
        return replay_apart(tmp_path_factory.mktemp("apart"), patch)


def test_the_published_record_is_re_verified_when_it_is_true(
    run: ClaimRun, apart: ClaimRun
) -> None:
    """A claim that fails, or cannot tell and says no n, where the finding is reproduced exactly."""
    together, by_itself = judged(run), judged(apart)
    for spec, _, entry in replayed():
        judgements = by_itself if spec.claim.id in APART else together
        check(spec, entry, judgements[spec.claim.id, *entry.place, entry.metric])


def test_the_report_of_the_replay_names_what_would_do(run: ClaimRun, apart: ClaimRun) -> None:
    """A page that does not say, of a published cell that is open, which n would settle it."""
    open_ones = [
        (each, judgement)
        for each in (run, apart)
        for judgement in judged(each).values()
        if judgement["verdict"] == "inconclusive"
    ]
    assert open_ones
    for each, judgement in open_ones:
        said = judgement["why_open"] or judgement["planning"]
        assert said in each.page, judgement["claim"]["id"]


def test_what_is_not_replayed_cannot_be() -> None:
    """A published cell that is left out of the replay although its rows could be written."""
    specs = {spec.claim.id: spec for spec in registry.all_specs()}
    assert specs.keys() >= NOT_REPLAYED.keys() | APART
    words = ("texts", "shape", "spread")
    unknown = {name for name, why in NOT_REPLAYED.items() if any(word in why for word in words)}
    for name in NOT_REPLAYED.keys() - unknown:
        spec = specs[name]
        assert spec.shown_only == set(spec.published), name


SQUAD: Place = ("gemma3-4b", "squad_v2")


def altered(effect: float) -> dict[str, Entry]:
    """Return the published values with one of them altered."""
    name = "exp24-gemma-values-only-static-fact-squad"
    entry = dataclasses.replace(published_values()[name], effect=effect)
    assert entry.place == SQUAD
    return {**published_values(), name: entry}


def check_squad(run: ClaimRun, values: Mapping[str, Entry]) -> None:
    """Demand of the two claims on SQuAD what the replay demands of all."""
    judgements = judged(run)
    entries = [(spec, values[entry.id]) for spec, _, entry in replayed() if entry.place == SQUAD]
    assert len(entries) == 2
    for spec, entry in entries:
        check(spec, entry, judgements[spec.claim.id, *SQUAD, entry.metric])


def test_twin_an_altered_value_is_seen(tmp_path: Path) -> None:
    """The check above, were one published value another: of the other sign, or a little off."""
    for name, effect in (("right", None), ("reversed", 0.25)):
        values = published_values() if effect is None else altered(effect)
        (tmp_path / name).mkdir()
        with pytest.MonkeyPatch.context() as patch:
            run = replay(tmp_path / name, patch, values, *NO_PAGE, only=SQUAD)
        if effect is None:
            check_squad(run, values)
            with pytest.raises(AssertionError):
                check_squad(run, altered(-0.083))
        else:
            with pytest.raises(AssertionError, match="refuted"):
                check_squad(run, values)


# --- what is collected -------------------------------------------------------------------------


def check_collected(printed: str) -> None:
    """Demand a test of every model and dataset for which something was published."""
    places = {entry.place for entry in published_values().values() if entry_of(entry.model).gpu}
    assert len(places) >= 9
    for model, dataset in places:
        assert f"[{slugify(model)}-{slugify(dataset)}-" in printed or (
            f"-{slugify(model)}-{slugify(dataset)}-" in printed
        ), (model, dataset)


def test_every_published_place_is_collected_without_a_gpu(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A published model and dataset that the command for the published cells leaves out."""
    nothing = {"CUDA_VISIBLE_DEVICES": ""}
    ran = run_inside(capsys, "claims", "-m", "gpu", "--collect-only", "-q", **nothing)
    assert ran.returncode == 0, ran.stdout[-2000:]
    check_collected(ran.stdout)
    without = ran.stdout.replace("mistral-7b-natural-questions", "mistral-7b-ms-marco")
    with pytest.raises(AssertionError):  # the check itself, were a place not there
        check_collected(without)
