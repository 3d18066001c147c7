"""A passage's cache under a condition, for use outside this project."""

from __future__ import annotations

from collections.abc import Mapping

from kvcore.cache.kv_cache import KVCache
from kvcore.conditions import parse
from kvcore.conditions.recipes import Condition
from kvcore.data.sample import Sample
from kvcore.engine import build, prepared
from kvcore.errors import KvError
from kvcore.models.lm import LM


def prime(
    lm: LM,
    passage: str,
    condition: str | Condition = "static_fact",
    *,
    query: str = "",
    texts: Mapping[str, str] | None = None,
    seed: int = 0,
) -> KVCache:
    """Return the cache of a passage under a condition, as scores are taken on it.

    Parameters
    ----------
    passage : str
        What is cached.
    condition : str or Condition
        As `kvcore.score` takes it.
    query : str
        What conditions on the query (``oracle``, ``random``, ``qvi``) need; the passage is
        tokenized as it is behind it.
    texts : mapping of str to str, optional
        Further texts that some conditions read, such as ``past_query``.
    seed : int
        That of the random prefix.

    Returns
    -------
    KVCache
        Of one sequence. ``lm.model.generate(**cache.for_generate(ids), max_new_tokens=20)`` goes
        on from it; ``cache.to_model()`` is the cache alone, as transformers takes it.

    Raises
    ------
    KvError
        For an unknown condition, one that needs a query where there is none, a passage that cannot
        be measured under it, or a model that it cannot be exact on.

    Notes
    -----
    Exact: the very cache that `kvcore.score` reads an answer on. One pass per distinct prefill.
    """
    parsed = parse.condition(condition)
    on_query = any(prefix.kind in ("query", "random") for prefix in parsed.prefixes())
    if on_query and not query.strip():
        raise KvError(f"prime: condition {parsed.name!r} needs a query; pass query=... .")
    prepared.check_conditions(lm, [parsed])
    # An answer is part of every sample; this one is not read.
    sample = Sample(query, passage, "-", texts=tuple((texts or {}).items()))
    return build.build(lm, parsed.recipe, {}, [prepared.prepare_one(lm, sample, parsed, seed)])
