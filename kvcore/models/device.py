"""Which device a model runs on, and how numbers get there."""

from __future__ import annotations

import subprocess
from typing import Any

import torch

from kvcore.errors import KvError, MissingResource


def resolve_device(device: str) -> torch.device:
    """Return the device that an option names; ``auto`` is CUDA where there is one, else the CPU.

    Raises
    ------
    KvError
        For what is no device.
    MissingResource
        For CUDA where there is none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise KvError(f"device {device!r}: use auto, cpu, cuda or cuda:<n>.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise MissingResource(
            f"device {device!r}: no CUDA GPU on this machine; use --kv-device cpu."
        )
    return chosen


def upload(data: Any, device: torch.device | str, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Return numbers of the host as a tensor of a device, without waiting for what runs there.

    Parameters
    ----------
    data : tensor of the host, or nested sequences of numbers

    Notes
    -----
    ``torch.tensor(data, device="cuda")`` and lists as indices wait until all that was launched
    before has run; this leaves the copy in the queue.
    """
    return torch.as_tensor(data, dtype=dtype).to(device, non_blocking=True)


def pin_precision(device: torch.device) -> None:
    """Let a GPU round no more coarsely than the dtype, and attend by kernels that take any mask.

    Off are TF32, sums of products in 16 bits, and the flash and cuDNN kernels, which are chosen for
    some passes and not for others. Does nothing on a CPU.
    """
    if device.type != "cuda":
        return
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.enable_mem_efficient_sdp(True)
    torch.backends.cuda.enable_math_sdp(True)


def describe_device(device: torch.device) -> dict[str, str]:
    """Return what is recorded of a device: on a GPU its kind, driver, switches and kernels."""
    if device.type != "cuda":
        return {"device": str(device)}
    cuda, matmul = torch.backends.cuda, torch.backends.cuda.matmul
    kernels = {
        "flash": cuda.flash_sdp_enabled(),
        "cudnn": cuda.cudnn_sdp_enabled(),
        "memory-efficient": cuda.mem_efficient_sdp_enabled(),
        "math": cuda.math_sdp_enabled(),
    }
    switches = {
        "TF32 products": matmul.allow_tf32,
        "TF32 convolutions": torch.backends.cudnn.allow_tf32,
        "float16 sums": matmul.allow_fp16_reduced_precision_reduction,
        "bfloat16 sums": matmul.allow_bf16_reduced_precision_reduction,
    }
    return {
        "device": str(device),
        "GPU": torch.cuda.get_device_name(device),
        "compute capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
        "driver": _driver(),
        "CUDA": str(torch.version.cuda or torch.version.hip),
        "reduced precision": ", ".join(name for name, on in switches.items() if on) or "none",
        "SDPA kernels": ", ".join(name for name, on in kernels.items() if on),
    }


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.split("\n")[0].strip() or "unknown"
