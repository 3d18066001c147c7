"""The effective options of a run of the claims."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kvcore.models.registry import Quantization


@dataclass(frozen=True)
class Settings:
    """Effective options of a run of the claims.

    Attributes
    ----------
    models, datasets : tuple of str
        Empty: each claim's own cells.
    limit : int
        Samples per cell at most.
    seed : int
        Of the sample choice, the random prefixes and the bootstrap.
    dtype, batch_tokens, quantization : str or int, or None
        None leaves them to the model's registry entry, or its files, and to the device.
    store : Path
        Folder of the measured rows.
    confidence : float
        Level of the intervals, in (0, 1).
    """

    models: tuple[str, ...]
    datasets: tuple[str, ...]
    limit: int
    seed: int
    device: str
    dtype: str | None
    batch_tokens: int | None
    store: Path
    no_measure: bool
    record: bool
    strict: bool
    confidence: float
    familywise: bool
    explain: bool
    quantization: Quantization | None = None

    def shown(self) -> dict[str, str]:
        """Return the effective values as text, for the header and the report."""
        return {name: _shown(value) for name, value in asdict(self).items()}


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "each claim's own"
    if isinstance(value, Path):
        return value.name
    return "default" if value is None else str(value)
