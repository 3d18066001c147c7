"""How far apart two views' next-token distributions lie, with the tail as one bucket.

A view is a condition, a dtype or a model. Of each distribution the k likeliest tokens are kept
and the mass of all others, so that two of them can be compared exactly on what they share: the
tokens that both keep, and everything else as one bucket. That is a coarsening of both, so by the
data-processing inequality each number here is at most that of the full distributions, and it
grows to it as k goes to the size of the vocabulary.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import special

from kvcore.cache.kv_cache import KVCache
from kvcore.conditions.parse import condition
from kvcore.conditions.recipes import Condition, Recipe
from kvcore.data.sample import Sample
from kvcore.engine import batching, build, forward, limits, prepared
from kvcore.engine.prepared import PreparedSample
from kvcore.errors import KvError, unknown
from kvcore.models.lm import LM

TOP = 256
NUMBERS = ("js", "kl", "kl_back", "kept_first", "kept_second")
COLUMNS = ("sample_id", "first", "second", "status", *NUMBERS)
Unit = Literal["nats", "bits"]
FloatArray = NDArray[np.float64]
View = tuple[int, str]
"""The number of a sample and the name of a condition."""


@dataclass(frozen=True, eq=False)
class Distribution:
    """A next-token distribution: its likeliest tokens and one bucket for all others.

    - `ids`: (k,) int64; token ids, ascending.
    - `log_probs`: (k,) float64; natural logarithms of their probabilities.
    - `log_rest`: natural logarithm of the mass of all other tokens, summed from their own
      probabilities rather than as 1 minus the others, which would cancel; -inf where there is none.
    """

    ids: NDArray[np.int64]
    log_probs: FloatArray
    log_rest: float

    @property
    def kept(self) -> float:
        """Mass of the tokens that are kept, 0 .. 1."""
        return float(np.exp(special.logsumexp(self.log_probs)))

    def only(self, ids: NDArray[np.int64]) -> Distribution:
        """Return the distribution with only some of its tokens kept, the others in the bucket."""
        inside = np.isin(self.ids, ids)
        rest = special.logsumexp(np.append(self.log_probs[~inside], self.log_rest))
        return Distribution(self.ids[inside], self.log_probs[inside], float(rest))

    def masses(self) -> FloatArray:
        """Return the probabilities, the bucket's last; they sum to 1 up to rounding."""
        return np.asarray(np.exp(np.append(self.log_probs, self.log_rest)), dtype=np.float64)


def of_logits(logits: torch.Tensor, k: int = TOP) -> list[Distribution]:
    """Return the distribution behind every row of logits, (n, vocab), computed in float64.

    Raises KvError for k below 1.
    """
    if k < 1:
        raise _bad_k(k)
    views = []
    for row in logits:
        log_probs = torch.log_softmax(row.double(), dim=-1)
        order = torch.sort(log_probs, descending=True, stable=True).indices
        ids, others = order[:k].sort().values, order[k:]
        rest = float(torch.logsumexp(log_probs[others], 0)) if len(others) else -math.inf
        views.append(Distribution(ids.cpu().numpy(), log_probs[ids].cpu().numpy(), rest))
    return views


def _bad_k(k: int) -> KvError:
    return KvError(f"k={k} must be 1 or more: it is how many tokens are kept.")


def shared(p: Distribution, q: Distribution) -> tuple[FloatArray, FloatArray]:
    """Return both distributions on the tokens that both keep, and the rest as one bucket."""
    both = np.intersect1d(p.ids, q.ids, assume_unique=True)
    return p.only(both).masses(), q.only(both).masses()


def js(p: Distribution, q: Distribution, unit: Unit = "nats") -> float:
    """Jensen-Shannon divergence on the shared tokens and one bucket.

    From 0 to ln 2 nats (0 to 1 bit); symmetric; 0 exactly where the two agree on that partition.
    At most the divergence of the full distributions.

    Raises KvError for an unknown unit.
    """
    a, b = shared(p, q)
    middle = (a + b) / 2
    both = float(np.sum(special.rel_entr(a, middle)) + np.sum(special.rel_entr(b, middle)))
    return min(max(both / 2, 0.0), math.log(2)) / _scale(unit)


def kl(p: Distribution, q: Distribution, unit: Unit = "nats") -> float:
    """Kullback-Leibler divergence of q from p on the shared tokens and one bucket.

    From 0 to infinity; infinite only where q gives the bucket no mass and p does. At most the
    divergence of the full distributions.

    Raises KvError for an unknown unit.
    """
    a, b = shared(p, q)
    return max(float(np.sum(special.rel_entr(a, b))), 0.0) / _scale(unit)


def _scale(unit: str) -> float:
    if unit not in ("nats", "bits"):
        raise unknown("unit", unit, ("nats", "bits"))
    return math.log(2) if unit == "bits" else 1.0


def between(
    lm: LM,
    samples: Iterable[Sample],
    pairs: Iterable[tuple[str | Condition, str | Condition]],
    *,
    other: LM | None = None,
    k: int = TOP,
    seed: int = 0,
    unit: Unit = "nats",
    batch_tokens: int | None = None,
) -> pd.DataFrame:
    """Compare the next-token distributions of pairs of conditions, sample by sample.

    Parameters
    ----------
    samples : iterable of Sample
        What is predicted is the first token behind the question.
    pairs : iterable of (condition, condition)
        Views to compare, by name or as conditions.
    other : LM, optional
        The model of the second views: another dtype or model with the same vocabulary.
    k : int
        Tokens kept of each distribution.
    seed : int
        Of random prefixes.
    unit : {"nats", "bits"}
    batch_tokens : int, optional
        Most tokens in one prefill; changes speed, never a number beyond rounding.

    Returns
    -------
    pandas.DataFrame
        One row per sample and pair: `sample_id`, `first`, `second` (names), `status` (``"ok"`` or
        why it could not be measured), `js`, `kl` (of the second from the first), `kl_back` and
        the mass that each view's kept tokens have.

    Raises
    ------
    KvError
        An unknown condition, or a second model with another vocabulary.

    Notes
    -----
    Exact: batching changes a divergence by rounding only. The logits' own rounding (about 1e-6
    in float32) leaves about 1e-12 nats.
    """
    if k < 1:
        raise _bad_k(k)
    views = [(condition(a), condition(b)) for a, b in pairs]
    listed = list(samples)
    read = partial(next_token_distributions, k=k, seed=seed, batch_tokens=batch_tokens)
    if other is None:  # each view is read once, so that none diverges from itself
        both = [view for pair in views for view in pair]
        firsts = seconds = read(lm, listed, both)
    else:
        _check_same_vocabulary(lm, other)
        firsts = read(lm, listed, [first for first, _ in views])
        seconds = read(other, listed, [second for _, second in views])
    rows = [
        {
            "sample_id": sample.id,
            "first": first.name,
            "second": second.name,
            **_numbers(firsts[number, first.name], seconds[number, second.name], unit),
        }
        for number, sample in enumerate(listed)
        for first, second in views
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _numbers(p: Distribution | str, q: Distribution | str, unit: Unit) -> dict[str, Any]:
    """Return what a row says of two views, or why one of them could not be measured."""
    if isinstance(p, str) or isinstance(q, str):
        reason = p if isinstance(p, str) else q
        return {"status": reason} | dict.fromkeys(NUMBERS, math.nan)
    numbers = js(p, q, unit), kl(p, q, unit), kl(q, p, unit), p.kept, q.kept
    return {"status": "ok"} | dict(zip(NUMBERS, numbers, strict=True))


def next_token_distributions(
    lm: LM,
    samples: Sequence[Sample],
    conditions: Iterable[Condition],
    *,
    k: int = TOP,
    seed: int = 0,
    batch_tokens: int | None = None,
) -> dict[View, Distribution | str]:
    """Return the distribution of the first token behind each sample's question.

    They are by the sample's number and the condition's name; where a sample cannot be measured, the
    reason stands in the distribution's place.
    """
    # 1. Refuse what the model cannot do exactly, and tokenize.
    distinct = list(dict.fromkeys(conditions))
    prepared.check_conditions(lm, distinct)
    views: dict[View, Distribution | str] = {}
    samples_read: dict[int, PreparedSample] = {}
    usable: dict[int, list[Condition]] = {}
    for number, sample in enumerate(samples):
        for each, ready in prepared.prepare_sample(lm, sample, "answer", distinct, seed):
            if isinstance(ready, str):
                views[number, each.name] = ready
            else:
                samples_read[number] = ready
                usable.setdefault(number, []).append(each)

    # 2. Read batch by batch; the A/A control in batches half as large, with other neighbours.
    budget, _ = limits.pass_limits(lm, batch_tokens)
    for control in (False, True):
        own = {n: [c for c in some if c.aa_control == control] for n, some in usable.items()}
        most = budget // 2 if control else budget
        for batch in _batches(samples_read, own, most, shuffled=control):
            views |= _read(lm, {n: samples_read[n] for n in batch}, own[batch[0]], k)
    return views


def _batches(
    samples: Mapping[int, PreparedSample],
    conditions: Mapping[int, Sequence[Condition]],
    budget: int,
    *,
    shuffled: bool,
) -> Iterator[list[int]]:
    """Cut samples under the same conditions into batches of about the same length."""
    alike: dict[tuple[str, ...], list[int]] = {}
    for number, own in conditions.items():
        if own:
            alike.setdefault(tuple(c.name for c in own), []).append(number)
    for numbers in alike.values():
        sizes = {n: max(samples[n].length(c) for c in conditions[n]) for n in numbers}
        names = {n: samples[n].tokens.sample_id.encode("utf-8", "replace") for n in numbers}
        keys = {n: hashlib.sha256(names[n]).digest() if shuffled else names[n] for n in numbers}
        ordered = sorted(numbers, key=lambda n: (0 if shuffled else sizes[n], keys[n]))
        for start, stop in batching.cut_by_budget([sizes[n] for n in ordered], budget):
            yield ordered[start:stop]


def _read(
    lm: LM, samples: Mapping[int, PreparedSample], conditions: Sequence[Condition], k: int
) -> dict[View, Distribution | str]:
    """Build the caches of a batch and read the question on top of each."""
    group = list(samples.values())
    at = (range(len(group)), [len(sample.tokens.prompt) - 1 for sample in group])
    built: dict[Recipe, KVCache] = {}
    views: dict[View, Distribution | str] = {}
    for each in conditions:
        cache = build.build(lm, each.recipe, built, group)
        logits = forward.logits(lm, build.query_input(lm, cache, group), at)
        for number, view in zip(samples, of_logits(logits, k), strict=True):
            finite = bool(np.isfinite(view.log_probs).any())
            views[number, each.name] = view if finite else "the model's logits are not finite"
    return views


def _check_same_vocabulary(lm: LM, other: LM) -> None:
    sizes = {lm.config.vocab_size, other.config.vocab_size}
    if len(sizes) > 1 or lm.tokenizer.get_vocab() != other.tokenizer.get_vocab():
        raise KvError(
            f"{lm.name} and {other.name} have other vocabularies; compare models with one "
            "tokenizer."
        )
