"""Loading a model for measurement: weights first, then the re-positioning probe."""

from __future__ import annotations

from typing import Any

from kvcore.engine import rope_probe
from kvcore.models.lm import LM
from kvcore.models.load import load_model


def load(name: str, **options: Any) -> LM:
    """Load a model and probe, layer by layer, how its keys carry their position.

    Parameters
    ----------
    name : str
        Registry name, ``tiny-*`` name, hub id or local folder.
    **options
        As `kvcore.models.load.load_model`: ``device``, ``dtype``, ``quantization``, ``revision``,
        ``trust_remote_code``.

    Raises
    ------
    KvError
        Also `NotExact`, naming the layer, for a model whose keys cannot be re-positioned exactly.
    MissingResource
        If the model or the device is not on this machine.
    """
    lm = load_model(name, **options)
    rope_probe.rope_plan(lm)
    return lm
