"""Rows that are alike up to a layer are run once up to there: same numbers, less work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import example, given

from invariants.support import strategies
from invariants.support.comparing import Fault, assert_scores, must_see
from invariants.support.samples import LONG, SHORT
from invariants.support.strategies import once
from kvcore.cache.batch import CacheBatch
from kvcore.cache.kv_cache import KVCache
from kvcore.data.sample import Sample
from kvcore.engine import forward, hooks, shared_layers
from kvcore.measurements import answer_nll
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

    handles = [
        module.register_forward_hook(
            lambda _module, _inputs, out, layer=layer: note(
                layer, len(out[0] if isinstance(out, tuple) else out)
            )
        )
        for layer, module in enumerate(hooks.layers_of(lm))
    ]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


def scored(lm: LM, samples: Sequence[Sample]) -> tuple[Any, list[list[int]]]:
    """Score hybrids; return the rows and what each layer ran, prefills left out."""
    with rows_run(lm) as passes:
        rows = answer_nll.score(lm, samples, HYBRIDS, targets=("answer", "answer_question"))
    whole = [p for p in passes if len(p) == lm.config.num_hidden_layers]
    return rows, whole


def check_sharing_changes_no_score(lm: LM, samples: Sequence[Sample]) -> None:
    """Each token's score is what it is where every row runs through every layer."""
    shared, rows = scored(lm, samples)
    assert any(len(set(p)) > 1 for p in rows), "no pass shared a layer"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_layers, "MAX_SHARE_RUN", 0.0)
        plain, rows = scored(lm, samples)
    assert all(len(set(p)) == 1 for p in rows), "a pass shared a layer that should not have"
    assert list(shared.condition) == list(plain.condition)
    for ours, theirs in zip(shared.itertuples(), plain.itertuples(), strict=True):
        assert_scores(ours.token_nlls, theirs.token_nlls, f"{ours.sample_id}, {ours.condition}")


@once
@given(batch=strategies.batches(2, max_words=8))
@example(batch=[LONG, SHORT])
@example(batch=[SHORT])
def test_sharing_changes_no_score(lm: LM, batch: list[Sample]) -> None:
    """Would catch rows that are taken to be alike and are not, or handed another row's states.

    1. Rows that are alike up to a layer run once up to there.
    2. Every row runs through every layer.
    """
    check_sharing_changes_no_score(lm, batch)


def from_the_base(patch: pytest.MonkeyPatch) -> None:
    """Take hidden states by base classes, not by those of the layer below."""
    right = shared_layers.spread_hook
    patch.setattr(
        shared_layers, "spread_hook", lambda size, base, _parents: right(size, base, base)
    )


def mistake_the_last(patch: pytest.MonkeyPatch) -> None:
    right = shared_layers.classify_rows

    def broken(*arguments: Any) -> shared_layers.RowClasses:
        classes = right(*arguments)
        return dataclasses.replace(classes, last_classes=classes.last_classes[::-1])

    patch.setattr(shared_layers, "classify_rows", broken)


def look_at_keys_alone(patch: pytest.MonkeyPatch) -> None:
    """Take rows to be alike where their keys are, whatever their values."""
    right = CacheBatch.storage_keys
    patch.setattr(
        CacheBatch,
        "storage_keys",
        lambda self: ([row[: len(row) // 2] for row in layer] for layer in right(self)),
    )


def look_at_memory_alone(patch: pytest.MonkeyPatch) -> None:
    """Take rows to be alike whatever they are asked."""
    right = shared_layers.classify_rows
    patch.setattr(
        shared_layers, "classify_rows", lambda past, asked: right(past, [0 for _ in asked])
    )


def forget_positions(patch: pytest.MonkeyPatch) -> None:
    """Take rows to be alike that share keys and values at other positions, the keys unturned."""
    right = shared_layers.classify_rows

    def broken(past: CacheBatch, asked: Sequence[object]) -> shared_layers.RowClasses:
        return right(past, [str(one).split("]")[0] for one in asked])

    patch.setattr(
        CacheBatch,
        "position_keys",
        lambda self: [()] * sum(p.batch for p in self.parts),
    )
    patch.setattr(shared_layers, "classify_rows", broken)
    patch.setattr(
        CacheBatch,
        "storage_keys",
        lambda self, right=CacheBatch.storage_keys: (
            [row[: len(row) // 2] for row in layer] for layer in right(self)
        ),
    )


@pytest.mark.parametrize(
    "fault",
    [from_the_base, mistake_the_last, look_at_keys_alone, look_at_memory_alone, forget_positions],
)
def test_twin_sharing(llama: LM, fault: Fault) -> None:
    """Would catch a check blind to rows taken from the wrong class."""
    must_see(fault, check_sharing_changes_no_score, llama, [LONG, SHORT])


def check_layers_run(lm: LM, sweep: Callable[[int], str]) -> None:
    """In a sweep of single layers each layer runs once for all conditions above it."""
    depth = lm.config.num_hidden_layers
    with rows_run(lm) as passes:
        answer_nll.score(lm, [LONG], [sweep(layer) for layer in range(depth)])
    assert passes[-1] == [min(layer + 2, depth) for layer in range(depth)]


def test_a_sweep_runs_what_is_alike_once(llama: LM) -> None:
    """Would catch layers that run again for rows which are still alike."""
    check_layers_run(llama, lambda layer: f"values_layer(static_fact,{layer})")


def test_twin_a_sweep_of_unlike_conditions(llama: LM) -> None:
    """Would catch a check that any list of conditions passes."""
    with pytest.raises(AssertionError):
        check_layers_run(llama, lambda layer: f"interp(static_fact,0.{layer + 1})")


def test_scoring_shares_layers(llama: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch scoring that runs every row through every layer."""
    shared: list[bool] = []
    right = forward.logits

    def noted(*arguments: Any, share_layers: bool = False) -> torch.Tensor:
        shared.append(share_layers)
        return right(*arguments, share_layers=share_layers)

    monkeypatch.setattr(forward, "logits", noted)
    answer_nll.score(llama, [LONG], ["values_only", "values_layer(static_fact,1)"])
    assert shared == [True]
    assert answer_nll.MAX_CONDITIONS_IN_MEMORY > 1


def test_the_example_of_the_module_docstring() -> None:
    """Would catch classes numbered otherwise than the docstring draws them."""
    a, b, B, c, C = (torch.full((1, 1, 2, 4), float(n)) for n in range(5))
    positions, real = torch.arange(2).unsqueeze(0), torch.ones(1, 2, dtype=torch.bool)
    rows = [
        KVCache(layers, layers, positions, real) for layers in ((a, b, c), (a, B, c), (a, B, C))
    ]
    assert shared_layers.classify_rows(CacheBatch(tuple(rows)), ["read"] * 3) == (
        shared_layers.RowClasses(
            first_rows=((0,), (0, 1), (0, 1, 2)),
            base_classes=((0,), (0, 0), (0, 0, 0)),
            parents=((0,), (0, 0), (0, 1, 1)),
            last_classes=(0, 1, 2),
        )
    )
