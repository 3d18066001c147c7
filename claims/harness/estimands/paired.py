"""Paired benefits: what a condition does to a baseline, sample by sample.

Benefit is NLL(baseline) - NLL(condition) throughout: positive means the condition helps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from claims.harness.estimands.base import (
    Outcome,
    Plot,
    curve_plot,
    derived,
    differences_plot,
    estimand,
    scatter_plot,
    with_bounds,
)
from claims.harness.estimands.packages import d_by_package
from claims.harness.rows import Rows
from kvcore.analysis import (
    Estimate,
    FloatArray,
    IntervalSettings,
    PairedEffect,
    correlation,
    effect_difference,
    effect_size,
    oldham,
    paired_effect,
    proportion,
    quartile_effect,
    quartile_table,
    slopes,
)
from kvcore.analysis.intersection_union import smallest
from kvcore.analysis.policy import policy_effect

VARIANTS = ("nll", "nll_tail")
Quartile = Literal[1, 2, 3, 4]
QUARTILE_NUMBERS = {
    "d": "d",
    "mean benefit (nats/token)": "benefit",
    "win rate": "win_rate",
    "mean NLL (nats/token)": "hardness",
}


@estimand("d", benefit=True)
def paired_benefit(
    interval: IntervalSettings, baseline: Rows, condition: Rows, beside: Rows | None = None
) -> Outcome:
    """Cohen's d of the paired benefit of a condition over a baseline; another one's is shown."""
    effect = paired_effect(baseline.values, condition.values, baseline.clusters, interval)
    by_package = d_by_package(baseline.values - condition.values, baseline.clusters, interval)
    details = _secondary(effect) | nll_levels(baseline, condition) | by_package
    if beside is not None:
        gain = baseline.values - beside.values
        other = effect_size(gain, baseline.clusters, interval.alone)
        details |= with_bounds(f"d of {beside.condition}, shown beside", other, beside.condition)
    return Outcome(effect.d, details, differences_plot(effect.differences))


@derived
def mean_of(*rows: Rows) -> Rows:
    """Mean score of several conditions on each sample."""
    means = sum(r.frame[[*VARIANTS]] for r in rows) / len(rows)
    name = f"mean of {', '.join(r.condition for r in rows)}"
    frame = rows[0].frame.assign(**{variant: means[variant] for variant in VARIANTS})
    return replace(rows[0], condition=name, frame=frame)


@derived
def on_samples_of(rows: Rows, padded: Rows) -> Rows:
    """Rows of the samples that other rows were made from: documents before they were padded."""
    own = rows.frame.index.isin(padded.frame.index[padded.frame["status"].notna()])
    clusters = tuple(c for c, chosen in zip(rows.clusters, own, strict=True) if chosen)
    return replace(rows, frame=rows.frame[own], clusters=clusters)


@estimand("nats/token", benefit=True)
def mean_benefit(interval: IntervalSettings, baseline: Rows, condition: Rows) -> Outcome:
    """Mean benefit in nats per token, for differences too small to be divided by their own SD."""
    effect = paired_effect(baseline.values, condition.values, baseline.clusters, interval)
    details = _secondary(effect) | nll_levels(baseline, condition)
    return Outcome(effect.mean, details, differences_plot(effect.differences))


@estimand("d difference")
def benefit_without_first_token(
    interval: IntervalSettings, baseline: Rows, condition: Rows
) -> Outcome:
    """d over all answer tokens minus d without the first one, on the same samples."""
    whole, tail = (_benefit_on(variant, baseline, condition) for variant in VARIANTS)
    estimate = effect_difference(whole, tail, baseline.clusters, interval)
    parts = {
        f"d on {variant}": effect_size(x, baseline.clusters, interval.alone).value
        for variant, x in zip(VARIANTS, (whole, tail), strict=True)
    }
    return Outcome(estimate, parts, differences_plot(whole - tail))


@estimand("r")
def trend_with_hardness(
    interval: IntervalSettings, baseline: Rows, condition: Rows, hardness: Rows
) -> Outcome:
    """Correlation of benefit with a hardness measured without the document."""
    benefit, hard = baseline.values - condition.values, hardness.values
    estimate = correlation(hard, benefit, baseline.clusters, interval)
    label = f"hardness: NLL without the document ({hardness.condition})"
    plot = trend_plots(_benefit_plot(hard, benefit, label), baseline, condition)
    return Outcome(estimate, _published_trend(baseline, condition, interval), plot)


@estimand("r")
def trend_with_hardness_by_length(
    interval: IntervalSettings, baseline: Rows, condition: Rows, hardness: Rows, *, bins: int
) -> Outcome:
    """Correlation of benefit with such a hardness, that of every bin of document length beside.

    Bins hold equally many samples, in the order of their document's tokens.
    """
    benefit, hard = baseline.values - condition.values, hardness.values
    details, clusters = dict[str, float | str](), np.asarray(baseline.clusters)
    for tokens, own in _bins_of_length(baseline, bins).items():
        within = correlation(hard[own], benefit[own], clusters[own], interval.alone)
        details |= with_bounds(f"r, {tokens}", within)
    plot = _benefit_plot(hard, benefit, "hardness: NLL without the document")
    whole = correlation(hard, benefit, baseline.clusters, interval)
    return Outcome(whole, _published_trend(baseline, condition, interval) | details, plot)


@estimand("r")
def trend_with_length(
    interval: IntervalSettings, baseline: Rows, condition: Rows, *, bins: int
) -> Outcome:
    """Correlation of benefit with log2 of the document's tokens, d of every bin of them beside.

    Bins as `trend_with_hardness_by_length` makes them.
    """
    benefit, clusters = baseline.values - condition.values, np.asarray(baseline.clusters)
    length = np.log2(baseline.numbers("doc_len"))
    details = dict[str, float | str]()
    for tokens, own in _bins_of_length(baseline, bins).items():
        within = effect_size(benefit[own], clusters[own], interval.alone)
        details |= with_bounds(f"d, {tokens}", within)
    estimate = correlation(length, benefit, baseline.clusters, interval)
    label = "log2 of the document's tokens"
    plot = scatter_plot(length, benefit, label, "benefit, nats/token")
    return Outcome(estimate, details, plot)


@estimand("r")
def oldham_trend(interval: IntervalSettings, baseline: Rows, condition: Rows) -> Outcome:
    """Oldham's correlation: benefit with the mean of the two NLLs."""
    estimate = oldham(baseline.values, condition.values, baseline.clusters, interval)
    benefit = baseline.values - condition.values
    mean = (baseline.values + condition.values) / 2
    own = _benefit_plot(mean, benefit, "mean of the two NLLs")
    plot = trend_plots(own, baseline, condition)
    return Outcome(estimate, _published_trend(baseline, condition, interval), plot)


@estimand("r")
def odd_even_trend(interval: IntervalSettings, baseline: Rows, condition: Rows) -> Outcome:
    """Correlation of benefit on the even answer tokens with hardness on the odd ones."""
    hard, benefit = _odd_even(baseline, condition)
    estimate = correlation(hard, benefit, baseline.clusters, interval)
    own = _benefit_plot(hard, benefit, "hardness: NLL of the odd answer tokens")
    plot = trend_plots(own, baseline, condition)
    return Outcome(estimate, _published_trend(baseline, condition, interval), plot)


@estimand("d", benefit=True)
def benefit_in_quartile(
    interval: IntervalSettings,
    baseline: Rows,
    condition: Rows,
    hardness: Rows,
    *,
    quartile: Quartile,
) -> Outcome:
    """d within one quartile (1 easy, 4 hard) of a hardness measured without the document."""
    measured = hardness.values, baseline.values - condition.values
    return _in_quartile(interval, baseline, condition, measured, quartile)


@estimand("d", benefit=True)
def odd_even_benefit_in_quartile(
    interval: IntervalSettings, baseline: Rows, condition: Rows, *, quartile: Quartile
) -> Outcome:
    """d on the even answer tokens within one quartile of the odd ones' NLL."""
    measured = _odd_even(baseline, condition)
    return _in_quartile(interval, baseline, condition, measured, quartile)


@estimand("d")
def trend_over_length(
    interval: IntervalSettings, pairs: Mapping[int, tuple[Rows, Rows]]
) -> Outcome:
    """d of each sample's slope of benefit over log2 of the document's length.

    ``pairs`` maps a length in tokens to (baseline, condition); a sample counts where it has a
    benefit at every length.
    """
    benefits = np.array([b.values - c.values for b, c in pairs.values()])
    clusters = next(iter(pairs.values()))[0].clusters
    curve = [effect_size(row, clusters, interval.alone) for row in benefits]
    return Outcome(
        effect_size(slopes(np.log2(list(pairs)), benefits), clusters, interval),
        {f"d at {n} tokens": e.value for n, e in zip(pairs, curve, strict=True)},
        curve_plot(list(pairs), curve, "tokens of the document", log=True),
    )


@estimand("d")
def trend_from_original_length(
    interval: IntervalSettings,
    baseline: Rows,
    condition: Rows,
    pairs: Mapping[int, tuple[Rows, Rows]],
) -> Outcome:
    """d of each sample's slope of benefit over log2 of the document's length, its own one first.

    ``baseline`` and ``condition`` are of the documents before they were padded; ``pairs`` as
    `trend_over_length` takes them. A sample counts where it has a benefit at every length.
    """
    padded = next(iter(pairs.values()))[0]
    common = baseline.frame.index.intersection(padded.frame.index)
    at_own = of_samples(baseline, common), of_samples(condition, common)
    rows = [at_own, *((of_samples(b, common), of_samples(c, common)) for b, c in pairs.values())]
    benefits = np.array([b.values - c.values for b, c in rows])
    tokens = at_own[0].numbers("doc_len")
    lengths = np.log2(np.vstack([tokens, *(np.full(len(common), n) for n in pairs)]))
    centred = lengths - lengths.mean(axis=0)
    slope = (centred * benefits).sum(axis=0) / (centred**2).sum(axis=0)
    clusters = at_own[0].clusters
    curve = [effect_size(row, clusters, interval.alone) for row in benefits]
    own = float(np.nanmedian(tokens))
    names = ["at the original length", *(f"at {n} tokens" for n in pairs)]
    details: dict[str, float | str] = {"median tokens of the original document": own}
    for name, e, (bare, _) in zip(names, curve, rows, strict=True):
        details[f"d {name}"] = e.value
        details[f"mean NLL of {bare.condition.partition('@')[0]} {name}"] = float(
            np.nanmean(bare.values)
        )
    plot = curve_plot([own, *pairs], curve, "tokens of the document", log=True)
    return Outcome(effect_size(slope, clusters, interval), details, plot)


def of_samples(rows: Rows, names: pd.Index) -> Rows:
    """Return the rows of some samples, in the order of their names here."""
    cluster_of = dict(zip(rows.frame.index, rows.clusters, strict=True))
    clusters = tuple(cluster_of[name] for name in names)
    return replace(rows, frame=rows.frame.loc[names], clusters=clusters)


@estimand("d")
def single_layers(
    interval: IntervalSettings, baseline: Rows, layers: Mapping[int, Rows]
) -> Outcome:
    """d of each sample's slope of benefit over depth, primed values standing in one layer alone."""
    benefits = np.array([baseline.values - rows.values for rows in layers.values()])
    depth = np.array(list(layers), dtype=np.float64) / max(1, max(layers))
    curve = [effect_size(gain, baseline.clusters, interval.alone) for gain in benefits]
    best = max(range(len(curve)), key=lambda at: curve[at].value)
    return Outcome(
        effect_size(slopes(depth, benefits), baseline.clusters, interval),
        {"layer with the largest d": str(list(layers)[best]), "its d": curve[best].value},
        curve_plot(list(layers), curve, "layer with primed values"),
    )


@estimand("d", benefit=True)
def least_favourable(interval: IntervalSettings, pairs: Mapping[str, tuple[Rows, Rows]]) -> Outcome:
    """Smallest d over several ways of measuring one benefit, with an interval for the smallest.

    ``pairs`` maps what was varied to (baseline, condition); both variants of the score count.
    """
    ways = {
        f"{label}, {variant}": functools.partial(
            effect_size, _benefit_on(variant, baseline, condition), baseline.clusters
        )
        for label, (baseline, condition) in pairs.items()
        for variant in VARIANTS
    }
    found = smallest(ways, interval)
    rows = [
        {
            "label": label,
            "value": e.value,
            "low": e.ci_low,
            "high": e.ci_high,
            "judged": label == found.least,
        }
        for label, e in found.ways.items()
    ]
    return Outcome(
        found.estimate,
        {"least favourable": found.least, "ways of measuring": str(len(rows))},
        {"kind": "specifications", "unit": "d", "rows": rows},
    )


@estimand("d")
def lower_against_upper_half(
    interval: IntervalSettings, baseline: Rows, cutoffs: Mapping[float, Rows]
) -> Outcome:
    """d of what primed values gain in the lower half of the layers less what the upper adds.

    ``cutoffs`` maps a share of the depth to the rows with primed values below it; 0.5 and 1.0
    are among them.
    """
    gains = {at: baseline.values - rows.values for at, rows in cutoffs.items()}
    difference = gains[0.5] - (gains[1.0] - gains[0.5])
    curve = [effect_size(gain, baseline.clusters, interval.alone) for gain in gains.values()]
    details = {
        f"d with primed values below {at:g} of the depth": e.value
        for at, e in zip(gains, curve, strict=True)
    }
    return Outcome(
        effect_size(difference, baseline.clusters, interval),
        details,
        curve_plot(list(gains), curve, "share of the layers with primed values"),
    )


@estimand("d", benefit=True)
def gate_against_everything(
    interval: IntervalSettings, baseline: Rows, condition: Rows, *, threshold: float
) -> Outcome:
    """d of priming above a threshold of hardness against priming every sample, as policies.

    Hardness is that of the odd answer tokens, benefit that of the even ones; a sample that is
    not primed counts 0.
    """
    hard, benefit = _odd_even(baseline, condition)
    effect = policy_effect(benefit, hard, threshold, baseline.clusters, interval)
    details = {
        "mean benefit of the gate (nats/token)": effect.policy.value,
        "mean benefit of priming everything": effect.everything.value,
        "share of samples primed": effect.primed.value,
    }
    label = f"hardness: NLL of the odd answer tokens, gate at {threshold}"
    return Outcome(effect.gain_d, details, _benefit_plot(hard, benefit, label))


@estimand("proportion")
def share_of_samples(
    interval: IntervalSettings, *rows: Rows, name: str, holds: Callable[..., Any]
) -> Outcome:
    """Share of samples on which something holds, with an exact interval.

    ``holds`` takes the rows' frames and returns one truth value per sample.
    """
    complete = np.logical_and.reduce([r.frame["status"].notna().to_numpy() for r in rows])
    true = np.asarray(holds(*(r.frame for r in rows)), dtype=bool)[complete]
    estimate = proportion(int(true.sum()), len(true), interval.confidence)
    return Outcome(estimate, {name: f"{int(true.sum())} of {len(true)}"})


def _secondary(effect: PairedEffect) -> dict[str, float | str]:
    return {
        **with_bounds("mean benefit (nats/token)", effect.mean, "mean"),
        "median (nats/token)": effect.median,
        **with_bounds("win rate", effect.win_rate),
        "pairs without a score": float(effect.excluded),
    }


def nll_levels(*rows: Rows) -> dict[str, float | str]:
    """Return mean, SD (ddof 1) and median NLL of each condition, on the samples that all have."""
    values = np.array([r.values for r in rows])
    complete = values[:, ~np.isnan(values).any(axis=0)]
    levels: dict[str, float | str] = {}
    for condition, x in zip((r.condition for r in rows), complete, strict=True):
        for name, number in (
            ("mean", np.mean(x) if x.size else np.nan),
            ("SD of", np.std(x, ddof=1) if x.size > 1 else np.nan),
            ("median", np.median(x) if x.size else np.nan),
        ):
            levels[f"{name} NLL, {condition} (nats/token)"] = float(number)
    return levels


def _as_published(what: str, estimate: Estimate, why: str) -> dict[str, float | str]:
    """Show a published estimand, which is biased by arithmetic alone, beside ours."""
    shown = with_bounds(f"as published: {what}", estimate, "as published")
    return shown | {"why it is not judged": why}


def _published_trend(
    baseline: Rows, condition: Rows, interval: IntervalSettings
) -> dict[str, float | str]:
    benefit = baseline.values - condition.values
    coupled = correlation(baseline.values, benefit, baseline.clusters, interval.alone)
    why = "benefit contains bare NLL: r > 0 without any effect"
    details = _as_published("r(bare NLL, benefit)", coupled, why)
    return details | _quartile_details(baseline, condition, interval)


def trend_plots(own: Plot, baseline: Rows, condition: Rows) -> Plot:
    """Show the judged scatter, and under it the published one, whose axes share bare NLL."""
    benefit = baseline.values - condition.values
    label = f"as published, coupled by arithmetic: NLL of {baseline.condition}"
    coupled = _benefit_plot(baseline.values, benefit, label)
    return {"kind": "several", "figures": [own, coupled]}


def _quartile_details(
    baseline: Rows, condition: Rows, interval: IntervalSettings
) -> dict[str, float | str]:
    """Show all four quartiles by bare NLL, which is what was published."""
    benefit = baseline.values - condition.values
    table = quartile_table(baseline.values, benefit, baseline.clusters, interval.alone)
    shown: dict[str, float | str] = {}
    for row in table.to_dict("records"):
        place = f"as published: quartile {row['quartile']} of 4 by NLL of {baseline.condition}"
        for name, column in QUARTILE_NUMBERS.items():
            shown[f"{place}, {name}"] = float(row[column])
    return shown


def _bins_of_length(rows: Rows, bins: int) -> dict[str, np.ndarray]:
    """Which samples each bin of document length holds, by its shortest and longest in tokens."""
    length = rows.numbers("doc_len")
    edges = np.nanquantile(length, np.linspace(0, 1, bins + 1)[1:-1])
    bin_of = np.searchsorted(edges, length, side="right")
    chosen = ((bin_of == number) & ~np.isnan(length) for number in range(bins))
    return {
        f"{length[own].min():.0f} to {length[own].max():.0f} tokens": own
        for own in chosen
        if own.any()  # documents of equal length leave bins empty
    }


def _in_quartile(
    interval: IntervalSettings,
    baseline: Rows,
    condition: Rows,
    measured: tuple[FloatArray, FloatArray],
    quartile: Quartile,
) -> Outcome:
    """Judge by the hardness and benefit measured; show those by bare NLL beside it."""
    coupled = baseline.values, baseline.values - condition.values
    estimate, published = (
        quartile_effect(*pair, quartile, baseline.clusters, settings)
        for pair, settings in ((measured, interval), (coupled, interval.alone))
    )
    table = quartile_table(*measured, baseline.clusters, interval.alone)
    why = "quartiles by bare NLL regress to the mean"
    details = _as_published("d in the quartile by bare NLL", published, why)
    return Outcome(
        estimate,
        details | _quartile_details(baseline, condition, interval),
        {"kind": "quartiles", "rows": table.to_dict("records")},
    )


def _benefit_on(variant: str, baseline: Rows, condition: Rows) -> FloatArray:
    return baseline.numbers(variant) - condition.numbers(variant)


def _odd_even(baseline: Rows, condition: Rows) -> tuple[FloatArray, FloatArray]:
    """Hardness from the 1st, 3rd, ... answer token, benefit from the 2nd, 4th, ... of the rest.

    With ``nll_tail`` the first answer token is left out of both.
    """
    skip = int(baseline.metric == "nll_tail")
    bare, other = (_tokens(rows, skip) for rows in (baseline, condition))
    hard = [_mean(b[0::2]) for b in bare]
    benefit = [_mean(b[1::2]) - _mean(o[1::2]) for b, o in zip(bare, other, strict=True)]
    return np.array(hard), np.array(benefit)


def _tokens(rows: Rows, skip: int) -> list[FloatArray]:
    return [
        np.asarray(x, dtype=np.float64)[skip:] if np.ndim(x) else np.empty(0)
        for x in rows.frame["token_nlls"]
    ]


def _mean(x: FloatArray) -> float:
    return float(x.mean()) if x.size else float("nan")


def _benefit_plot(x: FloatArray, benefit: FloatArray, label: str) -> Plot:
    return scatter_plot(x, benefit, f"{label}, nats/token", "benefit, nats/token")
