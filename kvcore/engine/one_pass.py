"""One masked pass in place of a cache: the route without any cache surgery.

What a pass reads is divided into groups, and a table says for each group which others its tokens
see of what stands before them; a token always sees itself.

A prefill, its question behind it: ``[BOS][copies][document][question]`` in any order of parts

==========  =====================================================
group       sees
==========  =====================================================
BOS         everything
copy        everything; where copies are isolated no other copy
document    everything
question    everything but the copies that are masked from it
==========  =====================================================

A truncated and re-positioned cache: ``[BOS][copies][BOS'][document][question]``

==========  =====================================================
group       sees
==========  =====================================================
BOS         everything
copy        everything
BOS'        BOS'
document    BOS, copies, document
question    BOS', document, question
==========  =====================================================

BOS' has the last prefix token's position. Attention is relative: what stands at the positions
behind it is what the cache holds once the document has been moved to follow BOS.

The same with some tokens of the prefix kept behind BOS:
``[BOS][copies][BOS''][leading][kept][BOS'][document][question]``

==========  =====================================================
group       sees
==========  =====================================================
BOS         everything
copy        everything
leading     leading: BOS'' and the prefix up to what is kept
kept        leading, kept
BOS'        BOS'
document    BOS, copies, document
question    kept, BOS', document, question
==========  =====================================================

What is kept is read once more, behind all that it saw in the prefill, so that it has the values it
has there; it ends where the prefix ends, and BOS' stands as many positions before that as tokens
are kept. Where caches begin without BOS, so do the passes: there is none of the three.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence

from kvcore.conditions.recipes import (
    Condition,
    Document,
    MaskFromQuery,
    Prefill,
    Recipe,
    Reposition,
    Truncate,
    TruncateBut,
)
from kvcore.engine.forward import SequenceInput
from kvcore.engine.prepared import BOS, DOCUMENT, PreparedSample
from kvcore.tokenization import Prefix

LEADING, KEPT, SECOND_BOS, QUESTION = -4, -3, -2, -1  # further groups of the one-pass route
Sees = Mapping[int, Collection[int]]
"""For each group the groups that its tokens see of what stands before them."""
Blocked = frozenset[tuple[int, int]]
"""Pairs of groups of which the first does not see the second."""


def fits_one_pass(recipe: Recipe) -> bool:
    """Whether one masked pass gives what the recipe's cache would give."""
    match recipe:
        case Prefill() | MaskFromQuery(source=Prefill()):
            return True
        case Reposition(
            source=Truncate(source=Prefill(parts=(Prefix(), document), isolated=False)),
            rope_base="own",
            precision="float32",
        ):
            return document == Document()
        case Reposition(source=TruncateBut(), rope_base="own", precision="float32"):
            return True
    return False


def one_pass(sample: PreparedSample, condition: Condition, bos_id: int) -> SequenceInput:
    """Return the one sequence that gives a sample's score under a condition without any cache.

    See this module's tables of who sees whom.
    """
    recipe = condition.recipe
    (prefill,) = condition.prefills()
    ids, runs = sample.prefill_ids(prefill, bos_id), sample.runs(prefill)
    question = sample.query_ids()
    asking = QUESTION, len(question)
    copies = sample.copies(prefill)
    if isinstance(recipe, Reposition) and copies:
        *before, document = runs
        end = sample.bos + sample.prefix_length(prefill)
        kept = _kept_slots(sample, recipe)
        again, leading = ids[: kept.stop], kept.start
        tail = len(ids) - end + len(question)
        return _sequence(
            (*ids[:end], *again, *[bos_id] * sample.bos, *ids[end:], *question),
            (
                *before,
                (LEADING, leading),
                (KEPT, len(kept)),
                (SECOND_BOS, int(sample.bos)),
                document,
                asking,
            ),
            (
                *range(end),
                *range(end - len(again), end),
                *[end - 1 - len(kept)] * sample.bos,
                *range(end, end + tail),
            ),
            blocked_in_truncation(copies),
        )
    hidden = recipe.hidden_copies(copies) if isinstance(recipe, MaskFromQuery) else []
    return _sequence(
        (*ids, *question),
        (*runs, asking),
        tuple(range(len(ids) + len(question))),
        blocked_in_prefill(prefill.isolated, copies, tuple(hidden)),
    )


def one_pass_length(sample: PreparedSample, condition: Condition) -> int:
    """Return how many tokens `one_pass` reads, without writing them down."""
    (prefill,) = condition.prefills()
    length = len(sample.roles(prefill)) + sample.query_length()
    recipe = condition.recipe
    if isinstance(recipe, Reposition) and sample.prefix_length(prefill):
        length += _kept_slots(sample, recipe).stop + sample.bos
    return length


def _kept_slots(sample: PreparedSample, recipe: Reposition) -> range:
    """Return which slots of the prefix a truncated cache keeps; an empty range begins at 0."""
    but = recipe.source
    kept = sample.kept_slots(but) if isinstance(but, TruncateBut) else range(0)
    return kept or range(0)


@functools.lru_cache
def blocked_in_prefill(
    isolated: bool, copies: tuple[int, ...], hidden: tuple[int, ...] = ()
) -> Blocked:
    """Return who does not see whom in a prefill with its question behind it.

    `isolated`: whether copies see no other copy; `hidden`: those that the question does not see.
    """
    everything = {BOS, DOCUMENT, *copies}
    alone = {copy: everything - (set(copies) - {copy}) for copy in copies}
    table = dict.fromkeys(everything, everything) | (alone if isolated else {})
    return blocked_groups(table | {QUESTION: {*everything, QUESTION} - set(hidden)})


@functools.lru_cache
def blocked_in_truncation(copies: tuple[int, ...]) -> Blocked:
    """Return who does not see whom in the pass that stands for a truncated cache."""
    everything = {BOS, SECOND_BOS, LEADING, KEPT, DOCUMENT, *copies}
    return blocked_groups(
        dict.fromkeys((BOS, *copies), everything)
        | {
            LEADING: {LEADING},
            KEPT: {LEADING, KEPT},
            SECOND_BOS: {SECOND_BOS},
            DOCUMENT: {BOS, *copies, DOCUMENT},
            QUESTION: {KEPT, SECOND_BOS, DOCUMENT, QUESTION},
        }
    )


def blocked_groups(table: Sees) -> Blocked:
    """Return the pairs of groups of which the first does not see the second.

    The question comes last, so that nothing else could see it.
    """
    return frozenset(
        (group, other)
        for group, seen in table.items()
        for other in table
        if other not in seen and other != QUESTION
    )


def _sequence(
    ids: tuple[int, ...],
    runs: Sequence[tuple[int, int]],
    positions: tuple[int, ...],
    blocked: Blocked,
) -> SequenceInput:
    """Return tokens and their groups as what a pass reads, groups numbered as they appear.

    `runs`: groups in the order of their tokens, each with how many of those stand in a row.
    """
    if not blocked:
        return SequenceInput(ids, positions)
    number = {group: i for i, group in enumerate(dict.fromkeys(g for g, count in runs if count))}
    groups: list[int] = []
    for group, count in runs:
        if count:
            groups += [number[group]] * count
    return SequenceInput(
        ids,
        positions,
        tuple(groups),
        frozenset((number[a], number[b]) for a, b in blocked if a in number and b in number),
    )
