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
from kvcore.engine.prepared import BOS, COPIES, DOCUMENT, PreparedSample
from kvcore.tokenization import Prefix

LEADING, KEPT, SECOND_BOS, QUESTION = -4, -3, -2, -1  # further groups of the one-pass route
Sees = Mapping[int, Collection[int]]
"""For each group the groups that its tokens see of what stands before them."""


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
    ids, groups = sample.prefill_ids(prefill, bos_id), sample.roles(prefill)
    question = sample.query_ids()
    asking = (QUESTION,) * len(question)
    copies = tuple(sorted({group for group in groups if group >= COPIES}))
    if isinstance(recipe, Reposition) and copies:
        end = sample.bos + sample.prefix_length(prefill)
        kept = _kept_slots(sample, recipe)
        again, leading = ids[: kept.stop], kept.start
        tail = len(ids) - end + len(question)
        return _sequence(
            (*ids[:end], *again, *[bos_id] * sample.bos, *ids[end:], *question),
            (
                *groups[:end],
                *[LEADING] * leading,
                *[KEPT] * len(kept),
                *[SECOND_BOS] * sample.bos,
                *groups[end:],
                *asking,
            ),
            (
                *range(end),
                *range(end - len(again), end),
                *[end - 1 - len(kept)] * sample.bos,
                *range(end, end + tail),
            ),
            blocked_groups(truncation_table(copies)),
        )
    table = dict(prefill_table(prefill, copies))
    hidden = recipe.hidden_copies(copies) if isinstance(recipe, MaskFromQuery) else []
    table[QUESTION] = {*table, QUESTION} - set(hidden)
    return _sequence(
        (*ids, *question),
        (*groups, *asking),
        tuple(range(len(ids) + len(question))),
        blocked_groups(table),
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


def prefill_table(prefill: Prefill, copies: Sequence[int]) -> Sees:
    """Return who sees whom in a prefill."""
    everything = {BOS, DOCUMENT, *copies}
    isolated = {copy: everything - (set(copies) - {copy}) for copy in copies}
    return dict.fromkeys(everything, everything) | (isolated if prefill.isolated else {})


def truncation_table(copies: Sequence[int]) -> Sees:
    """Return who sees whom in the pass that stands for a truncated cache."""
    everything = {BOS, SECOND_BOS, LEADING, KEPT, DOCUMENT, *copies}
    return dict.fromkeys((BOS, *copies), everything) | {
        LEADING: {LEADING},
        KEPT: {LEADING, KEPT},
        SECOND_BOS: {SECOND_BOS},
        DOCUMENT: {BOS, *copies, DOCUMENT},
        QUESTION: {KEPT, SECOND_BOS, DOCUMENT, QUESTION},
    }


def blocked_groups(table: Sees) -> frozenset[tuple[int, int]]:
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
    groups: Sequence[int],
    positions: tuple[int, ...],
    blocked: frozenset[tuple[int, int]],
) -> SequenceInput:
    """Return tokens and their groups as what a pass reads, groups numbered as they appear."""
    if not blocked:
        return SequenceInput(ids, positions)
    number = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    return SequenceInput(
        ids,
        positions,
        tuple(map(number.__getitem__, groups)),
        frozenset((number[a], number[b]) for a, b in blocked if a in number and b in number),
    )
