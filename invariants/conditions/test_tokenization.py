"""Every condition of a sample holds one BOS and the same document ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from hypothesis import example, given

from invariants.support import strategies
from invariants.support.comparing import (
    Fault,
    must_see,
)
from invariants.support.plain_routes import ALL
from invariants.support.samples import TINY
from invariants.support.strategies import several
from kvcore import loading, tokenization
from kvcore.conditions import parse
from kvcore.data.sample import Sample
from kvcore.engine import build, prepared
from kvcore.models import tiny_configs
from kvcore.models.lm import LM


def prefilled_ids(lm: LM, sample: Sample, name: str) -> Iterator[list[int]]:
    """Yield the token ids that the engine prefills for a condition, padding left out."""
    chosen = parse.condition(name)
    ready = prepared.prepare_one(lm, sample, chosen)
    for prefill in chosen.prefills():
        step = build.prefill_input(lm, prefill, [ready])
        yield step.ids[0][step.real[0]].tolist()


def check_matched_tokenization(lm: LM, sample: Sample) -> None:
    """Demand one BOS and one document in what every condition prefills."""

    def bare_ids(text: str) -> list[int]:
        read = lm.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return list(read["input_ids"])

    prefix = bare_ids(f"{sample.query}\n")
    joined = bare_ids(f"{sample.query}\n{sample.passage}")
    document = joined[len(prefix) :]
    oracle_length = 0
    for name in ALL:
        for ids in prefilled_ids(lm, sample, name):
            assert ids[0] == lm.bos_id, f"{name}: the cache does not begin with BOS"
            assert ids.count(lm.bos_id) == 1, f"{name}: {ids.count(lm.bos_id)} BOS"
            assert ids[-len(document) :] == document, f"{name}: other document ids"
            if name == "oracle":
                oracle_length = len(ids)
                assert ids[1:] == joined, "oracle: not the ids of the joined text"
            if name == "random":
                assert len(ids) == oracle_length, "random: not as long as the query"


@several
@given(sample=strategies.samples())
@example(sample=TINY)
def test_every_condition_holds_the_same_document(lm: LM, sample: Sample) -> None:
    """Would catch a second BOS, or a document with other ids under some condition."""
    check_matched_tokenization(lm, sample)


def add_special_tokens(patch: pytest.MonkeyPatch) -> None:
    """Prepend BOS to whatever is tokenized, as many tokenizers do by default."""
    right = tokenization.encode
    patch.setattr(tokenization, "encode", lambda tok, text: (tok.bos_token_id, *right(tok, text)))


def read_special_tokens(patch: pytest.MonkeyPatch) -> None:
    """Take text that spells a special token for that token."""
    patch.setattr(
        tokenization,
        "encode",
        lambda tok, text: tuple(tok(text, add_special_tokens=False).input_ids),
    )


def tokenize_apart(patch: pytest.MonkeyPatch) -> None:
    """Tokenize the passage on its own, apart from what stands before it."""
    right = tokenization.tokenize
    patch.setattr(
        tokenization,
        "tokenize",
        lambda tok, sample, target: dataclasses.replace(
            right(tok, sample, target), document=tokenization.encode(tok, sample.passage)
        ),
    )


@pytest.mark.parametrize("fault", [add_special_tokens, read_special_tokens])
def test_twin_one_bos(lm: LM, fault: Fault) -> None:
    """Would catch a check blind to a second BOS, wherever it comes from."""
    must_see(fault, check_matched_tokenization, lm, TINY)


@pytest.mark.parametrize("name", tiny_configs.SENTENCEPIECE)
def test_twin_passage_tokenized_apart(name: str) -> None:
    """Would catch a check blind to a passage tokenized apart from its prefix."""
    lm = loading.load(name, device="cpu")
    must_see(tokenize_apart, check_matched_tokenization, lm, TINY)
