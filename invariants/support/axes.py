"""Checking the axes that signatures name, while the invariants run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from beartype import BeartypeConf, beartype
from jaxtyping import jaxtyped

CHECKER = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as for mypy


def check_axes(module: ModuleType) -> None:
    """Let every call of a module's functions and methods be held against its annotations.

    In place rather than by jaxtyping's import hook: pytest's own hooks have imported kvcore before
    the invariants begin.
    """
    for name, thing in list(vars(module).items()):
        if getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(thing):
            setattr(module, name, _checked(thing))
        elif inspect.isclass(thing):
            _check_class(thing)


def _check_class(cls: type) -> None:
    for name, thing in list(vars(cls).items()):
        if inspect.isfunction(thing) and not name.startswith("__"):
            setattr(cls, name, _checked(thing))
        elif isinstance(thing, property) and thing.fget is not None:
            setattr(cls, name, property(_checked(thing.fget)))
    jaxtyped(cls, typechecker=CHECKER)  # a dataclass's fields, when one is made


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    if hasattr(inspect.unwrap(function), "__wrapped__") or inspect.isgeneratorfunction(
        inspect.unwrap(function)
    ):
        return function  # a context manager: its arguments are plain
    checked: Callable[..., Any] = jaxtyped(function, typechecker=CHECKER)
    return checked
