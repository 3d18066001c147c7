"""The one place that runs the model: tokens, positions and a cache in; a cache and logits out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kvcore.cache import hf_cache, kv_cache, masks
from kvcore.cache.batch import CacheBatch
from kvcore.cache.kv_cache import KVCache
from kvcore.engine import hooks, shared_layers
from kvcore.models import attention
from kvcore.models.device import upload
from kvcore.models.lm import LM

RowsAndColumns = tuple[Sequence[int], Sequence[int]]
"""Tokens of a pass: their rows, and their columns counted within the pass."""
NO_TOKENS: RowsAndColumns = ((), ())
GROUPS_PER_BYTE = 8


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
    past : KVCache, CacheBatch or None
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
    lm: LM, sequences: Sequence[SequenceInput], past: KVCache | CacheBatch | None = None
) -> ForwardInput:
    """Right-pad sequences into one pass; those with groups need an empty past."""
    lengths = np.array([len(s.ids) for s in sequences])
    columns = np.arange(lengths.max())
    ids = np.full((len(sequences), len(columns)), lm.bos_id)
    positions = np.empty_like(ids)
    for row, (s, length) in enumerate(zip(sequences, lengths, strict=True)):
        ids[row, :length] = s.ids
        positions[row, :length] = s.positions
        # Padding counts on, but never past what is read: some models change their frequencies by
        # the largest position of a pass.
        positions[row, length:] = s.positions[-1] + 1 + columns[: len(columns) - length]
    last = max(s.positions[-1] for s in sequences)
    behind = columns >= lengths[:, None]
    positions[behind] = np.minimum(positions[behind], last)
    return ForwardInput(
        upload(torch.from_numpy(ids), lm.device),
        upload(torch.from_numpy(positions), lm.device),
        upload(torch.from_numpy(~behind), lm.device),
        past,
        blocked_pairs(lm, sequences, len(columns)),
    )


def blocked_pairs(lm: LM, sequences: Sequence[SequenceInput], width: int) -> torch.Tensor | None:
    """Return which token may not attend to which, from their groups.

    Returns
    -------
    (batch, width, width) bool, or None where nothing is blocked
        By query and key, on the model's device: what is uploaded has a row for each sequence, not
        for each of its tokens.
    """
    if not any(s.blocked_groups for s in sequences):
        return None
    count = 1 + max(max(s.groups, default=0) for s in sequences)
    shape = len(sequences), width
    blocked: torch.Tensor | None = None
    for first in range(0, count, GROUPS_PER_BYTE):
        # A byte for each token: as a key, its group; as a query, the groups that it may not see.
        keys, queries = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
        for row, s in enumerate(sequences):
            if not s.blocked_groups:
                continue
            is_group, hides = np.zeros(count, np.uint8), np.zeros(count, np.uint8)
            own = range(first, min(first + GROUPS_PER_BYTE, count))
            is_group[own] = [1 << (group - first) for group in own]
            for query, key in s.blocked_groups:
                if query < count and key in own:
                    hides[query] |= 1 << (key - first)
            groups = np.zeros(width, np.intp)  # padding has the first token's group
            groups[: len(s.groups)] = s.groups
            keys[row], queries[row] = is_group[groups], hides[groups]
        key_bits, query_bits = (
            upload(torch.from_numpy(bits), lm.device) for bits in (keys, queries)
        )
        # A cast, as a comparison of bytes with 0 takes ten times as long on a CPU.
        some = query_bits.unsqueeze(2).bitwise_and(key_bits.unsqueeze(1)).bool()
        blocked = some if blocked is None else blocked | some
    return blocked


def run(
    lm: LM, step: ForwardInput, logits_at: RowsAndColumns = NO_TOKENS
) -> tuple[torch.Tensor, KVCache]:
    """Run the model once.

    Parameters
    ----------
    step : ForwardInput
        Tokens, positions and past; the past is not changed.
    logits_at : pair of int sequences
        Rows and columns of the tokens behind which logits are wanted.

    Returns
    -------
    logits : (len(logits_at[0]), vocab)
        In the model's dtype, with the model's own scaling and soft-capping: the model's forward
        runs whole, only its LM head is handed fewer hidden states.
    cache : KVCache
        The past and this pass's entries.
    """
    cache = hf_cache.empty() if step.past is None else step.past.to_model()
    scores = run_model(lm, step, logits_at, past_key_values=cache, use_cache=True)
    return scores, kv_cache.from_model(cache, step.key_positions(), step.key_real())


def prefill(lm: LM, step: ForwardInput) -> KVCache:
    """Run the model for its cache alone, and no further than its last layer's keys and values.

    Bit for bit the cache that `run` gives; spared are the last layer's attention and MLP.
    """
    cache = hf_cache.stop_after_layer(lm.config.num_hidden_layers - 1)
    with suppress(hf_cache.PrefillComplete):
        run_model(lm, step, NO_TOKENS, past_key_values=cache, use_cache=True)
    return kv_cache.from_model(cache, step.key_positions(), step.key_real())


def logits(
    lm: LM, step: ForwardInput, logits_at: RowsAndColumns, *, share_layers: bool = False
) -> torch.Tensor:
    """Run the model once and keep no cache; see `run`.

    Parameters
    ----------
    share_layers : bool
        Let rows that are alike up to some layer be run once up to there
        (`kvcore.engine.shared_layers`): the batch that a module of the model gets is then not
        that of the pass.
    """
    if step.past is None:
        return run_model(lm, step, logits_at, use_cache=False)
    past = step.past if isinstance(step.past, CacheBatch) else CacheBatch((step.past,))
    if share_layers and step.blocked is None and past is step.past and hooks.has_layer_list(lm):
        read = torch.cat([step.ids, step.positions, step.real.long()], dim=1).tolist()
        classes = shared_layers.classify_rows(past, [tuple(row) for row in read])
        if classes.share_run <= shared_layers.MAX_SHARE_RUN:
            return _logits_of_classes(lm, step, logits_at, past, classes)
    cache = past.as_transient_hf_cache()
    return run_model(lm, step, logits_at, past_key_values=cache, use_cache=True)


def _logits_of_classes(
    lm: LM,
    step: ForwardInput,
    logits_at: RowsAndColumns,
    past: CacheBatch,
    classes: shared_layers.RowClasses,
) -> torch.Tensor:
    """Run a pass once for all rows that are alike, layer by layer."""
    firsts = upload(np.array(classes.first_rows[0], np.int64), lm.device)
    base = ForwardInput(step.ids[firsts], step.positions[firsts], step.real[firsts])
    mask = masks.for_model(
        lm, base.positions, step.key_positions()[firsts], step.key_real()[firsts]
    )
    rows, columns = logits_at
    with shared_layers.layers_shared(lm, classes):
        return run_model(
            lm,
            base,
            ([classes.last_classes[row] for row in rows], columns),
            mask,
            past_key_values=past.as_transient_hf_cache(classes.first_rows),
            use_cache=True,
        )


def run_model(
    lm: LM, step: ForwardInput, logits_at: RowsAndColumns, mask: Any = None, **cache: Any
) -> torch.Tensor:
    """Call the model, the one place that does.

    Parameters
    ----------
    mask : optional
        In the form that the model takes; by default that of the pass.
    **cache
        ``past_key_values`` and ``use_cache``, as the model takes them.

    Returns
    -------
    (len(logits_at[0]), vocab)
    """
    if mask is None:
        mask = masks.for_model(
            lm, step.positions, step.key_positions(), step.key_real(), step.blocked
        )
    rows, columns = (upload(np.array(n, np.int64), lm.device) for n in logits_at)

    def pick(hidden: torch.Tensor) -> torch.Tensor:
        return hidden[rows, columns].unsqueeze(0)

    with torch.inference_mode(), hooks.before_head(lm, pick):
        out = lm.model(
            input_ids=step.ids, position_ids=step.positions, attention_mask=mask, **cache
        )
    return out.logits[0]  # type: ignore[no-any-return]


def own_logits(lm: LM, ids: Sequence[int], columns: Sequence[int]) -> torch.Tensor:
    """Run the model on one sequence as transformers runs it: no mask, no positions, no cache.

    Parameters
    ----------
    columns : sequence of int
        The tokens behind which logits are wanted.

    Returns
    -------
    (len(columns), vocab)
        With the attention that ours stands for.
    """

    def pick(hidden: torch.Tensor) -> torch.Tensor:
        return hidden[:, list(columns)]

    row = torch.tensor([list(ids)], device=lm.device)
    with (
        torch.inference_mode(),
        attention.stock_attention(lm.config),
        hooks.before_head(lm, pick),
    ):
        return lm.model(input_ids=row, use_cache=False).logits[0]  # type: ignore[no-any-return]
