"""The published values: each is there once, claims refer to them, and predict what was published.

Where claims are compared with published values there are two routes: (1) the declarations of
``claims/test_*.py`` as the harness specifies them, (2) the entries of ``claims/published.toml``.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from claims.harness import claims, published, registry
from claims.harness.claims import ClaimSpec, Declaration, Instead, specified
from claims.harness.published import Entry, published_value, published_values
from invariants.support.settings import settings
from kvcore.errors import KvError
from kvcore.verdict import Cell, Prediction, Published, helps, hurts

# By experiment and unit: how many published comparisons there are, their sum of effects and of n.
# Levels (mean NLL, MRR, Hit@k) and what was derived here are left out.
CONTENT: dict[tuple[str, str], tuple[int, float, int]] = {}


def comparisons(entries: Iterable[Entry]) -> dict[tuple[str, str], tuple[int, float, int]]:
    """Return what `CONTENT` holds, of entries."""
    groups: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        if not (entry.statistic or entry.difference or entry.derived):
            groups[entry.experiment, entry.unit].append(entry)
    return {
        key: (len(group), round(sum(e.effect for e in group), 4), sum(e.n or 0 for e in group))
        for key, group in groups.items()
    }
