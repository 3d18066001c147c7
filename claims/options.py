"""The ``--kv-*`` options, each mirrored by an environment variable ``KVCORE_*``."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from kvcore.errors import KvError
from kvcore.models.registry import DTYPES, entry_of

SHIPPED = "reports/reference"


@dataclass(frozen=True)
class Settings:
    """Effective options of a claims run."""

    models: tuple[str, ...]  # empty: each claim's own cells
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

    def shown(self) -> dict[str, str]:
        """Return the effective values as text, for the header and the report."""
        return {name: _shown(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class _Option:
    name: str
    default: str
    help: str
    flag: bool = False

    @property
    def dest(self) -> str:
        return "kv_" + self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        return "KVCORE_" + self.name.replace("-", "_").upper()


OPTIONS = (
    _Option("models", "", "models to judge, comma separated: registry names, hub ids, folders "
            "(default: every claim's own cells)"),
    _Option("datasets", "", "datasets to judge on, comma separated: names or files "
            "(default: every claim's own cells)"),
    _Option("limit", "300", "samples per cell, a count"),
    _Option("seed", "0", "seed of the sample choice, the random prefixes and the bootstrap"),
    _Option("device", "auto", "auto, cpu, cuda or cuda:<n>"),
    _Option("dtype", "", "float32, bfloat16 or float16 (default: the model's registry entry)"),
    _Option("batch-tokens", "", "most tokens in one forward pass (default: by device)"),
    _Option("store", ".kvstore", "folder of the measured rows"),
    _Option("no-measure", "", "judge stored rows alone, load no model", flag=True),
    _Option("record", "", "write refuted cells to claims/known.toml", flag=True),
    _Option("strict", "", "inconclusive verdicts fail instead of skip", flag=True),
    _Option("confidence", "0.95", "level of the intervals, in (0, 1)"),
    _Option("familywise", "", "judge each family at Bonferroni-widened intervals", flag=True),
    _Option("explain", "", "print every condition on one sample and measure nothing", flag=True),
)


def add(parser: pytest.Parser) -> None:
    """Register the options as one group."""
    group = parser.getgroup("kvclaims", "claims about KV caches")
    for option in OPTIONS:
        text = f"{option.help} [{option.default or 'off' if option.flag else option.default or '-'}"
        text += f"; {option.variable}]"
        if option.flag:
            group.addoption(f"--kv-{option.name}", dest=option.dest, action="store_true",
                            default=_truth(option), help=text)
        else:
            group.addoption(f"--kv-{option.name}", dest=option.dest, metavar="VALUE",
                            default=os.environ.get(option.variable, option.default), help=text)


def read(config: pytest.Config) -> Settings:
    """Check the options and return the settings.

    Raises
    ------
    pytest.UsageError
        For a value that does not fit, in one line.
    """
    given: dict[str, Any] = {o.name: config.getoption(o.dest) for o in OPTIONS}
    store = Path(given["store"])
    return Settings(
        models=_names(given["models"]), datasets=_names(given["datasets"]),
        limit=_whole("limit", given["limit"], 2), seed=_whole("seed", given["seed"], 0),
        device=given["device"], dtype=_dtype(given["dtype"]),
        batch_tokens=_whole("batch-tokens", given["batch-tokens"], 1) if given["batch-tokens"]
        else None,
        store=store if store.is_absolute() else config.rootpath / store,
        no_measure=given["no-measure"], record=given["record"], strict=given["strict"],
        confidence=_share(given["confidence"]), familywise=given["familywise"],
        explain=given["explain"])


def _truth(option: _Option) -> bool:
    return os.environ.get(option.variable, "").lower() not in ("", "0", "no", "false")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _whole(name: str, text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError as error:
        raise pytest.UsageError(f"--kv-{name} {text!r}: pass a whole number.") from error
    if value < least:
        raise pytest.UsageError(f"--kv-{name} {value}: pass {least} or more.")
    return value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise pytest.UsageError(f"--kv-confidence {text!r}: pass a number, e.g. 0.95.") from error
    if not 0 < value < 1:
        raise pytest.UsageError(f"--kv-confidence {value:g}: pass a number between 0 and 1.")
    return value


def _dtype(text: str) -> str | None:
    if text and text not in DTYPES:
        raise pytest.UsageError(f"--kv-dtype {text!r}: pass one of {', '.join(DTYPES)}.")
    return text or None


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "each claim's own"
    if isinstance(value, Path):
        return value.name
    return "default" if value is None else str(value)


def check_names(settings: Settings) -> None:
    """Refuse unknown models and datasets before anything is collected or measured.

    Raises
    ------
    pytest.UsageError
        With the nearest known name, in one line.
    """
    from claims.kinds import check_dataset

    try:
        for name in settings.models:
            entry_of(name)
        for name in settings.datasets:
            check_dataset(name)
    except KvError as error:
        raise pytest.UsageError(str(error)) from error
