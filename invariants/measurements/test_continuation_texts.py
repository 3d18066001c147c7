"""Continuations of texts by several sources, equal in length.

What a model writes is compared with `generate` one prompt at a time, which has oracles of its own
in ``test_generation.py``.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import kvcore
from invariants.support.comparing import must_see
from kvcore import tokenization
from kvcore.data.texts import Text
from kvcore.errors import KvError, StoreWarning
from kvcore.measurements import continuations, generation
from kvcore.models.lm import LM

Fault = Callable[[pytest.MonkeyPatch], None]


def patched(module: Any, name: str, value: object) -> Fault:
    """Return the fault that replaces one name of a module."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(module, name, value)

    fault.__name__ = name
    return fault


# --- sources -----------------------------------------------------------------------------------

LENGTHS = (30, 110, 24)  # words: the middle one is cut, at 90 tokens
WORD = "the sample mean is a sum of entries along an axis and nothing else"
SOME = tuple(
    Text(
        f"x{n}",
        f"The {WORD.split()[n]} is read.",
        " " + " ".join((WORD.split() * 9)[n : n + length]) + ".",
    )
    for n, length in enumerate(LENGTHS)
)
ALL = ("human", "greedy", "temperature(0.7)", "temperature(2)", "shuffled")


@pytest.fixture(scope="session", params=["tiny-llama", "tiny-mistral"])
def lm(request: pytest.FixtureRequest) -> LM:
    """A byte-level tokenizer and one of the SentencePiece kind."""
    return kvcore.load(request.param, device="cpu")


def check_sources(lm: LM) -> None:
    """Human and model go on from the same prompt, equally far; the model writes text only."""
    found = continuations.load_continuations(lm, SOME, ALL, seed=3)
    assert not found.unusable
    assert [(t.id, t.source) for t in found.texts] == [(t.id, s) for t in SOME for s in ALL]
    by = {(text.id, text.source): text for text in found.texts}
    special = generation.special_ids(lm)
    for text in SOME:
        human, greedy, cool, hot, shuffled = (by[text.id, source] for source in ALL)
        whole = tokenization.encode(lm.tokenizer, text.prompt + text.continuation)
        assert human.ids == whole[: len(human.ids)]
        assert human.prompt == tokenization.encode(lm.tokenizer, text.prompt)
        assert len(human.continuation) == min(90, len(whole) - len(human.prompt))
        assert {t.prompt for t in by.values() if t.id == text.id} == {human.prompt}
        assert {len(t.continuation) for t in by.values() if t.id == text.id} == {
            len(human.continuation)
        }
        assert (
            greedy.continuation
            == generation.generate(
                lm, [human.prompt], max_new_tokens=len(human.continuation), stop=(), never=special
            )[0]
        )
        assert Counter(shuffled.continuation) == Counter(human.continuation)
        assert shuffled.continuation != human.continuation
        assert len({greedy.continuation, cool.continuation, hot.continuation}) == 3
        assert not special & {*greedy.continuation, *cool.continuation, *hot.continuation}
    assert max(len(t.continuation) for t in found.texts) == 90


def check_order(lm: LM) -> None:
    """Neither order, nor batches, nor what else is asked for counts; the seed does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(continuations, "NEW_TOKENS", 24)  # enough to tell texts apart
        found = {
            (t.id, t.source): t
            for t in continuations.load_continuations(lm, SOME, ALL, seed=3).texts
        }
        for some, asked in ((SOME[::-1], ALL[::-1]), (SOME[2:], ALL[2:])):
            again = continuations.load_continuations(lm, some, asked, seed=3, batch_tokens=60).texts
            assert len(again) == len(some) * len(asked)
            assert all(found[t.id, t.source] == t for t in again)
        for other in continuations.load_continuations(lm, SOME, ALL, seed=4).texts:
            drawn = other.source not in ("human", "greedy")
            assert (found[other.id, other.source] != other) == drawn


def test_sources(lm: LM) -> None:
    """Catches a continuation that is not its source's, or not as long as the human's."""
    check_sources(lm)


def test_order(lm: LM) -> None:
    """Catches a continuation that hangs on the other texts or sources asked for."""
    check_order(lm)


# --- a writer and a reader ---------------------------------------------------------------------

WRITER = "tiny-qwen3"


def check_writer(reader: LM) -> None:
    """Demand of another model's text that it is (1) read as a source (2) what the writer writes."""
    source = f"greedy({WRITER})"
    read = continuations.load_continuations(reader, SOME, [source]).texts
    written = continuations.load_continuations(kvcore.load(WRITER, device="cpu"), SOME, ["greedy"])
    own = continuations.load_continuations(reader, SOME, ["greedy"]).texts
    assert [text.ids for text in read] == [text.ids for text in written.texts]
    assert all(a.ids != b.ids for a, b in zip(read, own, strict=True))
    assert {text.source for text in read} == {source}


def test_another_model_writes_what_this_one_reads(llama: LM) -> None:
    """Catches a reader that reads its own text where its base model's was asked for."""
    check_writer(llama)

    def by_the_reader(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(continuations, "writer_of", lambda _source: None)
        patch.setattr(continuations, "own_name", lambda _source: "greedy")

    must_see(by_the_reader, check_writer, llama)


def test_a_writer_with_another_tokenizer_is_refused(llama: LM) -> None:
    """Catches ids of one vocabulary that are read as those of another."""
    with pytest.raises(KvError, match="must name a model with the vocabulary of tiny-llama"):
        continuations.load_continuations(llama, SOME, ["greedy(tiny-mistral)"])


def specials_too(patch: pytest.MonkeyPatch) -> None:
    """Let the model write anything, and want nothing but its end-of-text token."""
    generate = generation.generate
    patch.setattr(
        generation,
        "generate",
        lambda lm, prompts, **asked: [
            (*ids[:-1], lm.tokenizer.eos_token_id)
            for ids in generate(lm, prompts, **{**asked, "never": ()})
        ],
    )


def uncut(patch: pytest.MonkeyPatch) -> None:
    """Leave what the model wrote as long as it is."""
    by = continuations.continuation_by

    def broken(source: str, human: Any, written: Any, seed: int) -> Any:
        made = by(source, human, written, seed)
        return (
            made
            if source not in written
            else dataclasses.replace(made, continuation=written[source][human.id])
        )

    patch.setattr(continuations, "continuation_by", broken)


def redrawn(patch: pytest.MonkeyPatch) -> None:
    """Draw tokens with replacement rather than put them in another order."""
    by = continuations.continuation_by

    def broken(source: str, human: Any, written: Any, seed: int) -> Any:
        made = by(source, human, written, seed)
        return (
            made
            if source != "shuffled"
            else dataclasses.replace(
                made, continuation=(made.continuation[0], *made.continuation[:-1])
            )
        )

    patch.setattr(continuations, "continuation_by", broken)


def alone_tokenized(patch: pytest.MonkeyPatch) -> None:
    """Tokenize the continuation by itself."""
    tokenized = continuations.tokenize_text

    def broken(lm: LM, text: Text) -> Any:
        ids = tokenization.encode(lm.tokenizer, text.continuation.strip())[:90]
        return dataclasses.replace(tokenized(lm, text), continuation=ids)

    patch.setattr(continuations, "tokenize_text", broken)


@pytest.mark.parametrize(
    "fault",
    [specials_too, uncut, redrawn, alone_tokenized, patched(continuations, "NEW_TOKENS", 80)],
    ids=lambda fault: fault.__name__,
)
def test_twin_sources(llama: LM, fault: Fault) -> None:
    """Catches a check blind to another source's or a wrong text."""
    must_see(fault, check_sources, llama)


def by_turn(patch: pytest.MonkeyPatch) -> None:
    """Seed by how many seeds were asked for before."""
    turns = iter(range(10**6))
    patch.setattr(continuations, "seed_of", lambda *_given: next(turns))


@pytest.mark.parametrize(
    "fault", [by_turn, patched(continuations, "seed_of", lambda _seed, name, _source: len(name))]
)
def test_twin_order(llama: LM, fault: Fault) -> None:
    """Catches a check blind to texts that hang on their order."""
    must_see(fault, check_order, llama)


def test_what_cannot_be_compared(llama: LM) -> None:
    """Each with its reason, and the others are compared all the same."""
    prompt, going_on = SOME[0].prompt, SOME[0].continuation
    at = next(
        n
        for n in range(1, len(prompt))
        if tokenization.encode(llama.tokenizer, prompt)[
            : len(tokenization.encode(llama.tokenizer, prompt[:n]))
        ]
        != tokenization.encode(llama.tokenizer, prompt[:n])
    )
    found = continuations.load_continuations(
        llama,
        [
            Text("merged", prompt[:at], prompt[at:] + going_on),
            Text("short", prompt, " It is."),
            Text("odd", prompt, f" \udc80{going_on}"),
            Text("long", prompt * 500, going_on),
            SOME[1],
        ],
        ("human",),
    )
    assert found.unusable == {
        "merged": "prompt and continuation merge into one token",
        "short": "fewer than 20 tokens in the continuation",
        "odd": "not valid Unicode (lone surrogate)",
        "long": "longer than the 2048 positions the model is exact for",
    }
    assert found.dropped == {reason: 1 for reason in sorted(found.unusable.values())}
    assert [text.id for text in found.texts] == ["x1"]
    assert continuations.load_continuations(llama, []).texts == ()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("gredy", "did you mean 'greedy'"),
        ("temperature(0)", "unknown source"),
        ("temperature(0.0)", "unknown source"),
        ("temperature(-1)", "unknown source"),
        ("temperature(hot)", "unknown source"),
    ],
)
def test_unknown_sources(llama: LM, asked: str, said: str) -> None:
    """Catches a source that nobody writes and that is not refused."""
    with pytest.raises(KvError, match=re.escape(said)) as error:
        continuations.load_continuations(llama, SOME, ["human", asked])
    assert "\n" not in str(error.value)


def test_a_text_twice(llama: LM) -> None:
    """Catches two texts of one id that overwrite each other."""
    with pytest.raises(KvError, match="two texts have the id 'x0'"):
        continuations.load_continuations(llama, [SOME[0], SOME[0]])


# --- continuations on disk ---------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count how many prompts the model is asked to go on from; it does not really."""
    counts: list[int] = []

    def generate(_lm: LM, prompts: Sequence[tuple[int, ...]], **how: Any) -> list[tuple[int, ...]]:
        counts.append(len(prompts))
        return [(5 + len(prompt),) * how["max_new_tokens"] for prompt in prompts]

    monkeypatch.setattr(generation, "generate", generate)
    monkeypatch.setattr(continuations, "FILE_SAMPLES", 2)
    return counts


def written(
    lm: LM, root: Path, some: Sequence[Text] = SOME, source: str = "temperature(0.7)", seed: int = 0
) -> continuations.ContinuationSet:
    return continuations.load_continuations(lm, some, [source], root=root, seed=seed)


def check_kept(lm: LM, root: Path, asked: list[int]) -> None:
    """Each continuation is written once, two a file, and read back the same."""
    asked.clear()
    first = written(lm, root, SOME[:1])
    assert asked == [1]
    assert written(lm, root).texts[:1] == first.texts
    assert asked == [1, 1, 1]
    assert written(lm, root, SOME[::-1]).texts[::-1] == written(lm, root).texts
    assert asked == [1, 1, 1]
    assert len(list((root / "_written").glob("continuations-*.jsonl"))) == 3


def test_kept(llama: LM, tmp_path: Path, asked: list[int]) -> None:
    """Catches a continuation that is written twice."""
    check_kept(llama, tmp_path, asked)


def test_twin_kept(
    llama: LM, tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a check blind to texts that are never found again."""
    key, calls = continuations.continuation_key, itertools.count()
    monkeypatch.setattr(
        continuations, "continuation_key", lambda *given: (*key(*given)[:-1], str(next(calls)))
    )
    with pytest.raises(AssertionError):
        check_kept(llama, tmp_path, asked)


def check_keys(lm: LM, root: Path, asked: list[int]) -> None:
    """Another model, dtype, tokenizer, source, seed, length, code, id or prompt is another text."""
    written(lm, root)
    n = len(asked)

    def files(**other: Any) -> LM:
        return dataclasses.replace(lm, files=dataclasses.replace(lm.files, **other))

    runs: list[Callable[[], object]] = [
        *(
            lambda other=other: written(files(**other), root)
            for other in ({"model_id": "x"}, {"dtype": "x"}, {"tokenizer_id": "x"})
        ),
        lambda: written(lm, root, source="temperature(0.8)"),
        lambda: written(lm, root, seed=1),
        lambda: written(lm, root, [dataclasses.replace(t, id=f"{t.id}x") for t in SOME]),
        lambda: written(lm, root, [dataclasses.replace(t, prompt=f"So {t.prompt}") for t in SOME]),
    ]
    for name, value in (("METHOD", "x"), ("NEW_TOKENS", 70)):

        def run(name: str = name, value: object = value) -> None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(continuations, name, value)
                written(lm, root)

        runs.append(run)
    for number, run_it in enumerate(runs, start=2):
        run_it()
        assert len(asked) == n * number
    assert len(runs) == len(continuations.KEY)
    written(lm, root, source="greedy")
    written(lm, root, source="greedy", seed=1)
    assert len(asked) == n * (len(runs) + 2)


def test_keys(llama: LM, tmp_path: Path, asked: list[int]) -> None:
    """Catches a stored text that is used for another model, source, seed or prompt."""
    check_keys(llama, tmp_path, asked)


@pytest.mark.parametrize("left_out", range(len(continuations.KEY)), ids=continuations.KEY)
def test_twin_keys(
    left_out: int, llama: LM, tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a check blind to a key that lacks a part."""
    key = continuations.continuation_key

    def broken(*given: Any) -> tuple[str, ...]:
        parts = key(*given)
        return (*parts[:left_out], "", *parts[left_out + 1 :])

    monkeypatch.setattr(continuations, "continuation_key", broken)
    with pytest.raises(AssertionError):
        check_keys(llama, tmp_path, asked)


def test_damage(llama: LM, tmp_path: Path, asked: list[int]) -> None:
    """A file whose bytes changed is set aside with a warning, and what it held written again."""
    whole = written(llama, tmp_path)
    victim = min((tmp_path / "_written").glob("continuations-*"))
    victim.write_bytes(victim.read_bytes().replace(b'"ids": [', b'"ids": [9, '))
    with pytest.warns(StoreWarning, match="is damaged"):
        assert written(llama, tmp_path) == whole
    assert victim.with_name(f"_{victim.name}.damaged").exists()
    assert len(asked) == 3
