"""A hash of what Python sources do, whatever their comments and layout."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kvcore.errors import KvError
from kvcore.io import json_digest
from kvcore.store import keys


def code_hash(paths: Iterable[Path]) -> str:
    """Return a hash of what Python sources do, comments, docstrings and layout left out.

    Returns 16 hex digits, the same for every supported Python.

    `paths`: source files; their order and folders do not count, their names do.

    Raises KvError for a file that cannot be read or is no Python.
    """
    parts = []
    for path in paths:
        try:
            parts.append([path.name, _outline(ast.parse(path.read_bytes()))])
        except (OSError, SyntaxError, ValueError) as error:
            raise KvError(f"code hash: {path} is no readable Python source: {error}.") from error
    ordered = sorted(parts, key=keys.json_bytes)  # names may repeat from one folder to the next
    return json_digest(ordered)[:16]


def _outline(node: object) -> Any:
    """Spell a syntax tree as nested lists, without what no number depends on.

    Not ``ast.dump``, which spells the same tree differently from one Python to the next.
    """
    if isinstance(node, list):
        return [_outline(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        documented = ast.get_docstring(node, clean=False) is not None
        fields["body"] = node.body[1:] if documented else node.body
    if isinstance(node, ast.JoinedStr):  # Python 3.12.1 ends a nested format with an empty piece
        fields["values"] = [v for v in node.values if getattr(v, "value", None) != ""]
    kept = {name: value for name, value in fields.items() if value is not None and value != []}
    return [type(node).__name__, {name: _outline(value) for name, value in kept.items()}]
