"""Which rows adaptation to a new context needs, by key, and how they are filled in."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from kvcore.conditions.switching import Switch
from kvcore.corpora.pair import Pair, injection_fraction, numbers_in
from kvcore.corpora.word_problems import worked
from kvcore.io import digest
from kvcore.measurements import answer_nll_rows, context_switch
from kvcore.measurements.generation import end_ids, newline_ids
from kvcore.models.files import ModelFiles
from kvcore.models.lm import LM
from kvcore.store.code_hash import package_hash
from kvcore.store.fill import Score
from kvcore.store.schema import COUNT, NUMBER, NUMBERS, TEXTS, RowSchema, clean

STEPS = 64  # tokens followed behind the switch, at most
NEW_TOKENS = 96  # written in free generation behind the switch, at most
FREE = "free:"  # before the name of a way to switch: the model goes on by itself
PER_TOKEN = ("kl_oracle", "kl_ignore", "logratio_oracle", "logratio_ignore", "hidden_similarity")
SPANS = ("bos", "original", "injected", "generated")
ADAPTATION = RowSchema(
    {
        "score": NUMBER,
        "step": COUNT,
        "identical": COUNT,
        "correct": COUNT,
        "stale": COUNT,
        **dict.fromkeys(PER_TOKEN, NUMBERS),
        "towards_oracle": NUMBERS,
        **{f"{what}_{span}": NUMBERS for what in ("share", "layer_share") for span in SPANS},
        "attribution": TEXTS,
        "tokens": TEXTS,
    },
    "score",
)
FOLDER = "_adaptation"  # in the store's
NUMBER_MODULES = (
    "gguf",
    "tokens",
    "rope",
    "masks",
    "cache",
    "forward",
    "generation",
    "scoring",
    "attention",
    "switches",
    "adaptation",
    "switch_rows",
)
QUESTION, SOLUTION = "Problem: {}\nSolution:", " {}"


@functools.cache
def code() -> str:
    """Return the hash of the number-producing modules, comments and docstrings left out."""
    return package_hash()


def rows(
    files: ModelFiles, dataset: str, pairs: Sequence[Pair], ways: Sequence[str], seed: int
) -> pd.DataFrame:
    """List the keys of all rows that are wanted: every pair by every way to switch."""
    rule = digest(QUESTION, SOLUTION, str(STEPS), str(NEW_TOKENS))[:12]
    return answer_nll_rows.keys(
        files,
        dataset,
        [
            (
                clean(pair.id),
                _hash(pair),
                way,
                f"switch:{rule}",
                code(),
                len(pair.question + pair.alt_problem),
            )
            for pair in pairs
            for way in ways
        ],
        seed,
    )


def switch_of(pair: Pair, seed: int) -> Switch:
    """Spell a pair out as a context that is switched while its own solution is read.

    The stream is the solution of the original problem throughout, also behind the switch: were
    it the changed problem's, it would tell every way what the new context is.
    """
    return Switch(
        clean(pair.id),
        QUESTION.format(pair.question),
        QUESTION.format(pair.alt_problem),
        SOLUTION.format(worked(pair)[0]),
        injection_fraction(pair, seed),
    )


def scorer(load: Callable[[], LM], pairs: Sequence[Pair], batch_tokens: int | None) -> Score:
    """Make the function that measures wanted rows: the model is loaded by its first call."""
    by_id = {clean(pair.id): pair for pair in pairs}

    def score(todo: pd.DataFrame) -> pd.DataFrame:
        seed = int(todo["seed"].iloc[0])
        groups: dict[tuple[str, ...], list[Pair]] = {}
        for name, part in todo.groupby("sample_id", sort=True):
            groups.setdefault(tuple(part["condition"]), []).append(by_id[str(name)])
        made = [
            row
            for ways, asked in groups.items()
            for row in _measured(load(), asked, ways, seed, batch_tokens)
        ]
        found = pd.DataFrame(made).assign(template=todo["template"].iloc[0])
        return found.reindex(columns=["sample_id", "condition", "template", *ADAPTATION.values])

    return score


def _measured(
    lm: LM, pairs: Sequence[Pair], ways: Sequence[str], seed: int, batch_tokens: int | None
) -> list[dict[str, Any]]:
    """Follow and free every pair by the ways asked for; unusable pairs keep their reason."""
    given, made = {}, []
    for pair in pairs:
        one = switch_of(pair, seed)
        reason = context_switch.refusal(
            lm,
            one,
            {way.removeprefix(FREE) for way in ways},
            steps=STEPS,
            max_new_tokens=NEW_TOKENS,
            seed=seed,
        )
        if not reason:
            given[one.id] = (pair, one)
            continue
        made += [
            {
                "sample_id": one.id,
                "condition": way,
                "status": reason,
                "cluster": one.id,
                "step": -1,
                "identical": -1,
                "correct": -1,
                "stale": -1,
            }
            for way in ways
        ]
    some = [one for _, one in given.values()]
    followed = [way for way in ways if not way.startswith(FREE)]
    freed = [way.removeprefix(FREE) for way in ways if way.startswith(FREE)]
    if some and followed:
        table = context_switch.follow(
            lm, some, followed, steps=STEPS, attention=True, seed=seed, batch_tokens=batch_tokens
        )
        made += [_followed(lm, row) for row in table.to_dict("records")]
    if some and freed:
        table = context_switch.generate_after_switch(
            lm,
            some,
            freed,
            max_new_tokens=NEW_TOKENS,
            seed=seed,
            stop=_line_ends(lm),
            batch_tokens=batch_tokens,
        )
        made += [_freed(lm, row, given[row["switch_id"]][0]) for row in table.to_dict("records")]
    return made


def _followed(lm: LM, row: Mapping[str, Any]) -> dict[str, Any]:
    kept = {
        name: row[name]
        for name in (
            *PER_TOKEN,
            "attribution",
            *(f"{what}_{span}" for what in ("share", "layer_share") for span in SPANS),
        )
    }
    return {
        "sample_id": row["switch_id"],
        "condition": row["condition"],
        "status": "ok",
        "cluster": row["switch_id"],
        "score": max(row["kl_ignore"]),
        "step": row["step"],
        "identical": int(row["identical"]),
        "correct": -1,
        "stale": -1,
        "tokens": [str(lm.tokenizer.decode([i])) for i in row["tokens"]],
        **kept,
    }


def _freed(lm: LM, row: Mapping[str, Any], pair: Pair) -> dict[str, Any]:
    new, old = (answers(row["text"], answer) for answer in (pair.alt_answer, pair.answer))
    return {
        "sample_id": row["switch_id"],
        "condition": f"{FREE}{row['condition']}",
        "status": "ok",
        "cluster": row["switch_id"],
        "score": float(new),
        "step": row["step"],
        "identical": int(row["identical"]),
        "correct": int(new),
        "stale": int(old),
        "towards_oracle": row["towards_oracle"],
        "attribution": row["attribution"],
        "tokens": [str(lm.tokenizer.decode([i])) for i in row["ids"]],
    }


def answers(text: str, answer: str) -> bool:
    """Whether a written solution ends in an answer: its last number, or its last sentence."""
    wanted_number, found = numbers_in(answer), numbers_in(text)
    if wanted_number:
        return bool(found) and found[-1] == wanted_number[-1]
    return answer.casefold() in text.casefold().rsplit("answer", 1)[-1]


def _line_ends(lm: LM) -> frozenset[int]:
    return end_ids(lm) | newline_ids(lm)


def _hash(pair: Pair) -> str:
    return digest(pair.question, pair.alt_problem, *worked(pair))[:32]
