"""How long a sequence and how large a pass may be, and what happens where memory ends."""

from __future__ import annotations

import gc
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from kvcore import progress
from kvcore.cache import rope
from kvcore.models.lm import LM

Item = TypeVar("Item")
Result = TypeVar("Result")

BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}  # more gains nothing, and falls out of CPU caches
TESTED_POSITIONS = {"cpu": 4096, "cuda": 16384}  # most that a model is tried on when it is loaded
PAST_WINDOW = 64  # positions behind a window that are tried
QUERY_SCALING = "llama_4_scaling_beta"
LOGITS = {"cpu": 2**28, "cuda": 2**30}  # numbers that the logits of one pass may be
PASS_COST = {"cpu": 64, "cuda": 1024}  # of a pass beside its tokens, in tokens: weights, launches


def exact_positions(lm: LM) -> int:
    """Return how many positions a pass may reach: past them some models change frequencies.

    What is cached keeps the frequencies of its own pass, so a score past the switch would hang
    on how the work is divided into passes, whether or not any key is rotated. The same holds of
    queries that are scaled by their position. A window that is too wide to be crossed when the
    model is loaded (`kvcore.gate`) is not crossed at all.
    """
    ends = (rope.max_positions(lm), scaling_start(lm.config), uncrossed_window(lm))
    return min([lm.max_length, *(end for end in ends if end)])


def scaling_start(config: Any) -> int | None:
    """Return the position from which queries are scaled by it, None where they never are."""
    parameters = getattr(config, "rope_parameters", None) or {}
    sets = [p for p in parameters.values() if isinstance(p, dict)] or [parameters]
    starts = [
        int(p.get("original_max_position_embeddings") or 1) for p in sets if p.get(QUERY_SCALING)
    ]
    if getattr(config, "attn_temperature_tuning", False):
        starts.append(int(getattr(config, "floor_scale", 1)))
    return min(starts, default=None)


def windows(config: Any) -> list[int]:
    """Return the widths of the windows that a configuration names, whatever it calls them."""
    return sorted(
        value
        for key, value in vars(config).items()
        if ("window" in key or "local_attention" in key or "chunk_size" in key)
        and isinstance(value, int)
        and not isinstance(value, bool)
        and value > 0
    )


def uncrossed_window(lm: LM) -> int | None:
    """Return the narrowest window that is not crossed when the model is loaded, if there is one."""
    longest = TESTED_POSITIONS.get(lm.device.type, TESTED_POSITIONS["cpu"])
    return min((w for w in windows(lm.config) if w > longest - PAST_WINDOW), default=None)


def pass_limits(lm: LM, batch_tokens: int | None = None) -> tuple[int, int]:
    """Return the most tokens of one pass, and what starting a pass costs, in tokens.

    Parameters
    ----------
    batch_tokens : int, optional
        Replaces the first of the two, which else is that of the model's device.
    """
    kind = lm.device.type
    return batch_tokens or BATCH_TOKENS.get(kind, 4096), PASS_COST.get(kind, 256)


def pass_slots(lm: LM, budget: int, tokens: int, targets: int) -> int:
    """Return what a sequence counts for in a pass: its tokens, or more where its logits are large.

    Passes that keep to the budget so keep to `LOGITS` too, but for a sequence by itself.

    - `budget`: most tokens of one pass.
    - `targets`: how many of its tokens are scored.
    """
    share = LOGITS.get(lm.device.type, 2**29) / budget
    vocabulary: int = lm.config.vocab_size
    return max(tokens, math.ceil(targets * vocabulary / share))


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
        progress.batch_done(len(items), what)
        return results
    if lm.device.type == "cuda":
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
