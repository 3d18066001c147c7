"""Divergences of next-token distributions, and whether their intervals are to be trusted.

Every row holds one sample and one pair of conditions, ``bare~random``.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from claims.harness.estimands.base import Outcome, curve_plot, differences_plot, estimand
from claims.harness.rows import Rows
from kvcore.analysis import (
    FloatArray,
    IntervalSettings,
    interval_widths,
    mean_difference,
    proportion,
    ratio_of_means,
    slopes,
)
from kvcore.errors import MissingResource

SIZES = (4, 8, 16, 32, 64, 128, 256)
SMALL, LARGE = 4, 32  # the published comparison of widths
DRAWS = 40
HELD_DRAWS = 400  # of which nine tenths and nineteen twentieths can be told apart
WIDTH_RESAMPLES = 1000
DIGITS = 6  # of divergences in figures: some are below a thousandth of a nat


@estimand("nats/token")
def beyond_the_null(interval: IntervalSettings, moved: Rows, *nulls: Rows) -> Outcome:
    """Mean divergence less that of the larger null, in nats, and its multiple of each null."""
    beyond = moved.values - np.maximum.reduce([rows.values for rows in nulls])
    details: dict[str, float | str] = {"mean divergence (nats)": _mean(moved)}
    for rows in nulls:
        times = ratio_of_means(moved.values, rows.values, moved.clusters, interval.alone)
        details[f"mean of {rows.condition} (nats)"] = _mean(rows)
        details[f"times {rows.condition}"] = times.value
    estimate = mean_difference(beyond, moved.clusters, interval)
    return Outcome(estimate, details, differences_plot(beyond, DIGITS))


@estimand("nats/token")
def difference_of_divergence(interval: IntervalSettings, first: Rows, second: Rows) -> Outcome:
    """Mean of the second pair's divergence less the first's, in nats."""
    difference = second.values - first.values
    return Outcome(
        mean_difference(difference, first.clusters, interval),
        {f"mean of {rows.condition} (nats)": _mean(rows) for rows in (first, second)},
        differences_plot(difference, DIGITS),
    )


@estimand("nats/token")
def mean_divergence(interval: IntervalSettings, rows: Rows) -> Outcome:
    """Mean divergence in nats."""
    estimate = mean_difference(rows.values, rows.clusters, interval)
    return Outcome(estimate, {"width of the interval": estimate.ci_high - estimate.ci_low})


@estimand("proportion")
def intervals_that_hold_their_mean(interval: IntervalSettings, rows: Rows) -> Outcome:
    """Share of samples of 32 whose interval holds the mean of all rows of the cell.

    Samples are drawn without replacement from a finite population: the more of it a sample is, the
    nearer its mean lies to that of all, and the more often its interval holds it.
    """
    x, rng = _complete(rows), np.random.default_rng(interval.seed)
    drawn = [
        mean_difference(rng.choice(x, LARGE, replace=False), interval=interval.alone)
        for _ in range(HELD_DRAWS)
    ]
    population = float(x.mean())
    hits = sum(e.ci_low <= population <= e.ci_high for e in drawn)
    estimate = proportion(hits, HELD_DRAWS, interval.confidence)
    size = f"{LARGE} of {x.size} rows, without replacement"
    return Outcome(estimate, {"samples drawn": str(HELD_DRAWS), "each sample": size})


@estimand("ratio")
def ratio_of_widths(interval: IntervalSettings, rows: Rows) -> Outcome:
    """Mean over draws of an interval's width at n = 4 by its width at n = 32."""
    widths = _widths(rows, (SMALL, LARGE), interval)
    ratios = widths[:, 0] / widths[:, 1]
    return Outcome(
        ratio_of_means(ratios, np.ones(DRAWS), interval=interval),
        {"theory": "2.83", "least of all draws": float(ratios.min())},
        differences_plot(ratios, DIGITS),
    )


@estimand("log-log slope")
def slope_of_widths(interval: IntervalSettings, rows: Rows) -> Outcome:
    """Slope of log width over log n less -1/2, over draws."""
    sizes = tuple(n for n in SIZES if n <= _complete(rows).size)
    widths = _widths(rows, sizes, interval)
    by_draw = slopes(np.log(sizes), np.log(widths).T)
    means = [mean_difference(column, interval=interval.alone) for column in widths.T]
    estimate = mean_difference(by_draw + 0.5, interval=interval)
    return Outcome(
        dataclasses.replace(estimate, unit="log-log slope"),
        {"mean slope": float(by_draw.mean())},
        curve_plot(sizes, means, "samples", y_label="width of the interval, nats", log=True),
    )


def _widths(rows: Rows, sizes: tuple[int, ...], interval: IntervalSettings) -> FloatArray:
    few = dataclasses.replace(interval.alone, method="bca", resamples=WIDTH_RESAMPLES)
    return interval_widths(_complete(rows), sizes, DRAWS, few)


def _complete(rows: Rows) -> FloatArray:
    x: FloatArray = rows.values[~np.isnan(rows.values)]
    if x.size < LARGE:
        raise MissingResource(
            f"{rows.condition} must have {LARGE} divergences or more; got {x.size}, measure more "
            "samples (--kv-limit)."
        )
    return x


def _mean(rows: Rows) -> float:
    return float(np.nanmean(rows.values))
