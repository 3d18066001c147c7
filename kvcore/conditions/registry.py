"""Every named prefix and condition: how it is written, and what it is composed of."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from kvcore.conditions.recipes import (
    Condition,
    Document,
    LayerRange,
    MaskFromQuery,
    Mean,
    Mix,
    Prefill,
    Recipe,
    Reposition,
    RotateForward,
    Truncate,
)
from kvcore.errors import KvError, unknown
from kvcore.tokenization import Prefix

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

Argument = Literal["prefix", "whole number", "number", "word", "text"]


@dataclass(frozen=True)
class Form:
    """What a name makes, and of which arguments: ``name`` or ``name(arguments)``."""

    make: Callable[..., Any]
    arguments: tuple[Argument, ...] = ()


@dataclass(frozen=True)
class NamedPrefix:
    """A prefix, and how it is written."""

    prefix: Prefix
    name: str


# --- prefixes ----------------------------------------------------------------------------------


def literal_prefix(text: str) -> NamedPrefix:
    """Return a fixed text as a prefix."""
    return NamedPrefix(Prefix("literal", text), f"literal({quoted(text)})")


def quoted(text: str) -> str:
    """Write a text in double quotes, as conditions are written."""
    return json.dumps(text, ensure_ascii=False)


def _static(intent: str) -> NamedPrefix:
    return NamedPrefix(
        Prefix("literal", INTENTS[_one_of("intent", intent, INTENTS)]), f"static({intent})"
    )


def _llm_surrogate(style: str) -> NamedPrefix:
    _one_of("style", style, STYLES)
    return NamedPrefix(Prefix("own", f"surrogate({style})"), f"llm_surrogate({style})")


def _click_history(times: int) -> NamedPrefix:
    copies = _at_least("click_history", times, 1)
    return NamedPrefix(Prefix("own", "past_query", copies), f"click_history({times})")


def _repeat(p: NamedPrefix, times: int) -> NamedPrefix:
    copies = p.prefix.times * _at_least("repeat", times, 1)
    return NamedPrefix(replace(p.prefix, times=copies), f"repeat({p.name},{times})")


PREFIXES: Mapping[str, Form] = {
    "random": Form(lambda: NamedPrefix(RANDOM, "random")),
    "oracle": Form(lambda: NamedPrefix(QUERY, "oracle")),
    "static_fact": Form(lambda: NamedPrefix(STATIC_FACT, "static_fact")),
    "static": Form(_static, ("word",)),
    "llm_surrogate": Form(_llm_surrogate, ("word",)),
    "click_history": Form(_click_history, ("whole number",)),
    "repeat": Form(_repeat, ("prefix", "whole number")),
    "literal": Form(literal_prefix, ("text",)),
}
DEFAULT_PREFIX = "static_fact"
"""The prefix of conditions that are written without one."""


# --- conditions --------------------------------------------------------------------------------


def primed(prefix: Prefix) -> Prefill:
    """Return the prefill of BOS, a prefix and the document."""
    return Prefill((prefix, Document()))


def truncation(prefix: Prefix) -> Recipe:
    """Return the plain recipe: read the prefix first, drop it, move the document back."""
    return Reposition(Truncate(primed(prefix)))


def plain_truncation(p: NamedPrefix) -> Condition:
    """Return the condition that a prefix's own name stands for."""
    tests = {
        "random": "whether any prefix, read and dropped again, helps",
        "oracle": "whether having read the very query helps",
    }
    return Condition(
        p.name,
        truncation(p.prefix),
        tests.get(p.name, f"whether the prefix {p.name}, read and dropped again, helps"),
    )


def _full_context(p: NamedPrefix) -> Condition:
    return Condition(
        f"full_context({p.name})",
        primed(p.prefix),
        "what the same prefix does when the query can see it",
    )


def _one_base(p: NamedPrefix) -> Condition:
    return Condition(
        f"one_base({p.name})",
        Reposition(Truncate(primed(p.prefix)), "full_attention"),
        "what re-positioning all layers with one rope base would fake",
    )


def _no_reposition(p: NamedPrefix) -> Condition:
    return Condition(
        f"no_reposition({p.name})",
        Reposition(Truncate(primed(p.prefix)), "none"),
        "what it costs to leave the keys at their old positions",
    )


def _reposition(p: NamedPrefix, precision: str) -> Condition:
    _one_of("precision", precision, ("float32", "model"))
    return Condition(
        f"reposition({p.name},{precision})",
        Reposition(Truncate(primed(p.prefix)), precision=precision),  # type: ignore[arg-type]
        f"whether computing the rotation in {precision} precision matters",
    )


def _rope_roundtrip(p: NamedPrefix) -> Condition:
    return Condition(
        f"rope_roundtrip({p.name})",
        Reposition(RotateForward(BARE, p.prefix)),
        "the numerical noise of turning keys forth and back",
    )


def _blocks(p: NamedPrefix, n: int, see: str) -> Condition:
    _one_of("part that the query sees", see, ("first", "last", "none", "all"))
    times = p.prefix.times * _at_least("blocks", n, 1)
    copies = Prefill((replace(p.prefix, times=times), Document()), isolated=True)
    return Condition(
        f"blocks({p.name},{n},{see})",
        MaskFromQuery(copies, see),  # type: ignore[arg-type]
        f"{n} copies that cannot see each other, of which the query sees {see}",
    )


def _suffix(p: NamedPrefix) -> Condition:
    return Condition(
        f"suffix({p.name})",
        Prefill((Document(), SEPARATOR, p.prefix)),
        "what a question after the document does",
    )


def _values_only(p: NamedPrefix) -> Condition:
    return Condition(
        f"values_only({p.name})",
        Mix(BARE, primed(p.prefix)),
        "what primed values do under bare keys",
    )


def _values_early_layers(p: NamedPrefix, stop: float) -> Condition:
    name = f"values_early_layers({p.name},{stop})"
    if isinstance(stop, float):
        layers = LayerRange.share(_share("values_early_layers", stop))
    elif stop == 1:
        raise KvError(
            f"condition {name!r} is ambiguous: write values_layer({p.name},0) for the first layer "
            f"alone, or values_early_layers({p.name},1.0) for the whole depth."
        )
    else:
        layers = LayerRange.first(_at_least("values_early_layers", stop, 0))
    return Condition(
        name,
        Mix(BARE, primed(p.prefix), layers=layers),
        f"what primed values do in the layers below {stop} alone",
    )


def _values_layer(p: NamedPrefix, layer: int) -> Condition:
    only = LayerRange.single(_at_least("values_layer", layer, 0))
    return Condition(
        f"values_layer({p.name},{layer})",
        Mix(BARE, primed(p.prefix), layers=only),
        f"what primed values do in layer {layer} alone",
    )


def _values_early_positions(p: NamedPrefix, share: float) -> Condition:
    return Condition(
        f"values_early_positions({p.name},{share})",
        Mix(BARE, primed(p.prefix), share=_share("values_early_positions", share)),
        f"what primed values do on the first {share} of the document alone",
    )


def _interp(p: NamedPrefix, weight: float) -> Condition:
    return Condition(
        f"interp({p.name},{weight})",
        Mix(BARE, primed(p.prefix), weight=_share("interp", weight)),
        f"what {weight} of the primed values does under bare keys",
    )


def _query_value_injection(weight: float) -> Condition:
    query = Mean(Prefill((QUERY,)))
    return Condition(
        f"qvi({weight})",
        Mix(BARE, query, weight=_share("qvi", weight), layers=LayerRange.share(0.5)),
        "what mixing the query's mean value into the lower half of the layers does",
    )


def _beacons(p: NamedPrefix, every: int) -> Condition:
    part = Document(p.prefix, _at_least("beacons", every, 1))
    return Condition(
        f"beacons({p.name},{every})",
        Reposition(Truncate(Prefill((part,)))),
        f"whether the prefix, repeated every {every} tokens, helps",
    )


_FIXED = (
    Condition("bare", BARE, "the baseline: nothing but the document is cached"),
    Condition("bos_only", Prefill(()), "how hard the answer is without any document"),
    Condition(
        "framed",
        primed(Prefix("literal", "Document:")),
        "whether a label before the passage changes the answer's NLL",
    ),
    Condition("bare_again", BARE, "what batching alone changes (A/A control)", aa_control=True),
    Condition(
        "separator", Prefill((Document(), SEPARATOR)), "what a separator after the document does"
    ),
)
CONDITIONS: Mapping[str, Form] = {
    **{c.name: Form(lambda fixed=c: fixed) for c in _FIXED},
    "qvi": Form(_query_value_injection, ("number",)),
    "full_context": Form(_full_context, ("prefix",)),
    "one_base": Form(_one_base, ("prefix",)),
    "no_reposition": Form(_no_reposition, ("prefix",)),
    "reposition": Form(_reposition, ("prefix", "word")),
    "rope_roundtrip": Form(_rope_roundtrip, ("prefix",)),
    "blocks": Form(_blocks, ("prefix", "whole number", "word")),
    "suffix": Form(_suffix, ("prefix",)),
    "values_only": Form(_values_only, ("prefix",)),
    "values_early_layers": Form(_values_early_layers, ("prefix", "number")),
    "values_layer": Form(_values_layer, ("prefix", "whole number")),
    "values_early_positions": Form(_values_early_positions, ("prefix", "number")),
    "interp": Form(_interp, ("prefix", "number")),
    "beacons": Form(_beacons, ("prefix", "whole number")),
}
"""All conditions but those that a prefix's own name stands for, see `plain_truncation`."""
DEFINED: dict[str, Condition] = {}
"""A user's own conditions, see `define`."""


def spellings(forms: Mapping[str, Form]) -> tuple[str, ...]:
    """Return how each form is written, for messages."""
    return tuple(
        f"{name}({','.join(inspect.signature(form.make).parameters)})" if form.arguments else name
        for name, form in forms.items()
    )


NAMES = (*spellings(CONDITIONS), *spellings(PREFIXES))


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
    condition = Condition(name, recipe, tests)
    taken = name in CONDITIONS or name in PREFIXES or DEFINED.get(name, condition) != condition
    if not name.isidentifier() or taken:
        raise KvError(f"define: `name={name!r}` is taken or no plain word; choose another name.")
    DEFINED[name] = condition
    return condition


def recipe_of_defined(name: str) -> str:
    """Return what a user's own condition is made of, and "" for one that comes with kvcore."""
    return repr(DEFINED[name].recipe) if name in DEFINED else ""


def _one_of(kind: str, value: str, allowed: Mapping[str, str] | tuple[str, ...]) -> str:
    if value not in allowed:
        raise unknown(kind, value, allowed)
    return value


def _at_least(name: str, value: int, least: int) -> int:
    if value < least:
        raise KvError(f"{name}: `{value}` must be a count; pass {least} or more.")
    return value


def _share(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise KvError(f"{name}: `{value}` must be a share; pass a share from 0 to 1.")
    return value
