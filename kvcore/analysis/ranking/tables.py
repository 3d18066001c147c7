"""Tables of scored passages: made from candidates, checked, and aligned by query and passage."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from kvcore.analysis.samples import FloatArray
from kvcore.errors import KvError

if TYPE_CHECKING:
    from kvcore.data.ranking_lists import Candidate

KEYS = ["query_id", "passage_id"]
COLUMNS = (*KEYS, "relevant", "score")


def raw(nll: ArrayLike) -> FloatArray:
    """Turn NLL (nats per token) into a score, -NLL: the likelier the answer, the higher."""
    return -np.asarray(nll, dtype=np.float64)


def pmi(bos_only: ArrayLike, nll: ArrayLike) -> FloatArray:
    """Subtract the NLL with a document from the NLL without one, both in nats per token.

    Positive where the document makes the answer likelier, 0 where it is ignored. Within a query
    this is `raw` plus a constant, so it ranks each list as `raw` does and only pooled numbers
    (AUC, d) differ.
    """
    return np.asarray(bos_only, dtype=np.float64) - np.asarray(nll, dtype=np.float64)


def table(candidates: Iterable[Candidate], scores: Mapping[str, float]) -> pd.DataFrame:
    """Make a table from candidates and a score for each candidate's sample id.

    Raises KvError where a candidate has no score; NaN says that there is none.
    """
    listed = list(candidates)
    missing = [c.sample.id for c in listed if c.sample.id not in scores]
    if missing:
        raise KvError(
            f"scores must hold every candidate; {len(missing)} are missing, the first is "
            f"{missing[0]!r}, pass NaN for those without a score."
        )
    rows = [(c.query_id, c.passage_id, c.relevant, float(scores[c.sample.id])) for c in listed]
    return pd.DataFrame(rows, columns=list(COLUMNS))


@dataclass(frozen=True, eq=False)
class RankedLists:
    """Checked tables over the same candidates, sorted by query and passage.

    ``ids``: query of each row; ``query``: its number from 0; ``relevant``: bool; all (n,).
    ``columns``: one row of numbers per table, (m, n), without NaN.
    """

    ids: NDArray[np.str_]
    query: NDArray[np.intp]
    relevant: NDArray[np.bool_]
    columns: FloatArray

    @property
    def queries(self) -> int:
        """Number of queries."""
        return int(self.query.max()) + 1 if self.query.size else 0

    def sums(self, values: ArrayLike) -> FloatArray:
        """Sum over each query's rows, (queries,)."""
        weights = np.asarray(values, dtype=np.float64)
        return np.asarray(np.bincount(self.query, weights, self.queries), dtype=np.float64)

    def split(self, column: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Values of the relevant and of the irrelevant passages."""
        return column[self.relevant], column[~self.relevant]


def ranked_lists(*tables: pd.DataFrame, columns: tuple[str, ...] = ("score",)) -> RankedLists:
    """Align tables by query and passage and leave out queries with a NaN in any of them.

    Raises KvError for a column that is missing, a candidate twice or not in all tables, an infinite
    score, a query without a relevant or without an irrelevant passage.
    """
    checked = [checked_table(frame, columns) for frame in tables]
    first = checked[0]
    for other in checked[1:]:
        if not other.index.equals(first.index) or (other["relevant"] != first["relevant"]).any():
            raise KvError("tables must hold the same candidates; score the same lists in each.")
    numbers = np.concatenate([frame[list(columns)].to_numpy(np.float64).T for frame in checked])
    if np.isinf(numbers).any():
        at = first.index[int(np.flatnonzero(np.isinf(numbers).any(axis=0))[0])]
        raise KvError(f"scores must be finite; that of {at} is infinite, pass NaN to leave it out.")
    ids = first.index.get_level_values(0).to_numpy(dtype=str)
    keep = ~np.isin(ids, ids[np.isnan(numbers).any(axis=0)])
    relevant = first["relevant"].to_numpy(dtype=bool)
    query = np.unique(ids[keep], return_inverse=True)[1]
    lists = RankedLists(ids[keep], query, relevant[keep], numbers[:, keep])
    _check_lists(lists)
    return lists


_RECENT: deque[tuple[pd.DataFrame, tuple[str, ...], pd.DataFrame]] = deque(maxlen=4)
"""Tables checked last, with what was made of them: one finding asks a dozen times for its two."""


def checked_table(frame: pd.DataFrame, columns: tuple[str, ...] = ("score",)) -> pd.DataFrame:
    """Index a table by (query, passage) as text, sorted; the result is not to be changed."""
    for seen, asked, keyed in _RECENT:
        if asked == columns and seen.equals(frame):
            return keyed
    keyed = _keyed(frame, columns)
    _RECENT.append((frame.copy(), columns, keyed))
    return keyed


def _keyed(frame: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    missing = [name for name in (*KEYS, "relevant", *columns) if name not in frame.columns]
    if missing:
        raise KvError(f"column {missing[0]!r} is missing; required: {', '.join(COLUMNS)}.")
    if frame[KEYS].isna().any(axis=None):
        raise KvError("query_id and passage_id must be set in every row; name every candidate.")
    if not frame["relevant"].isin((0, 1)).all():
        raise KvError("'relevant' must be true or false (or 1 or 0) in every row.")
    keyed = frame.astype({"query_id": str, "passage_id": str}).set_index(KEYS).sort_index()
    if not keyed.index.is_unique:
        at = keyed.index[keyed.index.duplicated()][0]
        raise KvError(f"candidates must be unique; {at} is there twice, score each once.")
    return keyed


def _check_lists(lists: RankedLists) -> None:
    relevant = lists.sums(lists.relevant)
    one_sided = np.flatnonzero((relevant == 0) | (lists.sums(~lists.relevant) == 0))
    if one_sided.size:
        at = int(one_sided[0])
        side = "relevant" if relevant[at] == 0 else "irrelevant"
        name = lists.ids[np.flatnonzero(lists.query == at)[0]]
        raise KvError(
            f"each query must have relevant and irrelevant passages; {str(name)!r} has no {side} "
            "one, leave it out."
        )
