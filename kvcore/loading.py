"""Loading a model for measurement: weights first, then the re-positioning probe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvcore import forward
from kvcore.models import load_model

if TYPE_CHECKING:
    from kvcore.models import LM


def load(name: str, **options: Any) -> LM:
    """Load a model and probe, layer by layer, how its keys carry their position.

    Parameters
    ----------
    name : str
        Registry name, ``tiny-*`` name, hub id or local folder.
    **options
        As `kvcore.models.load_model`: ``device``, ``dtype``, ``quantization``, ``revision``,
        ``trust_remote_code``.

    Raises
    ------
    KvError
        Also `NotExact`, naming the layer, for a model whose keys cannot be re-positioned exactly.
    MissingResource
        If the model or the device is not on this machine.
    """
    lm = load_model(name, **options)
    forward.rope_plan(lm)
    return lm
