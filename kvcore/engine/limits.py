"""How long a sequence and how large a pass may be, and what happens where memory ends."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from kvcore.cache import rope
from kvcore.models.lm import LM

Item = TypeVar("Item")
Result = TypeVar("Result")

BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}  # more gains nothing, and falls out of CPU caches
PASS_COST = {"cpu": 64, "cuda": 512}  # what starting a pass costs, in tokens: reading the weights


def exact_positions(lm: LM) -> int:
    """Return how many positions a pass may reach: past them some models change frequencies.

    What is cached keeps the frequencies of its own pass, so a score past the switch would hang
    on how the work is divided into passes, whether or not any key is rotated.
    """
    return min(lm.max_length, rope.max_positions(lm) or lm.max_length)


def pass_limits(lm: LM, batch_tokens: int | None = None) -> tuple[int, int]:
    """Return the most tokens of one pass, and what starting a pass costs, in tokens.

    Parameters
    ----------
    batch_tokens : int, optional
        Replaces the first of the two, which else is that of the model's device.
    """
    kind = lm.device.type
    return batch_tokens or BATCH_TOKENS.get(kind, 4096), PASS_COST.get(kind, 256)


def run_or_halve(
    lm: LM,
    items: Sequence[Item],
    run: Callable[[Sequence[Item]], Sequence[Result]],
    give_up: Callable[[Item], Result] | None = None,
    *,
    what: str,
) -> list[Result]:
    """Run items at once; where memory runs out, free what is free and run each half, and say so.

    A single item that does not fit is tried once more after memory was freed.

    Parameters
    ----------
    run : callable
        Gets some of the items and returns one result for each, in their order.
    give_up : callable, optional
        Returns the result of an item that does not fit even by itself. Without it the error is
        raised.
    what : str
        What the items are, in the plural, for the warning.

    Returns
    -------
    list
        One result per item, in their order.

    Warns
    -----
    RuntimeWarning
        Each time a half is tried in place of the whole; whatever the filters, it is no error.
    """
    results = _run_if_memory_allows(items, run)
    if isinstance(results, list):
        return results
    free_memory()
    if len(items) == 1:
        results = _run_if_memory_allows(items, run)
        if isinstance(results, list):
            return results
        if give_up is None:
            raise results
        return [give_up(items[0])]
    middle = len(items) // 2
    with warnings.catch_warnings():
        warnings.simplefilter("always", RuntimeWarning)
        warnings.warn(
            f"out of memory with {len(items)} {what} at once: going on with {middle}; a smaller "
            "--kv-batch-tokens avoids this.",
            RuntimeWarning,
            stacklevel=2,
        )
    halves = (items[:middle], items[middle:])
    return [result for half in halves for result in run_or_halve(lm, half, run, give_up, what=what)]


def _run_if_memory_allows(
    items: Sequence[Item], run: Callable[[Sequence[Item]], Sequence[Result]]
) -> list[Result] | Exception:
    """Return the results, or the error that says that memory is exhausted."""
    try:
        return list(run(items))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return error.with_traceback(None)  # it would hold on to the tensors of the pass


def free_memory() -> None:
    """Give back the memory of tensors that nothing refers to."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device's memory or the machine's is exhausted."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "out of memory" in text or "can't allocate memory" in text
    )
