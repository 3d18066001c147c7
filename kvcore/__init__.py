"""The instrument: KV-cache conditions, exact batched scoring, and verdicts on stored rows.

Importing it is cheap; torch and transformers are loaded by the first call that needs them.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvcore.analysis import policy as policy
    from kvcore.analysis import ranking as ranking
    from kvcore.analysis.policy import should_prime as should_prime
    from kvcore.conditions.parse import condition as condition
    from kvcore.conditions.parse import truncated as truncated
    from kvcore.conditions.recipes import Condition as Condition
    from kvcore.data.datasets import load_corpus as load_corpus
    from kvcore.data.sample import Sample as Sample
    from kvcore.engine.prime import prime as prime
    from kvcore.loading import load as load
    from kvcore.measurements import context_switch as context_switch
    from kvcore.measurements import divergence as divergence
    from kvcore.measurements import generation as generation
    from kvcore.measurements import hidden_states as hidden_states
    from kvcore.measurements.answer_nll import score as score
    from kvcore.measurements.explain import explain as explain
    from kvcore.measurements.own_cache import score_cache as score_cache
    from kvcore.measurements.sink_diagnosis import diagnose_sinks as diagnose_sinks

    __version__: str

_HOMES = {
    "Condition": "kvcore.conditions.recipes",
    "Sample": "kvcore.data.sample",
    "condition": "kvcore.conditions.parse",
    "diagnose_sinks": "kvcore.measurements.sink_diagnosis",
    "explain": "kvcore.measurements.explain",
    "load": "kvcore.loading",
    "load_corpus": "kvcore.data.datasets",
    "prime": "kvcore.engine.prime",
    "score": "kvcore.measurements.answer_nll",
    "score_cache": "kvcore.measurements.own_cache",
    "should_prime": "kvcore.analysis.policy",
    "truncated": "kvcore.conditions.parse",
}
_MODULES = {
    "context_switch": "kvcore.measurements.context_switch",
    "divergence": "kvcore.measurements.divergence",
    "generation": "kvcore.measurements.generation",
    "hidden_states": "kvcore.measurements.hidden_states",
    "policy": "kvcore.analysis.policy",
    "ranking": "kvcore.analysis.ranking",
}
__all__ = sorted([*_HOMES, *_MODULES])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("kvclaims")
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name not in _HOMES:
        raise AttributeError(f"module 'kvcore' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
