"""What cannot be loaded rightly is refused in one line that names the folder and the cause."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from safetensors.torch import load_file
from transformers import BitsAndBytesConfig

from invariants.support import checkpoints
from invariants.support.checkpoints import add_weights, edit_config
from invariants.support.versions import VERSION
from kvcore.errors import KvError
from kvcore.models import folder_checks, load, model_checks, tiny
from kvcore.models.load import load_model

Damage = Callable[[Path], object]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
TYPES = (KvError, AssertionError)
"""What a check that is broken may end in: nothing is refused, or not for its cause."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint."""
    return checkpoints.llama(tmp_path_factory.mktemp("plain"))


def refusal(folder: Path, **options: Any) -> str:
    """Return the one line with which a folder is refused, "" where it loads."""
    try:
        load_model(str(folder), device="cpu", **options)
    except KvError as error:
        text = str(error)
        assert "\n" not in text
        assert str(folder) in text
        return text
    return ""


def check_refused(plain: Path, folder: Path, damage: Damage, cause: str) -> None:
    """A damaged copy is refused for its cause."""
    shutil.copytree(plain, folder, dirs_exist_ok=True)
    damage(folder)
    text = refusal(folder)
    assert cause in text, f"refused as {text!r}"


def cut_weights(folder: Path) -> None:
    path = folder / checkpoints.WEIGHTS
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose_a_shard(folder: Path) -> None:
    checkpoints.shard(folder)[1].unlink()


def cut_a_shard(folder: Path) -> None:
    path = checkpoints.shard(folder)[1]
    path.write_bytes(path.read_bytes()[:-5])


def lose_the_index(folder: Path) -> None:
    checkpoints.shard(folder)
    (folder / folder_checks.INDEX).unlink()


def store_in_8_bits(folder: Path) -> None:
    """Store products' weights as float8 with scales, and say nothing of it in config.json."""
    weights = load_file(folder / checkpoints.WEIGHTS)
    packed: dict[str, torch.Tensor] = {}
    for name in [name for name in weights if name.endswith("proj.weight")]:
        scale = weights[name].abs().max() / 448
        packed |= {
            name: (weights[name] / scale).to(torch.float8_e4m3fn),
            f"{name}_scale": scale.reshape(1),
        }
    add_weights(folder, packed)


def written(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content)


def configured(**changes: Any) -> Damage:
    return lambda folder: edit_config(folder, **changes)


def quantized_by(method: str, **more: Any) -> Damage:
    return configured(quantization_config={"quant_method": method, **more})


def with_weight(name: str, *shape: int) -> Damage:
    return lambda folder: add_weights(folder, {name: torch.ones(shape)})


def with_tokens(*, special: bool) -> Damage:
    """Give the tokenizer one token more than the embedding has rows."""

    def damage(folder: Path) -> None:
        tokenizer = tiny.train_tokenizer(sentencepiece=False)
        if special:
            tokenizer.add_special_tokens({"bos_token": "<another>"})
        else:
            tokenizer.add_tokens(["<another>"])
        tokenizer.save_pretrained(folder)

    return damage


ADAPTER = json.dumps({"peft_type": "LORA", "r": 4}).encode()
# transformers 5.0 builds such a model; that its weights do not fit is seen all the same.
INVALID = (
    ("cannot be loaded", (load, "cause_of"))
    if Version("5.1") <= VERSION
    else ("in another shape than config.json", (model_checks, "check_weights"))
)
# What is done to a whole checkpoint, what the refusal says, and the production check behind it.
DAMAGED: dict[str, tuple[Damage, str, tuple[Any, str]]] = {
    "cut": (cut_weights, "is cut or damaged", (folder_checks, "check_weight_file")),
    "cut shard": (cut_a_shard, "is cut or damaged", (folder_checks, "check_weight_file")),
    "lost shard": (lose_a_shard, "lacks 1 of 7 shards", (folder_checks, "check_files")),
    "no index": (lose_the_index, "download is incomplete", (folder_checks, "check_files")),
    "pointer": (
        written(checkpoints.WEIGHTS, POINTER),
        "is a Git LFS pointer",
        (folder_checks, "check_pointers"),
    ),
    "tokenizer pointer": (
        written("tokenizer.json", POINTER),
        "is a Git LFS pointer",
        (folder_checks, "check_pointers"),
    ),
    "only a configuration": (
        lambda folder: (folder / checkpoints.WEIGHTS).unlink(),
        "is incomplete: it holds a configuration but no weights",
        (folder_checks, "check_files"),
    ),
    "adapter": (
        written("adapter_config.json", ADAPTER),
        "holds an adapter",
        (folder_checks, "check_files"),
    ),
    "float8": (store_in_8_bits, "as F8_E4M3", (folder_checks, "packed")),
    "unread biases": (
        with_weight("model.layers.0.self_attn.q_proj.bias", 32),
        "holds 1 weights that LlamaForCausalLM does not read",
        (model_checks, "check_weights"),
    ),
    "unread layer": (
        configured(num_hidden_layers=2),
        "holds 9 weights that LlamaForCausalLM does not read",
        (model_checks, "check_weights"),
    ),
    "unread scales": (
        with_weight("model.layers.0.mlp.up_proj.weight_scale", 1),
        "does not read",
        (model_checks, "check_weights"),
    ),
    "another shape": (
        configured(intermediate_size=64),
        "in another shape than config.json",
        (model_checks, "check_weights"),
    ),
    "gptq": (
        quantized_by("gptq", bits=4),
        "quantized by gptq",
        (folder_checks, "unreadable"),
    ),
    "awq": (quantized_by("awq", bits=4), "quantized by awq", (folder_checks, "unreadable")),
    "compressed": (
        quantized_by("compressed-tensors"),
        "quantized by compressed-tensors",
        (folder_checks, "unreadable"),
    ),
    "fp8": (quantized_by("fp8"), "quantized by fp8", (folder_checks, "unreadable")),
    "int8": (
        quantized_by("bitsandbytes", load_in_8bit=True),
        "bitsandbytes to int8",
        (folder_checks, "unreadable"),
    ),
    "unknown type": (
        configured(model_type="of-tomorrow"),
        "model_type 'of-tomorrow' is not known to transformers",
        (load, "cause_of"),
    ),
    "no type": (configured(model_type=None), "names no model_type", (load, "cause_of")),
    "invalid": (configured(num_attention_heads=5), *INVALID),
    "unknown activation": (
        configured(hidden_act="of-tomorrow"),
        "cannot be loaded",
        (load, "cause_of"),
    ),
    "damaged configuration": (
        written("config.json", b"{"),
        "config.json cannot be read",
        (folder_checks, "one_line"),
    ),
    "damaged tokenizer": (
        written("tokenizer.json", b"{"),
        "the tokenizer in",
        (load, "cause_of"),
    ),
    "is_causal": (
        configured(is_causal=False),
        "is_causal: false",
        (model_checks, "unsupported_flags"),
    ),
    "bidirectional": (
        configured(use_bidirectional_attention=True),
        "attends in both directions",
        (model_checks, "unsupported_flags"),
    ),
    "encoder and decoder": (
        configured(model_type="t5"),
        "of type t5, which is no causal",
        (model_checks, "check_config"),
    ),
    "padding beyond": (
        configured(pad_token_id=500),
        "`pad_token_id=500` must be below the 384 rows",
        (model_checks, "check_config"),
    ),
    "token beyond": (
        with_tokens(special=False),
        "gives 1 ids that are not below the 384 rows",
        (model_checks, "check_ids"),
    ),
    "BOS beyond": (
        with_tokens(special=True),
        "gives 1 ids that are not below the 384 rows",
        (model_checks, "check_ids"),
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_refused(name: str, plain: Path, tmp_path: Path) -> None:
    """Would catch a traceback of transformers, or a damaged model that is measured."""
    damage, cause, _ = DAMAGED[name]
    check_refused(plain, tmp_path, damage, cause)


class Silenced(KvError):
    """Raised in place of a refusal whose words are taken away."""


@pytest.mark.parametrize("name", DAMAGED)
def test_twin_what_is_refused(
    name: str, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a test that passes with the check it is for taken out."""
    damage, cause, (module, check) = DAMAGED[name]
    replacements: dict[str, Callable[..., object]] = {
        "unreadable": lambda *_: Silenced("quantized"),
        "cause_of": lambda *_, **__: "for some reason",
        "one_line": lambda *_: "",
        "packed": lambda _: False,
    }
    replacement = replacements.get(check, lambda *_, **__: None)
    monkeypatch.setattr(module, check, replacement)
    if check == "one_line":
        cause = "JSONDecodeError"
    elif name in ("invalid", "unknown activation", "damaged tokenizer"):
        cause = "check the folder's files"
    with pytest.raises(TYPES):
        check_refused(plain, tmp_path, damage, cause)


def other_models() -> dict[str, tuple[Any, str]]:
    """Return configurations of models that are not supported, and what the refusal says."""
    size = dict(checkpoints.SIZE)
    wide = {k: v for k, v in size.items() if k != "intermediate_size"}
    falcon = {k: v for k, v in wide.items() if k != "num_key_value_heads"}
    shared = {
        "num_hidden_layers": 4,
        "intermediate_size": [48] * 4,
        "head_dim": 8,
        "sliding_window": 8,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
        "vocab_size_per_layer_input": 384,
        "activation_sparsity_pattern": [0.0] * 4,
    }
    t = transformers
    return {
        "shared layers": (t.Gemma3nTextConfig(**{**size, **shared}), "num_kv_shared_layers: 2"),
        "falcon with alibi": (t.FalconConfig(**falcon, alibi=True), "ALiBi"),
        "bert": (t.BertConfig(**size), "is_decoder: false"),
        "bloom": (
            t.BloomConfig(vocab_size=384, hidden_size=32, n_layer=2, n_head=4),
            "no position",
        ),
        "mamba": (
            t.MambaConfig(vocab_size=384, hidden_size=32, num_hidden_layers=2, state_size=4),
            "cannot be run with given positions",
        ),
    }


@pytest.mark.parametrize("name", ["shared layers", "falcon with alibi", "bert", "bloom", "mamba"])
def test_models_that_are_not_supported(name: str, tmp_path: Path) -> None:
    """Would catch an architecture measured that has no exact cache, or that fails in a pass."""
    config, cause = other_models()[name]
    assert cause in refusal(checkpoints.build_checkpoint(tmp_path, config))


@pytest.mark.parametrize(
    ("name", "check"), [("shared layers", "unsupported_flags"), ("bloom", "check_forward")]
)
def test_twin_models_that_are_not_supported(
    name: str, check: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a test that passes with the check taken out."""
    monkeypatch.setattr(model_checks, check, lambda *_: None)
    config, cause = other_models()[name]
    assert cause not in refusal(checkpoints.build_checkpoint(tmp_path, config))


HARMLESS = {
    "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
    "model.position_ids": torch.arange(4),
    "model.layers.0.attn.masked_bias": torch.tensor(-1e9),
    "model.layers.0.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool),
    "vision_tower.patch.weight": torch.ones(2, 2),
}


def test_keys_that_may_be_left_unread(plain: Path, tmp_path: Path) -> None:
    """Would catch a real model refused for buffers that no number hangs on."""
    shutil.copytree(plain, tmp_path, dirs_exist_ok=True)
    assert refusal(add_weights(tmp_path, HARMLESS)) == ""


def test_twin_keys_that_may_be_left_unread(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a test blind to the list of harmless keys."""
    monkeypatch.setattr(model_checks, "is_buffer_or_tied", lambda *_: False)
    shutil.copytree(plain, tmp_path, dirs_exist_ok=True)
    assert "attn.bias" in refusal(add_weights(tmp_path, HARMLESS))


@pytest.mark.parametrize(
    "switch", ["output_router_logits", "output_attentions", "output_hidden_states"]
)
def test_outputs_that_are_switched_off(switch: str, tmp_path: Path) -> None:
    """Would catch a mixture model refused, or slowed, by outputs that nobody reads."""
    config = transformers.MixtralConfig(**checkpoints.SIZE, num_local_experts=4)
    folder = edit_config(checkpoints.build_checkpoint(tmp_path, config), **{switch: True})
    assert getattr(load_model(str(folder), device="cpu").model.config, switch) is False


def test_twin_outputs_that_are_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a test blind to what the configuration says."""
    monkeypatch.setattr(model_checks, "switch_off_outputs", lambda _: None)
    with pytest.raises(TYPES):
        test_outputs_that_are_switched_off("output_router_logits", tmp_path)


# --- weights that are stored in 4 bits ---------------------------------------------------------


@pytest.fixture(scope="module", params=["bfloat16", "float32"])
def in_4_bits(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The dtype and the folder of a checkpoint that is stored as nf4."""
    source = checkpoints.llama(
        tmp_path_factory.mktemp("whole"), hidden_size=64, intermediate_size=128
    )
    dtype = getattr(torch, request.param)
    packing = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )
    folder = tmp_path_factory.mktemp("packed")
    transformers.AutoModelForCausalLM.from_pretrained(
        source, dtype=dtype, device_map={"": "cpu"}, quantization_config=packing
    ).save_pretrained(folder)
    tiny.train_tokenizer(sentencepiece=False).save_pretrained(folder)
    return request.param, folder


def check_precision(dtype: str, folder: Path) -> None:
    """Dtype and quantization are the folder's own, asked for or not."""
    for options in ({}, {"dtype": dtype}, {"quantization": "nf4"}):
        lm = load_model(str(folder), device="cpu", **options)  # type: ignore[arg-type]
        assert (lm.dtype, lm.files.quantization) == (dtype, "nf4")
        assert lm.model.model.embed_tokens.weight.dtype == getattr(torch, dtype)
        assert type(lm.model.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"


def test_stored_precision(in_4_bits: tuple[str, Path]) -> None:
    """Would catch rows of 4-bit weights filed under a precision they do not have."""
    check_precision(*in_4_bits)


def test_twin_stored_precision(
    in_4_bits: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a check blind to what is recorded."""
    monkeypatch.setattr(folder_checks, "stored_precision", lambda *_: None)
    with pytest.raises(TYPES):
        check_precision(*in_4_bits)


def test_another_precision_than_stored(in_4_bits: tuple[str, Path]) -> None:
    """Would catch a dtype recorded that the stored weights are not computed in."""
    dtype, folder = in_4_bits
    text = refusal(folder, dtype="float16")
    assert f"`dtype` must be {dtype} or left out; got float16" in text


def test_twin_another_precision_than_stored(
    in_4_bits: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a test that passes with the refusal taken out."""
    monkeypatch.setattr(
        folder_checks, "chosen_precision", lambda _, stored, dtype, __: (dtype, stored[1])
    )
    with pytest.raises(TYPES):
        test_another_precision_than_stored(in_4_bits)
