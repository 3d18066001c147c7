"""A process that fills a store with made-up scores, to be killed and run in several copies.

Run as ``python store_worker.py ROOT LOG PAUSE BREAKAGE``: says ``ready``, waits for a line on
stdin, and fills. ``BREAKAGE`` names an entry of `BREAKAGES`. Imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from kvcore.errors import StoreWarning
from kvcore.store import claiming, fill
from kvcore.store.keys import rows_hash
from kvcore.store.remote import open_store
from kvcore.store.schema import COUNT, KEY, NUMBER, NUMBERS, RowSchema
from kvcore.store.shards import Store

CONDITIONS = ("bare", "random", "oracle")
META = {"device": "cpu", "attention": "none"}
SHARD_SAMPLES = 4
CODE = "c0de"
SCHEMA = RowSchema(
    {
        "nll": NUMBER,
        "nll_tail": NUMBER,
        "token_nlls": NUMBERS,
        **dict.fromkeys(
            ("n_answer_tokens", "doc_len", "prefix_len", "cache_len", "clean_boundary"), COUNT
        ),
    },
    "nll",
)


def wanted(samples: int = 96, conditions: tuple[str, ...] = CONDITIONS) -> pd.DataFrame:
    """Return the keys of made-up samples under some conditions, with their lengths."""
    ids = [f"s-{number:03d}" for number in range(samples)]
    return keys_of(ids, conditions)


def keys_of(ids: list[str], conditions: tuple[str, ...] = CONDITIONS) -> pd.DataFrame:
    """Return the wanted rows of some sample ids, any text allowed."""
    pairs = [(sample, condition) for sample in ids for condition in conditions]
    constant = {name: name for name in KEY} | {"dtype": "float32", "seed": 0}
    columns: dict[str, Any] = {name: [value] * len(pairs) for name, value in constant.items()}
    columns["sample_id"] = pd.Series([sample for sample, _ in pairs], dtype=object)
    columns["sample_hash"] = [_digest(sample)[:32] for sample, _ in pairs]
    columns["condition"] = pd.Series([condition for _, condition in pairs], dtype=object)
    columns["length"] = [_number(sample, "length") for sample, _ in pairs]
    return pd.DataFrame(columns)


def score(asked: pd.DataFrame) -> pd.DataFrame:
    """Score rows by a pure function of sample id and condition, in another order than asked."""
    rows = [_row(*pair) for pair in zip(asked["sample_id"], asked["condition"], strict=True)]
    return pd.DataFrame(rows[::-1], dtype=object)  # pandas' own strings hold no lone surrogates


def logged(log: Path, pause: float) -> fill.Measure:
    """Return a scorer that takes its time and notes what it was asked for."""

    def slow(asked: pd.DataFrame) -> pd.DataFrame:
        pairs = zip(asked["sample_id"], asked["condition"], strict=True)
        with open(log, "a", encoding="utf-8") as file:
            file.writelines(f"{sample} {condition}\n" for sample, condition in pairs)
        time.sleep(pause)
        return score(asked)

    return slow


def _row(sample: str, condition: str) -> dict[str, Any]:
    if _number(sample, "dropped") < 10:
        tokens: list[float] = []
    else:
        tokens = [_number(f"{sample} {condition}", str(i)) / 100 for i in range(1, 5)]
    count = len(tokens)
    return {
        "sample_id": sample,
        "condition": condition,
        "template": "template",
        "cluster": f"c{_number(sample, 'cluster') % 20}",
        "status": "ok" if tokens else "answer has no token",
        "nll": sum(tokens) / count if tokens else None,
        "nll_tail": sum(tokens[1:]) / (count - 1) if tokens else None,
        "token_nlls": tokens,
        "n_answer_tokens": count,
        "doc_len": _number(sample, "length"),
        "prefix_len": len(condition),
        "cache_len": _number(sample, "length") + 1,
        "clean_boundary": 1,
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _number(text: str, salt: str) -> int:
    """Return a number of 0 ... 255 that hangs on the text alone."""
    return int(_digest(f"{salt} {text}")[:2], 16)


def _die_at_third(call: Callable[..., Any], last: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function: its third call does something else, and the process dies."""
    calls = []

    def dying(*args: Any) -> Any:
        calls.append(args)
        if len(calls) < 3:
            return call(*args)
        last(*args)
        return os.kill(os.getpid(), signal.SIGKILL)

    return dying


def _nothing(*_args: Any) -> None:
    """Do nothing."""


def _copy_half(source: Path, target: Path) -> None:
    """Write the first half of a file under its final name: what renaming is there to avoid."""
    data = Path(source).read_bytes()
    Path(target).write_bytes(data[: len(data) // 2])


@contextlib.contextmanager
def _no_claim(store: Store, shard: fill.Shard) -> Iterator[bool]:  # noqa: ARG001
    yield True


def _die_before_sync() -> None:
    os.fsync = _die_at_third(os.fsync, _nothing)


def _die_before_rename() -> None:
    os.replace = _die_at_third(os.replace, _nothing)


def _die_after_rename() -> None:
    os.replace = _die_at_third(os.replace, os.replace)


def _die_while_copying() -> None:
    os.replace = _die_at_third(os.replace, _copy_half)


def _claim_nothing() -> None:
    """Have every shard at once, and believe it still when what was measured is stored."""
    fill.claim = _no_claim
    claiming.is_held = lambda *_: True


def _no_locks() -> None:
    """Stand for a file system whose locks succeed and exclude nobody."""
    claiming.lock_at_once = _nothing  # type: ignore[assignment]
    warnings.simplefilter("ignore", StoreWarning)


BREAKAGES: dict[str, Callable[[], None]] = {
    "none": lambda: None,
    "no locks": _no_locks,
    "die before sync": _die_before_sync,
    "die before rename": _die_before_rename,
    "die after rename": _die_after_rename,
    "die while copying": _die_while_copying,
    "claim nothing": _claim_nothing,
}


def main(root: str, log: str, pause: str, breakage: str) -> None:
    """Fill the store when told to, and print the hash of its rows."""
    BREAKAGES[breakage]()
    print("ready", flush=True)
    sys.stdin.readline()
    scorer = logged(Path(log), float(pause))
    store = Store(open_store(root, Path.cwd()), SCHEMA)
    fill.measure_missing(
        store,
        wanted(),
        scorer,
        code=CODE,
        meta=META,
        shard_samples=SHARD_SAMPLES,
        progress=None,
    )
    print(rows_hash(store.read(), SCHEMA), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
