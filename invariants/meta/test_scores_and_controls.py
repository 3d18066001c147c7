"""What verdicts take for granted of measured rows: both scores, and controls that can differ."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from invariants.support.comparing import SCORE_TOLERANCE, must_see
from kvcore.cache.kv_cache import KVCache
from kvcore.conditions.recipes import Condition
from kvcore.conditions.registry import BARE
from kvcore.data.sample import Sample
from kvcore.measurements import answer_nll
from kvcore.models.lm import LM

WORDS = "the mean of a sample is sum along an axis number divided by count it returns".split()


def samples(count: int) -> list[Sample]:
    """Samples of many lengths; answers of one word and of several."""
    rng = np.random.default_rng(4)
    text = [" ".join(rng.choice(WORDS, int(n))) for n in rng.integers(3, 40, count)]
    answers = [" ".join(rng.choice(WORDS, 1 + i % 4)) for i in range(count)]
    return [
        Sample(f"what is {WORDS[i % 16]}", text[i], answers[i], id=f"s{i:02}", cluster="c")
        for i in range(count)
    ]


def check_scores(lm: LM) -> None:
    """Two routes: 1. the scores as rows hold them; 2. means over the tokens' own NLLs."""
    rows = answer_nll.score(lm, samples(6), ["bare", "random"])
    assert (rows["status"] == "ok").all()
    for row in rows.to_dict("records"):
        tokens = row["token_nlls"]
        assert len(tokens) == row["n_answer_tokens"]
        assert row["nll"] == pytest.approx(sum(tokens) / len(tokens), rel=1e-12)
        tail = sum(tokens[1:]) / (len(tokens) - 1) if len(tokens) > 1 else math.nan
        assert row["nll_tail"] == pytest.approx(tail, rel=1e-12, nan_ok=True)


def test_scores_are_means_over_the_answers_tokens(lm: LM) -> None:
    """A score that counts a token too many, or a tail that keeps the first token or drops two."""
    check_scores(lm)

    def shifted(patch: pytest.MonkeyPatch) -> None:
        right = answer_nll.score

        def score(*arguments: Any) -> pd.DataFrame:
            rows = right(*arguments)
            return rows.assign(nll_tail=[float(np.mean(t[2:] or t)) for t in rows["token_nlls"]])

        patch.setattr(answer_nll, "score", score)

    must_see(shifted, check_scores, lm)


def check_differs(lm: LM, control: str | Condition, batch_tokens: int | None = None) -> None:
    """Demand that a control differs from bare by rounding: not at all would measure nothing."""
    batch = samples(24)
    rows = answer_nll.score(lm, batch, ["bare", control], batch_tokens=batch_tokens)
    nll = rows.pivot(index="sample_id", columns="condition", values="nll")
    apart = (nll["bare"] - nll.drop(columns="bare").iloc[:, 0]).abs()
    assert apart.max() > 0, "the control is the very same computation"
    assert apart.max() < SCORE_TOLERANCE * max(1.0, float(nll.to_numpy().max()))


def test_keys_rotated_forth_and_back_are_not_the_same_keys(llama: LM) -> None:
    """A round trip that rotates nothing: its noise floor would be 0 whatever rotation costs."""
    check_differs(llama, "rope_roundtrip(random)")

    def unmoved(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(KVCache, "reposition", lambda cache, *_, **__: cache)

    must_see(unmoved, check_differs, llama, "rope_roundtrip(random)")


def test_bare_again_is_measured_in_other_batches(llama: LM) -> None:
    """An A/A control in the same batches as bare, whose difference is 0 by construction."""
    check_differs(llama, "bare_again", 300)
    same_batches = Condition("bare_again_alike", BARE, "bare in the same batches")
    with pytest.raises(AssertionError, match="the very same computation"):
        check_differs(llama, same_batches, 300)
