"""Columns of numbers, one per sample: checked, freed of NaN, and summed by cluster."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from kvcore.errors import KvError

FloatArray = NDArray[np.float64]
Clusters = ArrayLike | None
"""One label per sample; samples of one label are resampled together. None: each is its own."""


@dataclass(frozen=True, eq=False)
class CompleteRows:
    """Rows without NaN: columns (k, n), cluster numbers (n,) from 0 without gaps."""

    columns: FloatArray
    labels: NDArray[np.intp]

    @property
    def n(self) -> int:
        """Number of samples."""
        return int(self.labels.size)

    @property
    def clusters(self) -> int:
        """Number of clusters."""
        return int(self.labels.max()) + 1 if self.labels.size else 0

    def sums(self, *weights: FloatArray) -> FloatArray:
        """Per-cluster count followed by per-cluster sums of each weight, (1 + k, clusters)."""
        columns = (np.ones(self.n), *weights)
        return np.stack([np.bincount(self.labels, w, minlength=self.clusters) for w in columns])


def complete_rows(clusters: Clusters, **named: ArrayLike) -> CompleteRows:
    """Check columns, (n,), by the names that errors call them; keep the rows without any NaN.

    Raises KvError for lengths or indexes that differ, infinite values, missing cluster labels.
    """
    columns = aligned_columns(**named)
    keep = ~np.isnan(columns).any(axis=0)
    labels = cluster_numbers(clusters, keep.size)[keep]
    # Renumber: a cluster whose samples were all excluded must not be drawn.
    dense: NDArray[np.intp] = np.unique(labels, return_inverse=True)[1]
    return CompleteRows(columns[:, keep], dense)


def aligned_columns(**named: ArrayLike) -> FloatArray:
    """Check columns of the same samples against each other and stack them, (k, n)."""
    names = " and ".join(named)
    indexes = [v.index for v in named.values() if isinstance(v, pd.Series)]
    if any(not index.equals(indexes[0]) for index in indexes[1:]):
        raise KvError(f"{names} must be indexed by the same samples; align them before comparing.")
    columns = [finite_vector(name, values) for name, values in named.items()]
    sizes = {name: c.size for name, c in zip(named, columns, strict=True)}
    if len(set(sizes.values())) > 1:
        raise KvError(
            f"{names} must have equal lengths; got {sizes}, pass the same samples in one order."
        )
    return np.stack(columns)


def finite_vector(name: str, values: ArrayLike) -> FloatArray:
    """Return one number per sample as float64, (n,); NaN may stand for a number not measured."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise KvError(f"{name} must be one number per sample; got {array.ndim} dimensions.")
    if np.isinf(array).any():
        at = int(np.flatnonzero(np.isinf(array))[0])
        raise KvError(
            f"{name}[{at}] must be finite; got {array[at]}, drop that sample or pass NaN."
        )
    return array


def cluster_numbers(clusters: Clusters, n: int) -> NDArray[np.intp]:
    """Number the clusters 0, 1, ... in the order of their sorted labels; one integer a sample."""
    if clusters is None:
        return np.arange(n)
    labels = np.asarray(clusters)
    if labels.shape != (n,):
        raise KvError(
            f"clusters must be one label for each of {n} samples; got shape {labels.shape}."
        )
    missing = pd.isna(labels)
    if bool(missing.any()):
        at = int(np.flatnonzero(missing)[0])
        raise KvError(f"clusters[{at}] must be a label; got {labels[at]}, pass e.g. the sample id.")
    inverse: NDArray[np.intp] = np.unique(labels.astype(str), return_inverse=True)[1]
    return inverse
