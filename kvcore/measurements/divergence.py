"""How far apart two views' next-token distributions lie, with the tail as one bucket.

A view is a condition, a dtype or a model. Two distributions are compared on the tokens that are
among the k likeliest of either, and on everything else as one bucket. That is a coarsening of
both, so by the data-processing inequality each number here is at most that of the full
distributions, and it grows with k until it is theirs at the size of the vocabulary. Where the two
share none of their likely tokens, Jensen-Shannon's is ln 2, less what lies in the bucket.
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
HELD = 2**28  # logits of all views that are held at once, on the host
FEWEST = 32  # samples that are read together whatever they take: controls need other neighbours
NUMBERS = ("js", "kl", "kl_back", "kept_first", "kept_second")
COLUMNS = ("sample_id", "first", "second", "status", *NUMBERS)
Unit = Literal["nats", "bits"]
FloatArray = NDArray[np.float64]
View = tuple[int, str]
"""The number of a sample and the name of a condition."""


@dataclass(frozen=True, eq=False)
class Distribution:
    """A next-token distribution and its likeliest tokens.

    - `ids`: (k,) int64; the likeliest tokens, ascending.
    - `logits`: (vocab,), as the model made them, in float32 or float64.
    - `log_total`: natural logarithm of the sum of their exponentials, computed in float64.
    """

    ids: NDArray[np.int64]
    logits: NDArray[np.floating[Any]]
    log_total: float

    @property
    def log_probs(self) -> FloatArray:
        """Natural logarithms of the likeliest tokens' probabilities, (k,)."""
        return self._log_probs(self.ids)

    @property
    def kept(self) -> float:
        """Mass of the likeliest tokens, 0 .. 1."""
        return float(np.exp(special.logsumexp(self.log_probs)))

    def masses(self, ids: NDArray[np.int64]) -> FloatArray:
        """Return some tokens' probabilities and, last, that of all others as one bucket.

        They sum to 1 up to rounding. The bucket's is summed from its own tokens' rather than as 1
        minus the others, which would cancel.
        """
        others = np.delete(self.logits, ids).astype(np.float64)
        rest = special.logsumexp(others) - self.log_total if others.size else -math.inf
        return np.asarray(np.exp(np.append(self._log_probs(ids), rest)), dtype=np.float64)

    def _log_probs(self, ids: NDArray[np.int64]) -> FloatArray:
        return np.asarray(self.logits[ids].astype(np.float64) - self.log_total)


def of_logits(logits: torch.Tensor, k: int = TOP) -> list[Distribution]:
    """Return the distribution behind every row of logits, (n, vocab), computed in float64.

    Of tokens that are equally likely the one with the lower id is kept first.

    Raises KvError for k below 1.
    """
    if k < 1:
        raise _bad_k(k)
    tops, totals = [], []
    for row in logits:
        order = torch.sort(row, descending=True, stable=True).indices
        tops.append(order[:k].sort().values)
        totals.append(torch.logsumexp(row.double(), 0))
    if not tops:
        return []
    host = logits if logits.dtype == torch.float64 else logits.float()
    rows, ids, sums = (x.cpu().numpy() for x in (host, torch.stack(tops), torch.stack(totals)))
    return [
        Distribution(own, row, float(total))
        for own, row, total in zip(ids, rows, sums, strict=True)
    ]


def _bad_k(k: int) -> KvError:
    return KvError(f"k={k} must be 1 or more: it is how many tokens are kept.")


def on_union(p: Distribution, q: Distribution) -> tuple[FloatArray, FloatArray]:
    """Return both distributions on the likeliest tokens of either, and the rest as one bucket."""
    either = np.union1d(p.ids, q.ids)
    return p.masses(either), q.masses(either)


def js(p: Distribution, q: Distribution, unit: Unit = "nats") -> float:
    """Jensen-Shannon divergence on the likeliest tokens of either and one bucket.

    From 0 to ln 2 nats (0 to 1 bit); symmetric; 0 exactly where the two agree on that partition.
    At most the divergence of the full distributions.

    Raises KvError for an unknown unit.
    """
    a, b = on_union(p, q)
    middle = (a + b) / 2
    both = float(np.sum(special.rel_entr(a, middle)) + np.sum(special.rel_entr(b, middle)))
    return min(max(both / 2, 0.0), math.log(2)) / _scale(unit)


def kl(p: Distribution, q: Distribution, unit: Unit = "nats") -> float:
    """Kullback-Leibler divergence of q from p on the likeliest tokens of either and one bucket.

    From 0 to infinity; infinite only where q gives a token no mass, or less than a double can
    hold, and p does. At most the divergence of the full distributions.

    Raises KvError for an unknown unit.
    """
    a, b = on_union(p, q)
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
        Likeliest tokens of each distribution that are told apart.
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
        the mass that each view's own k likeliest tokens have.

    Raises
    ------
    KvError
        An unknown condition, or a second model with another vocabulary.

    Notes
    -----
    Exact: batching changes a divergence by rounding only. The logits' own rounding (about 1e-6
    in float32) leaves about 1e-12 nats. The logits of up to `HELD` numbers are held on the host.
    """
    if k < 1:
        raise _bad_k(k)
    if other is not None:
        _check_same_vocabulary(lm, other)
    views = [(condition(a), condition(b)) for a, b in pairs]
    read = partial(next_token_distributions, k=k, seed=seed, batch_tokens=batch_tokens)
    listed = list(samples)
    at_once = max(FEWEST, HELD // (int(lm.config.vocab_size) * max(1, 2 * len(views))))
    rows: list[dict[str, Any]] = []
    for start in range(0, len(listed), at_once):
        part = listed[start : start + at_once]
        if other is None:  # each view is read once, so that none diverges from itself
            firsts = seconds = read(lm, part, [view for pair in views for view in pair])
        else:
            firsts = read(lm, part, [first for first, _ in views])
            seconds = read(other, part, [second for _, second in views])
        rows += [
            {
                "sample_id": sample.id,
                "first": first.name,
                "second": second.name,
                **_numbers(firsts[number, first.name], seconds[number, second.name], unit),
            }
            for number, sample in enumerate(part)
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
    pairs = [(number, each) for number, some in usable.items() for each in some]
    prepared.locate_sinks(lm, [(samples_read[n], each) for n, each in pairs], batch_tokens)
    for number, each in pairs:
        if not samples_read[number].knows_sinks(each):
            views |= _not_read(number, [each])
            usable[number].remove(each)

    # 2. Read batch by batch; the A/A control in batches half as large, with other neighbours.
    budget, _ = limits.pass_limits(lm, batch_tokens)
    for control in (False, True):
        own = {n: [c for c in some if c.aa_control == control] for n, some in usable.items()}
        most = budget // 2 if control else budget
        for batch in _batches(samples_read, own, most, shuffled=control):
            some = own[batch[0]]
            read = partial(_read, lm, samples_read, conditions=some, k=k)
            give_up = partial(_not_read, conditions=some)
            for of_sample in limits.run_or_halve(lm, batch, read, give_up, what="samples"):
                views |= of_sample
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


def _not_read(number: int, conditions: Sequence[Condition]) -> dict[View, Distribution | str]:
    """Return why a sample's views are not there."""
    return {(number, each.name): "out of memory" for each in conditions}


def _read(
    lm: LM,
    samples: Mapping[int, PreparedSample],
    batch: Sequence[int],
    conditions: Sequence[Condition],
    k: int,
) -> list[dict[View, Distribution | str]]:
    """Build the caches of a batch and read the question on top of each; return views by sample."""
    group = [samples[number] for number in batch]
    at = (range(len(group)), [len(sample.tokens.prompt) - 1 for sample in group])
    built: dict[Recipe, KVCache] = {}
    views: list[dict[View, Distribution | str]] = [{} for _ in batch]
    for each in conditions:
        cache = build.build(lm, each.recipe, built, group)
        logits = forward.logits(lm, build.query_input(lm, cache, group), at)
        for number, own, view in zip(batch, views, of_logits(logits, k), strict=True):
            finite = bool(np.isfinite(view.log_probs).any())
            own[number, each.name] = view if finite else "the model's logits are not finite"
    return views


def _check_same_vocabulary(lm: LM, other: LM) -> None:
    sizes = {lm.config.vocab_size, other.config.vocab_size}
    if len(sizes) > 1 or lm.tokenizer.get_vocab() != other.tokenizer.get_vocab():
        raise KvError(
            f"{lm.name} and {other.name} have other vocabularies; compare models with one "
            "tokenizer."
        )
