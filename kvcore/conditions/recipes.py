"""Conditions: how a sample's cache is made, as frozen data that composes.

A recipe is a small tree. Its leaves are prefills, which conditions with equal leaves share; its
inner nodes are cache operations. Nothing here touches a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from kvcore.errors import KvError
from kvcore.tokenization import NO_PREFIX, Prefix


@dataclass(frozen=True)
class Document:
    """The sample's document; with a beacon, that prefix before every ``every`` of its tokens."""

    beacon: Prefix = NO_PREFIX
    every: int = 0


@dataclass(frozen=True)
class Prefill:
    """The cache of BOS and the given parts, read in one pass.

    ``isolated`` keeps the copies of a prefix from seeing each other.
    """

    parts: tuple[Prefix | Document, ...] = (Document(),)
    isolated: bool = False


@dataclass(frozen=True)
class Truncate:
    """Drop all slots but BOS's and the document's; those stay at their old positions."""

    source: Recipe


@dataclass(frozen=True)
class Reposition:
    """Close the gaps: slot i moves to position i, its keys turned to match.

    ``rope_base`` is each layer's own rope base, the full-attention base for all layers (wrong on
    purpose), or none: the position is counted anew and the keys stay as they are. ``precision``
    is what the rotation is computed in.
    """

    source: Recipe
    rope_base: Literal["own", "full_attention", "none"] = "own"
    precision: Literal["float32", "model"] = "float32"


@dataclass(frozen=True)
class RotateForward:
    """Turn all keys but BOS's forth by a prefix's length, as if it stood before them."""

    source: Recipe
    prefix: Prefix


@dataclass(frozen=True)
class Mix:
    """The keys of one cache with values of another, on the document's slots.

    Attributes
    ----------
    keys, values : Recipe
    weight : float
        Each value becomes (1 - weight) of its own and weight of the other's.
    layers : pair
        First layer and the one after the last; an int is a layer, a float a share of the depth.
    share : float
        Share of the document's tokens, from its start.
    """

    keys: Recipe
    values: Recipe
    weight: float = 1.0
    layers: tuple[int | float, int | float] = (0, 1.0)
    share: float = 1.0
    _kinds: tuple[str, ...] = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        """Keep layer 1 and the whole depth, 1.0, apart: as numbers they are equal."""
        object.__setattr__(self, "_kinds", tuple(type(n).__name__ for n in self.layers))


@dataclass(frozen=True)
class Mean:
    """One slot that holds the mean value of a cache, BOS left out."""

    source: Recipe


@dataclass(frozen=True)
class MaskFromQuery:
    """Keep all but one copy of a prefix, or all of them, from the query's sight.

    The last step of a recipe; the copies stand before the document.
    """

    source: Recipe
    see: Literal["first", "last", "none", "all"]


Recipe = Prefill | Truncate | Reposition | RotateForward | Mix | Mean | MaskFromQuery


@dataclass(frozen=True)
class Condition:
    """One way of making the cache that the query sees.

    Attributes
    ----------
    name : str
        As it is written in options, ledger and report.
    recipe : Recipe
    tests : str
        In plain words, what the comparison with ``bare`` tests.
    aa_control : bool
        Measure in other batches than the rest (the A/A control).
    """

    name: str
    recipe: Recipe
    tests: str
    aa_control: bool = False

    def __post_init__(self) -> None:
        """Refuse a recipe whose query would not stand right behind what it sees.

        Raises
        ------
        KvError
            If something is hidden anywhere but in the last step, or behind the document.
        """
        for node in nodes(self.recipe):
            if isinstance(node, MaskFromQuery) and (
                node is not self.recipe or _ends_in_prefix(node)
            ):
                raise KvError(
                    f"condition {self.name!r}: Hide comes last, and hides copies that "
                    "stand before the document; change the recipe."
                )

    def prefills(self) -> tuple[Prefill, ...]:
        """Return the distinct prefills this condition is made from."""
        return tuple(dict.fromkeys(n for n in nodes(self.recipe) if isinstance(n, Prefill)))

    def prefixes(self) -> tuple[Prefix, ...]:
        """Return every prefix whose ids or length the recipe uses."""
        found = []
        for node in nodes(self.recipe):
            if isinstance(node, RotateForward):
                found.append(node.prefix)
            if isinstance(node, Prefill):
                found += [p.beacon if isinstance(p, Document) else p for p in node.parts]
        return tuple(dict.fromkeys(found))


def _ends_in_prefix(recipe: Recipe) -> bool:
    return any(
        isinstance(node, Prefill) and isinstance((node.parts or (None,))[-1], Prefix)
        for node in nodes(recipe)
    )


def sources(recipe: Recipe) -> tuple[Recipe, ...]:
    """Return the recipes that a recipe is made from, at most two."""
    if isinstance(recipe, Prefill):
        return ()
    return (recipe.keys, recipe.values) if isinstance(recipe, Mix) else (recipe.source,)


def nodes(recipe: Recipe) -> Iterator[Recipe]:
    """Walk through a recipe, leaves first."""
    for source in sources(recipe):
        yield from nodes(source)
    yield recipe
