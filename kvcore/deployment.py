"""When to prime: the rule that follows from the findings, and what a gate is worth as a policy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from kvcore import stats
from kvcore.errors import KvError
from kvcore.stats import Estimate

MAX_TOKENS = 200
"""Document tokens beyond which no benefit was left (none was measured from 256 on)."""
MIN_NLL = 1.5
"""Bare NLL, nats per token, above which priming helps on average."""
MEASURED_TASK = "passage_qa"
"""The one task on which a benefit was found: a question answered in own words from a passage."""

# Task or domain, and the claim that speaks against priming it.
HARMED_TASKS = {
    "summarisation": "static-prefix-hurts-cnn-dailymail",
    "multi_hop": "static-prefix-hurts-hotpotqa",
    "extractive_qa": "static-prefix-does-not-help-squad",
}
UNVALIDATED_DOMAINS = ("scientific", "legal", "technical")
DOMAIN_CLAIM = "static-prefix-hurts-pubmedqa"
LENGTH_CLAIM = "no-benefit-from-256-tokens"
DEFAULT_CLAIM = "benefit-does-not-generalise"
GATE_CLAIM = "gate-beats-priming-everything"


@dataclass(frozen=True)
class Decision:
    """Whether to prime, why, and the claim whose verdict supports it."""

    prime: bool
    reason: str
    claim: str


def should_prime(
    passage_tokens: int,
    task: str,
    domain: str,
    bare_nll: float | None = None,
    *,
    validated: bool = False,
) -> Decision:
    """Decide whether a passage is worth priming.

    Parameters
    ----------
    passage_tokens : int
        Document tokens, 0 or more.
    task : str
        ``"passage_qa"``, ``"summarisation"``, ``"multi_hop"``, ``"extractive_qa"`` or any other,
        which counts as not measured. Case, ``-``, spaces and ``z`` for ``s`` make no difference.
    domain : str
        ``"scientific"``, ``"legal"`` and ``"technical"`` need ``validated``; others do not.
    bare_nll : float, optional
        NLL of answers over the unprimed cache, nats per token. Without it there is no priming.
    validated : bool
        Whether the benefit was measured on own data of this domain.

    Returns
    -------
    Decision
        Off by default: True only where nothing speaks against it and the bare NLL is above 1.5.

    Raises
    ------
    KvError
        A negative number of tokens, or an NLL that is negative or no number.

    Notes
    -----
    The rule of the priming study, as it stands. It gates on the *bare* NLL, which
    contains part of the benefit it predicts; what the gate is worth is judged by `policy_effect`
    with a hardness measured independently.
    """
    if passage_tokens < 0:
        raise KvError(f"should_prime: passage_tokens={passage_tokens}; pass 0 or more.")
    if bare_nll is not None and not 0 <= bare_nll < math.inf:
        raise KvError(f"should_prime: bare_nll={bare_nll}; pass nats per token >= 0, or None.")
    against = _against(passage_tokens, _spelled(task), _spelled(domain), bare_nll, validated)
    return against or Decision(
        True, f"a hard answer (bare NLL {bare_nll:.2f} > {MIN_NLL} nats/token), a short passage",
        GATE_CLAIM)


def _against(tokens: int, task: str, domain: str, bare_nll: float | None,
             validated: bool) -> Decision | None:
    """Return the first thing that speaks against priming, or None."""
    if task in HARMED_TASKS:
        return Decision(False, f"{task} gains nothing from priming or loses", HARMED_TASKS[task])
    if tokens > MAX_TOKENS:
        return Decision(False, f"{tokens} document tokens, more than {MAX_TOKENS}", LENGTH_CLAIM)
    if domain in UNVALIDATED_DOMAINS and not validated:
        return Decision(False, f"nobody has validated it on this {domain} domain", DOMAIN_CLAIM)
    if task != MEASURED_TASK:
        return Decision(False, f"off by default: {task or 'this task'} was not measured",
                        DEFAULT_CLAIM)
    if bare_nll is None:
        return Decision(False, "off by default: how hard the answer is was not measured",
                        GATE_CLAIM)
    if bare_nll <= MIN_NLL:
        return Decision(False, f"an easy answer (bare NLL {bare_nll:.2f} <= {MIN_NLL} nats/token)",
                        GATE_CLAIM)
    return None


def _spelled(name: str) -> str:
    plain = name.strip().casefold().replace("-", "_").replace(" ", "_")
    return plain.replace("summariz", "summaris")


# --- the gate as a policy ----------------------------------------------------------------------


@dataclass(frozen=True)
class PolicyEffect:
    """What priming only above a threshold of hardness is worth, over all samples.

    Parameters
    ----------
    policy : Estimate
        Mean benefit (nats/token) where unprimed samples count 0: against priming nothing.
    everything : Estimate
        Mean benefit of priming every sample.
    gain : Estimate
        policy - everything, paired: positive where the gate beats priming everything.
    gain_d : Estimate
        The same in SDs of the paired differences (Cohen's d).
    primed : Estimate
        Share of samples above the threshold.
    """

    policy: Estimate
    everything: Estimate
    gain: Estimate
    gain_d: Estimate
    primed: Estimate


def policy_benefit(benefit: ArrayLike, hardness: ArrayLike, threshold: float) -> float:
    """Mean benefit, nats per token, of priming only what is harder than a threshold.

    Parameters
    ----------
    benefit : array, (n,)
        NLL(bare) - NLL(primed) of every sample. Unprimed samples count 0, they are not left out.
    hardness : array, (n,)
        Must be measured *independently* of the benefit: NLL without the document, or of the odd
        answer tokens where the benefit is that of the even ones. Bare NLL is part of the benefit,
        so that a gate on it looks good by arithmetic alone.
    threshold : float
        Primed where hardness > threshold.

    Returns
    -------
    float
        NaN without samples; pairs with a NaN are left out.
    """
    x, hard = _pairs(benefit, hardness)
    kept = gated(x, hard, threshold)[~np.isnan(x + hard)]
    return float(np.mean(kept)) if kept.size else math.nan


def gated(benefit: ArrayLike, hardness: ArrayLike, threshold: float) -> stats.FloatArray:
    """Benefit of each sample under the gate: its own above the threshold, else 0; NaN stays."""
    x, hard = _pairs(benefit, hardness)
    if math.isnan(threshold):
        raise KvError("policy: the threshold is NaN; pass nats per token.")
    return np.where(np.isnan(x + hard), np.nan, np.where(hard > threshold, x, 0.0))


def _pairs(benefit: ArrayLike, hardness: ArrayLike) -> tuple[stats.FloatArray, stats.FloatArray]:
    x, hard = (np.asarray(v, dtype=np.float64) for v in (benefit, hardness))
    if x.shape != hard.shape or x.ndim != 1:
        raise KvError(f"policy: benefit has shape {x.shape}, hardness {hard.shape}; pass one number"
                      " of each per sample.")
    return x, hard


def policy_effect(
    benefit: ArrayLike,
    hardness: ArrayLike,
    threshold: float,
    clusters: stats.Clusters = None,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = stats.RESAMPLES,
) -> PolicyEffect:
    """Compare priming above a threshold of hardness with priming everything, and with nothing.

    Parameters
    ----------
    benefit, hardness, threshold
        As `policy_benefit`; a threshold chosen on the same samples flatters the gate.
    clusters : sequence, (n,), optional
        Label of the unit each sample is resampled with; None means every sample is its own.
    confidence : float
        Level of the intervals.
    seed, resamples : int
        Of the bootstrap.

    Returns
    -------
    PolicyEffect
        All over the samples in which neither number is NaN, on the same resamples.
    """
    x, hard = _pairs(benefit, hardness)
    policy = gated(x, hard, threshold)
    everything = np.where(np.isnan(policy), np.nan, x)
    primed = np.where(np.isnan(policy), np.nan, hard > threshold)
    # The comparison's baseline is priming everything, so that positive means the gate is better.
    paired = stats.paired_effect(-everything, -policy, clusters, confidence=confidence, seed=seed,
                                 resamples=resamples)
    means = [stats.mean_difference(v, clusters, confidence=confidence, seed=seed,
                                   resamples=resamples) for v in (policy, everything)]
    labels = np.arange(x.size) if clusters is None else clusters
    share = stats.clustered_proportion(primed, labels, confidence=confidence)
    return PolicyEffect(means[0], means[1], paired.mean, paired.d, share)
