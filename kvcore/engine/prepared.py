"""A sample as token ids, with the ids of every prefix that some condition uses."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
    nodes,
    sources,
)
from kvcore.data.sample import Sample
from kvcore.engine import limits, rope_probe
from kvcore.errors import KvError
from kvcore.models.lm import LM
from kvcore.tokenization import Prefix, TokenizedSample, Unusable

BOS, DOCUMENT, COPIES = 0, 1, 2  # what a slot holds; prefixes count on from COPIES, one per copy


@dataclass(frozen=True)
class PreparedSample:
    """A tokenized sample with the ids of every prefix that some condition uses."""

    tokens: TokenizedSample
    prefixes: Mapping[Prefix, tuple[int, ...]]
    target: str = "answer"

    def prefill_spec(self, prefill: Prefill) -> tuple[tuple[int, int], ...]:
        """Return what one prefill reads behind BOS, as (token id, `DOCUMENT` or its copy)."""
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
        return tuple(
            (token, group)
            for ids, role in pieces
            if ids
            for group in [next(copies) if role is None else role]
            for token in ids
        )

    def prefill_ids(self, prefill: Prefill, bos_id: int) -> tuple[int, ...]:
        """Return the ids of one prefill, BOS first."""
        return (bos_id, *(i for i, _ in self.prefill_spec(prefill)))

    def roles(self, recipe: Recipe) -> tuple[int, ...]:
        """Return what each slot of a recipe's cache holds: `BOS`, `DOCUMENT` or a copy."""
        if isinstance(recipe, Prefill):
            return (BOS, *(role for _, role in self.prefill_spec(recipe)))
        if isinstance(recipe, Mean):
            return (DOCUMENT,)
        before = self.roles(sources(recipe)[0])
        if isinstance(recipe, Truncate):
            return tuple(role for role in before if role < COPIES)
        if isinstance(recipe, DropPrefix):
            return (BOS, *before[before.index(DOCUMENT) :])
        return before

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
        longest = max(1 + len(self.prefill_spec(prefill)) for prefill in condition.prefills())
        rotated = max(
            (
                len(self.prefixes[node.prefix])
                for node in nodes(condition.recipe)
                if isinstance(node, RotateForward)
            ),
            default=0,
        )
        return longest + rotated + len(self.tokens.prompt) + len(self.tokens.answer)

    def prefill_key(self) -> tuple[Any, ...]:
        """Return what every prefill of this sample is made from, for finding equal ones."""
        return self.tokens.document, tuple(
            sorted((p.kind, p.text, p.times, ids) for p, ids in self.prefixes.items())
        )


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
        for node in nodes(condition.recipe):
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
    return ready


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
    ready = PreparedSample(tokens, prefixes, target)
    limit = limits.exact_positions(lm)
    for condition in conditions:
        try:
            for p in condition.prefixes():
                if p not in prefixes:
                    prefixes[p] = tokenization.prefix_ids(lm.tokenizer, tokens, p, seed)
        except Unusable as reason:
            yield condition, str(reason)
            continue
        too_long = f"longer than the {limit} positions the model is exact for"
        yield condition, ready if ready.length(condition) <= limit else too_long
