"""A sample as token ids, with the ids of every prefix that some condition uses."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from kvcore import tokenization
from kvcore.conditions.recipes import (
    AnotherDocument,
    Condition,
    Document,
    DropPrefix,
    MaskFromQuery,
    Mean,
    Mix,
    Prefill,
    Recipe,
    Reposition,
    RotateForward,
    Truncate,
    TruncateBut,
    sources,
)
from kvcore.data.sample import Sample
from kvcore.engine import batching, limits, rope_probe, sinks
from kvcore.errors import KvError
from kvcore.models.lm import LM
from kvcore.tokenization import Prefix, TokenizedSample, Unusable

BOS, DOCUMENT, COPIES = 0, 1, 2  # what a slot holds; prefixes count on from COPIES, one per copy

OTHER_SLOTS = (Prefill, Mean, Truncate, TruncateBut, DropPrefix)
"""Recipes whose caches have other slots than their source's; all others keep every slot."""


@dataclass(frozen=True)
class PreparedSample:
    """A tokenized sample with the ids of every prefix that some condition uses.

    Attributes
    ----------
    bos : bool
        Whether its caches begin with BOS.
    sinks : dict of Prefill to int
        Of BOS and the prefix, the slot with the largest hidden norm in some prefills: those of
        which `locate_sinks` was asked.
    """

    tokens: TokenizedSample
    prefixes: Mapping[Prefix, tuple[int, ...]]
    target: str = "answer"
    bos: bool = True
    sinks: dict[Prefill, int] = field(default_factory=dict)
    _known: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def _once(self, key: Any, compute: Callable[[], Any]) -> Any:
        """Return what is computed the first time that it is asked for.

        `key`: all that it hangs on beside the sample; each prefix has the same ids throughout.
        """
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = compute()
        return known

    def prefill_spec(self, prefill: Prefill) -> tuple[tuple[tuple[int, ...], int], ...]:
        """Return what one prefill reads behind BOS, as (token ids, `DOCUMENT` or their copy)."""
        pieces: list[tuple[tuple[int, ...], int | None]] = []  # a copy's number is given below
        for part in prefill.parts:
            if isinstance(part, Document):
                ids, every = self.tokens.document, part.every or len(self.tokens.document)
                for start in range(0, len(ids), every):
                    pieces.append((self.prefixes[part.beacon], None))
                    pieces.append((ids[start : start + every], DOCUMENT))
            elif isinstance(part, AnotherDocument):
                pieces.append((self.prefixes[part.text], DOCUMENT))
            else:
                whole = self.prefixes[part]
                size = len(whole) // part.times or 1
                pieces += [(whole[i : i + size], None) for i in range(0, len(whole), size)]
        copies = itertools.count(COPIES)
        return tuple((ids, next(copies) if role is None else role) for ids, role in pieces if ids)

    def runs(self, prefill: Prefill) -> tuple[tuple[int, int], ...]:
        """Return what stands in a row in one prefill, as (`BOS`, `DOCUMENT` or a copy, tokens)."""
        runs: tuple[tuple[int, int], ...] = self._once(
            ("runs", prefill),
            lambda: (
                *[(BOS, 1)] * self.bos,
                *((role, len(ids)) for ids, role in self.prefill_spec(prefill)),
            ),
        )
        return runs

    def copies(self, prefill: Prefill) -> tuple[int, ...]:
        """Return the copies of prefixes that one prefill reads, in their order."""
        return tuple(role for role, _ in self.runs(prefill) if role >= COPIES)

    def ids_behind_bos(self, prefill: Prefill) -> tuple[int, ...]:
        """Return the ids of one prefill but BOS's."""
        ids: tuple[int, ...] = self._once(
            ("ids", prefill), lambda: _joined(ids for ids, _ in self.prefill_spec(prefill))
        )
        return ids

    def prefill_ids(self, prefill: Prefill, bos_id: int) -> tuple[int, ...]:
        """Return the ids of one prefill, BOS first where there is one."""
        return (bos_id,) * self.bos + self.ids_behind_bos(prefill)

    def prefix_length(self, prefill: Prefill) -> int:
        """Return how many tokens one prefill reads beside BOS and documents."""
        return sum(count for role, count in self.runs(prefill) if role >= COPIES)

    def roles(self, recipe: Recipe) -> tuple[int, ...]:
        """Return what each slot of a recipe's cache holds: `BOS`, `DOCUMENT` or a copy."""
        while not isinstance(recipe, OTHER_SLOTS):
            recipe = sources(recipe)[0]
        changed = recipe
        roles: tuple[int, ...] = self._once(("roles", changed), lambda: self._roles(changed))
        return roles

    def _roles(
        self, recipe: Prefill | Mean | Truncate | TruncateBut | DropPrefix
    ) -> tuple[int, ...]:
        if isinstance(recipe, Prefill):
            return _joined((role,) * count for role, count in self.runs(recipe))
        if isinstance(recipe, Mean):
            return (DOCUMENT,)
        before = self.roles(recipe.source)
        return tuple(map(before.__getitem__, self.slots_left(recipe)))

    def slots_left(self, recipe: Truncate | TruncateBut | DropPrefix) -> list[int]:
        """Return which slots of its source's cache a recipe leaves, in their order."""
        roles = self.roles(recipe.source)
        if isinstance(recipe, DropPrefix):
            return [*range(self.bos), *range(roles.index(DOCUMENT), len(roles))]
        kept = self.kept_slots(recipe) if isinstance(recipe, TruncateBut) else range(0)
        return [i for i, role in enumerate(roles) if role < COPIES or i in kept]

    def slot_in_cache(self, recipe: Recipe, slot: int) -> int | None:
        """Return where a slot of a recipe's first prefill lies in its cache, None if nowhere."""
        if isinstance(recipe, Prefill):
            return slot
        if isinstance(recipe, Mean):
            return None
        place = self.slot_in_cache(sources(recipe)[0], slot)
        if isinstance(recipe, Truncate | TruncateBut | DropPrefix):
            left = self.slots_left(recipe)
            return left.index(place) if place in left else None
        return None if place in self.hidden_slots(recipe) else place

    def kept_slots(self, recipe: TruncateBut) -> range:
        """Return the slots of a prefill that stay between BOS and the document.

        Raises
        ------
        KvError
            If the sink stays and was not located.
        """
        roles = self.roles(recipe.source)
        first, stop = int(self.bos), roles.index(DOCUMENT)
        if recipe.keep != "sink":
            return range(first, min(first + recipe.keep, stop))
        if recipe.source not in self.sinks:
            raise KvError("kept_slots: the sink is not known; call locate_sinks first.")
        sink = self.sinks[recipe.source]
        return range(max(sink, first), sink + 1)

    def knows_sinks(self, condition: Condition) -> bool:
        """Whether every sink that a condition keeps has been located."""
        return self.sinks.keys() >= set(condition.sink_prefills())

    def hidden_slots(self, recipe: Recipe) -> list[int]:
        """Return the slots of a recipe's cache that the query does not see."""
        if not isinstance(recipe, MaskFromQuery):
            return []
        roles = self.roles(recipe)
        hidden = recipe.hidden_copies(sorted({role for role in roles if role >= COPIES}))
        return [i for i, role in enumerate(roles) if role in hidden]

    def query_ids(self) -> tuple[int, ...]:
        """Return the ids read on top of the cache: prompt and answer, but for its last token.

        The last answer token is predicted, and nothing is predicted from it.
        """
        return self.tokens.prompt + self.tokens.answer[:-1]

    def length(self, condition: Condition) -> int:
        """Return the positions that the longest pass under a condition reaches, at most."""
        longest = max(len(self.roles(prefill)) for prefill in condition.prefills())
        rotated = max(
            (
                len(self.prefixes[node.prefix])
                for node in condition.nodes
                if isinstance(node, RotateForward)
            ),
            default=0,
        )
        return longest + rotated + len(self.tokens.prompt) + len(self.tokens.answer)

    def query_length(self) -> int:
        """Return how many ids are read on top of the cache."""
        return len(self.tokens.prompt) + len(self.tokens.answer) - 1

    def document_slots(self, recipe: Recipe) -> np.ndarray:
        """Return the slots of a recipe's cache that hold the document, in their order."""
        slots: np.ndarray = self._once(
            ("document", recipe),
            lambda: np.flatnonzero(np.array(self.roles(recipe)) == DOCUMENT),
        )
        return slots

    def prefill_key(self) -> tuple[Any, ...]:
        """Return what every prefill of this sample is made from, for finding equal ones."""
        return self.tokens.document, tuple(
            sorted((p.kind, p.text, p.times, ids) for p, ids in self.prefixes.items())
        )


def _joined(parts: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(itertools.chain.from_iterable(parts))


def check_conditions(lm: LM, conditions: Iterable[Condition]) -> None:
    """Refuse by name, before anything is measured, what the model cannot do exactly.

    Raises
    ------
    KvError
        Also for two recipes of one name; `NotExact` where keys cannot be re-positioned.
    """
    by_name: dict[str, Condition] = {}
    for condition in conditions:
        if by_name.setdefault(condition.name, condition) != condition:
            raise KvError(
                f"condition {condition.name!r} stands for two recipes; rename one of them."
            )
        for node in condition.nodes:
            if isinstance(node, Reposition | RotateForward):
                rope_probe.rope_plan(lm)
            if isinstance(node, Mix):
                node.layers.in_depth(lm.config.num_hidden_layers)


def prepare_one(
    lm: LM, sample: Sample, condition: Condition, seed: int = 0, target: str = "answer"
) -> PreparedSample:
    """Tokenize one sample for one condition.

    Raises
    ------
    Unusable
        If it cannot be measured; the message is the reason.
    """
    ((_, ready),) = prepare_sample(lm, sample, target, (condition,), seed)
    if isinstance(ready, str):
        raise Unusable(ready)
    locate_sinks(lm, [(ready, condition)])
    if not ready.knows_sinks(condition):
        raise Unusable("out of memory")
    return ready


def locate_sinks(
    lm: LM, wanted: Iterable[tuple[PreparedSample, Condition]], batch_tokens: int | None = None
) -> None:
    """Find the sinks that conditions keep of samples, and fill in their `PreparedSample.sinks`.

    Of BOS and the prefix it is the slot with the largest hidden norm, of equal ones the first; of
    two that differ by rounding alone either may be found. A sample that does not fit in memory
    gets none.
    """
    todo = {
        (id(sample), prefill): (sample, prefill)
        for sample, condition in wanted
        for prefill in condition.sink_prefills()
        if prefill not in sample.sinks
    }
    ordered = sorted(todo.values(), key=lambda pair: len(pair[0].roles(pair[1])))
    budget, cost = limits.pass_limits(lm, batch_tokens)
    widths = [len(sample.roles(prefill)) for sample, prefill in ordered]
    for start, stop in batching.cut_into_passes(widths, budget, cost):
        part = ordered[start:stop]
        found = limits.run_or_halve(lm, part, partial(_sinks_of, lm), lambda _: None, what="passes")
        for (sample, prefill), slot in zip(part, found, strict=True):
            if slot is not None:
                sample.sinks[prefill] = slot


def _sinks_of(lm: LM, pairs: Sequence[tuple[PreparedSample, Prefill]]) -> list[int | None]:
    ends = [sample.roles(prefill).index(DOCUMENT) for sample, prefill in pairs]
    ids = [sample.prefill_ids(prefill, lm.bos_id) for sample, prefill in pairs]
    norms = sinks.hidden_norms(lm, ids).tolist()
    return [max(range(end), key=row.__getitem__) for end, row in zip(ends, norms, strict=True)]


def prepare_samples(
    lm: LM, requests: Sequence[tuple[Sample, str, Sequence[Condition]]], seed: int
) -> Iterator[list[tuple[Condition, PreparedSample | str]]]:
    """Tokenize samples together, and yield for each what `prepare_sample` yields.

    `requests`: each sample with a target's name and its conditions.
    """
    texts = (
        text
        for sample, target, _ in requests
        if target in tokenization.TARGETS
        for text in tokenization.texts_of(sample, target)
    )
    with tokenization.encoded_together(lm.tokenizer, texts):
        _draw_prefixes(lm, requests, seed)
        for sample, target, conditions in requests:
            yield list(prepare_sample(lm, sample, target, conditions, seed))


def _draw_prefixes(
    lm: LM, requests: Sequence[tuple[Sample, str, Sequence[Condition]]], seed: int
) -> None:
    """Draw the random prefixes of all samples side by side; they are remembered."""
    wanted: dict[tuple[int, str], None] = {}
    for sample, _, conditions in requests:
        if any(p.kind == "random" for c in conditions for p in c.prefixes()):
            try:
                length = len(tokenization.encode(lm.tokenizer, f"{sample.query}\n"))
            except Unusable:
                continue
            wanted[length, str(sample.id)] = None
    tokenization.draw_prefixes(lm.tokenizer, list(wanted), seed)


def prepare_sample(
    lm: LM, sample: Sample, target: str, conditions: Sequence[Condition], seed: int
) -> Iterator[tuple[Condition, PreparedSample | str]]:
    """Tokenize a sample once and yield it, or the reason against it, for every condition."""
    try:
        tokens = tokenization.tokenize(lm.tokenizer, sample, target)
    except Unusable as reason:
        yield from ((condition, str(reason)) for condition in conditions)
        return
    prefixes: dict[Prefix, tuple[int, ...]] = {}
    ready = PreparedSample(tokens, prefixes, target, lm.has_bos)
    limit = limits.exact_positions(lm)
    for condition in conditions:
        if not ready.bos and (needs_bos := _needs_bos(condition)):
            yield condition, needs_bos
            continue
        try:
            for p in condition.prefixes():
                if p not in prefixes:
                    prefixes[p] = tokenization.prefix_ids(lm.tokenizer, tokens, p, seed)
        except Unusable as reason:
            yield condition, str(reason)
            continue
        too_long = f"longer than the {limit} positions the model is exact for"
        yield condition, ready if ready.length(condition) <= limit else too_long


def _needs_bos(condition: Condition) -> str:
    """Return why a condition cannot be measured without BOS, "" if it can."""
    if condition.swaps_bos():
        return "there is no BOS whose entry could be swapped"
    empty = any(not prefill.parts for prefill in condition.prefills())
    return "without BOS nothing would be cached" if empty else ""
