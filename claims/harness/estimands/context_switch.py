"""Context switches: when, and how far, a model follows a new context.

Every row holds one pair of problems by one way to switch; list columns hold one number per token
behind the switch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from claims.harness.estimands.base import Outcome, Plot, band, bands_plot, derived, estimand
from claims.harness.rows import Rows
from kvcore.analysis import (
    Estimate,
    FloatArray,
    IntervalSettings,
    effect_size,
    latency,
    mean_difference,
    slopes,
)
from kvcore.analysis.latency import Latency

SHOWN = 48  # tokens behind the switch in figures
SETTLED_SHARE = 1e-4  # variance of the share of attention over `latency.WINDOW` tokens
HORIZON = 32  # tokens behind the switch within which a sequence is to adapt: half of those followed
TOKENS = "tokens behind the switch"
CLASSES = {
    "injected": "the new context's choice alone",
    "original": "the old context's alone",
    "mixed": "the choice of both",
    "neither": "the choice of neither",
}


@derived
def changed(rows: Rows) -> Rows:
    """Return the rows of pairs whose two problems differ."""
    return _selected(rows, rows.frame["identical"] == 0)


@derived
def unchanged(rows: Rows) -> Rows:
    """Return the rows of pairs whose two problems are identical: a control."""
    return _selected(rows, rows.frame["identical"] == 1)


def _selected(rows: Rows, which: pd.Series[bool]) -> Rows:
    clusters = tuple(c for c, chosen in zip(rows.clusters, which, strict=True) if chosen)
    return replace(rows, frame=rows.frame[which.to_numpy()], clusters=clusters)


def lists(rows: Rows, column: str) -> list[FloatArray]:
    """Return a list column, one array per pair."""
    return [np.asarray(x, dtype=np.float64) for x in rows.frame[column]]


def adaptations(rows: Rows) -> list[Latency]:
    """Return when each sequence comes and stays nearer to the oracle than to ignore."""
    pairs = zip(lists(rows, "kl_oracle"), lists(rows, "kl_ignore"), strict=True)
    return [latency.adaptation(oracle, ignore) for oracle, ignore in pairs]


def adaptations_by_ratio(rows: Rows) -> list[Latency]:
    """Return when each sequence's tokens come and stay likelier than without a switch."""
    return [latency.adaptation_by_ratio(x) for x in lists(rows, "logratio_ignore")]


@estimand("proportion")
def detected_within(
    interval: IntervalSettings, rows: Rows, control: Rows, *, tokens: int
) -> Outcome:
    """Share of pairs whose divergence from ignore exceeds the controls' within so many tokens.

    The threshold of a pair comes from control sequences of other folds.
    """
    names = [str(i) for i in control.frame.index]
    fitted = latency.cross_fitted(names, lists(control, "kl_ignore"))
    thresholds = dict(zip(names, fitted, strict=True))
    median = float(np.median(list(thresholds.values())))
    detections = [
        latency.detection(x, thresholds.get(str(name), median))
        for name, x in zip(rows.frame.index, lists(rows, "kl_ignore"), strict=True)
    ]
    details: dict[str, float | str] = {
        "median tokens to detection": latency.survival(detections).median,
        "threshold (nats)": median,
        "never detected": str(sum(not x.happened for x in detections)),
    }
    curve = _survival_plot({rows.condition: detections}, interval)
    return Outcome(
        latency.share_by(detections, tokens, rows.clusters, interval),
        details,
        {"kind": "several", "figures": [curve, _tokens_plot(rows)]},
    )


@estimand("proportion")
def share_that_adapts(
    interval: IntervalSettings, rows: Rows, beside: Mapping[str, Rows] | None = None
) -> Outcome:
    """Share of sequences that come nearer to the oracle than to ignore, for five tokens.

    Within `HORIZON` tokens, by Kaplan and Meier: sequences that end before count for as long as
    they last.
    """
    others = beside or {}
    own = adaptations(rows)
    curves = {rows.condition: own} | {name: adaptations(r) for name, r in others.items()}
    ended = sum(not x.happened and x.tokens < HORIZON for x in own)
    return Outcome(
        latency.share_by(own, HORIZON, rows.clusters, interval),
        {
            "median tokens to adaptation": latency.survival(own).median,
            f"ended before {HORIZON} tokens": f"{ended} of {len(own)}",
        },
        _survival_plot(curves, interval),
    )


@estimand("proportion difference")
def adapts_more(
    interval: IntervalSettings,
    rows: Rows,
    control: Rows,
    beside: Mapping[str, Rows] | None = None,
) -> Outcome:
    """Share of sequences that adapt, by the ratio, less that of the control, pair by pair.

    Both follow the same tokens, so that both could have been seen to adapt for as long. Beside it
    stand the shares of every way by both definitions.
    """
    own, others = side_by_side(rows, control)
    shown = {r.condition: r for r in (own, others, *(beside or {}).values())}
    by_ratio = {name: adaptations_by_ratio(r) for name, r in shown.items()}
    difference = _happened(by_ratio[own.condition]) - _happened(by_ratio[others.condition])
    details: dict[str, float | str] = {}
    for name, r in shown.items():
        details[f"adapt by the ratio, {name}"] = float(_happened(by_ratio[name]).mean())
        details[f"adapt by KL, {name}"] = float(_happened(adaptations(r)).mean())
    estimate = mean_difference(difference, own.clusters, interval)
    return Outcome(
        replace(estimate, unit="proportion difference"), details, _survival_plot(by_ratio, interval)
    )


@estimand("d")
def hidden_states_come_nearer(interval: IntervalSettings, rows: Rows, control: Rows) -> Outcome:
    """d of the mean cosine with the oracle's hidden states, less the control's, pair by pair."""
    own, others = side_by_side(rows, control)
    means = [_means(r, "hidden_similarity") for r in (own, others)]
    bands = [_band(r, _padded(lists(r, "hidden_similarity")), interval) for r in (own, others)]
    return Outcome(
        effect_size(means[0] - means[1], own.clusters, interval),
        {
            f"mean cosine, {r.condition}": float(x.mean())
            for r, x in zip((own, others), means, strict=True)
        },
        bands_plot(TOKENS, "cosine with the oracle's hidden state", bands),
    )


@estimand("d")
def attention_settles(interval: IntervalSettings, rows: Rows) -> Outcome:
    """d of the change of the attention on the injected span, token by token, early less late.

    The change is the mean of |share of a token - share of the token before| among tokens 1 to 5 and
    from token 21 on; pairs that end before have none.
    """
    shares = lists(rows, "share_injected")
    first, last = latency.SPANS[0], latency.SPANS[-1]
    changes = np.array([[_mean_change(x, span) for span in (first, last)] for x in shares])
    settled = [latency.stabilisation(x, SETTLED_SHARE) for x in shares]
    known = np.isfinite(changes).all(axis=1)
    return Outcome(
        effect_size(changes[:, 0] - changes[:, 1], rows.clusters, interval),
        {
            "mean change, tokens 1 to 5": float(changes[known, 0].mean()),
            "mean change, from token 21": float(changes[known, 1].mean()),
            "median tokens to stable attention": latency.survival(settled).median,
        },
        _attention_plot(rows),
    )


@estimand("d")
def leaves_a_smaller_gap(
    interval: IntervalSettings, rows: Rows, other: Rows, *, first: int
) -> Outcome:
    """d of the other way's mean gap to the oracle less these rows', from a token on, pair by pair.

    Positive where these rows come nearer to the oracle; pairs that end before the token have none.
    """
    own, others = side_by_side(rows, other)
    means = [
        np.array([float(x[first - 1 :].mean()) if x.size >= first else np.nan for x in gaps])
        for gaps in (lists(own, "kl_oracle"), lists(others, "kl_oracle"))
    ]
    return Outcome(
        effect_size(means[1] - means[0], own.clusters, interval),
        {
            f"mean gap, {r.condition}": float(np.nanmean(x))
            for r, x in zip((own, others), means, strict=True)
        },
        _gap_plot([own, others], interval),
    )


@estimand("d")
def gap_shrinks(interval: IntervalSettings, rows: Rows, *shown: Rows) -> Outcome:
    """d of the gap to the oracle in tokens 1 to 5 less that from token 21 on, pair by pair."""
    gaps = lists(rows, "kl_oracle")
    table = np.array([latency.gaps(x) for x in gaps])
    means = {
        f"mean gap, tokens {low} to {high:g}": float(np.nanmean(column))
        if np.isfinite(column).any()
        else float("nan")
        for (low, high), column in zip(latency.SPANS, table.T, strict=True)
    }
    stable = latency.survival([latency.stabilisation(x) for x in gaps])
    return Outcome(
        effect_size(table[:, 0] - table[:, 2], rows.clusters, interval),
        {**means, "median tokens to stabilisation": stable.median},
        _gap_plot([rows, *shown], interval),
    )


@estimand("d")
def more_tokens_close_more(interval: IntervalSettings, partials: Mapping[int, Rows]) -> Outcome:
    """d of each pair's slope of the mean gap to the oracle over log2 of the tokens recomputed."""
    sources = list(partials.values())
    gaps = np.array([_means(rows, "kl_oracle") for rows in sources])
    return Outcome(
        effect_size(slopes(np.log2(list(partials)), gaps), sources[0].clusters, interval),
        {f"mean gap, {m} tokens": float(g.mean()) for m, g in zip(partials, gaps, strict=True)},
        _gap_plot(sources, interval),
    )


@estimand("d")
def looks_more(interval: IntervalSettings, rows: Rows, control: Rows) -> Outcome:
    """d of the mean share of attention on the injected span, less that on the control's."""
    own, others = (_means(r, "share_injected") for r in (rows, control))
    bands = [
        _band(r, np.array(lists(r, "layer_share_injected")), interval) for r in (rows, control)
    ]
    layers = bands_plot("layer", "attention on the injected span", bands)
    return Outcome(
        effect_size(own - others, rows.clusters, interval),
        {"mean share": float(own.mean()), "control's": float(others.mean())},
        {"kind": "several", "figures": [_attention_plot(rows), layers]},
    )


@estimand("proportion difference")
def same_answers(interval: IntervalSettings, first: Rows, second: Rows) -> Outcome:
    """Share of right answers by the second way less that by the first, pair by pair."""
    shares = {f"right answers, {r.condition}": _share(r, "correct") for r in (first, second)}
    return Outcome(_change_of_correct(first, second, interval), shares)


@estimand("proportion difference")
def becomes_the_new_answer(interval: IntervalSettings, rows: Rows, ignore: Rows) -> Outcome:
    """Share of pairs whose free answer is the new one less that without any switch."""
    towards, attribution = lists(rows, "towards_oracle"), rows.frame["attribution"]
    corrections = [
        latency.correction(x, list(names)) for x, names in zip(towards, attribution, strict=True)
    ]
    details = {
        "new answers": _share(rows, "correct"),
        "new answers without a switch": _share(ignore, "correct"),
        "old answers": float(rows.frame["stale"].mean()),
        "median tokens to correction": latency.survival(corrections).median,
    }
    plot = _survival_plot({rows.condition: corrections}, interval)
    return Outcome(_change_of_correct(ignore, rows, interval), details, plot)


def _change_of_correct(first: Rows, second: Rows, interval: IntervalSettings) -> Estimate:
    """Share of right answers in the second rows less that in the first, pair by pair."""
    difference = second.numbers("correct") - first.numbers("correct")
    estimate = mean_difference(difference, first.clusters, interval)
    return replace(estimate, unit="proportion difference")


def side_by_side(rows: Rows, other: Rows) -> tuple[Rows, Rows]:
    """Return the rows of those pairs that were measured both ways."""
    common = rows.frame.index.intersection(other.frame.index)
    one, two = (_selected(r, pd.Series(r.frame.index.isin(common))) for r in (rows, other))
    return one, replace(two, frame=two.frame.loc[one.frame.index], clusters=one.clusters)


def _happened(latencies: Sequence[Latency]) -> FloatArray:
    return np.array([float(x.happened) for x in latencies])


def _mean_change(share: FloatArray, span: tuple[float, float]) -> float:
    """Mean change from one token to the next among the tokens of a span, from 1; else NaN."""
    token = np.arange(2, share.size + 1)
    inside = np.abs(np.diff(share))[(token > span[0]) & (token <= span[1])]
    return float(inside.mean()) if inside.size else float("nan")


def _share(rows: Rows, column: str) -> float:
    return float(rows.numbers(column).mean())


def _means(rows: Rows, column: str) -> FloatArray:
    return np.array([float(np.mean(x)) for x in lists(rows, column)])


def _gap_plot(sources: Sequence[Rows], interval: IntervalSettings) -> Plot:
    bands = [_band(r, _padded(lists(r, "kl_oracle")), interval) for r in sources]
    return bands_plot(TOKENS, "KL to oracle, nats", bands)


def _band(rows: Rows, values: FloatArray, interval: IntervalSettings) -> Plot:
    return band(rows.condition, values, rows.clusters, interval, start=1)


def _padded(values: Sequence[FloatArray]) -> FloatArray:
    """Return the first tokens of every sequence, NaN behind its end."""
    table = np.full((len(values), min(SHOWN, max(len(x) for x in values))), np.nan)
    for row, x in zip(table, values, strict=True):
        row[: len(x)] = x[: row.size]
    return table[:, (~np.isnan(table)).sum(axis=0) >= 2]


def _survival_plot(curves: Mapping[str, Sequence[Latency]], interval: IntervalSettings) -> Plot:
    shown = []
    for label, latencies in curves.items():
        curve = latency.survival(latencies, interval.confidence)
        start = {"x": 0.0, "y": 1.0, "low": None, "high": None}
        steps = (curve.tokens, curve.share, curve.low, curve.high)
        columns = {
            name: [first, *(None if np.isnan(v) else float(v) for v in values)]
            for (name, first), values in zip(start.items(), steps, strict=True)
        }
        shown.append({"label": label, **columns})
    return {"kind": "survival", "x_label": TOKENS, "curves": shown}


def _attention_plot(rows: Rows) -> Plot:
    """Show the mean share of attention on each span, one after another in the cache."""
    columns = [name for name in rows.frame.columns if name.startswith("share_")]
    means = [np.nanmean(_padded(lists(rows, name)), axis=0).round(4).tolist() for name in columns]
    return {
        "kind": "stack",
        "x_label": TOKENS,
        "y_label": "share of attention",
        "parts": [
            {"label": name.removeprefix("share_"), "y": y}
            for name, y in zip(columns, means, strict=True)
        ],
    }


def _tokens_plot(rows: Rows) -> Plot:
    """Show the tokens of the first sequence, coloured by whose choice each is."""
    row = rows.frame.sort_index().iloc[0]
    tokens = [
        {"text": str(text), "class": str(name)}
        for text, name in zip(row["tokens"], row["attribution"], strict=True)
    ]
    return {"kind": "tokens", "classes": CLASSES, "tokens": tokens}
