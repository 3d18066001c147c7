"""How much a conclusion hangs on the choices behind it: a specification curve for each claim.

A specification is one way of measuring what a claim is about: the model, the dataset, the metric,
and what else a plot of kind ``specifications`` varied (wording, seed, sample size).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from kvcore.verdict import Judgement, Verdict, judge
from reports.grouping import plot_parts

FACTORS = ("model", "dataset", "metric", "way")
AS_JUDGED = "as judged"


@dataclass(frozen=True)
class Specification:
    """One way of measuring, with its estimate and what that says of the claim."""

    choices: Mapping[str, str]
    value: float
    low: float
    high: float
    verdict: Verdict


def specifications(group: Sequence[Judgement]) -> list[Specification]:
    """Return every way in which one claim was measured, without those that gave no number.

    Each judgement is a specification; so is each further row of its plots of kind
    ``specifications`` in the same unit, judged by the same rule.
    """
    ways = [way for judgement in group for way in (_judged(judgement), *further_ways(judgement))]
    return [way for way in ways if math.isfinite(way.value)]


def by_value(ways: Sequence[Specification]) -> list[Specification]:
    """Return specifications in the order of a specification curve: the smallest value first."""
    return sorted(ways, key=lambda way: way.value)


def _judged(judgement: Judgement) -> Specification:
    e = judgement.estimate
    labels = [row["label"] for row in specification_rows(judgement) if row["judged"]]
    choices = _choices(judgement, labels[0] if labels else AS_JUDGED)
    return Specification(choices, e.value, e.ci_low, e.ci_high, judgement.verdict)


def further_ways(judgement: Judgement) -> list[Specification]:
    """Return the ways of measuring beside the judged one, judged by the rule of that one."""
    return [
        specification(judgement, row) for row in specification_rows(judgement) if not row["judged"]
    ]


def specification(judgement: Judgement, row: Mapping[str, Any]) -> Specification:
    """Return a row of a plot of kind ``specifications``, judged by the judgement's rule."""
    value, low, high = (
        math.nan if row[name] is None else float(row[name]) for name in ("value", "low", "high")
    )
    estimate = replace(judgement.estimate, value=value, ci_low=low, ci_high=high)
    verdict = judge(estimate, judgement.claim.prediction, judgement.floor).verdict
    return Specification(_choices(judgement, row["label"]), value, low, high, verdict)


def specification_rows(judgement: Judgement) -> list[Mapping[str, Any]]:
    """Return the rows of a judgement's plots of kind ``specifications`` in its own unit."""
    return [
        row
        for part in plot_parts(judgement.plot)
        if part["kind"] == "specifications" and part["unit"] == judgement.estimate.unit
        for row in part["rows"]
    ]


def _choices(judgement: Judgement, label: object) -> dict[str, str]:
    cell = judgement.cell
    way, metric = split_label(label, cell.metric)
    return {"model": cell.model, "dataset": cell.dataset, "metric": metric, "way": way}


def split_label(label: object, metric: str) -> tuple[str, str]:
    """Split ``wording, nll_tail`` into what was varied and the metric, which may be missing."""
    way, _, last = str(label).rpartition(", ")
    return (way, last) if way and last in ("nll", "nll_tail") else (str(label), metric)


def hangs_on(ways: Sequence[Specification]) -> dict[str, tuple[int, int]]:
    """Return for each choice how often changing it alone changes the verdict, out of how often.

    That is (groups with more than one verdict, groups); a group holds the specifications of a
    claim that differ in that choice alone. A choice that nothing varied alone is left out.
    """
    groups = {factor: alike_but_for(factor, ways) for factor in FACTORS}
    return {
        factor: (sum(len({way.verdict for way in group}) > 1 for group in alike), len(alike))
        for factor, alike in groups.items()
        if alike
    }


def alike_but_for(factor: str, ways: Sequence[Specification]) -> list[list[Specification]]:
    """Group specifications that differ in one choice alone; only groups in which they do."""

    def others(each: Specification) -> list[str]:
        return [each.choices[name] for name in FACTORS if name != factor]

    groups = [list(group) for _, group in groupby(sorted(ways, key=others), key=others)]
    return [group for group in groups if len({each.choices[factor] for each in group}) > 1]


def levels(ways: Sequence[Specification]) -> list[tuple[str, str]]:
    """Return every (choice, value) of the choices that were varied, as they first appear."""
    pairs = [(name, each.choices[name]) for name in FACTORS for each in ways]
    varied = {name for name in FACTORS if len({each.choices[name] for each in ways}) > 1}
    return [pair for pair in dict.fromkeys(pairs) if pair[0] in varied]
