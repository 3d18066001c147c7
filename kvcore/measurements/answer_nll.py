"""NLLs of answers: samples and conditions in, a score for each out.

Two routes lead to a score. Where several conditions or targets need the same prefill, it is run
once, caches are built from it, and answers are read on top of them. Where nothing is shared, one
masked pass reads everything: a second BOS, which sees only itself, stands where the truncated
document begins, and the query sees that one (attention is relative, so the two routes agree).
Batches, sorted by length, never change a number beyond rounding; the LM head sees scored tokens
only. Answers on top of caches that differ in few layers run once below those
(`kvcore.engine.shared_layers`).
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import pandas as pd

from kvcore.cache import batch as cache_batch
from kvcore.cache.kv_cache import KVCache
from kvcore.conditions.parse import condition
from kvcore.conditions.recipes import Condition, Prefill, Recipe
from kvcore.data.sample import Sample
from kvcore.engine import batching, build, forward, limits, one_pass, prepared
from kvcore.engine.forward import ForwardInput
from kvcore.engine.prepared import PreparedSample
from kvcore.measurements.frames import frame_of
from kvcore.measurements.token_nlls import token_nlls
from kvcore.models.lm import LM

TEXT_COLUMNS = ("sample_id", "condition", "target", "status")
UNKNOWN: Mapping[str, Any] = {
    "nll": math.nan,
    "nll_tail": math.nan,
    "token_nlls": [],
    **dict.fromkeys(("n_answer_tokens", "doc_len", "prefix_len", "cache_len"), 0),
    "clean_boundary": -1,
}
"""The numbers of a row that was not scored."""
COLUMNS = tuple(dict.fromkeys(("condition", "nll", "nll_tail", *TEXT_COLUMNS, *UNKNOWN)))
"""In the order of the table that is returned: what one looks for comes first."""
MAX_CONDITIONS_IN_MEMORY = 16  # conditions whose caches are held at the same time
Route = Literal["auto", "cache"]
Request = tuple[Sample, str, Sequence[Condition]]
"""A sample, a target's name and the conditions under which it is scored."""
Tokenized = Sequence[tuple[Condition, PreparedSample | str]]
"""A request's sample as token ids under each condition, or the reason against it."""
Row = dict[str, Any]
Place = tuple[int, str]
"""Where a row goes: the number of its request and the name of its condition."""


@dataclass(frozen=True)
class ScoreJob:
    """One score to be measured, and where its row goes."""

    place: Place
    sample: PreparedSample
    condition: Condition


Order = Callable[[ScoreJob], Any]
"""What jobs are sorted by."""


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
    conditions : iterable of str or Condition
        Names as `kvcore.conditions.condition` reads them.
    seed : int
        Together with a sample's id it fixes the random prefix.
    batch_tokens : int, optional
        Most tokens in one forward pass; changes speed, never a number beyond rounding.
    targets : iterable of str
        What is asked and scored, keys of `kvcore.tokenization.TARGETS`.
    route : {"auto", "cache"}
        ``"cache"`` always builds caches, also where one masked pass would do.

    Returns
    -------
    pandas.DataFrame
        One row per sample, target and condition, in the order given: `condition`, `nll`
        and `nll_tail` in nats per answer token (the tail leaves out the first answer token and is
        NaN for one-token answers), `sample_id`, `target`, `status` (``"ok"`` or why the sample
        could not be measured), `token_nlls`, `n_answer_tokens`, `doc_len`, `prefix_len`
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
    distinct = tuple(dict.fromkeys(condition(c) for c in conditions))
    target_names = tuple(targets)
    return score_pairs(
        lm,
        [(sample, target, distinct) for sample in samples for target in target_names],
        seed=seed,
        batch_tokens=batch_tokens,
        route=route,
    )


def score_pairs(
    lm: LM,
    requests: Sequence[Request],
    *,
    seed: int = 0,
    batch_tokens: int | None = None,
    route: Route = "auto",
) -> pd.DataFrame:
    """Score samples and targets that need not share their conditions; see `score`."""
    tokenized = tokenize_requests(lm, requests, seed)
    return score_tokenized(lm, requests, tokenized, batch_tokens=batch_tokens, route=route)


def tokenize_requests(lm: LM, requests: Sequence[Request], seed: int) -> list[Tokenized]:
    """Tokenize requests and draw their random prefixes: the part of scoring that runs no model.

    May be called in another thread while what was tokenized before is scored.
    """
    return list(prepared.prepare_samples(lm, requests, seed))


def score_tokenized(
    lm: LM,
    requests: Sequence[Request],
    tokenized: Sequence[Tokenized],
    *,
    batch_tokens: int | None = None,
    route: Route = "auto",
) -> pd.DataFrame:
    """Score requests that `tokenize_requests` has tokenized; see `score`. No text is read here."""
    # 1. Refuse by name, before anything is run, what the model cannot do exactly.
    prepared.check_conditions(lm, dict.fromkeys(c for *_, some in requests for c in some))

    # 2. Make a job of each score, or at once the row that says why there is none.
    jobs, rows = make_jobs(lm, requests, tokenized, batch_tokens)

    # 3. Divide the jobs into batches, the A/A control's apart from all others.
    budget, cost = limits.pass_limits(lm, batch_tokens)
    ordinary = [job for job in jobs if not job.condition.aa_control]
    control = [job for job in jobs if job.condition.aa_control]
    slots = partial(limits.pass_slots, lm, budget)
    batches = [
        *score_batches(ordinary, budget, cost, route, slots, _by_one_pass_length, _by_document),
        # Half the size and another order: other neighbours and other padding than the rest has.
        *score_batches(control, max(1, budget // 2), cost, route, slots, _shuffled, _shuffled),
    ]

    # 4. Score batch by batch; what does not fit in memory, in halves.
    on_caches = partial(score_on_caches, lm, budget=budget, cost=cost)
    in_one_pass = partial(score_in_one_pass, lm)
    give_up = partial(unscored_row, status="out of memory")
    for batch, needs_caches in batches:
        scorer = on_caches if needs_caches else in_one_pass
        scored = limits.run_or_halve(lm, batch, scorer, give_up, what="scores")
        rows |= dict(zip((job.place for job in batch), scored, strict=True))

    # 5. Arrange the rows in the order of the requests.
    ordered = [rows[n, c.name] for n, (*_, some) in enumerate(requests) for c in some]
    return frame_of(ordered, COLUMNS, TEXT_COLUMNS)


def make_jobs(
    lm: LM,
    requests: Sequence[Request],
    tokenized: Sequence[Tokenized],
    batch_tokens: int | None,
) -> tuple[list[ScoreJob], dict[Place, Row]]:
    """Return the scores that can be measured, and the rows of those that cannot."""
    jobs: list[ScoreJob] = []
    rows: dict[Place, Row] = {}
    for number, ((sample, target, _), under) in enumerate(zip(requests, tokenized, strict=True)):
        for each, ready in under:
            place = number, each.name
            if isinstance(ready, str):
                rows[place] = _unscored(sample.id, each.name, target, ready)
            else:
                jobs.append(ScoreJob(place, ready, each))
    prepared.locate_sinks(lm, [(job.sample, job.condition) for job in jobs], batch_tokens)
    lost = [job for job in jobs if not job.sample.knows_sinks(job.condition)]
    rows |= {job.place: unscored_row(job, "out of memory") for job in lost}
    return [job for job in jobs if job.place not in rows], rows


# --- batches -----------------------------------------------------------------------------------


def score_batches(
    jobs: Sequence[ScoreJob],
    budget: int,
    cost: int,
    route: Route,
    slots: Callable[[int, int], int],
    pass_order: Order,
    document_order: Order,
) -> Iterator[tuple[list[ScoreJob], bool]]:
    """Divide jobs into batches, and say of each whether it is scored on caches.

    Those that share no prefill are scored in one masked pass without any.

    - `budget`, `cost`: as `kvcore.engine.batching.cut_into_passes` takes them.
    - `slots`: what a sequence counts for, from its tokens and how many of them are scored.
    - `pass_order`, `document_order`: what the jobs of the one and of the other are sorted by.
    """
    shared = _places_on_caches(jobs) if route == "auto" else {job.place for job in jobs}
    alone = sorted((job for job in jobs if job.place not in shared), key=pass_order)
    widths = [slots(_by_one_pass_length(job), len(job.sample.tokens.answer)) for job in alone]
    for start, stop in batching.cut_into_passes(widths, budget, cost):
        yield alone[start:stop], False
    together = [job for job in jobs if job.place in shared]
    for group in document_groups(together, budget, cost, document_order):
        yield group, True


def _places_on_caches(jobs: Sequence[ScoreJob]) -> set[Place]:
    """Return the jobs that caches are built for: prefills are shared, or one pass cannot do it."""
    numbers: dict[object, int] = {}  # of distinct prefills
    number_of: dict[tuple[int, Prefill], int] = {}  # by sample

    def number(sample: PreparedSample, prefill: Prefill) -> int:
        place = id(sample), prefill
        if place not in number_of:
            read = prefill.isolated, sample.ids_behind_bos(prefill), sample.roles(prefill)
            number_of[place] = numbers.setdefault(read, len(numbers))
        return number_of[place]

    prefills = {
        job.place: {number(job.sample, prefill) for prefill in job.condition.prefills()}
        for job in jobs
    }
    uses = Counter(prefill for of_job in prefills.values() for prefill in of_job)
    return {
        job.place
        for job in jobs
        if not one_pass.fits_one_pass(job.condition.recipe)
        or any(uses[prefill] > 1 for prefill in prefills[job.place])
    }


def document_groups(
    jobs: Sequence[ScoreJob], budget: int, cost: int, order: Order
) -> Iterator[list[ScoreJob]]:
    """Group jobs so that no prefill exceeds the budget; jobs with equal prefills stay together.

    `order`: what the jobs are sorted by before they are grouped.
    """
    # 1. The jobs of each document, whose prefills are equal.
    keys = _prefill_keys(jobs)
    by_document: dict[object, list[ScoreJob]] = {}
    for job in sorted(jobs, key=order):
        by_document.setdefault(keys[id(job.sample)], []).append(job)
    # 2. Documents under the same conditions side by side: what is built is built for all of them.
    alike: dict[tuple[str, ...], list[list[ScoreJob]]] = {}
    for of_document in by_document.values():
        names = sorted({job.condition.name for job in of_document})
        alike.setdefault(tuple(names), []).append(of_document)
    # 3. Cut by the longest prefill of each document.
    for documents in alike.values():
        widths = [
            max(
                1 - job.sample.bos + len(job.sample.roles(p))
                for job in own
                for p in job.condition.prefills()
            )
            for own in documents
        ]
        for start, stop in batching.cut_into_passes(widths, budget, cost):
            yield [job for of_document in documents[start:stop] for job in of_document]


def _prefill_keys(jobs: Sequence[ScoreJob]) -> dict[int, object]:
    """Return what the prefills of each prepared sample are made from, by the sample's `id`."""
    samples = {id(job.sample): job.sample for job in jobs}
    return {number: sample.prefill_key() for number, sample in samples.items()}


def _by_one_pass_length(job: ScoreJob) -> int:
    return one_pass.one_pass_length(job.sample, job.condition)


def _by_document(job: ScoreJob) -> tuple[Any, ...]:
    tokens = job.sample.tokens
    return len(tokens.document), tokens.document, tokens.sample_id


def _shuffled(job: ScoreJob) -> tuple[Any, ...]:
    name = job.sample.tokens.sample_id.encode("utf-8", "replace")
    return hashlib.sha256(name).digest(), job.place


# --- scores ------------------------------------------------------------------------------------


def score_in_one_pass(lm: LM, jobs: Sequence[ScoreJob]) -> list[Row]:
    """Score jobs that share no prefill, each as one sequence without any cache."""
    sequences = [one_pass.one_pass(job.sample, job.condition, lm.bos_id) for job in jobs]
    starts = [len(s.ids) - _query_length(job) for s, job in zip(sequences, jobs, strict=True)]
    samples = [job.sample for job in jobs]
    nlls = answer_nlls(lm, forward.pad_sequences(lm, sequences), samples, starts)
    return [_scored_row(job, of_job) for job, of_job in zip(jobs, nlls, strict=True)]


def score_on_caches(lm: LM, jobs: Sequence[ScoreJob], *, budget: int, cost: int) -> list[Row]:
    """Score jobs that share prefills: each prefill once, then short passes on top of caches."""
    # 1. Give each document a row, the same in every cache; like questions lie side by side.
    keys = _prefill_keys(jobs)
    documents: dict[object, PreparedSample] = {}
    for job in sorted(jobs, key=_query_length):
        documents.setdefault(keys[id(job.sample)], job.sample)
    samples = list(documents.values())
    rows = {key: row for row, key in enumerate(documents)}
    row_of = {job.place: rows[keys[id(job.sample)]] for job in jobs}

    # 2. Run each prefill once.
    conditions = list(dict.fromkeys(job.condition for job in jobs))
    prefills: dict[Recipe, KVCache] = {}
    for prefill in dict.fromkeys(p for each in conditions for p in each.prefills()):
        build.build(lm, prefill, prefills, samples)

    nlls: dict[Place, list[float]] = {}
    for start in range(0, len(conditions), MAX_CONDITIONS_IN_MEMORY):
        # 3. Build the caches of a few conditions; what they have in common, once.
        built = dict(prefills)
        some = conditions[start : start + MAX_CONDITIONS_IN_MEMORY]
        caches = {each: build.build(lm, each.recipe, built, samples) for each in some}

        # 4. Read their questions and answers on top, those of like length in one pass.
        queries = sorted(
            (job for job in jobs if job.condition in caches),
            key=lambda job: (_query_length(job), job.condition.name, row_of[job.place]),
        )
        widths = [
            limits.pass_slots(lm, budget, _query_length(job), len(job.sample.tokens.answer))
            for job in queries
        ]
        for a, b in batching.cut_into_passes(widths, budget, cost):
            nlls |= _read_queries(lm, queries[a:b], row_of, caches)
    return [_scored_row(job, nlls[job.place]) for job in jobs]


def _read_queries(
    lm: LM,
    jobs: Sequence[ScoreJob],
    row_of: Mapping[Place, int],
    caches: Mapping[Condition, KVCache],
) -> dict[Place, list[float]]:
    """Return the answers' NLLs of one pass on top of several conditions' caches."""
    # By condition, then row: rows that are neighbours in a cache need no copy of it.
    by_condition: dict[Condition, list[ScoreJob]] = {}
    for job in sorted(
        jobs, key=lambda job: (job.condition.name, job.sample.target, row_of[job.place])
    ):
        by_condition.setdefault(job.condition, []).append(job)
    cache = cache_batch.concatenate(
        (caches[each], [row_of[job.place] for job in own]) for each, own in by_condition.items()
    )
    ordered = [job for own in by_condition.values() for job in own]
    samples = [job.sample for job in ordered]
    nlls = answer_nlls(lm, build.query_input(lm, cache, samples), samples, [0] * len(samples))
    return dict(zip((job.place for job in ordered), nlls, strict=True))


def _query_length(job: ScoreJob) -> int:
    return job.sample.query_length()


def answer_nlls(
    lm: LM, forward_input: ForwardInput, samples: Sequence[PreparedSample], starts: Sequence[int]
) -> list[list[float]]:
    """Run one pass and return the NLL of each answer token, in nats.

    - `forward_input`: one row per sample.
    - `starts`: the column at which each row's question begins.
    """
    answers = [sample.tokens.answer for sample in samples]
    rows: list[int] = []
    columns: list[int] = []
    for row, (sample, start) in enumerate(zip(samples, starts, strict=True)):
        count, first = len(sample.tokens.answer), start + len(sample.tokens.prompt) - 1
        rows += [row] * count
        columns += range(first, first + count)
    return token_nlls(
        forward.logits(lm, forward_input, (rows, columns), share_layers=True), answers
    )


# --- rows --------------------------------------------------------------------------------------


def mean_nlls(nlls: Sequence[float]) -> tuple[float, float]:
    """Return the mean NLL of an answer's tokens, and of all but the first (NaN for one token)."""
    tail = nlls[1:]
    return math.fsum(nlls) / len(nlls), math.fsum(tail) / len(tail) if tail else math.nan


def _scored_row(job: ScoreJob, nlls: Sequence[float]) -> Row:
    if not all(math.isfinite(x) for x in nlls):
        return unscored_row(job, "the model's logits are not finite")
    sample, recipe = job.sample, job.condition.recipe
    nll, nll_tail = mean_nlls(nlls)
    return unscored_row(job, "ok") | {
        "nll": nll,
        "nll_tail": nll_tail,
        "token_nlls": list(nlls),
        "n_answer_tokens": len(nlls),
        "doc_len": len(sample.tokens.document),
        "prefix_len": max(sample.prefix_length(p) for p in job.condition.prefills()),
        "cache_len": len(sample.roles(recipe)) - len(sample.hidden_slots(recipe)),
        "clean_boundary": int(sample.tokens.clean_boundary),
    }


def unscored_row(job: ScoreJob, status: str) -> Row:
    """Return the row of a job that could not be scored."""
    return _unscored(job.sample.tokens.sample_id, job.condition.name, job.sample.target, status)


def _unscored(sample_id: str | None, name: str, target: str, status: str) -> Row:
    return dict(zip(TEXT_COLUMNS, (sample_id, name, target, status), strict=True)) | dict(UNKNOWN)
