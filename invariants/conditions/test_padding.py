"""A document that is padded to a length stays what it is, and comes first."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from invariants.oracle import plain
from invariants.support import strategies
from invariants.support.comparing import (
    Fault,
    assert_scores,
    must_see,
)
from invariants.support.plain_routes import Case
from invariants.support.samples import LONG
from invariants.support.strategies import few
from kvcore import tokenization
from kvcore.data import padding
from kvcore.data.sample import Sample
from kvcore.measurements import answer_nll
from kvcore.models.lm import LM

POOL = tuple(
    Sample(
        f"what is {i}",
        f"number {i} is divided by nothing else (x) 3.14",
        "an axis",
        id=f"p{i}",
        cluster=f"c{i % 3}",
    )
    for i in range(9)
)


PADDED = replace(LONG, id="padded", cluster="c1")


def check_padding(lm: LM, sample: Sample, pool: Sequence[Sample], length: int) -> None:
    """Pad one sample, and compare its texts and its tokens with its own and the pool's."""
    (made,) = padding.lengthened([sample], pool, length, seed=4)
    again = padding.lengthened([*pool, sample], pool[::-1], length, seed=4)[-1]
    assert made == again, "the order of the pool, or another sample, changed the padding"
    others = [p.passage for p in pool if p.cluster != sample.cluster]
    assert set(made.padding) <= set(others), "padding from the sample's own cluster"
    assert (made.id, made.length, made.cluster) == (f"{sample.id}@{length}", length, sample.cluster)
    own, read = (tokenization.tokenize(lm.tokenizer, s) for s in (sample, made))
    size = len(own.document)
    assert len(read.document) == length, "another length than the one asked for"
    assert read.document[:size] == own.document, "the passage is not first, or not the same"
    behind = [i for text in made.padding for i in Case(lm, made).ids(f"\n{text}")]
    assert list(read.document[size:]) == behind[: length - size], "other padding"
    for part in ("query_prefix", "prompt", "answer", "clean_boundary", "texts"):
        assert getattr(read, part) == getattr(own, part), f"padding changed {part}"
    rows = answer_nll.score(lm, [made], ["bare", "static_fact", "random"])
    case = Case(lm, made)
    assert rows.doc_len.tolist() == [length] * 3
    assert rows.prefix_len.tolist() == [0, len(case.static), len(case.question)]
    expected = plain.bare_nlls(lm.model, lm.bos_id, list(read.document), *case.asked)
    assert_scores(rows.token_nlls[0], expected, "a padded document")


@few
@given(
    sample=strategies.samples(max_words=8),
    order=st.permutations(range(len(POOL))),
    more=st.integers(0, 60),
)
@example(sample=PADDED, order=list(range(len(POOL))), more=60)
def test_padding_follows_the_passage(
    llama: LM, sample: Sample, order: list[int], more: int
) -> None:
    """Would catch padding that changes the passage, comes first, or is not the pool's."""
    length = len(Case(llama, sample).document) + more
    check_padding(llama, sample, [POOL[i] for i in order], length)


Ids = tuple[int, ...]


def change_padded(name: str, change: Callable[[Ids, Ids], Ids]) -> Fault:
    """Make a fault that changes a padded document, given the own document as well."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        right = tokenization.pad_document
        patch.setattr(
            tokenization,
            "pad_document",
            lambda tok, doc, sample: change(doc, right(tok, doc, sample)),
        )

    fault.__name__ = name
    return fault


def pad_from_the_own_cluster(patch: pytest.MonkeyPatch) -> None:
    right = padding.pad_sample
    patch.setattr(
        padding,
        "pad_sample",
        lambda sample, *more: replace(
            right(replace(sample, cluster="none"), *more), cluster=sample.cluster
        ),
    )


def pad_in_the_pools_order(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(padding, "digest", lambda *_: "")


def pad_by_the_place_in_the_list(patch: pytest.MonkeyPatch) -> None:
    right = padding.pad_sample
    count = itertools.count()
    patch.setattr(
        padding,
        "pad_sample",
        lambda sample, pool, length, seed: right(sample, pool, length, seed + next(count)),
    )


@pytest.mark.parametrize(
    "fault",
    [
        change_padded("padding first", lambda doc, made: made[len(doc) :] + doc),
        change_padded("a token short", lambda _, made: made[1:]),
        change_padded("another token", lambda doc, made: (*doc, *made[len(doc) + 1 :], 9)),
        pad_from_the_own_cluster,
        pad_in_the_pools_order,
        pad_by_the_place_in_the_list,
    ],
)
def test_twin_padding(llama: LM, fault: Fault) -> None:
    """Would catch a check blind to padding that is misplaced, short, related or out of order."""
    length = len(Case(llama, PADDED).document) + 60
    must_see(fault, check_padding, llama, PADDED, POOL, length)


def check_unpaddable(lm: LM, sample: Sample) -> None:
    """Demand a reason, and no score, where the length cannot be met."""
    own = len(Case(lm, sample).document)
    short, dry = (
        replace(sample, length=own - 1, padding=("x",) * 9),
        replace(sample, length=own + 40, padding=("x",)),
    )
    rows = answer_nll.score(lm, [short, dry], ["bare"])
    assert rows.status.tolist() == [
        f"longer than {own - 1} tokens before any padding",
        f"not enough padding for {own + 40} tokens",
    ]
    assert rows.nll.isna().all()


def test_what_cannot_be_padded_is_counted(llama: LM) -> None:
    """Would catch a score where the length asked for cannot be met."""
    check_unpaddable(llama, LONG)


def test_twin_unpaddable(llama: LM) -> None:
    """Would catch a check blind to a document left at its own length."""

    def keep_the_length(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(tokenization, "pad_document", lambda _tok, doc, _sample: doc)

    must_see(keep_the_length, check_unpaddable, llama, LONG)
