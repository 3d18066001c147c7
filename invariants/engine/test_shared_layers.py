"""Rows that are alike up to a layer are run once up to there: same numbers, less work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import example, given
from transformers import AttentionInterface

from invariants.conditions.test_conditions import LONG, SHORT, once
from invariants.support import strategies
from invariants.support.comparing import ROUNDOFF, Fault, assert_scores, must_see
from kvcore.cache import batch as cache_batch
from kvcore.cache import hf_cache
from kvcore.corpora.sample import Sample
from kvcore.engine import forward, shared_layers
from kvcore.measurements import answer_nll
from kvcore.models import attention
from kvcore.models.lm import LM

HYBRIDS = (
    "bare",
    "values_only(static_fact)",
    "values_layer(static_fact,2)",
    "values_layer(static_fact,1)",
    "values_early_layers(static_fact,2)",
    "values_early_positions(static_fact,0.5)",
    "interp(static_fact,0.25)",
    "qvi(0.5)",
    "no_reposition(static_fact)",
)


@contextmanager
def rows_run(lm: LM) -> Iterator[list[list[int]]]:
    """Note how many rows each layer gets, one list for every pass through the first layer."""
    passes: list[list[int]] = []

    def note(layer: int, rows: int) -> None:
        if layer == 0:
            passes.append([])
        passes[-1].append(rows)

    hooks = [
        module.register_forward_hook(
            lambda _module, _inputs, out, layer=layer: note(
                layer, len(out[0] if isinstance(out, tuple) else out)
            )
        )
        for layer, module in enumerate(shared_layers.layers_of(lm))
    ]
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()


def scored(lm: LM, samples: Sequence[Sample]) -> tuple[Any, list[list[int]]]:
    """Score hybrids; return the rows and what each layer ran, prefills left out."""
    with rows_run(lm) as passes:
        rows = answer_nll.score(lm, samples, HYBRIDS, targets=("answer", "answer_question"))
    whole = [p for p in passes if len(p) == lm.config.num_hidden_layers]
    return rows, whole


def check_branching_changes_no_score(lm: LM, samples: Sequence[Sample]) -> None:
    """Each token's score is what it is where every row runs through every layer."""
    branched, rows = scored(lm, samples)
    assert any(len(set(p)) > 1 for p in rows), "no pass branched"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_layers, "WORTHWHILE", 0.0)
        plain, rows = scored(lm, samples)
    assert all(len(set(p)) == 1 for p in rows), "a pass branched that should not have"
    assert list(branched.condition) == list(plain.condition)
    for ours, theirs in zip(branched.itertuples(), plain.itertuples(), strict=True):
        assert_scores(ours.token_nlls, theirs.token_nlls, f"{ours.sample_id}, {ours.condition}")


@once
@given(batch=strategies.batches(2, max_words=8))
@example(batch=[LONG, SHORT])
@example(batch=[SHORT])
def test_branching_changes_no_score(lm: LM, batch: list[Sample]) -> None:
    check_branching_changes_no_score(lm, batch)


def from_the_stem(patch: pytest.MonkeyPatch) -> None:
    """Take hidden states by the first layer's places, not by those of the layer below."""
    right = shared_layers._branch
    patch.setattr(shared_layers, "_branch", lambda base, stems, _parents: right(base, stems, stems))


def mistake_the_last(patch: pytest.MonkeyPatch) -> None:
    right = shared_layers.branches

    def broken(*given_: Any) -> shared_layers.Branches:
        made = right(*given_)
        return dataclasses.replace(made, last=made.last[::-1])

    patch.setattr(shared_layers, "branches", broken)


def look_at_keys_alone(patch: pytest.MonkeyPatch) -> None:
    """Take rows to be alike where their keys are, whatever their values."""
    right = cache_batch.CacheBatch.storage_keys
    patch.setattr(
        cache_batch.CacheBatch,
        "storage_keys",
        lambda self: ([row[: len(row) // 2] for row in layer] for layer in right(self)),
    )


def look_at_memory_alone(patch: pytest.MonkeyPatch) -> None:
    """Take rows to be alike whatever they are asked."""
    right = shared_layers.branches
    patch.setattr(shared_layers, "branches", lambda past, asked: right(past, [0 for _ in asked]))


def forget_positions(patch: pytest.MonkeyPatch) -> None:
    """Take rows to be alike that share keys and values at other positions, the keys unturned."""
    right = shared_layers.branches

    def broken(past: cache_batch.CacheBatch, asked: Sequence[object]) -> shared_layers.Branches:
        return right(past, [str(one).split("]")[0] for one in asked])

    patch.setattr(
        cache_batch.CacheBatch,
        "position_keys",
        lambda self: [()] * sum(p.batch for p in self.parts),
    )
    patch.setattr(shared_layers, "branches", broken)
    patch.setattr(
        cache_batch.CacheBatch,
        "storage_keys",
        lambda self, right=cache_batch.CacheBatch.storage_keys: (
            [row[: len(row) // 2] for row in layer] for layer in right(self)
        ),
    )


@pytest.mark.parametrize(
    "fault",
    [from_the_stem, mistake_the_last, look_at_keys_alone, look_at_memory_alone, forget_positions],
)
def test_twin_branching(llama: LM, fault: Fault) -> None:
    """A branch off the wrong row, or of rows that are not alike, is seen."""
    must_see(fault, check_branching_changes_no_score, llama, [LONG, SHORT])


def check_layers_run(lm: LM, sweep: Callable[[int], str]) -> None:
    """In a sweep of single layers each layer runs once for all conditions above it."""
    depth = lm.config.num_hidden_layers
    with rows_run(lm) as passes:
        answer_nll.score(lm, [LONG], [sweep(layer) for layer in range(depth)])
    assert passes[-1] == [min(layer + 2, depth) for layer in range(depth)]


def test_a_sweep_runs_what_is_alike_once(llama: LM) -> None:
    """Bare below the layer, primed values in it, bare again above."""
    check_layers_run(llama, lambda layer: f"values_layer(static_fact,{layer})")


def test_twin_a_sweep_of_unlike_conditions(llama: LM) -> None:
    """Conditions that differ in every layer are no such sweep."""
    with pytest.raises(AssertionError):
        check_layers_run(llama, lambda layer: f"interp(static_fact,0.{layer + 1})")


def check_a_pile_is_its_stack(lm: LM) -> None:
    """Read joined layer by layer, caches of unequal batches give the bits of one joined before."""
    two = forward.prefill(
        lm, forward.pad_ids(lm, [[0, *range(9, 60, 3)], [0, *range(70, 95, 5)]], [0, 0])
    )
    one = forward.prefill(lm, forward.pad_ids(lm, [[0, *range(100, 180, 3)]], [0]))
    pile, stacked = (
        cache_batch.CacheBatch((two, one, two.rows([1]))),
        cache_batch.stack([two, one, two.rows([1])]),
    )
    before = [x.clone() for c in (two, one) for x in (*c.keys, *c.values)]
    asked = [[11, 12, 13], [14, 15], [16, 17, 18, 19], [20]]
    starts = (stacked.lengths()).tolist()
    wanted = ([0, 1, 2, 3], [2, 1, 3, 0])
    found = forward.logits(lm, forward.pad_ids(lm, asked, starts, pile), wanted)
    whole, grown = forward.run(lm, forward.pad_ids(lm, asked, starts, stacked), wanted)
    assert torch.equal(found, whole), "joined on the way"
    assert grown.slots == stacked.slots + 4
    again = forward.run(lm, forward.pad_ids(lm, asked, starts, pile), wanted)[0]
    assert torch.equal(again, whole), "joined for the model"
    after = [x for c in (two, one) for x in (*c.keys, *c.values)]
    assert all(map(torch.equal, before, after)), "reading changed a cache"


def test_a_pile_is_its_stack(lm: LM) -> None:
    check_a_pile_is_its_stack(lm)


def new_before_old(patch: pytest.MonkeyPatch) -> None:
    right = hf_cache.join_padded

    def broken(parts: Any, width: int, behind: Any = None) -> Any:
        made = right(parts, width, behind)
        return made if behind is None else made.roll(1, dims=2)

    patch.setattr(hf_cache, "join_padded", broken)


def parts_upside_down(patch: pytest.MonkeyPatch) -> None:
    right = hf_cache.join_padded
    patch.setattr(
        hf_cache,
        "join_padded",
        lambda parts, width, behind=None: right(
            parts if behind is None else parts[::-1], width, behind
        ),
    )


@pytest.mark.parametrize("fault", [new_before_old, parts_upside_down])
def test_twin_a_pile(llama: LM, fault: Fault) -> None:
    """Slots or rows in another order are seen."""
    must_see(fault, check_a_pile_is_its_stack, llama)


# --- grouped heads ------------------------------------------------------------------------------


def check_attention(heads: int, kv_heads: int, scaling: float | None) -> None:
    """Grouped SDPA is a softmax written out in float64, head by head."""
    draw = torch.Generator().manual_seed(heads)
    query, key, value = (
        torch.randn(2, n, s, 8, generator=draw)
        for n, s in ((heads, 3), (kv_heads, 7), (kv_heads, 7))
    )
    mask = torch.rand(2, 1, 3, 7, generator=draw) < 0.6
    mask[..., 0] = True
    found, _ = attention.attend(torch.nn.Module(), query, key, value, mask, scaling=scaling)
    assert found.shape == (2, 3, heads, 8)
    for head in range(heads):
        of = head // (heads // kv_heads)
        scores = query[:, head].double() @ key[:, of].double().mT * (scaling or 8**-0.5)
        weights = scores.masked_fill(~mask[:, 0], -torch.inf).softmax(-1)
        off = (found[:, :, head] - weights @ value[:, of].double()).abs().max()
        assert off <= 128 * ROUNDOFF, f"head {head} of {heads}: off by {float(off):.1e}"


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_grouped_attention(heads: int, kv_heads: int, scaling: float | None) -> None:
    check_attention(heads, kv_heads, scaling)


def another_grouping(patch: pytest.MonkeyPatch) -> None:
    """Let the heads that share a key head stand apart: 0, 2, 4 and 1, 3, 5."""
    right = attention.attend

    def broken(module: Any, query: Any, *given_: Any, **named: Any) -> Any:
        mixed = query.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2)
        out, none = right(module, mixed, *given_, **named)
        return out.unflatten(2, (2, -1)).transpose(2, 3).flatten(2, 3), none

    patch.setattr(attention, "attend", broken)


def no_scaling(patch: pytest.MonkeyPatch) -> None:
    right = attention.attend
    patch.setattr(attention, "attend", lambda *given_, **_: right(*given_))


@pytest.mark.parametrize("fault", [another_grouping, no_scaling])
def test_twin_grouped_attention(fault: Fault) -> None:
    must_see(fault, check_attention, 6, 2, 0.3)


def check_the_models_own_attention(lm: LM) -> None:
    """With a mask or without, logits are those of the attention transformers would have used."""
    ids = torch.tensor([[0, *range(20, 200, 7)]])
    mask = torch.ones(1, 1, ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    pinned = lm.config._attn_implementation
    found = []
    try:
        for name in (pinned, "sdpa"):
            lm.config._attn_implementation = name
            found += [
                lm.model(input_ids=ids, attention_mask=given_).logits for given_ in (mask, None)
            ]
    finally:
        lm.config._attn_implementation = pinned
    for ours, theirs in zip(found[:2], found[2:], strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=128 * ROUNDOFF * float(theirs.abs().max()))


def test_the_models_own_attention(lm: LM) -> None:
    if lm.config._attn_implementation == "eager":
        assert lm.config.model_type == "gemma2"
        return
    assert lm.config._attn_implementation == attention.GROUPED_SDPA
    check_the_models_own_attention(lm)


def test_twin_the_models_own_attention(llama: LM) -> None:
    """An attention that sees what is to come is seen."""

    def blind_to_masks(patch: pytest.MonkeyPatch) -> None:
        def broken(module: Any, query: Any, key: Any, value: Any, mask: Any, **named: Any) -> Any:
            seen = None if mask is None else mask | True
            return attention.attend(module, query, key, value, seen, **named)

        patch.setitem(AttentionInterface._global_mapping, attention.GROUPED_SDPA, broken)

    must_see(blind_to_masks, check_the_models_own_attention, llama)


def test_scoring_branches(llama: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine asks for branching; other readers of caches, whose hooks count rows, do not."""
    asked: list[bool] = []
    right = forward.logits
    monkeypatch.setattr(
        forward,
        "logits",
        lambda *given_, **named: (
            asked.append(named.get("branch", False)) or right(*given_, **named)
        ),
    )
    answer_nll.score(llama, [LONG], ["values_only", "values_layer(static_fact,1)"])
    assert asked == [True]
    assert answer_nll.MAX_CONDITIONS_IN_MEMORY > 1
