"""A score's numbers follow from its tokens' NLLs, and those are the plain procedure's."""

from __future__ import annotations

import math

import pytest

from invariants.oracle import plain
from invariants.support.comparing import Fault, assert_scores, must_see, replaced
from kvcore.conditions.parse import condition
from kvcore.data.sample import Sample
from kvcore.engine.prepared import prepare_one
from kvcore.measurements import answer_nll, token_nlls
from kvcore.models.lm import LM

PASSAGE = "the mean of the sum is a number of the entries along an axis"
SAMPLES = tuple(
    Sample("what does it return", PASSAGE, answer, id=f"s{n}")
    for n, answer in enumerate(("n", "a sum", "the sample mean, a number", "no"))
)
CONDITIONS = ("bare", "random", "full_context(oracle)")
TWO_AT_LEAST = ("tiny-mistral", "tiny-gemma3")


def check_means(lm: LM) -> None:
    """Compare each row with its own tokens, and those of ``bare`` with the plain procedure.

    1. The engine: `nll`, `nll_tail` and `n_answer_tokens` of a row.
    2. Sums over `token_nlls`, one by one; for ``bare`` over `plain.bare_nlls`.
    """
    rows = answer_nll.score(lm, SAMPLES, CONDITIONS)
    assert (rows.status == "ok").all()
    lengths = set()
    for row in rows.itertuples(index=False):
        nlls = row.token_nlls
        what = f"{row.sample_id} under {row.condition}"
        if row.condition == "bare":
            sample = next(s for s in SAMPLES if s.id == row.sample_id)
            tokens = prepare_one(lm, sample, condition("bare")).tokens
            nlls = plain.bare_nlls(
                lm.model, lm.bos_id, tokens.document, tokens.prompt, tokens.answer
            )
            assert_scores(row.token_nlls, nlls, what)
        total = 0.0
        for nll in nlls:
            total += nll
        assert_scores([row.nll], [total / len(nlls)], f"{what}: nll")
        assert row.n_answer_tokens == len(nlls)
        lengths.add(min(len(nlls), 2))
        if len(nlls) == 1:
            assert math.isnan(row.nll_tail), f"{what}: a tail of one token"
        else:
            tail = (total - nlls[0]) / (len(nlls) - 1)
            assert_scores([row.nll_tail], [tail], f"{what}: nll_tail")
    # SentencePiece-like tokenizers cut every text into two tokens or more.
    assert lengths == ({2} if lm.name in TWO_AT_LEAST else {1, 2}), "other answers are needed"


def test_means(lm: LM) -> None:
    """Catches a mean over the wrong tokens, or a tail that holds the first one."""
    check_means(lm)


@pytest.mark.parametrize(
    "fault",
    [
        replaced(answer_nll, "mean_nlls", lambda real, nlls: (real(nlls)[0], real(nlls)[0])),
        replaced(answer_nll, "mean_nlls", lambda real, nlls: (sum(nlls), real(nlls)[1])),
        replaced(
            answer_nll, "mean_nlls", lambda real, nlls: (real(nlls)[0], real([*nlls[1:], 0.0])[0])
        ),
        replaced(answer_nll, "answer_nlls", lambda real, *given: real(*given)[::-1]),
    ],
    ids=["tail-is-all", "sum-for-mean", "tail-of-one-is-a-number", "of-another-sample"],
)
def test_twin_means(llama: LM, fault: Fault) -> None:
    """Catches a check that is blind to the wrong mean, tail or column."""
    must_see(fault, check_means, llama)


def check_chunks(lm: LM) -> None:
    """NLLs taken a row at a time are those taken all at once."""
    whole = answer_nll.score(lm, SAMPLES, CONDITIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_nlls, "LOGITS_AT_ONCE", 1)
        single = answer_nll.score(lm, SAMPLES, CONDITIONS)
    assert whole.token_nlls.tolist() == single.token_nlls.tolist()


def test_chunks(llama: LM) -> None:
    """Catches a chunk scored against another one's targets."""
    check_chunks(llama)


def test_the_control_is_measured_in_other_batches(
    llama: LM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an A/A control that runs in the same batches, and so controls nothing."""
    batches: list[list[answer_nll.ScoreJob]] = []
    real = answer_nll.score_in_one_pass

    def watched(lm: LM, jobs: list[answer_nll.ScoreJob]) -> list[answer_nll.Row]:
        batches.append(list(jobs))
        return real(lm, jobs)

    monkeypatch.setattr(answer_nll, "score_in_one_pass", watched)
    samples = [Sample("q", f"{PASSAGE} {'more ' * n}", "a sum", id=f"n{n}") for n in range(9)]
    answer_nll.score(llama, samples, ["bare_again"], batch_tokens=400)
    answer_nll.score(llama, samples, ["bare"], batch_tokens=400)
    control = [{job.place[0] for job in jobs} for jobs in batches if jobs[0].condition.aa_control]
    ordinary = [
        {job.place[0] for job in jobs} for jobs in batches if not jobs[0].condition.aa_control
    ]
    assert len(control) > len(ordinary) > 0
    assert not [batch for batch in control if batch in ordinary and len(batch) > 1]
