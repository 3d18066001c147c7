"""Texts that are tokenized together, and random prefixes that are drawn together and remembered."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from invariants.support.comparing import Fault, must_see
from invariants.support.samples import LONG, SHORT, TINY
from kvcore import tokenization
from kvcore.conditions.parse import condition
from kvcore.data.sample import Sample
from kvcore.engine import prepared
from kvcore.models import tiny, tiny_configs

WANTED = ((4, "a"), (9, "a"), (4, "b"), (1, "c"), (4, "a"), (17, "é"))
SEEDS = (0, 3)
Ids = tuple[int, ...]


def plainly_encoded(tokenizer: Any, text: str) -> Ids:
    """Tokenize one text, by itself."""
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    return tuple(map(int, ids))


def plainly_drawn(tokenizer: Any, length: int, sample_id: str, seed: int) -> Ids | None:
    """Draw one random prefix by itself, each step written out; None where none survives."""
    named = hashlib.sha256(f"{seed}\x1f{sample_id}".encode()).digest()[:16]
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(named, "big")))
    ordinary = tokenization.ordinary_ids(tokenizer)

    def comes_back(ids: Ids) -> bool:
        text = tokenizer.decode(list(ids))
        return "\ufffd" not in text and plainly_encoded(tokenizer, text) == ids

    chosen: Ids = ()
    for _ in range(tokenization.TRIES * length):
        if comes_back(chosen):
            ended = plainly_encoded(tokenizer, tokenizer.decode(list(chosen)) + "\n")
            if len(ended) == length and ended[: len(chosen)] == chosen:
                return ended
        if len(chosen) >= length:
            chosen = chosen[:-2]
        longer = (*chosen, int(ordinary[rng.integers(len(ordinary))]))
        chosen = longer if comes_back(longer) else chosen
    return None


def new_tokenizer(name: str) -> Any:
    """Return a tokenizer that remembers nothing."""
    return tiny.train_tokenizer(sentencepiece=name in tiny_configs.SENTENCEPIECE)


def check_drawn(name: str, wanted: Sequence[tuple[int, str]]) -> None:
    """Demand that prefixes drawn together, in any order and twice, are those drawn alone."""
    tokenizer, alone = new_tokenizer(name), new_tokenizer(name)
    for seed in SEEDS:
        expected = [plainly_drawn(alone, *each, seed) for each in wanted]
        drawn = tokenization.draw_prefixes(tokenizer, wanted, seed)
        assert drawn == expected, f"seed {seed}: drawn together they are others than alone"
        again = tokenization.draw_prefixes(tokenizer, wanted[::-1], seed)
        assert again == expected[::-1], f"seed {seed}: drawn again they are others"
        for (length, sample_id), ids in zip(wanted, expected, strict=True):
            if ids is not None:
                assert tokenization.random_prefix(tokenizer, length, sample_id, seed) == ids


@pytest.mark.parametrize("name", ["tiny-llama", tiny_configs.SENTENCEPIECE[0]])
def test_prefixes_drawn_together_are_those_drawn_alone(name: str) -> None:
    """Would catch a prefix that hangs on its neighbours, or is remembered for another sample.

    1. Side by side, each step's texts in one call, and again as they are remembered.
    2. One prefix at a time, every step written out.
    """
    check_drawn(name, WANTED)


def test_more_prefixes_than_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a prefix that is lost where the memory is full."""
    monkeypatch.setattr(tokenization, "MOST_REMEMBERED", 3)
    check_drawn("tiny-llama", WANTED)


def test_twin_a_prefix_remembered_without_its_seed() -> None:
    """Would catch a check blind to one seed's prefix handed out for another seed."""

    def without_seed(patch: pytest.MonkeyPatch) -> None:
        right = tokenization.draw_prefixes
        known: dict[tuple[int, str], Ids | None] = {}

        def broken(tokenizer: Any, wanted: Any, seed: int) -> list[Ids | None]:
            for each, ids in zip(wanted, right(tokenizer, wanted, seed), strict=True):
                known.setdefault(each, ids)
            return [known[each] for each in wanted]

        patch.setattr(tokenization, "draw_prefixes", broken)

    must_see(without_seed, check_drawn, "tiny-llama", WANTED)


def test_twin_ids_handed_to_another_draw() -> None:
    """Would catch a check blind to the texts of one step that get one another's ids."""

    def turned(patch: pytest.MonkeyPatch) -> None:
        right = tokenization.encode_batch
        patch.setattr(
            tokenization,
            "encode_batch",
            lambda tok, texts: [*(ids := right(tok, texts))[1:], *ids[:1]],
        )

    must_see(turned, check_drawn, "tiny-llama", WANTED)


# --- texts --------------------------------------------------------------------------------------

SAMPLES = (
    LONG,
    SHORT,
    TINY,
    Sample("q", "", "a", id="empty"),
    Sample("\udc80", "p", "a", id="odd"),
)
TARGETS = ("answer", "qdoc")


def read(samples: Sequence[Sample], encoded: Callable[[Any, str], Ids]) -> list[object]:
    """Tokenize samples one by one by a function for texts, with the reason where one cannot be."""
    tokenizer = new_tokenizer("tiny-llama")
    result: list[object] = []
    for sample in samples:
        for target in TARGETS:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(tokenization, "encode", encoded)
                try:
                    result.append(tokenization.tokenize(tokenizer, sample, target))
                except tokenization.Unusable as reason:
                    result.append(str(reason))
    return result


def check_together(samples: Sequence[Sample]) -> None:
    """Demand of samples tokenized together what each is by itself, and nothing kept of it."""

    def alone(tokenizer: Any, text: str) -> Ids:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise tokenization.Unusable("not valid Unicode (lone surrogate)") from error
        return plainly_encoded(tokenizer, text)

    tokenizer = new_tokenizer("tiny-llama")
    before = dict(tokenizer.__dict__)
    texts = [t for s in samples for target in TARGETS for t in tokenization.texts_of(s, target)]
    together: list[object] = []
    with tokenization.encoded_together(tokenizer, texts):
        for sample in samples:
            for target in TARGETS:
                try:
                    together.append(tokenization.tokenize(tokenizer, sample, target))
                except tokenization.Unusable as reason:
                    together.append(str(reason))
    assert together == read(samples, alone)
    assert tokenizer.__dict__ == before, "texts are remembered behind the context"


def test_samples_tokenized_together_are_as_alone() -> None:
    """Would catch a text that gets another's ids, or a reason that is lost.

    1. All texts of all samples in one call.
    2. Each text by itself.
    """
    check_together(SAMPLES)


def test_twin_samples_tokenized_together() -> None:
    """Would catch a check blind to texts that are matched with the ids of their neighbours."""

    def turned(patch: pytest.MonkeyPatch) -> None:
        right = tokenization.encode_batch
        patch.setattr(tokenization, "encode_batch", lambda tok, texts: right(tok, texts)[::-1])

    must_see(turned, check_together, SAMPLES)


def check_prepared(lm: Any, samples: Sequence[Sample]) -> None:
    """Demand of samples prepared together what each is when it is prepared by itself."""
    names = ("bare", "oracle", "random", "values_only(random)")
    asked = [
        (sample, target, tuple(map(condition, names))) for sample in samples for target in TARGETS
    ]
    together = list(prepared.prepare_samples(lm, asked, 5))
    alone = [list(prepared.prepare_sample(lm, *each, 5)) for each in asked]
    assert together == alone


def test_samples_prepared_together_are_as_alone(llama: Any) -> None:
    """Would catch samples, targets or conditions that are mixed up where they share the work."""
    check_prepared(llama, SAMPLES)


def test_twin_samples_prepared_together(llama: Any) -> None:
    """Would catch a check blind to samples in another order."""

    def turned(patch: pytest.MonkeyPatch) -> None:
        right = prepared.prepare_samples
        patch.setattr(prepared, "prepare_samples", lambda *given: [*right(*given)][::-1])

    fault: Fault = turned
    must_see(fault, check_prepared, llama, SAMPLES)
