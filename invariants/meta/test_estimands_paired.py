"""Estimands of paired benefits have the sign and the samples that claims rest on."""

from __future__ import annotations

import types
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from claims.harness.estimands import paired
from claims.harness.estimands.paired import (
    benefit_in_quartile,
    gate_against_everything,
    least_favourable,
    lower_against_upper_half,
    mean_benefit,
    mean_of,
    odd_even_trend,
    oldham_trend,
    on_samples_of,
    paired_benefit,
    share_of_samples,
    single_layers,
    trend_from_original_length,
    trend_over_length,
    trend_with_length,
)
from claims.harness.rows import Rows
from invariants.support.comparing import must_see
from invariants.support.estimand_rows import computed, score_rows, token_nlls
from invariants.support.patching import patched
from kvcore.analysis import quartiles


def test_benefit_is_baseline_minus_condition() -> None:
    """The wrong sign: a condition with lower NLLs helps, and every claim hangs on it."""
    rng = np.random.default_rng(0)
    bare = [list(x) for x in rng.uniform(1, 2, (40, 4))]
    lower = [[x - 0.5 + rng.normal(0, 0.1) for x in t] for t in bare]
    outcome = computed(paired_benefit, score_rows("bare", bare), score_rows("random", lower))
    assert outcome.estimate.ci_low > 0
    assert outcome.details["mean benefit (nats/token)"] == pytest.approx(0.5, abs=0.1)


def check_levels() -> None:
    """Levels of NLL are on the samples that both conditions have; ddof is 1."""
    bare, primed = (
        score_rows(name, [[float(x)] * 2 for x in (1, 2, 6, n)])
        for name, n in (("bare", 7), ("random", 9))
    )
    primed.frame.loc["s3", "nll"] = float("nan")
    details = computed(paired_benefit, bare, primed).details
    for condition in ("bare", "random"):
        shown = [
            details[f"{name} NLL, {condition} (nats/token)"] for name in ("mean", "SD of", "median")
        ]
        assert shown == pytest.approx([3.0, 7**0.5, 2.0])


def test_levels_of_nll_are_shown() -> None:
    """Levels of a condition on other samples than the benefit's, or with ddof 0."""
    check_levels()


def test_twin_levels_on_other_samples_are_seen() -> None:
    """The check above, were samples without a score counted as 0 or SDs taken with ddof 0."""
    for name, broken in (
        ("isnan", lambda x: np.zeros(np.shape(x), dtype=bool)),
        ("std", lambda x, **_: float(np.sqrt(np.mean((x - np.mean(x)) ** 2)))),
    ):
        own = types.SimpleNamespace(**{**vars(np), name: broken})
        must_see(patched(paired, "np", own), check_levels)


def check_published_quartiles() -> None:
    """All four quartiles by bare NLL are shown, and the scatter that was published.

    1. The details of a trend.
    2. Quarters cut by pandas, d by hand.
    """
    rng = np.random.default_rng(4)
    hard = rng.uniform(0, 4, 200)
    bare = score_rows("bare", [[float(h)] * 4 for h in hard])
    primed = score_rows("p", [[float(h - 0.2 * (h > 2) + rng.normal(0, 0.1))] * 4 for h in hard])
    gain = bare.values - primed.values
    quarter = pd.qcut(bare.values, 4, labels=False) + 1
    for outcome in (
        computed(oldham_trend, bare, primed),
        computed(benefit_in_quartile, bare, primed, bare, quartile=1),
    ):
        for n in (1, 2, 3, 4):
            own = gain[quarter == n]
            place = f"as published: quartile {n} of 4 by NLL of bare"
            expected = {
                "d": own.mean() / own.std(ddof=1),
                "mean benefit (nats/token)": own.mean(),
                "win rate": (own > 0).mean(),
                "mean NLL (nats/token)": bare.values[quarter == n].mean(),
            }
            for name, value in expected.items():
                assert outcome.details[f"{place}, {name}"] == pytest.approx(value)
    judged, coupled = computed(oldham_trend, bare, primed).plot["figures"]
    assert coupled["x"] == bare.values.round(4).tolist()
    assert coupled["y"] == judged["y"] == gain.round(4).tolist()
    assert "coupled" in coupled["x_label"]
    assert "NLL of bare" in coupled["x_label"]


def test_the_published_quartiles_and_scatter_are_shown() -> None:
    """A quarter that is left out, cut by another hardness, or of the wrong sign."""
    check_published_quartiles()


def test_twin_other_quartiles_are_seen() -> None:
    """The check above, were quarters cut by the primed NLL, or the scatters exchanged."""
    table, right = quartiles.quartile_table, paired.trend_plots
    for name, broken in (
        ("quartile_table", lambda hard, gain, *rest: table(hard - gain, gain, *rest)),
        (
            "trend_plots",
            lambda own, *rows: {**(made := right(own, *rows)), "figures": made["figures"][::-1]},
        ),
    ):
        must_see(patched(paired, name, broken), check_published_quartiles)


def test_odd_and_even_tokens_are_kept_apart() -> None:
    """A token that counts for hardness and benefit both, so that noise alone gives a trend."""
    rng = np.random.default_rng(1)
    bare = [list(x) for x in rng.uniform(0, 4, (400, 6))]
    other = [list(x) for x in rng.uniform(0, 4, (400, 6))]
    outcome = computed(odd_even_trend, score_rows("bare", bare), score_rows("random", other))
    assert outcome.estimate.ci_low < 0 < outcome.estimate.ci_high
    coupled = outcome.details["as published: r(bare NLL, benefit)"]
    assert isinstance(coupled, float)
    assert coupled > 0.5  # the published estimand: large without any effect


def test_a_share_counts_only_measured_samples() -> None:
    """A sample that was dropped, counted as a failure of the claim."""
    some = score_rows("bare", [[1.0, 2.0]] * 20)
    frame = some.frame.copy()
    frame.loc[["s0", "s1"], "status"] = None
    measured = Rows("bare", "nll", frame, some.clusters, tuple)
    outcome = computed(share_of_samples, measured, name="all", holds=lambda f: f["nll"] > 0)
    assert (outcome.estimate.value, outcome.estimate.n) == (1.0, 18)


def test_a_decaying_benefit_has_a_negative_slope() -> None:
    """A slope of the wrong sign, or over other lengths than those of the pairs."""
    pairs = {
        n: (score_rows("bare", token_nlls(0.0)), score_rows("p", token_nlls(-gain, 4)))
        for n, gain in ((256, 0.4), (512, 0.2), (1024, 0.0))
    }
    outcome = computed(trend_over_length, pairs)
    assert outcome.estimate.ci_high < 0
    assert outcome.plot["x"] == [256, 512, 1024]
    backwards = dict(zip(pairs, reversed(pairs.values()), strict=True))
    assert computed(trend_over_length, backwards).estimate.ci_low > 0


def check_original_length() -> None:
    """Compare with a least-squares fit of each sample over its own lengths, by NumPy."""
    own = np.linspace(40, 160, 30)
    bare, primed = score_rows("bare", token_nlls(0.0)), score_rows("p", token_nlls(-0.6, 4))
    for rows in (bare, primed):
        rows.frame["doc_len"] = own
    pairs = {
        n: (score_rows("bare", token_nlls(0.0)), score_rows("p", token_nlls(-gain, n)))
        for n, gain in ((256, 0.3), (512, 0.0))
    }
    few = {  # padded documents are some of the samples, and may come in another order
        n: tuple(replace(r, frame=r.frame.iloc[20::-1], clusters=r.clusters[20::-1]) for r in both)
        for n, both in pairs.items()
    }
    outcome = computed(trend_from_original_length, bare, primed, few)
    benefits = np.array([b.values - c.values for b, c in ((bare, primed), *pairs.values())])
    slopes = np.array(
        [np.polyfit(np.log2([own[i], 256, 512]), benefits[:, i], 1)[0] for i in range(21)]
    )
    assert outcome.estimate.value == pytest.approx(slopes.mean() / slopes.std(ddof=1))
    assert outcome.estimate.n == 21
    at_own, at_512 = (outcome.details[f"d at {n}"] for n in ("the original length", "512 tokens"))
    assert float(at_own) > float(at_512)
    assert outcome.plot["x"] == [pytest.approx(np.median(own[:21])), 256, 512]


def test_the_slope_begins_at_each_samples_own_length() -> None:
    """Catches one length for all documents, or benefits of other samples beside each other."""
    check_original_length()

    def by_place(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(
            paired,
            "of_samples",
            lambda rows, names: replace(
                rows, frame=rows.frame.iloc[: len(names)], clusters=rows.clusters[: len(names)]
            ),
        )

    must_see(by_place, check_original_length)


def check_trend_with_length() -> None:
    """Compare with NumPy's correlation, and each bin with the samples that were sorted into it."""
    tokens = np.array([40, 80, 160, 320, 640, 1280] * 5, dtype=float)
    noise = np.random.default_rng(4).normal(0, 0.1, 30)
    gains = 0.6 - 0.1 * np.log2(tokens / 40) + noise
    before = np.array(token_nlls(0.0))
    bare, primed = (score_rows("p", (before - g).tolist()) for g in (0.0, gains[:, None]))
    for rows in (bare, primed):
        rows.frame["doc_len"] = tokens
    outcome = computed(trend_with_length, bare, primed, bins=3)
    benefit = bare.values - primed.values
    assert outcome.estimate.value == pytest.approx(np.corrcoef(np.log2(tokens), benefit)[0, 1])
    assert outcome.estimate.ci_high < 0
    for low, high in ((40, 80), (160, 320), (640, 1280)):
        own = benefit[(tokens >= low) & (tokens <= high)]
        name = f"d, {low} to {high} tokens"
        assert outcome.details[name] == pytest.approx(own.mean() / own.std(ddof=1))


def test_a_benefit_that_falls_with_a_documents_own_length() -> None:
    """Catches the length of another document, and a bin with other samples than its name says."""
    check_trend_with_length()

    def turned(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(Rows, "numbers", patched_numbers)

    whole = Rows.numbers

    def patched_numbers(self: Rows, column: str) -> np.ndarray:
        return whole(self, column)[::-1]

    must_see(turned, check_trend_with_length)


def test_padded_documents_are_compared_with_themselves() -> None:
    """Catches documents that were not padded among those at the original length."""
    bare = score_rows("bare", token_nlls(0.0))
    padded = score_rows("bare@256", token_nlls(0.0))
    padded = replace(padded, frame=padded.frame.iloc[:9], clusters=padded.clusters[:9])
    padded.frame.loc["s3", "status"] = None
    own = on_samples_of("a", "b").value({"a": bare, "b": padded}.__getitem__)
    assert list(own.frame.index) == [f"s{i}" for i in range(9) if i != 3]
    assert own.clusters == tuple(own.frame.index)


def test_lower_layers_count_against_what_the_upper_ones_add() -> None:
    """Halves exchanged, or the upper one counted with what the lower one gained."""
    bare = score_rows("bare", token_nlls(0.0))
    early = {0.5: score_rows("h", token_nlls(-0.5, 4)), 1.0: score_rows("a", token_nlls(-0.5, 5))}
    late = {0.5: score_rows("h", token_nlls(0.0, 4)), 1.0: score_rows("a", token_nlls(-0.5, 5))}
    assert computed(lower_against_upper_half, bare, early).estimate.ci_low > 0
    assert computed(lower_against_upper_half, bare, late).estimate.ci_high < 0


def test_a_gain_that_falls_with_depth_has_a_negative_slope() -> None:
    """A slope of the wrong sign over depth, or another layer named the best."""
    bare = score_rows("bare", token_nlls(0.0))
    falling = {k: score_rows(f"l{k}", token_nlls(-0.1 * (4 - k), 10 + k)) for k in range(4)}
    rising = {k: score_rows(f"l{k}", token_nlls(-0.1 * k, 10 + k)) for k in range(4)}
    outcome = computed(single_layers, bare, falling)
    assert outcome.estimate.ci_high < 0
    assert outcome.details["layer with the largest d"] == "0"
    assert computed(single_layers, bare, rising).estimate.ci_low > 0


def test_the_least_favourable_way_is_judged() -> None:
    """Another way judged than the least favourable one."""
    bare = score_rows("bare", token_nlls(0.0))
    gains = {"much": -0.5, "little": -0.1, "harm": 0.2}
    ways = {name: (bare, score_rows(name, token_nlls(x, 4))) for name, x in gains.items()}
    outcome = computed(least_favourable, ways)
    assert outcome.estimate.value < 0
    assert str(outcome.details["least favourable"]).startswith("harm")
    drawn = outcome.plot["rows"]
    assert [row["judged"] for row in drawn].count(True) == 1
    assert len(drawn) == 2 * len(ways)


def test_a_mean_of_conditions_is_taken_sample_by_sample() -> None:
    """A mean over samples, one that a missing sample is left out of, or names lost."""
    one, three = (score_rows(str(x), [[float(x)] * 3] * 4) for x in (1, 3))
    three.frame.loc["s1", "nll"] = float("nan")
    assert paired_benefit("1", mean_of("1", "3")).needs == ("1", "3")
    both = mean_of("1", "3").value({"1": one, "3": three}.__getitem__)
    assert both.values[[0, 2, 3]].tolist() == [2.0, 2.0, 2.0]
    assert np.isnan(both.values[1])
    assert both.frame["nll_tail"].tolist() == [2.0] * 4


def test_a_gate_that_spares_the_harmed_beats_priming_everything() -> None:
    """A gate whose harm and benefit are exchanged, or that scores the tokens it decides by."""
    rng = np.random.default_rng(5)
    hard = rng.uniform(0, 3, 200)
    bare = [[h, 2.0 + rng.normal(0, 0.05)] for h in hard]
    won = [[h, e - (0.5 if h > 1.5 else -0.5)] for h, e in bare]
    lost = [[h, e + (0.5 if h > 1.5 else -0.5)] for h, e in bare]
    for primed, sign in ((won, 1), (lost, -1)):
        outcome = computed(
            gate_against_everything,
            score_rows("bare", bare),
            score_rows("p", primed),
            threshold=1.5,
        )
        assert sign * outcome.estimate.value > 0.5
        assert outcome.details["share of samples primed"] == pytest.approx(np.mean(hard > 1.5))


def test_a_mean_benefit_is_in_nats() -> None:
    """A mean divided by the SD, or of the wrong sign."""
    outcome = computed(
        mean_benefit, score_rows("bare", token_nlls(0.0)), score_rows("p", token_nlls(-0.25, 3))
    )
    assert outcome.estimate.unit == "nats/token"
    assert outcome.estimate.value == pytest.approx(0.25, abs=1e-9)
