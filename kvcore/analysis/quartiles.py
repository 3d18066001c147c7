"""Benefit by quartile of hardness."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from kvcore.analysis.estimate import Estimate
from kvcore.analysis.interval import DEFAULT_INTERVAL, IntervalSettings
from kvcore.analysis.paired import effect_size, win_rate
from kvcore.analysis.samples import Clusters, FloatArray, complete_rows
from kvcore.errors import KvError

QUARTILE_COLUMNS = "quartile n hardness benefit d d_low d_high win_rate win_low win_high".split()


def quartile_effect(
    hardness: ArrayLike,
    differences: ArrayLike,
    quartile: Literal[1, 2, 3, 4],
    clusters: Clusters = None,
    interval: IntervalSettings = DEFAULT_INTERVAL,
) -> Estimate:
    """Cohen's d of paired differences, (n,), within one quartile, 1 (easiest) to 4 (hardest).

    Hardness should be measured independently of the differences (NLL from the query alone, or
    other tokens of the answer): with the baseline itself the extremes regress to the mean. Ties
    with a cut point fall below it. The cut points are taken as fixed: the interval does not
    include their sampling error.
    """
    if quartile not in (1, 2, 3, 4):
        raise KvError(f"quartile must be 1 (easiest) to 4 (hardest); got {quartile}.")
    rows = complete_rows(clusters, hardness=hardness, differences=differences)
    inside = quartile_numbers(rows.columns[0]) == quartile
    return effect_size(rows.columns[1, inside], rows.labels[inside], interval)


def quartile_table(
    hardness: ArrayLike,
    differences: ArrayLike,
    clusters: Clusters = None,
    interval: IntervalSettings = DEFAULT_INTERVAL,
) -> pd.DataFrame:
    """Benefit by quartile of hardness, 1 (easiest) to 4 (hardest); see `quartile_effect`.

    Columns: quartile, n, hardness and benefit (means, nats per token), d, d_low, d_high, win_rate,
    win_low, win_high.
    """
    rows = complete_rows(clusters, hardness=hardness, differences=differences)
    quartiles = quartile_numbers(rows.columns[0])
    table = []
    for quartile in (1, 2, 3, 4):
        inside = quartiles == quartile
        hard, x = rows.columns[:, inside]
        d = effect_size(x, rows.labels[inside], interval)
        win = win_rate(x, rows.labels[inside], interval.confidence)
        means = [float(np.mean(column)) if d.n else math.nan for column in (hard, x)]
        ends = (d.value, d.ci_low, d.ci_high, win.value, win.ci_low, win.ci_high)
        table.append((quartile, d.n, *means, *ends))
    return pd.DataFrame(table, columns=QUARTILE_COLUMNS)


def quartile_numbers(hardness: FloatArray) -> NDArray[np.intp]:
    """Number the quartile of each sample, 1 to 4."""
    if not hardness.size:
        return np.zeros(0, dtype=np.intp)
    cuts = np.quantile(hardness, [0.25, 0.5, 0.75])
    return np.searchsorted(cuts, hardness, side="left") + 1
