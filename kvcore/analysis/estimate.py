"""A number with its confidence interval, and both as strict JSON can hold them."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

import numpy as np

from kvcore.analysis.jackknife import Scale
from kvcore.errors import KvError

NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""The strings that stand for numbers which JSON lacks."""


def to_plain(value: Any) -> Any:
    """Turn numbers, arrays, tuples, mappings and dataclasses into what strict JSON can hold.

    NaN and the infinities become the reserved strings ``"NaN"``, ``"Infinity"``, ``"-Infinity"``;
    `from_plain` turns them back.
    """
    if type(value) is float and math.isfinite(value):
        return value  # by far the commonest: points of plots
    if type(value) in (str, int, bool):
        return value
    if is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return to_plain(value.tolist())
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def from_plain(value: Any) -> Any:
    """Undo `to_plain`; lists stay lists."""
    if isinstance(value, Mapping):
        return {key: from_plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_plain(item) for item in value]
    return NON_FINITE.get(value, value) if isinstance(value, str) else value


def rebuilt(kind: Any, plain: Any) -> Any:
    """Rebuild a value of an annotated type from `to_plain`; texts stay texts, "NaN" included."""
    if isinstance(kind, type) and is_dataclass(kind):
        return kind(**{name: rebuilt(of, plain[name]) for name, of in _fields_of(kind).items()})
    if get_origin(kind) is tuple:
        return tuple(rebuilt(get_args(kind)[0], item) for item in plain)
    if get_origin(kind) is UnionType:
        return None if plain is None else rebuilt(get_args(kind)[0], plain)
    return plain if kind is str else from_plain(plain)


@functools.cache
def _fields_of(kind: type) -> Mapping[str, Any]:
    """Return the types of a dataclass's fields by name, which take long to evaluate."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


class Record:
    """What dataclasses inherit that are kept as JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as strict JSON can hold them."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild a record from `to_dict`."""
        record: Self = rebuilt(cls, data)
        return record


@dataclass(frozen=True)
class Beside:
    """Another interval of the same estimate, and how it was computed."""

    low: float
    high: float
    method: str


@dataclass(frozen=True)
class Estimate(Record):
    """A number with its confidence interval; KvError where the interval's ends are exchanged."""

    # Point estimate and interval, in ``unit``. An interval that the data cannot bound is
    # infinite (or the whole range of the statistic), never NaN unless passed so.
    value: float
    ci_low: float
    ci_high: float
    confidence: float  # level of the interval, in (0, 1)
    method: str  # how the interval was computed, degenerate cases included
    # Samples used and independent units resampled, ``clusters <= n``.
    n: int
    clusters: int
    # ``"d"``, ``"nats/token"``, ``"r"``, ``"proportion"``, ``"d difference"``, ``"d of
    # groups"`` or a ranking metric, ``"AUC"``, ``"MRR"``, ..., ``"AUC difference"``, ....
    unit: str
    # What turns nats per token into ``unit`` (nats / sd); None where nothing does.
    sd: float | None = None
    # Of the jackknife over clusters, None where an exact interval needs none (proportions):
    se: float | None = None  # standard error, on `scale`
    scale: Scale = "identity"
    informative: int | None = None  # clusters that do not merely repeat the commonest influence
    effective: float | None = None  # (sum v)^2 / sum v^2 of the squared influences v
    df: float | None = None  # degrees of freedom of its t, clusters - 1 at most
    beside: Beside | None = None  # the other method's interval, at the same level

    def __post_init__(self) -> None:
        if self.ci_low > self.ci_high:
            raise KvError(
                f"ci_low must not exceed ci_high; got {self.ci_low} and {self.ci_high}, swap them."
            )

    @property
    def half_width(self) -> float:
        """Half the width of the interval, in the estimate's unit."""
        return (self.ci_high - self.ci_low) / 2
