"""How full a GPU's passes are: its budgets and shards, counted with a tiny model on the CPU."""

from __future__ import annotations

import argparse

import pytest

from benchmarks import host
from invariants.support.comparing import must_see
from kvcore.data import datasets
from kvcore.measurements import shard_size
from kvcore.models.lm import LM

pytestmark = pytest.mark.nightly


def check_passes(lm: LM) -> None:
    """Demand 8,000 tokens of the median pass, and little padding, where lengths are alike."""
    options = argparse.Namespace(host_samples=host.GPU_SAMPLES, passages=10)
    corpus = datasets.load_corpus("docstrings")
    counted = host.gpu_passes(lm, corpus, options, lengths=("of like lengths",))
    passes = counted["of like lengths"]
    assert passes["median_tokens"] >= host.LEAST_TOKENS, f"median {passes['median_tokens']:.0f}"
    assert passes["padding"] <= host.MOST_PADDING, f"padding {passes['padding']:.1%}"


def test_the_passes_of_a_gpu_are_full(llama: LM) -> None:
    """Would catch shards, batches or budgets that leave a GPU with small passes."""
    check_passes(llama)


def test_twin_small_shards(llama: LM) -> None:
    """Would catch a check blind to shards as small as a CPU's."""

    def as_on_cpu(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(shard_size, "on_gpu", lambda _request: False)

    must_see(as_on_cpu, check_passes, llama)
