"""Conditions: how a sample's cache is made, as frozen data that composes.

A recipe is a small tree. Its leaves are prefills, which conditions with equal ones share; its
inner nodes are cache operations. Nothing here touches a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from kvcore.errors import KvError
from kvcore.tokenization import NO_PREFIX, Prefix


@dataclass(frozen=True)
class Document:
    """The sample's document; with a beacon, that prefix before every ``every`` of its tokens."""

    beacon: Prefix = NO_PREFIX
    every: int = 0


ANOTHER_DOCUMENT = Prefix("another", "other_passage")


@dataclass(frozen=True)
class AnotherDocument:
    """A document of another sample in place of the sample's own, cut or repeated to its length.

    ``text`` is the prefix that holds its tokens.
    """

    text: Prefix = ANOTHER_DOCUMENT


Part = Prefix | Document | AnotherDocument


@dataclass(frozen=True)
class Prefill:
    """The cache of BOS and the given parts, read in one pass.

    ``isolated`` keeps the copies of a prefix from seeing each other.
    """

    parts: tuple[Part, ...] = (Document(),)
    isolated: bool = False


@dataclass(frozen=True)
class Truncate:
    """Drop all slots but BOS's and the document's; those stay at their old positions."""

    source: Recipe


@dataclass(frozen=True)
class TruncateBut:
    """Drop the slots of a prefix but some, which stay right behind BOS, all at their old positions.

    - `source`: of one prefix and the document behind it.
    - `keep`: how many of the prefix's first tokens stay; or ``"sink"``: of BOS and the prefix the
      one slot with the largest hidden norm halfway up the layers, so that nothing but BOS stays
      where BOS is that slot.
    """

    source: Prefill
    keep: int | Literal["sink"]

    def __post_init__(self) -> None:
        """Raise KvError for a prefill of other parts, or fewer than one token to keep."""
        parts = self.source.parts
        plain = len(parts) == 2 and isinstance(parts[0], Prefix) and parts[1] == Document()
        if not plain or self.source.isolated:
            raise KvError(
                f"`source={self.source}` must be one prefix and the document behind it; pass "
                "Prefill((prefix, Document()))."
            )
        if self.keep != "sink" and self.keep < 1:
            raise KvError(
                f"`keep={self.keep}` must be a count or 'sink'; pass 1 or more, or Truncate."
            )


@dataclass(frozen=True)
class SwapBos:
    """A cache with the keys and values that BOS has in another; all else stays as it is."""

    source: Recipe
    bos: Recipe


@dataclass(frozen=True)
class DropPrefix:
    """Drop the slots between BOS and the document; what is left stays at its old positions."""

    source: Recipe


@dataclass(frozen=True)
class Reposition:
    """Renumber slots 0 ... n - 1 and rotate each key by its change of position.

    - `rope_base`: {"own", "full_attention", "none"}; each layer's own rope base, the full-attention
      base for all layers (wrong on purpose), or none: slots are renumbered and the keys stay as
      they are.
    - `precision`: {"float32", "model"}; what the rotation is computed in.
    """

    source: Recipe
    rope_base: Literal["own", "full_attention", "none"] = "own"
    precision: Literal["float32", "model"] = "float32"


@dataclass(frozen=True)
class RotateForward:
    """Rotate all keys but BOS's forward by a prefix's length, as if it stood before them."""

    source: Recipe
    prefix: Prefix


@dataclass(frozen=True)
class LayerRange:
    """Successive layers of a model of any depth.

    Made by `first`, `share`, `between`, `single` or `all`.

    - `start`: the first of them, counted from 0; a float is a share of the depth.
    - `stop`: the layer after the last; None where `depth_share` says where the range ends.
    - `depth_share`: where it ends as a share of the depth, 0 .. 1, rounded to the nearest layer.
    """

    start: int | float = 0
    stop: int | None = None
    depth_share: float = 1.0

    @classmethod
    def first(cls, count: int) -> LayerRange:
        """Return the first ``count`` layers."""
        if count < 0:
            raise KvError(f"`count={count}` must be a number of layers; pass 0 or more.")
        return cls(stop=count)

    @classmethod
    def share(cls, share: float) -> LayerRange:
        """Return the first layers, a share of the depth."""
        if not 0 <= share <= 1:
            raise KvError(f"`share={share}` must be of the depth; pass a share from 0 to 1.")
        return cls(depth_share=share)

    @classmethod
    def between(cls, start: float, stop: float) -> LayerRange:
        """Return the layers from one share of the depth up to another."""
        if not 0 <= start < stop <= 1:
            raise KvError(
                f"`start={start}`, `stop={stop}` must be of the depth; pass two rising shares "
                "from 0 to 1."
            )
        return cls(float(start), depth_share=stop)

    @classmethod
    def single(cls, layer: int) -> LayerRange:
        """Return one layer."""
        if layer < 0:
            raise KvError(f"`layer={layer}` must be counted from the first; pass 0 or more.")
        return cls(layer, layer + 1)

    @classmethod
    def all(cls) -> LayerRange:
        """Return every layer."""
        return cls()

    def in_depth(self, depth: int) -> range:
        """Return which layers these are in a model of some depth.

        Raises KvError if a layer lies outside the model.
        """
        start = round(self.start * depth) if isinstance(self.start, float) else self.start
        stop = round(self.depth_share * depth) if self.stop is None else self.stop
        if not start <= stop <= depth:
            raise KvError(f"layers {start} to {stop}: the model has {depth}; pass 0 to {depth}.")
        return range(start, stop)

    def __str__(self) -> str:
        return f"{self.start} to {self.depth_share if self.stop is None else self.stop}"


@dataclass(frozen=True)
class Mix:
    """The keys of one cache with values of another, on the document's slots.

    - `weight`: each value becomes (1 - weight) of its own and weight of the other's; above 1 the
      difference of the two is amplified.
    - `layers`: in the others the values stay as they are.
    - `share`: share of the document's tokens, from its start, or the two shares between which they
      lie.
    """

    keys: Recipe
    values: Recipe
    weight: float = 1.0
    layers: LayerRange = LayerRange()
    share: float | tuple[float, float] = 1.0

    def tokens(self, count: int) -> range:
        """Return which of a document's tokens are mixed; shares are rounded to the nearest one."""
        start, stop = self.share if isinstance(self.share, tuple) else (0.0, self.share)
        return range(round(start * count), round(stop * count))


@dataclass(frozen=True)
class Mean:
    """One slot that holds the mean value of a cache, BOS left out."""

    source: Recipe


@dataclass(frozen=True)
class MaskFromQuery:
    """Let the query see one copy of a prefix, none or all of them.

    The last step of a recipe; the copies stand before the document.
    """

    source: Recipe
    see: Literal["first", "last", "none", "all"]

    def hidden_copies(self, copies: Sequence[int]) -> list[int]:
        """Return which of the copies, numbered in any way, the query does not see."""
        seen = {"first": copies[:1], "last": copies[-1:], "none": (), "all": copies}[self.see]
        return [copy for copy in copies if copy not in seen]


Recipe = (
    Prefill
    | Truncate
    | TruncateBut
    | DropPrefix
    | Reposition
    | RotateForward
    | Mix
    | SwapBos
    | Mean
    | MaskFromQuery
)


@dataclass(frozen=True)
class Condition:
    """One way of making the cache that the query sees.

    - `name`: as it is written in options, ledger and report.
    - `tests`: in plain words, what the comparison with ``bare`` tests.
    - `aa_control`: measure in other batches than the rest (the A/A control).
    """

    name: str
    recipe: Recipe
    tests: str
    aa_control: bool = False

    def __post_init__(self) -> None:
        """Refuse a recipe whose query would not stand right behind what it sees.

        Raises KvError if something is masked anywhere but in the last step, or behind the document.
        """
        for node in nodes(self.recipe):
            if isinstance(node, MaskFromQuery) and (
                node is not self.recipe or _ends_in_prefix(node)
            ):
                raise KvError(
                    f"condition {self.name!r}: MaskFromQuery must come last, and mask copies "
                    "that stand before the document; change the recipe."
                )

    @cached_property
    def _hash(self) -> int:
        return hash((self.name, self.recipe, self.aa_control))

    def __hash__(self) -> int:
        """Hash the whole recipe once: every score looks its condition up."""
        return self._hash

    @cached_property
    def nodes(self) -> tuple[Recipe, ...]:
        """Every step of its recipe, leaves first."""
        return tuple(nodes(self.recipe))

    @cached_property
    def _prefills(self) -> tuple[Prefill, ...]:
        return tuple(dict.fromkeys(n for n in self.nodes if isinstance(n, Prefill)))

    def prefills(self) -> tuple[Prefill, ...]:
        """Return the distinct prefills this condition is made from."""
        return self._prefills

    @cached_property
    def _sink_prefills(self) -> tuple[Prefill, ...]:
        keeping = (n for n in self.nodes if isinstance(n, TruncateBut))
        return tuple(dict.fromkeys(n.source for n in keeping if n.keep == "sink"))

    def sink_prefills(self) -> tuple[Prefill, ...]:
        """Return the distinct prefills whose slot of largest hidden norm must be known."""
        return self._sink_prefills

    def swaps_bos(self) -> bool:
        """Whether BOS's entry is exchanged for another, which takes a BOS."""
        return any(isinstance(node, SwapBos) for node in self.nodes)

    def prefixes(self) -> tuple[Prefix, ...]:
        """Return every prefix whose ids or length the recipe uses."""
        return self._prefixes

    @cached_property
    def _prefixes(self) -> tuple[Prefix, ...]:
        prefixes = []
        for node in self.nodes:
            if isinstance(node, RotateForward):
                prefixes.append(node.prefix)
            if isinstance(node, Prefill):
                prefixes += [_prefix_of(part) for part in node.parts]
        return tuple(dict.fromkeys(prefixes))


def _prefix_of(part: Part) -> Prefix:
    if isinstance(part, Document):
        return part.beacon
    return part.text if isinstance(part, AnotherDocument) else part


def _ends_in_prefix(recipe: Recipe) -> bool:
    return any(
        isinstance(node, Prefill) and isinstance((node.parts or (None,))[-1], Prefix)
        for node in nodes(recipe)
    )


def sources(recipe: Recipe) -> tuple[Recipe, ...]:
    """Return the recipes that a recipe is made from, at most two."""
    if isinstance(recipe, Prefill):
        return ()
    if isinstance(recipe, SwapBos):
        return recipe.source, recipe.bos
    return (recipe.keys, recipe.values) if isinstance(recipe, Mix) else (recipe.source,)


def nodes(recipe: Recipe) -> Iterator[Recipe]:
    """Walk through a recipe, leaves first."""
    for source in sources(recipe):
        yield from nodes(source)
    yield recipe
