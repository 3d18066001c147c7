"""The names of who wrote a continuation: its author, the model, or chance."""

from __future__ import annotations

import re

from kvcore.errors import unknown

SOURCES = ("human", "greedy", "temperature(0.7)", "shuffled")
_WRITER = re.compile(r"greedy\((.+)\)")
_TEMPERATURE = re.compile(r"temperature\(([0-9]+(?:\.[0-9]+)?)\)")


def check_source(source: str) -> None:
    """Raise KvError for a name that is no source, with the nearest one."""
    if source not in SOURCES and writer_of(source) is None:
        temperature_of(source)


def writer_of(source: str) -> str | None:
    """Return the model that writes a source where it is another than the one that reads.

    ``greedy(gemma2-2b)`` is what gemma2-2b writes; any model with the same tokenizer may read it.
    """
    named = _WRITER.fullmatch(source)
    return named[1] if named else None


def temperature_of(source: str) -> float:
    """Return the temperature at which a source is written, 0 for greedy.

    Raises KvError for a source that no model writes.
    """
    named = _TEMPERATURE.fullmatch(source)
    if source != "greedy" and (named is None or float(named[1]) == 0):
        raise unknown("source", source, (*SOURCES, "temperature(<above 0>)", "greedy(<model>)"))
    return float(named[1]) if named else 0.0
