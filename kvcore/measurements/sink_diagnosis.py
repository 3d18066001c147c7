"""Where a model keeps its attention sink, in figures and words, from rows of `attention_sinks`.

A *bare* pass reads BOS and the document, a *primed* one a prefix before the document. Rows of a
truncated condition tell where its primed pass had the sink; rows of ``full_context(prefix)``, whose
prefix is still in place when the answer is read, also how much attention it gets there.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from kvcore.conditions.registry import PREFIXES
from kvcore.measurements.sink_parts import PARTS

HOLDS = 0.1
"""Share of an answer's attention, in a bare pass, from which on BOS holds the sink."""
SEEN = "full_context"
"""The condition whose prefix is in place when the answer is read."""
SHARES = (
    "BOS",
    "the sink, in the prefix",
    "the rest of the prefix",
    "the sink, in the document",
    "the rest of the document",
    "question and answer",
)
"""What `shares_by_part` divides an answer's attention into, in the order of the cache."""


def shares_by_part(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the share of each answer's attention on each of `SHARES`.

    Parameters
    ----------
    rows : pandas.DataFrame
        Measured rows, one an answer.

    Returns
    -------
    pandas.DataFrame
        With the index of the rows; each row sums to 1. Where BOS is the sink, both shares of a
        sink elsewhere are 0; slots that stand behind the document count with the document.
    """
    start, stop = PARTS.index("document 1"), PARTS.index("question and answer")
    shares = [
        _divided(row, sum(row.profile[start:stop]))
        for row in rows[["profile", "prefix_share", "sink_share", "sink_part"]].itertuples()
    ]
    return pd.DataFrame(shares, index=rows.index, columns=list(SHARES))


def _divided(row: pd.Series, document: float) -> tuple[float, ...]:
    in_prefix = row.sink_share if row.sink_part == "prefix" else 0.0
    in_document = row.sink_share if row.sink_part.endswith("document") else 0.0
    prefix = row.prefix_share
    return (
        row.profile[0],
        in_prefix,
        prefix - in_prefix,
        in_document,
        document - in_document,
        row.profile[-1],
    )


def in_words(rows: pd.DataFrame) -> str:
    """Say in a line where the sink is, from stored rows under ``bare`` and primed conditions."""
    usable = rows[rows["status"] == "ok"]
    bare = usable[usable["condition"] == "bare"]
    primed = usable[[is_primed(name) for name in usable["condition"]]]
    if bare.empty:
        return "no bare row tells where the sink is"
    share = float(bare["bos_share"].mean())
    if share >= HOLDS:
        return f"BOS is the sink: {share:.2f} of an answer's attention in a bare pass"
    removed = bool(primed["sink_part"].eq("prefix").mean() > 0.5)
    if share != share:
        return f"there is no BOS: truncation {'removes' if removed else 'keeps'} the sink"
    return f"the sink is not BOS ({share:.3f})" + (
        ": truncation removes it" if removed else ", nor in the prefix"
    )


def is_primed(condition: str) -> bool:
    """Whether a condition reads a prefix before the document, and keeps or drops it whole."""
    return condition.split("(")[0] in (*PREFIXES, SEEN)


def described(rows: pd.DataFrame) -> Mapping[str, str]:
    """Return what the report says of a cell's sinks: in words, and its figures."""
    usable = rows[rows["status"] == "ok"]
    figures = {
        f"sink under {name}": f"in {part['sink_part'].mode().iloc[0]} on "
        f"{part['sink_part'].eq(part['sink_part'].mode().iloc[0]).sum()} of {len(part)} samples, "
        f"share {part['sink_share'].mean():.3f}, BOS {part['bos_share'].mean():.3f}"
        for name, part in usable.groupby("condition")
        if name == "bare" or is_primed(name)
    }
    return {"attention sink": in_words(rows), **figures}
