"""Folders that people have: settings of another kind, own code, no room, a tokenizer that fails."""

from __future__ import annotations

import builtins
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from packaging.version import Version

from invariants.support import checkpoints
from invariants.support.checkpoints import edit_config
from invariants.support.comparing import must_see, replaced
from invariants.support.versions import VERSION
from kvcore import gate, loading
from kvcore.engine import limits
from kvcore.errors import KvError
from kvcore.models import attention, files, folder_checks, load, registry, size, tokenizers


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint."""
    return checkpoints.llama(tmp_path_factory.mktemp("plain"))


@pytest.fixture
def folder(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, and a cache of its own: what a broken gate admits is not remembered."""
    monkeypatch.setenv("KVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gate, "ADMITTED", set())
    return Path(shutil.copytree(plain, tmp_path / "odd"))


def told(make: Callable[[], object]) -> Exception | None:
    """Return what a call raises."""
    try:
        make()
    except Exception as error:
        return error
    return None


def check_one_line(make: Callable[[], object], *parts: str) -> None:
    """What is wrong is told in one line that has these parts."""
    error = told(make)
    assert isinstance(error, KvError), repr(error)
    text = str(error)
    assert "\n" not in text
    assert [part for part in parts if part not in text] == [], text


def check_settings(folder: Path, key: str, value: Any) -> None:
    edit_config(folder, **{key: value})
    said = f"config.json has {key} as {type(value).__name__}, and it must be a JSON object"
    check_one_line(lambda: files.locate(str(folder)), str(folder), said)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("text_config", [1]),
        ("quantization_config", "gptq"),
        ("compression_config", [{}]),
        ("rope_parameters", "default"),
        ("rope_scaling", 4.0),
    ],
)
def test_settings_of_another_kind(key: str, value: Any, folder: Path) -> None:
    """Catches a traceback where config.json has a word, a list or a number for settings."""
    check_settings(folder, key, value)


def test_twin_settings_of_another_kind(folder: Path) -> None:
    """Catches a test blind to a check that is left out."""
    fault = replaced(folder_checks, "check_objects", lambda *_: None)
    must_see(fault, check_settings, folder, "text_config", "none")


def check_attention(folder: Path) -> None:
    """A folder loads whatever attention it was saved with."""
    edit_config(folder, attn_implementation="flash_attention_2")
    try:
        lm = load.load_model(str(folder), device="cpu")
    except KvError as error:
        raise AssertionError(str(error)) from error
    assert lm.config._attn_implementation != "flash_attention_2"
    assert size.size_of(lm.files, 1024) is not None


def test_an_attention_that_is_not_installed(folder: Path) -> None:
    """Catches a whole model refused for the attention that it was trained with."""
    check_attention(folder)


def test_twin_an_attention_that_is_not_installed(folder: Path) -> None:
    """Catches a test blind to a size that is estimated with the configuration's attention."""

    def broken(_: object, config: Any) -> str:
        return str(config._attn_implementation)

    must_see(replaced(attention, "choose_attention", broken), check_attention, folder)


def check_never_asked(folder: Path) -> None:
    """No code of a folder is run, and nobody is asked whether to."""
    settings = {"auto_map": {"AutoConfig": "own.Config"}, "model_type": "of-tomorrow"}
    edit_config(folder, **settings)
    (folder / "own.py").write_text("raise SystemExit")
    asked: list[object] = []

    def ask(*text: object) -> str:
        asked.append(text)
        return "n"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "input", ask)
        tokenizers.as_loaded.cache_clear()
        check_one_line(lambda: load.load_model(str(folder), device="cpu"), "of-tomorrow")
        size.size_of(files.locate(str(folder)), 1024)
    assert asked == []


def test_code_that_a_model_ships(folder: Path) -> None:
    """Catches a prompt, behind which a y runs code that nobody asked for by name."""
    check_never_asked(folder)


def test_twin_code_that_a_model_ships(folder: Path) -> None:
    """Catches a test blind to a loader that is not told to run none."""

    def broken(real: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        options.pop("trust_remote_code", None)
        return real(*arguments, **options)

    must_see(
        replaced(transformers.AutoConfig, "from_pretrained", broken), check_never_asked, folder
    )


def check_own_code_lost(folder: Path) -> None:
    auto_map = {"AutoConfig": "lost.Config"}
    edit_config(folder, auto_map=auto_map, model_type="of-tomorrow")
    loading_it = lambda: load.load_model(str(folder), device="cpu", trust_remote_code=True)  # noqa: E731
    check_one_line(loading_it, "lost.py")


def test_own_code_that_is_not_there(folder: Path) -> None:
    """Catches the advice to run a model's own code where that was asked for and failed."""
    check_own_code_lost(folder)


def test_twin_own_code_that_is_not_there(folder: Path) -> None:
    """Catches a test blind to what was asked for."""

    def broken(real: Callable[..., str], *arguments: Any, **_: Any) -> str:
        return real(*arguments, trust=False)

    must_see(replaced(load, "cause_of", broken), check_own_code_lost, folder)


def check_few_positions(folder: Path, positions: int) -> None:
    edit_config(folder, max_position_embeddings=positions)
    said = f"it is exact for {positions} positions"
    check_one_line(lambda: loading.load(str(folder), device="cpu"), str(folder), said)


@pytest.mark.parametrize("positions", [0, 1, 16, 37])
def test_too_few_positions(positions: int, folder: Path) -> None:
    """Catches a model admitted that can read no sample, or tried past where it is exact."""
    check_few_positions(folder, positions)


def test_the_fewest_positions(folder: Path) -> None:
    """Catches a model refused that has just room for the shortest sample of the gate."""
    edit_config(folder, max_position_embeddings=38)
    assert limits.exact_positions(loading.load(str(folder), device="cpu")) == 38


def test_twin_too_few_positions(folder: Path) -> None:
    """Catches a test blind to how many positions there are."""
    fault = replaced(limits, "exact_positions", lambda *_: 512)
    must_see(fault, check_few_positions, folder, 16)


def check_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(settings | {"tokenizer_class": "BertTokenizer"}))
    said = (f"the tokenizer in {folder} cannot be loaded", "Missing [UNK] token")
    check_one_line(lambda: loading.load(str(folder), device="cpu"), *said)


@pytest.mark.skipif(VERSION < Version("5.1"), reason="transformers 5.0 can read text with it")
def test_a_tokenizer_that_reads_no_text(folder: Path) -> None:
    """Catches a traceback of the first text, from a tokenizer that could be loaded."""
    check_tokenizer(folder)


@pytest.mark.skipif(VERSION < Version("5.1"), reason="transformers 5.0 can read text with it")
def test_twin_a_tokenizer_that_reads_no_text(folder: Path) -> None:
    """Catches a test blind to a trial that tries nothing."""
    must_see(lambda patch: patch.setattr(load, "TRIAL_TEXT", ""), check_tokenizer, folder)


def test_a_folder_in_the_place_of_the_weights(folder: Path) -> None:
    """Catches a traceback where a folder has the name of the weight file."""
    (folder / checkpoints.WEIGHTS).unlink()
    (folder / checkpoints.WEIGHTS).mkdir()
    check_one_line(lambda: load.load_model(str(folder), device="cpu"), str(folder), "download")


def check_depth(folder: Path, depth: int, **changes: Any) -> None:
    edit_config(folder, **{"num_hidden_layers": None, **changes})
    assert files.depth(files.locate(str(folder))) == depth


@pytest.mark.parametrize(
    ("changes", "depth"), [({}, 32), ({"model_type": "dbrx", "n_layers": 5}, 5)]
)
def test_layers_by_another_name(changes: dict[str, Any], depth: int, folder: Path) -> None:
    """Catches a KeyError for a depth that is the default of its class, or called otherwise."""
    check_depth(folder, depth, **changes)


def test_twin_layers_by_another_name(folder: Path) -> None:
    """Catches a test blind to what the class says."""
    must_see(replaced(files, "depth", lambda *_: 3), check_depth, folder, 32)


def test_a_depth_that_nobody_says(folder: Path) -> None:
    """Catches a traceback for a configuration of no known class without a number of layers."""
    edit_config(folder, num_hidden_layers=None, model_type="of-tomorrow")
    located = files.locate(str(folder))
    check_one_line(lambda: files.depth(located), str(folder), "how many layers")


@pytest.mark.parametrize("name", ["./nothing", "/no/such", "~/nothing", "../x"])
def test_a_path_that_is_not_there(name: str) -> None:
    """Catches a path taken for the name of a model, and answered by the list of all names."""
    check_one_line(lambda: registry.entry_of(name), repr(name), "there is no such folder")


NO_IDS = (
    "a//b",
    "models/sub/mine",
    "org/name@main",
    "https://hub.org/org/name",
    "org/",
    "org/na me",
)


def check_no_id(name: str) -> None:
    check_one_line(lambda: registry.entry_of(name), "unknown model", repr(name))


@pytest.mark.parametrize("name", NO_IDS)
def test_what_is_no_id_of_the_hub(name: str) -> None:
    """Catches the advice to download what can be no model of the hub."""
    check_no_id(name)


def test_twin_what_is_no_id_of_the_hub() -> None:
    """Catches a test blind to what an id may be."""
    import re

    must_see(
        lambda patch: patch.setattr(registry, "HUB_ID", re.compile(".*/.*")), check_no_id, "a//b"
    )
