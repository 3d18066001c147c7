"""The library's calls against the engine: primed caches, scores on one's own cache, attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import kvcore
from invariants.support.comparing import PREFILL_TOLERANCE, assert_close_per_layer, must_see
from invariants.support.plain_routes import Case, assert_same_cache, caches, document_cache
from invariants.support.samples import LONG
from kvcore.cache import kv_cache, masks
from kvcore.data.sample import Sample
from kvcore.engine import forward
from kvcore.errors import KvError
from kvcore.measurements import answer_nll, own_cache
from kvcore.models.lm import LM

NAMES = ("bare", "oracle", "static_fact", "values_only(oracle)", "full_context(static_fact)")


def primed(lm: LM, name: str) -> kv_cache.KVCache:
    """Prime the long sample's passage, its query at hand."""
    return kvcore.prime(lm, LONG.passage, name, query=LONG.query)


def check_prime(lm: LM, name: str) -> None:
    """Compare a primed cache with the engine's, and a score on it with the row of that sample."""
    (expected,) = caches(lm, LONG, name)
    cache = primed(lm, name)
    assert_same_cache(cache, expected, name)
    row = answer_nll.score(lm, [LONG], [name]).iloc[0]
    prompt, answer = Case(lm, LONG).asked
    score = kvcore.score_cache(lm, cache, prompt, answer)
    assert score.token_nlls == pytest.approx(row.token_nlls, abs=1e-5)
    assert (score.nll, score.nll_tail) == pytest.approx((row.nll, row.nll_tail), abs=1e-5)
    assert_same_cache(cache, expected, f"{name}, after a score")


@pytest.mark.parametrize("name", NAMES)
def test_a_primed_cache_is_the_engines(lm: LM, name: str) -> None:
    """Would catch a library call that primes or scores otherwise than rows are measured.

    1. `kvcore.prime` and `kvcore.score_cache`.
    2. The engine's own cache, and `kvcore.score`.
    """
    check_prime(lm, name)


def prime_without_query(patch: pytest.MonkeyPatch) -> None:
    right = Sample
    patch.setattr(
        "kvcore.engine.prime.Sample",
        lambda query, passage, answer, texts: right(query[:-1], passage, answer, texts=texts),
    )


def test_twin_prime(llama: LM) -> None:
    """Would catch a check blind to a prefix that is not the query."""
    must_see(prime_without_query, check_prime, llama, "oracle")


def check_generate(lm: LM, name: str) -> None:
    """Compare the tokens that transformers generates on a primed cache with the engine's."""
    cache = primed(lm, name)
    prompt, _ = Case(lm, LONG).asked
    model: Any = lm.model
    made = model.generate(
        **cache.for_generate(prompt),
        max_new_tokens=6,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    written = made[0, cache.slots + len(prompt) :].tolist()
    expected: list[int] = []
    for _ in range(6):
        read = [*prompt, *expected]
        step = forward.pad_ids(lm, [read], [cache.slots], cache)
        expected.append(int(forward.logits(lm, step, ([0], [len(read) - 1])).argmax()))
    assert written == expected


@pytest.mark.parametrize("name", ["bare", "oracle", "values_only(oracle)"])
def test_generate_goes_on_from_a_primed_cache(lm: LM, name: str) -> None:
    """Would catch a cache that transformers reads at other positions than the engine.

    1. ``generate`` of transformers on ``for_generate``.
    2. The engine, token by token, on the same cache.
    """
    check_generate(lm, name)


def test_twin_generate(llama: LM) -> None:
    """Would catch a check blind to another cache than the primed one."""

    def scale_values(patch: pytest.MonkeyPatch) -> None:
        right = kv_cache.KVCache.to_model
        patch.setattr(
            kv_cache.KVCache,
            "to_model",
            lambda self: right(replace(self, values=tuple(-3 * v for v in self.values))),
        )

    def fault(patch: pytest.MonkeyPatch) -> None:
        right = kv_cache.KVCache.for_generate

        def broken(self: kv_cache.KVCache, ids: list[int]) -> dict[str, object]:
            with pytest.MonkeyPatch.context() as inner:
                scale_values(inner)
                return right(self, ids)

        patch.setattr(kv_cache.KVCache, "for_generate", broken)

    must_see(fault, check_generate, llama, "oracle")


def check_mask(lm: LM) -> None:
    """Compare a query-time mask with the same slots hidden in the cache, row by row and at once."""
    cache = primed(lm, "bare")
    prompt, answer = Case(lm, LONG).asked
    seen = torch.ones(cache.slots, dtype=torch.bool)
    near = range(cache.slots - 4, cache.slots - 1)  # within every window
    seen[list(near)] = False
    hidden = kvcore.score_cache(lm, cache.hide([list(near)]), prompt, answer)
    plain = kvcore.score_cache(lm, cache, prompt, answer)
    rows = seen.expand(len(prompt) + len(answer) - 1, -1)
    for mask in (seen, rows):
        masked = kvcore.score_cache(lm, cache, prompt, answer, mask=mask)
        assert masked.token_nlls == pytest.approx(hidden.token_nlls, abs=1e-5)
        assert masked.token_nlls != pytest.approx(plain.token_nlls, abs=1e-7)


def test_a_mask_hides_slots_from_the_query(lm: LM) -> None:
    """Would catch a mask that is ignored, or turned round.

    1. The slots masked from every token that is read.
    2. The slots hidden in the cache.
    """
    check_mask(lm)


def test_twin_mask(llama: LM) -> None:
    """Would catch a check blind to a mask that is ignored."""

    def ignore(patch: pytest.MonkeyPatch) -> None:
        right = own_cache.cache_step
        patch.setattr(
            own_cache, "cache_step", lambda lm, cache, read, _: right(lm, cache, read, None)
        )

    must_see(ignore, check_mask, llama)


def check_attention(lm: LM) -> None:
    """Compare the attention with softmax over the model's own eager weights."""
    cache = primed(lm, "static_fact")
    prompt, answer = Case(lm, LONG).asked
    score = kvcore.score_cache(lm, cache, prompt, answer, attention=True)
    assert score.token_nlls == kvcore.score_cache(lm, cache, prompt, answer).token_nlls
    assert score.attention is not None
    read = [*prompt, *answer[:-1]]
    step = forward.pad_ids(lm, [read], [cache.slots], cache)
    was = lm.config._attn_implementation
    lm.model.set_attn_implementation("eager")
    try:
        mask = masks.for_model(lm, step.positions, step.key_positions(), step.key_real())
        with torch.inference_mode():
            eager = lm.model(
                input_ids=step.ids,
                position_ids=step.positions,
                attention_mask=mask,
                past_key_values=cache.to_model(),
                output_attentions=True,
            ).attentions
    finally:
        lm.model.set_attn_implementation(was)
    for ours, theirs in zip(score.attention, eager, strict=True):
        torch.testing.assert_close(ours, theirs[0].mean(dim=0).float(), atol=1e-5, rtol=0)


def test_attention_is_that_of_eager_attention(llama: LM) -> None:
    """Would catch attention of other tokens or slots than those that are read.

    1. The recording attention, mean over heads.
    2. ``output_attentions`` of the model with eager attention.
    """
    check_attention(llama)


def test_twin_attention(llama: LM) -> None:
    """Would catch a check blind to the attention of the neighbouring layer."""

    def turn_layers_round(patch: pytest.MonkeyPatch) -> None:
        right = own_cache.CacheScore
        patch.setattr(
            own_cache,
            "CacheScore",
            lambda nlls, nll, tail, shares: right(nlls, nll, tail, shares and shares[::-1]),
        )

    must_see(turn_layers_round, check_attention, llama)


def check_bos(lm: LM) -> None:
    """Swap BOS between caches: in prefills nothing changes, from elsewhere the first slot alone."""
    bare, oracle = caches(lm, LONG, "bare", "oracle")
    swapped = bare.with_bos_of(oracle)
    for own, theirs, what in (
        (swapped.keys, bare.keys, "keys"),
        (swapped.values, bare.values, "values"),
    ):
        assert_close_per_layer(own, theirs, PREFILL_TOLERANCE, f"{what}: BOS sees itself alone")
    other = document_cache(lm, [7, 8])
    changed = bare.with_bos_of(other)
    for layer in range(len(bare.keys)):
        for own, theirs, first in (
            (changed.keys, bare.keys, other.keys),
            (changed.values, bare.values, other.values),
        ):
            assert torch.equal(own[layer][:, :, :1], first[layer][:, :, :1])
            assert torch.equal(own[layer][:, :, 1:], theirs[layer][:, :, 1:])
    with pytest.raises(KvError, match="other positions"):
        bare.with_bos_of(document_cache(lm, [7, 8], start=3))


def test_bos_of_another_cache(lm: LM) -> None:
    """Would catch a swap of other slots than BOS's."""
    check_bos(lm)


def test_twin_bos(llama: LM) -> None:
    """Would catch a check blind to a swap that changes nothing."""

    def leave(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(kv_cache.KVCache, "with_bos_of", lambda self, _: self)

    must_see(leave, check_bos, llama)


def test_what_cannot_be_done_is_one_line(llama: LM) -> None:
    """Would catch a query made up, a mask guessed or a gap that ``generate`` would read wrongly."""
    with pytest.raises(KvError, match="needs a query"):
        kvcore.prime(llama, LONG.passage, "random")
    with pytest.raises(KvError, match="did you mean"):
        kvcore.prime(llama, LONG.passage, "statik_fact")
    cache = kvcore.prime(llama, LONG.passage)
    with pytest.raises(KvError, match="must be bool of shape"):
        kvcore.score_cache(llama, cache, "a", "b", mask=torch.ones(3))
    with pytest.raises(KvError, match="at least a token of each"):
        kvcore.score_cache(llama, cache, "", "b")
    with pytest.raises(KvError, match="positions 0, 1, 2"):
        cache.hide([[1]]).for_generate([5])
    own = kvcore.score_cache(llama, cache, "a b", "c d")
    theirs = kvcore.score_cache(llama, cache.to_model(), "a b", "c d")
    assert own.token_nlls == theirs.token_nlls
    with pytest.raises(KvError, match="holds no layers"):
        kvcore.score_cache(llama, object(), "a", "b")
