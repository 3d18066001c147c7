"""Conditions: how a sample's cache is made, as frozen data that composes.

A recipe is a small tree. Its leaves are prefills, which conditions with equal leaves share; its
inner nodes are cache operations. Nothing here touches a model.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from kvcore.errors import KvError, unknown
from kvcore.tokens import NO_PREFIX, Prefix


@dataclass(frozen=True)
class Prefill:
    """The cache of ``[BOS][prefix][document]``, or of ``[BOS]`` alone."""

    prefix: Prefix = NO_PREFIX
    document: bool = True


@dataclass(frozen=True)
class Truncate:
    """Drop the prefix's slots; BOS and the document stay, at their old positions."""

    source: Recipe
    prefix: Prefix


@dataclass(frozen=True)
class Reposition:
    """Turn all keys but BOS's by ``sign`` times the prefix's length.

    ``base="full_attention"`` turns every layer with the full-attention base (wrong on purpose).
    """

    source: Recipe
    prefix: Prefix
    sign: Literal[-1, 1]
    base: Literal["own", "full_attention"] = "own"


Recipe = Prefill | Truncate | Reposition


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

    def leaves(self) -> tuple[Prefill, ...]:
        """Return the distinct prefills this condition is made from."""
        return tuple(dict.fromkeys(_leaves(self.recipe)))

    def prefixes(self) -> tuple[Prefix, ...]:
        """Return every prefix whose ids or length the recipe uses."""
        return tuple(dict.fromkeys(_prefixes(self.recipe)))


def _truncated(prefix: Prefix, base: Literal["own", "full_attention"] = "own") -> Recipe:
    return Reposition(Truncate(Prefill(prefix), prefix), prefix, -1, base)


STATIC_FACT = Prefix("literal", "What are the key facts I need to know?")
_NAMED = {"random": Prefix("random"), "oracle": Prefix("query"), "static_fact": STATIC_FACT}

_SIMPLE = {
    "bare": Condition("bare", Prefill(), "the baseline: nothing but the document is cached"),
    "bos_only": Condition("bos_only", Prefill(document=False),
                          "how hard the answer is without any document"),
    "framed": Condition("framed", Prefill(Prefix("literal", "Document:")),
                        "whether a label before the passage changes the answer's NLL"),
    "bare_again": Condition("bare_again", Prefill(), "what batching alone changes (A/A control)",
                            regrouped=True),
    "random": Condition("random", _truncated(_NAMED["random"]),
                        "whether any prefix, read and dropped again, helps"),
    "oracle": Condition("oracle", _truncated(_NAMED["oracle"]),
                        "whether having read the very query helps"),
    "static_fact": Condition("static_fact", _truncated(STATIC_FACT),
                             "whether a fixed question, read and dropped again, helps"),
}


def truncated(text: str) -> Condition:
    """Make the plain truncated condition of a literal prefix; a newline is added to the text.

    Examples
    --------
    >>> truncated("Read this closely.").name
    'literal("Read this closely.")'
    """
    prefix = Prefix("literal", text)
    return Condition(f"literal({json.dumps(text)})", _truncated(prefix),
                     f"whether the prefix {text!r}, read and dropped again, helps")


def _full_context(p: Prefix, label: str) -> Condition:
    return Condition(f"full_context({label})", Prefill(p),
                     "what the same prefix does when the query can see it")


def _one_base(p: Prefix, label: str) -> Condition:
    return Condition(f"one_base({label})", _truncated(p, "full_attention"),
                     "what re-positioning all layers with one rope base would fake")


def _rope_roundtrip(p: Prefix, label: str) -> Condition:
    return Condition(f"rope_roundtrip({label})", Reposition(Reposition(Prefill(), p, 1), p, -1),
                     "the numerical noise of turning keys forth and back")


_WITH_PREFIX: dict[str, Callable[[Prefix, str], Condition]] = {
    "full_context": _full_context,
    "one_base": _one_base,
    "rope_roundtrip": _rope_roundtrip,
}
NAMES = (*_SIMPLE, 'literal("...")', *(f"{name}(p)" for name in _WITH_PREFIX))


def condition(spelled: str | Condition) -> Condition:
    """Return the condition a name spells; a condition passes through.

    Parameters
    ----------
    spelled : str
        ``"bare"``, ``"random"``, ``"full_context(oracle)"``, ``'literal("any text")'``, ...;
        a prefix left out is ``static_fact``.

    Raises
    ------
    KvError
        For an unknown name, with the nearest known one, or for a malformed one.
    """
    if isinstance(spelled, Condition):
        return spelled
    name, argument = _parse(spelled)
    if name in _SIMPLE and argument is None:
        return _SIMPLE[name]
    if name == "literal" and argument is not None and argument.kind == "literal":
        return truncated(argument.text)
    if name in _WITH_PREFIX:
        prefix = argument or STATIC_FACT
        return _WITH_PREFIX[name](prefix, _label(prefix))
    raise unknown("condition", spelled, NAMES)


def _parse(spelled: str) -> tuple[str, Prefix | None]:
    try:
        tree = ast.parse(spelled.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise unknown("condition", spelled, NAMES) from error
    if isinstance(tree, ast.Name):
        return tree.id, None
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and len(tree.args) == 1:
        return tree.func.id, _prefix(tree.args[0], spelled)
    raise KvError(f"condition {spelled!r}: write a name or name(prefix); known are "
                  f"{', '.join(NAMES)}.")


def _prefix(node: ast.expr, spelled: str) -> Prefix:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return Prefix("literal", node.value)
    given = ast.unparse(node)
    if given not in _NAMED:
        raise unknown(f"prefix in condition {spelled!r}:", given, [*_NAMED, '"any text"'])
    return _NAMED[given]


def _label(prefix: Prefix) -> str:
    for name, known in _NAMED.items():
        if known == prefix:
            return name
    return json.dumps(prefix.text)


def _leaves(recipe: Recipe) -> Iterator[Prefill]:
    if isinstance(recipe, Prefill):
        yield recipe
    else:
        yield from _leaves(recipe.source)


def _prefixes(recipe: Recipe) -> Iterator[Prefix]:
    yield recipe.prefix
    if not isinstance(recipe, Prefill):
        yield from _prefixes(recipe.source)
