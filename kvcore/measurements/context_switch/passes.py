"""The passes behind context switches: every plan read on top of its cache, reduced at once.

A switch's two contexts are each read once; every way is then one row of a pass on top of those
caches. Hidden states are held for the tokens that count only, and the LM head turns those of
several switches into logits at once, as many as memory holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

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
from kvcore.models.device import upload
from kvcore.models.lm import LM

LOGITS_AT_ONCE = {"cpu": 2**24, "cuda": 2**27}  # numbers, before their copies
PASSES_IN_MEMORY = 3  # how many passes' tokens of caches are held at once
FINITE = 4  # which of `token_numbers` says whether the logits are finite
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


@dataclass(frozen=True)
class TokenRange:
    """Tokens `start` ... `stop` - 1 of those that case number `case` follows."""

    case: int
    start: int
    stop: int


def measure_cases(
    lm: LM, cases: Sequence[SwitchCase], *, attention: bool = False, batch_tokens: int | None = None
) -> list[list[TokenCurves]]:
    """Measure every plan of every case, in groups whose caches are held at once.

    A group that does not fit in memory is measured in halves. The curves are by case and plan.
    """
    budget, cost = limits.pass_limits(lm, batch_tokens)
    curves: dict[int, list[TokenCurves]] = {}
    with torch.inference_mode():
        for group in group_cases(cases, PASSES_IN_MEMORY * budget):
            measure = partial(_measure_group, lm, budget=budget, cost=cost, attention=attention)
            own = limits.run_or_halve(lm, [cases[n] for n in group], measure, what="switches")
            curves |= dict(zip(group, own, strict=True))
    return [curves[n] for n in range(len(cases))]


def group_cases(cases: Sequence[SwitchCase], budget: int) -> list[list[int]]:
    """Group cases of like size so that the caches of each group are held at once.

    A run that several cases prefill counts for the first of them only: the ways of one switch, of
    equal size, stand side by side.

    `budget`: most tokens of the runs of a group; where a group begins in the midst of such cases,
    it is exceeded by what they share.
    """
    runs = [{run for plan in case.plans for run in plan.opening.runs} for case in cases]
    order = sorted(range(len(cases)), key=lambda n: (sum(map(len, runs[n])), n))
    counted: set[Ids] = set()
    sizes = []
    for n in order:
        sizes.append(sum(map(len, runs[n] - counted)))
        counted |= runs[n]
    return [order[a:b] for a, b in batching.cut_by_budget(sizes, budget, padded=False)]


def _measure_group(
    lm: LM, cases: Sequence[SwitchCase], budget: int, cost: int, attention: bool
) -> list[list[TokenCurves]]:
    """Measure cases whose caches are held at once."""
    plans = [plan for case in cases for plan in case.plans]
    outputs = iter(_read_plans(lm, plans, budget, cost, attention))
    return _reduce(lm, cases, [list(islice(outputs, len(case.plans))) for case in cases])


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
    by_layer = [shares for _, shares in sorted(record.by_layer.items())]
    layers = torch.stack(by_layer).cpu().numpy()
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
    rows = upload([row for row, own in enumerate(columns) for _ in own], lm.device)
    flat = upload([column for own in columns for column in own], lm.device)

    def pick(hidden: torch.Tensor) -> torch.Tensor:
        picked.extend(hidden[rows, flat].split([len(own) for own in columns]))
        return hidden

    with hooks.before_head(lm, pick):
        forward.logits(lm, step, NO_TOKENS)
    return picked


def head_logits(lm: LM, hidden: torch.Tensor) -> torch.Tensor:
    """Return the logits of hidden states, (n, vocab) float32.

    The model's own forward runs on a single BOS, so that whatever it does to logits is done to
    these; only its LM head is handed the hidden states in place of BOS's.
    """
    n = hidden.shape[0]
    with hooks.before_head(lm, lambda _bos: hidden.unsqueeze(0)):
        step = forward.pad_ids(lm, [[lm.bos_id]], [0])
        return forward.logits(lm, step, ([0] * n, range(n))).float()


@contextmanager
def decoder_run_once(lm: LM) -> Iterator[None]:
    """Let the decoder run in the first pass inside the context; later ones get its output again.

    For passes whose LM head is handed other hidden states anyway: their layers are not run for
    nothing.
    """
    decoder = lm.model.get_decoder()
    own = vars(decoder).get("forward")  # set where something else stands in for the class's
    run = decoder.forward
    outputs: list[Any] = []

    def first_output(*arguments: Any, **named: Any) -> Any:
        if not outputs:
            outputs.append(run(*arguments, **named))
        return outputs[0]

    decoder.forward = first_output
    try:
        yield
    finally:
        del decoder.forward
        if own is not None:
            decoder.forward = own


def _reduce(
    lm: LM, cases: Sequence[SwitchCase], outputs: Sequence[Sequence[PlanOutput]]
) -> list[list[TokenCurves]]:
    """Reduce the hidden states of cases, tokens of several at a time."""
    rows = LOGITS_AT_ONCE.get(lm.device.type, 2**26) // int(lm.config.vocab_size)
    numbers: list[list[np.ndarray]] = [[] for _ in cases]
    with decoder_run_once(lm):
        for part in cut_tokens(cases, rows):
            for some, found in zip(part, _part_numbers(lm, cases, outputs, part), strict=True):
                numbers[some.case].append(found)
    return [
        _curves(np.concatenate(found, axis=2), own)
        for found, own in zip(numbers, outputs, strict=True)
    ]


def cut_tokens(cases: Sequence[SwitchCase], rows: int) -> list[list[TokenRange]]:
    """Cut the tokens that cases follow into parts, each turned into logits at once.

    `rows`: most rows of logits in a part, one for each token under each plan; a token's plans stay
    together.
    """
    ranges = []
    for number, case in enumerate(cases):
        width, length = max(1, rows // len(case.plans)), len(case.followed)
        ranges += [
            TokenRange(number, start, min(start + width, length))
            for start in range(0, length, width)
        ]
    sizes = [len(cases[some.case].plans) * (some.stop - some.start) for some in ranges]
    return [ranges[a:b] for a, b in batching.cut_by_budget(sizes, rows, padded=False)]


def _part_numbers(
    lm: LM,
    cases: Sequence[SwitchCase],
    outputs: Sequence[Sequence[PlanOutput]],
    part: Sequence[TokenRange],
) -> list[np.ndarray]:
    """Return for each range of a part `token_numbers`, and the similarity as one number more."""
    hidden = [
        torch.stack([output.hidden[some.start : some.stop] for output in outputs[some.case]])
        for some in part
    ]
    shapes = [own.shape[:2] for own in hidden]  # plans, tokens
    logits = head_logits(lm, torch.cat([own.flatten(0, 1) for own in hidden]))
    sizes = [plans * tokens for plans, tokens in shapes]
    numbers = []
    for some, own, rows in zip(part, hidden, logits.split(sizes), strict=True):
        case = cases[some.case]
        followed = case.followed[some.start : some.stop]
        found = token_numbers(rows.view(*own.shape[:2], -1), case, followed)
        similar = similarity(own, case.oracle).unsqueeze(0)
        numbers.append(torch.cat([found, similar]).flatten(1))
    on_host = torch.cat(numbers, dim=1).cpu()  # one copy
    if not on_host[FINITE].all():
        raise KvError(f"{lm.name}: the logits are not finite; load the model in another dtype.")
    return [
        own.unflatten(1, shape).numpy()
        for own, shape in zip(on_host.split(sizes, dim=1), shapes, strict=True)
    ]


def _curves(numbers: np.ndarray, outputs: Sequence[PlanOutput]) -> list[TokenCurves]:
    """Return the curves of a case's plans from all its numbers, (number, plan, token)."""
    logp, choice, oracle, ignore, _, similar = numbers
    return [
        TokenCurves(
            logp[n], choice[n].astype(np.int64), oracle[n], ignore[n], similar[n], output.shares
        )
        for n, output in enumerate(outputs)
    ]


def token_numbers(logits: torch.Tensor, case: SwitchCase, followed: Ids) -> torch.Tensor:
    """Return the tokens' log-probabilities, the likeliest tokens and the KLs to both references.

    `followed`: the tokens that are predicted.
    Returned are, by plan and token in float64, these four, and as number `FINITE` 1 where all
    logits are finite.
    """
    logps = torch.log_softmax(logits, dim=-1)
    targets = upload(followed, logits.device).expand(len(logits), -1)
    kls = [
        torch.stack([kl_divergence(own, logps[reference]) for own in logps])
        for reference in (case.oracle, case.ignore)
    ]
    numbers = (
        logps.gather(2, targets.unsqueeze(2)).squeeze(2).double(),
        logits.argmax(dim=-1).double(),
        *kls,
        logits.isfinite().all(dim=-1).double(),
    )
    return torch.stack(numbers)


def similarity(hidden: torch.Tensor, oracle: int) -> torch.Tensor:
    """Return the cosine of each plan's hidden states with the oracle's, (plan, token) float64.

    `hidden`: (plan, token, hidden size).
    """
    states = hidden.float()
    return torch.nn.functional.cosine_similarity(
        states, states[oracle].unsqueeze(0), dim=-1
    ).double()


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
