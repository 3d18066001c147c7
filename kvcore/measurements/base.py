"""What a kind of measurement is: the rows it makes, the data it is made on, and how.

A kind is one module in `kvcore.measurements.kinds` that registers one `MeasurementKind`. Importing
it must not import torch, so that stored rows can be judged without; what runs the model is
imported when `MeasurementKind.plan` is called.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from kvcore.io import digest
from kvcore.store.code_hash import code_hash
from kvcore.store.schema import KEY, RowSchema, clean
from kvcore.store.shards import Store

if TYPE_CHECKING:
    from kvcore.data.context_pairs.load import PairCorpus
    from kvcore.data.sample import Corpus
    from kvcore.data.texts import TextCorpus
    from kvcore.models.files import ModelFiles
    from kvcore.models.lm import LM

Place = tuple[str, str]
"""A model and a dataset."""
ENGINE = ("models", "cache", "conditions", "engine", "tokenization.py")
"""Sources that decide the numbers of every kind that runs a model."""
PACKAGE = Path(__file__).parent.parent


@dataclass(frozen=True)
class MeasureRequest:
    """What one cell (a model on a dataset) is asked to measure.

    - `files`: which model, known without loading it.
    - `load`: returns the loaded model, the same one each time; called only where something is
      missing.
    - `dataset`: name or path, without the kind's prefix.
    - `needs`: what claims ask for, as they spell it (conditions, pairs of conditions, sources,
      methods).
    - `limit`, `seed`: samples of the cell at most, and what chooses them.
    - `batch_tokens`: most tokens in one pass; None leaves it to the device.
    - `store`: the store's root; texts that a model writes are kept there.
    - `device`: where the model runs, as the option spells it: shards are larger on a GPU.
    """

    files: ModelFiles
    load: Callable[[], LM]
    dataset: str
    needs: tuple[str, ...]
    limit: int
    seed: int
    batch_tokens: int | None
    store: Path
    device: str = "cpu"


@dataclass(frozen=True, eq=False)
class MeasurePlan:
    """Which rows a request takes, and the function that measures some of them.

    - `keys`: columns `kvcore.store.schema.KEY` and ``length`` (any unit, for grouping by cost), as
      `MeasurementKind.keys` makes them.
    - `measure`: takes some rows of `keys` and returns one row for each: ``sample_id``,
      ``condition``, ``template`` and the schema's values. Where there is a `prepare`, it takes what
      that returned of the same rows as a second argument, or does itself what is not there.
    - `facts`: what the report says of the data: size of the corpus, revision, what was left out.
    - `lacking`: why the data cannot serve some needs.
    - `shard_samples`: most samples that are measured and stored together.
    - `shard_length`: most that the lengths of their rows make together; a sample is not divided.
    - `texts`: the fields of every sample by its ``sample_hash``, to be kept beside the rows.
    - `clusters`: the cluster of every sample's id, as its row will have it; a sample that is not
      named is its own.
    - `prepare`: does what of `measure` runs no model, for the same rows. It is called in another
      thread while `measure` has rows that were prepared before; the two share nothing that either
      changes, and the model is loaded by then.
    """

    keys: pd.DataFrame
    measure: Callable[..., pd.DataFrame]
    facts: Mapping[str, Any]
    lacking: Mapping[str, str] = field(default_factory=dict)
    shard_samples: int = 50
    shard_length: float = math.inf
    texts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    clusters: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[pd.DataFrame], Any] | None = None


class RowSpec(NamedTuple):
    """One row to measure: what tells it apart within a model, a dataset and a seed.

    - `sample_id`, `sample_hash`: which sample, and a hash of everything in it that the row depends
      on.
    - `condition`: what it is measured under: a condition, a pair of conditions, a source of text.
    - `template`: a name for how the sample is spelled out, and a hash of that.
    - `length`: cost of the sample, in any unit.
    """

    sample_id: str
    sample_hash: str
    condition: str
    template: str
    length: int


def by_condition(rows: pd.DataFrame, dataset: str, seed: int) -> pd.DataFrame:
    """Arrange rows whose needs are their conditions: the default of `MeasurementKind.arrange`."""
    own = rows[(rows["dataset"] == dataset) & (rows["seed"] == seed)].reset_index(drop=True)
    return own.assign(need=own["condition"], sample=own["sample_id"], sample_set="samples")


def clusters_of(corpus: Corpus) -> dict[str, str]:
    """Return the cluster of every sample's id, both as rows spell them."""
    return {clean(sample.id): clean(sample.cluster) for sample in corpus.samples}


def corpus_facts(corpus: Corpus | TextCorpus | PairCorpus) -> dict[str, Any]:
    """Return what the report says of any corpus."""
    return {
        "corpus": corpus.note,
        "corpus revision": corpus.revision,
        "left out of the corpus": dict(corpus.dropped),
    }


@functools.cache
def sources_hash(sources: tuple[str, ...]) -> str:
    """Return the hash of what packages and modules of kvcore do, read once a process."""
    return code_hash(source_files(sources))


def source_files(sources: Iterable[str], package: Path = PACKAGE) -> tuple[Path, ...]:
    """Return the Python files of some packages and modules, in their order.

    `sources`: folders and files, relative to ``package`` or absolute.
    """
    paths = (package / source for source in sources)
    return tuple(file for path in paths for file in (sorted(path.rglob("*.py")) or [path]))


def no_recipe(condition: str) -> str:
    """Return "": the default of `MeasurementKind.recipe_of`."""
    del condition
    return ""


def nothing(rows: pd.DataFrame) -> Mapping[str, str]:
    """Say nothing: the default of `MeasurementKind.described`."""
    del rows
    return {}


def accept(name: str) -> None:
    """Accept every name: the default of `MeasurementKind.check_need` and ``load_data``."""
    del name


@dataclass(frozen=True)
class MeasurementKind:
    """One kind of measurement.

    - `name`: as claims name it, e.g. ``"answer_nll"``.
    - `version`: method version, part of every row's key: raised by hand when numbers are meant to
      change.
    - `schema`: columns of its rows and the score that a claim rests on.
    - `folder`: its rows' folder in the store, "" for the store itself.
    - `sources`: packages and modules of kvcore that decide its numbers (``"engine"``, ``"cache"``,
      ``"measurements/answer_nll.py"``), or absolute paths: their hash, `code`, is recorded as
      provenance.
    - `plan`: what a request takes and how it is measured.
    - `dataset`: where it is measured when no dataset is asked for.
    - `datasets`: names of all datasets that it can be measured on.
    - `load_data`: reads a dataset by name, or a file by its path, and raises KvError in one line
      where it cannot: a run reads every file once before it begins. By default nothing is read.
    - `published`: where it was published or is planned.
    - `prefix`: before the path of a file of such data: ``texts:my.jsonl``.
    - `counted`: what has one row per condition: samples, texts, pairs.
    - `without_bos`: whether it can be measured on caches that begin without BOS.
    - `seeds`: how many seeds from the run's own on its rows may have.
    - `arrange`: takes stored rows, the dataset's key and the run's seed, and adds ``need`` (as
      claims spell it), ``sample`` (the id that rows share which stand side by side) and
      ``sample_set``; rows of other datasets are left out.
    - `recipe_of`: takes a condition as it stands in rows and returns what it is made of where a
      user defined it, "" otherwise: part of the row's key.
    - `check_need`: takes a need as claims spell it and raises KvError, with the nearest name, where
      nothing can be measured by it.
    - `explain`: takes a request and explains each of its needs on one sample of the data, as the
      report's page shows them.
    - `described`: takes a cell's rows and returns what the report says of them, beside the data.
    - `units`: units of its own and what they mean, for the report.
    """

    name: str
    version: int
    schema: RowSchema
    folder: str
    sources: tuple[str, ...]
    plan: Callable[[MeasureRequest], MeasurePlan]
    dataset: str
    datasets: Callable[[], tuple[str, ...]]
    load_data: Callable[[str], object] = accept
    published: tuple[Place, ...] = ()
    prefix: str = ""
    counted: str = "samples"
    without_bos: bool = False
    seeds: int = 1
    arrange: Callable[[pd.DataFrame, str, int], pd.DataFrame] = by_condition
    recipe_of: Callable[[str], str] = no_recipe
    check_need: Callable[[str], object] = accept
    explain: Callable[[MeasureRequest], tuple[Mapping[str, Any], ...]] | None = None
    described: Callable[[pd.DataFrame], Mapping[str, str]] = nothing
    units: Mapping[str, str] = field(default_factory=dict)

    def method(self, condition: str = "") -> str:
        """Return what stands in the rows' key for how a condition is measured."""
        recipe = self.recipe_of(condition) if condition else ""
        return f"{self.name}/{self.version}" + (f"/{digest(recipe)[:12]}" if recipe else "")

    @functools.cached_property
    def code(self) -> str:
        """Hash of what these files do; comments, docstrings and layout do not count."""
        return code_hash(source_files(self.sources))

    def store(self, root: Path) -> Store:
        """Return the folder of its rows in a store."""
        return Store(root / self.folder, self.schema, f"{self.name}/1")

    def keys(
        self, files: ModelFiles, dataset: str, seed: int, rows: Iterable[RowSpec]
    ) -> pd.DataFrame:
        """Make the keys of rows: columns `KEY` and ``length``."""
        shared = {
            "model": files.row_name,
            "model_id": files.model_id,
            "dtype": files.dtype,
            "tokenizer": files.tokenizer_id,
            "dataset": dataset,
            "seed": seed,
        }
        frame = pd.DataFrame(list(rows), columns=list(RowSpec._fields), dtype=object)
        method_of = {condition: self.method(condition) for condition in set(frame["condition"])}
        frame = frame.assign(
            sample_id=[clean(sample) for sample in frame["sample_id"]],
            method=[method_of[condition] for condition in frame["condition"]],
            **shared,
        )
        return frame[[*KEY, "length"]]
