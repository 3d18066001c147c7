"""Samples, corpora of them, and a choice among them that never depends on their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from kvcore.errors import KvError
from kvcore.io import digest

MISSING = ("", "nan", "<na>", "nat", "none", "null")
"""What texts become of missing values, in small letters."""


def name_or_none(value: object) -> str | None:
    """Return what names something as text, or None where it is missing.

    Missing are null, NaN, what is blank, and the texts that tools write for them (`MISSING`).
    """
    text = "" if value is None else str(value)
    return None if text.strip().casefold() in MISSING else text


@dataclass(frozen=True, repr=False)
class Sample:
    """One question, the passage that may answer it, and the answer that is scored."""

    # Plain text. An empty passage or answer is allowed here and dropped where files are read.
    query: str
    passage: str
    answer: str
    # Unique within a corpus; by default derived from the content.
    id: str = None  # type: ignore[assignment]  # None is only the way to ask for the default
    # What the intervals resample; by default the sample itself.
    cluster: str = None  # type: ignore[assignment]
    # Further texts by name that some conditions read as a prefix, such as ``past_query``.
    texts: tuple[tuple[str, str], ...] = ()
    # Unrelated passages that follow the passage up to `length` tokens.
    padding: tuple[str, ...] = ()
    # Tokens that the document has once it is padded; by default it is not padded.
    length: int | None = None

    def __post_init__(self) -> None:
        """Set the default id and cluster, also where they are NaN or blank."""
        if name_or_none(self.id) is None:
            object.__setattr__(self, "id", f"s-{self.content_hash[:16]}")
        if name_or_none(self.cluster) is None:
            object.__setattr__(self, "cluster", self.id)

    def __repr__(self) -> str:
        """Show the beginning of each text: passages fill screens."""
        texts = (
            f"{name}={_beginning(getattr(self, name))}" for name in ("query", "passage", "answer")
        )
        return f"Sample({', '.join(texts)}, id={self.id!r})"

    def with_texts_of(self, other: Sample) -> Sample:
        """Return the sample with the further texts of another beside its own, which come last."""
        texts = {**dict(other.texts), **dict(self.texts)}
        return self if len(texts) == len(self.texts) else replace(self, texts=tuple(texts.items()))

    @property
    def content_hash(self) -> str:
        """Return 32 hex digits that change with query, passage, answer and padding."""
        padded = () if self.length is None else ("padding", str(self.length), *self.padding)
        return digest(self.query, self.passage, self.answer, *padded)[:32]

    def hash_with(self, names: Sequence[str]) -> str:
        """Return 32 hex digits that also change with the named further texts."""
        parts = [part for text in self.texts if text[0] in names for part in text]
        return digest(self.content_hash, *parts)[:32] if parts else self.content_hash


@dataclass(frozen=True)
class Corpus:
    """Samples, where they come from and what was left out."""

    name: str  # ``"docstrings"``, ``"ms_marco"`` or the stem of a file
    samples: tuple[Sample, ...]  # never empty; ids are unique
    dropped: Mapping[str, int]  # how many rows or docstrings were left out, by reason
    revision: str  # hub revision, digest of package versions, or SHA-256 of the file
    # What ``Sample.cluster`` stands for: ``"module"``, ``"query"`` or ``"sample"``.
    cluster_unit: str
    note: str  # one line on what it is
    # For each sample's id, passages of the same query that do not answer it, where the data
    # names them.
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # Likewise passages that answer it too, beside the sample's own.
    relevant: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # Whether samples are chosen in whole clusters: all passages of some queries.
    whole_clusters: bool = False

    def choose(self, n: int | None, seed: int) -> tuple[Sample, ...]:
        """Choose n samples, or as many whole clusters as n samples hold; see `choose_samples`."""
        choose = choose_clusters if self.whole_clusters else choose_samples
        return choose(self.samples, n, seed)


def _beginning(text: str, longest: int = 40) -> str:
    return repr(text if len(text) <= longest else f"{text[: longest - 1]}\u2026")


def choose_samples(samples: Sequence[Sample], n: int | None, seed: int) -> tuple[Sample, ...]:
    """Choose n samples by (seed, id) alone: order never matters, a larger n is a superset.

    They are sorted by the hash of (seed, id).

    Raises KvError where n is negative.

    Parameters
    ----------
    samples : sequence of Sample
        With unique ids.
    n : int or None
        How many; all of them where None or larger than there are.
    seed : int
        Another seed chooses others.
    """
    if n is not None and n < 0:
        raise KvError(f"choose_samples: n must be 0 or more, or None for all samples; got {n}.")
    return tuple(sorted(samples, key=lambda sample: (digest(str(seed), sample.id), sample.id))[:n])


def choose_clusters(samples: Sequence[Sample], n: int | None, seed: int) -> tuple[Sample, ...]:
    """Choose whole clusters by (seed, cluster) alone until the next one would go beyond n samples.

    At least one. Parameters and errors are those of `choose_samples`; a larger n is a superset.
    """
    members: dict[str, list[Sample]] = {}
    for sample in choose_samples(samples, None, seed):
        members.setdefault(sample.cluster, []).append(sample)
    if n is not None and n < 0:
        raise KvError(f"choose_clusters: n must be 0 or more, or None for all samples; got {n}.")
    chosen: list[Sample] = []
    for cluster in sorted(members, key=lambda name: (digest(str(seed), name), name)):
        if n is not None and chosen and len(chosen) + len(members[cluster]) > n:
            break
        chosen += members[cluster]
    return tuple(chosen)
