"""Free generation behind a context switch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from kvcore.cache import batch as cache_batch
from kvcore.cache.batch import CacheBatch
from kvcore.cache.kv_cache import KVCache
from kvcore.conditions import switching
from kvcore.conditions.switching import Ids, Switch, SwitchMethod
from kvcore.engine import batching, forward, limits
from kvcore.measurements import generation
from kvcore.measurements.context_switch import cases, passes, teacher_forced
from kvcore.measurements.context_switch.cases import AnswerJob, SwitchCase
from kvcore.measurements.context_switch.passes import TokenCurves
from kvcore.measurements.generation import DecodingRule, LiveBatch
from kvcore.models.lm import LM


def generate_after_switch(
    lm: LM,
    switches: Iterable[Switch],
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
    lm, switches, conditions, seed, batch_tokens
        As `follow` takes them; the tokens of `batch_tokens` are slots here.
    max_new_tokens : int
        Tokens written behind the switch, at most. The oracle writes the tokens before it itself,
        so many more.
    stop : iterable of int, optional
        Token ids that end a text. Default: `generation.end_ids`; ``()`` for none.

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
    Greedy. Exact as `generation.generate` is: where two logits lie closer than rounding, another
    batch may choose the other token. Cost: a prefill and a step per token for each batch, then
    one teacher-forced pass per reference and row.
    """
    stop_ids = generation.end_ids(lm) if stop is None else frozenset(stop)
    rule = DecodingRule(max_new_tokens, stop=stop_ids)
    generation.check_prompts(lm, [], rule)

    # 1. Plan what each way caches, and refuse what the model cannot read exactly.
    methods = tuple(map(switching.switch_method, conditions))
    jobs = [
        cases.plan_answer(lm, switch, method, max_new_tokens, seed)
        for switch in cases.tokenize_all(lm, switches)
        for method in methods
    ]
    cases.check_lengths(lm, [(job.switch.id, job.length) for job in jobs])

    # 2. Write every answer.
    answers = write_answers(lm, jobs, rule, batch_tokens)

    # 3. Let both references read what was written.
    read_again = [references(lm, job, ids) for job, ids in zip(jobs, answers, strict=True)]
    measured = passes.measure_cases(lm, read_again, batch_tokens=batch_tokens)
    return pd.DataFrame(
        [
            _row(lm, job, ids, curves)
            for job, ids, curves in zip(jobs, answers, measured, strict=True)
        ]
    )


def references(lm: LM, job: AnswerJob, ids: Ids) -> SwitchCase:
    """Plan both references' reading of an answer."""
    oracle, ignore = (
        switching.plan_decode(switching.reprefill(context, kind, job.before, lm.bos_id), ids)
        for context, kind in (
            (job.switch.new, switching.INJECTED),
            (job.switch.original, switching.ORIGINAL),
        )
    )
    if cases.plan_key(oracle) == cases.plan_key(ignore):
        return SwitchCase(ids, (oracle,), oracle=0, ignore=0)
    return SwitchCase(ids, (oracle, ignore), oracle=0, ignore=1)


def _row(lm: LM, job: AnswerJob, ids: Ids, curves: Sequence[TokenCurves]) -> dict[str, Any]:
    oracle, ignore = curves[0], curves[-1]
    return {
        "switch_id": job.switch.id,
        "condition": job.method.name,
        "identical": job.switch.identical,
        "step": len(job.before),
        "ids": list(ids),
        "text": str(lm.tokenizer.decode([*job.before, *ids], skip_special_tokens=True)),
        "attribution": teacher_forced.attributions(ids, oracle, ignore),
        "towards_oracle": (oracle.logp - ignore.logp).tolist(),
    }


def write_answers(
    lm: LM, jobs: Sequence[AnswerJob], rule: DecodingRule, batch_tokens: int | None
) -> list[Ids]:
    """Write every answer, in batches of answers that take as many steps, so that they end together.

    Of answers of as many steps those of like length go together.
    """
    slots = batch_tokens or generation.BATCH_TOKENS.get(lm.device.type, 16384)
    order = sorted(range(len(jobs)), key=lambda n: (jobs[n].steps, jobs[n].slots, n))
    answers: dict[int, Ids] = {}
    with torch.inference_mode():
        for start, stop in batching.cut_by_budget([jobs[n].slots for n in order], slots):
            batch = order[start:stop]
            write = partial(_write, lm, rule)
            own = limits.run_or_halve(lm, [jobs[n] for n in batch], write, what="answers")
            answers |= dict(zip(batch, own, strict=True))
    return [answers[n] for n in range(len(jobs))]


def _write(lm: LM, rule: DecodingRule, jobs: Sequence[AnswerJob]) -> list[Ids]:
    """Write for one batch, a token a step; what is injected on the way is read a token a step."""
    order, logits, live = start_answers(lm, jobs)
    answers = [AnswerState(job, rule.stop) for job in jobs]
    going = [answers[n] for n in order]
    while True:
        chosen = generation.choose_tokens(lm, logits.float(), rule, 0, np.zeros(len(going)))
        next_ids = [answer.next(token) for answer, token in zip(going, chosen, strict=True)]
        rows = [row for row, answer in enumerate(going) if not answer.ended]
        if not rows:
            return [tuple(answer.ids) for answer in answers]
        live = live.extended(next_ids, rows)
        going = [going[row] for row in rows]
        logits = live.next_logits(lm)


def start_answers(lm: LM, jobs: Sequence[AnswerJob]) -> tuple[list[int], torch.Tensor, LiveBatch]:
    """Read what stands before each answer, in as many passes as cost least.

    One way injects a whole context, another reads a single token: in one pass most of it would be
    padding.

    Returns the jobs' numbers in the order of the batch's rows, the logits behind each row, and the
    batch.
    """
    budget, cost = limits.pass_limits(lm)
    prefills = passes.run_prefills(lm, [job.plan for job in jobs], budget, cost)
    order: list[int] = []
    logits: list[torch.Tensor] = []
    caches: list[KVCache] = []
    for part in batching.passes_by_size([len(job.plan.read) for job in jobs], budget, cost):
        plans = [jobs[n].plan for n in part]
        past = CacheBatch(tuple(passes.assemble_cache(lm, plan, prefills) for plan in plans))
        step = passes.append_input(lm, past, [plan.read for plan in plans])
        last = [len(plan.read) - 1 for plan in plans]
        found, cache = forward.run(lm, step, (range(len(part)), last))
        order += part
        logits.append(found)
        caches.append(cache)
    return order, torch.cat(logits), _left_padded(cache_batch.stack(caches))


class AnswerState:
    """An answer being written, and what is yet to be injected into it."""

    def __init__(self, job: AnswerJob, stop: frozenset[int]) -> None:
        self.ids: list[int] = []
        self.max_new_tokens = job.max_new_tokens
        self._stop = stop
        self._due: list[int] = []
        self._later = dict(job.plan.later)

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
        return len(self.ids) == self.max_new_tokens or (
            bool(self.ids) and self.ids[-1] in self._stop
        )


def _left_padded(cache: KVCache) -> LiveBatch:
    """Return a batch to be written behind a cache, its padding moved to the front of each row."""
    order = cache.real.int().argsort(dim=1, stable=True)
    aligned = cache.select(order, cache.real.gather(1, order))
    return LiveBatch(aligned.positions[:, :0], aligned.positions, aligned.real, aligned.to_model())
