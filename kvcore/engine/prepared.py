"""A sample as token ids, with the ids of every prefix that some condition uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvcore import tokenization
from kvcore.conditions.recipes import (
    Condition,
    Document,
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
from kvcore.engine import build, limits, rope_probe
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
        """Return one prefill but for BOS, as (token id, what it belongs to)."""
        read: list[tuple[int, int]] = []
        copy = COPIES
        for part in prefill.parts:
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
        return before

    def query_ids(self) -> tuple[int, ...]:
        """Return the ids read on top of the cache: prompt and answer, but for its last token.

        The last answer token is predicted, and nothing is predicted from it.
        """
        return self.tokens.prompt + self.tokens.answer[:-1]

    def length(self, given: Condition) -> int:
        """Return the positions that the longest pass under a condition reaches, at most."""
        longest = max(1 + len(self.prefill_spec(leaf)) for leaf in given.prefills())
        turned = max(
            (
                len(self.prefixes[node.prefix])
                for node in nodes(given.recipe)
                if isinstance(node, RotateForward)
            ),
            default=0,
        )
        return longest + turned + len(self.tokens.prompt) + len(self.tokens.answer)

    def prefill_key(self) -> tuple[Any, ...]:
        """Return what every prefill of this sample is made from, for finding equal ones."""
        return self.tokens.document, tuple(
            sorted((p.kind, p.text, p.times, ids) for p, ids in self.prefixes.items())
        )


def check_conditions(lm: LM, chosen: Iterable[Condition]) -> None:
    """Refuse by name, before anything is measured, what the model cannot do exactly."""
    named: dict[str, Condition] = {}
    for given in chosen:
        if named.setdefault(given.name, given) != given:
            raise KvError(f"condition {given.name!r} stands for two recipes; rename one of them.")
        if _turns(given.recipe):
            rope_probe.rope_plan(lm)
        for node in nodes(given.recipe):
            if isinstance(node, Mix):
                build.layer_range(node.layers, lm.config.num_hidden_layers)


def prepare_one(
    lm: LM, sample: Sample, given: Condition, seed: int = 0, target: str = "answer"
) -> PreparedSample:
    """Tokenize one sample for one condition.

    Raises
    ------
    Unusable
        If it cannot be measured; the message is the reason.
    """
    ((_, ready),) = prepare_sample(lm, sample, target, (given,), seed)
    if isinstance(ready, str):
        raise Unusable(ready)
    return ready


def prepare_sample(
    lm: LM, sample: Sample, target: str, chosen: Sequence[Condition], seed: int
) -> Iterator[tuple[Condition, PreparedSample | str]]:
    """Tokenize a sample once and yield it, or the reason against it, for every condition."""
    try:
        read = tokenization.tokenize(lm.tokenizer, sample, target)
    except Unusable as reason:
        yield from ((given, str(reason)) for given in chosen)
        return
    known: dict[Prefix, tuple[int, ...]] = {}
    ready = PreparedSample(read, known, target)
    for given in chosen:
        try:
            for p in given.prefixes():
                if p not in known:
                    known[p] = tokenization.prefix_ids(lm.tokenizer, read, p, seed)
        except Unusable as reason:
            yield given, str(reason)
            continue
        limit = limits.exact_positions(lm)
        too_long = f"longer than the {limit} positions the model is exact for"
        yield given, ready if ready.length(given) <= limit else too_long


def _turns(recipe: Recipe) -> bool:
    return any(isinstance(node, Reposition | RotateForward) for node in nodes(recipe))
