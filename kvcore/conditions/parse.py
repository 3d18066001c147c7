"""From a condition's name, as options, ledger and report spell it, to the condition."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from typing import Any

from kvcore.conditions import registry
from kvcore.conditions.recipes import Condition
from kvcore.conditions.registry import (
    INTENTS,
    NAMES,
    PREFIX_FORMS,
    QUERY,
    RANDOM,
    STATIC_FACT,
    STYLES,
    WITH_PREFIX,
)
from kvcore.errors import KvError, unknown
from kvcore.tokenization import Prefix


def truncated(text: str) -> Condition:
    """Make the plain truncated condition of a literal prefix; a newline is added to the text.

    Examples
    --------
    >>> truncated("Read this closely.").name
    'literal("Read this closely.")'
    """
    return registry.plain_truncation(
        Prefix("literal", text), f"literal({json.dumps(text, ensure_ascii=False)})"
    )


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
        raise unknown("condition", spelled, (*NAMES, *registry.DEFINED)) from error
    name, given = _call(tree, spelled)
    if name in registry.WITHOUT_PREFIX and not given:
        return registry.WITHOUT_PREFIX[name]
    if name in registry.DEFINED and not given:
        return registry.DEFINED[name]
    if name == "qvi":
        return registry.query_value_injection(*_arguments(name, given, (float,), spelled))
    if name in WITH_PREFIX:
        make, kinds = WITH_PREFIX[name]
        prefix, label = STATIC_FACT, "static_fact"
        if len(given) > len(kinds) or (given and not kinds):
            prefix, label = _prefix(given[0], spelled)
            given = given[1:]
        return make(prefix, label, *_arguments(name, given, kinds, spelled))
    if name in {p.split("(")[0] for p in PREFIX_FORMS}:
        return registry.plain_truncation(*_prefix(tree, spelled))
    raise unknown("condition", spelled, (*NAMES, *registry.DEFINED))


def _call(node: ast.expr, spelled: str) -> tuple[str, list[ast.expr]]:
    if isinstance(node, ast.Name):
        return node.id, []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        return node.func.id, node.args
    raise KvError(
        f"condition {spelled!r}: write a name or name(arguments); known are {', '.join(NAMES)}."
    )


def _prefix(node: ast.expr, spelled: str) -> tuple[Prefix, str]:
    """Return a prefix and how it is written."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return Prefix("literal", node.value), json.dumps(node.value, ensure_ascii=False)
    name, given = _call(node, spelled)
    simple = {"random": RANDOM, "oracle": QUERY, "static_fact": STATIC_FACT}
    if name in simple and not given:
        return simple[name], name
    if (
        name == "literal"
        and len(given) == 1
        and isinstance(given[0], ast.Constant)
        and isinstance(given[0].value, str)
    ):
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
        return Prefix(
            "own", "past_query", registry.check_count(name, times)
        ), f"click_history({times})"
    if name == "repeat" and len(given) == 2:
        inner, label = _prefix(given[0], spelled)
        (times,) = _arguments(name, given[1:], (int,), spelled)
        return replace(
            inner, times=inner.times * registry.check_count(name, times)
        ), f"repeat({label},{times})"
    raise unknown(f"prefix in condition {spelled!r}:", ast.unparse(node), PREFIX_FORMS)


def _arguments(
    name: str, given: list[ast.expr], kinds: tuple[type, ...], spelled: str
) -> tuple[Any, ...]:
    """Return the plain values of a call's last arguments."""
    values = [
        n.id if isinstance(n, ast.Name) else n.value if isinstance(n, ast.Constant) else None
        for n in given
    ]
    fits = len(values) == len(kinds) and all(
        isinstance(v, (int, float) if kind is float else kind) and not isinstance(v, bool)
        for v, kind in zip(values, kinds, strict=True)
    )
    if not fits:
        wanted = (
            ", ".join({int: "a whole number", float: "a number", str: "a word"}[k] for k in kinds)
            or "nothing more"
        )
        raise KvError(
            f"condition {spelled!r}: {name} takes {wanted} last; known are {', '.join(NAMES)}."
        )
    return tuple(values)
