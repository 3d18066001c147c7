"""Where a model keeps its attention sink, in figures and words, from rows of `attention_sinks`.

A *bare* pass reads BOS and the document, a *primed* one a prefix before the document. Rows of a
truncated condition tell where its primed pass had the sink; rows of ``full_context(prefix)``, whose
prefix is still in place when the answer is read, also how much attention it gets there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from kvcore.conditions.registry import PREFIXES
from kvcore.errors import KvError
from kvcore.measurements.sink_parts import PARTS

if TYPE_CHECKING:
    from kvcore.data.sample import Sample
    from kvcore.models.lm import LM

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


@dataclass(frozen=True)
class SinkPlace:
    """Where the sinks of some passes are, and how much of an answer's attention they get.

    - `samples`: how many passes.
    - `part`: what holds most of the sinks, of `sink_parts.SINK_PARTS`; `held`: how many it holds.
    - `slot`: the slot of most of the sinks in `part`, counted from 0, BOS included.
    - `token`: the token of most of them, as text.
    - `sink_share`, `bos_share`: mean shares of the answer's attention, 0 to 1; the second is NaN
      without BOS.
    - `norm`: mean hidden norm of the sink by the median norm of its pass, halfway up the layers.
    """

    samples: int
    part: str
    held: int
    slot: int
    token: str
    sink_share: float
    bos_share: float
    norm: float

    def __str__(self) -> str:
        """Return its figures in a line."""
        return (
            f"in {self.part} on {self.held} of {self.samples} samples, most often slot {self.slot} "
            f"({self.token!r}), share {self.sink_share:.3f}, BOS {self.bos_share:.3f}"
        )


@dataclass(frozen=True)
class SinkDiagnosis:
    """Where a model keeps its attention sink.

    - `bare`: in passes of BOS and the document.
    - `primed`: in passes of BOS, a prefix and the document, the prefix in place.
    - `primed_parts`: the part that has the sink of each primed pass.
    """

    bare: SinkPlace
    primed: SinkPlace
    primed_parts: tuple[str, ...]

    @property
    def in_words(self) -> str:
        """Where it is and whether truncation removes it, in a line."""
        return words(self.bare.bos_share, self.primed_parts)


def diagnose_sinks(
    lm: LM, samples: Sequence[Sample], *, prefix: str = "random", seed: int = 0
) -> SinkDiagnosis:
    """Find where a model keeps its attention sink, in bare and in primed passes of a few samples.

    Parameters
    ----------
    lm : LM
        From `kvcore.load`.
    samples : sequence of Sample
        Four are enough where one slot takes most of the attention.
    prefix : str
        A prefix as conditions name it.
    seed : int
        Of random prefixes.

    Raises
    ------
    KvError
        For an unknown prefix, or where no sample can be measured; `NotExact` for a model whose
        attention has sinks of its own.
    """
    from kvcore.conditions.parse import condition
    from kvcore.measurements.sinks import measure_sinks

    names = ("bare", f"{SEEN}({prefix})")
    requests = [(sample, [condition(name) for name in names]) for sample in samples]
    rows = measure_sinks(lm, requests, seed=seed)
    usable = rows[rows["status"] == "ok"]
    bare, primed = (usable[usable["condition"] == name] for name in names)
    if bare.empty or primed.empty:
        reasons = sorted(set(rows["status"]) - {"ok"})
        raise KvError(
            f"diagnose_sinks: none of {len(samples)} samples can be measured"
            f"{''.join(f' ({reason})' for reason in reasons)}; pass others."
        )
    return SinkDiagnosis(place_of(bare), place_of(primed), tuple(primed["sink_part"]))


def place_of(rows: pd.DataFrame) -> SinkPlace:
    """Return where the sinks of measured rows under one condition are; at least one row."""
    part = rows["sink_part"].mode().iloc[0]
    own = rows[rows["sink_part"] == part]
    return SinkPlace(
        len(rows),
        str(part),
        len(own),
        int(own["sink_slot"].mode().iloc[0]),
        str(own["sink_token"].mode().iloc[0]),
        float(rows["sink_share"].mean()),
        float(rows["bos_share"].mean()),
        float((rows["sink_norm"] / rows["median_norm"]).mean()),
    )


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
    return words(float(bare["bos_share"].mean()), list(primed["sink_part"]))


def words(bos_share: float, primed: Sequence[str]) -> str:
    """Say in a line where the sink is.

    Parameters
    ----------
    bos_share : float
        BOS's mean share of an answer's attention in a bare pass, 0 to 1; NaN without BOS.
    primed : sequence of str
        The part, of `sink_parts.SINK_PARTS`, that has the sink of each primed pass.
    """
    if bos_share >= HOLDS:
        return f"BOS is the sink: {bos_share:.2f} of an answer's attention in a bare pass"
    removed = primed.count("prefix") * 2 > len(primed)
    if math.isnan(bos_share):
        return f"there is no BOS: truncation {'removes' if removed else 'keeps'} the sink"
    return f"the sink is not BOS ({bos_share:.3f})" + (
        ": truncation removes it" if removed else ", nor in the prefix"
    )


def is_primed(condition: str) -> bool:
    """Whether a condition reads a prefix before the document, and keeps or drops it whole."""
    return condition.split("(")[0] in (*PREFIXES, SEEN)


def described(rows: pd.DataFrame) -> Mapping[str, str]:
    """Return what the report says of a cell's sinks: in words, and its figures."""
    usable = rows[rows["status"] == "ok"]
    figures = {
        f"sink under {name}": str(place_of(part))
        for name, part in usable.groupby("condition")
        if name == "bare" or is_primed(str(name))
    }
    return {"attention sink": in_words(rows), **figures}
