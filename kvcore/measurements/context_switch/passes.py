"""The passes behind context switches: every plan read on top of its cache, reduced at once.

A switch's two contexts are each read once; every way is then one row of a pass on top of those
caches. Hidden states are held for the tokens that count only, and the LM head turns them into
logits in small parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from kvcore.cache.batch import CacheBatch
from kvcore.cache.kv_cache import KVCache
from kvcore.conditions import switching
from kvcore.conditions.switching import CachePlan, DecodePlan, Ids
from kvcore.engine import attention_shares, batching, forward, hooks, limits, rope_probe
from kvcore.engine.forward import NO_TOKENS, ForwardInput
from kvcore.errors import KvError
from kvcore.measurements.context_switch.cases import SwitchCase
from kvcore.models.lm import LM

LOGITS_AT_ONCE = {"cpu": 2**24, "cuda": 2**27}  # numbers, before their copies
PASSES_IN_MEMORY = 3  # how many passes' tokens of caches are held at once
Prefills = dict[Ids, tuple[KVCache, int]]
"""Which batch, and which row of it, holds the cache of a sequence."""


@dataclass(frozen=True, eq=False)
class TokenCurves:
    """What was measured on one plan, one number per token followed.

    - `logp`: (n,) float64; log-probability of the token followed, in nats.
    - `choice`: (n,) int64; the likeliest token.
    - `kl_oracle`, `kl_ignore`: (n,) float64; KL(this || reference) over the whole vocabulary, in
      nats.
    - `similarity`: (n,) float64; cosine of what the LM head gets with what it gets under the
      oracle.
    - `shares`: (layer, n, span) float32 or None; attention of the predicting token on each of
      `kvcore.conditions.switching.SPANS`.
    """

    logp: np.ndarray
    choice: np.ndarray
    kl_oracle: np.ndarray
    kl_ignore: np.ndarray
    similarity: np.ndarray
    shares: np.ndarray | None


@dataclass(frozen=True, eq=False)
class PlanOutput:
    """What a pass left of one plan, for the tokens that predict.

    - `hidden`: (n, hidden size); what the LM head would get.
    - `shares`: (layer, n, span) float32 or None; attention on each span.
    """

    hidden: torch.Tensor
    shares: np.ndarray | None


def measure_cases(
    lm: LM, cases: Sequence[SwitchCase], *, attention: bool = False, batch_tokens: int | None = None
) -> list[list[TokenCurves]]:
    """Measure every plan of every case, in groups whose caches are held at once.

    The curves are by case and plan.
    """
    budget, cost = limits.pass_limits(lm, batch_tokens)
    sizes = [
        sum(map(len, {run for plan in case.plans for run in plan.opening.runs})) for case in cases
    ]
    curves: dict[int, list[TokenCurves]] = {}
    with torch.inference_mode():
        for group in batching.batches_by_size(sizes, PASSES_IN_MEMORY * budget, padded=False):
            plans = [plan for n in group for plan in cases[n].plans]
            outputs = iter(_read_plans(lm, plans, budget, cost, attention))
            for n in group:
                own = list(islice(outputs, len(cases[n].plans)))
                curves[n] = _reduce(lm, cases[n], own)
    return [curves[n] for n in range(len(cases))]


def _read_plans(
    lm: LM, plans: Sequence[DecodePlan], budget: int, cost: int, attention: bool
) -> list[PlanOutput]:
    """Read plans on top of their caches; what several of them prefill is run once."""
    prefills = run_prefills(lm, [plan.opening for plan in plans], budget, cost)
    outputs: dict[int, PlanOutput] = {}
    for part in batching.passes_by_size([len(plan.read) for plan in plans], budget, cost):
        read = _read_pass(lm, [plans[n] for n in part], prefills, attention)
        outputs |= dict(zip(part, read, strict=True))
    return [outputs[n] for n in range(len(plans))]


def _read_pass(
    lm: LM, plans: Sequence[DecodePlan], prefills: Prefills, attention: bool
) -> list[PlanOutput]:
    """Read plans in one pass."""
    cache = CacheBatch(tuple(assemble_cache(lm, plan.opening, prefills) for plan in plans))
    step = append_input(lm, cache, [plan.read for plan in plans])
    columns = [plan.predicts for plan in plans]
    if not attention:
        return [PlanOutput(hidden, None) for hidden in _hidden(lm, step, columns)]
    spans = slot_spans(plans, cache.slots)
    with attention_shares.record_shares(lm, columns, spans, len(switching.SPANS)) as (
        as_loaded,
        record,
    ):
        hidden_states = _hidden(as_loaded, step, columns)
    layers = np.stack([shares.cpu().numpy() for _, shares in sorted(record.by_layer.items())])
    return [
        PlanOutput(hidden, layers[:, row, : len(hidden)])
        for row, hidden in enumerate(hidden_states)
    ]


def slot_spans(plans: Sequence[DecodePlan], slots: int) -> list[list[int]]:
    """Return which span each key slot of a pass belongs to.

    `slots`: of the pass's cache; padding behind a row's own slots counts as BOS, and is never seen.
    """
    spans = []
    for plan in plans:
        cached = len(plan.opening.cached)
        padding = [switching.BOS] * (slots - cached)
        spans.append([*plan.slot_spans[:cached], *padding, *plan.slot_spans[cached:]])
    return spans


def _hidden(lm: LM, step: ForwardInput, columns: Sequence[Ids]) -> list[torch.Tensor]:
    """Run a pass and return what the LM head would get for some columns of each row."""
    picked: list[torch.Tensor] = []

    def pick(hidden: torch.Tensor) -> torch.Tensor:
        picked.extend(hidden[row, list(own)] for row, own in enumerate(columns))
        return hidden

    with hooks.before_head(lm, pick):
        forward.logits(lm, step, NO_TOKENS)
    return picked


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


def _reduce(lm: LM, case: SwitchCase, outputs: Sequence[PlanOutput]) -> list[TokenCurves]:
    """Reduce a case's hidden states, a few tokens of all its plans at a time."""
    budget = LOGITS_AT_ONCE.get(lm.device.type, 2**26)
    width = max(1, budget // (len(outputs) * int(lm.config.vocab_size)))
    hidden = torch.stack([output.hidden for output in outputs])
    parts = []
    for start in range(0, len(case.followed), width):
        some = hidden[:, start : start + width]
        logits = _logits(lm, some.flatten(0, 1)).view(*some.shape[:2], -1)
        parts.append(token_numbers(logits, case, case.followed[start : start + width]))
    similarity = torch.nn.functional.cosine_similarity(
        hidden.float(), hidden[case.oracle].float().unsqueeze(0), dim=-1
    )
    similar = similarity.double().cpu().numpy()
    logp, choice, oracle, ignore = (np.concatenate(x, axis=1) for x in zip(*parts, strict=True))
    return [
        TokenCurves(logp[n], choice[n], oracle[n], ignore[n], similar[n], output.shares)
        for n, output in enumerate(outputs)
    ]


def token_numbers(logits: torch.Tensor, case: SwitchCase, followed: Ids) -> tuple[np.ndarray, ...]:
    """Return the tokens' log-probabilities, the likeliest tokens and the KLs to both references.

    `followed`: the tokens that are predicted.
    """
    logps = torch.log_softmax(logits, dim=-1)
    targets = torch.tensor(followed, device=logits.device).expand(len(logits), -1)
    kls = [
        torch.stack([kl_divergence(own, logps[reference]) for own in logps])
        for reference in (case.oracle, case.ignore)
    ]
    numbers = (
        logps.gather(2, targets.unsqueeze(2)).squeeze(2).double(),
        logits.argmax(dim=-1),
        *kls,
    )
    return tuple(x.cpu().numpy() for x in numbers)


def kl_divergence(own: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return KL(own || reference) in nats from log-probabilities, (token,) float64, from 0."""
    return ((own - reference) * own.exp()).sum(dim=-1, dtype=torch.float64).clamp_min(0)


# --- caches --------------------------------------------------------------------------------------


def run_prefills(lm: LM, plans: Sequence[CachePlan], budget: int, cost: int) -> Prefills:
    """Read every distinct run of the plans once, from an empty cache."""
    runs = sorted({run for plan in plans for run in plan.runs}, key=lambda run: (len(run), run))
    prefills: Prefills = {}
    for start, stop in batching.cut_into_passes([len(run) for run in runs], budget, cost):
        part = runs[start:stop]
        cache = forward.prefill(lm, forward.pad_ids(lm, part, [0] * len(part)))
        prefills |= {run: (cache, row) for row, run in enumerate(part)}
    return prefills


def assemble_cache(lm: LM, plan: CachePlan, prefills: Prefills) -> KVCache:
    """Build a plan's cache from the runs that it is made of.

    Returns one sequence without padding, its slot i at position i; the runs are not changed.
    """
    first, last = plan.slots_taken
    caches = [cache.rows([row]) for cache, row in (prefills[run] for run in plan.runs)]
    start = caches[0].keep([range(first)])
    if len(caches) == 1:
        return start
    length = len(plan.runs[1])
    end = caches[1].keep([range(length - last, length)])
    return compact_positions(lm, concat_slots(start, end))


def concat_slots(first: KVCache, second: KVCache) -> KVCache:
    """Join the slots of two caches of as many sequences, positions as they are."""

    keys, values = (
        tuple(torch.cat(pair, dim=2) for pair in zip(*layers, strict=True))
        for layers in ((first.keys, second.keys), (first.values, second.values))
    )
    return KVCache(
        keys,
        values,
        torch.cat([first.positions, second.positions], dim=1),
        torch.cat([first.real, second.real], dim=1),
    )


def compact_positions(lm: LM, cache: KVCache) -> KVCache:
    """Renumber slots 0 ... n - 1 and rotate each key by its change of position; padding stays."""
    slots = torch.arange(cache.slots, device=cache.positions.device).unsqueeze(0)
    return cache.reposition(lm, rope_probe.rope_plan(lm), (slots - cache.positions) * cache.real)


def append_input(lm: LM, cache: KVCache | CacheBatch, unread: Sequence[Ids]) -> ForwardInput:
    """Return the pass that reads tokens right behind what is cached of each row."""
    return forward.pad_ids(lm, unread, cache.lengths().tolist(), cache)
