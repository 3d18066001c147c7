"""The instrument: KV-cache conditions, exact batched scoring, and verdicts on stored rows.

Importing it is cheap; torch and transformers are loaded by the first call that needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvcore.conditions import Condition as Condition
    from kvcore.conditions import truncated as truncated
    from kvcore.corpora import Sample as Sample
    from kvcore.corpora import load_corpus as load_corpus
    from kvcore.explanation import explain as explain
    from kvcore.loading import load as load
    from kvcore.scoring import score as score

_HOMES = {
    "Condition": "kvcore.conditions", "truncated": "kvcore.conditions",
    "Sample": "kvcore.corpora", "load_corpus": "kvcore.corpora",
    "explain": "kvcore.explanation", "load": "kvcore.loading", "score": "kvcore.scoring",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'kvcore' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
