"""The ``--kv-*`` options, each mirrored by an environment variable ``KVCORE_*``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from claims.harness.datasets import check_dataset
from claims.harness.settings import Settings
from kvcore.errors import KvError
from kvcore.models.registry import DTYPES, QUANTIZATIONS, Quantization, precision


@dataclass(frozen=True)
class Option:
    """One option of the command line."""

    name: str
    default: str
    help: str
    flag: bool = False

    @property
    def dest(self) -> str:
        """Its name in pytest's configuration."""
        return "kv_" + self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable that sets its default."""
        return "KVCORE_" + self.name.replace("-", "_").upper()


OPTIONS = (
    Option(
        "models",
        "",
        "models to judge, comma separated: registry names, hub ids, folders, .gguf files "
        "(default: every claim's own cells)",
    ),
    Option(
        "datasets",
        "",
        "datasets to judge on, comma separated: names or files (default: every claim's own cells)",
    ),
    Option("limit", "300", "samples per cell, a count"),
    Option("seed", "0", "seed of the sample choice, the random prefixes and the bootstrap"),
    Option("device", "auto", "auto, cpu, cuda or cuda:<n>"),
    Option("dtype", "", "float32, bfloat16 or float16 (default: the model's registry entry)"),
    Option("quantization", "", "nf4 (default: the model's registry entry, or its files')"),
    Option("batch-tokens", "", "most tokens in one forward pass (default: by device)"),
    Option("store", ".kvstore", "folder of the measured rows"),
    Option("no-measure", "", "judge stored rows alone, load no model", flag=True),
    Option("record", "", "write refuted cells to claims/known.toml", flag=True),
    Option("strict", "", "inconclusive verdicts fail instead of skip", flag=True),
    Option("confidence", "0.95", "level of the intervals, in (0, 1)"),
    Option("familywise", "", "judge each family at Bonferroni-widened intervals", flag=True),
    Option("explain", "", "print every condition on one sample and measure nothing", flag=True),
)


def add(parser: pytest.Parser) -> None:
    """Register the options as one group."""
    group = parser.getgroup("kvclaims", "claims about KV caches")
    for option in OPTIONS:
        default = (option.default or "off") if option.flag else (option.default or "-")
        text = f"{option.help} [{default}; {option.variable}]"
        if option.flag:
            group.addoption(
                f"--kv-{option.name}",
                dest=option.dest,
                action="store_true",
                default=_is_set(option),
                help=text,
            )
        else:
            group.addoption(
                f"--kv-{option.name}",
                dest=option.dest,
                metavar="VALUE",
                default=os.environ.get(option.variable, option.default),
                help=text,
            )


def read(config: pytest.Config) -> Settings:
    """Check the options and return the settings.

    Raises
    ------
    pytest.UsageError
        For a value that does not fit or an unknown model or dataset, in one line.
    """
    values: dict[str, Any] = {option.name: config.getoption(option.dest) for option in OPTIONS}
    tokens, store = values["batch-tokens"], Path(values["store"])
    settings = Settings(
        models=_names(values["models"]),
        datasets=_names(values["datasets"]),
        limit=_whole("limit", values["limit"], 2),
        seed=_whole("seed", values["seed"], 0),
        device=values["device"],
        dtype=_dtype(values["dtype"]),
        quantization=_quantization(values["quantization"]),
        batch_tokens=_whole("batch-tokens", tokens, 1) if tokens else None,
        store=store if store.is_absolute() else config.rootpath / store,
        no_measure=values["no-measure"],
        record=values["record"],
        strict=values["strict"],
        confidence=_share(values["confidence"]),
        familywise=values["familywise"],
        explain=values["explain"],
    )
    try:
        for name in settings.models:
            precision(name, settings.dtype, settings.quantization)
        for name in settings.datasets:
            check_dataset(name)
    except KvError as error:
        raise pytest.UsageError(str(error)) from error
    return settings


def _is_set(option: Option) -> bool:
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


def _quantization(text: str) -> Quantization | None:
    for known in QUANTIZATIONS:
        if text == known:
            return known
    if text:
        allowed = ", ".join(QUANTIZATIONS)
        raise pytest.UsageError(f"--kv-quantization {text!r}: pass one of {allowed}.")
    return None
