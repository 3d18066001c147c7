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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import special

from kvcore.conditions.parse import condition
from kvcore.conditions.recipes import Condition
from kvcore.data.sample import Sample
from kvcore.engine import build, forward, limits, prepared
from kvcore.engine.prepared import PreparedSample
from kvcore.errors import KvError, unknown
from kvcore.models.lm import LM

TOP = 256
COLUMNS = (
    "sample_id",
    "first",
    "second",
    "status",
    "js",
    "kl",
    "kl_back",
    "kept_first",
    "kept_second",
)
Unit = Literal["nats", "bits"]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Distribution:
    """A next-token distribution: its likeliest tokens and one bucket for all others.

    Attributes
    ----------
    ids : (k,) int64
        Token ids, ascending.
    log_probs : (k,) float64
        Natural logarithms of their probabilities.
    log_rest : float
        Natural logarithm of the mass of all other tokens, summed from their own probabilities
        rather than as 1 minus the others, which would cancel; -inf where there is none.
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

    Raises
    ------
    KvError
        For k below 1.
    """
    if k < 1:
        raise KvError(f"divergence: k={k}; pass 1 or more tokens to keep.")
    made = []
    for row in logits:
        log_probs = torch.log_softmax(row.double(), dim=-1)
        order = torch.sort(log_probs, descending=True, stable=True).indices
        ids, others = order[:k].sort().values, order[k:]
        rest = float(torch.logsumexp(log_probs[others], 0)) if len(others) else -math.inf
        made.append(Distribution(ids.cpu().numpy(), log_probs[ids].cpu().numpy(), rest))
    return made


def shared(p: Distribution, q: Distribution) -> tuple[FloatArray, FloatArray]:
    """Return both distributions on the tokens that both keep, and the rest as one bucket."""
    both = np.intersect1d(p.ids, q.ids, assume_unique=True)
    return p.only(both).masses(), q.only(both).masses()


def js(p: Distribution, q: Distribution, unit: Unit = "nats") -> float:
    """Jensen-Shannon divergence on the shared tokens and one bucket.

    Returns
    -------
    float
        0 to ln 2 nats (0 to 1 bit); symmetric; 0 exactly where the two agree on that partition.
        At most the divergence of the full distributions.

    Raises
    ------
    KvError
        An unknown unit.
    """
    a, b = shared(p, q)
    middle = (a + b) / 2
    found = float(np.sum(special.rel_entr(a, middle)) + np.sum(special.rel_entr(b, middle))) / 2
    return min(max(found, 0.0), math.log(2)) / _scale(unit)


def kl(p: Distribution, q: Distribution, unit: Unit = "nats") -> float:
    """Kullback-Leibler divergence of q from p on the shared tokens and one bucket.

    Returns
    -------
    float
        0 to infinity; infinite only where q gives the bucket no mass and p does. At most the
        divergence of the full distributions.

    Raises
    ------
    KvError
        An unknown unit.
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
    lm : LM
        From `kvcore.load`.
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
    listed = [(condition(a), condition(b)) for a, b in pairs]
    chosen = list(samples)
    if other is not None:
        _check_same_vocabulary(lm, other)
    if other is None:  # each view is read once, so that none diverges from itself
        firsts = seconds = _views(
            lm, chosen, [c for pair in listed for c in pair], k, seed, batch_tokens
        )
    else:
        firsts = _views(lm, chosen, [a for a, _ in listed], k, seed, batch_tokens)
        seconds = _views(other, chosen, [b for _, b in listed], k, seed, batch_tokens)
    rows = []
    for number, sample in enumerate(chosen):
        for a, b in listed:
            p, q = firsts[number, a.name], seconds[number, b.name]
            rows.append(
                {"sample_id": sample.id, "first": a.name, "second": b.name, **_compared(p, q, unit)}
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _compared(p: Distribution | str, q: Distribution | str, unit: Unit) -> dict[str, Any]:
    for view in (p, q):
        if isinstance(view, str):
            return {"status": view} | dict.fromkeys(COLUMNS[4:], math.nan)
    assert isinstance(p, Distribution)
    assert isinstance(q, Distribution)
    return {
        "status": "ok",
        "js": js(p, q, unit),
        "kl": kl(p, q, unit),
        "kl_back": kl(q, p, unit),
        "kept_first": p.kept,
        "kept_second": q.kept,
    }


def next_token(
    lm: LM,
    samples: Sequence[Sample],
    conditions: Iterable[str | Condition],
    *,
    k: int = TOP,
    seed: int = 0,
    batch_tokens: int | None = None,
) -> list[dict[str, Distribution | str]]:
    """Return each sample's next-token distribution behind the question, by condition's name.

    Where a sample cannot be measured the reason stands in the distribution's place. Cost: the
    prefills of `kvcore.score`, and one short pass per condition.
    """
    chosen = [condition(c) for c in conditions]
    found = _views(lm, samples, chosen, k, seed, batch_tokens)
    return [{c.name: found[number, c.name] for c in chosen} for number in range(len(samples))]


def _views(
    lm: LM,
    samples: Sequence[Sample],
    chosen: Iterable[Condition],
    k: int,
    seed: int,
    batch_tokens: int | None,
) -> dict[tuple[int, str], Distribution | str]:
    """Return every distribution by (number of the sample, name of the condition)."""
    conditions = list(dict.fromkeys(chosen))
    prepared.check_conditions(lm, conditions)
    budget = batch_tokens or limits.BATCH_TOKENS.get(lm.device.type, 4096)
    found: dict[tuple[int, str], Distribution | str] = {}
    ready: dict[int, PreparedSample] = {}
    usable: dict[int, list[Condition]] = {}
    for number, sample in enumerate(samples):
        for given, one in prepared.prepare_sample(lm, sample, "answer", conditions, seed):
            if isinstance(one, str):
                found[number, given.name] = one
            else:
                ready[number] = one
                usable.setdefault(number, []).append(given)
    for again in (False, True):  # the A/A control meets other batch partners
        some = {n: [c for c in given if c.aa_control == again] for n, given in usable.items()}
        for part in _batches(ready, some, budget // 2 if again else budget, again):
            found |= _read(lm, {n: ready[n] for n in part}, some[part[0]], k)
    return found


def _batches(
    ready: dict[int, PreparedSample],
    usable: dict[int, list[Condition]],
    budget: int,
    shuffled: bool,
) -> Iterator[list[int]]:
    """Cut samples with the same conditions into batches of about the same length."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, given in usable.items():
        if given:
            groups.setdefault(tuple(c.name for c in given), []).append(number)
    for numbers in groups.values():
        sizes = {n: max(ready[n].length(c) for c in usable[n]) for n in numbers}
        part: list[int] = []
        for number in sorted(numbers, key=lambda n: _place(ready[n], sizes[n], shuffled)):
            if part and (len(part) + 1) * max(sizes[n] for n in (*part, number)) > budget:
                yield part
                part = []
            part.append(number)
        yield part


def _place(one: PreparedSample, size: int, shuffled: bool) -> tuple[Any, ...]:
    name = one.tokens.sample_id.encode("utf-8", "replace")
    return (hashlib.sha256(name).digest(),) if shuffled else (size, name)


def _read(
    lm: LM, group: dict[int, PreparedSample], conditions: Sequence[Condition], k: int
) -> dict[tuple[int, str], Distribution | str]:
    """Build the caches of a group and read the question on top of each."""
    ones = list(group.values())
    columns = [len(one.tokens.prompt) - 1 for one in ones]
    made: dict[Any, Any] = {}
    found: dict[tuple[int, str], Distribution | str] = {}
    for given in conditions:
        cache = build.build(lm, given.recipe, made, ones)
        asked = build.query_input(lm, cache, ones)
        logits = forward.logits(lm, asked, (range(len(ones)), columns))
        for number, view in zip(group, of_logits(logits, k), strict=True):
            finite = bool(np.isfinite(view.log_probs).any())
            found[number, given.name] = view if finite else "the model's logits are not finite"
    return found


def _check_same_vocabulary(lm: LM, other: LM) -> None:
    if lm.tokenizer.get_vocab() != other.tokenizer.get_vocab() or (
        lm.config.vocab_size != other.config.vocab_size
    ):
        raise KvError(
            f"divergence: {lm.name} and {other.name} have other vocabularies; compare "
            "models with one tokenizer."
        )
