"""Every named condition, as a composition of the primitives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from kvcore.conditions.recipes import (
    Condition,
    Document,
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


def primed(prefix: Prefix) -> Prefill:
    """Return the prefill of BOS, a prefix and the document."""
    return Prefill((prefix, Document()))


def truncation(prefix: Prefix) -> Recipe:
    """Return the plain recipe: read the prefix first, drop it, move the document back."""
    return Reposition(Truncate(primed(prefix)))


def plain_truncation(prefix: Prefix, label: str) -> Condition:
    what = {
        "random": "whether any prefix, read and dropped again, helps",
        "oracle": "whether having read the very query helps",
    }
    return Condition(
        label,
        truncation(prefix),
        what.get(label, f"whether the prefix {label}, read and dropped again, helps"),
    )


def _full_context(p: Prefix, label: str) -> Condition:
    return Condition(
        f"full_context({label})", primed(p), "what the same prefix does when the query can see it"
    )


def _one_base(p: Prefix, label: str) -> Condition:
    return Condition(
        f"one_base({label})",
        Reposition(Truncate(primed(p)), "full_attention"),
        "what re-positioning all layers with one rope base would fake",
    )


def _no_reposition(p: Prefix, label: str) -> Condition:
    return Condition(
        f"no_reposition({label})",
        Reposition(Truncate(primed(p)), "none"),
        "what it costs to leave the keys at their old positions",
    )


def _reposition(p: Prefix, label: str, precision: str) -> Condition:
    if precision not in ("float32", "model"):
        raise unknown("precision", precision, ("float32", "model"))
    return Condition(
        f"reposition({label},{precision})",
        Reposition(Truncate(primed(p)), precision=precision),  # type: ignore[arg-type]
        f"whether computing the rotation in {precision} precision matters",
    )


def _rope_roundtrip(p: Prefix, label: str) -> Condition:
    return Condition(
        f"rope_roundtrip({label})",
        Reposition(RotateForward(BARE, p)),
        "the numerical noise of turning keys forth and back",
    )


def _blocks(p: Prefix, label: str, n: int, see: str) -> Condition:
    if see not in ("first", "last", "none", "all"):
        raise unknown("part that the query sees", see, ("first", "last", "none", "all"))
    times = p.times * check_count("blocks", n)
    copies = Prefill((replace(p, times=times), Document()), isolated=True)
    return Condition(
        f"blocks({label},{n},{see})",
        MaskFromQuery(copies, see),  # type: ignore[arg-type]
        f"{n} copies that cannot see each other, of which the query sees {see}",
    )


def _suffix(p: Prefix, label: str) -> Condition:
    return Condition(
        f"suffix({label})",
        Prefill((Document(), SEPARATOR, p)),
        "what a question after the document does",
    )


def _values_only(p: Prefix, label: str) -> Condition:
    return Condition(
        f"values_only({label})", Mix(BARE, primed(p)), "what primed values do under bare keys"
    )


def _values_early_layers(p: Prefix, label: str, stop: float) -> Condition:
    return Condition(
        f"values_early_layers({label},{stop})",
        Mix(BARE, primed(p), layers=(0, _depth("values_early_layers", stop))),
        f"what primed values do in the layers below {stop} alone",
    )


def _values_layer(p: Prefix, label: str, layer: int) -> Condition:
    only = check_count("values_layer", layer, least=0)
    return Condition(
        f"values_layer({label},{layer})",
        Mix(BARE, primed(p), layers=(only, only + 1)),
        f"what primed values do in layer {layer} alone",
    )


def _values_early_positions(p: Prefix, label: str, share: float) -> Condition:
    return Condition(
        f"values_early_positions({label},{share})",
        Mix(BARE, primed(p), share=_share("values_early_positions", share)),
        f"what primed values do on the first {share} of the document alone",
    )


def _interp(p: Prefix, label: str, weight: float) -> Condition:
    return Condition(
        f"interp({label},{weight})",
        Mix(BARE, primed(p), weight=_share("interp", weight)),
        f"what {weight} of the primed values does under bare keys",
    )


def query_value_injection(weight: float) -> Condition:
    query = Mean(Prefill((QUERY,)))
    return Condition(
        f"qvi({weight})",
        Mix(BARE, query, weight=_share("qvi", weight), layers=(0, 0.5)),
        "what mixing the query's mean value into the lower half of the layers does",
    )


def _beacons(p: Prefix, label: str, every: int) -> Condition:
    part = Document(p, check_count("beacons", every))
    return Condition(
        f"beacons({label},{every})",
        Reposition(Truncate(Prefill((part,)))),
        f"whether the prefix, repeated every {every} tokens, helps",
    )


WITHOUT_PREFIX: Mapping[str, Condition] = {
    c.name: c
    for c in (
        Condition("bare", BARE, "the baseline: nothing but the document is cached"),
        Condition("bos_only", Prefill(()), "how hard the answer is without any document"),
        Condition(
            "framed",
            primed(Prefix("literal", "Document:")),
            "whether a label before the passage changes the answer's NLL",
        ),
        Condition("bare_again", BARE, "what batching alone changes (A/A control)", aa_control=True),
        Condition(
            "separator",
            Prefill((Document(), SEPARATOR)),
            "what a separator after the document does",
        ),
    )
}
WITH_PREFIX: Mapping[str, tuple[Callable[..., Condition], tuple[type, ...]]] = {
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
PREFIX_FORMS = (
    "random",
    "oracle",
    "static_fact",
    "static(intent)",
    "llm_surrogate(style)",
    "click_history(k)",
    "repeat(p,n)",
    'literal("any text")',
)
NAMES = (
    *WITHOUT_PREFIX,
    "qvi(a)",
    *PREFIX_FORMS,
    *(
        f"{name}({','.join(('p', *(kind.__name__ for kind in more)))})"
        for name, (_, more) in WITH_PREFIX.items()
    ),
)
DEFINED: dict[str, Condition] = {}


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
    taken = (
        name in WITHOUT_PREFIX
        or name in WITH_PREFIX
        or name in ("qvi", *(p.split("(")[0] for p in PREFIX_FORMS))
    )
    if not name.isidentifier() or taken or DEFINED.get(name, made) != made:
        raise KvError(f"define: {name!r} is taken or no plain word; choose another name.")
    DEFINED[name] = made
    return made


def recipe_of_defined(name: str) -> str:
    """Return what a user's own condition is made of, and "" for one that comes with kvcore."""
    return repr(DEFINED[name].recipe) if name in DEFINED else ""


def check_count(name: str, value: int, least: int = 1) -> int:
    if value < least:
        raise KvError(f"{name}: {value} given; pass {least} or more.")
    return value


def _share(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise KvError(f"{name}: {value} given; pass a share from 0 to 1.")
    return value


def _depth(name: str, value: float) -> float:
    return check_count(name, value, least=0) if isinstance(value, int) else _share(name, value)
