"""The gate at load: a model whose routes to a score do not agree is refused with two numbers."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from invariants.oracle import plain
from invariants.support import checkpoints
from invariants.support.versions import needs_config
from kvcore import gate, io, loading
from kvcore.cache import masks, rope
from kvcore.conditions.parse import condition
from kvcore.data.sample import Sample
from kvcore.engine import forward, limits
from kvcore.engine.prepared import prepare_one
from kvcore.errors import KvError
from kvcore.measurements import answer_nll
from kvcore.models import attention
from kvcore.models.lm import LM

SAMPLES = [
    Sample(
        f"what is the {word}",
        "The sum of the entries along an axis is returned. " * times,
        f"it is the {word} of numbers",
        id=word,
    )
    for word, times in (("mean", 1), ("axis", 2), ("sample", 3))
]
TWO_NUMBERS = re.compile(r"answer token's NLL is -?\d+\.\d{5} and -?\d+\.\d{5} nats")
needs_gemma4 = needs_config("Gemma4Config")
BROKEN = (KvError, AssertionError)
"""What a check that is broken may end in."""


@pytest.fixture(autouse=True)
def no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test's gate runs anew, and leaves nothing for other runs to believe."""
    monkeypatch.setenv("KVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gate, "ADMITTED", set())


def load(folder: Path, **options: Any) -> LM:
    return loading.load(str(folder), device="cpu", **options)


def falcon(folder: Path, **changes: Any) -> Path:
    size = {
        key: value
        for key, value in checkpoints.SIZE.items()
        if key not in ("intermediate_size", "num_key_value_heads")
    }
    return checkpoints.build_checkpoint(folder, transformers.FalconConfig(**size, **changes))


def multimodal(folder: Path) -> Path:
    """Write a Gemma 4 whose vision tower has a rotary module of its own."""
    text = {
        **checkpoints.SIZE,
        "head_dim": 8,
        "global_head_dim": 8,
        "sliding_window": 8,
        "hidden_size_per_layer_input": 0,
        "num_kv_shared_layers": 0,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    }
    kinds = ("image", "boi", "eoi", "audio", "boa", "eoa", "video")
    tower = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "global_head_dim": 8,
    }
    config = transformers.AutoConfig.for_model(
        "gemma4",
        text_config=text,
        audio_config=None,
        vision_config=tower,
        **{f"{kind}_token_id": 370 + i for i, kind in enumerate(kinds)},
    )
    return checkpoints.build_checkpoint(folder, config)


def query_scaled(folder: Path, start: int = 150) -> Path:
    """Write a model whose queries are scaled by their position from `start` on."""
    parameters = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "llama_4_scaling_beta": 2.0,
        "original_max_position_embeddings": start,
    }
    config = transformers.Ministral3Config(
        **checkpoints.SIZE, head_dim=8, sliding_window=None, rope_parameters=parameters
    )
    return checkpoints.build_checkpoint(folder, config)


def overflowing(folder: Path) -> Path:
    """Write a model whose last layer leaves the range of float16, its keys and values do not."""

    def enlarge(model: Any) -> None:
        model.model.layers[-1].mlp.down_proj.weight.mul_(1e6)

    return checkpoints.build_checkpoint(
        folder, transformers.LlamaConfig(**checkpoints.SIZE), enlarge
    )


# --- models that were scored wrongly -----------------------------------------------------------


def check_own_numbers(folder: Path) -> None:
    """Alone, in a batch and on caches, the scores of the model's own forward."""
    lm = load(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    together = answer_nll.score(lm, SAMPLES, ["bare"]).nll
    on_caches = answer_nll.score(lm, SAMPLES, ["bare"], route="cache").nll
    for sample, one, two in zip(SAMPLES, together, on_caches, strict=True):
        read = prepare_one(lm, sample, condition("bare")).tokens
        nlls = plain.bare_nlls(model, lm.bos_id, read.document, read.prompt, read.answer)
        expected = sum(nlls) / len(nlls)
        assert one == pytest.approx(expected, abs=1e-5)
        assert two == pytest.approx(expected, abs=1e-5)


FALCONS: list[dict[str, Any]] = [
    {},
    {"multi_query": False},
    {"new_decoder_architecture": True, "num_kv_heads": 2},
]


@pytest.mark.parametrize("changes", FALCONS, ids=["multi-query", "many heads", "new"])
def test_code_that_asks_for_the_attentions_name(changes: dict[str, Any], tmp_path: Path) -> None:
    """Would catch an attention by another name, on which such code adds masks as numbers.

    1. Scores by our routes.
    2. Teacher forcing on the model as transformers loads it.
    """
    check_own_numbers(falcon(tmp_path / "model", **changes))


def test_twin_code_that_asks_for_the_attentions_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a gate that lets such a model pass under another name."""
    monkeypatch.setattr(attention, "takes_any", lambda _: True)
    with pytest.raises(KvError, match=TWO_NUMBERS):
        load(falcon(tmp_path / "model"))
    monkeypatch.setattr(gate, "TOLERANCES", dict.fromkeys(gate.TOLERANCES, 1e9))
    with pytest.raises(AssertionError):
        check_own_numbers(tmp_path / "model")


@needs_gemma4
def test_the_decoders_own_rotary_module(tmp_path: Path) -> None:
    """Would catch keys turned by the frequencies of a vision tower."""
    folder = multimodal(tmp_path / "model")
    check_own_numbers(folder)
    assert "Text" in type(rope.rotary_module(load(folder))).__name__


@needs_gemma4
def test_twin_the_decoders_own_rotary_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a test that the vision tower's module passes."""
    folder = multimodal(tmp_path / "model")
    monkeypatch.setattr(rope, "text_decoder", lambda model: model)
    with pytest.raises(BROKEN):
        load(folder)


def test_scaling_by_position(tmp_path: Path) -> None:
    """Would catch samples scored past the position from which queries are scaled by it."""
    lm = load(query_scaled(tmp_path / "model"))
    assert limits.exact_positions(lm) == 150
    long = Sample("q", "word " * 200, "a", id="long")
    status = answer_nll.score(lm, [long], ["bare"]).status.iloc[0]
    assert status == "longer than the 150 positions the model is exact for"


def test_twin_scaling_by_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a gate whose long sample is too short to meet the scaling."""
    monkeypatch.setattr(limits, "scaling_start", lambda _: None)
    with pytest.raises(KvError, match=TWO_NUMBERS):
        load(query_scaled(tmp_path / "model"))


def test_a_dtype_that_overflows(tmp_path: Path) -> None:
    """Would catch NaN scores measured for hours, or a refusal without the dtype to use."""
    folder = overflowing(tmp_path / "model")
    with pytest.raises(KvError, match=r"overflows in float16 .*use --kv-dtype bfloat16"):
        load(folder, dtype="float16")
    load(folder, dtype="bfloat16")


def test_twin_a_dtype_that_overflows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a test that passes with the check of finite scores taken out."""
    monkeypatch.setattr(math, "isfinite", lambda _: True)
    monkeypatch.setattr(gate, "largest_difference", lambda *_: 0.0)
    with pytest.raises((pytest.fail.Exception, *BROKEN)):
        test_a_dtype_that_overflows(tmp_path)


# --- faults of ours ----------------------------------------------------------------------------


def ignore_windows(patch: pytest.MonkeyPatch) -> None:
    right = masks.visible
    patch.setattr(masks, "visible", lambda q, k, real, _: right(q, k, real, None))


def attend_to_padding(patch: pytest.MonkeyPatch) -> None:
    right = masks.visible
    patch.setattr(masks, "visible", lambda q, k, real, window: right(q, k, real | True, window))


def turn_the_other_way(patch: pytest.MonkeyPatch) -> None:
    right = rope.rotation

    def broken(lm: LM, kind: Any, deltas: torch.Tensor) -> Any:
        cos, sin = right(lm, kind, deltas)
        return cos, -sin if bool((deltas < 0).any()) else sin

    patch.setattr(rope, "rotation", broken)


def shift_queries(patch: pytest.MonkeyPatch) -> None:
    """Read queries on top of a cache one position too late."""
    right = forward.pad_ids

    def broken(lm: LM, sequences: Any, starts: Any, past: Any = None) -> Any:
        return right(lm, sequences, [start + (past is not None) for start in starts], past)

    patch.setattr(forward, "pad_ids", broken)


FAULTS = {
    "ignore_windows": (ignore_windows, "tiny-mistral"),
    "attend_to_padding": (attend_to_padding, "tiny-llama"),
    "turn_the_other_way": (turn_the_other_way, "tiny-llama"),
    "shift_queries": (shift_queries, "tiny-llama"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_twin_routes_that_do_not_agree(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a gate blind to masks, padding, rotation or positions."""
    plant, name = FAULTS[fault]
    loading.load(name, device="cpu")
    monkeypatch.setattr(gate, "ADMITTED", set())
    for file in (io.cache_folder() / "gates").iterdir():
        file.unlink()
    plant(monkeypatch)
    with pytest.raises(KvError, match=TWO_NUMBERS) as error:
        loading.load(name, device="cpu")
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_every_layer_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch layers that share keys and values under a name that no check knows."""
    lm = loading.load("tiny-llama", device="cpu")
    monkeypatch.setattr(lm.config, "num_hidden_layers", 4)
    with pytest.raises(KvError, match="3 of 4 layers cache keys and values"):
        gate.try_pass(lm)


def test_code_that_fails_in_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a traceback from a model's own code; memory errors pass through."""
    lm = loading.load("tiny-llama", device="cpu")
    errors: list[BaseException] = [TypeError("two\nlines"), torch.OutOfMemoryError("out of memory")]

    def failing(*_: Any, **__: Any) -> Any:
        raise errors[0]

    monkeypatch.setattr(forward, "run_model", failing)
    with pytest.raises(KvError, match=r"tiny-llama: LlamaForCausalLM .*TypeError: two lines"):
        gate.try_pass(lm)
    del errors[0]
    with pytest.raises(torch.OutOfMemoryError):
        gate.try_pass(lm)


# --- what is remembered ------------------------------------------------------------------------


def count_runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list to which every run of the gate adds its model's dtype."""
    runs: list[str] = []
    right = gate.route_scores

    def counted(lm: LM) -> Any:
        runs.append(lm.dtype)
        return right(lm)

    monkeypatch.setattr(gate, "route_scores", counted)
    return runs


def test_what_is_admitted_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a gate that is paid at each load, or one result taken for another dtype's."""
    runs = count_runs(monkeypatch)
    loading.load("tiny-llama", device="cpu")
    monkeypatch.setattr(gate, "ADMITTED", set())  # as in another process
    loading.load("tiny-llama", device="cpu")
    assert runs == ["float32"]
    loading.load("tiny-llama", device="cpu", dtype="bfloat16")
    assert runs == ["float32", "bfloat16"]
    (record, _) = sorted((io.cache_folder() / "gates").glob("*.json"))
    assert json.loads(record.read_text())["model"] == "tiny-llama"


def test_twin_what_is_admitted_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a test blind to what the result is kept under."""
    monkeypatch.setattr(gate, "record_key", lambda _: "0" * 64)
    with pytest.raises(AssertionError):
        test_what_is_admitted_is_remembered(monkeypatch)


def test_what_is_refused_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a refusal that a second load forgets."""
    runs = count_runs(monkeypatch)
    folder = overflowing(tmp_path / "model")
    for _ in range(2):
        with pytest.raises(KvError, match="overflows"):
            load(folder, dtype="float16")
    assert runs == ["float16"] * 2


@pytest.mark.parametrize("part", ["torch", "transformers", "code", "bos"])
def test_what_a_result_hangs_on(part: str, llama: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a result believed after another version, other code or another BOS."""
    before = gate.record_key(llama)
    changed = llama
    if part == "code":
        monkeypatch.setattr(gate, "instrument_hash", lambda: "other")
    elif part == "bos":
        changed = dataclasses.replace(llama, bos_id=llama.bos_id + 1)
    else:
        monkeypatch.setattr(getattr(gate, part), "__version__", "0")
    assert gate.record_key(changed) != before


# --- how far a model is tried ------------------------------------------------------------------


def test_the_long_sample_crosses_what_is_named(lm: LM) -> None:
    """Would catch a gate too short to meet a window, or one that goes past the exact positions."""
    conditions = [condition(name) for name in gate.CONDITIONS]
    short, long = gate.gate_samples(lm, conditions)
    lengths = [1 + len(s.tokens.document) + len(s.query_ids()) for s in (short, long)]
    assert lengths[0] < lengths[1]
    assert lengths[1] > max(limits.windows(lm.config), default=0)
    for each in conditions:
        assert long.length(each) <= limits.exact_positions(lm)


def check_wide_window(folder: Path) -> None:
    """A window too wide to be crossed at load is where the model ends; others are crossed."""
    config = transformers.MistralConfig(
        **{**checkpoints.SIZE, "max_position_embeddings": 32768}, sliding_window=8192
    )
    lm = load(checkpoints.build_checkpoint(folder, config))
    assert limits.exact_positions(lm) == 8192
    _, long = gate.gate_samples(lm, [condition("bare")])
    assert len(long.tokens.document) == gate.LONG


def test_a_window_too_wide_to_be_crossed(tmp_path: Path) -> None:
    """Would catch lengths admitted that were not tried, or minutes spent on trying them."""
    check_wide_window(tmp_path / "model")


def test_twin_a_window_too_wide_to_be_crossed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a test blind to how far a model is tried."""
    monkeypatch.setattr(limits, "uncrossed_window", lambda _: None)
    monkeypatch.setattr(gate, "route_scores", lambda _: {})
    with pytest.raises(AssertionError):
        check_wide_window(tmp_path / "model")
