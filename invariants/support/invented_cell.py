"""A cell that was never measured: its stored rows, claims about it, and what judging must give.

Everything expected is computed here from the invented numbers themselves: the jackknife by leaving
out one cluster after another, SciPy's bootstrap over whole clusters, textbook formulas and the
rules as the README has them; nothing of `kvcore.analysis`, `kvcore.verdict` or the harness is used.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats as sps

from kvcore.measurements.registry import kind_of

MODEL, DATASET, DTYPE = "smollm2-135m", "docstrings", "float32"
CLUSTERS, EACH = 24, 3
N = CLUSTERS * EACH
CONFIDENCE, RESAMPLES, SEED, POWER, DELTA = 0.95, 10_000, 0, 0.8, 0.09
JUDGED = 7  # judgements of the family: six below, and the one that breaks
METRICS = ("nll", "nll_tail")

CLAIMS = '''
"""Claims about an invented cell."""

from claims.harness.claims import MISTRAL, claims_about
from claims.harness.estimands.base import estimand
from claims.harness.estimands.paired import paired_benefit
from kvcore.verdict import Published, does_not_help, helps, hurts

OWN = ("smollm2-135m", "docstrings")
topic = claims_about("invented", source="an invented source", metrics=("nll",), min_n=10)


@topic.claim(
    "random-helps",
    predicts=helps(delta=0.09, effect=0.5),
    metrics=("nll", "nll_tail"),
    published={MISTRAL: Published(0.1, 50, "nll", text="elsewhere"),
               OWN: Published(0.9, 400, "nll", text="here")},
)
def test_random_helps(judge):
    """Random tokens help."""
    judge(paired_benefit("bare", "random"))


@topic.claim("framing-hurts", predicts=hurts(delta=0.09, effect=-0.4))
def test_framing_hurts(judge):
    """Framing hurts, as the ledger knows not to be so."""
    judge(paired_benefit("bare", "framed"))


@topic.claim("oracle-helps-not", predicts=does_not_help(delta=0.09, effect=0.0))
def test_oracle_does_not_help(judge):
    """The query does not help."""
    judge(paired_benefit("bare", "oracle"))


@topic.claim("framing-helps-less", predicts=hurts(delta=0.09),
             published=Published(-0.3, 200, "nll", text="elsewhere alone"))
def test_framing_helps_less_than_random(judge):
    """Framing is worse than random tokens."""
    judge(paired_benefit("random", "framed"))


@topic.claim("separator-helps", predicts=helps(delta=0.09, effect=0.3))
def test_the_separator_helps(judge):
    """A separator helps."""
    judge(paired_benefit("bare", "separator"))


@estimand("d")
def broken(interval, rows):
    """Divide by zero."""
    raise ZeroDivisionError("a crash in an estimand")


@topic.claim("this-one-breaks", predicts=helps())
def test_this_one_breaks(judge):
    """This claim cannot be computed."""
    judge(broken("bare"))
'''

# SHA-256 of what "framing-hurts" predicts and its least n, as sorted JSON.
KNOWN_PREDICTION = "400b7508c552"
KNOWN = f"""
[[refuted]]
claim = "framing-hurts"
version = 1
metric = "nll"
model = "smollm2-135m"
dtype = "float32"
dataset = "docstrings"
source = "recorded"
estimate = 0.5
ci_low = 0.1
ci_high = 0.9
n = 72
date = "2026-01-02"
versions = "torch 0"
prediction = "{KNOWN_PREDICTION}"
"""


@dataclass(frozen=True)
class Expected:
    """What is claimed, of which pair of conditions, and what was published of it."""

    claim: str
    metric: str
    pair: tuple[str, str]
    predicts: str
    effect: float
    published: tuple[float, int] | None = None
    own: bool = False
    known: bool = False
    primary: bool = True


EXPECTED = (
    Expected("random-helps", "nll", ("bare", "random"), "helps", 0.5, (0.9, 400), own=True),
    Expected("random-helps", "nll_tail", ("bare", "random"), "helps", 0.5, own=True, primary=False),
    Expected("framing-hurts", "nll", ("bare", "framed"), "hurts", -0.4, known=True),
    Expected("oracle-helps-not", "nll", ("bare", "oracle"), "does_not_help", effect=0.0),
    Expected("framing-helps-less", "nll", ("random", "framed"), "hurts", -DELTA, (-0.3, 200)),
    Expected("separator-helps", "nll", ("bare", "separator"), "helps", 0.3),
)
# What an interval says, by the zones of its ends: A up to -DELTA, B to 0, C to DELTA, D beyond.
READINGS = {
    "AA": "reversed",
    "AB": "reversed",
    "AC": "short-of-margin",
    "AD": "open",
    "BB": "negligible",
    "BC": "negligible",
    "BD": "open",
    "CC": "negligible",
    "CD": "direction-only",
    "DD": "beyond-margin",
}
VERDICTS = {
    "one direction": {
        "reversed": "refuted",
        "short-of-margin": "refuted",
        "negligible": "refuted",
        "direction-only": "supported",
        "beyond-margin": "supported",
    },
    "does_not_help": {
        "reversed": "supported",
        "short-of-margin": "supported",
        "negligible": "supported",
        "beyond-margin": "refuted",
    },
}
WORDS = {
    "reversed": "the other way round: {other}",
    "short-of-margin": "does not {stem} by 0.09 or more; whether it {other} is open",
    "negligible": "too small to matter",
    "direction-only": "{side}, how much is open",
    "beyond-margin": "{side}, and by at least 0.09",
    "open": "cannot tell yet",
}


@functools.cache
def tokens() -> dict[str, list[list[float]]]:
    """Return token NLLs of every sample by condition: three tokens a sample."""
    rng = np.random.default_rng(20)
    bare = rng.gamma(4.0, 0.5, (N, 3))
    by_cluster = np.repeat(rng.normal(0, 0.15, CLUSTERS), EACH)[:, None]

    def moved(gain: float, spread: float) -> np.ndarray[Any, Any]:
        return bare - gain - by_cluster - rng.normal(0, spread, (N, 3))

    conditions = {
        "bare": bare,
        "random": moved(0.25, 0.4),
        "framed": moved(0.12, 0.3),
        "oracle": moved(0.02, 0.5),
        "separator": moved(0.05, 0.6),
        "bare_again": bare + rng.normal(0, 2e-2, (N, 3)),
        "rope_roundtrip(random)": bare + rng.normal(0, 1e-2, (N, 3)),
    }
    return {name: values.tolist() for name, values in conditions.items()}


def write_store(root: Path, model: str = MODEL) -> None:
    """Write the cell's rows as a run would have measured them, or as those of another model."""
    kind = kind_of("answer_nll")
    template = kind_template()
    rows = [
        {
            "model": model,
            "model_id": "0" * 64,
            "dtype": DTYPE,
            "tokenizer": "byte-level:0",
            "dataset": DATASET,
            "sample_id": f"s{sample:03}",
            "sample_hash": "0" * 32,
            "condition": condition,
            "seed": SEED,
            "template": template,
            "method": kind.method(condition),
            "code": kind.code,
            "status": "ok",
            "cluster": cluster_of(sample),
            "nll": float(np.mean(nlls)),
            "nll_tail": float(np.mean(nlls[1:])),
            "token_nlls": nlls,
            "n_answer_tokens": 3,
            "doc_len": 9,
            "prefix_len": 4,
            "cache_len": 10,
            "clean_boundary": 1,
        }
        for condition, samples in tokens().items()
        for sample, nlls in enumerate(samples)
    ]
    kind.store(root).write(pd.DataFrame(rows), {"device": "cpu"})


def kind_template() -> str:
    """Return the stored name of the target that claims score by default."""
    from kvcore.measurements.kinds.answer_nll import template_of

    return template_of("answer")


def cluster_of(sample: int) -> str:
    """Return the cluster of a sample."""
    return f"c{sample // EACH:02}"


def scores(condition: str, metric: str) -> np.ndarray[Any, Any]:
    """Return a condition's score of every sample, (clusters, samples of each)."""
    first = 1 if metric == "nll_tail" else 0
    means = np.array([np.mean(t[first:]) for t in tokens()[condition]])
    return means.reshape(CLUSTERS, EACH)


def interval_of(x: np.ndarray[Any, Any], statistic: Any, confidence: float) -> tuple[float, float]:
    """Return SciPy's BCa interval of a statistic of (clusters, samples), clusters resampled."""

    def drawn(indices: Any, axis: int) -> Any:
        rows = np.moveaxis(np.asarray(indices, dtype=int), axis, -1)
        return statistic(x[rows].reshape(*rows.shape[:-1], -1))

    result = sps.bootstrap(
        (np.arange(CLUSTERS, dtype=float),),
        drawn,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=confidence,
        rng=np.random.default_rng(SEED),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


@dataclass(frozen=True)
class Spread:
    """A statistic with what leaving out one cluster after another says of it."""

    value: float
    se: float
    effective: float
    excess: float  # kurtosis of the influences, 0 at least

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return value -+ t standard errors."""
        return tuple(sps.t.interval(confidence, self.df(CLUSTERS), self.value, self.se))

    def df(self, clusters: float) -> float:
        """Return the degrees of freedom of a variance over so many clusters (Satterthwaite)."""
        return 1 / (self.excess / clusters / 2 + 1 / max(clusters - 1, 1))


def jackknifed(x: np.ndarray[Any, Any], statistic: Any) -> Spread:
    """Return a statistic of (clusters, samples), and its spread over clusters."""
    value = float(statistic(x.ravel()))
    rest = [float(statistic(np.delete(x, i, axis=0).ravel())) for i in range(CLUSTERS)]
    squares = [(each - value) ** 2 for each in rest]
    se = math.sqrt(sum(squares) * (CLUSTERS - 1) / CLUSTERS)
    effective = sum(squares) ** 2 / sum(square**2 for square in squares)
    return Spread(value, se, effective, max(0.0, float(pd.Series(rest).kurt())))


def effect(x: Any) -> Any:
    """Return Cohen's d along the last axis."""
    return x.mean(axis=-1) / x.std(axis=-1, ddof=1)


def mean(x: Any) -> Any:
    """Return the mean along the last axis."""
    return x.mean(axis=-1)


@functools.cache
def floor_in_nats(metric: str, confidence: float) -> float:
    """Return the farthest end of the controls' mean differences."""
    bare = scores("bare", metric)
    ends = [
        jackknifed(bare - scores(name, metric), mean).interval(confidence)
        for name in ("bare_again", "rope_roundtrip(random)")
    ]
    return max(abs(end) for low_high in ends for end in low_high)


@functools.cache
def judged(expected: Expected, confidence: float = CONFIDENCE) -> dict[str, Any]:
    """Return every number and word that judging must give."""
    baseline, condition = expected.pair
    x = scores(baseline, expected.metric) - scores(condition, expected.metric)
    flat = x.ravel()
    spread, sd = jackknifed(x, effect), float(flat.std(ddof=1))
    low, high = spread.interval(confidence)
    drawn = interval_of(x, effect, confidence)
    nats = floor_in_nats(expected.metric, confidence)
    floor = nats / sd
    reading, verdict = read(expected, low, high, floor)
    required_n, planning = planned(expected, spread, confidence, floor)
    mean_low, mean_high = jackknifed(x, mean).interval(confidence)
    win, win_low, win_high = win_rate(x, confidence)
    shown = expected.published
    ledger = "known refuted (recorded 2026-01-02, n = 72)" if expected.known else ""
    outcomes = {"supported": "passed", "refuted": "failed", "inconclusive": "skipped"}
    return {
        "claim": expected.claim,
        "metric": expected.metric,
        "conditions": list(expected.pair),
        "value": spread.value,
        "ci_low": low,
        "ci_high": high,
        "confidence": confidence,
        "sd": sd,
        "se": spread.se,
        "effective": spread.effective,
        "df": spread.df(CLUSTERS),
        "beside": drawn,
        "floor": floor,
        "floor_nats": nats,
        "verdict": verdict,
        "reading": reading,
        "words": words(expected, reading),
        "p": p_value(expected, spread, verdict),
        "verdict_beside": read(expected, *drawn, floor)[1],
        "required_n": required_n if verdict == "inconclusive" else None,
        "planning": planning if verdict == "inconclusive" else "",
        "published": shown[0] if shown else None,
        "consistent": agrees(spread.value, low, high, confidence, shown) if expected.own else None,
        "ledger": ledger,
        "outcome": "xfailed" if ledger and verdict == "refuted" else outcomes[verdict],
        "details": {
            "mean benefit (nats/token)": float(flat.mean()),
            "mean, CI low": mean_low,
            "mean, CI high": mean_high,
            "median (nats/token)": float(np.median(flat)),
            "win rate": win,
            "win rate, CI low": win_low,
            "win rate, CI high": win_high,
            "pairs without a score": 0.0,
            **levels(expected),
        },
    }


def levels(expected: Expected) -> dict[str, float]:
    """Return mean, SD and median NLL of both conditions, by Python's own statistics."""
    shown = {}
    for condition in expected.pair:
        values = [float(x) for x in scores(condition, expected.metric).ravel()]
        shown[f"mean NLL, {condition} (nats/token)"] = statistics.fmean(values)
        shown[f"SD of NLL, {condition} (nats/token)"] = statistics.stdev(values)
        shown[f"median NLL, {condition} (nats/token)"] = statistics.median(values)
    return shown


def read(expected: Expected, low: float, high: float, floor: float) -> tuple[str, str]:
    """Return what an interval, widened by the noise floor, says, and the verdict of the claim."""
    ends = (low - floor, high + floor)
    if expected.predicts == "hurts":
        ends = (-ends[1], -ends[0])
    zones = ["ABCD"[bisect.bisect((-DELTA, 0.0, DELTA), end)] for end in ends]
    reading = READINGS["".join(zones)]
    verdicts = VERDICTS.get(expected.predicts, VERDICTS["one direction"])
    return reading, verdicts.get(reading, "inconclusive")


def words(expected: Expected, reading: str) -> str:
    """Return what came out, for people."""
    side, other = ("hurts", "helps") if expected.predicts == "hurts" else ("helps", "hurts")
    text = "{other}" if (expected.predicts, reading) == ("does_not_help", "reversed") else ""
    return (text or WORDS[reading]).format(side=side, other=other, stem=side[:-1])


def p_value(expected: Expected, spread: Spread, verdict: str) -> float:
    """Return twice the chance of an estimate so far on that side, were the truth on the edge."""
    sign = -1 if expected.predicts == "hurts" else 1
    above_0, above_margin = (
        float(sps.t.sf((sign * spread.value - edge) / spread.se, spread.df(CLUSTERS)))
        for edge in (0.0, DELTA)
    )
    support, refute = above_0, 1 - above_margin
    if expected.predicts == "does_not_help":
        support, refute = 1 - above_margin, above_margin
    sides = {"supported": (support,), "refuted": (refute,)}.get(verdict, (support, refute))
    return min(1.0, 2 * min(sides))


def q_values(ps: list[float]) -> list[float]:
    """Return Benjamini and Hochberg's q of each p: the least m p / rank from its place upwards."""
    m, ordered = len(ps), sorted(ps)
    return [
        min(m * other / rank for rank, other in enumerate(ordered, 1) if other >= p) for p in ps
    ]


def planned(
    expected: Expected, spread: Spread, confidence: float, floor: float
) -> tuple[int | None, str]:
    """Return the smallest n with the power for the effect written down, and that in words."""
    what, (low, high) = f"d = {expected.effect:g}", spread.interval(confidence)
    if not low <= expected.effect <= high:
        return None, f"the data contradict {what}, so no n is planned for it"

    # The variance that three in four pilots of these degrees of freedom stay below.
    pilot = spread.df(CLUSTERS)
    limit = spread.se * math.sqrt(pilot / float(sps.gamma.isf(0.75, pilot / 2, scale=2)))

    def enough(n: int) -> bool:
        se, df = limit * math.sqrt(N / n), spread.df(n / EACH)
        return power(expected, se, df, confidence, floor) >= POWER

    n = 20 * EACH + bisect.bisect_left(range(20 * EACH, 1_000_000), True, key=enough)
    if n <= N:
        return None, f"if {what}, the samples at hand would have settled it with 80%"
    return n, f"about {n:,} samples would settle it if {what}, at 80% power"


def power(expected: Expected, se: float, df: float, confidence: float, floor: float) -> float:
    """Return how often the verdict is right, for estimates that are normal around the effect.

    The estimates between which the verdict changes are searched for.
    """
    right = read(expected, expected.effect, expected.effect, 0.0)[1]
    half = float(sps.t.ppf((1 + confidence) / 2, df)) * se

    def verdict(z: float) -> str:
        at = expected.effect + z * se
        return read(expected, at - half, at + half, floor)[1]

    def change(low: float, high: float) -> float:
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if verdict(middle) == verdict(low) else (low, middle)
        return low

    grid = np.linspace(-9.0, 9.0, 301).tolist()
    changes = [change(a, b) for a, b in itertools.pairwise(grid) if verdict(a) != verdict(b)]
    return sum(
        float(sps.norm.cdf(b) - sps.norm.cdf(a))
        for a, b in itertools.pairwise([-9.0, *changes, 9.0])
        if verdict((a + b) / 2) == right
    )


def agrees(
    value: float, low: float, high: float, confidence: float, shown: tuple[float, int] | None
) -> bool | None:
    """Whether a value and a published d lie within what their errors allow."""
    if shown is None:
        return None
    theirs = math.sqrt(1 / shown[1] + shown[0] ** 2 / (2 * shown[1]))
    own = (high - low) / 2 / sps.norm.ppf((1 + confidence) / 2)
    return bool(abs(value - shown[0]) <= sps.norm.ppf(0.975) * math.hypot(own, theirs))


def win_rate(x: np.ndarray[Any, Any], confidence: float) -> tuple[float, float, float]:
    """Return the share above 0 with Korn and Graubard's interval."""
    wins = (x > 0).astype(float)
    p, tail = float(wins.mean()), (1 - confidence) / 2
    between = (wins - p).sum(axis=1)
    variance = CLUSTERS / (CLUSTERS - 1) * float((between**2).sum()) / N**2
    worth = p * (1 - p) / variance
    worth *= (sps.t.ppf(tail, N - 1) / sps.t.ppf(tail, CLUSTERS - 1)) ** 2
    n = min(float(N), max(1.0, worth))
    low = float(sps.beta.ppf(tail, p * n, n - p * n + 1))
    return p, low, float(sps.beta.ppf(1 - tail, p * n + 1, n - p * n))


def properties(expected: Expected, confidence: float = CONFIDENCE) -> Mapping[str, Any]:
    """Return the JUnit properties that do not depend on hashes, as numbers and words."""
    numbers = judged(expected, confidence)
    required_n, published = numbers["required_n"], numbers["published"]
    return {
        "claim": f"{expected.claim}@1",
        "model": MODEL,
        "revision": "as stored",
        "dataset": DATASET,
        "metric": expected.metric,
        "dtype": DTYPE,
        "n": N,
        "estimate": numbers["value"],
        "ci_low": numbers["ci_low"],
        "ci_high": numbers["ci_high"],
        "unit": "d",
        "confidence": confidence,
        "method": f"jackknife-t over {CLUSTERS} clusters",
        "published": "" if published is None else published,
        "margin": DELTA,
        "required_n": "" if required_n is None else required_n,
        "verdict": numbers["verdict"],
        "outcome": numbers["reading"],
        "words": numbers["words"],
        "p": numbers["p"],
        "verdict_beside": numbers["verdict_beside"],
        "informative_clusters": CLUSTERS,
        "look": "",
        "seed": SEED,
        "store": "store",
    }
