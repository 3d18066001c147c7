"""The rule says no for the reasons it gives; a gate is worth what it earns overall."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats as sps

from invariants.support.intervals import FAST, check_coverage, stretch_intervals
from kvcore.analysis import Estimate, IntervalSettings, policy
from kvcore.analysis.policy import Decision, should_prime
from kvcore.errors import KvError

FEW = IntervalSettings(resamples=50)
FloatArray = NDArray[np.float64]
quick = settings(max_examples=40, deadline=None)


# --- the rule ----------------------------------------------------------------------------------


GENERATIVE = {"passage_qa", "generative_qa", "abstractive_qa", "long_form_qa"}


def check_rule(tokens: int, task: str, domain: str, nll: float | None, validated: bool) -> None:
    """Prime only where nothing of what is published speaks against it."""
    decision = should_prime(tokens, task, domain, nll, validated=validated)
    allowed = (
        task in GENERATIVE
        and tokens <= 200
        and nll is not None
        and nll > 1.5
        and (validated or domain not in ("scientific", "legal", "technical"))
    )
    assert decision.prime == allowed
    assert decision.reason
    assert "\n" not in decision.reason
    assert decision.claim
    assert set(decision.claim) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@quick
@given(
    tokens=st.integers(0, 400),
    task=st.sampled_from(
        [*sorted(GENERATIVE), "summarisation", "multi_hop", "extractive_qa", "chat"]
    ),
    domain=st.sampled_from(["web", "scientific", "legal", "technical", "news"]),
    nll=st.none() | st.floats(0, 5),
    validated=st.booleans(),
)
def test_priming_is_off_unless_everything_speaks_for_it(
    tokens: int, task: str, domain: str, nll: float | None, validated: bool
) -> None:
    """A branch of the rule left out, or a limit moved."""
    check_rule(tokens, task, domain, nll, validated)


@pytest.mark.parametrize(
    ("name", "value", "case"),
    [
        ("MAX_TOKENS", 300, (250, "passage_qa", "web", 2.0, False)),
        ("MIN_NLL", 1.0, (100, "passage_qa", "web", 1.2, False)),
        ("GENERATIVE_TASKS", ("chat",), (100, "chat", "web", 2.0, False)),
        ("GENERATIVE_TASKS", ("passage_qa",), (100, "generative_qa", "web", 2.0, False)),
        ("UNVALIDATED_DOMAINS", (), (100, "passage_qa", "legal", 2.0, False)),
    ],
)
def test_twin_rule_sees_a_branch_changed(
    name: str,
    value: object,
    case: tuple[int, str, str, float, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A check of the rule that a changed limit passes."""
    monkeypatch.setattr(policy, name, value)
    with pytest.raises(AssertionError):
        check_rule(*case)


@pytest.mark.parametrize(
    ("arguments", "prime", "claim"),
    [
        ((130, "Passage QA", "web", 2.0), True, policy.GATE_CLAIM),
        ((130, "Abstractive-QA", "web", 2.0), True, policy.GATE_CLAIM),
        ((130, "passage_qa", "web", 1.5), False, policy.GATE_CLAIM),
        ((130, "passage_qa", "web"), False, policy.GATE_CLAIM),
        ((130, "chat", "web", 2.0), False, policy.DEFAULT_CLAIM),
        ((201, "passage_qa", "web", 2.0), False, policy.LENGTH_CLAIM),
        ((130, "passage_qa", "Legal", 2.0), False, policy.DOMAIN_CLAIM),
        ((130, "summarization", "web", 2.0), False, policy.HARMED_TASKS["summarisation"]),
        ((130, "multi-hop", "web", 2.0), False, policy.HARMED_TASKS["multi_hop"]),
        ((130, "extractive QA", "web", 2.0), False, policy.HARMED_TASKS["extractive_qa"]),
    ],
)
def test_every_branch_names_its_claim(arguments: tuple[Any, ...], prime: bool, claim: str) -> None:
    """A decision that rests on another claim than it names."""
    decision = should_prime(*arguments)
    assert isinstance(decision, Decision)
    assert (decision.prime, decision.claim) == (prime, claim)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: should_prime(-1, "passage_qa", "web"),
            "passage_tokens must be 0 or more; got passage_tokens=-1",
        ),
        (
            lambda: should_prime(1, "passage_qa", "web", math.nan),
            "bare_nll must be .* got bare_nll=nan",
        ),
        (
            lambda: should_prime(1, "passage_qa", "web", -0.1),
            "bare_nll must be .* got bare_nll=-0.1",
        ),
        (lambda: policy.gated([1.0], [1.0, 2.0], 0.0), "one number of each"),
        (lambda: policy.gated([1.0], [1.0], math.nan), "threshold must be nats per token; got NaN"),
    ],
)
def test_bad_input_is_one_clear_line(call: Callable[[], object], message: str) -> None:
    """Bad input that is computed with, or an error that does not say what was passed."""
    with pytest.raises(KvError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


# --- the policy --------------------------------------------------------------------------------


def drawn(
    rng: np.random.Generator, n: int = 120
) -> tuple[FloatArray, FloatArray, NDArray[np.intp]]:
    """Benefit that grows with a hardness measured apart from it; half of it shared by clusters."""
    hardness = rng.normal(1.5, 1.0, n)
    clusters = np.repeat(np.arange(n // 3), 3)
    shared = np.repeat(rng.normal(size=n // 3), 3)
    benefit = 0.2 * (hardness - 1.5) + 0.3 * (shared + rng.normal(size=n))
    return benefit, hardness, clusters


def check_policy(seed: int, threshold: float) -> None:
    benefit, hardness, clusters = drawn(np.random.default_rng(seed))
    effect = policy.policy_effect(benefit, hardness, threshold, clusters, FAST)
    above = hardness > threshold
    worth = benefit[above].sum() / benefit.size
    assert policy.gated(benefit, hardness, threshold).mean() == pytest.approx(worth)
    assert effect.policy.value == pytest.approx(worth)
    assert effect.everything.value == pytest.approx(benefit.mean())
    assert effect.gain.value == pytest.approx(worth - benefit.mean())
    assert effect.gain.value == pytest.approx(-benefit[~above].sum() / benefit.size)
    assert effect.primed.value == pytest.approx(above.mean())
    assert effect.gain.clusters == 40
    assert (effect.gain.unit, effect.gain_d.unit) == ("nats/token", "d")


@quick
@given(seed=st.integers(0, 999), threshold=st.floats(0, 3))
def test_what_is_not_primed_counts_nothing(seed: int, threshold: float) -> None:
    """Unprimed samples left out of the mean instead of counted as 0."""
    check_policy(seed, threshold)


def test_twin_policy_sees_unprimed_samples_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of policies that leaving unprimed samples out passes."""
    monkeypatch.setattr(
        policy,
        "gated",
        lambda x, hard, threshold: np.where(np.asarray(hard) > threshold, x, np.nan),
    )
    with pytest.raises(AssertionError):
        check_policy(1, 1.5)


def check_extremes() -> None:
    """A gate that lets all through is priming everything; one that lets none through is worth 0."""
    benefit, hardness, clusters = drawn(np.random.default_rng(1))
    everything = policy.policy_effect(benefit, hardness, -math.inf, clusters, FEW)
    assert (everything.gain.value, everything.gain.ci_low, everything.gain.ci_high) == (0, 0, 0)
    assert everything.policy == everything.everything
    nothing = policy.policy_effect(benefit, hardness, math.inf, clusters, FEW)
    assert (nothing.policy.value, nothing.policy.ci_high) == (0, 0)
    assert nothing.gain.value == pytest.approx(-benefit.mean())


def test_the_gate_ranges_from_everything_to_nothing() -> None:
    """A gate that primes below its threshold."""
    check_extremes()


def test_twin_extremes_see_the_gate_reversed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of extremes that a reversed gate passes."""
    right = policy.gated
    monkeypatch.setattr(
        policy, "gated", lambda x, hard, threshold: right(x, -np.asarray(hard), -threshold)
    )
    with pytest.raises(AssertionError):
        check_extremes()


def gain_case(rng: np.random.Generator, settings: IntervalSettings) -> tuple[Estimate, float]:
    benefit, hardness, clusters = drawn(rng)
    effect = policy.policy_effect(benefit, hardness, 1.5, clusters, settings)
    return effect.gain, 0.2 * float(sps.norm.pdf(0))  # -E[benefit; hardness <= mean]


def test_the_gain_of_a_gate_is_covered() -> None:
    """A gain whose interval ignores that both policies share their samples."""
    check_coverage(gain_case, draws=300, widest=1.0)


def test_twin_coverage_sees_narrow_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coverage that half of an interval would pass as well."""
    stretch_intervals(monkeypatch, 0.5)
    with pytest.raises(AssertionError, match="covers"):
        check_coverage(gain_case, draws=100, widest=1.0)


def test_hardness_that_holds_the_benefit_flatters_the_gate() -> None:
    """A gate on bare NLL, which seems to gain without any effect, taken for an honest one."""
    rng = np.random.default_rng(2)
    level = rng.normal(1.5, 1.0, 2000)
    bare, primed, alone = (level + rng.normal(0, 0.5, 2000) for _ in range(3))
    coupled = policy.policy_effect(bare - primed, bare, 1.5, interval=FAST)
    honest = policy.policy_effect(bare - primed, alone, 1.5, interval=FAST)
    assert coupled.gain.ci_low > 0.03
    assert honest.gain.ci_low < 0 < honest.gain.ci_high


def test_samples_without_a_number_are_left_out() -> None:
    """A NaN that spreads, or counts as a sample not primed."""
    effect = policy.policy_effect(
        [1.0, math.nan, 2.0, -1.0], [2.0, 2.0, math.nan, 1.0], 1.5, interval=FEW
    )
    assert (effect.policy.n, effect.everything.n, effect.primed.n) == (2, 2, 2)
    assert effect.gain.value == 0.5
    assert math.isnan(policy.policy_effect([], [], 1.0).policy.value)
