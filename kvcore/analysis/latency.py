"""When a model follows a new context: first tokens, censored where there is none.

A latency counts tokens behind the switch, the first one 1. Where what is looked for never happens
within the tokens that were followed, it is censored: it takes longer than the last token at which
it could have been seen, and the sequence still counts.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as sps

from kvcore.analysis.estimate import Estimate
from kvcore.analysis.interval import (
    DEFAULT_INTERVAL,
    IntervalSettings,
    check_confidence,
    resampled,
)
from kvcore.analysis.proportions import clustered_proportion
from kvcore.analysis.samples import Clusters, FloatArray, cluster_numbers
from kvcore.errors import KvError
from kvcore.io import digest

RUN = 5
"""Tokens for which the new context must stay the nearer one."""
QUANTILE = 0.95
"""Of control sequences' maxima: what no more than one in twenty exceeds."""
SPANS = ((1, 5), (6, 20), (21, math.inf))
"""First and last token, from 1, of the spans that `gaps` averages over."""
STABLE_VARIANCE, WINDOW = 0.1, 5
"""Variance of KL to oracle (nats squared) that counts as stable, over this many tokens."""
FOLDS = 5
ROUNDING = 1e-9  # of a product of shares: a half may come out as 0.5000000000000001


@dataclass(frozen=True)
class Latency:
    """Tokens until something happens, or how many passed without it."""

    # 1 or more where it happened; else the last at which it could have been seen: of the tokens
    # followed the last one, and where several in a row are needed the last such row's first.
    tokens: int
    happened: bool


def detection(kl_ignore: ArrayLike, threshold: float) -> Latency:
    """First token whose divergence from going on as before exceeds a threshold, in nats."""
    above = np.flatnonzero(_numbers("kl_ignore", kl_ignore) > threshold)
    return first_latency(above, np.size(kl_ignore))


def adaptation_by_ratio(logratio_ignore: ArrayLike, run: int = RUN) -> Latency:
    """First token from which each is likelier than it were without a switch, and stays so.

    The published definition: P(token | injected) / P(token | original) above 1. ``logratio_ignore``
    is its logarithm, (n,), in nats; it stays so where it does for ``run`` tokens, 1 or more.
    """
    likelier = _numbers("logratio_ignore", logratio_ignore) > 0
    return _first_run(likelier, run)


def adaptation(kl_oracle: ArrayLike, kl_ignore: ArrayLike, run: int = RUN) -> Latency:
    """First token of the first run, of 1 token or more, in which the new context is the nearer one.

    A second definition, over the whole distribution in place of the token that follows. Takes the
    divergences, (n,), in nats, from having had the new context all along and from not having it;
    the first must stay below the second.
    """
    oracle, ignore = _numbers("kl_oracle", kl_oracle), _numbers("kl_ignore", kl_ignore)
    if oracle.size != ignore.size:
        raise KvError(
            "kl_oracle and kl_ignore must be one number each per token; "
            f"got {oracle.size} and {ignore.size} divergences."
        )
    return _first_run(oracle < ignore, run)


def _first_run(holds: NDArray[np.bool_], run: int) -> Latency:
    """Return the first token from which something holds for so many tokens."""
    if run < 1:
        raise KvError(f"run must be 1 or more tokens; got run={run}.")
    starts = [i for i in range(holds.size - run + 1) if holds[i : i + run].all()]
    return first_latency(np.array(starts, dtype=np.int64), _windows(holds.size, run))


def correction(towards_oracle: ArrayLike, attribution: Sequence[str]) -> Latency:
    """First token of a free generation that is the new context's choice alone.

    ``towards_oracle`` is log P(token | oracle) - log P(token | ignore), (n,), in nats; the choice
    is ``"injected"``, ``"original"``, ``"mixed"`` or ``"neither"``.
    """
    towards = _numbers("towards_oracle", towards_oracle)
    chosen = np.array([name == "injected" for name in attribution], dtype=bool)
    return first_latency(np.flatnonzero(chosen & (towards > 0)), towards.size)


def stabilisation(values: ArrayLike, stable: float = STABLE_VARIANCE) -> Latency:
    """First token from which the variance over `WINDOW` tokens stays below a stable one.

    Of any number by token; by default of KL to oracle. With ddof 0; the window begins at the token.
    """
    x = _numbers("values", values)
    if x.size < WINDOW:
        return Latency(0, False)
    low = np.lib.stride_tricks.sliding_window_view(x, WINDOW).var(axis=1) < stable
    stays = np.logical_and.accumulate(low[::-1])[::-1]
    return first_latency(np.flatnonzero(stays), _windows(x.size, WINDOW))


def gaps(kl_oracle: ArrayLike) -> tuple[float, ...]:
    """Mean divergence from the oracle in each of `SPANS`, nats; NaN where no token lies in it."""
    x = _numbers("kl_oracle", kl_oracle)
    token = np.arange(1, x.size + 1)
    parts = (x[(token >= low) & (token <= high)] for low, high in SPANS)
    return tuple(float(part.mean()) if part.size else math.nan for part in parts)


def threshold(controls: Sequence[ArrayLike]) -> float:
    """Return the `QUANTILE`, over control sequences, of each sequence's largest divergence.

    The maximum, not each token: of the tokens of 64-token controls 5 % exceed a per-token
    percentile, so that nearly all controls would "detect" something.
    """
    maxima = [float(np.max(_numbers("control", x))) for x in controls if np.size(x)]
    if not maxima:
        raise KvError("controls must hold a sequence; got no control sequence, measure one first.")
    return float(np.quantile(maxima, QUANTILE))


def cross_fitted(ids: Sequence[str], controls: Sequence[ArrayLike]) -> FloatArray:
    """Return each sequence's threshold, (n,), taken from the controls of the other folds alone.

    The controls are divergences from ignore. The fold hangs on a sequence's name, so that what is
    judged and its own control never share one with the threshold.
    """
    fold = [int(digest("fold", name)[:8], 16) % FOLDS for name in ids]
    if len(set(fold)) < 2:
        raise KvError(f"controls must lie in two folds or more; got {len(ids)} in one, pass more.")
    by_fold = {
        f: threshold([c for c, g in zip(controls, fold, strict=True) if g != f]) for f in set(fold)
    }
    return np.array([by_fold[f] for f in fold])


@dataclass(frozen=True)
class Survival:
    """Kaplan-Meier estimate of how many have not got there yet; its arrays are (n,)."""

    tokens: FloatArray  # where the curve steps down
    # Share still waiting behind each step, with its interval.
    share: FloatArray
    low: FloatArray
    high: FloatArray
    median: float  # tokens until half have got there; infinite where fewer ever do


def survival(latencies: Sequence[Latency], confidence: float = 0.95) -> Survival:
    """Estimate the share that has not got there after so many tokens, censored ones included.

    By `scipy.stats.ecdf`; the interval is the log-log one, NaN where it is undefined.
    """
    check_confidence(confidence)
    if not latencies:
        raise KvError("latencies must hold one per sequence; got no latencies.")
    data = sps.CensoredData.right_censored(
        [x.tokens for x in latencies], [not x.happened for x in latencies]
    )
    curve = sps.ecdf(data).sf
    share = np.asarray(curve.probabilities, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # undefined where none or all are left
        interval = curve.confidence_interval(confidence, method="log-log")
    below = np.flatnonzero(share <= 0.5 + ROUNDING)
    return Survival(
        tokens=np.asarray(curve.quantiles, dtype=np.float64),
        share=share,
        low=np.asarray(interval.low.probabilities, dtype=np.float64),
        high=np.asarray(interval.high.probabilities, dtype=np.float64),
        median=float(curve.quantiles[below[0]]) if below.size else math.inf,
    )


def share_by(
    latencies: Sequence[Latency],
    tokens: int,
    clusters: Clusters = None,
    interval: IntervalSettings = DEFAULT_INTERVAL,
) -> Estimate:
    """Estimate the share that gets there within so many tokens, 1 or more, by Kaplan and Meier.

    A sequence that was not followed so far counts for as long as it was, not as a failure. Where
    every one was, this is the plain share with its exact interval, clustered. NaN, [0, 1], where
    the last of those still waiting was given up before. Where all that were followed so far came to
    the same, the interval is the exact one over them alone.
    """
    if tokens < 1:
        raise KvError(f"tokens must be 1 or more; got tokens={tokens}.")
    labels = cluster_numbers(clusters, len(latencies))
    arrived = np.array([x.happened and x.tokens <= tokens for x in latencies], dtype=bool)
    known = arrived | np.array([x.tokens >= tokens for x in latencies], dtype=bool)
    exact = clustered_proportion(arrived[known], labels[known], confidence=interval.confidence)
    if known.all():
        return exact
    share = resampled(
        _share_by(latencies, tokens, labels),
        labels,
        interval,
        unit="proportion",
        bounds=(0.0, 1.0),
    )
    if share.value in (0.0, 1.0):
        return replace(exact, method=f"{exact.method}, over those followed so far")
    # The commonest influence is that of whoever arrived before any was given up: they tell, too.
    return replace(share, method=f"Kaplan-Meier, {share.method}", informative=None)


def _share_by(
    latencies: Sequence[Latency], tokens: int, labels: NDArray[np.intp]
) -> Callable[[FloatArray], FloatArray]:
    """Return the share by a token as a function of how often each cluster counts, (..., k)."""
    shape = (int(labels.max()) + 1, tokens + 1)
    waiting, came = np.zeros(shape), np.zeros(shape)
    for x, label in zip(latencies, labels, strict=True):
        waiting[label, 1 : x.tokens + 1] += 1
        if x.happened and x.tokens <= tokens:
            came[label, x.tokens] += 1

    def share(counts: FloatArray) -> FloatArray:
        at_risk, events = counts @ waiting[:, 1:], counts @ came[:, 1:]
        left = 1 - np.divide(events, at_risk, out=np.zeros_like(events), where=at_risk > 0)
        surviving = left.prod(axis=-1)
        lost = (at_risk == 0).any(axis=-1) & (surviving > ROUNDING)
        return np.where(lost, np.nan, 1 - surviving)

    return share


def _windows(followed: int, length: int) -> int:
    """Return how many windows of so many tokens begin among those followed."""
    return max(followed - length + 1, 0)


def first_latency(indices: NDArray[np.int64], followed: int) -> Latency:
    """Return the first of the tokens, numbered from 0, or that none of those followed was it."""
    return Latency(int(indices[0]) + 1, True) if indices.size else Latency(int(followed), False)


def _numbers(name: str, values: ArrayLike) -> FloatArray:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or np.isnan(x).any():
        raise KvError(f"{name} must be one number per token, none of them NaN.")
    return x
