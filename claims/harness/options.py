"""The ``--kv-*`` options, each mirrored by an environment variable ``KVCORE_*``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pytest

from claims.harness.datasets import check_dataset, check_file, path_of
from kvcore.analysis.interval import METHODS, Method
from kvcore.data.files import path_at
from kvcore.errors import KvError
from kvcore.models.registry import (
    BOS_POLICIES,
    DTYPES,
    QUANTIZATIONS,
    REGISTRY,
    BosPolicy,
    Quantization,
    precision,
)
from kvcore.ray_workers import check_installed
from kvcore.store.remote import open_store, short_name
from kvcore.verdict import MOST_LOOKS

Executor = Literal["local", "ray"]
EXECUTORS: tuple[Executor, ...] = get_args(Executor)
DEFAULT_LIMIT = 450
"""Samples of a cell: what two cores measure of the default model's in less than ten minutes."""


@dataclass(frozen=True)
class Settings:
    """Effective options of a run of the claims; see `OPTIONS`."""

    models: tuple[str, ...]  # empty, as `datasets`: each claim's own cells
    datasets: tuple[str, ...]
    limit: int | None  # None: each cell's own (`cells.limit_of`)
    seed: int
    device: str
    dtype: str | None  # None leaves it to the model's registry entry, `batch_tokens` to the device
    batch_tokens: int | None
    store: Path
    no_measure: bool
    record: bool
    strict: bool
    confidence: float
    interval: Method
    familywise: bool
    explain: bool
    looks: int = 1
    measure_only: bool = False
    quantization: Quantization | None = None  # None as in `dtype`, or of weights stored so
    bos: BosPolicy = "own"  # what a cache begins with
    executor: Executor = "local"
    ray_address: str | None = None  # None: a cluster of the run's own
    ray_cpus: int = 1

    def shown(self) -> dict[str, str]:
        """Return the effective values as text, for the header and the report."""
        return {name: _shown(value) for name, value in asdict(self).items()}


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "each claim's own"
    if isinstance(value, Path):
        return short_name(value)
    return "default" if value is None else str(value)


def _names(option: str, text: str) -> tuple[str, ...]:
    """Return names and paths; of two that lead to one folder or file the first one."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if text and not names:
        raise KvError(f"{option} {text!r} names nothing; pass names, or leave it out.")
    named = {_place(name): name for name in reversed(names)}
    return tuple(dict.fromkeys(_without_slash(named[_place(name)]) for name in names))


def _place(name: str) -> str:
    """Return a path as all spellings of it have it, with the prefix of its kind; names as is."""
    path = path_of(name)
    place = path_at(path)
    if name in REGISTRY or not os.path.exists(place):
        return name
    return name.removesuffix(path) + os.path.realpath(place)


def _without_slash(name: str) -> str:
    return name.rstrip("/") or name


def _whole(least: int) -> Callable[[str, str], int]:
    def parse(option: str, text: str) -> int:
        try:
            value = int(text)
        except ValueError as error:
            raise KvError(f"{option} {text!r}: pass a whole number.") from error
        if value < least:
            raise KvError(f"{option} {value}: pass {least} or more.")
        return value

    return parse


def _limit(option: str, text: str) -> int | None:
    return _whole(2)(option, text) if text else None


def _looks(option: str, text: str) -> int:
    value = _whole(1)(option, text)
    if value > MOST_LOOKS:
        raise KvError(f"{option} {value}: pass {MOST_LOOKS} or fewer.")
    return value


def _batch_tokens(option: str, text: str) -> int | None:
    return _whole(1)(option, text) if text else None


def _share(option: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise KvError(f"{option} {text!r}: pass a number, e.g. 0.95.") from error
    if not 0 < value < 1:
        raise KvError(f"{option} {value:g}: pass a number between 0 and 1.")
    return value


def _dtype(option: str, text: str) -> str | None:
    if text and text not in DTYPES:
        raise KvError(f"{option} {text!r}: pass one of {', '.join(DTYPES)}.")
    return text or None


def _quantization(option: str, text: str) -> Quantization | None:
    chosen = next((known for known in QUANTIZATIONS if known == text), None)
    if text and chosen is None:
        raise KvError(f"{option} {text!r}: pass one of {', '.join(QUANTIZATIONS)}.")
    return chosen


def _bos(option: str, text: str) -> BosPolicy:
    chosen = next((known for known in BOS_POLICIES if known == text), None)
    if chosen is None:
        raise KvError(f"{option}={text!r} must be one of {', '.join(BOS_POLICIES)}; pass one.")
    return chosen


def _method(option: str, text: str) -> Method:
    chosen = next((known for known in METHODS if known == text), None)
    if chosen is None:
        raise KvError(f"{option} {text!r}: pass one of {', '.join(METHODS)}.")
    return chosen


def _executor(option: str, text: str) -> Executor:
    chosen = next((known for known in EXECUTORS if known == text), None)
    if chosen is None:
        raise KvError(f"{option} {text!r}: pass one of {', '.join(EXECUTORS)}.")
    if chosen == "ray":
        check_installed()
    return chosen


def _address(_option: str, text: str) -> str | None:
    return text or None


def _unchanged(_option: str, value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Option:
    """One option of the command line: of its spelling and its text, ``parse`` makes the setting."""

    name: str
    default: str
    help: str
    parse: Callable[[str, Any], Any] = _unchanged
    flag: bool = False

    @property
    def spelling(self) -> str:
        """How the command line spells it."""
        return f"--kv-{self.name}"

    @property
    def setting(self) -> str:
        """Its field of `Settings`; with ``kv_`` before it, its name in pytest's configuration."""
        return self.name.replace("-", "_")


OPTIONS = (
    Option(
        "models",
        "",
        "models to judge, comma separated: registry names, hub ids, folders, .gguf files "
        "(default: every claim's own cells)",
        _names,
    ),
    Option(
        "datasets",
        "",
        "datasets to judge on, comma separated: names or files (default: every claim's own cells)",
        _names,
    ),
    Option(
        "limit",
        "",
        "samples per cell, a count (default: what was published of a cell on a GPU, else "
        f"{DEFAULT_LIMIT})",
        _limit,
    ),
    Option(
        "looks",
        "5",
        f"looks at a claim up to the limit, 1 to {MOST_LOOKS}; what is settled is not measured "
        "further; 1 measures all",
        _looks,
    ),
    Option(
        "seed", "0", "seed of the sample choice, the random prefixes and the bootstrap", _whole(0)
    ),
    Option("device", "auto", "auto, cpu, cuda or cuda:<n>"),
    Option(
        "dtype", "", "float32, bfloat16 or float16 (default: the model's registry entry)", _dtype
    ),
    Option(
        "quantization",
        "",
        "nf4 (default: the model's registry entry, or its files' own)",
        _quantization,
    ),
    Option(
        "bos",
        "own",
        "what a cache begins with: the model's own BOS, or none, so that truncation drops the "
        "first token too",
        _bos,
    ),
    Option(
        "batch-tokens", "", "most tokens in one forward pass (default: by device)", _batch_tokens
    ),
    Option(
        "store", ".kvstore", "where measured rows lie: a folder, file://, s3:// or gs://bucket/…"
    ),
    Option("no-measure", "", "judge stored rows alone, load no model", flag=True),
    Option(
        "measure-only",
        "",
        "plan and measure what is asked for, up to the limit, and judge nothing",
        flag=True,
    ),
    Option(
        "executor",
        "local",
        "local measures in this process, ray on the workers of a Ray cluster "
        "(pip install 'kvclaims[ray]')",
        _executor,
    ),
    Option(
        "ray-address",
        "",
        "a Ray cluster to join: auto, or host:port (default: one is started here, and stopped)",
        _address,
    ),
    Option("ray-cpus", "1", "CPUs of each Ray worker, beside its GPU if it has one", _whole(1)),
    Option("record", "", "write refuted cells to claims/known.toml", flag=True),
    Option("strict", "", "inconclusive verdicts fail instead of skip", flag=True),
    Option("confidence", "0.95", "level of the intervals, in (0, 1)", _share),
    Option("interval", "jackknife", "judge by the jackknife or the bca bootstrap", _method),
    Option("familywise", "", "judge each family at Bonferroni-widened intervals", flag=True),
    Option("explain", "", "print every condition on one sample and measure nothing", flag=True),
)


def _check_modes(values: Mapping[str, Any]) -> None:
    """Raise KvError for options of which one forbids what another one asks for."""
    others = [n for n in ("no_measure", "explain", "record") if values[n]]
    if values["measure_only"] and others:
        other = f"--kv-{others[0].replace('_', '-')}"
        raise KvError(f"--kv-measure-only and {other}: pass one of the two.")
    if values["ray_address"] and values["executor"] != "ray":
        raise KvError("--kv-ray-address: pass --kv-executor ray with it.")
    if values["executor"] == "ray" and values["device"] not in ("auto", "cpu", "cuda"):
        raise KvError(
            f"--kv-device {values['device']} and --kv-executor ray: pass auto, cpu or cuda; each "
            "worker has a GPU of its own."
        )


def add(parser: pytest.Parser) -> None:
    """Register the options as one group."""
    group = parser.getgroup("kvclaims", "kvclaims: claims about KV caches")
    for option in OPTIONS:
        variable = f"KVCORE_{option.setting.upper()}"
        preset = os.environ.get(variable, option.default)
        form: dict[str, Any] = {"metavar": "VALUE", "default": preset}
        if option.flag:
            is_set = preset.lower() not in ("", "0", "no", "false")
            form = {"action": "store_true", "default": is_set}
        unset = option.default or ("off" if option.flag else "-")
        text = f"{option.help} [{unset}; {variable}]"
        group.addoption(option.spelling, dest=f"kv_{option.setting}", help=text, **form)


def read(config: pytest.Config) -> Settings:
    """Check the options and return the settings.

    Raises pytest.UsageError, one line, for a value that does not fit, an unknown name or a file of
    data that cannot be read.
    """
    try:
        values = {
            option.setting: option.parse(option.spelling, config.getoption(f"kv_{option.setting}"))
            for option in OPTIONS
        }
        _check_modes(values)
        for name in values["models"]:
            precision(name, values["dtype"], values["quantization"])
        for name in values["datasets"]:
            check_dataset(name)
            if not values["no_measure"]:  # stored rows are judged without their file
                check_file(name)
        values["store"] = open_store(values["store"], config.rootpath)
    except KvError as error:
        raise pytest.UsageError(str(error)) from error
    return Settings(**values)
