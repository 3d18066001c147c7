"""The passes behind context switches: every script read on top of its cache, reduced at once.

A switch's two contexts are each read once; every way is then one row of a pass on top of those
caches. Hidden states are kept for the tokens that count only, and the LM head turns them into
logits in small parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kvcore.cache import batch as cache_batch
from kvcore.cache import kv_cache
from kvcore.cache.batch import CacheBatch
from kvcore.cache.kv_cache import KVCache
from kvcore.conditions import switching
from kvcore.conditions.switching import CachePlan, DecodePlan, Ids
from kvcore.engine import attention_shares, batching, forward, hooks, limits, rope_probe
from kvcore.engine.forward import ForwardInput
from kvcore.errors import KvError
from kvcore.models.lm import LM

LOGITS = {"cpu": 2**24, "cuda": 2**27}  # numbers in one part of the logits, before their copies
GROUP = 3  # tokens of caches held at once, in passes
Cached = dict[Ids, tuple["KVCache", int]]
"""Which batch, and which row of it, holds the cache of a sequence."""


@dataclass(frozen=True)
class Case:
    """Tokens that several scripts follow, two of them references."""

    followed: Ids
    scripts: tuple[DecodePlan, ...]
    oracle: int
    ignore: int


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured on one script, one number per token followed.

    Attributes
    ----------
    logp : (n,) float64
        Log-probability of the token followed, in nats.
    choice : (n,) int64
        The likeliest token.
    kl_oracle, kl_ignore : (n,) float64
        KL(this || reference) over the whole vocabulary, in nats.
    similarity : (n,) float64
        Cosine of what the LM head gets with what it gets under the oracle.
    shares : (layer, n, span) float32 or None
        Attention of the predicting token on each of `kvcore.switches.SPANS`.
    """

    logp: np.ndarray
    choice: np.ndarray
    kl_oracle: np.ndarray
    kl_ignore: np.ndarray
    similarity: np.ndarray
    shares: np.ndarray | None


def measure(
    lm: LM, cases: Sequence[Case], *, attention: bool = False, batch_tokens: int | None = None
) -> list[list[Measured]]:
    """Measure every script of every case, in groups whose caches are held at once.

    Returns
    -------
    list of list of Measured
        By case and script.
    """
    budget, cost = pass_limits(lm, batch_tokens)
    done: dict[int, list[Measured]] = {}
    with torch.inference_mode():
        for group in _groups(cases, GROUP * budget):
            scripts = [(n, s) for n in group for s in cases[n].scripts]
            read = _read(lm, [s for _, s in scripts], budget, cost, attention)
            for n in group:
                mine = [found for (m, _), found in zip(scripts, read, strict=True) if m == n]
                done[n] = _reduced(lm, cases[n], mine)
    return [done[n] for n in range(len(cases))]


def pass_limits(lm: LM, batch_tokens: int | None) -> tuple[int, int]:
    kind = lm.device.type
    return (batch_tokens or limits.BATCH_TOKENS.get(kind, 4096), limits.PASS_COST.get(kind, 128))


def _groups(cases: Sequence[Case], budget: int) -> Iterator[list[int]]:
    """Cut the cases, sorted by length, into groups whose runs do not exceed a budget of slots."""
    sizes = [
        sum(len(run) for run in {r for s in case.scripts for r in s.opening.runs}) for case in cases
    ]
    group: list[int] = []
    for n in sorted(range(len(cases)), key=lambda n: (sizes[n], n)):
        if group and sum(sizes[m] for m in group) + sizes[n] > budget:
            yield group
            group = []
        group.append(n)
    if group:
        yield group


@dataclass(frozen=True, eq=False)
class _Seen:
    """What a pass left of one script: (n, hidden) before the LM head, and attention shares."""

    hidden: torch.Tensor
    shares: np.ndarray | None


def _read(
    lm: LM, scripts: Sequence[DecodePlan], budget: int, cost: int, attention: bool
) -> list[_Seen]:
    """Read scripts on top of their caches, equal sequences and equal scripts once each."""
    cached = prefill_runs(lm, [s.opening for s in scripts], budget, cost)
    ordered = sorted(range(len(scripts)), key=lambda n: (len(scripts[n].read), n))
    done: dict[int, _Seen] = {}
    for a, b in batching.cut_into_passes([len(scripts[n].read) for n in ordered], budget, cost):
        part = ordered[a:b]
        seen = _one_pass(lm, [scripts[n] for n in part], cached, attention)
        done |= dict(zip(part, seen, strict=True))
    return [done[n] for n in range(len(scripts))]


def _one_pass(lm: LM, part: Sequence[DecodePlan], cached: Cached, attention: bool) -> list[_Seen]:
    cache = cache_batch.CacheBatch(tuple(assemble_cache(lm, s.opening, cached) for s in part))
    given = append_input(lm, cache, [s.read for s in part])
    wanted = [s.predicts for s in part]
    if not attention:
        hidden = _hidden(lm, given, wanted)
        shares: list[Any] = [None] * len(part)
    else:
        with attention_shares.record_shares(
            lm, wanted, _slots(part, cache.slots), len(switching.SPANS)
        ) as (as_loaded, watch):
            hidden = _hidden(as_loaded, given, wanted)
        layers = np.stack([watch.by_layer[i].cpu().numpy() for i in sorted(watch.by_layer)])
        shares = [layers[:, row, : len(w)] for row, w in enumerate(wanted)]
    return [_Seen(*found) for found in zip(hidden, shares, strict=True)]


def _slots(part: Sequence[DecodePlan], slots: int) -> list[list[int]]:
    """Return what each key slot holds; padding behind a row's cached slots holds nothing seen."""
    cached = [len(s.opening.cached) for s in part]
    return [
        [*s.slot_spans[:n], *[switching.BOS] * (slots - n), *s.slot_spans[n:]]
        for s, n in zip(part, cached, strict=True)
    ]


def _hidden(lm: LM, given: ForwardInput, wanted: Sequence[Ids]) -> list[torch.Tensor]:
    """Run a pass and return what the LM head would get for the wanted tokens of each row."""
    taken: list[list[torch.Tensor]] = []

    def take(hidden: torch.Tensor) -> torch.Tensor:
        taken.append([hidden[row, list(columns)] for row, columns in enumerate(wanted)])
        return hidden

    with hooks.before_head(lm, take):
        forward.logits(lm, given, ((), ()))
    return taken[0]


def _logits(lm: LM, hidden: torch.Tensor) -> torch.Tensor:
    """Return the logits of hidden states, (n, vocab) float32.

    The model's own forward runs on a single BOS, so that whatever it does to logits is done to
    these; only its LM head is handed the hidden states in place of BOS's.
    """
    n = hidden.shape[0]
    with hooks.before_head(lm, lambda _bos: hidden.unsqueeze(0)):
        logits = forward.logits(
            lm, forward.pad_ids(lm, [[lm.bos_id]], [0]), ([0] * n, range(n))
        ).float()
    if not bool(logits.isfinite().all()):
        raise KvError(f"{lm.name}: the logits are not finite; load the model in another dtype.")
    return logits


def _reduced(lm: LM, case: Case, seen: Sequence[_Seen]) -> list[Measured]:
    """Reduce a case's logits, a few tokens of all its scripts at a time."""
    budget = LOGITS.get(lm.device.type, 2**26)
    width = max(1, budget // (len(seen) * int(lm.config.vocab_size)))
    hidden = torch.stack([s.hidden for s in seen])
    parts = []
    for start in range(0, len(case.followed), width):
        some = hidden[:, start : start + width]
        logits = _logits(lm, some.flatten(0, 1)).view(*some.shape[:2], -1)
        parts.append(_numbers(logits, case, case.followed[start : start + width]))
    similar = (
        torch.nn.functional.cosine_similarity(
            hidden.float(), hidden[case.oracle].float().unsqueeze(0), dim=-1
        )
        .double()
        .cpu()
        .numpy()
    )
    logp, choice, oracle, ignore = (np.concatenate(p, axis=1) for p in zip(*parts, strict=True))
    return [
        Measured(logp[n], choice[n], oracle[n], ignore[n], similar[n], seen[n].shares)
        for n in range(len(seen))
    ]


def _numbers(logits: torch.Tensor, case: Case, followed: Ids) -> tuple[np.ndarray, ...]:
    """Return the tokens' log-probabilities, the choices and both KLs, each (script, token)."""
    logps = torch.log_softmax(logits, dim=-1)
    targets = torch.tensor(followed, device=logits.device).expand(len(logits), -1)
    kls = [
        torch.stack([_kl(own, logps[reference]) for own in logps])
        for reference in (case.oracle, case.ignore)
    ]
    found = (logps.gather(2, targets.unsqueeze(2)).squeeze(2).double(), logits.argmax(dim=-1), *kls)
    return tuple(x.cpu().numpy() for x in found)


def _kl(own: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return KL(own || reference) in nats from log-probabilities, (token,) float64, from 0."""
    return ((own - reference) * own.exp()).sum(dim=-1, dtype=torch.float64).clamp_min(0)


def prefill_runs(lm: LM, openings: Sequence[CachePlan], budget: int, cost: int) -> Cached:
    """Read every distinct run of the openings once, from an empty cache."""
    runs = sorted({run for one in openings for run in one.runs}, key=lambda r: (len(r), r))
    cached: Cached = {}
    for a, b in batching.cut_into_passes([len(run) for run in runs], budget, cost):
        part = runs[a:b]
        cache = forward.prefill(lm, forward.pad_ids(lm, part, [0] * len(part)))
        cached |= {run: (cache, row) for row, run in enumerate(part)}
    return cached


def assemble_cache(lm: LM, one: CachePlan, cached: Cached) -> KVCache:
    """Build one opening's cache from the runs that it is made of.

    Returns
    -------
    KVCache
        One sequence without padding, its slot i at position i; the runs are not changed.
    """
    first, last = one.slots_taken
    rows = [cached[run][0].rows([cached[run][1]]) for run in one.runs]
    kept = rows[0].keep([range(first)])
    if len(rows) == 1:
        return kept
    length = len(one.runs[1])
    return compact_positions(lm, concat_slots(kept, rows[1].keep([range(length - last, length)])))


def concat_slots(first: KVCache, second: KVCache) -> KVCache:
    """Join the slots of two caches of as many sequences, positions as they are."""

    def joined(
        a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...]:
        return tuple(torch.cat(pair, dim=2) for pair in zip(a, b, strict=True))

    return kv_cache.KVCache(
        joined(first.keys, second.keys),
        joined(first.values, second.values),
        torch.cat([first.positions, second.positions], dim=1),
        torch.cat([first.real, second.real], dim=1),
    )


def compact_positions(lm: LM, cache: KVCache) -> KVCache:
    """Move slot i to position i, its keys turned to match; padding stays."""
    wanted = torch.arange(cache.slots, device=cache.positions.device).unsqueeze(0)
    return cache.reposition(lm, rope_probe.rope_plan(lm), (wanted - cache.positions) * cache.real)


def append_input(lm: LM, cache: KVCache | CacheBatch, read: Sequence[Ids]) -> ForwardInput:
    """Return the pass that reads tokens right behind what is cached of each row."""
    return forward.pad_ids(lm, read, cache.lengths().tolist(), cache)


def script_key(script: DecodePlan) -> tuple[object, ...]:
    """Return what decides a script's numbers; what its slots are called is no part of it."""
    start = script.opening
    return start.runs, start.slots_taken, script.read, script.predicts
