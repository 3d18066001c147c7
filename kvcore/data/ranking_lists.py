"""Lists to rank: for each query the passage that answers it, among passages that do not.

Every candidate is an ordinary sample, the query and its true answer over one of the passages, so
that the engine scores a list like any other samples. Which passages stand in a query's list is
decided by (seed, query id, passage id) alone: never by order, by how many queries are asked for
or by masking, so the masked and the plain list of a query hold the same passages.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from kvcore.data.docstrings.clean import near_duplicates, template
from kvcore.data.overlap import words_of
from kvcore.data.sample import Corpus, Sample, choose_samples
from kvcore.errors import KvError
from kvcore.io import digest

NEUTRAL = "it"
"""What stands where a name was."""

ALSO = "+"
"""Stands behind the query's id in that of a further passage that answers it."""
Origin = Literal["query", "named", "cluster", "package"]
# A name that no ordinary word could be: DataFrame, rv_discrete, log1p.
_IDENTIFIER = re.compile(r"_|\w[A-Z]|\D\d")


@dataclass(frozen=True)
class Candidate:
    """One passage in the list of one query."""

    # Unique together. A passage from the corpus goes by its sample's id; another one, by a
    # digest of its text.
    query_id: str
    passage_id: str
    # The query and its *true* answer over this passage. Its id is ``query_id#passage_id``, with
    # ``#masked`` behind it where names are masked; its cluster is the query's id.
    sample: Sample
    relevant: bool  # whether this is the passage that answers the query
    # ``"query"`` (the relevant passage), ``"named"`` (the data names it as a passage of the
    # query), ``"cluster"`` (same module) or ``"package"`` (same top package).
    origin: Origin = "query"


@dataclass(frozen=True)
class _Passage:
    """A passage that may stand in a list."""

    id: str
    text: str
    origin: Origin


def ranking_lists(
    corpus: Corpus, queries: int, seed: int, *, negatives: int = 9, masked: bool = False
) -> tuple[Candidate, ...]:
    """Make lists to rank: per query the relevant passage first, then those that do not answer it.

    They come list by list; none is a near-duplicate of another in its list.

    Raises KvError, one line: a corpus without passages to rank against, a number out of range,
    samples that are no named things and so cannot be masked, or two candidates with one id.

    Parameters
    ----------
    corpus : Corpus
        Whole, not a choice from it: its samples are where negatives come from.
    queries : int
        How many; all that have a list where there are fewer. A larger number is a superset.
    seed : int
        Another seed chooses other queries and other negatives.
    negatives : int
        Passages per query that do not answer it, at least 1. Where the data names such passages
        (``corpus.others``) they are taken from those. Else they are hard: passages of the same
        cluster (module), then of the same top package where the module has too few. A list is
        shorter where there are not enough, and a query without any is not asked.
    masked : bool
        Replace every name by a neutral word, so that a list cannot be ranked by matching names.

    Notes
    -----
    Masking replaces, as whole words and whatever their case, the last component of every qualified
    name in the list, and every other component that is no ordinary word (an underscore, a digit
    or a capital inside: ``DataFrame``, but not ``Series`` or ``stats``), with the dotted path
    before it. It does the same to every passage of the list and to the answer; the query keeps
    the name it asks for. Names that are also words (``mean``) go as well. A negative of
    the same module never holds the answer word for word. `Sample.texts` and padding are left out.
    """
    _check_arguments(corpus, queries, negatives)
    usable = (ranked for ranked in _lists(corpus, seed, negatives) if len(ranked) > 1)
    lists = [mask(ranked) if masked else ranked for ranked in islice(usable, queries)]
    if not lists:
        raise KvError(
            f"ranking_lists: no query of {corpus.name} has another passage to rank against."
        )
    candidates = tuple(candidate for ranked in lists for candidate in ranked)
    [(id, count)] = Counter(candidate.sample.id for candidate in candidates).most_common(1)
    if count > 1:
        raise KvError(f"ranking_lists: {id!r} names two candidates; give samples ids without '#'.")
    return candidates


def _check_arguments(corpus: Corpus, queries: int, negatives: int) -> None:
    if queries < 1 or negatives < 1:
        raise KvError(
            "ranking_lists: queries and negatives must be 1 or more; got "
            f"queries={queries}, negatives={negatives}."
        )
    if not corpus.others and all(sample.cluster == sample.id for sample in corpus.samples):
        raise KvError(
            f"ranking_lists: {corpus.name} cannot be ranked: it names no other passages of a query "
            "and no clusters to take them from; add a cluster column, or use docstrings or "
            "ms_marco."
        )


def _lists(corpus: Corpus, seed: int, negatives: int) -> Iterator[tuple[Candidate, ...]]:
    """Yield the list of every query, in the order in which queries are chosen.

    Where the data names further passages that answer a query, they follow its own.
    """
    negatives_of = _named_passages(corpus) if corpus.others else _neighbours(corpus)
    for sample in choose_samples(corpus.samples, None, seed):
        ordered = sorted(
            negatives_of(sample),
            key=lambda p: (p.origin == "package", digest(str(seed), sample.id, p.id), p.id),
        )
        further = [
            _Passage(f"{sample.id}{ALSO}p-{digest(text)[:16]}", text, "query")
            for text in corpus.relevant.get(sample.id, ())
        ]
        passages = [_Passage(sample.id, sample.passage, "query"), *further, *ordered]
        distinct = _first_distinct(passages, 1 + len(further) + negatives)
        yield tuple(_candidate(sample, passage) for passage in distinct)


def answers(query_id: str, passage_id: str) -> bool:
    """Whether a passage of a query's list answers it, known by their ids."""
    return passage_id == query_id or passage_id.startswith(f"{query_id}{ALSO}p-")


def _candidate(query: Sample, passage: _Passage) -> Candidate:
    id = f"{query.id}#{passage.id}"
    sample = Sample(query.query, passage.text, query.answer, id, query.id)
    relevant = passage.origin == "query"
    return Candidate(query.id, passage.id, sample, relevant, passage.origin)


def _named_passages(corpus: Corpus) -> Callable[[Sample], list[_Passage]]:
    """Return what lists the passages that the data names for a query."""

    def passages_of(sample: Sample) -> list[_Passage]:
        texts = dict.fromkeys(t for t in corpus.others.get(sample.id, ()) if t.strip())
        return [_Passage(f"p-{digest(text)[:16]}", text, "named") for text in texts]

    return passages_of


def _neighbours(corpus: Corpus) -> Callable[[Sample], list[_Passage]]:
    """Return what lists passages of a sample's cluster and top package without its answer."""
    packages: dict[str, list[Sample]] = {}
    for sample in corpus.samples:
        packages.setdefault(_package(sample), []).append(sample)
    words = {sample.id: f" {' '.join(words_of(sample.passage))} " for sample in corpus.samples}

    def passages_of(sample: Sample) -> list[_Passage]:
        answer = f" {' '.join(words_of(sample.answer))} "
        return [
            _Passage(s.id, s.passage, "cluster" if s.cluster == sample.cluster else "package")
            for s in packages[_package(sample)]
            if s.id != sample.id and s.query != sample.query and answer not in words[s.id]
        ]

    return passages_of


def _package(sample: Sample) -> str:
    return sample.cluster.split(".")[0]


def _first_distinct(passages: Sequence[_Passage], n: int) -> list[_Passage]:
    """Return the first n passages of which none is a near-duplicate of an earlier one.

    Names and numbers are made anonymous before passages are compared, as in the corpus.
    """
    size = n
    while True:
        first = passages[:size]
        repeats = near_duplicates([template(passage.text, passage.id) for passage in first])
        distinct = [passage for i, passage in enumerate(first) if i not in repeats]
        if len(distinct) >= n or len(first) == len(passages):
            return distinct[:n]
        size *= 2


def names_of(qualified: str) -> frozenset[str]:
    """Return the components of a qualified name that tell it from others, in lower case.

    Always the last one; of the others those that no ordinary word could be.

    Examples
    --------
    >>> sorted(names_of("pandas.DataFrame.min"))
    ['dataframe', 'min']
    """
    *path, last = qualified.split(".")
    return frozenset(part.casefold() for part in (*filter(_IDENTIFIER.search, path), last))


def without_names(text: str, names: Iterable[str]) -> str:
    """Replace names by the neutral word: whole words, any case, with the dotted path before them.

    Examples
    --------
    >>> without_names("Like numpy.min, but amin is not minimal.", {"min"})
    'Like it, but amin is not minimal.'
    """
    any_name = "|".join(map(re.escape, sorted(names, key=lambda name: (-len(name), name))))
    whole = re.compile(rf"(?<![\w'\u2019])(?:\w+\.)*(?:{any_name})(?!\w)", re.IGNORECASE)
    return whole.sub(NEUTRAL, text) if any_name else text


def mask(ranked: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Mask in every passage of one list, and in its answer, the names of all that stand in it.

    Raises KvError where the query does not ask for its sample by name.
    """
    names = frozenset().union(*map(_names_in, ranked))
    return tuple(replace(c, sample=_masked_sample(c.sample, names)) for c in ranked)


def _masked_sample(sample: Sample, names: frozenset[str]) -> Sample:
    passage, answer = (without_names(text, names) for text in (sample.passage, sample.answer))
    return replace(sample, passage=passage, answer=answer, id=f"{sample.id}#masked")


def _names_in(candidate: Candidate) -> frozenset[str]:
    if not re.search(rf"(?<!\w){re.escape(candidate.query_id)}(?!\w)", candidate.sample.query):
        raise KvError(
            f"ranking_lists: query {candidate.query_id!r} asks for nothing by name, so there is "
            "nothing to mask; pass masked=False."
        )
    own = names_of(candidate.passage_id) if candidate.origin != "named" else frozenset()
    return names_of(candidate.query_id) | own
