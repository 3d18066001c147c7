"""Attention shares: where an answer looks, and how a condition changes that."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from claims.harness.estimands.base import Outcome, Plot, differences_plot, estimand
from claims.harness.rows import Rows
from kvcore.analysis import FloatArray, IntervalSettings, correlation, mean_difference
from kvcore.measurements.sink_diagnosis import SEEN, SHARES, shares_by_part

SHARE = "attention share"
LEAST_SINK = 2.0
"""A sample has a sink where the longest hidden state has so many times the median norm."""


def lacks_sink(rows: pd.DataFrame) -> pd.Series:
    """Whether no hidden state of each prefill, halfway up the layers, is long enough for a sink.

    ``rows``: of the kind `attention_sinks`.
    """
    return rows["sink_norm"] < LEAST_SINK * rows["median_norm"]


@estimand(SHARE)
def mean_share(interval: IntervalSettings, rows: Rows, *beside: Rows) -> Outcome:
    """Mean over samples of an answer's attention on some slots, 0 to 1.

    ``beside``: other conditions on the same samples, whose attention is shown and not judged.
    """
    estimate = mean_difference(rows.values, rows.clusters, interval)
    where = rows.frame["sink_part"].dropna()
    details = {
        f"samples whose sink is in {part}": f"{int((where == part).sum())} of {len(where)}"
        for part in sorted(set(where))
    }
    return Outcome(
        dataclasses.replace(estimate, unit=SHARE),
        {
            **details,
            "mean share on the sink": float(np.nanmean(rows.numbers("sink_share"))),
            "mean norm of the sink by the median norm": float(
                np.nanmean(rows.numbers("sink_norm") / rows.numbers("median_norm"))
            ),
        },
        attention_plot({each.condition: each.frame for each in (rows, *beside)})
        if beside
        else differences_plot(rows.values),
    )


def attention_plot(frames: Mapping[str, pd.DataFrame | None]) -> Plot:
    """Show how answers divide their attention among the parts of the cache, a bar a condition.

    Parameters
    ----------
    frames : mapping of str to DataFrame or None
        Rows by condition, indexed by sample; None where none is stored. Shares are means over the
        samples that every condition with rows has.
    """
    shares = {
        name: shares_by_part(frame[frame["status"] == "ok"])
        for name, frame in frames.items()
        if frame is not None
    }
    common = common_samples(shares.values())
    means = {
        name: own.loc[common].mean().round(6).tolist() if common else []
        for name, own in shares.items()
    }
    bars = [
        {"label": bar_label(name), "y": means.get(name, []), "missing": "no rows stored yet"}
        for name in sorted(frames, key=place_of_bar)
    ]
    return {
        "kind": "bars",
        "x_label": f"share of an answer's attention, mean of {len(common)} samples",
        "parts": list(SHARES),
        "bars": bars,
    }


def common_samples(frames: Iterable[pd.DataFrame]) -> list[str]:
    """Return the samples that every table has, sorted; tables are indexed by sample."""
    samples = [set(frame.index) for frame in frames]
    return sorted(set.intersection(*samples)) if samples else []


BARS = {
    "bare": "bare",
    SEEN: "primed, in sight",
    "random": "primed, truncated",
    "keep_sink": "truncated, sink kept",
}
"""What the bars are called, by the head of the condition, in their order."""


def bar_label(condition: str) -> str:
    """Return what the bar of a condition is called."""
    return BARS.get(condition.split("(")[0], condition)


def place_of_bar(condition: str) -> int:
    """Return where the bar of a condition stands, counted from 0."""
    head = condition.split("(")[0]
    return list(BARS).index(head) if head in BARS else len(BARS)


@estimand("r")
def gain_where_none_was(interval: IntervalSettings, bare: Rows, condition: Rows) -> Outcome:
    """Correlation of the benefit over bare with whether the bare pass of a sample has no sink.

    Above 0: the condition gains more, or costs less, where the bare pass has none.
    """
    benefit = bare.values - condition.values
    none = np.where(np.isnan(bare.numbers("sink_norm")), np.nan, lacks_sink(bare.frame))
    details = {
        f"mean benefit where the bare pass has {words} sink (nats/token)": _mean_and_n(benefit[own])
        for words, own in (("no", none == 1), ("a", none == 0))
    }
    return Outcome(
        correlation(none, benefit, bare.clusters, interval), details, differences_plot(benefit)
    )


def _mean_and_n(values: FloatArray) -> str:
    known = values[~np.isnan(values)]
    return f"{known.mean():+.3f}, n = {known.size:,}" if known.size else "no sample"


@estimand(SHARE)
def change_of_share(interval: IntervalSettings, baseline: Rows, condition: Rows) -> Outcome:
    """Mean of a condition's attention on some slots less the baseline's, on the same samples."""
    change = condition.values - baseline.values
    estimate = mean_difference(change, baseline.clusters, interval)
    details = {
        f"mean share, {rows.condition}": float(np.nanmean(rows.values))
        for rows in (baseline, condition)
    }
    return Outcome(dataclasses.replace(estimate, unit=SHARE), details, differences_plot(change))
