"""Divergence: exact on both tops' union, a lower bound of the whole, and the engine's numbers.

Tolerances: sums of 50 float64 terms leave 1e-14; distributions computed by two routes differ by
float32 logits, about 1e-6 each, as in `SCORE_TOLERANCE`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import distance

from invariants.support.comparing import SCORE_TOLERANCE, must_see
from kvcore import loading
from kvcore.conditions.parse import condition
from kvcore.data.sample import Sample
from kvcore.engine.prepared import prepare_one
from kvcore.errors import KvError
from kvcore.measurements import answer_nll, divergence
from kvcore.measurements.divergence import (
    Distribution,
    between,
    js,
    kl,
    next_token_distributions,
    of_logits,
)
from kvcore.measurements.kinds import divergence as divergence_kind
from kvcore.models.lm import LM

ROUNDING = 1e-12
VIEWS = ("bare", "random", "full_context(oracle)", "values_only(static_fact)", "bare_again")
SAMPLES = tuple(
    Sample(
        f"what does f{i} do", "the mean of the sum is a number " * (2 + 3 * i), "a sum", id=f"s{i}"
    )
    for i in range(4)
)
VOCABULARY = 40


@pytest.fixture(scope="module", params=["tiny-llama", "tiny-gemma3"])
def lm(request: pytest.FixtureRequest) -> LM:
    return loading.load(request.param, device="cpu")


def logits() -> st.SearchStrategy[torch.Tensor]:
    row = st.lists(st.floats(-20, 20), min_size=VOCABULARY, max_size=VOCABULARY)
    return row.map(lambda x: torch.tensor([x], dtype=torch.float64))


def whole(row: torch.Tensor) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = torch.softmax(row[0], dim=-1).numpy()
    return found


@given(logits(), st.integers(1, VOCABULARY + 5))
def test_a_distribution_sums_to_one_with_its_tail(row: torch.Tensor, k: int) -> None:
    """Kept are the k likeliest tokens, each with its own probability."""
    (view,) = of_logits(row, k)
    assert view.masses(view.ids).sum() == pytest.approx(1, abs=ROUNDING)
    assert view.ids.size == min(k, VOCABULARY)
    exact = whole(row)
    assert np.allclose(np.exp(view.log_probs), exact[view.ids], rtol=1e-10, atol=1e-300)
    assert view.log_probs.min() >= np.log(np.sort(exact)[::-1][:k][-1]) - 1e-9


def kl_by_hand(a: Sequence[float], b: Sequence[float]) -> float:
    """Work out KL(a || b) in nats, term by term."""
    return math.fsum(x * math.log(x / y) for x, y in zip(a, b, strict=True) if x > 0)


def js_by_hand(a: Sequence[float], b: Sequence[float]) -> float:
    """Work out the Jensen-Shannon divergence in nats, term by term."""
    middle = [(x + y) / 2 for x, y in zip(a, b, strict=True)]
    return (kl_by_hand(a, middle) + kl_by_hand(b, middle)) / 2


def coarse_by_hand(
    first: torch.Tensor, second: torch.Tensor, apart: Sequence[int]
) -> list[list[float]]:
    """Return both rows' probabilities of some tokens and of the rest, from those of all tokens."""
    others = sorted(set(range(VOCABULARY)) - set(apart))
    return [
        [*(x[i] for i in apart), math.fsum(x[i] for i in others)]
        for x in (whole(first).tolist(), whole(second).tolist())
    ]


def check_divergences(first: torch.Tensor, second: torch.Tensor, k: int) -> None:
    """Compare divergences with those of two other routes.

    1. From the full distributions, term by term: an upper bound, reached at the full vocabulary.
    2. From the coarsened distributions, worked out from the full ones: equal, tail included.
    """
    (p,), (q,) = of_logits(first, k), of_logits(second, k)
    a, b = whole(first).tolist(), whole(second).tolist()
    divergence_js, exact = js(p, q), js_by_hand(a, b)
    assert 0 <= divergence_js <= math.log(2)
    assert divergence_js <= exact + ROUNDING, "above the divergence of the full distributions"
    assert divergence_js == pytest.approx(js(q, p), abs=ROUNDING)
    assert js(p, q, "bits") == pytest.approx(divergence_js / math.log(2), abs=ROUNDING)
    full = kl_by_hand(a, b)
    assert -ROUNDING <= kl(p, q) <= full + 1e-9 * max(1.0, full)
    if k >= VOCABULARY:
        assert divergence_js == pytest.approx(exact, abs=1e-9)
        assert kl(p, q) == pytest.approx(full, rel=1e-9, abs=1e-9)
    coarse = coarse_by_hand(first, second, sorted({*p.ids.tolist()} | {*q.ids.tolist()}))
    assert divergence_js == pytest.approx(js_by_hand(*coarse), abs=1e-9)
    assert kl(p, q) == pytest.approx(kl_by_hand(*coarse), rel=1e-9, abs=1e-9)


def test_divergences_are_scipys() -> None:
    """Catches a definition of ours that is not the usual one: SciPy's, on well-spread rows."""
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.randn(1, VOCABULARY, generator=generator).double() for _ in range(2))
    (p,), (q,) = of_logits(first, VOCABULARY), of_logits(second, VOCABULARY)
    usual = float(distance.jensenshannon(whole(first), whole(second))) ** 2
    assert js(p, q) == pytest.approx(usual, abs=1e-9)


@given(logits(), logits(), st.integers(1, VOCABULARY + 5))
def test_divergences_are_bounds_and_exact_at_the_full_vocabulary(
    first: torch.Tensor, second: torch.Tensor, k: int
) -> None:
    """Catches a wrong bound, unit or tail: within [0, ln 2], never above the divergence of all."""
    check_divergences(first, second, k)


def check_monotone(first: torch.Tensor, second: torch.Tensor) -> None:
    """Demand that both divergences grow with the tokens that are kept, up to those of all."""
    before = (0.0, 0.0)
    for k in (1, 2, 3, 7, 20, VOCABULARY):
        (p,), (q,) = of_logits(first, k), of_logits(second, k)
        now = (js(p, q), kl(p, q))
        assert now[0] >= before[0] - ROUNDING, f"Jensen-Shannon's shrinks at k={k}"
        assert now[1] >= before[1] - 1e-9 * max(1.0, now[1]), f"Kullback-Leibler's shrinks at k={k}"
        before = now


@given(logits(), logits())
def test_more_tokens_never_show_less(first: torch.Tensor, second: torch.Tensor) -> None:
    """Catches a partition that is not finer for a larger k: what is told apart once stays so."""
    check_monotone(first, second)


def peaked(ids: range, mass: float = 1 - 1e-6) -> torch.Tensor:
    """Return a row of logits with its mass on some tokens, and the rest of it on all others."""
    probabilities = torch.full((VOCABULARY,), (1 - mass) / (VOCABULARY - len(ids))).double()
    probabilities[list(ids)] = mass / len(ids)
    return probabilities.log().unsqueeze(0)


def check_disjoint(k: int) -> None:
    """Compare two views without a common likely token: two scripts' worth of certainty apart.

    1. The divergence on k tokens of each.
    2. ln 2, what two distributions without a common token come to, less what either tail holds.
    """
    (p,), (q,) = of_logits(peaked(range(5)), k), of_logits(peaked(range(20, 25)), k)
    assert not {*p.ids.tolist()} & {*q.ids.tolist()}
    assert js(p, q) == pytest.approx(math.log(2), abs=1e-4)
    assert js(p, q, "bits") == pytest.approx(1, abs=2e-4)
    assert kl(p, q) > 10


def test_disjoint_tops_are_ln_2_apart() -> None:
    """Catches views without a common likely token that count as alike: their shared bucket does."""
    check_disjoint(5)


def only_in_both(patch: pytest.MonkeyPatch) -> None:
    """Tell apart only the tokens that are among the likeliest of both."""

    def on_both(p: Distribution, q: Distribution) -> tuple[Any, Any]:
        both = np.intersect1d(p.ids, q.ids)
        return p.masses(both), q.masses(both)

    patch.setattr(divergence, "on_union", on_both)


def only_in_one(patch: pytest.MonkeyPatch) -> None:
    """Tell apart only the tokens that are among the likeliest of one and not of the other."""

    def on_difference(p: Distribution, q: Distribution) -> tuple[Any, Any]:
        one = np.setxor1d(p.ids, q.ids)
        return p.masses(one), q.masses(one)

    patch.setattr(divergence, "on_union", on_difference)


def test_twin_union() -> None:
    """Would catch checks blind to a partition of the tokens in both tops, or in one alone."""
    must_see(only_in_both, check_disjoint, 5)
    must_see(only_in_one, check_monotone, peaked(range(5)), peaked(range(4, 9), 0.7))
    generator = torch.Generator().manual_seed(2)
    first, second = (torch.randn(1, VOCABULARY, generator=generator).double() * 3 for _ in range(2))
    must_see(only_in_both, check_divergences, first, second, 6)


@given(logits(), st.integers(1, VOCABULARY))
def test_a_distribution_does_not_diverge_from_itself(row: torch.Tensor, k: int) -> None:
    """Exactly 0; and above 0 for another one."""
    (p,), (q,) = of_logits(row, k), of_logits(row + torch.eye(VOCABULARY)[0] * 5, VOCABULARY)
    assert js(p, p) == 0
    assert kl(p, p) == 0
    (exact,) = of_logits(row, VOCABULARY)
    assert js(exact, q) > 0 or whole(row)[0] > 1 - 1e-9 or whole(row)[0] < 1e-12


def test_faults_of_the_divergences_are_seen() -> None:
    """A tail left out, and Kullback-Leibler in place of Jensen-Shannon."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(1, VOCABULARY, generator=generator).double() * 3 for _ in range(2))

    def no_tail(patch: pytest.MonkeyPatch) -> None:
        right = Distribution.masses
        patch.setattr(Distribution, "masses", lambda self, ids: right(self, ids)[:-1])

    def unsymmetric(patch: pytest.MonkeyPatch) -> None:
        right = divergence.kl
        patch.setitem(
            check_divergences.__globals__, "js", lambda p, q, unit="nats": right(p, q, unit)
        )

    def tail_forgets_what_is_not_its_own(patch: pytest.MonkeyPatch) -> None:
        right = Distribution.masses

        def masses(self: Distribution, ids: Any) -> Any:
            own = right(self, self.ids)[-1]
            return np.append(right(self, ids)[:-1], own)

        patch.setattr(Distribution, "masses", masses)

    must_see(unsymmetric, check_divergences, first, second, 10)
    must_see(tail_forgets_what_is_not_its_own, check_divergences, first, second, 10)
    must_see(no_tail, check_mass, first)


def check_mass(row: torch.Tensor) -> None:
    (view,) = of_logits(row, 5)
    assert view.masses(view.ids).sum() == pytest.approx(1, abs=ROUNDING)


# --- the engine's views -------------------------------------------------------------------------


def check_first_token(lm: LM) -> None:
    """The first answer token's probability is that of its score."""
    rows = answer_nll.score(lm, SAMPLES, VIEWS).set_index(["sample_id", "condition"])
    views = next_token_distributions(lm, SAMPLES, map(condition, VIEWS), k=10**6)
    assert len(views) == len(SAMPLES) * len(VIEWS)
    for (number, name), view in views.items():
        assert isinstance(view, Distribution)
        ready = prepare_one(lm, SAMPLES[number], condition(name))
        (place,) = np.flatnonzero(view.ids == ready.tokens.answer[0])
        nll = rows.loc[(SAMPLES[number].id, name), "token_nlls"][0]
        assert -view.log_probs[place] == pytest.approx(nll, abs=SCORE_TOLERANCE), name


def test_the_first_tokens_probability_is_that_of_its_score(lm: LM) -> None:
    """By another route through the engine, for every kind of cache."""
    check_first_token(lm)

    def one_off(patch: pytest.MonkeyPatch) -> None:
        right = divergence.of_logits
        patch.setattr(divergence, "of_logits", lambda logits, k: right(logits.roll(1, dims=-1), k))

    must_see(one_off, check_first_token, lm)


def test_batches_and_order_change_nothing(lm: LM) -> None:
    """One sample at a time, all at once, and backwards: the same divergences."""
    pairs = [("bare", "random"), ("random", "full_context(oracle)")]
    together = between(lm, SAMPLES, pairs).set_index(["sample_id", "first"])
    small = between(lm, SAMPLES[::-1], pairs, batch_tokens=8).set_index(["sample_id", "first"])
    assert (together["status"] == "ok").all()
    assert np.allclose(together["js"], small.loc[together.index, "js"], atol=1e-7)
    assert np.allclose(together["kl"], small.loc[together.index, "kl"], atol=1e-6)


def test_controls_are_far_below_what_priming_does(lm: LM) -> None:
    """A/A and the round trip are rounding; a view against itself is exactly 0."""
    pairs = [("bare", name) for name in ("bare", "bare_again", "rope_roundtrip(random)", "random")]
    means = between(lm, SAMPLES, pairs).groupby("second")["js"].mean()
    assert means["bare"] == 0
    assert means["random"] > 1e3 * max(means["bare_again"], means["rope_roundtrip(random)"])


def test_two_models_of_one_tokenizer_are_compared_and_others_refused(lm: LM) -> None:
    """A model in another dtype moves a little; one with another vocabulary is no view."""
    half = loading.load(lm.name, device="cpu", dtype="bfloat16")
    found = between(lm, SAMPLES, [("bare", "bare")], other=half)
    assert (found["js"] > 0).all()
    assert found["js"].max() < 0.05
    other = loading.load("tiny-llama" if lm.name != "tiny-llama" else "tiny-gemma3", device="cpu")
    if other.tokenizer.get_vocab() != lm.tokenizer.get_vocab():
        with pytest.raises(KvError, match="other vocabularies"):
            between(lm, SAMPLES, [("bare", "bare")], other=other)


def test_a_sample_that_cannot_be_measured_has_its_reason(lm: LM) -> None:
    """The others are measured."""
    found = between(lm, [*SAMPLES, Sample("q", "", "a", id="none")], [("bare", "random")])
    assert found["status"].tolist() == ["ok"] * 4 + ["no tokens in the passage or the answer"]
    assert found["js"].isna().tolist() == [False] * 4 + [True]


def test_bad_requests_are_one_line(lm: LM) -> None:
    """What was given, what is allowed."""
    with pytest.raises(KvError, match="unknown condition 'bar'"):
        between(lm, SAMPLES, [("bar", "bare")])
    with pytest.raises(KvError, match="unit"):
        between(lm, SAMPLES, [("bare", "bare")], unit="bytes")  # type: ignore[arg-type]
    with pytest.raises(KvError, match="k=0"):
        between(lm, SAMPLES, [("bare", "bare")], k=0)
    with pytest.raises(KvError, match="k=0 must be 1 or more"):
        of_logits(torch.zeros(1, 3), k=0)
    with pytest.raises(KvError, match="write two conditions"):
        divergence_kind.split("bare")
