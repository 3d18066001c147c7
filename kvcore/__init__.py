"""The instrument: KV-cache conditions, exact batched scoring, and verdicts on stored rows.

Importing it is cheap; torch and transformers are loaded by the first call that needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvcore.conditions.parse import truncated as truncated
    from kvcore.conditions.recipes import Condition as Condition
    from kvcore.data.datasets import load_corpus as load_corpus
    from kvcore.data.sample import Sample as Sample
    from kvcore.engine.prime import prime as prime
    from kvcore.loading import load as load
    from kvcore.measurements.answer_nll import score as score
    from kvcore.measurements.explain import explain as explain
    from kvcore.measurements.own_cache import score_cache as score_cache

_HOMES = {
    "Condition": "kvcore.conditions.recipes",
    "Sample": "kvcore.data.sample",
    "explain": "kvcore.measurements.explain",
    "load": "kvcore.loading",
    "load_corpus": "kvcore.data.datasets",
    "prime": "kvcore.engine.prime",
    "score": "kvcore.measurements.answer_nll",
    "score_cache": "kvcore.measurements.own_cache",
    "truncated": "kvcore.conditions.parse",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'kvcore' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
