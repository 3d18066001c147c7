"""Lists of passages that rank as published, for the replay of the published record.

Published are AUC, MRR and their differences; how scores are distributed was not, and is normal.
Nothing of `kvcore.analysis` is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats as sps

from claims.harness.published import Entry
from invariants.support.replayed_rows import Row, scored
from kvcore.measurements.base import Place

Array = np.ndarray[Any, np.dtype[np.float64]]
Queries = np.ndarray[Any, np.dtype[np.int64]]
LISTS, PASSAGES, RELEVANT = 200, 1692, 221
STEPS = 40  # of a bisection


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


def mean_reciprocal_rank(score: Array, relevant: Array, query: Queries) -> float:
    """Return the mean over lists of one over the rank of the best relevant passage."""
    ranks = []
    for number in range(int(query.max()) + 1):
        own = query == number
        best = score[own & (relevant > 0)].max()
        ranks.append(1 / (1 + int((score[own] > best).sum())))
    return float(np.mean(ranks))


def relevant_passages(query: Queries) -> Array:
    """Return 1.0 for the first passage of each list, and for the second of the first few lists."""
    first = np.diff(query, prepend=-1) > 0
    second = np.roll(first, 1) & (query < RELEVANT - LISTS)
    return (first | second).astype(np.float64)


@dataclass(frozen=True)
class Lists:
    """Lists with scores of bare passages that rank as published."""

    query: Queries
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

    @property
    def count(self) -> int:
        """How many lists there are."""
        return int(self.query.max()) + 1

    def by_query(self) -> Array:
        """Draw a number for each query: it changes the pooled AUC and no rank within a list."""
        return np.asarray(self.rng.standard_normal(self.count)[self.query])

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
        sixths = round((change * self.count - (wins - losses) / 2) * 6)
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
        for query in range(self.count):
            own = self.query == query
            relevant = self.bare[own & (self.relevant > 0)]
            if relevant.size == 1 and int((self.bare[own] > relevant[0]).sum()) + 1 == rank:
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
    """Return the rows of all lists of the ranking study."""
    query = np.sort(np.arange(PASSAGES) % LISTS)
    return rows_of(place, query, relevant_passages(query), ranked_scores(values))


def rows_of(place: Place, query: Queries, relevant: Array, nlls: Mapping[str, Array]) -> list[Row]:
    """Return the rows of some lists, by the NLL of every passage under each condition."""
    first, ids = np.diff(query, prepend=-1) > 0, []
    for i, name in enumerate(f"q{number:03}" for number in query):
        other = f"{name}+p-{i}" if relevant[i] else f"p-{i:04}"
        ids.append(f"{name}#{name if first[i] else other}")
    return [
        scored(place, need, id, float(nll), cluster=id.split("#")[0])
        for need, own in nlls.items()
        for id, nll in zip(ids, own, strict=True)
    ]


# --- other scores of a passage -------------------------------------------------------------------

NOTED_LISTS, NOTED_PASSAGES = 300, 10  # of the lab notes; published are the 300 queries alone
BARE_MRR = 0.801
SHARE = 0.1  # of a benefit in a score: the notes' scores correlate with r > 0.97


def noted_rows(place: Place, values: Mapping[str, Entry]) -> list[Row]:
    """Return rows of the lists on which benefit itself, and a mean over conditions, was a score.

    Benefit ranks with its published AUC and MRR; the mean of the bare, the static and the random
    prefix's NLL with its published MRR.
    """
    rng = np.random.default_rng(14)
    query = np.repeat(np.arange(NOTED_LISTS), NOTED_PASSAGES)
    relevant = (np.diff(query, prepend=-1) > 0).astype(np.float64)
    noise = rng.standard_normal(query.size)

    def shifted(x: float) -> Array:
        return np.asarray(noise + x * relevant)

    shift = solved(lambda x: mean_reciprocal_rank(shifted(x), relevant, query), BARE_MRR, 0, 9)
    bare = shifted(shift)
    lists = Lists(query, relevant, bare, np.zeros(query.size), rng)
    mrr = mean_reciprocal_rank(bare, relevant, query)
    target = mrr + values["exp14-mistral-benefit-as-score-mrr"].effect
    benefit = SHARE * _benefit(lists, values["exp14-mistral-benefit-as-score-auc"].effect, target)
    mean = lists.swapped(values["exp15-mistral-mean-of-conditions-mrr"].effect, 3, 1)
    scores = {
        "bare@lists": bare,
        "static_fact@lists": bare + benefit,
        "random@lists": 3 * mean - 2 * bare - benefit,
    }
    return rows_of(place, query, relevant, {name: 3 - score for name, score in scores.items()})


def _benefit(lists: Lists, by_auc: float, by_mrr: float) -> Array:
    """Return a benefit with a given AUC and MRR: some relevant passages gain much, others little.

    The wider their gains are spread, the more of them lead their list, at the same AUC.
    """
    noise = lists.rng.standard_normal(lists.query.size)
    spread = lists.by_query() * lists.relevant

    def score(width: float) -> Array:
        own = noise + width * spread
        x = solved(lambda x: auc(own + x * lists.relevant, lists.relevant), by_auc, -9, 9)
        return np.asarray(own + x * lists.relevant)

    def mrr(width: float) -> float:
        return mean_reciprocal_rank(score(width), lists.relevant, lists.query)

    width = solved(mrr, by_mrr, 0.0, 5.0)
    near = np.linspace(0.98 * width, 1.02 * width, STEPS)  # where ranks change, the MRR jumps
    return score(min(near, key=lambda x: abs(mrr(x) - by_mrr)))
