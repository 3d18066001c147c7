"""Every hub model of the registry: a tiny checkpoint in its published form, from load to score.

The configurations are spelled as the checkpoints spell them, which for all of them is older than
the installed transformers, with everything that decides a route kept and only sizes made small.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from invariants.oracle import plain
from invariants.support.comparing import assert_scores, must_see
from invariants.support.hub_models import PUBLISHED, WINDOWED, WITHOUT_BOS, save
from invariants.support.quantized import check_nf4
from kvcore import loading
from kvcore.cache import masks, rope
from kvcore.conditions.parse import condition
from kvcore.data.sample import Sample
from kvcore.engine import rope_probe
from kvcore.engine.prepared import prepare_one
from kvcore.measurements import answer_nll
from kvcore.models import attention, load, registry
from kvcore.models import files as model_files
from kvcore.models.lm import LM
from kvcore.models.registry import REGISTRY

CONDITIONS = ("bare", "random", "oracle")
SAMPLES = (
    Sample("what is the mean", "The sum divided by the number of samples.", "a mean"),
    Sample(
        "what does the function do?",  # longer than every window
        "It returns the sum of the entries along an axis, " * 4,
        "it returns the sum",
    ),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Saved:
    """A tiny checkpoint on disk, loaded, and the model it was saved from."""

    name: str
    folder: Path
    built: Any
    lm: LM


@pytest.fixture(scope="module", params=PUBLISHED)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """One of the checkpoints, loaded as a user's folder is."""
    folder = tmp_path_factory.mktemp("checkpoint")
    built = save(request.param, folder, PUBLISHED[request.param])
    return Saved(request.param, folder, built, loading.load(str(folder), device="cpu"))


def assert_engine_equals_one_pass(saved: Saved, route: Any) -> None:
    """Each token's score is finite and that of one masked pass of the model before it was saved."""
    lm = saved.lm
    scored = answer_nll.score(lm, SAMPLES, CONDITIONS, route=route).set_index(
        ["sample_id", "condition"]
    )
    assert set(scored.status) == {"ok"}
    for sample, name in itertools.product(SAMPLES, CONDITIONS):
        ready = prepare_one(lm, sample, condition(name))
        prefix = ready.prefixes[condition(name).prefixes()[0]]
        read = ready.tokens
        reference = plain.one_pass_nlls(
            saved.built, lm.bos_id, prefix, read.document, read.prompt, read.answer
        )
        nlls = scored.token_nlls[sample.id, name]
        assert all(map(math.isfinite, nlls))
        assert_scores(nlls, reference, f"{saved.name}, {name}")


def assert_every_hub_model_is_here() -> None:
    """Each has its form above, and runs where it fits."""
    hub = {name: entry for name, entry in REGISTRY.items() if entry.source.startswith("hub:")}
    assert set(hub) == set(PUBLISHED)
    assert {name for name, entry in hub.items() if not entry.gpu} == {"llama3.2-1b", "qwen2.5-0.5b"}
    assert all(entry.gpu for entry in hub.values() if entry.quantization)
    assert {entry.dtype for entry in hub.values() if not entry.gpu} == {"float32"}


def test_every_hub_model_has_its_published_form_here() -> None:
    """Would catch an entry without its published form here, or too big for a CPU and unmarked."""
    assert_every_hub_model_is_here()


@pytest.mark.parametrize("name", ["mistral-7b", "an-added-one"])
def test_twin_an_entry_without_its_form_or_mark_is_seen(name: str) -> None:
    """Would catch a check blind to an entry that nobody tests, or one loaded whole on a CPU."""
    entry = dataclasses.replace(REGISTRY["mistral-7b"], gpu=False)
    must_see(lambda patch: patch.setitem(REGISTRY, name, entry), assert_every_hub_model_is_here)


@pytest.mark.parametrize("route", ["auto", "cache"])
def test_a_published_checkpoint_scores_as_the_plain_route(saved: Saved, route: str) -> None:
    """Would catch what is lost between a published checkpoint and its scores.

    1. The checkpoint loaded from disk, scored on either route of the engine.
    2. One masked pass of the model it was saved from.
    """
    assert_engine_equals_one_pass(saved, route)


def test_twin_a_key_left_unturned_is_seen(saved: Saved) -> None:
    """Would catch a check blind to keys that stay where they were prefilled."""
    must_see(
        lambda patch: patch.setattr(rope, "rotate", lambda keys, *_: keys),
        assert_engine_equals_one_pass,
        saved,
        "cache",
    )


def test_twin_a_forgotten_window_is_seen(saved: Saved) -> None:
    """Would catch a check blind to a sliding layer that sees everything."""
    right = masks.visible

    def forget(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(masks, "visible", lambda q, k, real, _window: right(q, k, real, None))

    if saved.name in WINDOWED:
        must_see(forget, assert_engine_equals_one_pass, saved, "cache")
    else:
        with pytest.MonkeyPatch.context() as patch:
            forget(patch)
            assert_engine_equals_one_pass(saved, "cache")


def test_twin_a_weight_lost_in_loading_is_seen(saved: Saved) -> None:
    """Would catch a check blind to a matrix that is not the one in the file."""

    def lose(patch: pytest.MonkeyPatch) -> None:
        name, weight = [
            (n, p)
            for n, p in saved.lm.model.named_parameters()
            if n.endswith("v_proj.weight") and "vision" not in n
        ][-1]
        assert "layers" in name
        patch.setattr(weight, "data", torch.zeros_like(weight))

    must_see(lose, assert_engine_equals_one_pass, saved, "auto")


def assert_the_text_model_is_described(saved: Saved) -> None:
    """Configuration, BOS and rope bases are those of the model that reads text."""
    lm, text = saved.lm, PUBLISHED[saved.name].get("text_config", PUBLISHED[saved.name])
    assert type(lm.model).__name__ == PUBLISHED[saved.name]["architectures"][0]
    assert lm.config.model_type == text["model_type"]
    assert (lm.config.num_hidden_layers, lm.max_length) == (text["num_hidden_layers"], 2048)
    kinds = masks.layer_kinds(lm)
    assert (masks.SLIDING in kinds, masks.FULL in kinds) == (saved.name in WINDOWED, True)
    assert lm.config._attn_implementation == (
        "eager" if text["model_type"] == "gemma2" else attention.GROUPED_SDPA
    )
    assert lm.bos_source == ("config" if saved.name in WITHOUT_BOS else "tokenizer")
    assert model_files.rope_bases(lm.files) == len(rope_probe.rope_plan(lm).bases)


def test_the_text_model_is_described(saved: Saved) -> None:
    """Would catch the wrapper of a text model described, or rope bases left to its class lost."""
    assert_the_text_model_is_described(saved)


@pytest.mark.parametrize("saved", ["gemma3-4b"], indirect=True)
def test_twin_bases_that_are_left_out_are_missed(saved: Saved) -> None:
    """Would catch a check blind to bases that config.json leaves out."""
    must_see(
        lambda patch: patch.setattr(registry, "IMPLIED_ROPE_BASES", {}),
        assert_the_text_model_is_described,
        saved,
    )


@pytest.mark.parametrize("saved", ["gemma3-4b"], indirect=True)
def test_twin_the_wrapper_is_not_the_text_model(saved: Saved) -> None:
    """Would catch a check that the configuration of the whole checkpoint passes."""
    wrapper = dataclasses.replace(
        saved, lm=dataclasses.replace(saved.lm, config=saved.lm.model.config)
    )
    with pytest.raises(AssertionError):
        assert_the_text_model_is_described(wrapper)


def widened(published: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration wide enough for blocks of 4-bit weights."""
    wide = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "initializer_range": 0.05}
    if "text_config" not in published:
        return published | wide
    seeing = {"hidden_size": 64, "intermediate_size": 128}
    return published | {
        "text_config": published["text_config"] | wide,
        "vision_config": published["vision_config"] | seeing,
    }


QUANTIZED = [name for name, entry in REGISTRY.items() if entry.quantization]


def assert_a_quantized_entry_scores(name: str, folder: Path) -> None:
    """In its own dtype and 4 bits, the scores of the full weights rounded to 4 bits."""
    entry = REGISTRY[name]
    full = loading.load(str(folder), device="cpu")
    small = loading.load(
        str(folder), device="cpu", dtype=entry.dtype, quantization=entry.quantization
    )
    assert small.dtype == entry.dtype
    check_nf4(full, small, SAMPLES, CONDITIONS)


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_quantized_entry_loads_and_scores(name: str, tmp_path: Path) -> None:
    """Would catch layers left whole, or rounded otherwise than to nf4 with double quantization.

    1. The entry loaded in 4 bits.
    2. Its full weights, each matrix quantized and dequantized by itself.
    """
    save(name, tmp_path, widened(PUBLISHED[name]))
    assert_a_quantized_entry_scores(name, tmp_path)


@pytest.mark.parametrize("name", QUANTIZED)
def test_twin_weights_that_stay_whole_are_seen(name: str, tmp_path: Path) -> None:
    """Would catch a check blind to a quantization lost on the way to the weights."""
    save(name, tmp_path, widened(PUBLISHED[name]))
    right = load.load_folder

    def whole(files: model_files.ModelFiles, *rest: Any) -> Any:
        return right(dataclasses.replace(files, quantization=None), *rest)

    must_see(
        lambda patch: patch.setattr(load, "load_folder", whole),
        assert_a_quantized_entry_scores,
        name,
        tmp_path,
    )
