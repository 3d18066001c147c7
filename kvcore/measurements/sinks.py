"""Where an answer looks, and where the attention sink of its cache is.

A row holds the answer's NLL under a condition, how its attention is spread over the slots (the
mean over layers, heads and the tokens that predict the answer), and the *sink*: the slot of the
prefill whose hidden state halfway up the layers is the longest (`kvcore.engine.sinks`). Caches are
built as for every other score; nothing is shared between the passes that read answers on them,
since attention is recorded in each.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch

from kvcore.cache.kv_cache import KVCache
from kvcore.conditions.recipes import Condition, Prefill
from kvcore.data.sample import Sample
from kvcore.engine import attention_shares, build, forward, limits, prepared, sinks
from kvcore.engine.prepared import BOS, DOCUMENT, PreparedSample
from kvcore.measurements import answer_nll
from kvcore.measurements.answer_nll import Row, ScoreJob
from kvcore.measurements.frames import frame_of
from kvcore.measurements.sink_parts import PARTS, SINGLE
from kvcore.measurements.token_nlls import token_nlls
from kvcore.models.lm import LM

NUMBERS = (
    "nll",
    "nll_tail",
    "bos_share",
    "sink_share",
    "prefix_share",
    "sink_norm",
    "bos_norm",
    "median_norm",
)
TEXT_COLUMNS = ("sample_id", "condition", "status", "sink_part", "sink_token")
COLUMNS = (*TEXT_COLUMNS, *NUMBERS, "profile", "sink_slot", "n_answer_tokens", "cache_len")
Request = tuple[Sample, Sequence[Condition]]
"""A sample, and the conditions that it is measured under."""


def measure_sinks(
    lm: LM, requests: Sequence[Request], *, seed: int = 0, batch_tokens: int | None = None
) -> pd.DataFrame:
    """Measure where answers look and where the sinks are.

    Parameters
    ----------
    seed, batch_tokens
        As `kvcore.score` takes them.

    Returns
    -------
    pandas.DataFrame
        One row per sample and condition, in the order of the requests. `nll`, `nll_tail` in nats
        per answer token; `profile`, the share of the answer's attention on each of
        `sink_parts.PARTS`, which sum to 1; `bos_share`, `prefix_share` and `sink_share`, those on
        BOS, on all of the prefix that is cached and on the sink (0 where it was dropped);
        `sink_slot`, the sink's slot in the condition's first prefill, `sink_part` of
        `sink_parts.SINK_PARTS`, `sink_token` as text;
        `sink_norm`, `bos_norm` and `median_norm`, hidden norms there. NaN where there is no BOS.

    Raises
    ------
    KvError
        As `kvcore.score`; `NotExact` for a model whose attention has sinks of its own.
    """
    prepared.check_conditions(lm, dict.fromkeys(c for _, some in requests for c in some))
    as_scores = [(sample, "answer", some) for sample, some in requests]
    tokenized = answer_nll.tokenize_requests(lm, as_scores, seed)
    jobs, unusable = answer_nll.make_jobs(lm, as_scores, tokenized, batch_tokens)
    rows = {place: _unmeasured(row) for place, row in unusable.items()}
    budget, cost = limits.pass_limits(lm, batch_tokens)
    for group in _groups(jobs, budget, cost):
        give_up = partial(_given_up, status="out of memory")
        measured = limits.run_or_halve(lm, group, partial(_measure, lm), give_up, what="samples")
        rows |= dict(zip((job.place for job in group), measured, strict=True))
    ordered = [rows[n, c.name] for n, (_, some) in enumerate(requests) for c in some]
    return frame_of(ordered, COLUMNS, TEXT_COLUMNS)


def _groups(jobs: Sequence[ScoreJob], budget: int, cost: int) -> Iterable[list[ScoreJob]]:
    """Group jobs whose prefills are run together; the A/A control's in other, smaller groups."""
    ordinary = [job for job in jobs if not job.condition.aa_control]
    control = [job for job in jobs if job.condition.aa_control]
    yield from answer_nll.document_groups(ordinary, budget, cost, _by_length)
    yield from answer_nll.document_groups(control, max(1, budget // 2), cost, _shuffled)


def _by_length(job: ScoreJob) -> tuple[Any, ...]:
    tokens = job.sample.tokens
    return len(tokens.document), tokens.document, tokens.sample_id


def _shuffled(job: ScoreJob) -> bytes:
    return hashlib.sha256(job.sample.tokens.sample_id.encode("utf-8", "replace")).digest()


def _measure(lm: LM, jobs: Sequence[ScoreJob]) -> list[Row]:
    """Measure jobs whose prefills fit one pass, condition by condition."""
    # 1. The samples that share a condition stand in the same rows of every cache of it.
    by_condition: dict[Condition, list[ScoreJob]] = {}
    for job in jobs:
        by_condition.setdefault(job.condition, []).append(job)
    rows: dict[answer_nll.Place, Row] = {}
    caches: dict[tuple[int, ...], build.Caches] = {}
    norms: dict[tuple[tuple[int, ...], Prefill], torch.Tensor] = {}
    for condition, own in by_condition.items():
        samples = [job.sample for job in own]
        who = tuple(id(sample) for sample in samples)
        # 2. Build the cache; prefills are shared with the conditions of the same samples.
        cache = build.build(lm, condition.recipe, caches.setdefault(who, {}), samples)
        # 3. Read question and answer on it, attention recorded.
        nlls, shares = _read(lm, cache, samples)
        # 4. Find the sink of the first prefill.
        prefill = condition.prefills()[0]
        if (who, prefill) not in norms:
            ids = [sample.prefill_ids(prefill, lm.bos_id) for sample in samples]
            norms[who, prefill] = sinks.hidden_norms(lm, ids).cpu()
        for job, of_tokens, profile, lengths in zip(
            own, nlls, shares, norms[who, prefill], strict=True
        ):
            rows[job.place] = _row(lm, job, of_tokens, profile, lengths)
    return [rows[job.place] for job in jobs]


def _read(
    lm: LM, cache: KVCache, samples: Sequence[PreparedSample]
) -> tuple[list[list[float]], list[torch.Tensor]]:
    """Return each sample's NLLs, and its answer's attention on every slot that is cached.

    The shares, (slots + 1,), are means over layers and predicting tokens; the last is that on the
    question and the answer themselves.
    """
    step = build.query_input(lm, cache, samples)
    answers = [sample.tokens.answer for sample in samples]
    columns = [
        [len(sample.tokens.prompt) - 1 + i for i in range(len(sample.tokens.answer))]
        for sample in samples
    ]
    at = (
        [row for row, own in enumerate(columns) for _ in own],
        [column for own in columns for column in own],
    )
    slots = cache.slots
    groups = [[*range(slots), *[slots] * step.ids.shape[1]] for _ in samples]
    with attention_shares.record_shares(lm, columns, groups, slots + 1) as (recording, record):
        logits = forward.logits(recording, step, at)
    mean = torch.stack([record.by_layer[layer] for layer in sorted(record.by_layer)]).mean(dim=0)
    shares = [mean[row, : len(own)].mean(dim=0).cpu() for row, own in enumerate(columns)]
    return token_nlls(logits, answers), shares


def _row(
    lm: LM, job: ScoreJob, nlls: Sequence[float], shares: torch.Tensor, norms: torch.Tensor
) -> Row:
    """Return one row from NLLs, shares by slot and hidden norms by slot of the prefill."""
    if not all(math.isfinite(x) for x in nlls):
        return _given_up(job, "the model's logits are not finite")
    sample, recipe = job.sample, job.condition.recipe
    prefill = job.condition.prefills()[0]
    in_prefill, in_cache = sample.roles(prefill), sample.roles(recipe)
    lengths = norms[: len(in_prefill)]
    sink = int(lengths.argmax())
    place = sample.slot_in_cache(recipe, sink)
    parts = _parts(in_cache)
    profile = [0.0] * len(PARTS)
    for part, share in zip(parts, shares.tolist(), strict=False):
        profile[part] += share
    profile[-1] += float(shares[-1])
    nll, nll_tail = answer_nll.mean_nlls(nlls)
    prefix = [PARTS.index("prefix 1"), PARTS.index("rest of the prefix") + 1]
    return _given_up(job, "ok") | {
        "nll": nll,
        "nll_tail": nll_tail,
        "bos_share": profile[0] if sample.bos else math.nan,
        "sink_share": 0.0 if place is None else float(shares[place]),
        "prefix_share": math.fsum(profile[slice(*prefix)]),
        "sink_norm": float(lengths[sink]),
        "bos_norm": float(lengths[0]) if sample.bos else math.nan,
        "median_norm": float(lengths.median()),
        "profile": profile,
        "sink_slot": sink,
        "sink_part": held_by(in_prefill)[sink],
        "sink_token": str(lm.tokenizer.decode([sample.prefill_ids(prefill, lm.bos_id)[sink]])),
        "n_answer_tokens": len(nlls),
        "cache_len": len(in_cache) - len(sample.hidden_slots(recipe)),
    }


def held_by(roles: Sequence[int]) -> list[str]:
    """Return for each slot of a cache what it holds, of `sink_parts.SINK_PARTS`."""
    last = max((i for i, role in enumerate(roles) if role == DOCUMENT), default=len(roles))
    own = {BOS: "BOS", DOCUMENT: "document"}
    return [
        own.get(role, "prefix" if i < last else "behind the document")
        for i, role in enumerate(roles)
    ]


def _parts(roles: Sequence[int]) -> list[int]:
    """Return for each slot of a cache the number of its part of the profile."""
    counts: Counter[str] = Counter()
    parts = []
    for name in held_by(roles):
        counts[name] += 1
        if name in ("prefix", "document"):
            name = f"{name} {counts[name]}" if counts[name] <= SINGLE else f"rest of the {name}"
        parts.append(PARTS.index(name))
    return parts


def _unmeasured(row: Mapping[str, Any]) -> Row:
    """Return the row of a sample that cannot be measured, from that of a score."""
    known = {name: row[name] for name in ("sample_id", "condition", "status")}
    nothing: Row = dict.fromkeys(("sink_part", "sink_token"), "")
    nothing |= dict.fromkeys(NUMBERS, math.nan)
    nothing |= dict.fromkeys(("sink_slot", "n_answer_tokens", "cache_len"), -1)
    return known | nothing | {"profile": []}


def _given_up(job: ScoreJob, status: str) -> Row:
    return _unmeasured(answer_nll.unscored_row(job, status))
