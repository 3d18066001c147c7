"""Published truth in, published verdict out: the replay of the whole record.

Rows with exactly the published moments are written for every published cell that a claim refers
to, and judged as stored rows are: store, looks, verdict, report. A verdict may be open where the
published n cannot tell, and then says which n would do; it is never the opposite one.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from scipy import stats as sps

from claims.harness import claims, published, registry
from claims.harness.claims import ClaimSpec, finding_of, specified
from claims.harness.published import Entry, published_values
from invariants.support.claim_runs import ClaimRun, run_here
from invariants.support.published_replay import Comparison, write_store
from kvcore.measurements.base import Place
from kvcore.measurements.needs import Need
from kvcore.models.registry import entry_of
from kvcore.verdict import Cell, Prediction, published_error
from kvcore.verdict.planning import settling

POWER = 0.8
RELEVANT, OTHER = 221, 1471  # passages of the ranking study
NEAR = {"MRR difference": 1e-3, "r": 1e-3}  # of what is published in digits that no rows have
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
}
# Published is a correlation coupled by arithmetic; Oldham's follows from the same moments.
BY_OLDHAM = {"random-gains-with-hardness-oldham": 0.094, "oracle-gains-with-hardness-oldham": 0.040}
ARTIFACT = {"random": "artifact-gemma270m-random", "one_base(random)": "artifact-gemma270m-one-base-random"}
Replayed = tuple[ClaimSpec, Entry]


def replayed() -> Iterator[tuple[ClaimSpec, Callable[..., Any], Entry]]:
    """Yield every claim at every place for which something was published of it."""
    for declared, test in registry.declared_claims():
        spec, named = specified(declared, test), declared.published
        if declared.claim_id not in NOT_REPLAYED:
            for name in (named,) if isinstance(named, str) else named:
                entry = published_values()[str(name)]
                yield spec.at(entry.place), test, entry


def comparisons(values: Mapping[str, Entry]) -> dict[tuple[Place, str], list[Comparison]]:
    """Return what the claims compare, by place and set of samples, with the published d of each."""
    by_set: dict[tuple[Place, str], list[Comparison]] = {}
    for spec, test, entry in replayed():
        cell = Cell(*entry.place, entry.metric, entry_of(entry.model).dtype)
        finding = finding_of(test, spec, cell)
        if finding.name != "paired_benefit" or entry.shown_only:
            continue
        first, second = (Need.read(str(need)) for need in finding.sources)
        own = Comparison(values[entry.id], first.condition, second.condition)
        group = by_set.setdefault((entry.place, first.sample_set), [])
        if own not in group:
            group.append(own)
    by_set[values[ARTIFACT["random"]].place, "samples"] = [
        Comparison(values[id], "bare", condition) for condition, id in ARTIFACT.items()
    ]
    return by_set


def replay(
    folder: Path, patch: pytest.MonkeyPatch, values: Mapping[str, Entry], *options: str
) -> ClaimRun:
    """Write the rows that some published values describe, and judge all claims on them."""
    folder.mkdir(exist_ok=True)
    write_store(folder / "replay", comparisons(values), values)
    modules = sorted(path.stem for path in registry.FOLDER.glob("test_*.py"))
    text = "".join(f"from claims.{module} import *\n" for module in modules)
    return run_here(folder, patch, text, "--kv-store", "replay", "-q", *options)


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
    counts = (RELEVANT, OTHER) if entry.unit == "AUC" else (None, None)
    se = published_error(entry.unit, entry.effect, n, *counts)
    if se is None:
        return 0.0
    return settling(entry.effect, se, float(sps.norm.ppf(0.975)), prediction)


def check(spec: ClaimSpec, entry: Entry, judgement: Mapping[str, Any]) -> None:
    """Demand the published verdict where its n suffices, else that or an open one with an n."""
    where = (spec.claim.id, entry.id, judgement["verdict"], judgement["planning"])
    effect, value = entry.effect, judgement["estimate"]["value"]
    if spec.claim.id in BY_OLDHAM:
        effect = BY_OLDHAM[spec.claim.id]
    if not entry.shown_only or spec.claim.id in BY_OLDHAM:
        assert abs(value - effect) < NEAR.get(entry.unit, DIGITS), (*where, value)
    assert judgement["verdict"] != "refuted", where
    if judgement["verdict"] == "supported":
        return
    told = dataclasses.replace(entry, effect=effect)
    assert power(told, spec.claim.prediction) < POWER, where
    named = re.search(r"about [\d,]+ samples would settle it|lies on a margin", judgement["planning"])
    assert named, where


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ClaimRun:
    """The replay of the record as it was published."""
    with pytest.MonkeyPatch.context() as patch:
        return replay(tmp_path_factory.mktemp("record"), patch, published_values())


def test_the_published_record_is_re_verified_when_it_is_true(run: ClaimRun) -> None:
    """A claim that fails, or cannot tell and says no n, where the finding is reproduced exactly."""
    judgements = judged(run)
    for spec, _, entry in replayed():
        metric = entry.metric
        check(spec, entry, judgements[spec.claim.id, *entry.place, metric])
