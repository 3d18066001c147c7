"""What follows when a context is switched in mid-answer: token by token and in free generation."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from kvcore.conditions.switching import SPANS, Switch, switch_method
from kvcore.data.context_pairs.assignment import injection_fraction
from kvcore.data.context_pairs.load import PAIRS, load_pairs
from kvcore.data.context_pairs.pair import Pair, numbers_in
from kvcore.data.context_pairs.solutions import worked_solutions
from kvcore.errors import KvError
from kvcore.io import digest
from kvcore.measurements import base
from kvcore.measurements.base import ENGINE, MeasurementKind, MeasurePlan, MeasureRequest, RowSpec
from kvcore.measurements.registry import register
from kvcore.measurements.shard_size import samples_on
from kvcore.store.schema import COUNT, NUMBER, NUMBERS, TEXTS, RowSchema, clean
from kvcore.tokenization import encode

if TYPE_CHECKING:
    from kvcore.models.lm import LM

STEPS = 64  # tokens followed behind the switch, at most
NEW_TOKENS = 96  # written in free generation behind the switch, at most
CPU_PAIRS = 20  # of a shard
FREE = "free:"  # before the name of a way to switch: the model goes on by itself
OWN = "@own"  # behind it: the context changes while the model writes its own text
OWN_TOKENS = 96  # of a text of its own, at most
FEWEST_OWN = 12  # of them: a quarter is some tokens, before the switch or behind it
PER_TOKEN = ("kl_oracle", "kl_ignore", "logratio_oracle", "logratio_ignore", "hidden_similarity")
SHARES = tuple(f"{what}_{span}" for what in ("share", "layer_share") for span in SPANS)
SCHEMA = RowSchema(
    {
        "score": NUMBER,
        "step": COUNT,
        "identical": COUNT,
        "correct": COUNT,
        "stale": COUNT,
        **dict.fromkeys(PER_TOKEN, NUMBERS),
        "towards_oracle": NUMBERS,
        **dict.fromkeys(SHARES, NUMBERS),
        "attribution": TEXTS,
        "tokens": TEXTS,
    },
    "score",
)
QUESTION, SOLUTION = "Problem: {}\nSolution:", " {}"
UNKNOWN = dict.fromkeys(("step", "identical", "correct", "stale"), -1)


def plan(request: MeasureRequest) -> MeasurePlan:
    """Plan every pair of problems by every way to switch."""
    corpus = load_pairs(request.dataset, request.limit, request.seed)
    templates = {own: _template(own) for own in (False, True)}
    rows = [
        RowSpec(
            pair.id,
            digest(pair.question, pair.alt_problem, *worked_solutions(pair))[:32],
            way,
            templates[is_own(way)],
            len(pair.question + pair.alt_problem),
        )
        for pair in corpus.pairs
        for way in request.needs
    ]
    return MeasurePlan(
        KIND.keys(request.files, corpus.name, request.seed, rows),
        functools.partial(_measure, request, corpus.pairs),
        {"pairs": len(corpus.pairs), **base.corpus_facts(corpus)},
        shard_samples=samples_on(request, CPU_PAIRS),
    )


def _template(own: bool) -> str:
    """Return how a pair is spelled out, and a hash of that."""
    shared = (QUESTION, SOLUTION, str(STEPS), str(NEW_TOKENS))
    if own:
        return f"own-text:{digest(*shared, str(OWN_TOKENS), str(FEWEST_OWN))[:12]}"
    return f"switch:{digest(*shared)[:12]}"


def is_own(way: str) -> bool:
    """Whether the context changes in the model's own text."""
    return way.endswith(OWN)


def switch_of(pair: Pair, seed: int) -> Switch:
    """Spell a pair out as a context that is switched while its own solution is read.

    The stream is the solution of the original problem throughout, also behind the switch: were
    it the changed problem's, it would tell every way what the new context is.
    """
    return Switch(
        clean(pair.id),
        QUESTION.format(pair.question),
        QUESTION.format(pair.alt_problem),
        SOLUTION.format(worked_solutions(pair)[0]),
        injection_fraction(pair, seed),
    )


def answers(text: str, answer: str) -> bool:
    """Whether a written solution ends in an answer: its last number, or its last sentence."""
    answer_numbers, text_numbers = numbers_in(answer), numbers_in(text)
    if answer_numbers:
        return bool(text_numbers) and text_numbers[-1] == answer_numbers[-1]
    return answer.casefold() in text.casefold().rsplit("answer", 1)[-1]


def _measure(request: MeasureRequest, pairs: Sequence[Pair], todo: pd.DataFrame) -> pd.DataFrame:
    """Follow and free pairs by the ways asked for; pairs with the same ways go together."""
    by_id = {clean(pair.id): pair for pair in pairs}
    seed = int(todo["seed"].iloc[0])
    pairs_of: dict[tuple[str, ...], list[Pair]] = {}
    for name, part in todo.groupby("sample_id", sort=True):
        pairs_of.setdefault(tuple(part["condition"]), []).append(by_id[str(name)])
    rows = [
        row
        for ways, asked in pairs_of.items()
        for row in measure_pairs(request.load(), asked, ways, seed, request.batch_tokens)
    ]
    table = pd.DataFrame(rows)
    table["template"] = [_template(is_own(way)) for way in table["condition"]]
    return table.reindex(columns=["sample_id", "condition", "template", *SCHEMA.values])


def measure_pairs(
    lm: LM, pairs: Sequence[Pair], ways: Sequence[str], seed: int, batch_tokens: int | None
) -> list[dict[str, Any]]:
    """Follow and free every pair by the ways asked for; unusable pairs keep their reason."""
    rows: list[dict[str, Any]] = []
    written = [way for way in ways if not is_own(way)]
    own = [way for way in ways if is_own(way)]
    if written:
        switches = [switch_of(pair, seed) for pair in pairs]
        rows += _measure_switches(lm, pairs, switches, written, seed, batch_tokens)
    if own:
        switches, refused = own_switches(lm, pairs, seed, batch_tokens)
        rows += [_row(name, way, reason) for name, reason in refused.items() for way in own]
        known = {switch.id for switch in switches}
        usable = [pair for pair in pairs if clean(pair.id) in known]
        plain = [way.removesuffix(OWN) for way in own]
        measured = _measure_switches(lm, usable, switches, plain, seed, batch_tokens)
        rows += [{**row, "condition": f"{row['condition']}{OWN}"} for row in measured]
    return rows


def own_switches(
    lm: LM, pairs: Sequence[Pair], seed: int, batch_tokens: int | None
) -> tuple[list[Switch], dict[str, str]]:
    """Let the model write on the original problem, greedily, and switch in the midst of that.

    Returns the switches, whose stream is what it wrote, and by id why a problem cannot be read. No
    line ends among the first `FEWEST_OWN` tokens; from there on every token is the model's own
    choice, so that ignore goes on as the model would have. The switch comes after the same share of
    the text as in the written solution.
    """
    from kvcore.measurements import context_switch
    from kvcore.measurements.generation import generate

    planned: list[Switch] = []
    refused: dict[str, str] = {}
    for pair in pairs:
        switch = switch_of(pair, seed)
        reason = context_switch.refusal(
            lm, switch, ("ignore",), max_new_tokens=OWN_TOKENS, seed=seed
        )
        if reason:
            refused[switch.id] = reason
        else:
            planned.append(switch)
    ends = line_ends(lm)
    texts = generate(
        lm,
        [encode(lm.tokenizer, str(switch.original)) for switch in planned],
        max_new_tokens=OWN_TOKENS,
        min_new_tokens=FEWEST_OWN,
        stop=ends,
        never={lm.bos_id} - ends,
        batch_tokens=batch_tokens,
    )
    without_bos = [text[:-1] if text[-1] == lm.bos_id else text for text in texts]
    streams = zip(planned, without_bos, strict=True)
    return [replace(switch, stream=text) for switch, text in streams], refused


def _measure_switches(
    lm: LM,
    pairs: Sequence[Pair],
    switches: Sequence[Switch],
    ways: Sequence[str],
    seed: int,
    batch_tokens: int | None,
) -> list[dict[str, Any]]:
    """Follow and free the switches of pairs by the ways asked for."""
    from kvcore.measurements import context_switch

    usable: dict[str, tuple[Pair, Switch]] = {}
    rows: list[dict[str, Any]] = []
    methods = tuple(dict.fromkeys(way.removeprefix(FREE) for way in ways))
    for pair, switch in zip(pairs, switches, strict=True):
        reason = context_switch.refusal(
            lm, switch, methods, steps=STEPS, max_new_tokens=NEW_TOKENS, seed=seed
        )
        if reason:
            rows += [_row(switch.id, way, reason) for way in ways]
        else:
            usable[switch.id] = (pair, switch)
    accepted = [switch for _, switch in usable.values()]
    followed = [way for way in ways if not way.startswith(FREE)]
    free = [way.removeprefix(FREE) for way in ways if way.startswith(FREE)]
    shared: dict[str, Any] = {"seed": seed, "batch_tokens": batch_tokens}
    if accepted and followed:
        table = context_switch.follow(lm, accepted, followed, steps=STEPS, attention=True, **shared)
        rows += [followed_row(lm, row) for row in table.to_dict("records")]
    if accepted and free:
        table = context_switch.generate_after_switch(
            lm, accepted, free, max_new_tokens=NEW_TOKENS, stop=line_ends(lm), **shared
        )
        rows += [free_row(lm, row, usable[row["switch_id"]][0]) for row in table.to_dict("records")]
    return rows


def _row(switch_id: str, way: str, status: str = "ok", **values: object) -> dict[str, Any]:
    """Return a stored row; counts that are not among the values are unknown."""
    own = {"sample_id": switch_id, "condition": way, "status": status, "cluster": switch_id}
    return own | UNKNOWN | values


def followed_row(lm: LM, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored row of a switch that was followed token by token."""
    return _row(
        row["switch_id"],
        row["condition"],
        score=max(row["kl_ignore"]),
        step=row["step"],
        identical=int(row["identical"]),
        tokens=[str(lm.tokenizer.decode([i])) for i in row["tokens"]],
        **{name: row[name] for name in (*PER_TOKEN, "attribution", *SHARES)},
    )


def free_row(lm: LM, row: Mapping[str, Any], pair: Pair) -> dict[str, Any]:
    """Return the stored row of a switch behind which the model went on by itself."""
    new, old = (answers(row["text"], answer) for answer in (pair.alt_answer, pair.answer))
    return _row(
        row["switch_id"],
        f"{FREE}{row['condition']}",
        score=float(new),
        step=row["step"],
        identical=int(row["identical"]),
        correct=int(new),
        stale=int(old),
        towards_oracle=row["towards_oracle"],
        attribution=row["attribution"],
        tokens=[str(lm.tokenizer.decode([i])) for i in row["ids"]],
    )


def line_ends(lm: LM) -> frozenset[int]:
    """Return the tokens that end a written solution."""
    from kvcore.measurements.generation import end_ids, newline_ids

    return end_ids(lm) | newline_ids(lm)


def explain(request: MeasureRequest) -> tuple[Mapping[str, Any], ...]:
    """Explain ways to switch on the shortest of the first pairs that all can be measured on.

    Raises KvError if there is none.
    """
    from kvcore.measurements import context_switch
    from kvcore.measurements.explain import CANDIDATES, records
    from kvcore.measurements.explain_kinds import switch_explanations

    lm, seed = request.load(), request.seed
    pairs = load_pairs(request.dataset, min(request.limit, CANDIDATES), seed).pairs
    method_of = {way: way.removeprefix(FREE).removesuffix(OWN) for way in request.needs}
    by_length = sorted(pairs, key=lambda p: len(p.question + p.alt_problem))
    for pair in sorted(by_length, key=lambda p: p.question == p.alt_problem):  # changed ones first
        own = own_switches(lm, [pair], seed, None)[0] if any(map(is_own, method_of)) else []
        switch, methods = switch_of(pair, seed), tuple(method_of.values())
        own_switch = own[0] if own else switch
        if any(
            context_switch.refusal(lm, each, methods, steps=STEPS, seed=seed)
            for each in (switch, own_switch)
        ):
            continue
        ways = {
            way: (method, own_switch if is_own(way) else switch)
            for way, method in method_of.items()
        }
        return records(lm, switch_explanations(lm, ways, STEPS, seed))
    raise KvError(f"{request.dataset}: none of its first pairs can be measured with {lm.name}.")


def check_method(name: str) -> None:
    """Raise KvError for a name that is no way to switch."""
    switch_method(name.removeprefix(FREE).removesuffix(OWN))


KIND = register(
    MeasurementKind(
        name="context_switch",
        version=1,
        schema=SCHEMA,
        folder="_adaptation",
        sources=(
            *ENGINE,
            "measurements/context_switch",
            "measurements/generation.py",
            "measurements/kinds/context_switch.py",
        ),
        plan=plan,
        dataset="word_problems",
        datasets=lambda: tuple(PAIRS),
        load_data=load_pairs,
        published=(("qwen2.5-math-7b", "mawps"), ("qwen2.5-math-7b", "fairytaleqa")),
        prefix="pairs:",
        counted="pairs",
        check_need=check_method,
        explain=explain,
    )
)
