"""What is asked of a cache follows the table of targets, and shares its prefills."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import example, given

from invariants.support import strategies
from invariants.support.comparing import (
    Fault,
    assert_scores,
    must_see,
)
from invariants.support.plain_routes import EXPECTED, Case
from invariants.support.samples import LONG, SHORT
from invariants.support.strategies import once
from kvcore import tokenization
from kvcore.corpora.sample import Sample
from kvcore.measurements import answer_nll
from kvcore.models.lm import LM

TARGET_TEXTS = {
    "answer": ("\nQuery: {query}\nAnswer:", " {answer}"),
    "answer_question": ("\nQuestion: {query}\nAnswer:", " {answer}"),
    "answer_plain": ("\n{query}\n", "{answer}"),
    "qdoc": ("\nThis document is about:", " {query}"),
    "relevance": (
        "\nQuery: {query}\nIs this document relevant?",
        " Yes, this document is relevant to the query",
    ),
}


TARGET_CONDITIONS = ("bare", "oracle", "values_only(oracle)", "bos_only")


def check_targets(lm: LM, sample: Sample) -> None:
    """Compare each target's ids with its texts, and shared scores with those scored apart."""
    assert set(TARGET_TEXTS) == set(tokenization.TARGETS)
    names = list(TARGET_TEXTS)
    together = answer_nll.score(lm, [sample], TARGET_CONDITIONS, targets=names)
    assert list(zip(together.target, together.condition, strict=True)) == list(
        itertools.product(names, TARGET_CONDITIONS)
    )
    for target, name in itertools.product(names, TARGET_CONDITIONS):
        case = Case(lm, sample, TARGET_TEXTS[target])
        read = tokenization.tokenize(lm.tokenizer, sample, target)
        assert (list(read.prompt), list(read.answer)) == case.asked, f"{target}: other ids"
        assert list(read.document) == case.document
        found = together[(together.target == target) & (together.condition == name)].iloc[0]
        alone = answer_nll.score(lm, [sample], [name], targets=[target]).iloc[0]
        assert_scores(found.token_nlls, EXPECTED[name](case), f"{name} for {target}")
        assert_scores(found.token_nlls, alone.token_nlls, f"{name} for {target} by itself")


@once
@given(sample=strategies.samples(max_words=8))
@example(sample=LONG)
@example(sample=replace(SHORT, query="{answer} {query}", answer="{query}"))
def test_targets_share_prefills_and_keep_their_numbers(llama: LM, sample: Sample) -> None:
    """Would catch a target's text that is not its table's, or a score that sharing changes.

    1. All targets and conditions at once.
    2. Each by itself, and each by its plain route.
    """
    if "{" in sample.query:  # texts that hold braces are compared by their ids alone
        read = tokenization.tokenize(llama.tokenizer, sample)
        case = Case(llama, sample)
        assert list(read.prompt) == case.ids("\nQuery: {answer} {query}\nAnswer:")
        assert list(read.answer) == case.ids(" {query}")
        return
    check_targets(llama, sample)


def ask_the_answer_always(patch: pytest.MonkeyPatch) -> None:
    right = tokenization.tokenize
    patch.setattr(
        tokenization, "tokenize", lambda tok, sample, _target="answer": right(tok, sample)
    )


def answer_in_reverse(patch: pytest.MonkeyPatch) -> None:
    right = answer_nll._answer_nlls
    patch.setattr(answer_nll, "_answer_nlls", lambda *arguments: right(*arguments)[::-1])


@pytest.mark.parametrize("fault", [ask_the_answer_always, answer_in_reverse])
def test_twin_targets(llama: LM, fault: Fault) -> None:
    """Would catch a check blind to one target for all, or to scores handed to another target."""
    must_see(fault, check_targets, llama, LONG)
