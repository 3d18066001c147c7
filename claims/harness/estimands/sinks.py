"""Attention shares: where an answer looks, and how a condition changes that."""

from __future__ import annotations

import dataclasses

import numpy as np

from claims.harness.estimands.base import Outcome, differences_plot, estimand
from claims.harness.rows import Rows
from kvcore.analysis import IntervalSettings, mean_difference

SHARE = "attention share"


@estimand(SHARE)
def mean_share(interval: IntervalSettings, rows: Rows, *beside: Rows) -> Outcome:
    """Mean over samples of an answer's attention on some slots, 0 to 1.

    ``beside``: other conditions on the same samples, whose share is shown and not judged.
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
            **{
                f"mean share on the sink, {other.condition}": float(
                    np.nanmean(other.numbers("sink_share"))
                )
                for other in beside
            },
        },
        differences_plot(rows.values),
    )


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
