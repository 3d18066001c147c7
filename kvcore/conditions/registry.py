"""Every named prefix and condition: how it is written, and what it is composed of."""

from __future__ import annotations

import functools
import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from kvcore.conditions.recipes import (
    AnotherDocument,
    Condition,
    Document,
    DropPrefix,
    LayerRange,
    MaskFromQuery,
    Mean,
    Mix,
    Prefill,
    Recipe,
    Reposition,
    RotateForward,
    SwapBos,
    Truncate,
    TruncateBut,
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
    "meaning": "What is this and what does it mean?",
    "cost": "How much does this cost or how long does it take?",
}
"""Fixed questions; the last two are the lab notes' wording of a definition and a quantity."""
UNRELATED = "The weather in the mountains was cold and clear that morning."
"""The same sentence for all passages, about none of them."""
KEYWORDS = {
    "query": "keywords(query)",
    "passage": "keywords(passage)",
    "another": "keywords(another)",
}
"""Texts of keywords, by what they are taken from; see `kvcore.data.derived_texts`."""
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


def _spelled(name: str, arguments: tuple[object, ...]) -> str:
    words = (a.name if isinstance(a, NamedPrefix) else str(a) for a in arguments)
    return f"{name}({','.join(words)})"


def _static(intent: str) -> NamedPrefix:
    text = INTENTS[_one_of("intent", intent, INTENTS)]
    return NamedPrefix(Prefix("literal", text), f"static({intent})")


def _llm_surrogate(style: str) -> NamedPrefix:
    _one_of("style", style, STYLES)
    return NamedPrefix(Prefix("own", f"surrogate({style})"), f"llm_surrogate({style})")


def _shuffled_surrogate(style: str) -> NamedPrefix:
    _one_of("style", style, STYLES)
    return NamedPrefix(Prefix("own", f"shuffled({style})"), f"shuffled_surrogate({style})")


def _surrogate_of_another(style: str) -> NamedPrefix:
    _one_of("style", style, STYLES)
    return NamedPrefix(Prefix("own", f"another({style})"), f"surrogate_of_another({style})")


def _keywords(source: str) -> NamedPrefix:
    text = KEYWORDS[_one_of("source of keywords", source, KEYWORDS)]
    return NamedPrefix(Prefix("own", text), text)


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
    "unrelated": Form(lambda: NamedPrefix(Prefix("literal", UNRELATED), "unrelated")),
    "first_sentence": Form(lambda: NamedPrefix(Prefix("own", "first_sentence"), "first_sentence")),
    "keywords": Form(_keywords, ("word",)),
    "static": Form(_static, ("word",)),
    "llm_surrogate": Form(_llm_surrogate, ("word",)),
    "shuffled_surrogate": Form(_shuffled_surrogate, ("word",)),
    "surrogate_of_another": Form(_surrogate_of_another, ("word",)),
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


def truncation(prefix: Prefix) -> Reposition:
    """Return the plain recipe: read the prefix first, drop it, move the document back."""
    return Reposition(Truncate(primed(prefix)))


def plain_truncation(p: NamedPrefix) -> Condition:
    """Return the condition that a prefix's own name stands for."""
    tests = {
        "random": "whether any prefix, read and dropped again, helps",
        "oracle": "whether having read the very query helps",
    }
    default = f"whether the prefix {p.name}, read and dropped again, helps"
    return Condition(p.name, truncation(p.prefix), tests.get(p.name, default))


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
CONDITIONS: dict[str, Form] = {c.name: Form(lambda fixed=c: fixed) for c in _FIXED}
"""All conditions but those that a prefix's own name stands for, see `plain_truncation`."""
DEFINED: dict[str, Condition] = {}
"""A user's own conditions, see `define`."""
Composed = tuple[Recipe, str]
"""What a condition is made of, and what its comparison with ``bare`` tests."""


def _named(*arguments: Argument) -> Callable[[Callable[..., Composed]], Callable[..., Composed]]:
    """Make a function of these arguments the condition ``name(arguments)``, by its own name."""

    def register(compose: Callable[..., Composed]) -> Callable[..., Composed]:
        name = compose.__name__.removeprefix("_")

        @functools.wraps(compose)
        def make(*values: object) -> Condition:
            return Condition(_spelled(name, values), *compose(*values))

        CONDITIONS[name] = Form(make, arguments)
        return compose

    return register


@_named("number")
def _qvi(weight: float) -> Composed:
    mix = Mix(BARE, Mean(Prefill((QUERY,))), _share("qvi", weight), LayerRange.share(0.5))
    return mix, "what mixing the query's mean value into the lower half of the layers does"


@_named("prefix")
def _full_context(p: NamedPrefix) -> Composed:
    return primed(p.prefix), "what the same prefix does when the query can see it"


@_named("prefix")
def _one_base(p: NamedPrefix) -> Composed:
    recipe = replace(truncation(p.prefix), rope_base="full_attention")
    return recipe, "what re-positioning all layers with one rope base would fake"


@_named("prefix")
def _no_reposition(p: NamedPrefix) -> Composed:
    recipe = replace(truncation(p.prefix), rope_base="none")
    return recipe, "what it costs to leave the keys at their old positions"


@_named("prefix", "word")
def _reposition(p: NamedPrefix, precision: Literal["float32", "model"]) -> Composed:
    _one_of("precision", precision, ("float32", "model"))
    recipe = replace(truncation(p.prefix), precision=precision)
    return recipe, f"whether computing the rotation in {precision} precision matters"


@_named("prefix")
def _rope_roundtrip(p: NamedPrefix) -> Composed:
    recipe = Reposition(RotateForward(BARE, p.prefix))
    return recipe, "the numerical noise of turning keys forth and back"


@_named("prefix", "whole number", "word")
def _blocks(p: NamedPrefix, n: int, see: Literal["first", "last", "none", "all"]) -> Composed:
    _one_of("part that the query sees", see, ("first", "last", "none", "all"))
    times = p.prefix.times * _at_least("blocks", n, 1)
    copies = replace(primed(replace(p.prefix, times=times)), isolated=True)
    tests = f"{n} copies that cannot see each other, of which the query sees {see}"
    return MaskFromQuery(copies, see), tests


@_named("prefix")
def _suffix(p: NamedPrefix) -> Composed:
    recipe = Prefill((Document(), SEPARATOR, p.prefix))
    return recipe, "what a question after the document does"


@_named("prefix")
def _values_only(p: NamedPrefix) -> Composed:
    return Mix(BARE, primed(p.prefix)), "what primed values do under bare keys"


@_named("prefix")
def _keys_only(p: NamedPrefix) -> Composed:
    return Mix(truncation(p.prefix), BARE), "what primed keys do with bare values"


@_named("prefix")
def _values_of_another(p: NamedPrefix) -> Composed:
    other = Prefill((p.prefix, AnotherDocument()))
    tests = (
        "whether the instrument shows that the values of another document, primed alike, do harm "
        "(positive control)"
    )
    return Mix(BARE, other), tests


@_named("prefix")
def _with_separator(p: NamedPrefix) -> Composed:
    recipe = Reposition(DropPrefix(Prefill((p.prefix, Document(), SEPARATOR))))
    return recipe, "what the prefix, dropped again, and a separator after the document do together"


@_named("prefix", "number")
def _values_early_layers(p: NamedPrefix, stop: float) -> Composed:
    if isinstance(stop, float):
        layers = LayerRange.share(_share("values_early_layers", stop))
    elif stop == 1:
        raise KvError(
            f"condition 'values_early_layers({p.name},1)' is ambiguous: write values_layer("
            f"{p.name},0) for the first layer alone, or values_early_layers({p.name},1.0) for the "
            "whole depth."
        )
    else:
        layers = LayerRange.first(_at_least("values_early_layers", stop, 0))
    mix = Mix(BARE, primed(p.prefix), layers=layers)
    return mix, f"what primed values do in the layers below {stop} alone"


@_named("prefix", "number", "number")
def _values_layers(p: NamedPrefix, start: float, stop: float) -> Composed:
    mix = Mix(BARE, primed(p.prefix), layers=LayerRange.between(start, stop))
    return mix, f"what primed values do in the layers from {start} to {stop} of the depth alone"


@_named("prefix", "whole number")
def _values_layer(p: NamedPrefix, layer: int) -> Composed:
    only = LayerRange.single(_at_least("values_layer", layer, 0))
    mix = Mix(BARE, primed(p.prefix), layers=only)
    return mix, f"what primed values do in layer {layer} alone"


@_named("prefix", "number")
def _values_early_positions(p: NamedPrefix, share: float) -> Composed:
    mix = Mix(BARE, primed(p.prefix), share=_share("values_early_positions", share))
    return mix, f"what primed values do on the first {share} of the document alone"


@_named("prefix", "number", "number")
def _values_positions(p: NamedPrefix, start: float, stop: float) -> Composed:
    if not 0 <= start < stop <= 1:
        raise KvError(
            f"values_positions: `{start}`, `{stop}` must be of the document; pass two rising "
            "shares from 0 to 1."
        )
    mix = Mix(BARE, primed(p.prefix), share=(start, stop))
    return mix, f"what primed values do from {start} to {stop} of the document alone"


@_named("prefix", "number")
def _amplified(p: NamedPrefix, weight: float) -> Composed:
    if not 1 < weight < math.inf:
        raise KvError(f"amplified: `{weight}` must be above 1; pass interp for less.")
    mix = Mix(BARE, primed(p.prefix), weight=weight)
    return mix, f"what {weight} times the change that a prefix makes to the values does"


@_named("prefix", "number")
def _interp(p: NamedPrefix, weight: float) -> Composed:
    mix = Mix(BARE, primed(p.prefix), weight=_share("interp", weight))
    return mix, f"what {weight} of the primed values does under bare keys"


@_named("prefix", "whole number")
def _beacons(p: NamedPrefix, every: int) -> Composed:
    part = Document(p.prefix, _at_least("beacons", every, 1))
    recipe = Reposition(Truncate(Prefill((part,))))
    return recipe, f"whether the prefix, repeated every {every} tokens, helps"


@_named("prefix", "whole number")
def _keep_first(p: NamedPrefix, k: int) -> Composed:
    kept = TruncateBut(primed(p.prefix), _at_least("keep_first", k, 1))
    tokens = "token" if k == 1 else f"{k} tokens"
    return Reposition(kept), f"whether the prefix's first {tokens} must stay behind BOS"


@_named("prefix")
def _keep_sink(p: NamedPrefix) -> Composed:
    kept = TruncateBut(primed(p.prefix), "sink")
    return Reposition(kept), "whether the one slot that is the attention sink must stay behind BOS"


@_named("prefix")
def _swap_bos(p: NamedPrefix) -> Composed:
    recipe = SwapBos(BARE, primed(p.prefix))
    return recipe, "what the primed pass's BOS entry does under the bare document"


@_named("prefix")
def _bos_of_bare(p: NamedPrefix) -> Composed:
    recipe = SwapBos(truncation(p.prefix), BARE)
    return recipe, "what the bare pass's BOS entry does before the primed document"


def spellings(forms: Mapping[str, Form]) -> tuple[str, ...]:
    """Return how each form is written, for messages."""
    return tuple(
        f"{name}({','.join(inspect.signature(form.make).parameters)})" if form.arguments else name
        for name, form in forms.items()
    )


NAMES = (*spellings(CONDITIONS), *spellings(PREFIXES))


def define(name: str, recipe: Recipe, tests: str) -> Condition:
    """Give a recipe a name that claims, options and `condition` understand.

    Raises KvError if the name is taken by another recipe, or is no plain word.

    Examples
    --------
    >>> swapped = Mix(truncation(STATIC_FACT), primed(QUERY))
    >>> define("two_questions", swapped, "the keys of one prefix, the values of another").name
    'two_questions'
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
