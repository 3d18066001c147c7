"""What a model takes is known before its weights are loaded, and what cannot fit is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from invariants.support import checkpoints
from invariants.support.comparing import must_see, replaced
from kvcore.errors import KvError
from kvcore.models import memory, tiny, tiny_configs
from kvcore.models.load import load_model
from kvcore.models.memory import MemoryNeed

CPU = torch.device("cpu")


def check_weights(dtype: str) -> None:
    """Demand that the estimate of the weights is what each loaded tiny model holds."""
    for name in tiny_configs.NAMES:
        model, _ = tiny.build(name)
        held = model.to(dtype=getattr(torch, dtype)).get_memory_footprint()
        estimated = memory.estimate_need(model.config, dtype, None).weights
        assert estimated == pytest.approx(held, rel=0.02), name  # buffers of rope stay float32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_estimate_of_weights_is_what_they_take(dtype: str) -> None:
    """Would catch parameters left out or counted twice, or a dtype's size mistaken.

    Routes: (1) the estimate from the configuration; (2) the bytes of the model, built.
    """
    check_weights(dtype)


def test_twin_a_pass_counted_as_weights_is_seen() -> None:
    """The check above, were the estimate to hold more than the weights."""

    def broken(real: object, *arguments: object) -> MemoryNeed:
        need: MemoryNeed = real(*arguments)  # type: ignore[operator]
        return MemoryNeed(need.total, need.one_pass)

    must_see(replaced(memory, "estimate_need", broken), check_weights, "float32")


def test_nf4_weights_take_what_bitsandbytes_takes(tmp_path: Path) -> None:
    """Would catch the quantized layers' size mistaken, or the head or embeddings counted as nf4."""
    config = AutoConfig.for_model(
        "llama",
        vocab_size=512,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tiny.build("tiny-llama")[1].save_pretrained(tmp_path)
    lm = load_model(str(tmp_path), device="cpu", quantization="nf4")
    embedding, head = lm.model.get_input_embeddings(), lm.model.get_output_embeddings()
    whole = [p for module in (embedding, head) for p in module.parameters()]
    assert all(p.dtype == torch.float32 for p in whole)
    states = [p.quant_state for p in lm.model.parameters() if hasattr(p, "quant_state")]
    scales = sum(state.absmax.numel() + 4 * state.state2.absmax.numel() + 4 for state in states)
    held = scales + sum(p.numel() * p.element_size() for p in lm.model.parameters())
    estimated = memory.estimate_need(lm.model.config, "float32", "nf4").weights
    assert estimated == pytest.approx(held, rel=0.01)


def check_refusal(folder: Path) -> None:
    """Demand one line with what is needed and what is there, before a weight is read."""
    try:
        load_model(str(folder), device="cpu")
    except KvError as error:
        text = str(error)
        assert "takes at least" in text
        assert "has 0.0 GiB left" in text
        assert "\n" not in text
        return
    raise AssertionError("a model was loaded that cannot fit")


def test_a_model_that_cannot_fit_is_refused_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch hours spent on a model that runs out of memory at its first pass.

    Its twin: the same, were any model said to fit.
    """
    checkpoints.save_tiny(tmp_path)
    monkeypatch.setattr(memory, "available_memory", lambda _: 1000)
    must_see(replaced(memory, "check_fits", lambda *_: None), check_refusal, tmp_path)


def test_a_model_that_fits_exactly_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a model refused at the very memory it takes."""
    config = AutoConfig.from_pretrained(checkpoints.save_tiny(tmp_path))
    need = memory.estimate_need(config, "float32", None)
    monkeypatch.setattr(memory, "available_memory", lambda _: need.total)
    assert load_model(str(tmp_path), device="cpu").name == str(tmp_path)


def test_memory_of_the_machine_is_what_is_left() -> None:
    """Would catch kilobytes taken for bytes."""
    assert 2**28 < memory.available_memory(CPU) < 2**45
