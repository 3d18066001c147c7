"""Where a model lies and what exactly it is, known without loading any weights.

Weights come from safetensors or GGUF only, never from pickles, and nothing is downloaded: a
model that is not on this machine is one clear line naming the command that fetches it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from kvcore import io
from kvcore.errors import KvError, MissingResource, unknown
from kvcore.models import folder_checks, gguf, registry, tiny_configs
from kvcore.models.registry import DTYPES, INSTALL_COMMANDS, ModelEntry, Quantization


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


def locate(
    name: str,
    dtype: str | None = None,
    quantization: Quantization | None = None,
    revision: str | None = None,
) -> ModelFiles:
    """Find a model's files and identity without loading any weights.

    Parameters
    ----------
    name : str
        Registry name, ``tiny-*`` name, hub id (``org/name``) or local folder.
    dtype : {"float32", "bfloat16", "float16"}, optional
        Defaults to what the weights are stored in where they are stored quantized, else to the
        registry's, else to float32.

    Raises
    ------
    KvError
        For an unknown name or dtype, or a precision that contradicts stored quantized weights.
    MissingResource
        If the model is not on this machine.

    Notes
    -----
    The first call for a GGUF model converts it once to safetensors (20 s to a minute).
    """
    entry = registry.entry_of(name)
    if dtype not in (None, *DTYPES):
        raise unknown("dtype", str(dtype), DTYPES)
    folder, revision = _folder(name, entry, revision or entry.revision)
    stored = folder and folder_checks.stored_precision(name, folder)
    if stored:
        dtype, quantization = folder_checks.chosen_precision(name, stored, dtype, quantization)
    dtype, quantization = dtype or entry.dtype, quantization or entry.quantization
    weights_id = revision if folder is not None else _digest(tiny_configs.spec(name))
    tokenizer_id = _tokenizer_id(folder) if folder is not None else _tiny_tokenizer_id(name)
    model_id = _digest(weights_id, dtype, quantization or "")
    return ModelFiles(name, folder, model_id, tokenizer_id, revision, dtype, quantization)


def rope_bases(files: ModelFiles) -> int:
    """Return how many rope bases a model's layers use, from its configuration alone."""
    config = _settings(files)
    parameters = config.get("rope_parameters") or {}
    if not parameters:
        config = {**registry.IMPLIED_ROPE_BASES.get(str(config.get("model_type")), {}), **config}
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
        return tiny_configs.settings(files.name)
    config: dict[str, Any] = json.loads((files.folder / "config.json").read_text(encoding="utf-8"))
    text: dict[str, Any] = config.get("text_config", config)
    return text


def _folder(name: str, entry: ModelEntry, revision: str | None) -> tuple[Path | None, str]:
    kind, _, where = entry.source.partition(":")
    if kind == "tiny":
        return None, "built in code"
    if kind == "folder":
        folder = Path(name).resolve()
        return folder, _folder_digest(folder)
    if kind == "wheel":
        if not registry.installed(name):
            raise MissingResource(
                f"model {name!r} is not installed: run `{INSTALL_COMMANDS[where]}`."
            )
        sha = str(entry.sha256)
        folder = io.cache_folder() / "models" / f"{name}-{sha[:12]}"
        return gguf.convert_once(where, sha, folder), sha
    return _hub_snapshot(where, revision)


def _hub_snapshot(repo: str, revision: str | None) -> tuple[Path, str]:
    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        at = f" --revision {revision}" if revision else ""
        raise MissingResource(
            f"model {repo!r} is not in the local hub cache: run `hf download {repo}{at}` first."
        ) from error
    return folder, folder.name


def _tokenizer_id(folder: Path) -> str:
    names = (
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
        "merges.txt",
    )
    present = [folder / n for n in names if (folder / n).is_file()]
    if not present:
        raise KvError(f"{folder} holds no tokenizer files ({', '.join(names)}).")
    marked = present[0].read_text(encoding="utf-8", errors="replace")
    style = "sentencepiece" if marked.count("▁") > marked.count("Ġ") else "byte-level"
    return f"{style}-{_digest(*map(io.file_sha256, present))}"


def _tiny_tokenizer_id(name: str) -> str:
    style = "sentencepiece" if name in tiny_configs.SENTENCEPIECE else "byte-level"
    return f"{style}-{_digest('tiny tokenizer', name)}"


def _folder_digest(folder: Path) -> str:
    if not (folder / "config.json").is_file():
        raise KvError(f"folder {folder} is not a model: it has no config.json.")
    files = sorted([*folder.glob("*.safetensors"), folder / "config.json"])
    return _digest(*(f"{f.name}:{io.file_sha256(f)}" for f in files))


def _digest(*parts: str) -> str:
    return io.json_digest(parts)[:24]
