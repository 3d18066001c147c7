"""What was measured in one cell, and how a finding gets its rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kvcore.analysis import FloatArray
from kvcore.data.datasets import load_corpus
from kvcore.data.ranking_lists import ranking_lists
from kvcore.data.sample import Sample
from kvcore.errors import MissingResource
from kvcore.measurements.collect import CollectedRows
from kvcore.measurements.needs import CONTROLS, EVERY_LAYER, Need, is_sweep
from kvcore.store import texts
from kvcore.store.keys import hash_of_digests, row_digests
from kvcore.store.schema import RowSchema, clean


@dataclass(frozen=True, eq=False)
class Rows:
    """All samples of a cell under one condition, in the cell's sample order.

    Padded documents stand where the sample stands that they are made from, masked lists where
    the plain ones stand.
    """

    condition: str
    metric: str  # the column that `values` gives
    # The stored columns by sample id; a sample not measured or dropped is NaN throughout.
    frame: pd.DataFrame
    clusters: tuple[str, ...]
    # Returns the samples, in the same order; raises as `samples_behind`.
    texts: Callable[[], tuple[Sample, ...]] = field(repr=False)

    @property
    def values(self) -> FloatArray:
        """The metric, e.g. in nats per answer token; NaN where there is none."""
        return self.numbers(self.metric)

    def numbers(self, column: str) -> FloatArray:
        """Return a column of one number a sample; NaN where there is none."""
        return np.asarray(self.frame[column], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Measured:
    """Every row of one model on one dataset, and where they come from."""

    model: str
    dataset: str  # as options spell it
    schema: RowSchema
    collected: CollectedRows

    @property
    def rows(self) -> pd.DataFrame:
        """Stored columns with ``need``, ``sample_set`` and ``sample`` (see `CollectedRows`)."""
        return self.collected.rows

    @property
    def facts(self) -> dict[str, Any]:
        """What the report says of model, data and rows."""
        return {**self.collected.facts, "dataset": self.dataset}

    def of(self, spelled: str, metric: str) -> Rows:
        """Return the rows of one need, ``bare`` or ``bare@256``; MissingResource if none stored."""
        need = Need.read(spelled)
        own = self._by_need.get(str(need))
        if own is None:
            raise self.missing(spelled, self.collected.lacking.get(str(need)))
        order, clusters = self._order[need.sample_set]
        frame = self._frames.get(str(need))
        if frame is None:
            frame = self._frames[str(need)] = own.set_index("sample").reindex(order)
        return Rows(
            spelled,
            metric if metric in self.rows.columns else self.schema.score,
            frame,
            clusters,
            lambda: samples_behind(self.dataset, need, frame, self.collected.folder),
        )

    def missing(self, spelled: str, reason: str | None = None) -> MissingResource:
        """Return the error that says why there are no rows of a need."""
        return MissingResource(
            reason
            or f"no measurable rows of {spelled!r} for {self.model} on {self.dataset}; "
            "without --kv-no-measure they are measured."
        )

    def layers_of(self, pattern: str) -> dict[int, str]:
        """Return the needs that a sweep stands for, by layer: those of which rows are stored."""
        return layers_among(pattern, set(self.rows["need"]))

    def hash_of(self, needs: Sequence[str]) -> str:
        """Return the hash of the rows that a claim on these needs rests on."""
        names = {str(Need.read(name)) for name in needs} | set(CONTROLS)
        return hash_of_digests(d for name in names for d in self._digests.get(name, ()))

    @functools.cached_property
    def _digests(self) -> Mapping[str, list[bytes]]:
        """The digests of every need's rows: many claims rest on the same rows."""
        digests = np.array(row_digests(self.rows, self.schema), dtype=object)
        places = self.rows.reset_index(drop=True).groupby("need", sort=False).indices
        # Sorted, for what is joined of several needs is sorted again.
        return {str(need): sorted(digests[own]) for need, own in places.items()}

    @functools.cached_property
    def _by_need(self) -> Mapping[str, pd.DataFrame]:
        """The measurable rows of every need that has any."""
        usable = self.rows[self.rows["status"] == "ok"]
        return {str(need): own for need, own in usable.groupby("need", sort=False)}

    @functools.cached_property
    def _frames(self) -> dict[str, pd.DataFrame]:
        """The rows of every need asked for so far, in the order of the samples."""
        return {}

    @functools.cached_property
    def _order(self) -> Mapping[str, tuple[list[str], tuple[str, ...]]]:
        """Every sample, measurable or not, in order, and its cluster, by sample set."""
        clusters = {
            str(name): dict(zip(own["sample"], own["cluster"], strict=True))
            for name, own in self.rows.groupby("sample_set", sort=False)
        }
        return {
            name: (sorted(own), tuple(str(own[sample]) for sample in sorted(own)))
            for name, own in clusters.items()
        }


@dataclass(frozen=True)
class CellRows:
    """What a finding gets its rows from, in one cell."""

    measured: Measured
    metric: str

    def __call__(self, need: str) -> Rows | dict[int, Rows]:
        """Return the rows of a need; of a sweep over the layers (``*``) those of each layer.

        Raises MissingResource if the store holds none.
        """
        if is_sweep(need):
            layers = self._layers(need)
            return {layer: self.measured.of(name, self.metric) for layer, name in layers.items()}
        return self.measured.of(need, self.metric)

    def spelled_out(self, needs: Sequence[str]) -> tuple[str, ...]:
        """Return needs with every sweep replaced by its layers, each need once."""
        names = (
            name
            for need in needs
            for name in (self._layers(need).values() if is_sweep(need) else (need,))
        )
        return tuple(dict.fromkeys(names))

    def _layers(self, pattern: str) -> dict[int, str]:
        layers = self.measured.layers_of(pattern)
        if not layers:
            raise self.measured.missing(pattern)
        return layers


def layers_among(pattern: str, needs: Iterable[str]) -> dict[int, str]:
    """Return those of some needs that a sweep stands for, by layer."""
    before, after = pattern.split(EVERY_LAYER)
    layers = {
        need.removeprefix(before).removesuffix(after): need
        for need in needs
        if need.startswith(before) and need.endswith(after)
    }
    return {int(n): layers[n] for n in sorted((n for n in layers if n.isdigit()), key=int)}


def samples_behind(
    dataset: str, need: Need, frame: pd.DataFrame, folder: Path | None = None
) -> tuple[Sample, ...]:
    """Return the samples behind some rows: as kept beside them, or from the corpus as it is now.

    Raises MissingResource if that no longer holds them as they were measured.
    """
    kept = texts.load(folder, frame["sample_hash"].dropna()) if folder else {}
    if kept and kept.keys() >= set(frame["sample_hash"]):
        return tuple(stored_sample(kept[name]) for name in frame["sample_hash"])
    known = {clean(s.id): s for s in every_sample(load_corpus(dataset), need, frame)}
    present = tuple(known[name] for name in frame.index if name in known)
    hashes = frame["sample_hash"].where(frame["sample_hash"].notna(), None)
    same = all(
        sample.content_hash in (stored, None)
        for sample, stored in zip(present, hashes, strict=False)
    )
    if len(present) < len(frame) or not same:
        raise MissingResource(
            f"{dataset} has changed since its rows were measured, and this claim needs its texts: "
            "measure again."
        )
    return present


def stored_sample(fields: Mapping[str, Any]) -> Sample:
    """Return a sample from the fields that were kept of it."""
    return Sample(
        **{
            **fields,
            "texts": tuple((name, text) for name, text in fields["texts"]),
            "padding": tuple(fields["padding"]),
        }
    )


def every_sample(corpus: Any, need: Need, frame: pd.DataFrame) -> tuple[Sample, ...]:
    """Return the samples of a need: all of the corpus, or the lists of the rows' queries."""
    if need.sample_set != "lists":
        return tuple(corpus.samples)
    seed = int(frame["seed"].dropna().iloc[0])
    lists = ranking_lists(corpus, int(frame["cluster"].nunique()), seed)
    return tuple(candidate.sample for candidate in lists)
