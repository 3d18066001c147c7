"""What a run lacks, told once before its first test, with every command that fetches it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from claims.harness.cells import check_gpu
from claims.harness.datasets import path_of
from claims.harness.options import Settings
from kvcore.data.hub import hub_answers
from kvcore.data.present import check_present as check_data
from kvcore.data.present import hub_dataset
from kvcore.errors import KvError, MissingResource
from kvcore.measurements.base import Place
from kvcore.models.hub import check_present as check_model


def lacking(places: Iterable[Place], settings: Settings) -> list[str]:
    """Return what cells lack, each model and dataset once, in the order of the cells.

    Parameters
    ----------
    places : iterable of (model, dataset)
        Where the run measures.

    Returns
    -------
    list of str
        One line each. Of models that need a GPU where there is none, only that is said; a dataset
        that will be fetched from a hub that answers is not missing.
    """
    runnable: list[Place] = []
    lines: dict[str | None, None] = {}
    for model, dataset in dict.fromkeys(places):
        line = _line(partial(check_gpu, model, settings))
        if line is None:
            runnable.append((model, dataset))
        else:
            lines[line] = None
    for model in dict.fromkeys(model for model, _ in runnable):
        lines[_line(partial(check_model, model))] = None
    absent = {
        name: line
        for name in dict.fromkeys(path_of(dataset) for _, dataset in runnable)
        if (line := _line(partial(check_data, name))) is not None
    }
    fetched = {name for name in absent if hub_dataset(name) is not None}
    if fetched and hub_answers():
        absent = {name: line for name, line in absent.items() if name not in fetched}
    return [line for line in [*lines, *absent.values()] if line is not None]


def report(lines: list[str]) -> list[str]:
    """Return the block that pytest shows, empty where nothing is missing."""
    if not lines:
        return []
    return ["kvclaims: missing on this machine, so these cells are not judged:"] + [
        f"  {line}" for line in lines
    ]


def _line(check: Callable[[], None]) -> str | None:
    """Return what a check misses; what it finds wrong is told where it is used."""
    try:
        check()
    except MissingResource as missing:
        return str(missing)
    except KvError:
        pass
    return None
