"""What a kind of measurement is: the rows it makes, the data it is made on, and how.

A kind is one module in `kvcore.measurements.kinds` that registers one `MeasurementKind`. Importing
it must not import torch, so that stored rows can be judged without; what runs the model is
imported when `MeasurementKind.plan` is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from kvcore.store.schema import RowSchema

if TYPE_CHECKING:
    from kvcore.models.files import ModelFiles
    from kvcore.models.lm import LM

Place = tuple[str, str]
"""A model and a dataset."""


@dataclass(frozen=True)
class MeasureRequest:
    """What one cell (a model on a dataset) is asked to measure.

    Attributes
    ----------
    files : ModelFiles
        Which model, known without loading it.
    load : callable
        Returns the loaded model, the same one each time; called only where something is missing.
    dataset : str
        Name or path, without the kind's prefix.
    needs : tuple of str
        What claims ask for, as they spell it (conditions, pairs of conditions, sources, methods).
    limit, seed : int
        Samples of the cell at most, and what chooses them.
    batch_tokens : int or None
        Most tokens in one pass; None leaves it to the device.
    store : Path
        The store's root; texts that a model writes are kept there.
    """

    files: ModelFiles
    load: Callable[[], LM]
    dataset: str
    needs: tuple[str, ...]
    limit: int
    seed: int
    batch_tokens: int | None
    store: Path


@dataclass(frozen=True, eq=False)
class MeasurePlan:
    """Which rows a request takes, and the function that measures some of them.

    Attributes
    ----------
    keys : DataFrame
        Columns `kvcore.store.schema.KEY` and ``length`` (any unit, for grouping by cost).
    measure : callable
        Takes some rows of `keys` and returns one row for each: ``sample_id``, ``condition``,
        ``template`` and the schema's values.
    facts : mapping
        What the report says of the data: size of the corpus, revision, what was left out.
    lacking : mapping of str to str
        Why the data cannot serve some needs.
    shard_samples : int
        Samples that are measured and stored together.
    """

    keys: pd.DataFrame
    measure: Callable[[pd.DataFrame], pd.DataFrame]
    facts: Mapping[str, Any]
    lacking: Mapping[str, str] = field(default_factory=dict)
    shard_samples: int = 50


def by_condition(rows: pd.DataFrame, dataset: str, seed: int) -> pd.DataFrame:
    """Arrange rows whose needs are their conditions: the default of `MeasurementKind.arrange`."""
    del dataset, seed
    return rows.assign(need=rows["condition"], sample=rows["sample_id"], place="samples")


@dataclass(frozen=True)
class MeasurementKind:
    """One kind of measurement.

    Attributes
    ----------
    name : str
        As claims name it, e.g. ``"answer_nll"``.
    version : int
        Method version, part of every row's key: raised by hand when numbers are meant to change.
    schema : RowSchema
        Columns of its rows and the score that a claim rests on.
    folder : str
        Its rows' folder in the store, "" for the store itself.
    sources : tuple of str
        Packages and modules of kvcore that decide its numbers (``"engine"``, ``"cache"``,
        ``"measurements/answer_nll.py"``): their hash is recorded as provenance.
    plan : callable
        What a request takes and how it is measured.
    dataset : str
        Where it is measured when no dataset is asked for.
    datasets : callable
        Names of all datasets that it can be measured on.
    published : tuple of (model, dataset)
        Where it was published or is planned.
    prefix : str
        Before the path of a file of such data: ``texts:my.jsonl``.
    counted : str
        What has one row per condition: samples, texts, pairs.
    seeds : int
        How many seeds from the run's own on its rows may have.
    arrange : callable
        Takes stored rows, the dataset's key and the run's seed, and adds ``need`` (as claims
        spell it), ``sample`` (the id that rows share which stand side by side) and ``place``;
        rows of other datasets are left out.
    units : mapping of str to str
        Units of its own and what they mean, for the report.
    """

    name: str
    version: int
    schema: RowSchema
    folder: str
    sources: tuple[str, ...]
    plan: Callable[[MeasureRequest], MeasurePlan]
    dataset: str
    datasets: Callable[[], tuple[str, ...]]
    published: tuple[Place, ...] = ()
    prefix: str = ""
    counted: str = "samples"
    seeds: int = 1
    arrange: Callable[[pd.DataFrame, str, int], pd.DataFrame] = by_condition
    units: Mapping[str, str] = field(default_factory=dict)
