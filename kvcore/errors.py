"""What can go wrong, each as one clear line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class KvError(ValueError):
    """Bad input: the message says what was given, what is allowed and what to do."""


class NotExact(KvError):
    """A model on which a cache operation cannot be carried out exactly."""


class MissingResource(RuntimeError):
    """Something this machine does not have: a model, a dataset, a package or a GPU."""


class StoreWarning(UserWarning):
    """Stored rows or texts do not count: their file is damaged, or this code measures others."""


def one_line(error: BaseException, width: int = 300) -> str:
    """Spell an error of other code as its type and message on one line of at most `width`."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:width]}" if text else type(error).__name__


def unknown(kind: str, given: str, allowed: Iterable[str]) -> KvError:
    """Build the error for a name that does not exist, with the nearest one that does.

    Parameters
    ----------
    kind : str
        What the name stands for, e.g. ``"condition"``.
    given : str
        The name as it was given.
    allowed : iterable of str
        Every name that would have been accepted.
    """
    names = sorted(allowed)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return KvError(f"unknown {kind} {given!r}: {hint}known are {', '.join(names)}.")
