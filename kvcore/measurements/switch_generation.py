"""Free generation behind a context switch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from kvcore.cache import batch as cache_batch
from kvcore.cache.kv_cache import KVCache
from kvcore.conditions import switching
from kvcore.conditions.switching import CachePlan, Ids, Switch, SwitchMethod, TokenizedSwitch
from kvcore.engine import forward
from kvcore.measurements import context_switch, generation, switch_passes
from kvcore.measurements.switch_passes import Cached, Case, Measured
from kvcore.models.lm import LM


def generate_after_switch(
    lm: LM,
    given: Iterable[Switch],
    conditions: Iterable[str | SwitchMethod] = switching.METHODS,
    *,
    max_new_tokens: int,
    stop: Iterable[int] | None = None,
    seed: int = 0,
    batch_tokens: int | None = None,
) -> pd.DataFrame:
    """Let the model go on greedily behind every way to switch.

    Parameters
    ----------
    lm, given, conditions, seed, batch_tokens
        As `follow` takes them; the tokens of `batch_tokens` are slots here.
    max_new_tokens : int
        Tokens written behind the switch, at most. The oracle writes the tokens before it itself,
        so many more.
    stop : iterable of int, optional
        Token ids that end a text. Default: `kvcore.generation.end_ids`; ``()`` for none.

    Returns
    -------
    pandas.DataFrame
        One row per switch and condition, in the order given: `switch_id`, `condition`,
        `identical`, `step` (tokens that stood before what was written: 0 for the oracle),
        `ids` (list, what was written; a stop token is its last), `text` (all of the answer: what
        stood before and what was written, decoded, special tokens left out), and lists with an
        entry per id: `attribution` (see `attribute`), and `towards_oracle`, log P(id | oracle) -
        log P(id | ignore) in nats, both references reading the answer so far.

    Raises
    ------
    KvError
        As `follow`, also for max_new_tokens below 1 and stop ids outside the vocabulary.

    Notes
    -----
    Greedy. Exact as `kvcore.generation.generate` is: where two logits lie closer than rounding,
    another batch may choose the other token. Cost: a prefill and a step per token for each
    batch, then one teacher-forced pass per reference and row.
    """
    ways = tuple(map(switching.switch_method, conditions))
    rule = generation.Rule(
        max_new_tokens, stop=generation.end_ids(lm) if stop is None else frozenset(stop)
    )
    generation.check_prompts(lm, [], rule)
    told = context_switch._tokenize_all(lm, given)
    jobs = [_job(lm, one, each, max_new_tokens, seed) for one in told for each in ways]
    context_switch._check(lm, [(job.one.id, job.length) for job in jobs])
    written = _written(lm, jobs, rule, batch_tokens)
    judged = switch_passes.measure(
        lm,
        [_references(lm, job, ids) for job, ids in zip(jobs, written, strict=True)],
        batch_tokens=batch_tokens,
    )
    return pd.DataFrame(
        [
            _answer(lm, job, ids, results)
            for job, ids, results in zip(jobs, written, judged, strict=True)
        ]
    )


@dataclass(frozen=True)
class _Job:
    """One answer that is wanted."""

    one: TokenizedSwitch
    way: SwitchMethod
    opening: CachePlan
    before: Ids
    most: int

    @property
    def slots(self) -> int:
        """Slots in use once the answer is written."""
        injected = sum(len(part) for _, part in self.opening.later)
        return len(self.opening.cached) + len(self.opening.read) + injected + self.most

    @property
    def length(self) -> int:
        """Positions in use until the answer is written and both references have read it."""
        context = max(len(self.one.original), len(self.one.new))
        return max(
            self.slots,
            1 + context + len(self.before) + self.most,
            *(len(run) + 1 for run in self.opening.runs),
        )


def _job(lm: LM, one: TokenizedSwitch, given: SwitchMethod, most: int, seed: int) -> _Job:
    if given.kind == "oracle":
        start = switching.reprefill(one.new, switching.INJECTED, (), lm.bos_id)
        return _Job(one, given, start, (), len(one.before) + most)
    start = switching.plan_cache(given, one, lm.bos_id, context_switch._noise(lm, one, given, seed))
    return _Job(one, given, start, one.before, most)


def _references(lm: LM, job: _Job, ids: Ids) -> Case:
    """Let both references read what was written."""
    oracle, ignore = (
        switching.plan_decode(switching.reprefill(context, kind, job.before, lm.bos_id), ids)
        for context, kind in (
            (job.one.new, switching.INJECTED),
            (job.one.original, switching.ORIGINAL),
        )
    )
    same = switch_passes.script_key(oracle) == switch_passes.script_key(ignore)
    return Case(ids, (oracle,) if same else (oracle, ignore), 0, 0 if same else 1)


def _answer(lm: LM, job: _Job, ids: Ids, results: Sequence[Measured]) -> dict[str, Any]:
    oracle, ignore = results[0], results[-1]
    return {
        "switch_id": job.one.id,
        "condition": job.way.name,
        "identical": job.one.identical,
        "step": len(job.before),
        "ids": list(ids),
        "text": str(lm.tokenizer.decode([*job.before, *ids], skip_special_tokens=True)),
        "attribution": context_switch._attributions(ids, oracle, ignore),
        "towards_oracle": (oracle.logp - ignore.logp).tolist(),
    }


def _written(
    lm: LM, jobs: Sequence[_Job], rule: generation.Rule, batch_tokens: int | None
) -> list[Ids]:
    """Write every answer, in batches of answers of like length."""
    budget, cost = switch_passes.pass_limits(lm, None)
    slots = batch_tokens or generation.BATCH_TOKENS.get(lm.device.type, 16384)
    done: dict[int, Ids] = {}
    with torch.inference_mode():
        for part in generation.batches_by_slots([job.slots for job in jobs], slots):
            batch = [jobs[n] for n in part]
            cached = switch_passes.prefill_runs(lm, [job.opening for job in batch], budget, cost)
            done |= dict(zip(part, _write(lm, batch, cached, rule), strict=True))
    return [done[n] for n in range(len(jobs))]


def _write(lm: LM, jobs: Sequence[_Job], cached: Cached, rule: generation.Rule) -> list[Ids]:
    """Write for one batch, a token a step; what is injected on the way is read a token a step."""
    cache = cache_batch.stack(
        [switch_passes.assemble_cache(lm, job.opening, cached) for job in jobs]
    )
    read = [job.opening.read for job in jobs]
    logits, cache = forward.run(
        lm,
        switch_passes.append_input(lm, cache, read),
        (range(len(jobs)), [len(ids) - 1 for ids in read]),
    )
    live = _live(cache)
    pages = [_AnswerState(job, rule.stop) for job in jobs]
    going = list(pages)
    while True:
        chosen = generation.choose_tokens(lm, logits.float(), rule, 0, np.zeros(len(going)))
        next_ids = [page.next(token) for page, token in zip(going, chosen, strict=True)]
        rows = [row for row, page in enumerate(going) if not page.ended]
        if not rows:
            return [tuple(page.ids) for page in pages]
        live = live.grown(next_ids, rows)
        going = [going[row] for row in rows]
        logits = live.next_logits(lm)


class _AnswerState:
    """An answer being written, and what is yet to be injected into it."""

    def __init__(self, job: _Job, stop: frozenset[int]) -> None:
        self.ids: list[int] = []
        self._job, self._stop = job, stop
        self._due: list[int] = []
        self._later = dict(job.opening.later)

    def next(self, chosen: int) -> int:
        """Return the token to be read next: one that is due, or else the chosen one."""
        if not self._due:
            self._due = list(self._later.pop(len(self.ids), ()))
        if self._due:
            return self._due.pop(0)
        self.ids.append(chosen)
        return chosen

    @property
    def ended(self) -> bool:
        """Whether nothing more is to be written."""
        return len(self.ids) == self._job.most or (bool(self.ids) and self.ids[-1] in self._stop)


def _live(cache: KVCache) -> generation.LiveBatch:
    """Return a batch to be written behind a cache, its padding moved to the front of each row."""
    order = cache.real.int().argsort(dim=1, stable=True)
    aligned = cache.select(order, cache.real.gather(1, order))
    return generation.LiveBatch(
        aligned.positions[:, :0], aligned.positions, aligned.real, aligned.to_model()
    )
