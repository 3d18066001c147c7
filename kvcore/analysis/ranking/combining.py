"""Several scores of the same passages made into one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kvcore.analysis.ranking.tables import checked_table, ranked_lists
from kvcore.analysis.samples import FloatArray
from kvcore.errors import KvError


def best_of(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Give every passage its highest score over several conditions (best of several intents).

    Returns the first table with the new scores; ``condition`` names where each comes from, the
    earlier one of equals. Queries with a NaN in any table are left out.

    `tables`: the same candidates under each condition's name.
    """
    frame, scores, names = _stacked(tables)
    best = scores.argmax(axis=0)
    return frame.assign(score=scores.max(axis=0), condition=names[best])


def route(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Rank each query by the condition that looks best for it, without seeing what is relevant.

    The rule: the condition with the highest mean score over the query's passages, the earlier
    one of equals. With PMI scores that is the largest mean PMI, with -NLL the smallest mean NLL;
    since PMI adds the same number to all of a query's conditions, both choose alike.

    Returns the first table with the chosen condition's scores; ``condition`` names it. Queries with
    a NaN in any table are left out.

    `tables`: the same candidates under each condition's name, all raw or all PMI.

    References
    ----------
    The per-query routing of the ranking study (AUC .828 over 200 queries).
    """
    frame, scores, names = _stacked(tables)
    queries = frame["query_id"].astype(str).to_numpy()
    means = pd.DataFrame(scores.T).groupby(queries).transform("mean").to_numpy()
    chosen = means.argmax(axis=1)
    return frame.assign(score=scores[chosen, np.arange(len(frame))], condition=names[chosen])


def two_stage(first: pd.DataFrame, second: pd.DataFrame, *, top: int = 3) -> pd.DataFrame:
    """Rank by the first score and re-rank the first few passages of each list by the second.

    Returns the first table with the rank from below within the query as score (ties share the mean
    rank): compare it by ``mrr``, ``hit`` or ``auc_per_query``, not by pooled numbers. Queries with
    a NaN in either table are left out.

    - `first`, `second`: the same candidates.
    - `top`: passages per query that are re-ranked, 0 or more. A tie across this cut is left as the
      first score has it: re-ranked are the tied groups that fit within ``top`` whole.
    """
    if top < 0:
        raise KvError(f"top must be 0 or more passages; got top={top}.")
    frame, scores, _ = _stacked({"first": first, "second": second})
    query = frame["query_id"].astype(str).to_numpy()
    by_first = pd.Series(scores[0]).groupby(query).rank(method="max", ascending=False)
    inside = (by_first <= top).to_numpy()
    score = np.where(inside, scores[1], scores[0])
    key = pd.DataFrame({"query": query, "inside": inside, "score": score})
    rank = key.groupby(["query", "inside"])["score"].rank(method="average")
    outside = (~key["inside"]).groupby(key["query"]).transform("sum")
    return frame.assign(score=(rank + outside.where(key["inside"], 0)).to_numpy())


def _stacked(
    tables: Mapping[str, pd.DataFrame],
) -> tuple[pd.DataFrame, FloatArray, NDArray[np.object_]]:
    """The first table in sorted order, all scores (conditions, n) and the conditions' names."""
    if not tables:
        raise KvError("tables must hold at least one condition's scores; got no table.")
    lists = ranked_lists(*tables.values())
    ordered = checked_table(next(iter(tables.values()))).reset_index()
    complete = ordered[ordered["query_id"].isin(lists.ids)].reset_index(drop=True)
    return complete, lists.columns, np.array(list(tables), dtype=object)
