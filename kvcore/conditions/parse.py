"""From a condition's name, as options, ledger and report spell it, to the condition."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from kvcore.conditions import registry
from kvcore.conditions.recipes import Condition
from kvcore.conditions.registry import Argument, Form, NamedPrefix
from kvcore.errors import KvError, unknown
from kvcore.tokenization import Prefix

_TYPES: Mapping[Argument, type | tuple[type, ...]] = {
    "whole number": int,
    "number": (int, float),
    "word": str,
    "text": str,
}


def truncated(text: str) -> Condition:
    """Make the plain truncated condition of a literal prefix; a newline is added to the text.

    Examples
    --------
    >>> truncated("Read this closely.").name
    'literal("Read this closely.")'
    """
    return registry.plain_truncation(registry.literal_prefix(text))


def condition(spelled: str | Condition) -> Condition:
    """Return the condition a name spells; a condition passes through.

    `spelled`: ``"bare"``, ``"random"``, ``"full_context(oracle)"``, ``'literal("any text")'``,
    ``"values_early_layers(repeat(oracle,5),0.5)"``, ...; a prefix left out is ``static_fact``. A
    prefix's own name is its plain truncated condition.

    Raises KvError for an unknown name, with the nearest known one, or for a malformed one.
    """
    if isinstance(spelled, Condition):
        return spelled
    known = (*registry.NAMES, *registry.DEFINED)
    try:
        tree = ast.parse(spelled.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise unknown("condition", spelled, known) from error
    name, arguments = _name_and_arguments(tree, spelled)
    if name in registry.DEFINED and not arguments:
        return registry.DEFINED[name]
    if name in registry.PREFIXES:
        return registry.plain_truncation(parse_prefix(tree, spelled))
    if name not in registry.CONDITIONS:
        raise unknown("condition", spelled, known)
    form = registry.CONDITIONS[name]
    if form.arguments[:1] == ("prefix",) and len(arguments) < len(form.arguments):
        arguments = [ast.Name(registry.DEFAULT_PREFIX), *arguments]
    named: Condition = _make(name, form, arguments, spelled)
    return named


def parse_prefix(node: ast.expr, spelled: str) -> NamedPrefix:
    """Return the prefix that a part of a name spells.

    Raises KvError for an unknown or malformed one; ``spelled``, the whole name, is part of the
    message.
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return NamedPrefix(Prefix("literal", node.value), registry.quoted(node.value))
    name, arguments = _name_and_arguments(node, spelled)
    if name not in registry.PREFIXES:
        raise unknown(
            f"prefix in condition {spelled!r}:",
            ast.unparse(node),
            registry.spellings(registry.PREFIXES),
        )
    prefix: NamedPrefix = _make(name, registry.PREFIXES[name], arguments, spelled)
    return prefix


def _name_and_arguments(node: ast.expr, spelled: str) -> tuple[str, list[ast.expr]]:
    if isinstance(node, ast.Name):
        return node.id, []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        return node.func.id, node.args
    raise KvError(
        f"condition {spelled!r}: write a name or name(arguments); known are "
        f"{', '.join(registry.NAMES)}."
    )


def _make(name: str, form: Form, arguments: Sequence[ast.expr], spelled: str) -> Any:
    """Call a form's constructor with the arguments that are written, if they fit."""
    fits = len(arguments) == len(form.arguments) and all(map(_fits, form.arguments, arguments))
    if not fits:
        takes = ", ".join([*(f"a {kind}" for kind in form.arguments), "nothing more"])
        raise KvError(
            f"condition {spelled!r}: {name} takes {takes}; known are {', '.join(registry.NAMES)}."
        )
    return form.make(
        *(
            parse_prefix(node, spelled) if kind == "prefix" else _plain_value(node)
            for kind, node in zip(form.arguments, arguments, strict=True)
        )
    )


def _fits(kind: Argument, node: ast.expr) -> bool:
    """Whether a plain argument is of its type; prefixes are checked where they are parsed."""
    if kind == "prefix" or (kind == "word" and isinstance(node, ast.Name)):
        return True
    value = node.value if isinstance(node, ast.Constant) else None
    return isinstance(value, _TYPES[kind]) and not isinstance(value, bool)


def _plain_value(node: ast.expr) -> Any:
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)
