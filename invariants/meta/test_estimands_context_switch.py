"""Estimands of context switches have the sign and the shares that claims rest on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from claims.harness.estimands import context_switch
from claims.harness.estimands.context_switch import (
    adapts_more,
    attention_settles,
    becomes_the_new_answer,
    changed,
    detected_within,
    gap_shrinks,
    hidden_states_come_nearer,
    leaves_a_smaller_gap,
    looks_more,
    more_tokens_close_more,
    same_answers,
    share_that_adapts,
    unchanged,
)
from invariants.support.comparing import must_see
from invariants.support.estimand_rows import computed, switch_rows
from kvcore.analysis import IntervalSettings

PAIRS, TOKENS = 40, 40
SETTINGS = IntervalSettings(resamples=300)


def divergences(mean: Any, seed: int) -> Any:
    """Return positive numbers around a mean of every token, (pairs, tokens)."""
    rng = np.random.default_rng(seed)
    return np.broadcast_to(mean, (PAIRS, TOKENS)) * rng.uniform(0.8, 1.2, (PAIRS, TOKENS))


def test_identical_pairs_are_a_control_of_their_own() -> None:
    """Identical pairs counted among the changed ones, or clusters that belong to other rows."""
    rows = switch_rows("a", divergences(1, 0), divergences(1, 1))
    rows.frame.loc[["p1", "p3"], "identical"] = 1
    control, others = (select("a").value(lambda _: rows) for select in (unchanged, changed))
    assert control.clusters == tuple(control.frame.index) == ("p1", "p3")
    assert others.clusters == tuple(others.frame.index)
    assert len(others.frame) == PAIRS - 2


def check_detection() -> None:
    late = np.where(np.arange(TOKENS) < 3, 0.1, 10)
    rows = switch_rows("a", divergences(1, 0), divergences(late, 1))
    control = switch_rows("b", divergences(1, 2), divergences(1, 3))
    soon, after = (
        computed(detected_within, rows, control, tokens=n, interval=SETTINGS) for n in (3, 4)
    )
    assert (soon.estimate.value, after.estimate.value) == (0, 1)
    assert after.details["median tokens to detection"] == 4
    assert after.details["never detected"] == "0"
    none = computed(detected_within, control, rows, tokens=TOKENS, interval=SETTINGS)
    assert (none.estimate.value, none.details["never detected"]) == (0, str(PAIRS))


def test_a_detection_needs_more_than_the_controls_and_no_more_tokens_than_said() -> None:
    """The oracle's divergence for ignore's, or the control's for the rows'; the twin does that."""
    check_detection()

    def other_column(patch: pytest.MonkeyPatch) -> None:
        right = context_switch.lists
        patch.setattr(context_switch, "lists", lambda rows, _column: right(rows, "kl_oracle"))

    must_see(other_column, check_detection)


def test_sequences_that_come_nearer_to_the_oracle_adapt() -> None:
    """The two references exchanged, or sequences that never adapt left out of the share."""
    near, far = divergences(0.1, 0), divergences(1, 1)
    half = np.arange(PAIRS)[:, None] < PAIRS // 2
    rows = switch_rows("a", np.where(half, near, far), np.where(half, far, near))
    outcome = computed(
        share_that_adapts, rows, {"never": switch_rows("never", far, near)}, interval=SETTINGS
    )
    assert (outcome.estimate.value, outcome.estimate.n) == (0.5, PAIRS)
    assert [curve["label"] for curve in outcome.plot["curves"]] == ["a", "never"]
    assert outcome.plot["curves"][0]["y"][-1] == 0.5
    assert outcome.plot["curves"][1]["y"][-1] == 1.0


def ratios(adapting: int, seed: int) -> Any:
    """Return rows of which the first so many stay likelier than without a switch from token 11."""
    after = (np.arange(PAIRS)[:, None] < adapting) & (np.arange(TOKENS) >= 10)
    sign = np.where(after, 1, -1)
    return switch_rows(
        f"{adapting} adapt",
        divergences(0.1, seed),
        divergences(1, seed + 1),
        logratio_ignore=list(sign * divergences(1, seed + 2)),
    )


def check_ratio_against_the_control() -> None:
    """Compare the difference with the shares counted by hand, and both definitions' shares."""
    rows, control = ratios(30, 0), ratios(10, 5)
    reversed_control = ratios(10, 5)
    reversed_control = replace(reversed_control, frame=reversed_control.frame.iloc[::-1])
    for other in (control, reversed_control):
        outcome = computed(adapts_more, rows, other, {"c": ratios(5, 9)}, interval=SETTINGS)
        assert outcome.estimate.value == pytest.approx((30 - 10) / PAIRS)
        assert outcome.estimate.unit == "proportion difference"
        one = np.r_[np.zeros(10), np.ones(20), np.zeros(PAIRS - 30)]
        half_width = 2.0 * one.std(ddof=1) / np.sqrt(PAIRS)
        assert outcome.estimate.ci_high - outcome.estimate.value < 1.3 * half_width, "not paired"
    assert outcome.details["adapt by the ratio, 30 adapt"] == 0.75
    assert outcome.details["adapt by the ratio, 5 adapt"] == 0.125
    assert outcome.details["adapt by KL, 10 adapt"] == 1.0
    assert [curve["label"] for curve in outcome.plot["curves"]] == [
        "30 adapt",
        "10 adapt",
        "5 adapt",
    ]


def test_adaptation_by_the_ratio_is_compared_with_its_control() -> None:
    """Catches KL in the place of the ratio, or pairs beside other pairs; the twins do both."""
    check_ratio_against_the_control()

    def by_kl(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(context_switch, "adaptations_by_ratio", context_switch.adaptations)

    def unordered(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(context_switch, "side_by_side", lambda rows, other: (rows, other))

    must_see(by_kl, check_ratio_against_the_control)
    must_see(unordered, check_ratio_against_the_control)


def test_hidden_states_nearer_to_the_oracles_are_positive() -> None:
    """Catches the control less the rows."""
    near, far = (
        switch_rows(
            name,
            divergences(1, 0),
            divergences(1, 1),
            hidden_similarity=list(divergences(mean, seed)),
        )
        for name, mean, seed in (("near", 0.8, 2), ("far", 0.6, 3))
    )
    assert computed(hidden_states_come_nearer, near, far, interval=SETTINGS).estimate.ci_low > 0
    outcome = computed(hidden_states_come_nearer, far, near, interval=SETTINGS)
    assert outcome.estimate.ci_high < 0
    assert outcome.details["mean cosine, near"] == pytest.approx(0.8, abs=0.02)


def attention_of(late: float) -> Any:
    """Return rows whose attention changes by 0.2 a token at first, and by another step later on."""
    steps = np.where(np.arange(TOKENS) < 6, 0.2, late) * np.where(np.arange(TOKENS) % 2, 1, -1)
    share = 0.5 + steps / 2 + divergences(0.0, 0)
    own = share + np.random.default_rng(4).normal(0, 1e-4, share.shape)
    return switch_rows(
        "a", divergences(1, 0), divergences(1, 1), share_injected=list(own), share_bos=list(1 - own)
    )


def test_attention_that_settles_is_positive() -> None:
    """Catches late changes less the early ones, or spans that begin at another token."""
    outcome = computed(attention_settles, attention_of(0.001), interval=SETTINGS)
    assert outcome.estimate.ci_low > 0
    assert outcome.details["mean change, tokens 1 to 5"] == pytest.approx(0.2, abs=0.001)
    assert outcome.details["mean change, from token 21"] == pytest.approx(0.001, abs=0.001)
    assert outcome.details["median tokens to stable attention"] == 7
    growing = computed(attention_settles, attention_of(0.5), interval=SETTINGS)
    assert growing.estimate.ci_high < 0


def test_a_smaller_gap_is_positive_and_begins_where_it_is_said_to() -> None:
    """Catches the other way's sign, or tokens before the first that count."""
    early = np.where(np.arange(TOKENS) < 5, 9.0, 1.0)
    small = switch_rows("small", divergences(early, 0), divergences(1, 1))
    large = switch_rows("large", divergences(2, 2), divergences(1, 3))
    outcome = computed(leaves_a_smaller_gap, small, large, first=6, interval=SETTINGS)
    assert outcome.estimate.ci_low > 0
    assert outcome.details["mean gap, small"] == pytest.approx(1, abs=0.02)
    whole = computed(leaves_a_smaller_gap, small, large, first=1, interval=SETTINGS)
    assert whole.estimate.ci_high < outcome.estimate.ci_low


def test_a_gap_that_closes_is_positive() -> None:
    """The last tokens less the first, or another span."""
    closing = divergences(np.linspace(2, 0.5, TOKENS), 0)
    for gaps, sign in ((closing, 1), (closing[:, ::-1], -1)):
        outcome = computed(
            gap_shrinks, switch_rows("a", gaps, divergences(1, 1)), interval=SETTINGS
        )
        assert sign * outcome.estimate.value > 1
        assert outcome.details["mean gap, tokens 1 to 5"] == pytest.approx(gaps[:, :5].mean())
        assert outcome.details["mean gap, tokens 21 to inf"] == pytest.approx(gaps[:, 20:].mean())


def test_a_gap_that_more_tokens_close_has_a_negative_slope() -> None:
    """A slope of the wrong sign, or not over the logarithm of the tokens."""
    gaps = {m: divergences(3 - 0.5 * np.log2(m), m) for m in (4, 8, 16)}
    partials = {m: switch_rows(f"partial({m})", x, divergences(1, 1)) for m, x in gaps.items()}
    estimate = computed(more_tokens_close_more, partials, interval=SETTINGS).estimate
    by_pair = np.polyfit([2, 3, 4], [x.mean(axis=1) for x in gaps.values()], 1)[0]
    assert estimate.value == pytest.approx(by_pair.mean() / by_pair.std(ddof=1))
    assert estimate.ci_high < 0


def test_more_attention_on_the_injected_span_is_positive() -> None:
    """The control less the rows, or spans of the cache in another order than stored."""

    def attending(name: str, share: float, seed: int) -> Any:
        injected = divergences(share, seed)
        return switch_rows(
            name,
            divergences(1, 2),
            divergences(1, 3),
            share_bos=list(1 - injected),
            share_injected=list(injected),
            layer_share_injected=list(injected[:, :4]),
        )

    more, less = attending("a", 0.5, 0), attending("b", 0.2, 1)
    outcome = computed(looks_more, more, less, interval=SETTINGS)
    assert outcome.estimate.ci_low > 0
    assert computed(looks_more, less, more, interval=SETTINGS).estimate.ci_high < 0
    stack, layers = outcome.plot["figures"]
    assert [part["label"] for part in stack["parts"]] == ["bos", "injected"]
    assert np.mean(stack["parts"][1]["y"]) == pytest.approx(0.5, abs=0.05)
    assert [curve["label"] for curve in layers["curves"]] == ["a", "b"]
    assert layers["curves"][0]["x"] == [1, 2, 3, 4]


def test_answers_are_compared_pair_by_pair() -> None:
    """The first way less the second, or right answers counted as stale ones."""
    rng = np.random.default_rng(0)
    first = (np.arange(PAIRS) < 10).astype(float)
    second = (np.arange(PAIRS) < 30).astype(float)
    towards = list(rng.uniform(0.1, 1, (PAIRS, 8)))
    a, b = (
        switch_rows(
            name,
            divergences(1, 2)[:, :8],
            divergences(1, 3)[:, :8],
            correct=right,
            stale=1 - right,
            towards_oracle=towards,
        )
        for name, right in (("a", first), ("b", second))
    )
    change = computed(same_answers, a, b, interval=SETTINGS)
    assert (change.estimate.value, change.estimate.unit) == (0.5, "proportion difference")
    assert change.details == {"right answers, a": 0.25, "right answers, b": 0.75}
    new = computed(becomes_the_new_answer, b, a, interval=SETTINGS)
    assert (new.estimate.value, new.estimate.unit) == (0.5, "proportion difference")
    assert new.details == {
        "new answers": 0.75,
        "new answers without a switch": 0.25,
        "old answers": 0.25,
        "median tokens to correction": 1.0,
    }
