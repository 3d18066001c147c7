"""One masked pass in place of a truncated cache: the route without any cache surgery."""

from __future__ import annotations

from collections.abc import Sequence

from kvcore.conditions.recipes import (
    Condition,
    Document,
    MaskFromQuery,
    Prefill,
    Recipe,
    Reposition,
    Truncate,
)
from kvcore.engine.forward import SequenceInput
from kvcore.engine.prepared import BOS, COPIES, DOCUMENT, PreparedSample
from kvcore.tokenization import Prefix

SECOND_BOS, QUESTION = -2, -1  # further groups of the one-pass route


def fits_one_pass(recipe: Recipe) -> bool:
    """Whether one masked pass gives what the recipe's cache would give."""
    if isinstance(recipe, MaskFromQuery):
        recipe = recipe.source
        return isinstance(recipe, Prefill)
    if isinstance(recipe, Reposition):
        if recipe.rope_base != "own" or recipe.precision != "float32":
            return False
        inner = recipe.source
        return (
            isinstance(inner, Truncate)
            and isinstance(inner.source, Prefill)
            and not inner.source.isolated
            and len(inner.source.parts) == 2
            and isinstance(inner.source.parts[0], Prefix)
            and inner.source.parts[1] == Document()
        )
    return isinstance(recipe, Prefill)


def one_pass(sample: PreparedSample, condition: Condition, bos_id: int) -> SequenceInput:
    """Return the one sequence that gives a sample's score under a condition without any cache.

    Notes
    -----
    Truncation: ``[BOS][prefix][BOS'][document][question]``. BOS' has the last prefix token's
    position and sees only itself; the document does not see it, the question sees neither BOS
    nor prefix. Relative positions are those of the truncated and re-positioned cache.
    """
    recipe = condition.recipe
    asked = sample.query_ids()
    (leaf,) = condition.prefills()
    read = ((bos_id, BOS), *sample.prefill_spec(leaf))
    prefix = sum(role >= COPIES for _, role in read)
    copies = sorted({role for _, role in read if role >= COPIES})
    if isinstance(recipe, Reposition) and prefix:
        read = (*read[: 1 + prefix], (bos_id, SECOND_BOS), *read[1 + prefix :])
        positions = (*range(1 + prefix), *range(prefix, len(read) - 1 + len(asked)))
        blocked = (
            {(QUESTION, group) for group in (BOS, *copies)}
            | {(SECOND_BOS, group) for group in (BOS, *copies)}
            | {(DOCUMENT, SECOND_BOS)}
        )
    else:
        positions = tuple(range(len(read) + len(asked)))
        isolated = leaf.isolated
        blocked = {(a, b) for a in copies for b in copies if a != b and isolated}
        if isinstance(recipe, MaskFromQuery):
            blocked |= {(QUESTION, group) for group in hidden_copies(recipe.see, copies)}
    groups = (*(role for _, role in read), *[QUESTION] * len(asked))
    place = {name: i for i, name in enumerate(dict.fromkeys((BOS, *groups)))}
    return SequenceInput(
        (*(i for i, _ in read), *asked),
        positions,
        tuple(place[g] for g in groups) if blocked else (),
        frozenset((place[a], place[b]) for a, b in blocked),
    )


def hidden_copies(see: str, copies: Sequence[int]) -> list[int]:
    """Return which copies the query does not see."""
    kept = {"first": copies[:1], "last": copies[-1:], "none": (), "all": copies}[see]
    return [copy for copy in copies if copy not in kept]
