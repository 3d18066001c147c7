"""The NLL of an answer on a cache that somebody brings, with a mask and with attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kvcore import tokenization
from kvcore.cache import kv_cache
from kvcore.cache.kv_cache import KVCache
from kvcore.engine import forward
from kvcore.engine.attention_shares import record_shares
from kvcore.engine.forward import ForwardInput
from kvcore.errors import KvError
from kvcore.measurements.answer_nll import mean_nlls
from kvcore.measurements.token_nlls import token_nlls
from kvcore.models.lm import LM


@dataclass(frozen=True, eq=False)
class CacheScore:
    """An answer's score on a cache.

    Attributes
    ----------
    token_nlls : tuple of float
        NLL of each answer token, in nats.
    nll, nll_tail : float
        Their mean, and that without the first (NaN for one token).
    attention : tuple of (q, slot) float32, or None
        Per layer, how much each token that is read attends to each slot, the cached ones first:
        the mean over heads. Tokens are the prompt's, then the answer's but for the last.
    """

    token_nlls: tuple[float, ...]
    nll: float
    nll_tail: float
    attention: tuple[torch.Tensor, ...] | None = None


def score_cache(
    lm: LM,
    cache: KVCache | Any,
    prompt: str | Sequence[int],
    answer: str | Sequence[int],
    *,
    mask: torch.Tensor | None = None,
    attention: bool = False,
) -> CacheScore:
    """Score an answer on a cache of one sequence; the cache is not changed.

    Parameters
    ----------
    cache : KVCache, or a cache of transformers
        One of transformers holds positions 0, 1, 2, ... in every layer.
    prompt, answer : str or sequence of int
        Texts, tokenized apart and without special tokens, or ids.
    mask : bool tensor, optional
        (q, cached slots) or (cached slots,): False where a token that is read does not see a
        cached slot; what the cache hides stays hidden.
    attention : bool
        Return the attention of every token that is read.

    Raises
    ------
    KvError
        For an empty prompt or answer, a mask of another shape or type, or a cache of several
        sequences; `NotExact` for attention of a model with attention sinks.
    """
    own = cache if isinstance(cache, KVCache) else kv_cache.of_one_sequence(cache)
    prompt_ids, answer_ids = (_ids(lm, x) for x in (prompt, answer))
    if own.batch != 1 or not prompt_ids or not answer_ids:
        raise KvError(
            f"score_cache: got {own.batch} sequences, {len(prompt_ids)} tokens of prompt and "
            f"{len(answer_ids)} of answer; pass one sequence and at least a token of each."
        )
    read = (*prompt_ids, *answer_ids[:-1])
    step = cache_step(lm, own, read, mask)
    columns = range(len(prompt_ids) - 1, len(read))
    at = ([0] * len(answer_ids), columns)
    shares = None
    if attention:
        slots = own.slots + len(read)
        with record_shares(lm, [range(len(read))], [range(slots)], slots) as (recording, record):
            logits = forward.logits(recording, step, at)
        shares = tuple(record.by_layer[layer][0] for layer in sorted(record.by_layer))
    else:
        logits = forward.logits(lm, step, at)
    (nlls,) = token_nlls(logits, [answer_ids])
    return CacheScore(tuple(nlls), *mean_nlls(nlls), shares)


def _ids(lm: LM, text: str | Sequence[int]) -> tuple[int, ...]:
    if isinstance(text, str):
        return tokenization.encode(lm.tokenizer, text)
    ids = tuple(map(int, text))
    tokenization.check_ids("score_cache: a text", ids, lm.config.vocab_size, lm.name)
    return ids


def cache_step(
    lm: LM, cache: KVCache, read: Sequence[int], mask: torch.Tensor | None
) -> ForwardInput:
    """Return the pass that reads tokens behind the last slot that is seen, by the mask, too."""
    start = int(torch.where(cache.real, cache.positions, -1).max()) + 1
    step = forward.pad_ids(lm, [read], [start], cache)
    if mask is None:
        return step
    shapes = ((cache.slots,), (len(read), cache.slots))
    if mask.dtype != torch.bool or tuple(mask.shape) not in shapes:
        raise KvError(
            f"score_cache: `mask` must be bool of shape {shapes[0]} or {shapes[1]}; got "
            f"{mask.dtype} of shape {tuple(mask.shape)}."
        )
    blocked = torch.zeros(1, len(read), cache.slots + len(read), dtype=torch.bool)
    blocked[0, :, : cache.slots] = ~mask.cpu()
    return ForwardInput(step.ids, step.positions, step.real, cache, blocked.to(lm.device))
