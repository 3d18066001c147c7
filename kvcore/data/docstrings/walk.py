"""Collect the docstrings of the public callables of installed packages, as a script of its own.

``python walk.py OUT PACKAGE...`` imports every public module of the packages, which costs seconds
and changes global state (back ends, registries, warnings); run in a child process, none of that
reaches the caller. It imports nothing from the rest of the project.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

# Not public although without an underscore: internals, tests, build tools, and modules whose
# import depends on what else the machine has (so that versions alone decide the content).
SKIPPED_PARTS = frozenset(
    "backends build_utils compat conftest conv_template contrib core distutils f2py fx formats jit "
    "onnx pylab setup sphinxext tensorboard test testing tests typing util utils_internal".split()
)
MAX_NESTING = 2  # pandas.Series.str.cat: a class in a class is still public, deeper is machinery


class DocumentedCallable(NamedTuple):
    """One public callable: its name, the file that defines it, and its docstring."""

    name: str
    module: str
    doc: str


def is_public(name: str) -> bool:
    """Tell whether no part of a dotted name is private or skipped."""
    parts = name.split(".")
    return not any(part.startswith("_") or part in SKIPPED_PARTS for part in parts)


def modules_of(package: str, failed: list[str]) -> Iterator[ModuleType]:
    """Import a package and its public submodules, depth first; note those that fail."""
    try:
        module = importlib.import_module(package)
    except BaseException:  # an optional dependency may raise anything, SystemExit included
        failed.append(package)
        return
    yield module
    for info in pkgutil.iter_modules(getattr(module, "__path__", [])):
        name = f"{package}.{info.name}"
        if is_public(name):
            yield from modules_of(name, failed)


def attribute(owner: Any, name: str) -> Any:
    """Return an attribute, or None where reading it fails (deprecated or lazy names)."""
    try:
        return getattr(owner, name)
    except Exception:
        return None


def public_names(owner: Any) -> list[str]:
    """List the public attribute names of a module (its ``__all__``) or class, sorted."""
    names = getattr(owner, "__all__", None) if inspect.ismodule(owner) else None
    return sorted({str(name) for name in (names or dir(owner)) if is_public(str(name))})


def own_doc(thing: Any) -> str | None:
    """Return the docstring of a callable where it is its own, not inherited from its type."""
    doc = attribute(thing, "__doc__")
    if not callable(thing) or not isinstance(doc, str):
        return None
    return doc if inspect.isclass(thing) or doc != attribute(type(thing), "__doc__") else None


def source_module(thing: Any) -> str | None:
    """Name the module whose file holds the code of a Python callable or class."""
    if inspect.isclass(thing):
        thing = next((value for value in vars(thing).values() if inspect.isfunction(value)), thing)
    code = attribute(inspect.unwrap(thing) if callable(thing) else thing, "__code__")
    path = Path(str(attribute(code, "co_filename") or ""))
    if not path.is_file():  # compiled code names a file of the build machine, or none
        return None
    roots = (parent for parent in path.parents if not (parent / "__init__.py").exists())
    return ".".join(path.relative_to(next(roots)).with_suffix("").parts).removesuffix(".__init__")


def home_of(thing: Any, owner: Any, name: str, prefix: str) -> str:
    """Name the module an attribute comes from; a class's own, not that of a base outside it."""
    if inspect.isclass(owner):
        definers = [base for base in owner.__mro__ if name in vars(base)]
        if definers and definers[0].__module__ in sys.stdlib_module_names:
            return definers[0].__module__
    return str(attribute(thing, "__module__") or prefix)


def callables_in(owner: Any, prefix: str, depth: int) -> Iterator[tuple[Any, DocumentedCallable]]:
    """Yield the documented public callables of a module or class, each with the object itself."""
    package = prefix.split(".")[0]
    for name in public_names(owner):
        thing = attribute(owner, name)
        home = home_of(thing, owner, name, prefix)
        if thing is None or inspect.ismodule(thing) or home.split(".")[0] != package:
            continue
        full = f"{prefix}.{name}"
        doc = own_doc(thing)
        if doc:
            source = source_module(thing) or ""
            module = source if source.startswith(f"{package}.") else home
            yield attribute(thing, "__func__") or thing, DocumentedCallable(full, module, doc)
        if inspect.isclass(thing) and depth < MAX_NESTING:
            yield from callables_in(thing, full, depth + 1)


def by_length(item: DocumentedCallable) -> tuple[int, int, str]:
    """Order the names of one object: the shortest path is the one people use."""
    return item.name.count("."), len(item.name), item.name


def walk(packages: list[str]) -> dict[str, Any]:
    """Collect every documented public callable once, under its best name, sorted by name."""
    # Objects are held as well: an object's id is its own only as long as the object lives.
    best: dict[int, tuple[DocumentedCallable, Any]] = {}
    failed: list[str] = []
    for package in packages:
        for module in modules_of(package, failed):
            for thing, item in callables_in(module, module.__name__, 0):
                known, _ = best.get(id(thing), (item, thing))
                best[id(thing)] = (min(known, item, key=by_length), thing)
    return {"callables": sorted(item for item, _ in best.values()), "failed": sorted(failed)}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    Path(sys.argv[1]).write_text(json.dumps(walk(sys.argv[2:])), encoding="utf-8")
