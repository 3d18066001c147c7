"""The one place that runs the model: tokens, positions and a cache in; a cache and logits out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch

from kvcore.cache import batch as cache_batch
from kvcore.cache import hf_cache, kv_cache, masks
from kvcore.cache.batch import CacheBatch
from kvcore.cache.kv_cache import KVCache
from kvcore.engine import shared_layers
from kvcore.errors import KvError
from kvcore.models.lm import LM


@dataclass(frozen=True)
class SequenceInput:
    """One sequence that is read in a pass.

    Attributes
    ----------
    ids, positions : tuple of int
    groups : tuple of int
        Which group each token belongs to; empty: all belong to one.
    blocked_groups : frozenset of (int, int)
        Pairs of groups, unlike ones, of which the first may not attend to the second.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    groups: tuple[int, ...] = ()
    blocked_groups: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True, eq=False)
class ForwardInput:
    """Everything the model receives in one forward pass.

    Attributes
    ----------
    ids, positions : (batch, q) int64
    real : (batch, q) bool
        False for right padding.
    past : KVCache, Pile or None
        What is already cached for each sequence.
    blocked : (batch, q, q) bool or None
        Who may not attend to whom among this pass's tokens although it could.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    real: torch.Tensor
    past: KVCache | CacheBatch | None = None
    blocked: torch.Tensor | None = None

    def key_positions(self) -> torch.Tensor:
        """Return the positions of all key slots, cached ones first, (batch, slots)."""
        return (
            self.positions
            if self.past is None
            else torch.cat([self.past.positions, self.positions], dim=1)
        )

    def key_real(self) -> torch.Tensor:
        """Return which key slots are real, cached ones first, (batch, slots)."""
        return self.real if self.past is None else torch.cat([self.past.real, self.real], dim=1)


def pad_ids(
    lm: LM,
    sequences: Sequence[Sequence[int]],
    starts: Sequence[int],
    past: KVCache | CacheBatch | None = None,
) -> ForwardInput:
    """Right-pad token sequences into one pass, each at consecutive positions from its start."""
    return pad_sequences(
        lm,
        [
            SequenceInput(tuple(ids), tuple(range(start, start + len(ids))))
            for ids, start in zip(sequences, starts, strict=True)
        ],
        past,
    )


def pad_sequences(
    lm: LM, readings: Sequence[SequenceInput], past: KVCache | CacheBatch | None = None
) -> ForwardInput:
    """Right-pad readings into one pass; readings with groups need an empty past."""
    width = max(len(r.ids) for r in readings)
    ids = torch.tensor([[*r.ids, *[lm.bos_id] * (width - len(r.ids))] for r in readings])
    last = max(r.positions[-1] for r in readings)
    positions = torch.tensor(
        [  # padding counts on, but never past what is read: some models
            [
                *r.positions,  # change their frequencies by the largest position of a pass
                *(min(r.positions[-1] + 1 + i, last) for i in range(width - len(r.ids))),
            ]
            for r in readings
        ]
    )
    real = torch.arange(width) < torch.tensor([len(r.ids) for r in readings]).unsqueeze(1)
    blocked = _blocked_pairs(readings, width)
    return ForwardInput(
        ids.to(lm.device),
        positions.to(lm.device),
        real.to(lm.device),
        past,
        None if blocked is None else blocked.to(lm.device),
    )


def _blocked_pairs(readings: Sequence[SequenceInput], width: int) -> torch.Tensor | None:
    """Return which token may not attend to which, (batch, width, width), from their groups."""
    if not any(r.blocked_groups for r in readings):
        return None
    count = 1 + max(group for r in readings for group in (0, *r.groups))
    rules = torch.zeros(len(readings), count, count, dtype=torch.bool)
    for row, r in enumerate(readings):
        for query, key in r.blocked_groups:
            rules[row, query, key] = True
    padded = [[*r.groups, *[0] * (width - len(r.groups))] for r in readings]
    groups = torch.tensor(padded)
    rows = torch.arange(len(readings))[:, None, None]
    return rules[rows, groups[:, :, None], groups[:, None, :]]


def run(
    lm: LM, given: ForwardInput, wanted: tuple[Sequence[int], Sequence[int]] = ((), ())
) -> tuple[torch.Tensor, KVCache]:
    """Run the model once.

    Parameters
    ----------
    given : Pass
        Tokens, positions and past; the past is not changed.
    wanted : pair of int sequences
        Rows and columns of the tokens whose next-token logits are wanted.

    Returns
    -------
    logits : (len(wanted[0]), vocab)
        In the model's dtype, with the model's own scaling and soft-capping: the model's forward
        runs whole, only its LM head is handed fewer hidden states.
    cache : KVCache
        The past and this pass's entries.
    """
    cache = hf_cache.empty() if given.past is None else given.past.to_model()
    logits = _forward(lm, given, wanted, past_key_values=cache, use_cache=True)
    return logits, kv_cache.from_model(cache, given.key_positions(), given.key_real())


def prefill(lm: LM, given: ForwardInput) -> KVCache:
    """Run the model for its cache alone, and no further than its last layer's keys and values.

    Bit for bit the cache that `run` gives; spared are the last layer's attention and MLP.
    """
    cache = hf_cache.stop_after_layer(lm.config.num_hidden_layers - 1)
    with suppress(hf_cache.PrefillComplete):
        _forward(lm, given, ((), ()), past_key_values=cache, use_cache=True)
    return kv_cache.from_model(cache, given.key_positions(), given.key_real())


def logits(
    lm: LM,
    given: ForwardInput,
    wanted: tuple[Sequence[int], Sequence[int]],
    *,
    branch: bool = False,
) -> torch.Tensor:
    """Run the model once and keep no cache; see `run`.

    Parameters
    ----------
    branch : bool
        Let rows that are alike up to some layer be run once up to there (`kvcore.branching`):
        the batch that a module of the model gets is then not that of the pass.
    """
    if given.past is None:
        return _forward(lm, given, wanted, use_cache=False)
    if branch and given.blocked is None and isinstance(given.past, cache_batch.CacheBatch):
        asked = zip(given.ids.tolist(), given.positions.tolist(), given.real.tolist(), strict=True)
        made = shared_layers.branches(given.past, [str(one) for one in asked])
        if made.share <= shared_layers.WORTHWHILE and shared_layers.layers_of(lm):
            return _branched(lm, given, wanted, given.past, made)
    past = given.past
    batch = past if isinstance(past, CacheBatch) else CacheBatch((past,))
    return _forward(
        lm, given, wanted, past_key_values=batch.as_transient_hf_cache(), use_cache=True
    )


def _branched(
    lm: LM,
    given: ForwardInput,
    wanted: tuple[Sequence[int], Sequence[int]],
    past: cache_batch.CacheBatch,
    made: shared_layers.Branches,
) -> torch.Tensor:
    """Run a pass whose rows branch off on their way up through the layers."""
    first = list(made.rows[0])
    stem = ForwardInput(given.ids[first], given.positions[first], given.real[first])
    mask = masks.for_model(
        lm, stem.positions, given.key_positions()[first], given.key_real()[first]
    )
    rows, columns = wanted
    with shared_layers.branching(lm, made):
        return _forward(
            lm,
            stem,
            ([made.last[row] for row in rows], columns),
            mask,
            past_key_values=past.as_transient_hf_cache(made.rows),
            use_cache=True,
        )


def _forward(
    lm: LM,
    given: ForwardInput,
    wanted: tuple[Sequence[int], Sequence[int]],
    mask: Any = None,
    **cache: Any,
) -> torch.Tensor:
    if mask is None:
        mask = masks.for_model(
            lm, given.positions, given.key_positions(), given.key_real(), given.blocked
        )
    with torch.inference_mode(), _head_sees_only(lm, wanted):
        out = lm.model(
            input_ids=given.ids, position_ids=given.positions, attention_mask=mask, **cache
        )
    return out.logits[0]  # type: ignore[no-any-return]


@contextmanager
def _head_sees_only(lm: LM, wanted: tuple[Sequence[int], Sequence[int]]) -> Iterator[None]:
    """Hand the LM head only the wanted tokens' hidden states, as (1, n, hidden).

    A hook rather than ``logits_to_keep``: that argument takes different positions per row only
    from transformers 5.22 on, and means something else before.
    """
    head = lm.model.get_output_embeddings()
    if head is None:
        raise KvError(f"{lm.name}: no LM head found; load a causal language model.")
    rows, columns = (list(w) for w in wanted)

    def pick(_module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *rest = inputs
        return (hidden[rows, columns].unsqueeze(0), *rest)

    handle = head.register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()
