"""A cell on a tiny model that other processes measure, and rows to compare with this one's."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from invariants.support.own_files import jsonl
from kvcore import loading
from kvcore.measurements.base import MeasureRequest
from kvcore.measurements.collect import Collection
from kvcore.measurements.errands import Sender
from kvcore.measurements.registry import kind_of
from kvcore.models.files import locate
from kvcore.models.lm import LM
from kvcore.store.schema import KEY

Named = TypeVar("Named")
Payload = TypeVar("Payload")
Result = TypeVar("Result")
MODEL = "tiny-llama"
TOLERANCE = 1e-6
"""Nats: the same code in float32, on shards of the same samples."""
SHARD_SAMPLES = 4


@functools.cache
def model() -> LM:
    """Return the model in this process."""
    return loading.load(MODEL, device="cpu")


def questions(folder: Path, count: int) -> str:
    """Write a file of questions, and return its path."""
    rows = [
        {
            "query": f"what is number {i}",
            "passage": f"It is number {i} of them, and {'many ' * (i % 4)}follow it.",
            "answer": f"it is the number {i}",
        }
        for i in range(count)
    ]
    return jsonl(folder / "questions.jsonl", *rows)


def request(
    store: Path,
    dataset: str,
    needs: tuple[str, ...] = ("bare", "random", "oracle"),
    load: Callable[[], LM] = model,
) -> MeasureRequest:
    """Return what is asked of the cell, with rows in this store."""
    return MeasureRequest(locate(MODEL), load, dataset, needs, 1000, 0, None, store)


def collected(
    asked: MeasureRequest, sender: Sender | None = None, kind: str = "answer_nll"
) -> pd.DataFrame:
    """Measure the cell in shards of few samples, and return its rows by their keys."""
    measured = kind_of(kind)
    own = Collection.planned(measured, asked, asked.store, progress=None, sender=sender)
    own = dataclasses.replace(own, plan=dataclasses.replace(own.plan, shard_samples=SHARD_SAMPLES))
    own.measure(own.keys)
    return stored(asked.store, kind)


def stored(store: Path, kind: str = "answer_nll") -> pd.DataFrame:
    """Return all rows of a store by their keys, each as often as it was measured."""
    folder = kind_of(kind).store(store)
    rows = pd.concat([pd.read_parquet(path) for path in folder.shards()], ignore_index=True)
    return rows.set_index(list(KEY)).sort_index()


def check_same_rows(own: pd.DataFrame, others: pd.DataFrame, score: str = "nll") -> None:
    """Each key is in both once, with the same status, and scores apart by rounding alone."""
    assert own.index.is_unique
    assert others.index.is_unique
    assert list(own.index) == list(others.index)
    assert own["status"].tolist() == others["status"].tolist()
    apart = (own[score] - others[score]).abs().max()
    assert apart <= TOLERANCE, f"{apart} nats apart"


@dataclass
class InThisProcess:
    """Does errands one after another in this process, as far as can be told in another one.

    - `change`: what becomes of what an errand brings back.
    - `measuring`: every errand that measured, pickled and read again, as often as it was done.
    """

    change: Callable[[Any, Any], Any] = lambda _payload, answer: answer
    measuring: list[Any] = field(default_factory=list)

    def run(
        self, do: Callable[[Payload], Result], parts: Iterator[tuple[Named, Payload]]
    ) -> Generator[tuple[Named, Result], None, None]:
        """Apply a function to the payloads of parts; return each part's name with its result."""
        import pickle

        there = pickle.loads(pickle.dumps(do))
        for named, payload in parts:
            self.measuring += [] if payload is None else [there]
            yield named, self.change(payload, pickle.loads(pickle.dumps(there(payload))))

    def ask(self, do: Callable[[None], Result]) -> Result:
        """Call a function with None."""
        ((_, result),) = self.run(do, iter([(None, None)]))
        return result
