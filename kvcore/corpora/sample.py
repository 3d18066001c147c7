"""What is asked: samples, corpora of them, and the choice that never depends on order."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kvcore import io
from kvcore.errors import KvError


def digest(*parts: str) -> str:
    """Hash texts in sequence; the length before each keeps ("ab", "c") and ("a", "bc") apart.

    Returns
    -------
    str
        64 lower-case hex digits (SHA-256). Lone surrogates are hashed as they stand.
    """
    hashed = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hashed.update(len(data).to_bytes(8, "big") + data)
    return hashed.hexdigest()


@dataclass(frozen=True)
class Sample:
    """One question, the passage that may answer it, and the answer that is scored.

    Parameters
    ----------
    query, passage, answer : str
        Plain text. An empty passage or answer is allowed here and dropped where files are read.
    id : str, optional
        Unique within a corpus; by default derived from the content.
    cluster : str, optional
        What the intervals resample; by default the sample itself.
    texts : tuple of (str, str)
        Further texts by name that some conditions read as a prefix, such as ``past_query``.
    padding : tuple of str
        Unrelated passages that follow the passage up to `length` tokens.
    length : int, optional
        Tokens that the document has once it is padded; by default it is not padded.
    """

    query: str
    passage: str
    answer: str
    id: str = None  # type: ignore[assignment]  # None is only the way to ask for the default
    cluster: str = None  # type: ignore[assignment]
    texts: tuple[tuple[str, str], ...] = ()
    padding: tuple[str, ...] = ()
    length: int | None = None

    def __post_init__(self) -> None:
        """Fill in the identity and the cluster that were not given."""
        if self.id is None:
            object.__setattr__(self, "id", f"s-{self.content_hash[:16]}")
        if self.cluster is None:
            object.__setattr__(self, "cluster", self.id)

    @property
    def content_hash(self) -> str:
        """Return 32 hex digits that change with query, passage, answer and padding."""
        further = () if self.length is None else ("padding", str(self.length), *self.padding)
        return io.digest(self.query, self.passage, self.answer, *further)[:32]

    def hash_with(self, names: Sequence[str]) -> str:
        """Return 32 hex digits that also change with the named further texts."""
        used = [(name, text) for name, text in self.texts if name in names]
        return io.digest(self.content_hash, *(part for pair in used for part in pair))[:32] if (
            used) else self.content_hash


@dataclass(frozen=True)
class Corpus:
    """Samples, where they come from and what was left out.

    Parameters
    ----------
    name : str
        ``"docstrings"``, ``"ms_marco"`` or the stem of a file.
    samples : tuple of Sample
        Never empty; identities are unique.
    dropped : mapping of str to int
        How many candidates were left out, by reason.
    revision : str
        Hub revision, digest of package versions, or SHA-256 of the file.
    cluster_unit : str
        What ``Sample.cluster`` stands for: ``"module"``, ``"query"`` or ``"sample"``.
    note : str
        One line on what it is.
    others : mapping of str to tuple of str
        For each sample's id, passages of the same query that do not answer it, where the data
        names them.
    """

    name: str
    samples: tuple[Sample, ...]
    dropped: Mapping[str, int]
    revision: str
    cluster_unit: str
    note: str
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def choose(samples: Sequence[Sample], n: int | None, seed: int) -> tuple[Sample, ...]:
    """Choose n samples by (seed, id) alone: order never matters, a larger n is a superset.

    Parameters
    ----------
    samples : sequence of Sample
        With unique identities.
    n : int or None
        How many; all of them where None or larger than there are.
    seed : int
        Another seed chooses others.

    Returns
    -------
    tuple of Sample
        Sorted by the hash of (seed, id).

    Raises
    ------
    KvError
        Where n is negative.
    """
    if n is not None and n < 0:
        raise KvError(f"choose: n = {n} samples; pass 0 or more, or None for all of them.")
    return tuple(sorted(samples, key=lambda sample: (io.digest(str(seed), sample.id), sample.id))[:n])
