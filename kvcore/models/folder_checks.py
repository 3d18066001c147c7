"""What is refused of a model's folder before any weights are read, by name and cause."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from kvcore.errors import KvError, one_line
from kvcore.models.registry import DTYPES, Quantization

LFS_MARK = b"version https://git-lfs"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.h5")
PLAIN_DTYPES = {"F64", "F32", "F16", "BF16"}
OBJECTS = (
    "text_config",
    "quantization_config",
    "compression_config",
    "rope_parameters",
    "rope_scaling",
)
"""Keys of config.json that hold settings of their own."""
# Files in which tools say how weights are quantized, where config.json does not.
QUANTIZATION_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")


def check_files(name: str, folder: Path) -> None:
    """Refuse a folder whose files are not one whole model.

    Raises
    ------
    KvError
        For Git LFS pointers, an adapter that would not be applied, no safetensors, a shard that
        is missing or cut, and weights stored as numbers that only a quantizer can read.

    Notes
    -----
    Reads the headers of the weight files, no weights.
    """
    check_pointers(name, folder)
    adapter = folder / "adapter_config.json"
    if adapter.exists():
        raise KvError(
            f"model {name!r}: {folder} holds an adapter ({adapter.name}), which would not be "
            "applied; merge it into the weights and load the merged model, or remove its files."
        )
    quantized = stored_precision(name, folder) is not None
    for file in weight_files(name, folder):
        check_weight_file(name, file, quantized=quantized)


def check_pointers(name: str, folder: Path) -> None:
    for pattern in ("*.json", "*.safetensors", "tokenizer*", "*.txt"):
        for path in sorted(folder.glob(pattern)):
            if path.is_file() and _starts_with(path, LFS_MARK):
                raise KvError(
                    f"model {name!r}: {path} is a Git LFS pointer, not the file itself; run "
                    "`git lfs pull` in its folder."
                )


def _starts_with(path: Path, mark: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(mark)) == mark


def weight_files(name: str, folder: Path) -> list[Path]:
    """Return the files that a model's weights are read from.

    Raises
    ------
    KvError
        If there are none, or some of them are missing.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        shards = _shards(name, folder)
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing:
            raise KvError(
                f"model {name!r}: {folder} lacks {len(missing)} of {len(shards)} shards, "
                f"{missing[0]} first: the download is incomplete; download the model again."
            )
        return [folder / shard for shard in shards]
    raise KvError(f"model {name!r}: {_no_weights(folder)}")


def _shards(name: str, folder: Path) -> list[str]:
    index = read_json(name, folder / INDEX)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise KvError(
            f"model {name!r}: {folder / INDEX} names no shards; download the model again."
        )
    return sorted(set(map(str, weight_map.values())))


def _no_weights(folder: Path) -> str:
    pickles = [path for pattern in PICKLES for path in folder.glob(pattern)]
    if any(folder.glob("*.safetensors")):
        return (
            f"{folder} holds shards but no {INDEX}: the download is incomplete; download the "
            "model again."
        )
    if pickles:
        return (
            f"{folder} holds no *.safetensors; pickled weights are not loaded. "
            "Convert them to safetensors first."
        )
    if any(folder.glob("*.gguf")):
        return f"{folder} holds no *.safetensors but a .gguf file; give the path of that file."
    return (
        f"{folder} is incomplete: it holds a configuration but no weights; finish the download "
        "of its *.safetensors."
    )


def check_weight_file(name: str, path: Path, *, quantized: bool) -> None:
    try:
        with safe_open(path, "pt") as file:
            kinds = {key: file.get_slice(key).get_dtype() for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise KvError(
            f"model {name!r}: {path} is cut or damaged ({one_line(error)}); download it again."
        ) from error
    odd = sorted(k for k, kind in kinds.items() if k.endswith("weight") and packed(kind))
    if odd and not quantized:
        raise KvError(
            f"model {name!r}: {path} stores {odd[0]} as {kinds[odd[0]]}, which config.json has "
            "no quantization for; use a checkpoint in float32, bfloat16 or float16."
        )


def packed(kind: str) -> bool:
    return kind not in PLAIN_DTYPES


def read_json(name: str, path: Path) -> dict[str, Any]:
    """Return what a JSON file of a model's folder holds.

    Raises
    ------
    KvError
        If it is missing, a Git LFS pointer or no JSON object.
    """
    try:
        if _starts_with(path, LFS_MARK):
            raise KvError(
                f"model {name!r}: {path} is a Git LFS pointer, not the file itself; run "
                "`git lfs pull` in its folder."
            )
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise KvError(
            f"model {name!r}: {path} cannot be read ({one_line(error)}); download it again."
        ) from error
    if not isinstance(value, dict):
        raise KvError(f"model {name!r}: {path} holds no JSON object; download it again.")
    return value


# --- quantization ------------------------------------------------------------------------------


def stored_precision(name: str, folder: Path) -> tuple[str, Quantization] | None:
    """Return the dtype and the quantization of weights that are stored quantized.

    Returns
    -------
    (dtype, quantization), or None where weights are stored whole
        The dtype that activations have: config.json's, else the one that products are made in.

    Raises
    ------
    KvError
        For any quantization but bitsandbytes nf4.
    """
    settings = read_json(name, folder / "config.json")
    check_objects(name, folder / "config.json", settings)
    stored = _quantization_settings(settings)
    if stored is None:
        others = [file for file in QUANTIZATION_FILES if (folder / file).is_file()]
        if others:
            raise unreadable(name, folder, f"quantized weights ({others[0]})")
        return None
    method = str(stored.get("quant_method") or "unnamed")
    in_4_bits = bool(stored.get("load_in_4bit") or stored.get("_load_in_4bit"))
    kind = str(stored.get("bnb_4bit_quant_type", "fp4"))
    if method == "unnamed" and (in_4_bits or "load_in_8bit" in stored):
        method = "bitsandbytes"
    if method != "bitsandbytes":
        raise unreadable(name, folder, f"weights quantized by {method}")
    if not in_4_bits or kind != "nf4":
        what = kind if in_4_bits else "int8"
        raise unreadable(name, folder, f"weights quantized by bitsandbytes to {what}")
    text = settings.get("text_config") or {}
    dtypes = [source.get(key) for source in (settings, text) for key in ("dtype", "torch_dtype")]
    spelled = next((d for d in dtypes if d), stored.get("bnb_4bit_compute_dtype", "float32"))
    dtype = str(spelled).removeprefix("torch.")
    if dtype not in DTYPES:
        raise unreadable(name, folder, f"4-bit weights that are computed in {dtype}")
    return dtype, "nf4"


def check_objects(name: str, path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a configuration in which something else stands where settings are read from.

    Raises
    ------
    KvError
    """
    text = settings.get("text_config")
    for part in (settings, text if isinstance(text, dict) else {}):
        for key in OBJECTS:
            value = part.get(key)
            if not (value is None or isinstance(value, dict)):
                raise KvError(
                    f"model {name!r}: {path} has {key} as {type(value).__name__}, and it must be "
                    "a JSON object or left out; download it again."
                )


def _quantization_settings(settings: Mapping[str, Any]) -> Mapping[str, Any] | None:
    text = settings.get("text_config") or {}
    for source in (settings, text):
        for key in ("quantization_config", "compression_config"):
            if source.get(key):
                stored: Mapping[str, Any] = source[key]
                return (
                    {"quant_method": key.removesuffix("_config"), **stored}
                    if (key == "compression_config")
                    else stored
                )
    return None


def unreadable(name: str, folder: Path, what: str) -> KvError:
    return KvError(
        f"model {name!r}: {folder} holds {what}; only bitsandbytes nf4 is read. Use the model's "
        "unquantized weights, with --kv-quantization nf4 where memory is short."
    )


def chosen_precision(
    name: str,
    stored: tuple[str, Quantization],
    dtype: str | None,
    quantization: str | None,
) -> tuple[str, Quantization]:
    """Return the precision of weights that are stored quantized, unless another is asked for.

    Raises
    ------
    KvError
        If another dtype or quantization is asked for than the folder holds.
    """
    for option, value, own in (
        ("dtype", dtype, stored[0]),
        ("quantization", quantization, stored[1]),
    ):
        if value not in (None, own):
            raise KvError(
                f"model {name!r} is stored in {stored[1]} with {stored[0]}: `{option}` must be "
                f"{own} or left out; got {value}, leave --kv-{option} out."
            )
    return stored
