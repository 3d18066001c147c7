"""Which device a model runs on, and how numbers get there."""

from __future__ import annotations

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
