"""When to prime: the rule that follows from the findings, and what a gate is worth as a policy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from kvcore.analysis.estimate import Estimate
from kvcore.analysis.interval import DEFAULT_INTERVAL, IntervalSettings
from kvcore.analysis.paired import mean_difference, paired_effect
from kvcore.analysis.proportions import clustered_proportion
from kvcore.analysis.samples import Clusters, FloatArray
from kvcore.errors import KvError

MAX_TOKENS = 200
"""Document tokens beyond which no benefit was left (none was measured from 256 on)."""
MIN_NLL = 1.5
"""Bare NLL, nats per token, above which priming helps on average."""
GENERATIVE_TASKS = (
    *("passage_qa", "generative_qa", "abstractive_qa", "free_form_qa", "long_form_qa", "open_qa"),
)
"""Names of the tasks that the rule gates: a question answered in own words from a passage."""

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

    Off by default: True only where nothing speaks against it and the bare NLL is above 1.5.

    Parameters
    ----------
    passage_tokens : int
        Document tokens, 0 or more.
    task : str
        One of `GENERATIVE_TASKS` such as ``"passage_qa"``, which are gated; one of `HARMED_TASKS`:
        ``"summarisation"``, ``"multi_hop"``, ``"extractive_qa"``; or any other, which counts as
        not measured. Case, ``-``, spaces and ``z`` for ``s`` make no difference.
    domain : str
        ``"scientific"``, ``"legal"`` and ``"technical"`` need ``validated``; others do not.
    bare_nll : float, optional
        NLL of answers over the unprimed cache, nats per token. Without it there is no priming.
    validated : bool
        Whether the benefit was measured on own data of this domain.

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
        raise KvError(f"passage_tokens must be 0 or more; got passage_tokens={passage_tokens}.")
    if bare_nll is not None and not 0 <= bare_nll < math.inf:
        raise KvError(f"bare_nll must be nats per token >= 0, or None; got bare_nll={bare_nll}.")
    against = _against(passage_tokens, _spelled(task), _spelled(domain), bare_nll, validated)
    if against:
        return Decision(False, *against)
    reason = f"a hard answer (bare NLL {bare_nll:.2f} > {MIN_NLL} nats/token), a short passage"
    return Decision(True, reason, GATE_CLAIM)


def _against(
    tokens: int, task: str, domain: str, bare_nll: float | None, validated: bool
) -> tuple[str, str] | None:
    """Return the first thing that speaks against priming, and its claim, or None."""
    if task in HARMED_TASKS:
        return f"{task} gains nothing from priming or loses", HARMED_TASKS[task]
    if tokens > MAX_TOKENS:
        return f"{tokens} document tokens, more than {MAX_TOKENS}", LENGTH_CLAIM
    if domain in UNVALIDATED_DOMAINS and not validated:
        return f"nobody has validated it on this {domain} domain", DOMAIN_CLAIM
    if task not in GENERATIVE_TASKS:
        return f"off by default: {task or 'this task'} was not measured", DEFAULT_CLAIM
    if bare_nll is None:
        return "off by default: how hard the answer is was not measured", GATE_CLAIM
    if bare_nll <= MIN_NLL:
        return f"an easy answer (bare NLL {bare_nll:.2f} <= {MIN_NLL} nats/token)", GATE_CLAIM
    return None


def _spelled(name: str) -> str:
    plain = name.strip().casefold().replace("-", "_").replace(" ", "_")
    return plain.replace("summariz", "summaris")


# --- the gate as a policy ----------------------------------------------------------------------


@dataclass(frozen=True)
class PolicyEffect:
    """What priming only above a threshold of hardness is worth, over all samples."""

    # Mean benefit (nats/token) where unprimed samples count 0: against priming nothing.
    policy: Estimate
    everything: Estimate  # mean benefit of priming every sample
    gain: Estimate  # policy - everything, paired: positive where the gate beats priming everything
    gain_d: Estimate  # the same in SDs of the paired differences (Cohen's d)
    primed: Estimate  # share of samples above the threshold


def gated(benefit: ArrayLike, hardness: ArrayLike, threshold: float) -> FloatArray:
    """Benefit of each sample, (n,), under the gate: its own above the threshold, else 0; NaN stays.

    Hardness must be measured *independently* of the benefit: NLL without the document, or of the
    odd answer tokens where the benefit is that of the even ones. Bare NLL is part of the benefit,
    so that a gate on it looks good by arithmetic alone.
    """
    x, hard = _pairs(benefit, hardness)
    if math.isnan(threshold):
        raise KvError("threshold must be nats per token; got NaN.")
    return np.where(np.isnan(x + hard), np.nan, np.where(hard > threshold, x, 0.0))


def _pairs(benefit: ArrayLike, hardness: ArrayLike) -> tuple[FloatArray, FloatArray]:
    x, hard = (np.asarray(v, dtype=np.float64) for v in (benefit, hardness))
    if x.shape != hard.shape or x.ndim != 1:
        raise KvError(
            "benefit and hardness must be one number of each per sample; "
            f"got shapes {x.shape} and {hard.shape}."
        )
    return x, hard


def policy_effect(
    benefit: ArrayLike,
    hardness: ArrayLike,
    threshold: float,
    clusters: Clusters = None,
    interval: IntervalSettings = DEFAULT_INTERVAL,
) -> PolicyEffect:
    """Compare priming above a threshold of hardness with priming everything, and with nothing.

    All over the samples in which neither number is NaN, on the same samples. See `gated`; a
    threshold chosen on the same samples flatters the gate.
    """
    x, hard = _pairs(benefit, hardness)
    policy = gated(x, hard, threshold)
    everything = np.where(np.isnan(policy), np.nan, x)
    primed = np.where(np.isnan(policy), np.nan, hard > threshold)
    # The comparison's baseline is priming everything, so that positive means the gate is better.
    paired = paired_effect(-everything, -policy, clusters, interval)
    labels = np.arange(x.size) if clusters is None else clusters
    return PolicyEffect(
        policy=mean_difference(policy, clusters, interval.alone),
        everything=mean_difference(everything, clusters, interval.alone),
        gain=paired.mean,
        gain_d=paired.d,
        primed=clustered_proportion(primed, labels, confidence=interval.confidence),
    )
