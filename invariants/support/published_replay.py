"""Rows with exactly the moments that were published, in a store as a run would have left it.

Published are means, SDs, d, correlations, AUC and differences of MRR, with n and clusters; what was
not (marginal shapes, correlations between conditions) is normal, and half-correlated where the
published comparisons do not fix it. Nothing of `kvcore.analysis` is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from claims.harness.published import Entry
from invariants.support.replayed_lists import list_rows, noted_rows
from invariants.support.replayed_rows import Row, key, scored
from kvcore.measurements.base import MeasurementKind, Place
from kvcore.measurements.needs import Need
from kvcore.measurements.registry import kind_of

Array = np.ndarray[Any, np.dtype[np.float64]]
UNPUBLISHED_N = 300  # of legacy values
SPREAD, ALIKE = 0.3, 0.5  # SD of a benefit in nats, correlation of two: where none was published
BARE = (1.1455, 1.5698)  # mean and SD of bare NLL, of experiment 01
SHORT_ANSWERS = 2500 - 2303  # samples of experiment 01 with answers of one token, without a tail
WITH_BARE = {
    "random": "exp01-mistral-random-r-with-bare-nll",
    "oracle": "exp01-mistral-oracle-r-with-bare-nll",
}


@dataclass(frozen=True)
class Comparison:
    """A published d: of a condition over a baseline, as the claim about it compares them."""

    entry: Entry
    baseline: str
    condition: str

    @property
    def n(self) -> int:
        """How many samples it was published for."""
        return self.entry.n or UNPUBLISHED_N


@dataclass(frozen=True)
class Group:
    """What was measured on the same samples of a place: benefits over ``bare`` and between them."""

    n: int
    over_bare: Mapping[str, Comparison]
    between: Sequence[Comparison] = ()
    with_bare: Mapping[str, float] = field(default_factory=dict)  # r(bare NLL, benefit)

    def spread(self, condition: str) -> float:
        """Return the SD of a condition's benefit in nats."""
        entry = self.over_bare[condition].entry
        return abs(entry.mean / entry.effect) if entry.mean and entry.effect else SPREAD

    def benefits(self, rng: np.random.Generator) -> tuple[Array, dict[str, Array]]:
        """Return bare NLL and the benefit of each condition, with exactly the published moments."""
        names = list(self.over_bare)
        sd = np.array([BARE[1], *map(self.spread, names)])
        mean = np.array(
            [BARE[0], *(self.over_bare[c].entry.effect * self.spread(c) for c in names)]
        )
        r = np.full((len(sd), len(sd)), ALIKE)
        r[0, 1:] = r[1:, 0] = [self.with_bare.get(name, 0.0) for name in names]
        np.fill_diagonal(r, 1.0)
        for pair in self.between:
            i, j = 1 + names.index(pair.baseline), 1 + names.index(pair.condition)
            own = (mean[j] - mean[i]) / pair.entry.effect
            r[i, j] = r[j, i] = (sd[i] ** 2 + sd[j] ** 2 - own**2) / (2 * sd[i] * sd[j])
        drawn = exactly(rng, self.n, mean, r * np.outer(sd, sd))
        return drawn[:, 0], dict(zip(names, drawn[:, 1:].T, strict=True))


def exactly(rng: np.random.Generator, n: int, mean: Array, covariance: Array) -> Array:
    """Return (n, columns) of numbers with exactly that sample mean and covariance (ddof 1)."""
    z = rng.standard_normal((n, len(mean)))
    z -= z.mean(axis=0)
    white = np.linalg.solve(np.linalg.cholesky(np.cov(z.T, ddof=1)), z.T)
    return np.asarray((np.linalg.cholesky(covariance) @ white).T + mean)


def groups_of(
    comparisons: Iterable[Comparison], values: Mapping[str, Entry], place: Place
) -> list[Group]:
    """Arrange the comparisons of one place and set of samples by the samples they share."""
    by_n: dict[int, list[Comparison]] = {}
    for comparison in comparisons:
        by_n.setdefault(comparison.n, []).append(comparison)
    groups = []
    for n, own in by_n.items():
        bare = {c.condition: c for c in own if c.baseline == "bare"}
        between = {(c.baseline, c.condition): c for c in own if c.baseline != "bare"}
        with_bare = {
            name: values[id].effect
            for name, id in WITH_BARE.items()
            if name in bare and (values[id].place, values[id].n) == (place, n)
        }
        groups.append(Group(n, bare, tuple(between.values()), with_bare))
    return groups


# --- rows of pairs ------------------------------------------------------------------------------


def paired_rows(
    place: Place, sample_set: str, groups: Sequence[Group], clusters: int | None, short: int
) -> list[Row]:
    """Return the rows of one set of samples; groups share ``bare``.

    The largest group decides bare NLL. ``short`` more samples have answers of one token.
    """
    behind = "" if sample_set == "samples" else f"@{sample_set}"
    rng = np.random.default_rng(sum(map(ord, "".join(place) + sample_set)))
    largest, *others = sorted(groups, key=lambda group: -group.n)
    bare, benefits = largest.benefits(rng)
    columns = {"bare": bare} | {name: bare - x for name, x in benefits.items()}
    for group in others:
        for name, x in group.benefits(rng)[1].items():
            if name in columns:
                raise ValueError(f"{place} has {name} twice, with n = {group.n}")
            columns[name] = bare[: group.n] - x
    rows = []
    for name, nlls in columns.items():
        for i, nll in enumerate(nlls):
            cluster = f"c{i % clusters:04}" if clusters else f"s{i:04}"
            rows.append(
                scored(place, name + behind, f"s{i:04}{behind}", float(nll), cluster=cluster)
            )
    for name in ("bare", *largest.over_bare) if short else ():
        for i in range(short):
            lone = {"nll_tail": math.nan, "token_nlls": [1.0], "n_answer_tokens": 1}
            rows.append(scored(place, name, f"t{i:04}", 1.0, **lone))
    return rows


# --- hidden states -------------------------------------------------------------------------------


def dynamics_rows(values: Mapping[str, Entry]) -> list[Row]:
    """Return the rows of the model's and the author's texts, with exactly the published moments."""
    kind, place = kind_of("hidden_states"), values["dynamics-gemma2-ce"].place

    def level(name: str) -> float:
        return values[f"dynamics-gemma2-{name}"].effect

    n = values["dynamics-gemma2-ce"].n or UNPUBLISHED_N
    ce = level("ce-human"), level("ce-greedy")
    step = level("step-human"), level("step-greedy")
    d = level("step") * math.sqrt((n - 1) / n)  # published with ddof 0
    spread = abs((step[0] - step[1]) / d) / math.sqrt(2)  # of each source, uncorrelated
    spread_ce = 0.4
    # Pooled over both sources: sums of squares within and between.
    between = n / 2 * np.array([ce[0] - ce[1], step[0] - step[1]])
    between_c, between_s = between[0] * (ce[0] - ce[1]), between[1] * (step[0] - step[1])
    sums = (2 * (n - 1) * spread_ce**2 + between_c) * (2 * (n - 1) * spread**2 + between_s)
    shared = level("ce-step-r") * math.sqrt(sums) - between[0] * (step[0] - step[1])
    r = shared / (2 * (n - 1) * spread_ce * spread)
    sd = np.array([spread_ce, spread_ce, spread, spread])
    correlation = np.eye(4)
    correlation[0, 2] = correlation[2, 0] = correlation[1, 3] = correlation[3, 1] = r
    drawn = exactly(
        np.random.default_rng(8), n, np.array([*ce, *step]), correlation * np.outer(sd, sd)
    )
    return [
        _text_row(kind, place, source, i, float(drawn[i, at]), float(drawn[i, at + 2]))
        for at, source in enumerate(("human", "greedy"))
        for i in range(n)
    ]


def _text_row(
    kind: MeasurementKind, place: Place, source: str, i: int, ce: float, step: float
) -> Row:
    layers = {name: [step] * 3 for name, kind_ in kind.schema.types.items() if _is_list(kind_)}
    texts = {name: ["a", "b"] for name in ("tokens", "token_kinds")}
    counts = {"n_tokens": 100, "n_continuation": 90}
    row = key(kind, place, Need(source), f"t{i:03}")
    return row | layers | texts | counts | {"ce": ce, "ce_continuation": ce}


def _is_list(type_: Any) -> bool:
    return "list" in str(type_)


# --- the store -----------------------------------------------------------------------------------


def write_store(
    root: Path,
    comparisons: Mapping[tuple[Place, str], Sequence[Comparison]],
    values: Mapping[str, Entry],
    further: Sequence[Row] = (),
) -> None:
    """Write the rows of published comparisons, by place and set of samples, and further ones."""
    rows: list[Row] = []
    for (place, sample_set), own in comparisons.items():
        clusters = next((c.entry.clusters for c in own if c.entry.clusters), None)
        groups = groups_of(own, values, place)
        short = SHORT_ANSWERS if any(group.with_bare for group in groups) else 0
        rows += paired_rows(place, sample_set, groups, clusters, short)
    kind_of("answer_nll").store(root).write(pd.DataFrame([*rows, *further]), {"device": "cpu"})


def write_record(
    root: Path,
    comparisons: Mapping[tuple[Place, str], Sequence[Comparison]],
    values: Mapping[str, Entry],
) -> None:
    """Write the rows of published comparisons, of the ranking study and the prefill dynamics."""
    lists = list_rows(values["exp23-gemma-bare-auc"].place, values)
    write_store(root, comparisons, values, lists)
    states = kind_of("hidden_states").store(root)
    states.write(pd.DataFrame(dynamics_rows(values)), {"device": "cpu"})


def write_apart(root: Path, values: Mapping[str, Entry]) -> None:
    """Write what was published of samples that share their place with other ones.

    Experiment 06 (n = 1,834) measured the query and random tokens anew, experiment 20 (n = 278)
    the static prefix on documents before they were padded, experiments 14 and 15 lists of another
    model than the ranking study: one store has one row of a sample under a condition.
    """
    place = values["exp06-mistral-oracle"].place
    length = "exp20-mistral-static-fact"
    keywords, written = "exp06-mistral-oracle-as-keywords", "llm_surrogate(keyword)"
    comparisons = {
        (place, "samples"): [
            Comparison(values["exp06-mistral-oracle"], "bare", "oracle"),
            Comparison(values[keywords], "bare", "keywords(query)"),
            Comparison(values[f"{keywords}-against-oracle"], "oracle", "keywords(query)"),
            Comparison(values["exp06-mistral-random"], "bare", "random"),
            Comparison(values["exp06-mistral-keyword"], "bare", written),
            Comparison(values["exp06-mistral-keyword-against-random"], "random", written),
            Comparison(values[f"{length}-original-length"], "bare", "static_fact"),
        ],
        (place, "256"): [Comparison(values[f"{length}-256-tokens"], "bare", "static_fact")],
    }
    lists = noted_rows(values["exp14-mistral-benefit-as-score-mrr"].place, values)
    write_store(root, comparisons, values, lists)
