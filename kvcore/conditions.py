"""Conditions: how a sample's cache is made, as frozen data that composes.

A recipe is a small tree. Its leaves are prefills, which conditions with equal leaves share; its
inner nodes are cache operations. Nothing here touches a model.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from kvcore.errors import KvError, unknown
from kvcore.tokens import NO_PREFIX, Prefix

# --- the primitives -----------------------------------------------------------------------------


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

    ``turn`` is each layer's own rope base, the full-attention base for all layers (wrong on
    purpose), or none: the position is counted anew and the keys stay as they are. ``precision``
    is what the rotation is computed in.
    """

    source: Recipe
    turn: Literal["own", "full_attention", "none"] = "own"
    precision: Literal["float32", "model"] = "float32"


@dataclass(frozen=True)
class Shift:
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
class Hide:
    """Keep all but one copy of a prefix, or all of them, from the query's sight.

    The last step of a recipe; the copies stand before the document.
    """

    source: Recipe
    see: Literal["first", "last", "none", "all"]


Recipe = Prefill | Truncate | Reposition | Shift | Mix | Mean | Hide


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
    regrouped : bool
        Measure in other batches than the rest (the A/A control).
    """

    name: str
    recipe: Recipe
    tests: str
    regrouped: bool = False

    def __post_init__(self) -> None:
        """Refuse a recipe whose query would not stand right behind what it sees.

        Raises
        ------
        KvError
            If something is hidden anywhere but in the last step, or behind the document.
        """
        for node in nodes(self.recipe):
            if isinstance(node, Hide) and (node is not self.recipe or _ends_in_prefix(node)):
                raise KvError(f"condition {self.name!r}: Hide comes last, and hides copies that "
                              "stand before the document; change the recipe.")

    def leaves(self) -> tuple[Prefill, ...]:
        """Return the distinct prefills this condition is made from."""
        return tuple(dict.fromkeys(n for n in nodes(self.recipe) if isinstance(n, Prefill)))

    def prefixes(self) -> tuple[Prefix, ...]:
        """Return every prefix whose ids or length the recipe uses."""
        found = []
        for node in nodes(self.recipe):
            if isinstance(node, Shift):
                found.append(node.prefix)
            if isinstance(node, Prefill):
                found += [p.beacon if isinstance(p, Document) else p for p in node.parts]
        return tuple(dict.fromkeys(found))


def _ends_in_prefix(recipe: Recipe) -> bool:
    return any(isinstance(node, Prefill) and isinstance((node.parts or (None,))[-1], Prefix)
               for node in nodes(recipe))


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


# --- what is composed of them -------------------------------------------------------------------

BARE = Prefill()
INTENTS = {
    "fact": "What are the key facts I need to know?",
    "definition": "What is the definition of this?",
    "procedure": "How do I do this step by step?",
    "quantity": "How much or how many?",
    "problem": "What problem does this solve?",
}
STYLES = ("keyword", "question", "need")
STATIC_FACT = Prefix("literal", INTENTS["fact"])
QUERY, RANDOM = Prefix("query"), Prefix("random")
SEPARATOR = Prefix("raw", "\n\nRelated question: ")


def primed(prefix: Prefix) -> Prefill:
    """Return the prefill of BOS, a prefix and the document."""
    return Prefill((prefix, Document()))


def truncation(prefix: Prefix) -> Recipe:
    """Return the plain recipe: read the prefix first, drop it, move the document back."""
    return Reposition(Truncate(primed(prefix)))


def _plain(prefix: Prefix, label: str) -> Condition:
    what = {"random": "whether any prefix, read and dropped again, helps",
            "oracle": "whether having read the very query helps"}
    return Condition(label, truncation(prefix),
                     what.get(label, f"whether the prefix {label}, read and dropped again, helps"))


def _full_context(p: Prefix, label: str) -> Condition:
    return Condition(f"full_context({label})", primed(p),
                     "what the same prefix does when the query can see it")


def _one_base(p: Prefix, label: str) -> Condition:
    return Condition(f"one_base({label})", Reposition(Truncate(primed(p)), "full_attention"),
                     "what re-positioning all layers with one rope base would fake")


def _no_reposition(p: Prefix, label: str) -> Condition:
    return Condition(f"no_reposition({label})", Reposition(Truncate(primed(p)), "none"),
                     "what it costs to leave the keys at their old positions")


def _reposition(p: Prefix, label: str, precision: str) -> Condition:
    if precision not in ("float32", "model"):
        raise unknown("precision", precision, ("float32", "model"))
    return Condition(f"reposition({label},{precision})",
                     Reposition(Truncate(primed(p)), precision=precision),  # type: ignore[arg-type]
                     f"whether computing the rotation in {precision} precision matters")


def _rope_roundtrip(p: Prefix, label: str) -> Condition:
    return Condition(f"rope_roundtrip({label})", Reposition(Shift(BARE, p)),
                     "the numerical noise of turning keys forth and back")


def _blocks(p: Prefix, label: str, n: int, see: str) -> Condition:
    if see not in ("first", "last", "none", "all"):
        raise unknown("part that the query sees", see, ("first", "last", "none", "all"))
    times = p.times * _count("blocks", n)
    copies = Prefill((replace(p, times=times), Document()), isolated=True)
    return Condition(f"blocks({label},{n},{see})", Hide(copies, see),  # type: ignore[arg-type]
                     f"{n} copies that cannot see each other, of which the query sees {see}")


def _suffix(p: Prefix, label: str) -> Condition:
    return Condition(f"suffix({label})", Prefill((Document(), SEPARATOR, p)),
                     "what a question after the document does")


def _values_only(p: Prefix, label: str) -> Condition:
    return Condition(f"values_only({label})", Mix(BARE, primed(p)),
                     "what primed values do under bare keys")


def _values_early_layers(p: Prefix, label: str, stop: float) -> Condition:
    return Condition(f"values_early_layers({label},{stop})",
                     Mix(BARE, primed(p), layers=(0, _depth("values_early_layers", stop))),
                     f"what primed values do in the layers below {stop} alone")


def _values_layer(p: Prefix, label: str, layer: int) -> Condition:
    only = _count("values_layer", layer, least=0)
    return Condition(f"values_layer({label},{layer})",
                     Mix(BARE, primed(p), layers=(only, only + 1)),
                     f"what primed values do in layer {layer} alone")


def _values_early_positions(p: Prefix, label: str, share: float) -> Condition:
    return Condition(f"values_early_positions({label},{share})",
                     Mix(BARE, primed(p), share=_share("values_early_positions", share)),
                     f"what primed values do on the first {share} of the document alone")


def _interp(p: Prefix, label: str, weight: float) -> Condition:
    return Condition(f"interp({label},{weight})",
                     Mix(BARE, primed(p), weight=_share("interp", weight)),
                     f"what {weight} of the primed values does under bare keys")


def _qvi(weight: float) -> Condition:
    query = Mean(Prefill((QUERY,)))
    return Condition(f"qvi({weight})",
                     Mix(BARE, query, weight=_share("qvi", weight), layers=(0, 0.5)),
                     "what mixing the query's mean value into the lower half of the layers does")


def _beacons(p: Prefix, label: str, every: int) -> Condition:
    part = Document(p, _count("beacons", every))
    return Condition(f"beacons({label},{every})", Reposition(Truncate(Prefill((part,)))),
                     f"whether the prefix, repeated every {every} tokens, helps")


_WITHOUT: Mapping[str, Condition] = {c.name: c for c in (
    Condition("bare", BARE, "the baseline: nothing but the document is cached"),
    Condition("bos_only", Prefill(()), "how hard the answer is without any document"),
    Condition("framed", primed(Prefix("literal", "Document:")),
              "whether a label before the passage changes the answer's NLL"),
    Condition("bare_again", BARE, "what batching alone changes (A/A control)", regrouped=True),
    Condition("separator", Prefill((Document(), SEPARATOR)),
              "what a separator after the document does"),
)}
_WITH_PREFIX: Mapping[str, tuple[Callable[..., Condition], tuple[type, ...]]] = {
    "full_context": (_full_context, ()),
    "one_base": (_one_base, ()),
    "no_reposition": (_no_reposition, ()),
    "reposition": (_reposition, (str,)),
    "rope_roundtrip": (_rope_roundtrip, ()),
    "blocks": (_blocks, (int, str)),
    "suffix": (_suffix, ()),
    "values_only": (_values_only, ()),
    "values_early_layers": (_values_early_layers, (float,)),
    "values_layer": (_values_layer, (int,)),
    "values_early_positions": (_values_early_positions, (float,)),
    "interp": (_interp, (float,)),
    "beacons": (_beacons, (int,)),
}
_PREFIXES = ("random", "oracle", "static_fact", "static(intent)", "llm_surrogate(style)",
             "click_history(k)", "repeat(p,n)", 'literal("any text")')
NAMES = (*_WITHOUT, "qvi(a)", *_PREFIXES, *(
    f"{name}({','.join(('p', *(kind.__name__ for kind in more)))})"
    for name, (_, more) in _WITH_PREFIX.items()))

_DEFINED: dict[str, Condition] = {}


def define(name: str, recipe: Recipe, tests: str) -> Condition:
    """Give a recipe a name that claims, options and `condition` understand.

    Raises
    ------
    KvError
        If the name is taken by another recipe, or is no plain word.

    Examples
    --------
    >>> define("keys_only", Mix(truncation(STATIC_FACT), BARE), "what primed keys alone do").name
    'keys_only'
    """
    made = Condition(name, recipe, tests)
    taken = name in _WITHOUT or name in _WITH_PREFIX or name in (
        "qvi", *(p.split("(")[0] for p in _PREFIXES))
    if not name.isidentifier() or taken or _DEFINED.get(name, made) != made:
        raise KvError(f"define: {name!r} is taken or no plain word; choose another name.")
    _DEFINED[name] = made
    return made


def recipe_of_defined(name: str) -> str:
    """Return what a user's own condition is made of, and "" for one that comes with kvcore."""
    return repr(_DEFINED[name].recipe) if name in _DEFINED else ""


def truncated(text: str) -> Condition:
    """Make the plain truncated condition of a literal prefix; a newline is added to the text.

    Examples
    --------
    >>> truncated("Read this closely.").name
    'literal("Read this closely.")'
    """
    return _plain(Prefix("literal", text), f"literal({json.dumps(text, ensure_ascii=False)})")


def condition(spelled: str | Condition) -> Condition:
    """Return the condition a name spells; a condition passes through.

    Parameters
    ----------
    spelled : str
        ``"bare"``, ``"random"``, ``"full_context(oracle)"``, ``'literal("any text")'``,
        ``"values_early_layers(repeat(oracle,5),0.5)"``, ...; a prefix left out is
        ``static_fact``. A prefix's own name is its plain truncated condition.

    Raises
    ------
    KvError
        For an unknown name, with the nearest known one, or for a malformed one.
    """
    if isinstance(spelled, Condition):
        return spelled
    try:
        tree = ast.parse(spelled.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise unknown("condition", spelled, (*NAMES, *_DEFINED)) from error
    name, given = _call(tree, spelled)
    if name in _WITHOUT and not given:
        return _WITHOUT[name]
    if name in _DEFINED and not given:
        return _DEFINED[name]
    if name == "qvi":
        return _qvi(*_arguments(name, given, (float,), spelled))
    if name in _WITH_PREFIX:
        make, kinds = _WITH_PREFIX[name]
        prefix, label = STATIC_FACT, "static_fact"
        if len(given) > len(kinds) or (given and not kinds):
            prefix, label = _prefix(given[0], spelled)
            given = given[1:]
        return make(prefix, label, *_arguments(name, given, kinds, spelled))
    if name in {p.split("(")[0] for p in _PREFIXES}:
        return _plain(*_prefix(tree, spelled))
    raise unknown("condition", spelled, (*NAMES, *_DEFINED))


def _call(node: ast.expr, spelled: str) -> tuple[str, list[ast.expr]]:
    if isinstance(node, ast.Name):
        return node.id, []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        return node.func.id, node.args
    raise KvError(f"condition {spelled!r}: write a name or name(arguments); known are "
                  f"{', '.join(NAMES)}.")


def _prefix(node: ast.expr, spelled: str) -> tuple[Prefix, str]:
    """Return a prefix and how it is written."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return Prefix("literal", node.value), json.dumps(node.value, ensure_ascii=False)
    name, given = _call(node, spelled)
    simple = {"random": RANDOM, "oracle": QUERY, "static_fact": STATIC_FACT}
    if name in simple and not given:
        return simple[name], name
    if name == "literal" and len(given) == 1 and isinstance(given[0], ast.Constant) and isinstance(
            given[0].value, str):
        text = given[0].value
        return Prefix("literal", text), f"literal({json.dumps(text, ensure_ascii=False)})"
    if name == "static":
        (intent,) = _arguments(name, given, (str,), spelled)
        if intent not in INTENTS:
            raise unknown("intent", intent, INTENTS)
        return Prefix("literal", INTENTS[intent]), f"static({intent})"
    if name == "llm_surrogate":
        (style,) = _arguments(name, given, (str,), spelled)
        if style not in STYLES:
            raise unknown("style", style, STYLES)
        return Prefix("own", f"surrogate({style})"), f"llm_surrogate({style})"
    if name == "click_history":
        (times,) = _arguments(name, given, (int,), spelled)
        return Prefix("own", "past_query", _count(name, times)), f"click_history({times})"
    if name == "repeat" and len(given) == 2:
        inner, label = _prefix(given[0], spelled)
        (times,) = _arguments(name, given[1:], (int,), spelled)
        return replace(inner, times=inner.times * _count(name, times)), f"repeat({label},{times})"
    raise unknown(f"prefix in condition {spelled!r}:", ast.unparse(node), _PREFIXES)


def _arguments(name: str, given: list[ast.expr], kinds: tuple[type, ...], spelled: str
               ) -> tuple[Any, ...]:
    """Return the plain values of a call's last arguments."""
    values = [n.id if isinstance(n, ast.Name) else n.value if isinstance(n, ast.Constant) else None
              for n in given]
    fits = len(values) == len(kinds) and all(
        isinstance(v, (int, float) if kind is float else kind) and not isinstance(v, bool)
        for v, kind in zip(values, kinds, strict=True))
    if not fits:
        wanted = ", ".join({int: "a whole number", float: "a number", str: "a word"}[k]
                           for k in kinds) or "nothing more"
        raise KvError(f"condition {spelled!r}: {name} takes {wanted} last; known are "
                      f"{', '.join(NAMES)}.")
    return tuple(values)


def _count(name: str, value: int, least: int = 1) -> int:
    if value < least:
        raise KvError(f"{name}: {value} given; pass {least} or more.")
    return value


def _share(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise KvError(f"{name}: {value} given; pass a share from 0 to 1.")
    return value


def _depth(name: str, value: float) -> float:
    return _count(name, value, least=0) if isinstance(value, int) else _share(name, value)
