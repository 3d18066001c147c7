"""The batched engine: samples and conditions in, answers' NLLs out.

Two routes lead to a score. Where several conditions or targets need the same prefill, it is run
once, caches are built from it, and answers are read on top of them. Where nothing is shared, one
masked pass reads everything: a second BOS, which sees only itself, stands where the truncated
document begins, and the query sees that one (attention is relative, so the two routes agree).
Batches, sorted by length, never change a number beyond rounding; the LM head sees scored tokens
only. Answers on top of caches that differ in few layers run once below those (`kvcore.branching`).
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import pandas as pd
import torch

from kvcore.cache import batch as cache_batch
from kvcore.cache.kv_cache import KVCache
from kvcore.conditions.parse import condition
from kvcore.conditions.recipes import Condition, Recipe
from kvcore.corpora.sample import Sample
from kvcore.engine import batching, build, forward, limits, one_pass, prepared
from kvcore.engine.forward import ForwardInput
from kvcore.engine.limits import BATCH_TOKENS, PASS_COST
from kvcore.engine.prepared import COPIES, PreparedSample
from kvcore.models.lm import LM

COLUMNS = (
    "sample_id",
    "condition",
    "target",
    "status",
    "nll",
    "nll_tail",
    "token_nlls",
    "n_answer_tokens",
    "doc_len",
    "prefix_len",
    "cache_len",
    "clean_boundary",
)
LOGITS_AT_ONCE = 2**21  # turned into NLLs at a time: 8 MB, which the heap serves again and again
MAX_CONDITIONS_IN_MEMORY = 16  # conditions whose caches are held at the same time
Route = Literal["auto", "cache"]


@dataclass(frozen=True)
class ScoreJob:
    """One score that is wanted: where its row goes, and what it takes."""

    row: tuple[int, str]
    sample: PreparedSample
    condition: Condition


def score(
    lm: LM,
    samples: Iterable[Sample],
    conditions: Iterable[str | Condition],
    *,
    seed: int = 0,
    batch_tokens: int | None = None,
    targets: Iterable[str] = ("answer",),
    route: Route = "auto",
) -> pd.DataFrame:
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
    targets : iterable of str
        What is asked and scored, keys of `kvcore.tokens.TARGETS`.
    route : {"auto", "cache"}
        ``"cache"`` always builds caches, also where one masked pass would do.

    Returns
    -------
    pandas.DataFrame
        One row per sample, target and condition, in the order given: `sample_id`, `condition`,
        `target`, `status` (``"ok"`` or why the sample could not be measured), `nll` and
        `nll_tail` in nats per answer token (the tail leaves out the first answer token and is
        NaN for one-token answers), `token_nlls`, `n_answer_tokens`, `doc_len`, `prefix_len`
        (tokens read beside BOS and document), `cache_len` (slots that the query sees) and
        `clean_boundary` (1 where the passage alone has the ids it has behind the prefix).

    Raises
    ------
    KvError
        For an unknown condition or target, or a model that a condition cannot be exact on.

    Notes
    -----
    Exact: batching, padding, order and route change a score by rounding only, below 1e-5 nats in
    float32. Log-softmax in float32, sums in float64.
    """
    chosen = tuple(dict.fromkeys(condition(c) for c in conditions))
    asked = tuple(targets)
    return score_pairs(
        lm,
        [(sample, target, chosen) for sample in samples for target in asked],
        seed=seed,
        batch_tokens=batch_tokens,
        route=route,
    )


def score_pairs(
    lm: LM,
    asked: Sequence[tuple[Sample, str, Sequence[Condition]]],
    *,
    seed: int = 0,
    batch_tokens: int | None = None,
    route: Route = "auto",
) -> pd.DataFrame:
    """Score samples and targets that need not share their conditions; see `score`."""
    kind = lm.device.type
    budget = batch_tokens or BATCH_TOKENS.get(kind, 4096)
    cost = PASS_COST.get(kind, 256)
    prepared.check_conditions(lm, dict.fromkeys(c for _, _, some in asked for c in some))
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    jobs: list[ScoreJob] = []
    for number, (sample, target, some) in enumerate(asked):
        for given, ready in prepared.prepare_sample(lm, sample, target, some, seed):
            if isinstance(ready, str):
                rows[number, given.name] = _row(sample.id, given.name, target, ready)
            else:
                jobs.append(ScoreJob((number, given.name), ready, given))
    for part, scorer in _plan(jobs, budget, cost, route):
        rows |= _score_or_halve(lm, part, scorer)
    ordered = [rows[n, c.name] for n, (_, _, some) in enumerate(asked) for c in some]
    frame = {name: [row[name] for row in ordered] for name in COLUMNS}
    texts = {name: pd.Series(frame.pop(name), dtype=object) for name in COLUMNS[:4]}
    return pd.DataFrame(texts | frame)  # object: an id may hold what pandas' strings refuse


Scorer = Callable[["LM", Sequence[ScoreJob]], dict[tuple[int, str], dict[str, Any]]]


def _plan(
    jobs: Sequence[ScoreJob], budget: int, cost: int, route: Route
) -> Iterator[tuple[list[ScoreJob], Scorer]]:
    """Divide the work into parts that run at once, each with the function that scores it.

    Regrouped conditions come in half-size parts in shuffled order, so that they meet other
    batch partners and other padding.
    """

    def through_caches(lm: LM, part: Sequence[ScoreJob]) -> dict[tuple[int, str], dict[str, Any]]:
        return _score_group(lm, part, budget, cost)

    for again in (False, True):
        pool = [job for job in jobs if job.condition.aa_control == again]
        limit = max(1, budget // 2) if again else budget
        shared = _shared(pool) if route == "auto" else {job.row for job in pool}
        alone = [job for job in pool if job.row not in shared]
        alone.sort(
            key=_shuffled
            if again
            else lambda job: len(one_pass.one_pass(job.sample, job.condition, 0).ids)
        )
        lengths = [len(one_pass.one_pass(job.sample, job.condition, 0).ids) for job in alone]
        for start, stop in batching.cut_into_passes(lengths, limit, cost):
            yield alone[start:stop], _score_in_one_pass
        together = [job for job in pool if job.row in shared]
        for part in _document_groups(together, limit, cost, _shuffled if again else _by_length):
            yield part, through_caches


def _shared(jobs: Sequence[ScoreJob]) -> set[tuple[int, str]]:
    """Return the rows of the jobs that build caches: prefills shared, or no single pass to do."""
    leaves = {
        job.row: [
            (leaf.isolated, job.sample.prefill_spec(leaf)) for leaf in job.condition.prefills()
        ]
        for job in jobs
    }
    uses = Counter(leaf for found in leaves.values() for leaf in set(found))
    return {
        job.row
        for job in jobs
        if not one_pass.fits_one_pass(job.condition.recipe)
        or any(uses[leaf] > 1 for leaf in leaves[job.row])
    }


def _by_length(job: ScoreJob) -> tuple[Any, ...]:
    one = job.sample.tokens
    return len(one.document), one.document, one.sample_id


def _shuffled(job: ScoreJob) -> tuple[Any, ...]:
    name = job.sample.tokens.sample_id.encode("utf-8", "replace")
    return hashlib.sha256(name).digest(), job.row


def _document_groups(
    jobs: Sequence[ScoreJob], budget: int, cost: int, key: Callable[[ScoreJob], tuple[Any, ...]]
) -> Iterator[list[ScoreJob]]:
    """Group jobs so that no prefill exceeds the budget; jobs with equal prefills stay together."""
    same: dict[tuple[str, ...], dict[tuple[Any, ...], list[ScoreJob]]] = {}
    names: dict[tuple[Any, ...], set[str]] = {}
    units = {
        id(one): one.prefill_key() for one in {id(job.sample): job.sample for job in jobs}.values()
    }
    for job in jobs:
        names.setdefault(units[id(job.sample)], set()).add(job.condition.name)
    for job in sorted(jobs, key=key):
        unit = units[id(job.sample)]
        same.setdefault(tuple(sorted(names[unit])), {}).setdefault(unit, []).append(job)
    for found in same.values():
        parts = list(found.values())
        widths = [
            max(
                1 + len(job.sample.prefill_spec(leaf))
                for job in part
                for leaf in job.condition.prefills()
            )
            for part in parts
        ]
        for start, stop in batching.cut_into_passes(widths, budget, cost):
            yield [job for part in parts[start:stop] for job in part]


def _score_or_halve(
    lm: LM, part: Sequence[ScoreJob], scorer: Scorer
) -> dict[tuple[int, str], dict[str, Any]]:
    """Score a part; where memory runs out, score its halves, and say so."""
    try:
        return scorer(lm, part)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not limits.is_out_of_memory(error):
            raise
    if len(part) == 1:
        return {part[0].row: _row_of(part[0], "out of memory")}
    middle = len(part) // 2
    warnings.warn(
        f"out of memory with {len(part)} scores at once: going on with {middle}; "
        "a smaller --kv-batch-tokens avoids this.",
        RuntimeWarning,
        stacklevel=2,
    )
    if lm.device.type == "cuda":
        torch.cuda.empty_cache()
    return _score_or_halve(lm, part[:middle], scorer) | _score_or_halve(lm, part[middle:], scorer)


def _score_in_one_pass(lm: LM, part: Sequence[ScoreJob]) -> dict[tuple[int, str], dict[str, Any]]:
    readings = [one_pass.one_pass(job.sample, job.condition, lm.bos_id) for job in part]
    starts = [
        len(r.ids) - len(job.sample.query_ids()) for r, job in zip(readings, part, strict=True)
    ]
    asked = [job.sample for job in part]
    nlls = _answer_nlls(lm, forward.pad_sequences(lm, readings), asked, starts)
    return {job.row: _scored_row(job, found) for job, found in zip(part, nlls, strict=True)}


def _score_group(
    lm: LM, jobs: Sequence[ScoreJob], budget: int, cost: int
) -> dict[tuple[int, str], dict[str, Any]]:
    """Score jobs that share prefills: each prefill once, then short passes on top of caches."""
    units = {
        job.sample.prefill_key(): job.sample
        for job in sorted(jobs, key=lambda job: len(job.sample.query_ids()))
    }
    place = {unit: i for i, unit in enumerate(units)}  # like questions side by side: no copies
    group = list(units.values())
    by_condition = {
        c: [job for job in jobs if job.condition == c]
        for c in dict.fromkeys(job.condition for job in jobs)
    }
    leaves: dict[Recipe, KVCache] = {}
    for leaf in dict.fromkeys(leaf for c in by_condition for leaf in c.prefills()):
        build.build(lm, leaf, leaves, group)
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    chosen = list(by_condition)
    for start in range(0, len(chosen), MAX_CONDITIONS_IN_MEMORY):
        made = dict(leaves)
        caches = {
            c: build.build(lm, c.recipe, made, group)
            for c in chosen[start : start + MAX_CONDITIONS_IN_MEMORY]
        }
        work = sorted(
            ((job, place[job.sample.prefill_key()]) for c in caches for job in by_condition[c]),
            key=lambda item: (len(item[0].sample.query_ids()), item[0].condition.name, item[1]),
        )
        for a, b in batching.cut_into_passes(
            [len(job.sample.query_ids()) for job, _ in work], budget, cost
        ):
            part = sorted(
                work[a:b], key=lambda item: (item[0].condition.name, item[0].sample.target, item[1])
            )  # neighbours need no copies
            cache = cache_batch.concatenate(
                (caches[c], [which for _, which in items])
                for c, items in groupby(part, key=lambda item: item[0].condition)
            )
            asked = [job.sample for job, _ in part]
            nlls = _answer_nlls(lm, build.query_input(lm, cache, asked), asked, [0] * len(asked))
            rows |= {
                job.row: _scored_row(job, found) for (job, _), found in zip(part, nlls, strict=True)
            }
    return rows


def _answer_nlls(
    lm: LM, given: ForwardInput, group: Sequence[PreparedSample], starts: Sequence[int]
) -> list[list[float]]:
    """Return each answer's per-token NLLs in nats; questions start at the given columns."""
    rows = [r for r, one in enumerate(group) for _ in one.tokens.answer]
    columns = [
        start + len(one.tokens.prompt) - 1 + i
        for one, start in zip(group, starts, strict=True)
        for i in range(len(one.tokens.answer))
    ]
    targets = torch.tensor([t for one in group for t in one.tokens.answer], device=lm.device)
    logits = forward.logits(lm, given, (rows, columns), share_layers=True)
    at_once = max(1, LOGITS_AT_ONCE // logits.shape[-1])
    ends = iter(
        [
            nll
            for some, aims in zip(logits.split(at_once), targets.split(at_once), strict=True)
            for nll in torch.nn.functional.cross_entropy(
                some.float(), aims, reduction="none"
            ).tolist()
        ]
    )
    return [[next(ends) for _ in one.tokens.answer] for one in group]


def _scored_row(job: ScoreJob, nlls: Sequence[float]) -> dict[str, Any]:
    if not all(math.isfinite(x) for x in nlls):
        return _row_of(job, "the model's logits are not finite")
    one, tail = job.sample, nlls[1:]
    roles = one.roles(job.condition.recipe)
    read = max(
        sum(role >= COPIES for _, role in one.prefill_spec(leaf))
        for leaf in job.condition.prefills()
    )
    return _row_of(job, "ok") | {
        "nll": math.fsum(nlls) / len(nlls),
        "nll_tail": math.fsum(tail) / len(tail) if tail else math.nan,
        "token_nlls": list(nlls),
        "n_answer_tokens": len(nlls),
        "doc_len": len(one.tokens.document),
        "prefix_len": read,
        "cache_len": len(roles) - len(one.hidden_slots(job.condition.recipe)),
        "clean_boundary": int(one.tokens.clean_boundary),
    }


def _row_of(job: ScoreJob, status: str) -> dict[str, Any]:
    return _row(job.sample.tokens.sample_id, job.condition.name, job.sample.target, status)


def _row(sample_id: str | None, name: str, target: str, status: str) -> dict[str, Any]:
    return {
        "sample_id": sample_id,
        "condition": name,
        "target": target,
        "status": status,
        "nll": math.nan,
        "nll_tail": math.nan,
        "token_nlls": [],
        "n_answer_tokens": 0,
        "doc_len": 0,
        "prefix_len": 0,
        "cache_len": 0,
        "clean_boundary": -1,
    }
