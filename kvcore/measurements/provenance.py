"""What is recorded with measured rows and is no part of their key."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvcore.models.lm import LM

_RECORDED = ("torch", "transformers", "numpy", "bitsandbytes")


def provenance(lm: LM) -> dict[str, str]:
    """Return what is recorded with every shard: library versions, device, attention backend."""
    from kvcore.models.device import describe_device

    return _versions() | {
        **describe_device(lm.device),
        "machine": platform.machine(),
        "attention": str(lm.config._attn_implementation),
        "bos": f"{lm.bos_id} ({lm.bos_source})" if lm.has_bos else "none",
        "python": platform.python_version(),
    }


@functools.cache
def _versions() -> dict[str, str]:
    """Return the versions of the libraries that decide numbers; to look them up reads files."""
    return {name: importlib.metadata.version(name) for name in _RECORDED}
