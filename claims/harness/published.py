"""The published values of ``claims/published.toml``, read once and checked entry by entry."""

from __future__ import annotations

import functools
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from kvcore.errors import KvError
from kvcore.measurements.base import Place
from kvcore.measurements.needs import SHARES
from kvcore.verdict import Published, check_slug

PATH = Path(__file__).parent.parent / "published.toml"
UNITS = (
    *("d", "d of groups", "r", "proportion", "nats/token", "norm"),
    *("AUC", "MRR", "AUC difference", "MRR difference", "AUC slope"),
)
OF_LISTS = ("AUC", "MRR", "d of groups")
"""How the units of values begin that rank lists of passages."""
NO_CLAIM = "none: "
"""How the field ``claim`` of an entry begins; the reason follows."""
_DIGITS = 6  # of a difference of two published values, which rounding would spell with more


@dataclass(frozen=True)
class Entry:
    """One published value with its origin; the fields are those of the file, explained there."""

    id: str
    experiment: str
    model: str
    dataset: str
    metric: str
    unit: str
    effect: float
    source: str
    clustered_by: str
    n: int | None = None
    clusters: int | None = None
    baseline: str = ""
    condition: str = ""
    statistic: str = ""
    difference: tuple[str, ...] = ()
    derived: str = ""
    mean: float | None = None
    win: float | None = None
    p: float | None = None
    note: str = ""
    text: str = ""
    legacy: bool = False
    shown_only: str = ""
    claim: str = ""

    @property
    def place(self) -> Place:
        """The model and dataset that it was published for."""
        return (self.model, self.dataset)

    @property
    def published(self) -> Published:
        """The value as claims and reports take it."""
        return Published(
            self.effect, self.n, self.metric, legacy=self.legacy, text=self.words, unit=self.unit
        )

    @property
    def words(self) -> str:
        """How a reader is told of it: as its source words it, or by effect, win and p."""
        if self.text:
            return self.text
        more = [] if self.win is None else [f"win {self.win * 100:.1f} %"]
        more += [] if self.p is None else [f"p {self.p:.2g}"]
        legacy = " (legacy)" if self.legacy else ""
        return ", ".join([f"{self.unit} {self.effect:+.3f}", *more]) + legacy


@functools.cache
def published_values(path: Path = PATH) -> Mapping[str, Entry]:
    """Read every published value of a file, by id.

    Raises KvError, in one line that names the entry, for a file that is no TOML and for an entry
    with unknown or missing fields, a value of another type, an unknown unit, a number that is not
    finite or out of range, an id that is no slug, or a difference of values that are not there.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise KvError(f"{path.name} is not valid TOML: {error}.") from error
    entries: dict[str, Entry] = {}
    for name, table in tables.items():
        try:
            entries[name] = _entry(name, table, tables)
        except KvError as error:
            raise KvError(f"{path.name}, {name}: {error}") from error
    return entries


def published_value(name: str, path: Path = PATH) -> Entry:
    """Return the published value of an id; KvError says how to add an unknown one."""
    values = published_values(path)
    if name not in values:
        raise KvError(f"published={name!r} is no id of {path.name}; add it there or mend the id.")
    return values[name]


def published_details(names: Iterable[str]) -> dict[str, float | str]:
    """Return what was published beside a claim's own value, as secondary numbers of its block.

    Raises KvError for an unknown id.
    """
    details: dict[str, float | str] = {}
    for entry in map(published_value, names):
        what = ", ".join(
            part for part in (entry.statistic, entry.baseline, entry.condition) if part
        )
        named = f"published for {entry.model} on {entry.dataset}: {what}"
        details[f"{named} ({entry.unit})"] = entry.effect
        if entry.mean is not None:
            details[f"{named} (mean, nats/token)"] = entry.mean
        if entry.win is not None:
            details[f"{named} (win rate)"] = entry.win
    return details


def limit_for(place: Place) -> int | None:
    """Return the ``--kv-limit`` that gives a place every n published of it, None where none was.

    Lists take a part of the limit, so that theirs counts as many times more.
    """
    counts = (
        entry.n * (SHARES["lists"] if entry.unit.startswith(OF_LISTS) else 1)
        for entry in published_values().values()
        if entry.place == place and entry.n
    )
    return max(counts, default=None)


def _entry(name: str, table: Any, tables: Mapping[str, Any]) -> Entry:
    check_slug("the id", name)
    if not isinstance(table, dict):
        raise KvError(f"must be a table of fields; got {table!r}.")
    fields: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in table.items()
    }
    if ("effect" in fields) == ("difference" in fields):
        raise KvError("give it either an effect or the difference of two ids.")
    fields |= {"id": name, "effect": _effect(fields, tables)}
    _check_types(fields)
    try:
        entry = Entry(**fields)
    except TypeError as error:
        known = ", ".join(Entry.__dataclass_fields__)
        raise KvError(f"{error}; the fields are {known}.") from error
    _check_numbers(entry)
    return entry


def _effect(fields: Mapping[str, Any], tables: Mapping[str, Any]) -> Any:
    """Return the effect, computed where it is the difference of two other values."""
    if "effect" in fields:
        value = fields["effect"]
        return float(value) if type(value) is int else value
    names = fields["difference"]
    values = [tables[n].get("effect") for n in names if isinstance(tables.get(n), dict)]
    if len(values) != 2 or any(type(value) not in (int, float) for value in values):
        raise KvError(f"difference must be two ids of values with an effect; got {list(names)}.")
    return round(values[0] - values[1], _DIGITS)


def _check_types(fields: Mapping[str, Any]) -> None:
    types = get_type_hints(Entry)
    for name, value in fields.items():
        allowed = types.get(name)
        plain = tuple if name == "difference" else allowed
        if plain is not None and not isinstance(value, plain):
            raise KvError(f"{name} must be {getattr(allowed, '__name__', allowed)}; got {value!r}.")


def _check_numbers(entry: Entry) -> None:
    if entry.unit not in UNITS:
        raise KvError(f"unit must be one of {', '.join(UNITS)}; got {entry.unit!r}.")
    for name in ("effect", "mean"):
        value = getattr(entry, name)
        if value is not None and not math.isfinite(value):
            raise KvError(f"{name} must be a finite number; got {value}.")
    for name in ("win", "p"):
        value = getattr(entry, name)
        if value is not None and not 0 <= value <= 1:
            raise KvError(f"{name} must be in [0, 1]; got {value}.")
    for name in ("n", "clusters"):
        value = getattr(entry, name)
        if value is not None and value < 1:
            raise KvError(f"{name} must be 1 or more; got {value}.")
    if entry.n is None and not entry.legacy:
        raise KvError("n is missing; only legacy values may lack it.")
    if entry.claim and not entry.claim.startswith(NO_CLAIM):
        raise KvError(f"claim must be {NO_CLAIM!r} and the reason; got {entry.claim!r}.")
