"""What an estimand returns, and the figures that several of them show."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Concatenate, ParamSpec

import numpy as np

from claims.measured import Rows
from kvcore.analysis import Estimate, FloatArray, IntervalSettings, mean_difference

Plot = dict[str, Any]
P = ParamSpec("P")
BAND_RESAMPLES = 1000
"""Of the bands in figures, by which nothing is judged."""


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
    compute: Callable[[IntervalSettings], Outcome]


def estimand(
    kind: str,
) -> Callable[[Callable[Concatenate[IntervalSettings, P], Outcome]], Callable[P, Finding]]:
    """Decorate a function of interval settings and rows: it returns the `Finding` of its rows.

    The finding rests on the conditions of every `Rows` among the arguments, in mappings and
    tuples too, each once and in their order.

    Parameters
    ----------
    kind : str
        What is computed; ``{name}`` stands for the argument of that name, ``{conditions}`` for
        the conditions.
    """

    def decorate(
        compute: Callable[Concatenate[IntervalSettings, P], Outcome],
    ) -> Callable[P, Finding]:
        names = inspect.signature(compute)

        @functools.wraps(compute)
        def finding(*args: P.args, **kwargs: P.kwargs) -> Finding:
            arguments = names.bind(None, *args, **kwargs).arguments
            conditions = tuple(dict.fromkeys(_conditions(list(arguments.values()))))
            name = kind.format(**arguments, conditions=" and ".join(conditions))
            return Finding(name, conditions, lambda interval: compute(interval, *args, **kwargs))

        return finding

    return decorate


def _conditions(value: object) -> Iterator[str]:
    """Yield the conditions of the rows in an argument, however deep they lie."""
    if isinstance(value, Rows):
        yield from value.needs
    elif isinstance(value, Mapping):
        yield from _conditions(list(value.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _conditions(item)


def with_bounds(name: str, estimate: Estimate) -> dict[str, float | str]:
    """Return an estimate and its interval as three secondary numbers."""
    return {
        name: estimate.value,
        f"{name}, CI low": estimate.ci_low,
        f"{name}, CI high": estimate.ci_high,
    }


def differences_plot(x: FloatArray, digits: int = 5) -> Plot:
    """Show the paired differences, NaN left out."""
    return {"kind": "paired", "differences": x[~np.isnan(x)].round(digits).tolist()}


def scatter_plot(x: FloatArray, y: FloatArray, x_label: str, y_label: str) -> Plot:
    """Show y over x, pairs with a NaN left out."""
    both = ~(np.isnan(x) | np.isnan(y))
    return {
        "kind": "scatter",
        "x": x[both].round(4).tolist(),
        "y": y[both].round(4).tolist(),
        "x_label": x_label,
        "y_label": y_label,
    }


def curve_plot(
    x: Sequence[float], curve: Sequence[Estimate], label: str, *, log: bool = False, **more: str
) -> Plot:
    """Show estimates over x; ``y_label`` may be among what is ``more``."""
    return {"kind": "curve", "x": list(x), **_ends("d", curve), "x_label": label, "log": log} | more


def bands_plot(x_label: str, y_label: str, bands: Sequence[Plot]) -> Plot:
    """Show several bands over layers or tokens."""
    return {"kind": "layers", "x_label": x_label, "y_label": y_label, "curves": list(bands)}


def band(
    label: str,
    values: FloatArray,
    clusters: Sequence[str],
    interval: IntervalSettings,
    *,
    start: int = 0,
) -> Plot:
    """Mean of every column of (samples, columns) with its interval; columns count from start."""
    few = replace(interval, resamples=BAND_RESAMPLES)
    means = [mean_difference(column, clusters, few) for column in values.T]
    return {"label": label, "x": list(range(start, start + len(means))), **_ends("y", means)}


def _ends(value: str, curve: Sequence[Estimate]) -> Plot:
    return {
        value: [e.value for e in curve],
        "low": [e.ci_low for e in curve],
        "high": [e.ci_high for e in curve],
    }
