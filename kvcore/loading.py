"""Loading a model for measurement: weights, then the re-positioning probe, then the gate."""

from __future__ import annotations

from typing import Any

from kvcore import gate
from kvcore.engine import rope_probe
from kvcore.models.lm import LM
from kvcore.models.load import load_model


def load(name: str, **options: Any) -> LM:
    """Load a model, probe how its keys carry their position, and try it at the gate.

    Parameters
    ----------
    name : str
        Registry name, ``tiny-*`` name, hub id or local folder.
    **options
        As `kvcore.models.load.load_model`: ``device``, ``dtype``, ``quantization``, ``revision``,
        ``bos``, ``trust_remote_code``.

    Raises
    ------
    KvError
        Also `NotExact`, naming the layer, for a model whose keys cannot be re-positioned exactly,
        and for one that the gate refuses (`kvcore.gate`).
    MissingResource
        If the model or the device is not on this machine.
    """
    lm = load_model(name, **options)
    gate.try_pass(lm)
    with gate.refused_in_one_line(lm, "its keys re-positioned"):
        rope_probe.rope_plan(lm)
    gate.check(lm)
    return lm
