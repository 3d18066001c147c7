"""The deployment rule says no for the reasons it gives; a gate is worth what it earns overall."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sps

from kvcore import deployment, stats
from kvcore.deployment import Decision, should_prime
from kvcore.errors import KvError

FALSE_ALARM = 1e-3
RESAMPLES = 300
quick = settings(max_examples=40, deadline=None)


# --- the rule ----------------------------------------------------------------------------------


def check_rule(tokens: int, task: str, domain: str, nll: float | None, validated: bool) -> None:
    """Prime only where nothing of what is published speaks against it."""
    decision = should_prime(tokens, task, domain, nll, validated=validated)
    allowed = (task == "passage_qa" and tokens <= 200 and nll is not None and nll > 1.5
               and (validated or domain not in ("scientific", "legal", "technical")))
    assert decision.prime == allowed
    assert decision.reason
    assert "\n" not in decision.reason
    assert decision.claim
    assert set(decision.claim) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@quick
@given(
    tokens=st.integers(0, 400),
    task=st.sampled_from(["passage_qa", "summarisation", "multi_hop", "extractive_qa", "chat"]),
    domain=st.sampled_from(["web", "scientific", "legal", "technical", "news"]),
    nll=st.none() | st.floats(0, 5), validated=st.booleans(),
)
def test_priming_is_off_unless_everything_speaks_for_it(
    tokens: int, task: str, domain: str, nll: float | None, validated: bool
) -> None:
    check_rule(tokens, task, domain, nll, validated)


@pytest.mark.parametrize(
    ("name", "value", "case"),
    [
        ("MAX_TOKENS", 300, (250, "passage_qa", "web", 2.0, False)),
        ("MIN_NLL", 1.0, (100, "passage_qa", "web", 1.2, False)),
        ("MEASURED_TASK", "chat", (100, "chat", "web", 2.0, False)),
        ("UNVALIDATED_DOMAINS", (), (100, "passage_qa", "legal", 2.0, False)),
    ],
)
def test_twin_rule_sees_a_branch_changed(
    name: str, value: object, case: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment, name, value)
    with pytest.raises(AssertionError):
        check_rule(*case)


@pytest.mark.parametrize(
    ("arguments", "prime", "claim"),
    [
        ((130, "Passage QA", "web", 2.0), True, deployment.GATE_CLAIM),
        ((130, "passage_qa", "web", 1.5), False, deployment.GATE_CLAIM),
        ((130, "passage_qa", "web"), False, deployment.GATE_CLAIM),
        ((130, "chat", "web", 2.0), False, deployment.DEFAULT_CLAIM),
        ((201, "passage_qa", "web", 2.0), False, deployment.LENGTH_CLAIM),
        ((130, "passage_qa", "Legal", 2.0), False, deployment.DOMAIN_CLAIM),
        ((130, "summarization", "web", 2.0), False, deployment.HARMED_TASKS["summarisation"]),
        ((130, "multi-hop", "web", 2.0), False, deployment.HARMED_TASKS["multi_hop"]),
        ((130, "extractive QA", "web", 2.0), False, deployment.HARMED_TASKS["extractive_qa"]),
    ],
)
def test_every_branch_names_its_claim(arguments: tuple, prime: bool, claim: str) -> None:
    decision = should_prime(*arguments)
    assert isinstance(decision, Decision)
    assert (decision.prime, decision.claim) == (prime, claim)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: should_prime(-1, "passage_qa", "web"), "passage_tokens=-1"),
        (lambda: should_prime(1, "passage_qa", "web", math.nan), "bare_nll=nan"),
        (lambda: should_prime(1, "passage_qa", "web", -0.1), "bare_nll=-0.1"),
        (lambda: deployment.policy_benefit([1.0], [1.0, 2.0], 0.0), "one number of each"),
        (lambda: deployment.gated([1.0], [1.0], math.nan), "threshold is NaN"),
    ],
)
def test_bad_input_is_one_clear_line(call: Callable[[], object], message: str) -> None:
    with pytest.raises(KvError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


# --- the policy --------------------------------------------------------------------------------


def drawn(rng: np.random.Generator, n: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Benefit that grows with a hardness measured apart from it; half of it shared by clusters."""
    hardness = rng.normal(1.5, 1.0, n)
    clusters = np.repeat(np.arange(n // 3), 3)
    shared = np.repeat(rng.normal(size=n // 3), 3)
    benefit = 0.2 * (hardness - 1.5) + 0.3 * (shared + rng.normal(size=n))
    return benefit, hardness, clusters


def check_policy(seed: int, threshold: float) -> None:
    benefit, hardness, clusters = drawn(np.random.default_rng(seed))
    effect = deployment.policy_effect(benefit, hardness, threshold, clusters, resamples=RESAMPLES)
    above = hardness > threshold
    worth = deployment.policy_benefit(benefit, hardness, threshold)
    assert worth == pytest.approx(benefit[above].sum() / benefit.size)
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
    check_policy(seed, threshold)


def test_twin_policy_sees_unprimed_samples_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "gated", lambda x, hard, threshold: np.where(
        np.asarray(hard) > threshold, x, np.nan))
    with pytest.raises(AssertionError):
        check_policy(1, 1.5)


def check_extremes() -> None:
    """A gate that lets all through is priming everything; one that lets none through is worth 0."""
    benefit, hardness, clusters = drawn(np.random.default_rng(1))
    everything = deployment.policy_effect(benefit, hardness, -math.inf, clusters, resamples=50)
    assert (everything.gain.value, everything.gain.ci_low, everything.gain.ci_high) == (0, 0, 0)
    assert everything.policy == everything.everything
    nothing = deployment.policy_effect(benefit, hardness, math.inf, clusters, resamples=50)
    assert (nothing.policy.value, nothing.policy.ci_high) == (0, 0)
    assert nothing.gain.value == pytest.approx(-benefit.mean())


def test_the_gate_ranges_from_everything_to_nothing() -> None:
    check_extremes()


def test_twin_extremes_see_the_gate_reversed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = deployment.gated
    monkeypatch.setattr(deployment, "gated", lambda x, hard, threshold: right(
        x, -np.asarray(hard), -threshold))
    with pytest.raises(AssertionError):
        check_extremes()


def check_coverage(draws: int = 300) -> None:
    """The gain's interval holds the true gain about as often as it says."""
    rng, covered = np.random.default_rng(5), 0
    true = 0.2 * float(sps.norm.pdf(0))  # -E[benefit; hardness <= mean]
    for seed in range(draws):
        effect = deployment.policy_effect(*drawn(rng)[:2], 1.5, np.repeat(np.arange(40), 3),
                                          seed=seed, resamples=RESAMPLES)
        covered += effect.gain.ci_low <= true <= effect.gain.ci_high
    short = sps.binomtest(covered, draws, 0.925, alternative="less").pvalue
    assert short > FALSE_ALARM, f"covers {covered} of {draws}, says 95 %"


def test_the_gain_of_a_gate_is_covered() -> None:
    check_coverage()


def test_twin_coverage_sees_narrow_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    right = stats._scipy_bootstrap

    def narrow(*args: object) -> tuple[list, list]:
        return tuple([((3 * low + high) / 4, (low + 3 * high) / 4) for low, high in kind]
                     for kind in right(*args))  # type: ignore

    monkeypatch.setattr(stats, "_scipy_bootstrap", narrow)
    with pytest.raises(AssertionError, match="covers"):
        check_coverage(100)


def test_hardness_that_holds_the_benefit_flatters_the_gate() -> None:
    """Why hardness must be independent: with no effect at all a gate on bare NLL seems to gain."""
    rng = np.random.default_rng(2)
    level = rng.normal(1.5, 1.0, 2000)
    bare, primed, alone = (level + rng.normal(0, 0.5, 2000) for _ in range(3))
    coupled = deployment.policy_effect(bare - primed, bare, 1.5, resamples=RESAMPLES)
    honest = deployment.policy_effect(bare - primed, alone, 1.5, resamples=RESAMPLES)
    assert coupled.gain.ci_low > 0.03
    assert honest.gain.ci_low < 0 < honest.gain.ci_high


def test_samples_without_a_number_are_left_out() -> None:
    effect = deployment.policy_effect([1.0, math.nan, 2.0, -1.0], [2.0, 2.0, math.nan, 1.0], 1.5,
                                      resamples=50)
    assert (effect.policy.n, effect.everything.n, effect.primed.n) == (2, 2, 2)
    assert effect.gain.value == 0.5
    assert math.isnan(deployment.policy_benefit([], [], 1.0))
