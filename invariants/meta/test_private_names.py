"""No module of the project uses a private name of another: what is shared is public."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("kvcore", "claims", "reports", "benchmarks", "invariants")


def is_private(name: str) -> bool:
    """Whether a name begins with one underscore."""
    return name.startswith("_") and not name.startswith("__")


def is_of_project(module: str) -> bool:
    """Whether a dotted name begins with one of the project's packages."""
    return module.split(".")[0] in PACKAGES


def imported_names(tree: ast.AST) -> set[str]:
    """Return the dotted names by which a module may reach modules and classes of the project."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {each.asname or each.name for each in node.names if is_of_project(each.name)}
        elif isinstance(node, ast.ImportFrom) and (node.level or is_of_project(node.module or "")):
            names |= {each.asname or each.name for each in node.names}
    return names


def private_uses(source: str) -> Iterator[tuple[int, str]]:
    """Return line and text of each use of another module's private name.

    Imported, read as an attribute, or named in a string, as tests that patch do.
    """
    tree = ast.parse(source)
    reachable = imported_names(tree)
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=module, names=names, level=level):
                if level or is_of_project(module or ""):
                    steps = [*(module or "").split("."), *(each.name for each in names)]
                    yield from ((node.lineno, step) for step in steps if is_private(step))
            case ast.Import(names=names):
                for each in names:
                    if is_of_project(each.name) and any(map(is_private, each.name.split("."))):
                        yield node.lineno, each.name
            case ast.Attribute(value=value, attr=name):
                if is_private(name) and ast.unparse(value) in reachable:
                    yield node.lineno, ast.unparse(node)
            case ast.Call(args=[first, ast.Constant(value=str(name)), *_]):
                if is_private(name) and ast.unparse(first) in reachable:
                    yield node.lineno, f"{ast.unparse(first)}.{name}"
            case ast.Constant(value=str(path)):
                steps = path.split(".")
                if is_of_project(path) and all(map(str.isidentifier, steps)):
                    if any(map(is_private, steps)):
                        yield node.lineno, path


def check_no_private_name_is_used(sources: dict[str, str]) -> None:
    """Demand that no module uses a private name of another."""
    uses = [
        f"{path}:{line}: {text}"
        for path, source in sources.items()
        for line, text in private_uses(source)
    ]
    assert uses == []


def test_no_private_name_is_used_across_modules() -> None:
    """Fault: a module, or a test, that breaks when another one's inner names change."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    assert len(paths) > 100
    check_no_private_name_is_used(
        {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in paths}
    )


@pytest.mark.parametrize(
    "source",
    [
        "from reports.junit import _hidden",
        "from reports._hidden import public",
        "from . import _hidden",
        "import reports._hidden",
        "from reports import junit\njunit._hidden",
        "from reports import junit as other\nother._hidden",
        "import reports.junit\nreports.junit._hidden",
        "from reports import junit\npatch.setattr(junit, '_hidden', None)",
        "patch.setattr('reports.junit._hidden', None)",
    ],
)
def test_twin_a_private_name_is_seen(source: str) -> None:
    """Fault: a way to a private name that the check above does not see."""
    with pytest.raises(AssertionError, match="_hidden"):
        check_no_private_name_is_used({"made.py": source})


@pytest.mark.parametrize(
    "source",
    [
        "from reports.junit import properties\nself._mine = properties",
        "import torch\ntorch._C",
        "from reports import junit\njunit.__name__",
        "print('reports.junit')",
    ],
)
def test_what_is_no_private_name_of_the_project_is_let_be(source: str) -> None:
    """Fault: own private names, those of libraries or public ones taken for a breach."""
    check_no_private_name_is_used({"made.py": source})
