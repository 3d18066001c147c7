"""Rows with exactly the moments that were published, in a store as a run would have left it.

Published are means, SDs, d, correlations, AUC and differences of MRR, with n and clusters; what was
not (marginal shapes, correlations between conditions) is normal, and half-correlated where the
published comparisons do not fix it. Nothing of `kvcore.analysis` is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats as sps

from claims.harness.published import Entry
from kvcore.measurements.base import MeasurementKind, Place
from kvcore.measurements.kinds.answer_nll import template_of
from kvcore.measurements.needs import Need, dataset_of
from kvcore.measurements.registry import kind_of
from kvcore.models.registry import entry_of

Array = np.ndarray[Any, np.dtype[np.float64]]
UNPUBLISHED_N = 300  # of legacy values
SPREAD, ALIKE = 0.3, 0.5  # SD of a benefit in nats, correlation of two: where none was published
BARE = (1.1455, 1.5698)  # mean and SD of bare NLL, of experiment 01
SHORT_ANSWERS = 2500 - 2303  # samples of experiment 01 with answers of one token, without a tail
LISTS, PASSAGES, RELEVANT = 200, 1692, 221
STEPS = 40  # of a bisection
TOKENS = 4
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


# --- rows ----------------------------------------------------------------------------------------


def key(kind: MeasurementKind, place: Place, need: Need, sample: str, seed: int = 0) -> Row:
    """Return the key of one row, its status and cluster."""
    model, dataset = place
    base = {"answer_nll": dataset_of(dataset, need.sample_set)}.get(kind.name, dataset)
    return {
        "model": model,
        "model_id": "0" * 64,
        "dtype": entry_of(model).dtype,
        "tokenizer": "sentencepiece:0",
        "dataset": base,
        "sample_id": sample,
        "sample_hash": "0" * 32,
        "condition": need.condition,
        "seed": seed,
        "template": template_of(need.target) if kind.name == "answer_nll" else "text:0",
        "method": kind.method(need.condition),
        "code": kind.code,
        "status": "ok",
        "cluster": sample,
    }


Row = dict[str, Any]


def scored(place: Place, spelled: str, sample: str, nll: float, **changed: Any) -> Row:
    """Return one row of a score that is the same for each answer token."""
    kind, need = kind_of("answer_nll"), Need.read(spelled)
    numbers = {
        "nll": nll,
        "nll_tail": nll,
        "token_nlls": [nll] * TOKENS,
        "n_answer_tokens": TOKENS,
        "doc_len": 130,
        "prefix_len": 12,
        "cache_len": 131,
        "clean_boundary": 0,
    }
    return key(kind, place, need, sample) | numbers | changed


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


# --- lists to rank -------------------------------------------------------------------------------


def auc(score: Array, relevant: Array) -> float:
    """Return the share of (relevant, other) pairs that the score orders rightly."""
    ranks, n = sps.rankdata(score), int(relevant.sum())
    return float((ranks[relevant > 0].sum() - n * (n + 1) / 2) / (n * (len(score) - n)))


def solved(of: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Return where a function that rises or falls from low to high meets a target."""
    rises = of(high) > of(low)
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if (of(middle) < target) == rises else (low, middle)
    return (low + high) / 2


def relevant_passages(query: np.ndarray[Any, np.dtype[np.int64]]) -> Array:
    """Return 1.0 for the first passage of each list, and for the second of the first few lists."""
    first = np.diff(query, prepend=-1) > 0
    second = np.roll(first, 1) & (query < RELEVANT - LISTS)
    return (first | second).astype(np.float64)


@dataclass(frozen=True)
class Lists:
    """Lists with scores of bare passages that rank as published."""

    query: np.ndarray[Any, np.dtype[np.int64]]
    relevant: Array
    bare: Array  # PMI
    prior: Array  # NLL of the query's answer without a document, up to a constant
    rng: np.random.Generator

    @classmethod
    def of(cls, pmi: float, raw: float) -> Lists:
        """Draw lists whose AUC by PMI and by NLL are as given."""
        rng = np.random.default_rng(22)
        query = np.sort(np.arange(PASSAGES) % LISTS)
        relevant = relevant_passages(query)
        noise, prior = rng.standard_normal(PASSAGES), rng.standard_normal(LISTS)[query]
        bare = noise + relevant * solved(lambda x: auc(noise + x * relevant, relevant), pmi, 0, 5)
        spread = solved(lambda x: auc(bare - x * prior, relevant), raw, 0, 3)
        return cls(query, relevant, bare, spread * prior, rng)

    def by_query(self) -> Array:
        """Draw a number for each query: it changes the pooled AUC and no rank within a list."""
        return np.asarray(self.rng.standard_normal(LISTS)[self.query])

    def at(self, target: float, score: Array | None = None) -> Array:
        """Return a score with a given AUC that ranks each list as the given one does, or nearly."""
        score = self.bare if score is None else score
        up = auc(score, self.relevant) < target
        noise = self.relevant if up else self.by_query()
        width = solved(lambda x: auc(score + x * noise, self.relevant), target, 0, 20)
        return score + width * noise

    def unrelated(self, target: float) -> Array:
        """Return a score with a given AUC that has nothing to do with the others."""
        noise = self.rng.standard_normal(PASSAGES)
        shift = solved(lambda x: auc(noise + x * self.relevant, self.relevant), target, -5, 5)
        return noise + shift * self.relevant

    def swapped(self, change: float, wins: int, losses: int) -> Array:
        """Return the bare score with the relevant passage one rank up or down in some lists.

        ``change``: of the MRR, met to a sixth of a list; ``wins`` and ``losses`` between the first
        two ranks at least.
        """
        score = self.bare.copy()
        sixths = round((change * LISTS - (wins - losses) / 2) * 6)
        moves = [(2, 1)] * wins + [(1, 2)] * losses
        moves += [(3, 2) if sixths > 0 else (2, 3)] * abs(sixths)
        at = {rank: iter(self._lists_with(rank)) for rank in (1, 2, 3)}
        for old, new in moves:
            members = np.flatnonzero(self.query == next(at[old]))
            order = members[np.argsort(-score[members])]
            i, j = order[old - 1], order[new - 1]
            score[i], score[j] = score[j], score[i]
        return score

    def _lists_with(self, rank: int) -> list[int]:
        """Return the lists whose only relevant passage has a rank."""
        lists = []
        for query in range(RELEVANT - LISTS, LISTS):
            own = self.query == query
            mine = self.bare[own & (self.relevant > 0)][0]
            if int((self.bare[own] > mine).sum()) + 1 == rank:
                lists.append(query)
        return lists


def intents(lists: Lists, first: Array, best: float, routed: float) -> list[Array]:
    """Return scores of four more intents: best of five per passage, and one a query, as given."""
    by_query = [lists.by_query() for _ in range(4)]
    # On passages that do not answer the query alone: the best of several lifts those.
    by_passage = [lists.rng.standard_normal(PASSAGES) * (1 - lists.relevant) for _ in range(4)]

    def scores(spread: float, own: float) -> list[Array]:
        return [
            lists.bare + spread * q + own * p for q, p in zip(by_query, by_passage, strict=True)
        ]

    def one_a_query(each: Sequence[Array]) -> Array:
        stacked = np.stack([first, *each])
        means = np.stack([np.bincount(lists.query, x) for x in stacked])
        return np.asarray(stacked[means.argmax(axis=0)[lists.query], np.arange(PASSAGES)])

    def spread_for(own: float) -> float:
        return solved(lambda x: auc(one_a_query(scores(x, own)), lists.relevant), routed, 0.0, 3.0)

    def best_with(own: float) -> float:
        each = scores(spread_for(own), own)
        return auc(np.stack([first, *each]).max(axis=0), lists.relevant)

    own = solved(best_with, best, 0.0, 0.6)
    return scores(spread_for(own), own)


def ranked_scores(values: Mapping[str, Entry]) -> dict[str, Array]:
    """Return the NLL of every passage under every condition of the ranking claims."""

    def level(name: str) -> float:
        return values[name].effect

    lists = Lists.of(level("exp23-gemma-bare-auc"), level("exp22-gemma-nll-bare-auc"))
    primed = _primed(lists, values)
    early = "values_early_layers({},0.47)@lists"
    again = lists.swapped(level("exp23-gemma-two-stages-3-against-bare-mrr"), 8, 6)
    pmi = {
        "bare@lists": lists.bare,
        early.format("static_fact"): primed,
        early.format("oracle"): lists.at(level("exp23-gemma-early-layers-oracle-16-auc"), again),
    }
    for condition, name in {
        "values_early_layers(oracle,0.24)": "early-layers-oracle-8",
        "interp(oracle,0.25)": "interp-oracle-25",
        "full_context(oracle)": "full-context-oracle",
        "qvi(0.1)": "qvi-10",
        "qvi(0.25)": "qvi-25",
        "qvi(0.5)": "qvi-50",
    }.items():
        pmi[f"{condition}@lists"] = lists.at(level(f"exp23-gemma-{name}-auc"))
    others = ("definition", "procedure", "quantity", "problem")
    more = intents(
        lists,
        primed,
        level("exp23-gemma-best-of-five-intents-per-passage-auc"),
        level("exp23-gemma-one-intent-per-query-auc"),
    )
    pmi |= {early.format(f"static({o})"): s for o, s in zip(others, more, strict=True)}
    for target in ("qdoc", "relevance"):
        pmi[f"bare@lists.{target}"] = lists.unrelated(level(f"exp23-gemma-{target}-bare-auc"))
    nlls = {name: 3 + lists.prior - score for name, score in pmi.items()}
    for behind in ("", ".qdoc", ".relevance"):
        nlls[f"bos_only@lists{behind}"] = 3 + lists.prior
    return nlls


def _primed(lists: Lists, values: Mapping[str, Entry]) -> Array:
    """Return PMI under primed values: its AUC, that of its NLL, and its MRR are as published."""
    change = values["exp22-gemma-nll-priming-mrr"].effect
    base, noise = lists.swapped(change, 6, 9), lists.by_query()
    by_pmi = values["exp22-gemma-pmi-early-layers-auc"].effect
    by_nll = values["exp22-gemma-nll-early-layers-auc"].effect

    def score(share: float) -> Array:
        own = base + share * lists.prior
        width = solved(lambda x: auc(own + x * noise, lists.relevant), by_pmi, 0, 3)
        return own + width * noise

    share = solved(lambda x: auc(score(x) - lists.prior, lists.relevant), by_nll, 0.0, 0.6)
    return score(share)


def list_rows(place: Place, values: Mapping[str, Entry]) -> list[Row]:
    """Return the rows of all lists."""
    lists = np.sort(np.arange(PASSAGES) % LISTS)
    first, relevant = np.diff(lists, prepend=-1) > 0, relevant_passages(lists) > 0
    ids = []
    for i, query in enumerate(f"q{number:03}" for number in lists):
        other = f"{query}+p-{i}" if relevant[i] else f"p-{i:04}"
        ids.append(f"{query}#{query if first[i] else other}")
    return [
        scored(place, need, id, float(nll), cluster=id.split("#")[0])
        for need, nlls in ranked_scores(values).items()
        for id, nll in zip(ids, nlls, strict=True)
    ]


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
    *,
    others: bool = True,
) -> None:
    """Write the rows of published comparisons, by place and set of samples.

    ``others``: write those of the ranking study and of the prefill dynamics too.
    """
    rows: list[Row] = []
    for (place, sample_set), own in comparisons.items():
        clusters = next((c.entry.clusters for c in own if c.entry.clusters), None)
        groups = groups_of(own, values, place)
        short = SHORT_ANSWERS if any(group.with_bare for group in groups) else 0
        rows += paired_rows(place, sample_set, groups, clusters, short)
    if others:
        rows += list_rows(values["exp23-gemma-bare-auc"].place, values)
        states = kind_of("hidden_states").store(root)
        states.write(pd.DataFrame(dynamics_rows(values)), {"device": "cpu"})
    kind_of("answer_nll").store(root).write(pd.DataFrame(rows), {"device": "cpu"})
