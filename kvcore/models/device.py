"""Which device a model runs on."""

from __future__ import annotations

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
