"""Every kind of measurement by its name: those in `kvcore.measurements.kinds`, and a user's own."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

from kvcore.errors import KvError, unknown
from kvcore.measurements import kinds as kinds_package
from kvcore.measurements.base import MeasurementKind

_REGISTERED: dict[str, MeasurementKind] = {}


def register(kind: MeasurementKind) -> MeasurementKind:
    """Make a kind known by its name, and return it.

    Raises KvError if its name, its folder in the store or the prefix of its files is another
    kind's.
    """
    for other in _REGISTERED.values():
        same = [
            f"{what} {getattr(kind, what)!r}"
            for what in ("name", "folder", "prefix")
            if getattr(kind, what) == getattr(other, what) and (what != "prefix" or kind.prefix)
        ]
        if same and other is not kind:
            raise KvError(f"kind {kind.name!r}: {same[0]} is taken by kind {other.name!r}.")
    _REGISTERED[kind.name] = kind
    return kind


def all_kinds() -> Mapping[str, MeasurementKind]:
    """Return every kind by its name, those of this package first."""
    _import_kinds()
    return MappingProxyType(_REGISTERED)


def kind_of(name: str) -> MeasurementKind:
    """Return a kind by its name.

    Raises KvError for an unknown name, with the nearest one.
    """
    known = all_kinds()
    if name not in known:
        raise unknown("kind of measurement", name, known)
    return known[name]


@functools.cache
def _import_kinds() -> None:
    """Import every module of the package of kinds, each of which registers one."""
    for module in pkgutil.iter_modules(kinds_package.__path__):
        importlib.import_module(f"{kinds_package.__name__}.{module.name}")
