"""Made-up rows for estimands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from claims.harness.estimands.base import Derived, Finding, Outcome
from claims.harness.rows import Rows
from kvcore.analysis import DEFAULT_INTERVAL, IntervalSettings


def computed(
    estimand: Callable[..., Finding],
    *sources: Any,
    interval: IntervalSettings = DEFAULT_INTERVAL,
    **parameters: Any,
) -> Outcome:
    """Compute an estimand from rows at hand the way a run does: by their names."""
    rows: dict[str, Rows] = {}
    finding = estimand(*(_named(source, rows) for source in sources), **parameters)
    return finding.compute(rows.__getitem__, interval)


def _named(source: Any, rows: dict[str, Rows]) -> Any:
    """Replace rows by names, wherever they stand in a source, and note them."""
    if isinstance(source, Rows):
        name = f"rows {len(rows)}"
        rows[name] = source
        return name
    if isinstance(source, Derived):
        return replace(source, sources=_named(source.sources, rows))
    if isinstance(source, Mapping):
        return {key: _named(part, rows) for key, part in source.items()}
    return source if source is None else tuple(_named(part, rows) for part in source)


def score_rows(condition: str, tokens: list[list[float]], metric: str = "nll") -> Rows:
    """Return rows of scores, one list of token NLLs a sample."""
    frame = pd.DataFrame(
        {
            "nll": [float(np.mean(t)) for t in tokens],
            "token_nlls": tokens,
            "status": "ok",
            "nll_tail": [float(np.mean(t[1:])) if t[1:] else float("nan") for t in tokens],
        },
        index=[f"s{i}" for i in range(len(tokens))],
    )
    return Rows(condition, metric, frame, tuple(frame.index), tuple)


def token_nlls(shift: float, seed: int = 3) -> list[list[float]]:
    """Return two equal tokens for each of 30 samples, all moved by a shift, with little noise."""
    rng = np.random.default_rng(seed)
    return [[x + shift + rng.normal(0, 0.02)] * 2 for x in rng.uniform(1, 2, 30)]


def list_rows(scores: dict[str, list[float]], condition: str = "bare@lists") -> Rows:
    """Return rows of lists in which the first passage of each is the relevant one."""
    ids = [
        f"{query}#{query if n == 0 else f'p{n}'}"
        for query, nlls in scores.items()
        for n in range(len(nlls))
    ]
    frame = pd.DataFrame({"nll": [x for nlls in scores.values() for x in nlls]}, index=ids)
    clusters = tuple(query for query, nlls in scores.items() for _ in nlls)
    return Rows(condition, "nll", frame, clusters, tuple)


def random_list_rows(
    gap: float, seed: int, condition: str = "bare@lists", add: float = 0.0
) -> Rows:
    """Return 40 random lists of six; the relevant passage's NLL is lower by a gap."""
    rng = np.random.default_rng(seed)
    return list_rows(
        {
            f"q{i}": [x + add - gap * (n == 0) for n, x in enumerate(rng.normal(3, 1, 6))]
            for i in range(40)
        },
        condition,
    )


def divergence_rows(name: str, values: Any) -> Rows:
    """Return rows of divergences, one a sample."""
    frame = pd.DataFrame({"js": values}, index=[f"s{i}" for i in range(len(values))])
    return Rows(name, "js", frame, tuple(frame.index), tuple)


def step_rows(
    name: str,
    offset: float,
    *,
    slope: float = 0.0,
    seed: int = 0,
    ce: float = 2.0,
    couple: float = 0.0,
) -> Rows:
    """Return 40 texts in 10 layers, steps = offset + slope * layer + noise + couple * CE."""
    rng = np.random.default_rng(seed)
    ces = ce + rng.normal(0, 0.5, 40)
    steps = [offset + slope * np.arange(10) + couple * c + rng.normal(0, 0.3, 10) for c in ces]
    tokens = [rng.uniform(0, 5, 30) for _ in ces]
    frame = pd.DataFrame(
        {
            "status": "ok",
            "ce": ces,
            "smoothness": steps,
            "relative_step": steps,
            "cosine": steps,
            "norm": [10 * x for x in steps],
            "norm_variance": [x**2 for x in steps],
            "n_continuation": [20 + i for i in range(40)],
            "tokens": [["a"] * 30] * 40,
            "token_kinds": [["word", "space", "number"] * 10] * 40,
            "token_nlls": tokens,
            "token_steps": [np.r_[np.nan, t[1:] + rng.normal(0, 0.1, 29)] for t in tokens],
        },
        index=[f"t{i}" for i in range(40)],
    )
    return Rows(name, "ce", frame, tuple(frame.index), tuple)


def switch_rows(name: str, kl_oracle: Any, kl_ignore: Any, **columns: Any) -> Rows:
    """Return rows of context switches, (pairs, tokens) divergences of each; none is identical."""
    frame = pd.DataFrame(
        {
            "identical": 0,
            "kl_oracle": [np.asarray(x, dtype=np.float64) for x in kl_oracle],
            "kl_ignore": [np.asarray(x, dtype=np.float64) for x in kl_ignore],
            "tokens": [["a"] * len(x) for x in kl_oracle],
            "attribution": [["injected"] * len(x) for x in kl_oracle],
            **columns,
        },
        index=[f"p{i}" for i in range(len(kl_oracle))],
    )
    return Rows(name, "latency", frame, tuple(frame.index), tuple)
