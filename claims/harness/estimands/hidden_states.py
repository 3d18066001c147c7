"""Hidden states while a text is read: how far they step from token to token, layer by layer.

Every row holds one text by one source; a list column holds one number per layer.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pandas as pd
from scipy import stats as sps

from claims.harness.estimands.base import (
    Outcome,
    Plot,
    band,
    bands_plot,
    estimand,
    scatter_plot,
    with_bounds,
)
from claims.harness.rows import Rows
from kvcore.analysis import (
    FloatArray,
    IntervalSettings,
    correlation,
    effect_size,
    paired_effect,
    slopes,
)

LAST, FIRST_PART = -1, 0.8  # of the depth: where the published gap grew
COLUMNS = {"step": "smoothness", "relative-step": "relative_step", "cosine": "cosine"}
LABELS = {
    "step": "mean step",
    "relative-step": "mean step / norm",
    "cosine": "cosine between successive steps",
}
LARGEST = 3  # steps of a text that count as its largest


def per_layer(rows: Rows, metric: str) -> FloatArray:
    """Return a metric of every text in every layer, (texts, layers), NaN where not measured."""
    return _listed(rows, COLUMNS[metric])


def _listed(rows: Rows, column: str) -> FloatArray:
    """Return a list column, (texts, layers), NaN where not measured."""
    listed = rows.frame[column]
    missing = np.full(max(len(x) for x in listed if np.ndim(x)), np.nan)
    return np.array([np.asarray(x, dtype=np.float64) if np.ndim(x) else missing for x in listed])


def over_layers(rows: Rows, metric: str) -> FloatArray:
    """Return a metric's mean over all layers, text by text."""
    return np.asarray(per_layer(rows, metric).mean(axis=1))


@estimand("d")
def smoother(interval: IntervalSettings, first: Rows, second: Rows, *, metric: str) -> Outcome:
    """d of how much larger the first source's mean over layers is, text by text.

    With a table by layer: d and p of the difference in the metric, in the magnitude of hidden
    states and in the variance of their magnitude.
    """
    a, b = over_layers(first, metric), over_layers(second, metric)
    effect = paired_effect(a, b, first.clusters, interval)
    means = {
        f"{rows.condition}, mean": float(np.nanmean(values))
        for rows, values in ((first, a), (second, b))
    }
    bands = [band(r.condition, per_layer(r, metric), r.clusters, interval) for r in (first, second)]
    return Outcome(
        effect.d,
        {**means, **with_bounds("mean difference", effect.mean), "win rate": effect.win_rate.value},
        {
            "kind": "several",
            "figures": [
                bands_plot("layer", LABELS[metric], bands),
                _layer_table(first, second, metric),
            ],
        },
    )


@estimand("d")
def gap_at_the_end(
    interval: IntervalSettings, first: Rows, second: Rows, *, metric: str
) -> Outcome:
    """d of how much larger the first source's metric is in the last layer, text by text."""
    a, b = (per_layer(rows, metric)[:, LAST] for rows in (first, second))
    effect = paired_effect(a, b, first.clusters, interval)
    details = {"mean difference": effect.mean.value}
    return Outcome(effect.d, details, _gap_plot(first, second, metric, interval))


@estimand("d")
def gap_over_depth(
    interval: IntervalSettings, first: Rows, second: Rows, *, metric: str
) -> Outcome:
    """d of each text's slope of the gap over the first four fifths of the depth."""
    gap = per_layer(first, metric) - per_layer(second, metric)
    layers = max(2, round(FIRST_PART * gap.shape[1]))
    by_text = slopes(np.arange(layers), gap[:, :layers].T)
    return Outcome(
        effect_size(by_text, first.clusters, interval),
        {"mean slope per layer": float(np.nanmean(by_text))},
        _gap_plot(first, second, metric, interval),
    )


@estimand("r")
def surprise_and_steps(interval: IntervalSettings, *sources: Rows, metric: str) -> Outcome:
    """Correlation of a text's cross-entropy with its metric; texts are resampled.

    With two sources each text counts twice, and is resampled as one.
    """
    ce = np.concatenate([r.numbers("ce") for r in sources])
    steps = np.concatenate([over_layers(r, metric) for r in sources])
    clusters = [c for r in sources for c in r.clusters]
    plot = scatter_plot(ce, steps, "cross-entropy, nats/token", LABELS[metric])
    return Outcome(correlation(ce, steps, clusters, interval), {}, plot)


@estimand("r")
def differences_of_surprise_and_steps(
    interval: IntervalSettings, first: Rows, second: Rows, *, metric: str
) -> Outcome:
    """Correlation of the differences in cross-entropy with those in the metric, text by text."""
    ce = first.numbers("ce") - second.numbers("ce")
    steps = over_layers(first, metric) - over_layers(second, metric)
    labels = "difference of cross-entropy, nats/token", f"difference of {LABELS[metric]}"
    estimate = correlation(ce, steps, first.clusters, interval)
    return Outcome(estimate, {}, scatter_plot(ce, steps, *labels))


@estimand("d")
def steps_and_token_nlls(interval: IntervalSettings, rows: Rows) -> Outcome:
    """Mean over texts of the rank correlation of a token's NLL with the step that arrives there.

    With a table of steps by kind of token and by position, and the trace of one text.
    """
    measured = rows.frame[rows.frame["status"].notna()]
    correlations = {
        str(name): float(sps.spearmanr(row["token_nlls"][1:], row["token_steps"][1:])[0])
        for name, row in measured.iterrows()
    }
    values = np.array([correlations.get(str(name), np.nan) for name in rows.frame.index])
    return Outcome(
        effect_size(values, rows.clusters, interval),
        {"mean rank correlation": float(np.nanmean(values))},
        {"kind": "several", "figures": [_steps_table(measured), _trace_plot(measured)]},
    )


def sample_variance(rows: Rows) -> FloatArray:
    """Return the variance of every text's norms in every layer, with ddof 1."""
    n = rows.numbers("n_continuation")[:, np.newaxis]  # rows hold it with ddof 0
    return np.asarray(_listed(rows, "norm_variance") * n / (n - 1))


def _layer_table(first: Rows, second: Rows, metric: str) -> Plot:
    """Return d and p of the first source less the second by layer, each p as if it were alone."""
    gaps = {
        LABELS[metric]: per_layer(first, metric) - per_layer(second, metric),
        "magnitude": _listed(first, "norm") - _listed(second, "norm"),
        "variance of the magnitude": sample_variance(first) - sample_variance(second),
    }
    names = [f"{what}, {name}" for name in gaps for what in ("d", "p")]
    layers = next(iter(gaps.values())).shape[1]
    rows = [
        [str(layer), *(cell for gap in gaps.values() for cell in _d_and_p(gap[:, layer]))]
        for layer in range(layers)
    ]
    return {"kind": "table", "columns": ["layer", *names], "rows": rows}


def _d_and_p(differences: FloatArray) -> tuple[str, str]:
    """Spell d of paired differences and the p of their t test, texts as units."""
    x = differences[~np.isnan(differences)]
    if x.size < 2 or np.ptp(x) == 0:
        return "–", "–"
    return f"{x.mean() / x.std(ddof=1):+.2f}", f"{sps.ttest_1samp(x, 0).pvalue:.1e}"


def _gap_plot(first: Rows, second: Rows, metric: str, interval: IntervalSettings) -> Plot:
    gap = per_layer(first, metric) - per_layer(second, metric)
    label = f"{first.condition} less {second.condition}"
    bands = [band(label, gap, first.clusters, interval)]
    return bands_plot("layer", f"difference of {LABELS[metric]}", bands)


def _steps_table(measured: pd.DataFrame) -> Plot:
    """Return a table of the steps by what kind of token they arrive at, and by position."""
    steps_of: dict[str, list[float]] = defaultdict(list)
    largest: dict[str, int] = defaultdict(int)
    for row in measured.to_dict("records"):
        steps = np.asarray(row["token_steps"], dtype=np.float64)
        relative = steps / np.nanmean(steps)
        top = set(np.argsort(np.nan_to_num(steps))[-LARGEST:].tolist())
        for token, (kind, step) in enumerate(zip(row["token_kinds"], relative, strict=True)):
            if np.isnan(step):
                continue
            for group in (str(kind), _position(token)):
                steps_of[group].append(float(step))
                largest[group] += token in top
    by_count = sorted(steps_of.items(), key=lambda item: -len(item[1]))
    return {
        "kind": "table",
        "columns": [
            "step arrives at",
            "steps",
            "mean step / text's mean",
            "among its text's three largest",
        ],
        "rows": [
            [name, f"{len(steps):,}", f"{np.mean(steps):.3f}", f"{largest[name] / len(steps):.1%}"]
            for name, steps in by_count
        ],
    }


def _position(token: int) -> str:
    return "token 1 to 9" if token < 10 else "token 10 to 39" if token < 40 else "token 40 on"


def _trace_plot(measured: pd.DataFrame) -> Plot:
    """Return the steps of the first text, with its tokens."""
    row = measured.sort_index().iloc[0]
    steps = np.asarray(row["token_steps"], dtype=np.float64)[1:].round(3).tolist()
    return {"kind": "trace", "tokens": list(row["tokens"])[1:], "y_label": "step", "y": steps}
