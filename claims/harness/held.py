"""The model that a run holds in memory: one at a time, loaded once, freed before the next."""

from __future__ import annotations

import gc
import sys
import traceback
from typing import TYPE_CHECKING

from claims.harness.options import Settings
from kvcore.errors import KvError, MissingResource

if TYPE_CHECKING:
    from kvcore.models.lm import LM


class HeldModel:
    """Loads the models of a run, and lets go of each before the next one is loaded."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._held: tuple[str, LM] | None = None
        self._failures: dict[str, Exception] = {}

    def load(self, name: str) -> LM:
        """Return a model, the one that is held or a new one in its place.

        Raises
        ------
        MissingResource, KvError
            Why it cannot be loaded; remembered, so that it is not tried again.
        Exception
            Whatever else breaks, the first time.
        """
        if name in self._failures:
            raise self._failures[name]
        if self._held is not None and self._held[0] == name:
            return self._held[1]
        self.free_others(name)
        from kvcore import loading

        settings = self._settings
        try:
            lm = loading.load(
                name,
                device=settings.device,
                dtype=settings.dtype,
                quantization=settings.quantization,
                bos=settings.bos,
            )
        except Exception as error:
            self._failures[name] = lasting(error, f"{name} could not be loaded")
            if is_said_in_a_line(error, self._failures[name]):
                raise self._failures[name] from None
            raise
        self._held = (name, lm)
        return lm

    def free_others(self, name: str) -> None:
        """Let go of the model that is held, unless it is the named one."""
        if self._held is not None and self._held[0] != name:
            self.free(self._held[0])

    def free(self, name: str) -> None:
        """Let go of a model, if it is the one that is held."""
        if self._held is None or self._held[0] != name:
            return
        self._held = None
        from kvcore.engine.limits import free_memory

        free_memory()


def lasting(error: Exception, what: str) -> Exception:
    """Return what may be remembered of an error, in one line, and make the error hold no tensors.

    The frames of its traceback lose their local variables: a failed test's traceback is kept, and
    would keep the model alive.

    Returns
    -------
    Exception
        A `MissingResource` for one and where memory is exhausted; else a `KvError`.
    """
    drop_locals(error)
    line = " ".join(str(error).split())
    if isinstance(error, MissingResource):
        return MissingResource(str(error))
    if is_out_of_memory(error):
        return MissingResource(
            f"{what}: out of memory ({line}); use a smaller --kv-batch-tokens or another "
            "--kv-device. What was measured is kept."
        )
    if isinstance(error, KvError):
        return type(error)(str(error))
    return KvError(f"{what}: {type(error).__name__}: {line}")


def is_said_in_a_line(error: Exception, remembered: Exception) -> bool:
    """Whether what is remembered of an error says all that there is to say, without a traceback."""
    return isinstance(error, KvError) or isinstance(remembered, MissingResource)


def drop_locals(error: BaseException) -> None:
    """Clear the local variables of the frames in an error's traceback and in its causes'."""
    chain: list[BaseException | None] = [error]
    seen: set[int] = set()
    while chain:
        each = chain.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        traceback.clear_frames(each.__traceback__)
        chain += [each.__cause__, each.__context__]
    gc.collect()


def as_text(error: Exception) -> Exception:
    """Return an error with its traceback as a note in place of the frames.

    Even without their local variables, frames hold functions, and some of those the model.
    """
    kept = isinstance(error, KvError | MissingResource)  # each says all in its line
    if not kept:
        error.add_note("".join(traceback.format_exception(error)))
    error.__cause__, error.__context__ = None, None
    return error.with_traceback(None)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory is exhausted; torch is not imported to tell."""
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from kvcore.engine import limits

    return isinstance(error, RuntimeError | MemoryError) and limits.is_out_of_memory(error)
