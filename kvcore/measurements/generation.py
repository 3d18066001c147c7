"""What a model writes itself, in batches.

Prompts are left-padded, so that every row's next token comes from the last slot; positions are
always explicit, and the masks are those of every other pass. One live cache grows by a token a
step, and a row that has ended leaves the batch.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from kvcore import tokenization
from kvcore.cache import hf_cache, masks
from kvcore.engine import batching, limits
from kvcore.errors import KvError
from kvcore.models.lm import LM

BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}  # slots of a batch once it is written
_NEWLINES: weakref.WeakKeyDictionary[LM, frozenset[int]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class DecodingRule:
    """How the next token is chosen and when a text ends.

    - `max_new_tokens`, `min_new_tokens`: before the least number no stop token is chosen; at the
      most the text ends.
    - `temperature`: 0 for greedy.
    - `stop`, `never`: token ids that end a text, and those that are not chosen at all.
    """

    max_new_tokens: int
    min_new_tokens: int = 0
    temperature: float = 0.0
    stop: frozenset[int] = frozenset()
    never: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        if self.max_new_tokens < 1:
            raise KvError(f"max_new_tokens={self.max_new_tokens} must be 1 or more.")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise KvError(
                f"min_new_tokens={self.min_new_tokens} must be in 0..{self.max_new_tokens} "
                "(max_new_tokens)."
            )
        if not 0 <= self.temperature < float("inf"):
            raise KvError(
                f"temperature={self.temperature} must be 0 (greedy) or a positive number."
            )

    def banned(self, step: int) -> list[int]:
        """Return the token ids that may not come as number `step`, counted from 0."""
        return sorted(self.never | (self.stop if step < self.min_new_tokens else frozenset()))


def generate(
    lm: LM,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seeds: Sequence[int] | None = None,
    stop: Iterable[int] | None = None,
    never: Iterable[int] = (),
    min_new_tokens: int = 0,
    batch_tokens: int | None = None,
) -> list[tuple[int, ...]]:
    """Let the model go on from each prompt.

    Parameters
    ----------
    prompts : sequence of int sequences
        Token ids without BOS, which is put before each; an empty prompt is BOS alone.
    max_new_tokens : int
        From 1.
    temperature : float
        0 takes the likeliest token (of equals the first), above 0 samples from
        softmax(logits / temperature).
    seeds : sequence of int, optional
        One per prompt, from 0; needed where temperature is above 0, ignored where it is 0.
    stop : iterable of int, optional
        Token ids that end a text; they are its last token. Default: `end_ids`; ``()`` for none,
        and then an end-of-text token is read on like any other.
    never : iterable of int
        Token ids that are not chosen.
    min_new_tokens : int
        Before this many tokens none of `stop` is chosen: with ``max_new_tokens`` all texts are of
        one length.
    batch_tokens : int, optional
        Most slots of a batch, padding and new tokens included.

    Returns
    -------
    list of tuple of int
        The new ids of each prompt, in the order of the prompts.

    Raises
    ------
    KvError
        Ids outside the vocabulary, a prompt that with its new tokens reaches past the positions
        the model is exact for, seeds that are absent or do not match, logits that are not finite.

    Notes
    -----
    Exact: a row's ids are those of one full forward per token, without cache or padding, up to
    rounding (1e-5 in float32). Where two logits lie closer than that, another batch may choose
    the other one; from there on the texts differ. A row's randomness is one uniform number per
    token from a generator of its own, so it hangs on the seed and nothing else. Cost: one prefill
    and one step per token for each batch; the LM head sees the last position only.
    """
    rule = DecodingRule(
        max_new_tokens,
        min_new_tokens,
        float(temperature),
        end_ids(lm) if stop is None else frozenset(stop),
        frozenset(never),
    )
    sequences = [(lm.bos_id, *(int(i) for i in prompt)) for prompt in prompts]
    check_prompts(lm, sequences, rule)
    noise = uniform_numbers(len(sequences), rule, seeds)
    texts: dict[int, tuple[int, ...]] = {}
    budget = batch_tokens or BATCH_TOKENS.get(lm.device.type, 16384)
    lengths = [len(ids) + max_new_tokens for ids in sequences]
    for batch in batching.batches_by_size(lengths, budget):
        prompts_and_noise = [(sequences[n], noise[n]) for n in batch]
        written = limits.run_or_halve(
            lm, prompts_and_noise, partial(write_batch, lm, rule), what="texts"
        )
        texts |= dict(zip(batch, written, strict=True))
    return [texts[n] for n in range(len(sequences))]


def end_ids(lm: LM) -> frozenset[int]:
    """Return the ids that end a text, by the tokenizer and both of the model's configurations."""
    named = [
        lm.tokenizer.eos_token_id,
        lm.config.eos_token_id,
        getattr(lm.model.generation_config, "eos_token_id", None),
    ]
    listed = [i for ids in named for i in (ids if isinstance(ids, list | tuple) else [ids])]
    return frozenset(int(i) for i in listed if i is not None)


def special_ids(lm: LM) -> frozenset[int]:
    """Return the ids that are no text: special and added tokens, those that end one included."""
    vocabulary = range(int(lm.config.vocab_size))
    text = frozenset(int(i) for i in tokenization.ordinary_ids(lm.tokenizer))
    return (frozenset(vocabulary) - text) | end_ids(lm)


def newline_ids(lm: LM) -> frozenset[int]:
    """Return the ids of tokens whose text holds a newline; looked up once per loaded model."""
    if lm not in _NEWLINES:
        ordinary = [int(i) for i in tokenization.ordinary_ids(lm.tokenizer)]
        spelled = lm.tokenizer.batch_decode([[i] for i in ordinary])
        _NEWLINES[lm] = frozenset(
            i for i, text in zip(ordinary, spelled, strict=True) if "\n" in text
        )
    return _NEWLINES[lm]


def check_prompts(lm: LM, sequences: Sequence[tuple[int, ...]], rule: DecodingRule) -> None:
    """Refuse, before anything is run, what a rule cannot go on from.

    `sequences`: the prompts, BOS included.

    Raises KvError for ids outside the vocabulary, also among the rule's, a prompt too long, or no
    token to choose.
    """
    size = int(lm.config.vocab_size)
    limit = limits.exact_positions(lm)
    named = [(f"prompt {number}", ids) for number, ids in enumerate(sequences)]
    for name, ids in [*named, ("stop or never", tuple(rule.stop | rule.never))]:
        tokenization.check_ids(name, ids, size, lm.name)
    for name, ids in named:
        if len(ids) + rule.max_new_tokens > limit:
            raise KvError(
                f"{name} is {len(ids)} tokens with BOS, and {rule.max_new_tokens} new ones reach "
                f"past the {limit} positions that {lm.name} is exact for; pass a shorter one."
            )
    if len(rule.banned(0)) >= size:
        raise KvError("stop and never leave no token to choose; pass fewer ids.")


def uniform_numbers(count: int, rule: DecodingRule, seeds: Sequence[int] | None) -> np.ndarray:
    """Return uniform numbers in [0, 1), one row per prompt and one column per new token.

    Each row comes from a generator of its own, by the prompt's seed; zeros where the rule is
    greedy and needs none.
    """
    if rule.temperature == 0:
        return np.zeros((count, rule.max_new_tokens))
    if seeds is None or len(seeds) != count or any(seed < 0 for seed in seeds):
        got = "none" if seeds is None else f"{len(seeds)} (least {min(seeds, default=0)})"
        raise KvError(
            f"temperature={rule.temperature} needs one seed from 0 per prompt; got {got} for "
            f"{count} prompts."
        )
    noise = np.zeros((count, rule.max_new_tokens))
    for row, seed in zip(noise, seeds, strict=True):
        np.random.Generator(np.random.PCG64(seed)).random(out=row)
    return noise


def write_batch(
    lm: LM, rule: DecodingRule, prompts: Sequence[tuple[tuple[int, ...], np.ndarray]]
) -> list[tuple[int, ...]]:
    """Write for one batch, a token a step; rows that have ended leave it.

    `prompts`: token ids with BOS, and a uniform number in [0, 1) for each new token.
    """
    noise = np.stack([numbers for _, numbers in prompts])
    texts: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    with torch.inference_mode():
        live = start_batch(lm, [ids for ids, _ in prompts])
        for step in range(rule.max_new_tokens):
            tokens = choose_tokens(lm, live.next_logits(lm), rule, step, noise[rows, step])
            for row, token in zip(rows, tokens, strict=True):
                texts[row].append(token)
            going = [i for i, token in enumerate(tokens) if token not in rule.stop]
            if not going or step + 1 == rule.max_new_tokens:
                break
            live = live.extended(tokens, going)
            rows = [rows[i] for i in going]
    return [tuple(ids) for ids in texts]


@dataclass(frozen=True, eq=False)
class LiveBatch:
    """A batch being written: what is cached, and the tokens that are not read yet.

    - `unread`: (batch, q) int64; the last q slots' tokens.
    - `positions`, `real`: (batch, slots); of all slots, the unread ones included.
    - `cache`: of the other slots; the model appends to it.
    """

    unread: torch.Tensor
    positions: torch.Tensor
    real: torch.Tensor
    cache: Any

    def next_logits(self, lm: LM) -> torch.Tensor:
        """Read what is unread and return the logits behind it, (batch, vocab) float32."""
        positions = self.positions[:, -self.unread.shape[1] :]
        mask = masks.for_model(lm, positions, self.positions, self.real)
        out = lm.model(
            input_ids=self.unread,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = out.logits[:, -1].float()
        return logits

    def extended(self, tokens: Sequence[int], going: Sequence[int]) -> LiveBatch:
        """Return the batch of the rows still going, with the next token of each unread.

        - `tokens`: the next token of every row.
        - `going`: rows that go on; the others leave the cache, which is changed in place.
        """
        device = self.positions.device
        rows = torch.tensor(going, device=device)
        if len(going) < len(tokens):
            self.cache.batch_select_indices(rows)
        positions, real = self.positions[rows], self.real[rows]
        return LiveBatch(
            torch.tensor([[tokens[i]] for i in going], device=device),
            torch.cat([positions, positions[:, -1:] + 1], dim=1),
            torch.cat([real, torch.ones_like(real[:, -1:])], dim=1),
            self.cache,
        )


def start_batch(lm: LM, sequences: Sequence[tuple[int, ...]]) -> LiveBatch:
    """Left-pad sequences into a batch; each counts its positions from 0 at its own BOS."""
    width = max(len(ids) for ids in sequences)
    padding = [width - len(ids) for ids in sequences]
    unread = torch.tensor(
        [[*[lm.bos_id] * n, *ids] for n, ids in zip(padding, sequences, strict=True)]
    )
    positions = torch.arange(width) - torch.tensor(padding).unsqueeze(1)
    return LiveBatch(
        unread.to(lm.device),
        positions.clamp_min(0).to(lm.device),
        (positions >= 0).to(lm.device),
        hf_cache.empty(),
    )


def choose_tokens(
    lm: LM, logits: torch.Tensor, rule: DecodingRule, step: int, noise: np.ndarray
) -> list[int]:
    """Choose each row's next token.

    Raises KvError where a row's largest logit is not finite.

    Parameters
    ----------
    logits : (batch, vocab) float32
        Changed in place where ids are banned.
    step : int
        How many tokens the rows have already.
    noise : (batch,)
        Uniform numbers in [0, 1); not looked at where the rule is greedy.
    """
    logits[:, rule.banned(step)] = -torch.inf
    best = logits.argmax(dim=-1, keepdim=True)
    if not bool(logits.gather(1, best).isfinite().all()):
        raise KvError(f"{lm.name}: the logits are not finite; load the model in another dtype.")
    if rule.temperature > 0:
        # Inverse of the distribution function, the likeliest token's share of it kept exact.
        shares = ((logits - logits.gather(1, best)).double() / rule.temperature).softmax(dim=-1)
        cumulative = shares.cumsum(dim=-1)
        drawn = torch.from_numpy(noise).to(logits.device).unsqueeze(1)
        best = torch.searchsorted(cumulative / cumulative[:, -1:], drawn, right=True)
    tokens: list[int] = best.squeeze(1).tolist()
    return tokens
