"""What is read for a switch by each way, planned and checked without running a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kvcore.conditions import switching
from kvcore.conditions.switching import (
    CachePlan,
    DecodePlan,
    Ids,
    Switch,
    SwitchMethod,
    TokenizedSwitch,
)
from kvcore.engine import limits
from kvcore.errors import KvError
from kvcore.models.lm import LM


@dataclass(frozen=True)
class SwitchCase:
    """Tokens that several plans follow, two of which are references.

    - `plans`: no two that read the same.
    - `oracle`, `ignore`: which plan is that of the reference; both may be one plan.
    """

    followed: Ids
    plans: tuple[DecodePlan, ...]
    oracle: int
    ignore: int


@dataclass(frozen=True)
class AnswerJob:
    """One answer to be written behind a switch.

    `before`: tokens of the answer that stand before what is written; none for the oracle, which
    writes its own.
    """

    switch: TokenizedSwitch
    method: SwitchMethod
    plan: CachePlan
    before: Ids
    max_new_tokens: int

    @property
    def steps(self) -> int:
        """Tokens that are written or injected on the way, at most: each takes a step."""
        return sum(len(part) for _, part in self.plan.later) + self.max_new_tokens

    @property
    def slots(self) -> int:
        """Slots in use once the answer is written."""
        return len(self.plan.cached) + len(self.plan.read) + self.steps

    @property
    def length(self) -> int:
        """Positions in use until the answer is written and both references have read it."""
        context = max(len(self.switch.original), len(self.switch.new))
        return max(
            self.slots,
            1 + context + len(self.before) + self.max_new_tokens,
            *(len(run) + 1 for run in self.plan.runs),
        )


def tokenize_all(lm: LM, switches: Iterable[Switch]) -> list[TokenizedSwitch]:
    """Turn switches into token ids.

    Raises KvError for a switch that cannot be read, or two with one id.
    """
    size = int(lm.config.vocab_size)
    tokenized = [switching.tokenize(lm.tokenizer, switch, size) for switch in switches]
    ids = [switch.id for switch in tokenized]
    twice = next((name for name in ids if ids.count(name) > 1), None)
    if twice is not None:
        raise KvError(f"two switches have the id {twice!r}; give each its own.")
    return tokenized


def check_lengths(lm: LM, lengths: Iterable[tuple[str, int]]) -> None:
    """Refuse a switch, by its id, that takes more positions than the model is exact for."""
    limit = limits.exact_positions(lm)
    for name, length in lengths:
        if length > limit:
            raise KvError(
                f"switch {name!r} takes {length} positions, past the {limit} that {lm.name} is "
                "exact for; pass shorter contexts or fewer tokens."
            )


def build_case(
    lm: LM, switch: TokenizedSwitch, methods: Sequence[SwitchMethod], steps: int, seed: int
) -> tuple[SwitchCase, list[int]]:
    """Return the distinct plans of a switch, and which of them each method has.

    Both references are among the plans, whether they are among the methods or not.
    """
    followed = switch.after[:steps]
    references = (switching.switch_method("ignore"), switching.switch_method("oracle"))
    plans = [
        switching.plan_decode(_plan_cache(lm, switch, method, seed), followed)
        for method in (*methods, *references)
    ]
    # Of equal plans the last one names the slots: the oracle's, whatever else was asked for.
    distinct: dict[object, DecodePlan] = {}
    for plan in plans:
        distinct.pop(plan_key(plan), None)
        distinct[plan_key(plan)] = plan
    numbers = {key: number for number, key in enumerate(distinct)}
    *of_methods, ignore, oracle = (numbers[plan_key(plan)] for plan in plans)
    return SwitchCase(followed, tuple(distinct.values()), oracle, ignore), of_methods


def plan_key(plan: DecodePlan) -> tuple[object, ...]:
    """Return what decides a plan's numbers; what its slots are called is no part of it."""
    return plan.opening.runs, plan.opening.slots_taken, plan.read, plan.predicts


def plan_answer(
    lm: LM, switch: TokenizedSwitch, method: SwitchMethod, max_new_tokens: int, seed: int
) -> AnswerJob:
    """Plan what is written behind a switch; the oracle also writes the tokens before it."""
    if method.kind == "oracle":
        plan = switching.reprefill(switch.new, switching.INJECTED, (), lm.bos_id)
        return AnswerJob(switch, method, plan, (), len(switch.before) + max_new_tokens)
    plan = _plan_cache(lm, switch, method, seed)
    return AnswerJob(switch, method, plan, switch.before, max_new_tokens)


def _plan_cache(lm: LM, switch: TokenizedSwitch, method: SwitchMethod, seed: int) -> CachePlan:
    noise = switching.noise_ids(lm.tokenizer, switch, seed) if method.kind == "noise" else ()
    return switching.plan_cache(method, switch, lm.bos_id, noise)


def refusal(
    lm: LM,
    switch: Switch,
    conditions: Iterable[str | SwitchMethod],
    *,
    steps: int = 64,
    max_new_tokens: int = 1,
    seed: int = 0,
) -> str:
    """Say why a switch can be neither followed nor gone on from; empty where it can.

    `lm`, `switch`, `conditions`, `steps`, `max_new_tokens`, `seed`: as `follow` and
    `generate_after_switch` take them. No model is run.
    """
    methods = tuple(map(switching.switch_method, conditions))
    try:
        (tokenized,) = tokenize_all(lm, [switch])
        case, _ = build_case(lm, tokenized, methods, steps, seed)
        jobs = [plan_answer(lm, tokenized, each, max_new_tokens, seed) for each in methods]
        lengths = [*(plan.length for plan in case.plans), *(job.length for job in jobs)]
        check_lengths(lm, [(tokenized.id, length) for length in lengths])
    except KvError as reason:
        return str(reason)
    return ""
