"""``python -m benchmarks --part statistics``: how often intervals cover and verdicts err.

Shipped rows are the population: whole clusters (modules, queries) are drawn from them with
replacement, so that what is true is known. No model is loaded. The tables of `docs/statistics.md`
are written from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats as sps

from claims.harness import registry, saving
from claims.harness.cells import OPT_IN_MODELS, cells_of
from claims.harness.claims import CellClaim, finding_of, specified
from claims.harness.options import Settings
from claims.harness.session import Session
from kvcore import analysis, verdict
from kvcore.analysis import Estimate, FloatArray, IntervalSettings, ranking
from kvcore.analysis.ranking.metrics import pair_counts
from kvcore.analysis.ranking.tables import ranked_lists
from kvcore.measurements.collect import CollectedRows, stored_rows
from kvcore.measurements.registry import kind_of
from kvcore.verdict import Prediction, helps, looks

STORE = Path("reports/reference")
MODEL, DATASET, DTYPE = "smollm2-135m", "docstrings", "float32"
SIZES = (60, 100, 300, 1000)
LIMITS = (300, 1000)
PAIRS = (("bare", "random"), ("bare", "oracle"), ("random", "oracle"))
HARDNESS = "bos_only"
PLAIN_LISTS = "bare@lists"
RANKED = {
    "AUC change, no query decides": ("full_context(oracle)", "interp(oracle,0.25)", "qvi(0.25)"),
    "AUC change, one query decides": (
        "values_early_layers(oracle,0.47)",
        "values_early_layers(static_fact,0.47)",
    ),
}
MARGIN, EFFECT, PILOT, ICC = 0.09, 0.2, 120, 0.3
FEW_RESAMPLES = 999
GRID = 4000  # estimates on which a published cell is judged
LOOKS = 5
BCA_PART, AUC_PART = 8, 2  # of the replications: slower ones make do with a part
PILOTS_PART = 5  # as many runs at the n that a pilot advises
WRONG = {0.0: "supported", MARGIN: "refuted"}  # by the true d


@dataclass(frozen=True)
class Population:
    """Columns of numbers, (columns, n), whose samples come in clusters."""

    columns: FloatArray
    members: tuple[np.ndarray, ...]  # the samples of each cluster

    @classmethod
    def of(cls, columns: Sequence[FloatArray], clusters: Sequence[str]) -> Population:
        """Leave out samples with a NaN in any column."""
        x = np.stack(columns)
        keep = ~np.isnan(x).any(axis=0)
        labels = np.unique(np.asarray(clusters)[keep], return_inverse=True)[1]
        order = np.argsort(labels, kind="stable")
        return cls(x[:, keep], tuple(np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)))

    def draw(self, rng: np.random.Generator, n: int) -> tuple[FloatArray, np.ndarray]:
        """Draw about n samples in whole clusters, with replacement; columns and labels."""
        count = max(2, round(n * len(self.members) / self.columns.shape[1]))
        drawn = [self.members[i] for i in rng.integers(len(self.members), size=count)]
        labels = np.repeat(np.arange(count), [len(own) for own in drawn])
        return self.columns[:, np.concatenate(drawn)], labels


def measure(replications: int, seed: int) -> Iterator[dict[str, Any]]:
    """Simulate everything and yield it table by table; rates are in percent."""
    rows = _stored()
    numbers = {name: _column(rows, name) for name in ("bare", "random", "oracle", HARDNESS)}
    clusters = list(_frame(rows, "bare")["cluster"])
    population = {
        pair: Population.of([numbers[name] for name in (*pair, HARDNESS)], clusters)
        for pair in PAIRS
    }
    first = population[PAIRS[0]]
    yield {
        "replications": replications,
        "bca_replications": replications // BCA_PART,
        "auc_replications": replications // AUC_PART,
        "seed": seed,
        "samples": first.columns.shape[1],
        "clusters": len(first.members),
    }
    yield {"published": list(published())}
    yield {"errors": list(_errors(first, replications, seed))}
    yield {"power": list(_power(population, replications, seed))}
    yield {
        "coverage": [
            *_coverage(population, replications, seed),
            *_ranking_coverage(rows, replications // AUC_PART, seed),
        ]
    }
    yield {"looked": saved(seed)}


# --- coverage ------------------------------------------------------------------------------------


def _statistics(settings: IntervalSettings) -> Mapping[str, Callable[..., Estimate]]:
    """Every statistic of (baseline, condition, hardness, labels)."""
    return {
        "d": lambda b, c, _, labels: analysis.effect_size(b - c, labels, settings),
        "mean": lambda b, c, _, labels: analysis.mean_difference(b - c, labels, settings),
        "r": lambda b, c, h, labels: analysis.correlation(h, b - c, labels, settings),
        "Oldham's r": lambda b, c, _, labels: analysis.oldham(b, c, labels, settings),
        "quartile d": lambda b, c, h, labels: analysis.quartile_effect(
            h, b - c, 4, labels, settings
        ),
    }


def _coverage(
    population: Mapping[tuple[str, str], Population], replications: int, seed: int
) -> Iterator[dict[str, Any]]:
    methods = {
        "jackknife": (IntervalSettings(), replications),
        "bca": (IntervalSettings(method="bca", resamples=FEW_RESAMPLES), replications // BCA_PART),
    }
    for method, (settings, count) in methods.items():
        for name, statistic in _statistics(settings).items():
            pairs = PAIRS if method == "jackknife" else PAIRS[:1]
            for n in SIZES:
                rates = [covered(population[pair], statistic, n, count, seed) for pair in pairs]
                yield {"method": method, "statistic": name, "n": n, "covered": rates}


def covered(
    population: Population, statistic: Callable[..., Estimate], n: int, count: int, seed: int
) -> float:
    """Return how often, in percent, the interval holds the population's value."""
    truth = statistic(*population.columns, None).value
    rng = np.random.default_rng([seed, n])
    hits = 0
    for _ in range(count):
        columns, labels = population.draw(rng, n)
        e = statistic(*columns, labels)
        hits += e.ci_low <= truth <= e.ci_high
    return 100 * hits / max(count, 1)


def _ranking_coverage(rows: CollectedRows, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Coverage of the change of an AUC, queries drawn; conditions by whether one query decides."""
    plain = _list_scores(rows, PLAIN_LISTS)
    for name, conditions in RANKED.items():
        changes = [AucChange.of(_list_scores(rows, f"{c}@lists"), plain) for c in conditions]
        for n in SIZES[:3]:
            rates = [change.covered(n, count, seed) for change in changes]
            yield {"method": "jackknife", "statistic": name, "n": n, "covered": rates}


@dataclass(frozen=True)
class AucChange:
    """The change of a pooled AUC by queries: what each pair of queries wins, and how many pairs."""

    wins: FloatArray  # (queries, queries)
    pairs: FloatArray

    @classmethod
    def of(cls, second: pd.DataFrame, first: pd.DataFrame) -> AucChange:
        """Return the change from the first score of the same lists to the second."""
        lists = ranked_lists(second, first)
        (after, pairs), (before, _) = (
            pair_counts(lists, column, None, math.inf) for column in lists.columns
        )
        return cls(after - before, pairs)

    def estimate(self, drawn: np.ndarray) -> Estimate:
        """Estimate it on queries drawn, each drawing a query of its own."""
        wins, pairs = (m[np.ix_(drawn, drawn)] for m in (self.wins, self.pairs))

        def change(counts: FloatArray) -> FloatArray:
            won, every = (((counts @ m) * counts).sum(axis=-1) for m in (wins, pairs))
            return np.asarray(won / every)

        labels = np.arange(drawn.size)
        return analysis.resampled(change, labels, unit="AUC difference", bounds=(-1.0, 1.0))

    def covered(self, n: int, count: int, seed: int) -> float:
        """Return how often, in percent, the interval of n queries holds the change of all."""
        truth = float(self.wins.sum() / self.pairs.sum())
        rng, hits = np.random.default_rng([seed, n]), 0
        for _ in range(count):
            e = self.estimate(rng.integers(len(self.wins), size=n))
            hits += e.ci_low <= truth <= e.ci_high
        return 100 * hits / max(count, 1)


# --- false verdicts ------------------------------------------------------------------------------


def _errors(population: Population, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """False support where d is 0, false refutation where it is the margin; fixed and by looks."""
    prediction = helps(MARGIN)
    for truth, wrong in WRONG.items():
        shifted = with_d(population, truth)
        for limit in LIMITS:
            for number in (1, 5):
                rng = np.random.default_rng([seed, limit])
                ends = [looked(shifted, prediction, limit, number, rng) for _ in range(count)]
                yield {
                    "true d": truth,
                    "limit": limit,
                    "looks": number,
                    "wrong": 100 * float(np.mean([said == wrong for said, _ in ends])),
                    "decided": 100 * float(np.mean([said != "inconclusive" for said, _ in ends])),
                    "rows": 100 * float(np.mean([at for _, at in ends])) / number,
                }


def looked(
    population: Population,
    prediction: Prediction,
    limit: int,
    number: int,
    rng: np.random.Generator,
) -> tuple[str, int]:
    """Return a verdict and the look that gave it; whole clusters in the order drawn."""
    columns, labels = population.draw(rng, limit)
    clusters = int(labels[-1]) + 1
    fractions = [k / number for k in range(1, number + 1)]
    said = "inconclusive"
    for look, fraction in enumerate(fractions, 1):
        inside = labels < math.ceil(fraction * clusters)
        level = looks.repeated_level(0.95, fractions, look)
        e = analysis.effect_size(
            (columns[0] - columns[1])[inside], labels[inside], IntervalSettings(level)
        )
        said = verdict.judge(e, prediction).verdict
        if said != "inconclusive":
            return said, look
    return said, number


def with_d(population: Population, d: float) -> Population:
    """Shift the condition so that the benefit has a given d in the population."""
    base, condition, *rest = population.columns
    x = base - condition
    shift = d * float(np.std(x, ddof=1)) - float(np.mean(x))
    return Population(np.stack([base, condition - shift, *rest]), population.members)


# --- power at the n that planning advises --------------------------------------------------------


def _power(
    population: Mapping[tuple[str, str], Population], count: int, seed: int
) -> Iterator[dict[str, Any]]:
    """How often the n advised by pilots gives the right verdict, clustered data included."""
    prediction = helps(MARGIN, effect=EFFECT)
    cases = {f"{b} and {c}": with_d(own, EFFECT) for (b, c), own in population.items()}
    cases[f"modules alike (ICC {ICC})"] = with_d(
        _clustered(population[PAIRS[0]], np.random.default_rng(seed)), EFFECT
    )
    pilots = max(count // PILOTS_PART, 1)
    for name, own in cases.items():
        rng = np.random.default_rng(seed)
        advised: list[int] = []
        right: list[float] = []
        while len(advised) < pilots:
            columns, labels = own.draw(rng, PILOT)
            plan = verdict.plan(analysis.effect_size(columns[0] - columns[1], labels), prediction)
            if plan.n is None:
                continue
            advised.append(plan.n)
            said = [looked(own, prediction, plan.n, 1, rng)[0] for _ in range(count // pilots)]
            right.append(float(np.mean([verdict == "supported" for verdict in said])))
        yield {"case": name, "n": int(np.median(advised)), "power": 100 * float(np.mean(right))}


def _clustered(population: Population, rng: np.random.Generator) -> Population:
    """Give clusters a part of their own in the benefit, which makes their samples alike."""
    base, condition, *rest = population.columns
    spread = float(np.std(base - condition, ddof=1)) * math.sqrt(ICC / (1 - ICC))
    shared = np.empty(base.size)
    for members in population.members:
        shared[members] = rng.normal(0.0, spread)
    return Population(np.stack([base, condition - shared, *rest]), population.members)


# --- the published record, and the shipped rows, looked at ---------------------------------------


def published() -> Iterator[dict[str, Any]]:
    """Chance of each verdict at the published n, were the published effect the true one.

    For effects whose standard error follows from their n, on a normal grid of estimates.
    """
    quantiles = sps.norm.ppf((np.arange(GRID) + 0.5) / GRID)
    z = float(sps.norm.ppf(0.975))
    for spec in registry.all_specs():
        for place, value in spec.published.items():
            if value.legacy or value.n is None or place in spec.shown_only:
                continue
            se = verdict.published_error(value.unit, value.value, value.n)
            if se is None or value.unit != spec.claim.prediction.unit:
                continue
            prediction = spec.at(place).claim.prediction
            said = [_read(value.value + q * se, z * se, prediction) for q in quantiles]
            yield {
                "claim": spec.claim.id,
                "place": " × ".join(place),
                "n": value.n,
                "effect": value.value,
                **{word: 100 * said.count(word) / GRID for word in ("supported", "refuted")},
            }


def _read(value: float, half: float, prediction: Prediction) -> str:
    e = Estimate(value, value - half, value + half, 0.95, "normal", 99, 99, prediction.unit)
    return verdict.judge(e, prediction).verdict


def saved(seed: int) -> dict[str, Any]:
    """What looks save of the shipped rows, and how often they tell the same as all of them."""
    cells = saving.savings(_session(seed), LOOKS)
    claims = [claim for cell in cells for claim in cell.claims]
    stops = [claim.look.number for claim in claims if claim.look.why in ("decided", "futile")]
    return {
        "claims": len(claims),
        "agreement": 100 * saving.agreement(cells),
        "by look two": sum(number <= 2 for number in stops),
        "rows": sum(cell.rows for cell in cells),
        "rows with looks": sum(cell.rows_with_looks for cell in cells),
        "decided": sum(claim.verdict != "inconclusive" for claim in claims),
        "decided fixed": sum(claim.fixed != "inconclusive" for claim in claims),
    }


def _session(seed: int) -> Session:
    """The session of all claims on the shipped rows."""
    settings = Settings(
        models=(MODEL, *OPT_IN_MODELS),
        datasets=(),
        limit=1000,
        looks=LOOKS,
        seed=seed,
        device="cpu",
        dtype=None,
        batch_tokens=None,
        store=STORE,
        no_measure=True,
        record=False,
        strict=False,
        confidence=0.95,
        interval="jackknife",
        familywise=False,
        explain=False,
    )
    tests = [
        CellClaim(spec.at((cell.model, cell.dataset)), cell, finding_of(test, spec, cell))
        for declared, test in registry.declared_claims()
        for spec in (specified(declared, test),)
        for cell in cells_of(spec, settings)
    ]
    return Session.of(settings, tests, tests)


# --- rows ----------------------------------------------------------------------------------------


def _stored() -> CollectedRows:
    kind = kind_of("answer_nll")
    return stored_rows(kind, model=MODEL, dtype=DTYPE, dataset=DATASET, seed=0, store=STORE)


def _frame(rows: CollectedRows, need: str) -> pd.DataFrame:
    own = rows.rows[rows.rows["need"] == need]
    return own.set_index("sample").sort_index()


def _column(rows: CollectedRows, need: str) -> FloatArray:
    frame = _frame(rows, need)
    return np.where(frame["status"] == "ok", frame["nll"], np.nan).astype(np.float64)


def _list_scores(rows: CollectedRows, need: str) -> pd.DataFrame:
    """Return the table of a ranking, -NLL by query and passage."""
    frame = _frame(rows, need)
    queries = frame["cluster"].astype(str).to_numpy()
    passages = [
        sample[len(query) + 1 :] for sample, query in zip(frame.index, queries, strict=True)
    ]
    return pd.DataFrame(
        {
            "query_id": queries,
            "passage_id": passages,
            "relevant": [q == p for q, p in zip(queries, passages, strict=True)],
            "score": ranking.raw(frame["nll"]),
        }
    )
