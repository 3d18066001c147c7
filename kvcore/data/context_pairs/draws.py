"""Choices that a key alone decides, the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from kvcore.io import digest

T = TypeVar("T")


def pick(options: Sequence[T], *key: object) -> T:
    """Choose one of some options."""
    return options[int(digest(*map(str, key)), 16) % len(options)]


def shuffled(options: Sequence[T], *key: object) -> list[T]:
    """Put options in an order."""
    order = sorted(range(len(options)), key=lambda i: digest(*map(str, key), str(i)))
    return [options[i] for i in order]
