"""What an estimand returns, how it is declared, and the figures that several of them show.

An estimand is a function of rows. A claim calls it with the *names* of rows (needs): what comes
back is a `Finding` that says which rows it rests on, and computes once it is handed them. Rows, and
what is derived from them, are its positional arguments; numbers and texts are passed by keyword.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from claims.harness.rows import Rows
from kvcore.analysis import Estimate, FloatArray, IntervalSettings, mean_difference
from kvcore.analysis.estimate import Record

Plot = dict[str, Any]
Lookup = Callable[[str], Rows | dict[int, Rows]]
"""Takes a need and returns its rows, for a sweep by layer."""


@dataclass(frozen=True)
class Outcome(Record):
    """An estimate, secondary numbers for the report's block, and data for its figure."""

    estimate: Estimate
    details: Mapping[str, float | str] = field(default_factory=dict)
    plot: Mapping[str, Any] = field(default_factory=lambda: {"kind": "none"})


@dataclass(frozen=True)
class Derived:
    """What a function makes of rows that are known by name alone."""

    function: Callable[..., Any]
    sources: tuple[Any, ...]  # needs (str) and `Derived`, also inside mappings and sequences
    parameters: Mapping[str, Any]  # what else the function takes, by keyword; no needs

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__

    @property
    def needs(self) -> tuple[str, ...]:
        """The needs it rests on, each once and in their order."""
        return tuple(dict.fromkeys(_needs(self.sources)))

    def __str__(self) -> str:
        parameters = (f"{name}={_spelled(value)}" for name, value in self.parameters.items())
        return f"{self.name}({', '.join([*map(_spelled, self.sources), *parameters])})"

    def files(self) -> list[Path]:
        """Return the files of the functions among the parameters, on which numbers hang too."""
        functions = (value for value in self.parameters.values() if callable(value))
        return sorted({Path(inspect.getfile(function)) for function in functions})

    def value(self, rows: Lookup) -> Any:
        """Return what the function makes of the rows."""
        return self.function(*_resolved(self.sources, rows), **self.parameters)


@dataclass(frozen=True)
class Finding(Derived):
    """What a claim measures: the rows it rests on, and how to compute it in its unit."""

    unit: str
    benefit: bool = False  # whether its estimate is what a condition gains over a baseline

    def compute(self, rows: Lookup, interval: IntervalSettings) -> Outcome:
        """Compute the finding; MissingResource if no row was measured of what it rests on."""
        sources = _resolved(self.sources, rows)
        outcome: Outcome = self.function(interval, *sources, **self.parameters)
        return outcome


def estimand(
    unit: str, *, benefit: bool = False
) -> Callable[[Callable[..., Outcome]], Callable[..., Finding]]:
    """Decorate a function of interval settings and rows: called with needs, it gives a `Finding`.

    The unit is that of its estimate; ``benefit`` says that the estimate is what a condition gains
    over a baseline, so that readers are told that it helps or hurts.
    """

    def decorate(function: Callable[..., Outcome]) -> Callable[..., Finding]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def declare(*sources: Any, **parameters: Any) -> Finding:
            signature.bind(None, *sources, **parameters)
            return Finding(function, sources, parameters, unit, benefit)

        return declare

    return decorate


def derived(function: Callable[..., Any]) -> Callable[..., Derived]:
    """Decorate a function of rows: called with needs, it gives something an estimand takes."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def declare(*sources: Any, **parameters: Any) -> Derived:
        signature.bind(*sources, **parameters)
        return Derived(function, sources, parameters)

    return declare


def _needs(source: object) -> Iterator[str]:
    if isinstance(source, str):
        yield source
    elif isinstance(source, Derived):
        yield from source.needs
    elif isinstance(source, Mapping):
        yield from _needs(tuple(source.values()))
    elif isinstance(source, Sequence):
        for part in source:
            yield from _needs(part)
    elif source is not None:
        raise TypeError(f"{source!r} is no need; pass numbers and functions by keyword")


def _resolved(source: Any, rows: Lookup) -> Any:
    if isinstance(source, str):
        return rows(source)
    if isinstance(source, Derived):
        return source.value(rows)
    if isinstance(source, Mapping):
        return {key: _resolved(part, rows) for key, part in source.items()}
    return None if source is None else tuple(_resolved(part, rows) for part in source)


def _spelled(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_spelled(part)}" for key, part in value.items()) + "}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_spelled, value))})"
    return getattr(value, "__qualname__", None) or str(value)


def with_bounds(name: str, estimate: Estimate, short: str = "") -> dict[str, float | str]:
    """Return an estimate and its interval as three secondary numbers, the ends by a short name."""
    bounds: dict[str, float | str] = {name: estimate.value}
    for end, value in (("low", estimate.ci_low), ("high", estimate.ci_high)):
        bounds[f"{short or name}, CI {end}"] = value
    return bounds


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
    means = [mean_difference(column, clusters, interval.alone) for column in values.T]
    return {"label": label, "x": list(range(start, start + len(means))), **_ends("y", means)}


def _ends(value: str, curve: Sequence[Estimate]) -> Plot:
    return {
        value: [e.value for e in curve],
        "low": [e.ci_low for e in curve],
        "high": [e.ci_high for e in curve],
    }
