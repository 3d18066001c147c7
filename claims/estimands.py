"""From rows to the one number a claim is about, with its interval and what to show beside it.

Benefit is NLL(baseline) - NLL(condition) throughout: positive means the condition helps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from claims.measured import Rows
from kvcore import stats
from kvcore.deployment import policy_effect
from kvcore.stats import Estimate

Vector = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Plan:
    """How intervals are made in this run."""

    confidence: float = 0.95
    seed: int = 0

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of `kvcore.stats` with this plan's confidence and seed."""
        return function(*arguments, confidence=self.confidence, seed=self.seed)


@dataclass(frozen=True)
class Outcome:
    """An estimate, secondary numbers for the report's block, and data for its figure."""

    estimate: Estimate
    details: Mapping[str, float | str] = field(default_factory=dict)
    plot: Mapping[str, Any] = field(default_factory=lambda: {"kind": "none"})


@dataclass(frozen=True)
class Finding:
    """What a claim measures: which conditions it rests on, and how to compute it."""

    kind: str
    conditions: tuple[str, ...]
    compute: Callable[[Plan], Outcome]


def paired_benefit(baseline: Rows, condition: Rows) -> Finding:
    """Cohen's d of the paired benefit of a condition over a baseline."""
    def compute(plan: Plan) -> Outcome:
        effect = plan(stats.paired_effect, baseline.values, condition.values, baseline.clusters)
        return Outcome(effect.d, _beside(effect), _differences(effect.differences))

    return Finding("paired benefit", (*baseline.needs, *condition.needs), compute)


def mean_of(*rows: Rows) -> Rows:
    """Return rows with the mean score of several conditions on each sample."""
    columns = ["nll", "nll_tail"]
    means = sum(r.frame[columns] for r in rows) / len(rows)
    names = tuple(r.condition for r in rows)
    return replace(rows[0], condition=f"mean of {', '.join(names)}", parts=names,
                   frame=rows[0].frame.assign(**{name: means[name] for name in columns}))


def mean_benefit(baseline: Rows, condition: Rows) -> Finding:
    """Mean benefit in nats per token, for differences too small to be divided by their own SD."""
    def compute(plan: Plan) -> Outcome:
        effect = plan(stats.paired_effect, baseline.values, condition.values, baseline.clusters)
        return Outcome(effect.mean, _beside(effect), _differences(effect.differences))

    return Finding("mean benefit", (baseline.condition, condition.condition), compute)


def benefit_without_first_token(baseline: Rows, condition: Rows) -> Finding:
    """d over all answer tokens minus d without the first one, on the same samples."""
    def compute(plan: Plan) -> Outcome:
        whole, tail = (np.asarray(baseline.frame[m] - condition.frame[m], dtype=np.float64)
                       for m in ("nll", "nll_tail"))
        estimate = plan(stats.effect_difference, whole, tail, baseline.clusters)
        parts = {f"d on {m}": plan(stats.effect_size, x, baseline.clusters).value
                 for m, x in (("nll", whole), ("nll_tail", tail))}
        return Outcome(estimate, parts, _differences((whole - tail)[~np.isnan(whole - tail)]))

    return Finding("variant difference", (baseline.condition, condition.condition), compute)


def trend_with_hardness(baseline: Rows, condition: Rows, hardness: Rows) -> Finding:
    """Correlation of benefit with a hardness measured without the document."""
    def compute(plan: Plan) -> Outcome:
        benefit, hard = baseline.values - condition.values, hardness.values
        estimate = plan(stats.correlation, hard, benefit, baseline.clusters)
        return Outcome(estimate, _published_trend(baseline, condition, plan), _scatter(
            hard, benefit, f"hardness: NLL without the document ({hardness.condition})"))

    return Finding("trend with BOS-only NLL",
                   (baseline.condition, condition.condition, hardness.condition), compute)


def oldham_trend(baseline: Rows, condition: Rows) -> Finding:
    """Oldham's correlation: benefit with the mean of the two NLLs."""
    def compute(plan: Plan) -> Outcome:
        estimate = plan(stats.oldham, baseline.values, condition.values, baseline.clusters)
        benefit = baseline.values - condition.values
        return Outcome(estimate, _published_trend(baseline, condition, plan), _scatter(
            (baseline.values + condition.values) / 2, benefit, "mean of the two NLLs"))

    return Finding("Oldham's trend", (baseline.condition, condition.condition), compute)


def odd_even_trend(baseline: Rows, condition: Rows) -> Finding:
    """Correlation of benefit on the even answer tokens with hardness on the odd ones."""
    def compute(plan: Plan) -> Outcome:
        hard, benefit = _odd_even(baseline, condition)
        estimate = plan(stats.correlation, hard, benefit, baseline.clusters)
        return Outcome(estimate, _published_trend(baseline, condition, plan), _scatter(
            hard, benefit, "hardness: NLL of the odd answer tokens"))

    return Finding("trend with odd tokens", (baseline.condition, condition.condition), compute)


def benefit_in_quartile(quartile: int, baseline: Rows, condition: Rows, hardness: Rows) -> Finding:
    """d within one quartile (1 easy, 4 hard) of a hardness measured without the document."""
    def compute(plan: Plan) -> Outcome:
        return _quartile(quartile, hardness.values, baseline.values - condition.values,
                         baseline, condition, plan)

    return Finding(f"quartile {quartile} by BOS-only NLL",
                   (baseline.condition, condition.condition, hardness.condition), compute)


def odd_even_benefit_in_quartile(quartile: int, baseline: Rows, condition: Rows) -> Finding:
    """d on the even answer tokens within one quartile of the odd ones' NLL."""
    def compute(plan: Plan) -> Outcome:
        hard, benefit = _odd_even(baseline, condition)
        return _quartile(quartile, hard, benefit, baseline, condition, plan)

    return Finding(f"quartile {quartile} by odd tokens",
                   (baseline.condition, condition.condition), compute)


def trend_over_length(pairs: Mapping[int, tuple[Rows, Rows]]) -> Finding:
    """d of each sample's slope of benefit over log2 of the document's length.

    ``pairs`` maps a length in tokens to (baseline, condition); a sample counts where it has a
    benefit at every length.
    """
    def compute(plan: Plan) -> Outcome:
        benefits = np.array([b.values - c.values for b, c in pairs.values()])
        x = np.log2(list(pairs))
        slopes = (x - x.mean()) @ benefits / np.square(x - x.mean()).sum()
        clusters = next(iter(pairs.values()))[0].clusters
        curve = [plan(stats.effect_size, row, clusters) for row in benefits]
        return Outcome(plan(stats.effect_size, slopes, clusters),
                       {f"d at {n} tokens": e.value for n, e in zip(pairs, curve, strict=True)},
                       _curve(list(pairs), curve, "tokens of the document", log=True))

    return Finding("trend over length", tuple(r.condition for pair in pairs.values() for r in pair),
                   compute)


def single_layers(baseline: Rows, layers: Mapping[int, Rows]) -> Finding:
    """d of each sample's slope of benefit over depth, primed values standing in one layer alone."""
    def compute(plan: Plan) -> Outcome:
        benefits = np.array([baseline.values - rows.values for rows in layers.values()])
        x = np.array(list(layers), dtype=np.float64) / max(1, max(layers))
        slopes = (x - x.mean()) @ benefits / np.square(x - x.mean()).sum()
        curve = [plan(stats.effect_size, gain, baseline.clusters) for gain in benefits]
        best = max(layers, key=lambda layer: curve[list(layers).index(layer)].value)
        return Outcome(plan(stats.effect_size, slopes, baseline.clusters),
                       {"layer with the largest d": str(best),
                        "its d": max(e.value for e in curve)},
                       _curve(list(layers), curve, "layer with primed values"))

    return Finding("single layers",
                   (baseline.condition, *(rows.condition for rows in layers.values())), compute)


def least_favourable(pairs: Mapping[str, tuple[Rows, Rows]], limits: Sequence[int] = ()
                     ) -> Finding:
    """Smallest d over several ways of measuring one benefit, with that way's interval.

    ``pairs`` maps what was varied to (baseline, condition); the first is the cell's own. Both
    variants of the score count, and so do the first samples of the first pair up to each limit.
    """
    def compute(plan: Plan) -> Outcome:
        found = {}
        for label, (baseline, condition) in pairs.items():
            for metric in ("nll", "nll_tail"):
                benefit = np.asarray(baseline.frame[metric] - condition.frame[metric])
                found[f"{label}, {metric}"] = plan(
                    stats.effect_size, benefit, baseline.clusters)
        baseline, condition = next(iter(pairs.values()))
        for limit in limits:
            benefit = (baseline.values - condition.values)[:limit]
            if (~np.isnan(benefit)).sum() > limit // 2:
                found[f"first {limit} by name, {baseline.metric}"] = plan(
                    stats.effect_size, benefit, baseline.clusters[:limit])
        least = min(found, key=lambda label: found[label].value)
        rows = [{"label": label, "value": e.value, "low": e.ci_low, "high": e.ci_high,
                 "judged": label == least} for label, e in found.items()]
        said = {"least favourable": least, "ways of measuring": str(len(rows))}
        return Outcome(found[least], said, {"kind": "specifications", "unit": "d", "rows": rows})

    names = (r.condition for pair in pairs.values() for r in pair)
    return Finding("least favourable way", tuple(dict.fromkeys(names)), compute)


def lower_against_upper_half(baseline: Rows, cutoffs: Mapping[float, Rows]) -> Finding:
    """d of what primed values gain in the lower half of the layers less what the upper adds.

    ``cutoffs`` maps a share of the depth to the rows with primed values below it; 0.5 and 1.0
    are among them.
    """
    def compute(plan: Plan) -> Outcome:
        gains = {at: baseline.values - rows.values for at, rows in cutoffs.items()}
        difference = gains[0.5] - (gains[1.0] - gains[0.5])
        curve = [plan(stats.effect_size, gain, baseline.clusters) for gain in gains.values()]
        return Outcome(plan(stats.effect_size, difference, baseline.clusters),
                       {f"d with primed values below {at:g} of the depth": e.value
                        for at, e in zip(gains, curve, strict=True)},
                       _curve(list(gains), curve, "share of the layers with primed values"))

    return Finding("lower against upper half",
                   (baseline.condition, *(rows.condition for rows in cutoffs.values())), compute)


def gate_against_everything(threshold: float, baseline: Rows, condition: Rows) -> Finding:
    """d of priming above a threshold of hardness against priming every sample, as policies.

    Hardness is that of the odd answer tokens, benefit that of the even ones; a sample that is
    not primed counts 0.
    """
    def compute(plan: Plan) -> Outcome:
        hard, benefit = _odd_even(baseline, condition)
        effect = policy_effect(benefit, hard, threshold, baseline.clusters,
                               confidence=plan.confidence, seed=plan.seed)
        shown = {"mean benefit of the gate (nats/token)": effect.policy.value,
                 "mean benefit of priming everything": effect.everything.value,
                 "share of samples primed": effect.primed.value}
        return Outcome(effect.gain_d, shown, _scatter(
            hard, benefit, f"hardness: NLL of the odd answer tokens, gate at {threshold}"))

    return Finding(f"gate at {threshold}", (baseline.condition, condition.condition), compute)


def share_of_samples(name: str, holds: Callable[..., Any], *rows: Rows) -> Finding:
    """Share of samples on which something holds, with an exact interval.

    ``holds`` takes the rows' frames and returns one truth value per sample.
    """
    def compute(plan: Plan) -> Outcome:
        complete = np.logical_and.reduce([r.frame["status"].notna().to_numpy() for r in rows])
        told = np.asarray(holds(*(r.frame for r in rows)), dtype=bool)[complete]
        estimate = stats.proportion(int(told.sum()), len(told), plan.confidence)
        return Outcome(estimate, {name: f"{int(told.sum())} of {len(told)}"})

    return Finding(name, tuple(r.condition for r in rows), compute)


def _beside(effect: stats.PairedEffect) -> dict[str, float | str]:
    mean, win = effect.mean, effect.win_rate
    return {
        "mean benefit (nats/token)": mean.value, "mean, CI low": mean.ci_low,
        "mean, CI high": mean.ci_high, "median (nats/token)": effect.median,
        "win rate": win.value, "win rate, CI low": win.ci_low, "win rate, CI high": win.ci_high,
        "t": effect.t, "p (t)": effect.p_t, "p (Wilcoxon)": effect.p_wilcoxon,
        "pairs without a score": float(effect.excluded)}


def _published_trend(baseline: Rows, condition: Rows, plan: Plan) -> dict[str, float | str]:
    """Show the published estimand, which is positive by arithmetic alone, beside ours."""
    benefit = baseline.values - condition.values
    coupled = plan(stats.correlation, baseline.values, benefit, baseline.clusters)
    return {"as published: r(bare NLL, benefit)": coupled.value,
            "as published, CI low": coupled.ci_low, "as published, CI high": coupled.ci_high,
            "why it is not judged": "benefit contains bare NLL: r > 0 without any effect"}


def _quartile(quartile: int, hard: Vector, benefit: Vector, baseline: Rows, condition: Rows,
              plan: Plan) -> Outcome:
    estimate = plan(stats.quartile_effect, hard, benefit, quartile, baseline.clusters)
    coupled = plan(stats.quartile_effect, baseline.values, baseline.values - condition.values,
                   quartile, baseline.clusters)
    table = plan(stats.quartile_table, hard, benefit, baseline.clusters)
    shown = {"as published: d in the quartile by bare NLL": coupled.value,
             "as published, CI low": coupled.ci_low, "as published, CI high": coupled.ci_high,
             "why it is not judged": "quartiles by bare NLL regress to the mean"}
    return Outcome(estimate, shown, {"kind": "quartiles", "rows": table.to_dict("records")})


def _odd_even(baseline: Rows, condition: Rows) -> tuple[Vector, Vector]:
    """Hardness from the 1st, 3rd, ... answer token, benefit from the 2nd, 4th, ... of the rest.

    With ``nll_tail`` the first answer token is left out of both.
    """
    skip = int(baseline.metric == "nll_tail")
    bare, other = (_tokens(rows, skip) for rows in (baseline, condition))
    hard = [_mean(b[0::2]) for b in bare]
    benefit = [_mean(b[1::2]) - _mean(o[1::2]) for b, o in zip(bare, other, strict=True)]
    return np.array(hard), np.array(benefit)


def _tokens(rows: Rows, skip: int) -> list[Vector]:
    return [np.asarray(x, dtype=np.float64)[skip:] if np.ndim(x) else np.empty(0)
            for x in rows.frame["token_nlls"]]


def _mean(x: Vector) -> float:
    return float(x.mean()) if x.size else float("nan")


def _differences(x: Vector) -> dict[str, Any]:
    return {"kind": "paired", "differences": [round(float(v), 5) for v in x]}


def _curve(x: Sequence[float], curve: Sequence[Estimate], label: str, *, log: bool = False
           ) -> dict[str, Any]:
    return {"kind": "curve", "x": list(x), "d": [e.value for e in curve],
            "low": [e.ci_low for e in curve], "high": [e.ci_high for e in curve],
            "x_label": label, "log": log}


def _scatter(x: Vector, y: Vector, label: str) -> dict[str, Any]:
    both = ~(np.isnan(x) | np.isnan(y))
    return {"kind": "scatter", "x": [round(float(v), 4) for v in x[both]],
            "y": [round(float(v), 4) for v in y[both]], "x_label": f"{label}, nats/token",
            "y_label": "benefit, nats/token"}
