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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from kvcore import cache as kv
from kvcore import forward, rope, tokens
from kvcore.conditions import (
    Condition,
    Document,
    Hide,
    Mean,
    Mix,
    Prefill,
    Recipe,
    Reposition,
    Shift,
    Truncate,
    condition,
    nodes,
    sources,
)
from kvcore.errors import KvError
from kvcore.forward import Reading
from kvcore.tokens import Prefix, TokenizedSample, Unusable

if TYPE_CHECKING:
    import torch

    from kvcore.cache import KVCache, Pile
    from kvcore.corpora import Sample
    from kvcore.forward import Pass
    from kvcore.models import LM

COLUMNS = ("sample_id", "condition", "target", "status", "nll", "nll_tail", "token_nlls",
           "n_answer_tokens", "doc_len", "prefix_len", "cache_len", "clean_boundary")
BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}  # more gains nothing, and falls out of CPU caches
PASS_COST = {"cpu": 64, "cuda": 512}  # what starting a pass costs, in tokens: reading the weights
LOGITS_AT_ONCE = 2**21  # turned into NLLs at a time: 8 MB, which the heap serves again and again
AT_ONCE = 16  # conditions whose caches are held at the same time
BOS, DOCUMENT, COPIES = 0, 1, 2  # what a slot holds; prefixes count on from COPIES, one per copy
SECOND_BOS, QUESTION = -2, -1  # further groups of the one-pass route
Route = Literal["auto", "cache"]


@dataclass(frozen=True)
class Prepared:
    """A tokenized sample with the ids of every prefix that some condition uses."""

    tokens: TokenizedSample
    prefixes: Mapping[Prefix, tuple[int, ...]]
    target: str = "answer"

    def leaf(self, leaf: Prefill) -> tuple[tuple[int, int], ...]:
        """Return one prefill but for BOS, as (token id, what it belongs to)."""
        read: list[tuple[int, int]] = []
        copy = COPIES
        for part in leaf.parts:
            if isinstance(part, Document):
                ids, every = self.tokens.document, part.every or len(self.tokens.document)
                for start in range(0, len(ids), every):
                    read += [(i, copy) for i in self.prefixes[part.beacon]]
                    copy += len(self.prefixes[part.beacon]) > 0
                    read += [(i, DOCUMENT) for i in ids[start : start + every]]
                continue
            whole = self.prefixes[part]
            each = len(whole) // part.times
            for start in range(0, len(whole), max(each, 1)):
                read += [(i, copy) for i in whole[start : start + each]]
                copy += 1
        return tuple(read)

    def leaf_ids(self, leaf: Prefill, bos_id: int) -> tuple[int, ...]:
        """Return the ids of one prefill, BOS first."""
        return (bos_id, *(i for i, _ in self.leaf(leaf)))

    def roles(self, recipe: Recipe) -> tuple[int, ...]:
        """Return what each slot of a recipe's cache holds: `BOS`, `DOCUMENT` or a copy."""
        if isinstance(recipe, Prefill):
            return (BOS, *(role for _, role in self.leaf(recipe)))
        if isinstance(recipe, Mean):
            return (DOCUMENT,)
        before = self.roles(sources(recipe)[0])
        if isinstance(recipe, Truncate):
            return tuple(role for role in before if role < COPIES)
        return before

    def query_ids(self) -> tuple[int, ...]:
        """Return the ids read on top of the cache: prompt and answer, but for its last token.

        The last answer token is predicted, and nothing is predicted from it.
        """
        return self.tokens.prompt + self.tokens.answer[:-1]

    def length(self, given: Condition) -> int:
        """Return the positions that the longest pass under a condition reaches, at most."""
        longest = max(1 + len(self.leaf(leaf)) for leaf in given.leaves())
        turned = max((len(self.prefixes[node.prefix]) for node in nodes(given.recipe)
                      if isinstance(node, Shift)), default=0)
        return longest + turned + len(self.tokens.prompt) + len(self.tokens.answer)

    def unit(self) -> tuple[Any, ...]:
        """Return what every prefill of this sample is made from, for finding equal ones."""
        return self.tokens.document, tuple(sorted(
            (p.kind, p.text, p.times, ids) for p, ids in self.prefixes.items()))


@dataclass(frozen=True)
class Job:
    """One score that is wanted: where its row goes, and what it takes."""

    row: tuple[int, str]
    one: Prepared
    given: Condition


def score(lm: LM, samples: Iterable[Sample], conditions: Iterable[str | Condition], *,
          seed: int = 0, batch_tokens: int | None = None, targets: Iterable[str] = ("answer",),
          route: Route = "auto") -> pd.DataFrame:
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
    return score_pairs(lm, [(sample, target, chosen) for sample in samples for target in asked],
                       seed=seed, batch_tokens=batch_tokens, route=route)


def score_pairs(lm: LM, asked: Sequence[tuple[Sample, str, Sequence[Condition]]], *,
                seed: int = 0, batch_tokens: int | None = None, route: Route = "auto"
                ) -> pd.DataFrame:
    """Score samples and targets that need not share their conditions; see `score`."""
    kind = lm.device.type
    budget = batch_tokens or BATCH_TOKENS.get(kind, 4096)
    cost = PASS_COST.get(kind, 256)
    _check(lm, dict.fromkeys(c for _, _, some in asked for c in some))
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    jobs: list[Job] = []
    for number, (sample, target, some) in enumerate(asked):
        for given, ready in _prepare(lm, sample, target, some, seed):
            if isinstance(ready, str):
                rows[number, given.name] = _row(sample.id, given.name, target, ready)
            else:
                jobs.append(Job((number, given.name), ready, given))
    for part, scorer in _plan(jobs, budget, cost, route):
        rows |= _score_or_halve(lm, part, scorer)
    ordered = [rows[n, c.name] for n, (_, _, some) in enumerate(asked) for c in some]
    frame = {name: [row[name] for row in ordered] for name in COLUMNS}
    texts = {name: pd.Series(frame.pop(name), dtype=object) for name in COLUMNS[:4]}
    return pd.DataFrame(texts | frame)  # object: an id may hold what pandas' strings refuse


def _check(lm: LM, chosen: Iterable[Condition]) -> None:
    """Refuse by name, before anything is measured, what the model cannot do exactly."""
    named: dict[str, Condition] = {}
    for given in chosen:
        if named.setdefault(given.name, given) != given:
            raise KvError(f"condition {given.name!r} stands for two recipes; rename one of them.")
        if _turns(given.recipe):
            forward.rope_plan(lm)
        for node in nodes(given.recipe):
            if isinstance(node, Mix):
                layer_range(node.layers, lm.config.num_hidden_layers)


# --- what a sample's tokens are -----------------------------------------------------------------


def prepare_one(lm: LM, sample: Sample, given: Condition, seed: int = 0, target: str = "answer"
                ) -> Prepared:
    """Tokenize one sample for one condition.

    Raises
    ------
    Unusable
        If it cannot be measured; the message is the reason.
    """
    ((_, ready),) = _prepare(lm, sample, target, (given,), seed)
    if isinstance(ready, str):
        raise Unusable(ready)
    return ready


def _prepare(lm: LM, sample: Sample, target: str, chosen: Sequence[Condition], seed: int
             ) -> Iterator[tuple[Condition, Prepared | str]]:
    """Tokenize a sample once and yield it, or the reason against it, for every condition."""
    try:
        read = tokens.tokenize(lm.tokenizer, sample, target)
    except Unusable as reason:
        yield from ((given, str(reason)) for given in chosen)
        return
    known: dict[Prefix, tuple[int, ...]] = {}
    ready = Prepared(read, known, target)
    for given in chosen:
        try:
            for p in given.prefixes():
                if p not in known:
                    known[p] = tokens.prefix_ids(lm.tokenizer, read, p, seed)
        except Unusable as reason:
            yield given, str(reason)
            continue
        limit = exact_positions(lm)
        too_long = f"longer than the {limit} positions the model is exact for"
        yield given, ready if ready.length(given) <= limit else too_long


def exact_positions(lm: LM) -> int:
    """Return how many positions a pass may reach: past them some models change frequencies.

    What is cached keeps the frequencies of its own pass, so a score past the switch would hang
    on how the work is divided into passes, whether or not any key is turned.
    """
    return min(lm.max_length, rope.max_positions(lm) or lm.max_length)


def _turns(recipe: Recipe) -> bool:
    return any(isinstance(node, Reposition | Shift) for node in nodes(recipe))


# --- which passes are run -----------------------------------------------------------------------

Scorer = Callable[["LM", Sequence[Job]], dict[tuple[int, str], dict[str, Any]]]


def _plan(jobs: Sequence[Job], budget: int, cost: int, route: Route
          ) -> Iterator[tuple[list[Job], Scorer]]:
    """Divide the work into parts that run at once, each with the function that scores it.

    Regrouped conditions come in half-size parts in shuffled order, so that they meet other
    batch partners and other padding.
    """
    def through_caches(lm: LM, part: Sequence[Job]) -> dict[tuple[int, str], dict[str, Any]]:
        return _score_group(lm, part, budget, cost)

    for again in (False, True):
        pool = [job for job in jobs if job.given.regrouped == again]
        limit = max(1, budget // 2) if again else budget
        shared = _shared(pool) if route == "auto" else {job.row for job in pool}
        alone = [job for job in pool if job.row not in shared]
        alone.sort(key=_shuffled if again else lambda job: len(one_pass(job, 0).ids))
        lengths = [len(one_pass(job, 0).ids) for job in alone]
        for start, stop in cut(lengths, limit, cost):
            yield alone[start:stop], _score_in_one_pass
        together = [job for job in pool if job.row in shared]
        for part in _document_groups(together, limit, cost, _shuffled if again else _by_length):
            yield part, through_caches


def _shared(jobs: Sequence[Job]) -> set[tuple[int, str]]:
    """Return the rows of the jobs that build caches: prefills shared, or no single pass to do."""
    leaves = {job.row: [(leaf.isolated, job.one.leaf(leaf)) for leaf in job.given.leaves()]
              for job in jobs}
    uses = Counter(leaf for found in leaves.values() for leaf in set(found))
    return {job.row for job in jobs
            if not single(job.given.recipe) or any(uses[leaf] > 1 for leaf in leaves[job.row])}


def single(recipe: Recipe) -> bool:
    """Whether one masked pass gives what the recipe's cache would give."""
    if isinstance(recipe, Hide):
        recipe = recipe.source
        return isinstance(recipe, Prefill)
    if isinstance(recipe, Reposition):
        if recipe.turn != "own" or recipe.precision != "float32":
            return False
        inner = recipe.source
        return (isinstance(inner, Truncate) and isinstance(inner.source, Prefill)
                and not inner.source.isolated and len(inner.source.parts) == 2
                and isinstance(inner.source.parts[0], Prefix)
                and inner.source.parts[1] == Document())
    return isinstance(recipe, Prefill)


def _by_length(job: Job) -> tuple[Any, ...]:
    one = job.one.tokens
    return len(one.document), one.document, one.sample_id


def _shuffled(job: Job) -> tuple[Any, ...]:
    name = job.one.tokens.sample_id.encode("utf-8", "replace")
    return hashlib.sha256(name).digest(), job.row


def _document_groups(jobs: Sequence[Job], budget: int, cost: int,
                     key: Callable[[Job], tuple[Any, ...]]) -> Iterator[list[Job]]:
    """Group jobs so that no prefill exceeds the budget; jobs with equal prefills stay together."""
    same: dict[tuple[str, ...], dict[tuple[Any, ...], list[Job]]] = {}
    names: dict[tuple[Any, ...], set[str]] = {}
    units = {id(one): one.unit() for one in {id(job.one): job.one for job in jobs}.values()}
    for job in jobs:
        names.setdefault(units[id(job.one)], set()).add(job.given.name)
    for job in sorted(jobs, key=key):
        unit = units[id(job.one)]
        same.setdefault(tuple(sorted(names[unit])), {}).setdefault(unit, []).append(job)
    for found in same.values():
        parts = list(found.values())
        widths = [max(1 + len(job.one.leaf(leaf)) for job in part for leaf in job.given.leaves())
                  for part in parts]
        for start, stop in cut(widths, budget, cost):
            yield [job for part in parts[start:stop] for job in part]


def cut(widths: Sequence[int], budget: int, cost: int) -> list[tuple[int, int]]:
    """Cut a list of sequences into passes so that padding and passes cost least.

    Parameters
    ----------
    widths : sequence of int
        Tokens of each sequence, in the order in which they are to be run.
    budget : int
        Most tokens in one pass, padding included; a longer sequence runs by itself.
    cost : int
        What a pass costs beside its tokens, in tokens.

    Returns
    -------
    list of (start, stop)
        Of least total cost among all cuts of this order.
    """
    best = [0.0]
    came_from = [0]
    for stop in range(1, len(widths) + 1):
        found, at, widest = math.inf, stop - 1, 0
        for start in range(stop - 1, -1, -1):
            widest = max(widest, widths[start])
            tokens_run = (stop - start) * widest
            if tokens_run > budget and stop - start > 1:
                break
            if best[start] + cost + tokens_run < found:
                found, at = best[start] + cost + tokens_run, start
        best.append(found)
        came_from.append(at)
    parts: list[tuple[int, int]] = []
    stop = len(widths)
    while stop:
        parts.append((came_from[stop], stop))
        stop = came_from[stop]
    return parts[::-1]


def _score_or_halve(lm: LM, part: Sequence[Job], scorer: Scorer
                    ) -> dict[tuple[int, str], dict[str, Any]]:
    """Score a part; where memory runs out, score its halves, and say so."""
    import torch

    try:
        return scorer(lm, part)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
    if len(part) == 1:
        return {part[0].row: _row_of(part[0], "out of memory")}
    middle = len(part) // 2
    warnings.warn(f"out of memory with {len(part)} scores at once: going on with {middle}; "
                  "a smaller --kv-batch-tokens avoids this.", RuntimeWarning, stacklevel=2)
    if lm.device.type == "cuda":
        torch.cuda.empty_cache()
    return _score_or_halve(lm, part[:middle], scorer) | _score_or_halve(lm, part[middle:], scorer)


def _out_of_memory(error: BaseException) -> bool:
    import torch

    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "out of memory" in text or "can't allocate memory" in text)


# --- one masked pass ----------------------------------------------------------------------------


def one_pass(job: Job, bos_id: int) -> Reading:
    """Return the one sequence that gives a job's score without any cache.

    Notes
    -----
    Truncation: ``[BOS][prefix][BOS'][document][question]``. BOS' has the last prefix token's
    position and sees only itself; the document does not see it, the question sees neither BOS
    nor prefix. Relative positions are those of the truncated and re-positioned cache.
    """
    recipe = job.given.recipe
    asked = job.one.query_ids()
    (leaf,) = job.given.leaves()
    read = ((bos_id, BOS), *job.one.leaf(leaf))
    prefix = sum(role >= COPIES for _, role in read)
    copies = sorted({role for _, role in read if role >= COPIES})
    if isinstance(recipe, Reposition) and prefix:
        read = (*read[: 1 + prefix], (bos_id, SECOND_BOS), *read[1 + prefix :])
        positions = (*range(1 + prefix), *range(prefix, len(read) - 1 + len(asked)))
        blind = {(QUESTION, group) for group in (BOS, *copies)} | {
            (SECOND_BOS, group) for group in (BOS, *copies)} | {(DOCUMENT, SECOND_BOS)}
    else:
        positions = tuple(range(len(read) + len(asked)))
        isolated = leaf.isolated
        blind = {(a, b) for a in copies for b in copies if a != b and isolated}
        if isinstance(recipe, Hide):
            blind |= {(QUESTION, group) for group in _hidden(recipe.see, copies)}
    groups = (*(role for _, role in read), *[QUESTION] * len(asked))
    place = {name: i for i, name in enumerate(dict.fromkeys((BOS, *groups)))}
    return Reading((*(i for i, _ in read), *asked), positions,
                   tuple(place[g] for g in groups) if blind else (),
                   frozenset((place[a], place[b]) for a, b in blind))


def _hidden(see: str, copies: Sequence[int]) -> list[int]:
    """Return which copies the query does not see."""
    kept = {"first": copies[:1], "last": copies[-1:], "none": (), "all": copies}[see]
    return [copy for copy in copies if copy not in kept]


def _score_in_one_pass(lm: LM, part: Sequence[Job]) -> dict[tuple[int, str], dict[str, Any]]:
    readings = [one_pass(job, lm.bos_id) for job in part]
    starts = [len(r.ids) - len(job.one.query_ids()) for r, job in zip(readings, part, strict=True)]
    asked = [job.one for job in part]
    nlls = _answer_nlls(lm, forward.batch(lm, readings), asked, starts)
    return {job.row: _scored_row(job, found) for job, found in zip(part, nlls, strict=True)}


# --- caches -------------------------------------------------------------------------------------


def leaf_pass(lm: LM, leaf: Prefill, group: Sequence[Prepared]) -> Pass:
    """Return what the model receives to prefill one leaf for a group of samples."""
    readings = []
    for one in group:
        ids = one.leaf_ids(leaf, lm.bos_id)
        roles = one.roles(leaf)
        copies = {role for role in roles if role >= COPIES}
        blind = frozenset((a, b) for a in copies for b in copies if a != b and leaf.isolated)
        readings.append(Reading(ids, tuple(range(len(ids))), roles if blind else (), blind))
    return forward.batch(lm, readings)


def prefill(lm: LM, leaf: Prefill, group: Sequence[Prepared]) -> KVCache:
    """Run one leaf for a group of samples, equal ones once."""
    wanted = [one.leaf(leaf) for one in group]
    place = {ids: i for i, ids in enumerate(dict.fromkeys(wanted))}
    firsts = [group[wanted.index(ids)] for ids in place]
    cache = forward.fill(lm, leaf_pass(lm, leaf, firsts))
    return cache if len(firsts) == len(group) else cache.rows([place[ids] for ids in wanted])


def build(lm: LM, recipe: Recipe, made: dict[Recipe, KVCache], group: Sequence[Prepared]
          ) -> KVCache:
    """Carry out a recipe on a group of samples.

    Parameters
    ----------
    made : dict of Recipe to KVCache
        What is there already, its prefills at least: one sequence per sample of the group, in
        its order. Shared by recipes with equal parts; what is built is added.

    Returns
    -------
    KVCache
        A new one; what was made before is not changed.
    """
    if recipe not in made:
        made[recipe] = _built(lm, recipe, made, group)
    return made[recipe]


def _built(lm: LM, recipe: Recipe, made: dict[Recipe, KVCache], group: Sequence[Prepared]
           ) -> KVCache:
    if isinstance(recipe, Prefill):
        return prefill(lm, recipe, group)
    source = build(lm, sources(recipe)[0], made, group)
    roles = [one.roles(sources(recipe)[0]) for one in group]
    if isinstance(recipe, Truncate):
        return source.keep([[i for i, role in enumerate(found) if role < COPIES]
                            for found in roles])
    if isinstance(recipe, Hide):
        return source.hide([
            [i for i, role in enumerate(found)
             if role in _hidden(recipe.see, sorted({r for r in found if r >= COPIES}))]
            for found in roles])
    if isinstance(recipe, Mean):
        return source.mean(source.real & (_step(source) > 0))
    if isinstance(recipe, Mix):
        other = build(lm, _unturned(recipe.values), made, group)
        return _mixed(lm, recipe, source, other, made, group)
    return _moved(lm, recipe, source, group)


def _unturned(recipe: Recipe) -> Recipe:
    """Return what has the same values as a recipe: turning changes keys and positions alone."""
    while isinstance(recipe, Reposition | Shift):
        recipe = recipe.source
    return recipe


def _moved(lm: LM, recipe: Reposition | Shift, source: KVCache, group: Sequence[Prepared]
           ) -> KVCache:
    import torch

    if isinstance(recipe, Shift):
        counts = [len(one.prefixes[recipe.prefix]) for one in group]
        deltas = torch.tensor(counts, device=source.positions.device).unsqueeze(1)
        return source.reposition(lm, forward.rope_plan(lm), deltas * (_step(source) > 0))
    closed = _step(source).expand_as(source.positions)
    if recipe.turn == "none":
        return source.renumber(closed)
    # Padding slots would move by more than any real one; they may as well stay.
    deltas = (closed - source.positions) * source.real
    return source.reposition(
        lm, forward.rope_plan(lm), deltas,
        one_base=None if recipe.turn == "own" else recipe.turn,
        precision=source.keys[0].dtype if recipe.precision == "model" else None)


def _mixed(lm: LM, recipe: Mix, own: KVCache, other: KVCache, made: dict[Recipe, KVCache],
           group: Sequence[Prepared]) -> KVCache:
    """Mix in every layer once, and take from that the layers that a recipe asks for.

    Recipes that differ in their layers alone so share the memory of what they have in common.
    """
    chosen = layer_range(recipe.layers, len(own.keys))
    everywhere = replace(recipe, layers=(0, len(own.keys)))
    if recipe != everywhere:
        return own.with_values(build(lm, everywhere, made, group), chosen)
    import torch

    index = torch.zeros(own.batch, own.slots, dtype=torch.int64)
    mixed = torch.zeros(own.batch, own.slots, dtype=torch.bool)
    for row, one in enumerate(group):
        ours = [i for i, role in enumerate(one.roles(recipe.keys)) if role == DOCUMENT]
        theirs = [i for i, role in enumerate(one.roles(recipe.values)) if role == DOCUMENT]
        if isinstance(recipe.values, Mean):
            theirs = theirs * len(ours)
        if len(ours) != len(theirs):
            raise KvError(f"mix: {len(ours)} document slots against {len(theirs)}; mix caches "
                          "that hold the same document.")
        count = round(recipe.share * len(ours))
        index[row, ours[:count]] = torch.tensor(theirs[:count], dtype=torch.int64)
        mixed[row, ours[:count]] = True
    device = own.positions.device
    return own.mix(other, index.to(device), mixed.to(device), recipe.weight)


def layer_range(layers: tuple[int | float, int | float], depth: int) -> range:
    """Return the layers that a pair of numbers means in a model of some depth.

    An int is a layer, a float a share of the depth, rounded to the nearest layer.

    Raises
    ------
    KvError
        If a layer lies outside the model.
    """
    start, stop = (round(n * depth) if isinstance(n, float) else n for n in layers)
    if not 0 <= start <= stop <= depth:
        raise KvError(f"layers {start} to {stop}: the model has {depth}; pass 0 to {depth}.")
    return range(start, stop)


def query_pass(lm: LM, cache: KVCache | Pile, group: Sequence[Prepared]) -> Pass:
    """Return what the model receives to score a group's answers on top of their caches."""
    import torch

    after = torch.where(cache.real, cache.positions, -1).amax(dim=1) + 1
    return forward.prepare(lm, [one.query_ids() for one in group], after.tolist(), cache)


def _score_group(lm: LM, jobs: Sequence[Job], budget: int, cost: int
                 ) -> dict[tuple[int, str], dict[str, Any]]:
    """Score jobs that share prefills: each prefill once, then short passes on top of caches."""
    units = {job.one.unit(): job.one
             for job in sorted(jobs, key=lambda job: len(job.one.query_ids()))}
    place = {unit: i for i, unit in enumerate(units)}  # like questions side by side: no copies
    group = list(units.values())
    by_condition = {c: [job for job in jobs if job.given == c]
                    for c in dict.fromkeys(job.given for job in jobs)}
    leaves: dict[Recipe, KVCache] = {}
    for leaf in dict.fromkeys(leaf for c in by_condition for leaf in c.leaves()):
        build(lm, leaf, leaves, group)
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    chosen = list(by_condition)
    for start in range(0, len(chosen), AT_ONCE):
        made = dict(leaves)
        caches = {c: build(lm, c.recipe, made, group) for c in chosen[start : start + AT_ONCE]}
        work = sorted(((job, place[job.one.unit()]) for c in caches for job in by_condition[c]),
                      key=lambda item: (len(item[0].one.query_ids()), item[0].given.name, item[1]))
        for a, b in cut([len(job.one.query_ids()) for job, _ in work], budget, cost):
            part = sorted(work[a:b], key=lambda item: (
                item[0].given.name, item[0].one.target, item[1]))  # neighbours need no copies
            cache = kv.pile((caches[c], [which for _, which in items]) for c, items in
                            groupby(part, key=lambda item: item[0].given))
            asked = [job.one for job, _ in part]
            nlls = _answer_nlls(lm, query_pass(lm, cache, asked), asked, [0] * len(asked))
            rows |= {job.row: _scored_row(job, found)
                     for (job, _), found in zip(part, nlls, strict=True)}
    return rows


def _answer_nlls(lm: LM, given: Pass, group: Sequence[Prepared], starts: Sequence[int]
                 ) -> list[list[float]]:
    """Return each answer's per-token NLLs in nats; questions start at the given columns."""
    import torch

    rows = [r for r, one in enumerate(group) for _ in one.tokens.answer]
    columns = [start + len(one.tokens.prompt) - 1 + i
               for one, start in zip(group, starts, strict=True)
               for i in range(len(one.tokens.answer))]
    targets = torch.tensor([t for one in group for t in one.tokens.answer], device=lm.device)
    logits = forward.logits(lm, given, (rows, columns), branch=True)
    at_once = max(1, LOGITS_AT_ONCE // logits.shape[-1])
    ends = iter([nll for some, aims in zip(
        logits.split(at_once), targets.split(at_once), strict=True)
        for nll in torch.nn.functional.cross_entropy(
            some.float(), aims, reduction="none").tolist()])
    return [[next(ends) for _ in one.tokens.answer] for one in group]


def _step(cache: KVCache) -> torch.Tensor:
    """Return 0, 1, 2, ... for the slots of a cache, (1, slots)."""
    import torch

    return torch.arange(cache.slots, device=cache.positions.device).unsqueeze(0)


# --- rows ---------------------------------------------------------------------------------------


def _scored_row(job: Job, nlls: Sequence[float]) -> dict[str, Any]:
    if not all(math.isfinite(x) for x in nlls):
        return _row_of(job, "the model's logits are not finite")
    one, tail = job.one, nlls[1:]
    roles = one.roles(job.given.recipe)
    hidden = 0
    if isinstance(job.given.recipe, Hide):
        unseen = _hidden(job.given.recipe.see, sorted({r for r in roles if r >= COPIES}))
        hidden = sum(role in unseen for role in roles)
    read = max(sum(role >= COPIES for _, role in one.leaf(leaf)) for leaf in job.given.leaves())
    return _row_of(job, "ok") | {
        "nll": math.fsum(nlls) / len(nlls),
        "nll_tail": math.fsum(tail) / len(tail) if tail else math.nan,
        "token_nlls": list(nlls), "n_answer_tokens": len(nlls),
        "doc_len": len(one.tokens.document), "prefix_len": read,
        "cache_len": len(roles) - hidden, "clean_boundary": int(one.tokens.clean_boundary)}


def _row_of(job: Job, status: str) -> dict[str, Any]:
    return _row(job.one.tokens.sample_id, job.given.name, job.one.target, status)


def _row(sample_id: str | None, name: str, target: str, status: str) -> dict[str, Any]:
    return {"sample_id": sample_id, "condition": name, "target": target, "status": status,
            "nll": math.nan, "nll_tail": math.nan, "token_nlls": [], "n_answer_tokens": 0,
            "doc_len": 0, "prefix_len": 0, "cache_len": 0, "clean_boundary": -1}
