"""The batched engine: samples and conditions in, answers' NLLs out.

Samples of similar length share a batch, conditions with equal prefills share the prefill, and
the LM head sees scored tokens only. Batches never change a number beyond rounding.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import pandas as pd

from kvcore import cache as kv
from kvcore import forward, tokens
from kvcore.conditions import Condition, Prefill, Recipe, Reposition, Truncate, condition
from kvcore.tokens import Prefix, TokenizedSample, Unusable

if TYPE_CHECKING:
    import torch

    from kvcore.cache import KVCache
    from kvcore.corpora import Sample
    from kvcore.forward import Pass
    from kvcore.models import LM

COLUMNS = ("sample_id", "condition", "status", "nll", "nll_tail", "token_nlls",
           "n_answer_tokens", "doc_len", "prefix_len", "cache_len", "clean_boundary")
QUERY_SHARE = 3  # short passes get a third of the budget: sorted finely, they pad less
BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}  # more gains nothing, and falls out of CPU caches


@dataclass(frozen=True)
class Prepared:
    """A tokenized sample with the ids of every prefix that some condition uses."""

    tokens: TokenizedSample
    prefixes: Mapping[Prefix, tuple[int, ...]]

    def leaf_ids(self, leaf: Prefill, bos_id: int) -> tuple[int, ...]:
        """Return the ids of one prefill: BOS, prefix, document."""
        document = self.tokens.document if leaf.document else ()
        return (bos_id, *self.prefixes[leaf.prefix], *document)

    def query_ids(self) -> tuple[int, ...]:
        """Return the ids read on top of the cache: prompt and answer, but for its last token.

        The last answer token is predicted, and nothing is predicted from it.
        """
        return self.tokens.prompt + self.tokens.answer[:-1]

    def length(self, given: Condition) -> int:
        """Return the positions that the longest pass under a condition reaches."""
        longest = max(len(self.leaf_ids(leaf, 0)) for leaf in given.leaves())
        turned = max(len(self.prefixes[p]) for p in given.prefixes())
        return longest + turned + len(self.tokens.prompt) + len(self.tokens.answer)


def score(lm: LM, samples: Iterable[Sample], conditions: Iterable[str | Condition], *,
          seed: int = 0, batch_tokens: int | None = None) -> pd.DataFrame:
    """Score every sample's answer under every condition.

    Parameters
    ----------
    lm : LM
        From `kvcore.load`.
    samples : iterable of Sample
    conditions : iterable of str or Condition
        Names as `kvcore.conditions.condition` reads them.
    seed : int
        Together with a sample's id it fixes the random prefix.
    batch_tokens : int, optional
        Most tokens in one forward pass; changes speed, never a number beyond rounding.

    Returns
    -------
    pandas.DataFrame
        One row per sample and condition, in the order given: `sample_id`, `condition`,
        `status` (``"ok"`` or why the sample could not be measured), `nll` and `nll_tail` in nats
        per answer token (the tail leaves out the first answer token and is NaN for one-token
        answers), `token_nlls`, `n_answer_tokens`, `doc_len`, `prefix_len`, `cache_len` and
        `clean_boundary` (1 where the passage alone has the ids it has behind the prefix).

    Raises
    ------
    KvError
        For an unknown condition, or a model that a condition cannot be exact on.

    Notes
    -----
    Exact: batching, padding and order change a score by rounding only, below 1e-5 nats in
    float32. Log-softmax in float32, sums in float64.
    """
    chosen = tuple(dict.fromkeys(condition(c) for c in conditions))
    return score_pairs(lm, [(sample, chosen) for sample in samples], seed=seed,
                       batch_tokens=batch_tokens)


def score_pairs(lm: LM, pairs: Sequence[tuple[Sample, Sequence[Condition]]], *, seed: int = 0,
                batch_tokens: int | None = None) -> pd.DataFrame:
    """Score samples that need not share their conditions; see `score`."""
    chosen = tuple(dict.fromkeys(c for _, some in pairs for c in some))
    budget = batch_tokens or BATCH_TOKENS.get(lm.device.type, 4096)
    if any(_turns(c.recipe) for c in chosen):
        forward.rope_plan(lm)  # refuses by name, before anything is measured
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    usable: dict[str, list[tuple[int, Prepared]]] = {c.name: [] for c in chosen}
    for number, (sample, some) in enumerate(pairs):
        for given, ready in _prepare(lm, sample, some, seed):
            if isinstance(ready, str):
                rows[number, given.name] = _row(sample.id, given.name, ready)
            else:
                usable[given.name].append((number, ready))
    for numbers, ready_ones, together in _groups(chosen, usable, budget):
        scored = _score_or_halve(lm, ready_ones, together, budget)
        for (which, name), row in scored.items():
            rows[numbers[which], name] = row
    ordered = [rows[n, c.name] for n, (_, some) in enumerate(pairs) for c in some]
    frame = {name: [row[name] for row in ordered] for name in COLUMNS}
    texts = {name: pd.Series(frame.pop(name), dtype=object) for name in COLUMNS[:3]}
    return pd.DataFrame(texts | frame)  # object: an id may hold what pandas' strings refuse


def leaf_pass(lm: LM, leaf: Prefill, group: Sequence[Prepared]) -> Pass:
    """Return what the model receives to prefill one leaf for a group of samples."""
    sequences = [one.leaf_ids(leaf, lm.bos_id) for one in group]
    return forward.prepare(lm, sequences, [0] * len(sequences))


def build(lm: LM, recipe: Recipe, leaves: Mapping[Prefill, KVCache],
          group: Sequence[Prepared]) -> KVCache:
    """Carry out a recipe on a group of samples whose prefills are given.

    Parameters
    ----------
    leaves : mapping of Prefill to KVCache
        One sequence per sample of the group, in its order.

    Returns
    -------
    KVCache
        A new one; the leaves are not changed.
    """
    if isinstance(recipe, Prefill):
        return leaves[recipe]
    source = build(lm, recipe.source, leaves, group)
    counts = [len(one.prefixes[recipe.prefix]) for one in group]
    if isinstance(recipe, Truncate):
        return source.drop(1, counts)
    return source.reposition(lm, forward.rope_plan(lm), _past_bos(source, counts, recipe.sign),
                             one_base=None if recipe.base == "own" else recipe.base)


def query_pass(lm: LM, cache: KVCache, group: Sequence[Prepared]) -> Pass:
    """Return what the model receives to score a group's answers on top of their caches."""
    import torch

    after = torch.where(cache.real, cache.positions, -1).amax(dim=1) + 1
    return forward.prepare(lm, [one.query_ids() for one in group], after.tolist(), cache)


def prepare_one(lm: LM, sample: Sample, given: Condition, seed: int = 0) -> Prepared:
    """Tokenize one sample for one condition.

    Raises
    ------
    Unusable
        If it cannot be measured; the message is the reason.
    """
    read = tokens.tokenize(lm.tokenizer, sample)
    prefixes = {p: tokens.prefix_ids(lm.tokenizer, read, p, seed) for p in given.prefixes()}
    ready = Prepared(read, prefixes)
    limit = _limit(lm, given)
    if ready.length(given) > limit:
        raise Unusable(f"longer than the {limit} positions the model is exact for")
    return ready


def _prepare(lm: LM, sample: Sample, chosen: Sequence[Condition], seed: int
             ) -> Iterator[tuple[Condition, Prepared | str]]:
    """Tokenize a sample once and yield it, or the reason against it, for every condition."""
    try:
        read = tokens.tokenize(lm.tokenizer, sample)
    except Unusable as reason:
        yield from ((given, str(reason)) for given in chosen)
        return
    known: dict[Prefix, tuple[int, ...]] = {}
    for given in chosen:
        try:
            for p in given.prefixes():
                if p not in known:
                    known[p] = tokens.prefix_ids(lm.tokenizer, read, p, seed)
        except Unusable as reason:
            yield given, str(reason)
            continue
        ready = Prepared(read, known)
        limit = _limit(lm, given)
        too_long = f"longer than the {limit} positions the model is exact for"
        yield given, ready if ready.length(given) <= limit else too_long


def _limit(lm: LM, given: Condition) -> int:
    switch = forward.rope_plan(lm).max_positions if _turns(given.recipe) else None
    return min(lm.max_length, switch or lm.max_length)


def _turns(recipe: Recipe) -> bool:
    return isinstance(recipe, Reposition) or (
        not isinstance(recipe, Prefill) and _turns(recipe.source))


def _groups(chosen: Sequence[Condition], usable: Mapping[str, list[tuple[int, Prepared]]],
            budget: int) -> Iterator[tuple[list[int], list[Prepared], list[Condition]]]:
    """Cut the work into groups of samples of similar length and the conditions they share.

    Regrouped conditions come in half-size groups of shuffled samples, so that they meet other
    batch partners and other padding.
    """
    for again in (False, True):
        pool = [c for c in chosen if c.regrouped == again]
        same: dict[tuple[int, ...], list[Condition]] = {}
        for c in pool:
            same.setdefault(tuple(n for n, _ in usable[c.name]), []).append(c)
        for together in same.values():
            ready = usable[together[0].name]
            key = _shuffled if again else _by_length
            for part in _cut(sorted(ready, key=key), together, budget // 2 if again else budget):
                yield [n for n, _ in part], [one for _, one in part], together


def _by_length(numbered: tuple[int, Prepared]) -> tuple[int, int, str]:
    one = numbered[1].tokens
    return len(one.document), len(one.prompt) + len(one.answer), one.sample_id


def _shuffled(numbered: tuple[int, Prepared]) -> bytes:
    return hashlib.sha256(numbered[1].tokens.sample_id.encode("utf-8", "replace")).digest()


def _cut(ordered: Sequence[tuple[int, Prepared]], together: Sequence[Condition], budget: int
         ) -> Iterator[list[tuple[int, Prepared]]]:
    """Cut an ordered list so that no prefill exceeds the token budget, padding included."""
    part: list[tuple[int, Prepared]] = []
    widest = 0
    for numbered in ordered:
        width = max(numbered[1].length(c) for c in together)
        if part and (len(part) + 1) * max(widest, width) > budget:
            yield part
            part, widest = [], 0
        part.append(numbered)
        widest = max(widest, width)
    if part:
        yield part


def _score_or_halve(lm: LM, group: Sequence[Prepared], together: Sequence[Condition], budget: int
                    ) -> dict[tuple[int, str], dict[str, Any]]:
    """Score a group; where memory runs out, score its halves, and say so."""
    import torch

    try:
        return _score_group(lm, group, together, budget)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
    if len(group) == 1:
        return {(0, c.name): _row(group[0].tokens.sample_id, c.name, "out of memory")
                for c in together}
    middle = len(group) // 2
    warnings.warn(f"out of memory with {len(group)} samples at once: going on with {middle}; "
                  "a smaller --kv-batch-tokens avoids this.", RuntimeWarning, stacklevel=2)
    if lm.device.type == "cuda":
        torch.cuda.empty_cache()
    left = _score_or_halve(lm, group[:middle], together, budget)
    right = _score_or_halve(lm, group[middle:], together, budget)
    return left | {(which + middle, name): row for (which, name), row in right.items()}


def _out_of_memory(error: BaseException) -> bool:
    import torch

    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "out of memory" in text or "can't allocate memory" in text)


def _score_group(lm: LM, group: Sequence[Prepared], together: Sequence[Condition], budget: int
                 ) -> dict[tuple[int, str], dict[str, Any]]:
    leaves = {leaf: forward.run(lm, leaf_pass(lm, leaf, group))[1]
              for leaf in dict.fromkeys(leaf for c in together for leaf in c.leaves())}
    caches = {c.name: build(lm, c.recipe, leaves, group) for c in together}
    work = [(c.name, which) for c in together for which in range(len(group))]
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    for part in _cut_queries(work, group, max(1, budget // QUERY_SHARE)):
        cache = kv.stack([caches[name].rows([which for _, which in items])
                          for name, items in groupby(part, key=itemgetter(0))])
        asked = [group[which] for _, which in part]
        nlls = _answer_nlls(lm, query_pass(lm, cache, asked), asked)
        lengths = cache.lengths().tolist()
        for (name, which), nll, length in zip(part, nlls, lengths, strict=True):
            prefix = next(c for c in together if c.name == name).prefixes()[0]
            rows[which, name] = _scored_row(group[which], name, nll, prefix, length)
    return rows


def _cut_queries(work: Sequence[tuple[str, int]], group: Sequence[Prepared], budget: int
                 ) -> Iterator[list[tuple[str, int]]]:
    """Order the short passes by length and cut them to the budget; conditions share batches."""
    ordered = sorted(work, key=lambda item: (len(group[item[1]].query_ids()), item[1]))
    part: list[tuple[str, int]] = []
    for item in ordered:
        if part and (len(part) + 1) * len(group[item[1]].query_ids()) > budget:
            yield sorted(part)
            part = []
        part.append(item)
    yield sorted(part)


def _answer_nlls(lm: LM, given: Pass, group: Sequence[Prepared]) -> list[list[float]]:
    """Return each answer's per-token NLLs in nats, from one short pass."""
    import torch

    rows = [r for r, one in enumerate(group) for _ in one.tokens.answer]
    columns = [len(one.tokens.prompt) - 1 + i for one in group
               for i in range(len(one.tokens.answer))]
    targets = torch.tensor([t for one in group for t in one.tokens.answer], device=lm.device)
    logits, _ = forward.run(lm, given, (rows, columns))
    nlls = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none").tolist()
    ends = iter(nlls)
    return [[next(ends) for _ in one.tokens.answer] for one in group]


def _past_bos(cache: KVCache, counts: Sequence[int], sign: int) -> torch.Tensor:
    """Return the position change of every slot: 0 for BOS, ``sign * count`` behind it."""
    import torch

    deltas = torch.tensor(counts, device=cache.positions.device).unsqueeze(1) * sign
    behind = torch.arange(cache.slots, device=deltas.device) > 0
    return deltas * behind


def _scored_row(one: Prepared, name: str, nlls: Sequence[float], prefix: Prefix, cache_len: int
                ) -> dict[str, Any]:
    if not all(math.isfinite(x) for x in nlls):
        return _row(one.tokens.sample_id, name, "the model's logits are not finite")
    tail = nlls[1:]
    return _row(one.tokens.sample_id, name, "ok") | {
        "nll": math.fsum(nlls) / len(nlls),
        "nll_tail": math.fsum(tail) / len(tail) if tail else math.nan,
        "token_nlls": list(nlls), "n_answer_tokens": len(nlls),
        "doc_len": len(one.tokens.document), "prefix_len": len(one.prefixes[prefix]),
        "cache_len": cache_len, "clean_boundary": int(one.tokens.clean_boundary)}


def _row(sample_id: str | None, name: str, status: str) -> dict[str, Any]:
    return {"sample_id": sample_id, "condition": name, "status": status, "nll": math.nan,
            "nll_tail": math.nan, "token_nlls": [], "n_answer_tokens": 0, "doc_len": 0,
            "prefix_len": 0, "cache_len": 0, "clean_boundary": -1}
