"""The next shard is prepared while one is measured, and no row changes for it.

Rows of a toy kind show when what is done and by which thread; rows of a tiny model, that numbers
are bit for bit those of shards that are prepared and measured in turn.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from invariants.support import store_worker
from invariants.support.comparing import must_see
from kvcore import loading
from kvcore.errors import KvError
from kvcore.measurements import answer_nll, collect
from kvcore.measurements.base import MeasureRequest
from kvcore.measurements.collect import Collection
from kvcore.measurements.registry import kind_of
from kvcore.models.files import locate
from kvcore.store import fill as store_fill
from kvcore.store.keys import rows_hash
from kvcore.store.shards import Store

WAIT_SECONDS = 20.0
NEEDS = ("bare", "oracle", "random", "values_only(random)", "random@seed1")


def fill(
    folder: Path,
    prepare: Callable[[pd.DataFrame], Any],
    measure: Callable[[pd.DataFrame, Any], pd.DataFrame],
) -> Store:
    """Fill a store with made-up rows, the next shard prepared ahead, and return it."""
    target = Store(folder, store_worker.SCHEMA)
    store_fill.fill(
        target,
        store_worker.wanted(),
        store_fill.preparing_ahead(prepare, measure, lambda: store_worker.META),
        code=store_worker.CODE,
        shard_samples=store_worker.SHARD_SAMPLES,
        progress=None,
    )
    return target


def first_sample(rows: pd.DataFrame) -> str:
    """Name a shard."""
    return str(rows["sample_id"].min())


def check_overlap(folder: Path) -> None:
    """Demand that each shard but the last is measured while the next is prepared."""
    begun: list[str] = []
    more = threading.Condition()
    waited_for: list[bool] = []
    total = len(store_fill.plan(store_worker.wanted(), store_worker.SHARD_SAMPLES))

    def prepare(rows: pd.DataFrame) -> str:
        with more:
            begun.append(first_sample(rows))
            more.notify_all()
        return first_sample(rows)

    def measure(rows: pd.DataFrame, ready: str) -> pd.DataFrame:
        assert ready == first_sample(rows), "a shard was measured with another's preparation"
        wanted = min(total, len(waited_for) + 2)
        with more:
            waited_for.append(more.wait_for(lambda: len(begun) >= wanted, WAIT_SECONDS))
        assert waited_for[-1], "the next shard was not prepared while one was measured"
        return store_worker.score(rows)

    rows = fill(Path(tempfile.mkdtemp(dir=folder)), prepare, measure).read()
    assert len(waited_for) == total > 2
    assert len(rows) == len(store_worker.wanted())


def test_the_next_shard_is_prepared_while_one_is_measured(tmp_path: Path) -> None:
    """Would catch preparation and measuring in turn, where a GPU waits for the first."""
    check_overlap(tmp_path)


class InTurn:
    """Stands in for a pool of threads: it does what it is given when the result is asked for."""

    def __init__(self, *_: Any) -> None:
        pass

    def __enter__(self) -> InTurn:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def submit(self, do: Callable[..., Any], *given: Any) -> Future[Any]:
        """Return what does it late."""
        late: Future[Any] = Future()
        late.result = lambda *_: do(*given)  # type: ignore[method-assign]
        return late


def test_twin_prepared_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a check blind to shards that are prepared when their turn comes."""
    monkeypatch.setattr(f"{__name__}.WAIT_SECONDS", 0.2)
    must_see(
        lambda patch: patch.setattr(store_fill, "ThreadPoolExecutor", InTurn),
        check_overlap,
        tmp_path,
    )


def test_what_is_loaded_is_loaded_by_the_caller(tmp_path: Path) -> None:
    """Would catch a model that is loaded by the thread that prepares, or by both at once."""
    threads: list[threading.Thread] = []

    def prepare(_rows: pd.DataFrame) -> None:
        threads.append(threading.current_thread())

    fill(tmp_path, prepare, lambda rows, _ready: store_worker.score(rows))
    assert threads[0] is threading.current_thread()
    assert threading.current_thread() not in threads[1:]
    assert not any(thread.is_alive() for thread in threads[1:]), "a thread outlives the run"


def test_threads_take_turns_as_before_when_all_is_measured(tmp_path: Path) -> None:
    """Would catch a setting of the interpreter that outlives the run, or is not made at all."""
    before, during = sys.getswitchinterval(), list[float]()

    def measure(rows: pd.DataFrame, _ready: Any) -> pd.DataFrame:
        during.append(sys.getswitchinterval())
        return store_worker.score(rows)

    fill(tmp_path, lambda _: None, measure)
    assert sys.getswitchinterval() == before
    assert max(during) < before


def test_an_error_while_preparing_ends_the_run_and_loses_nothing(tmp_path: Path) -> None:
    """Would catch an error that is swallowed in its thread, or a shard measured before it lost."""
    prepared: list[int] = []

    def prepare(rows: pd.DataFrame) -> None:
        prepared.append(len(rows))
        if len(prepared) == 3:
            raise KvError("planted")

    def measure(rows: pd.DataFrame, _ready: Any) -> pd.DataFrame:
        return store_worker.score(rows)

    with pytest.raises(KvError, match="planted"):
        fill(tmp_path, prepare, measure)
    kept = Store(tmp_path, store_worker.SCHEMA).read()
    assert len(kept) == sum(prepared[:2])
    rows = fill(tmp_path, lambda _: None, measure).read()
    assert len(rows) == len(store_worker.wanted()), "a shard stayed claimed"


# --- scores --------------------------------------------------------------------------------------


def hash_of_cell(folder: Path) -> str:
    """Measure a cell of a tiny model in several shards and return the hash of its rows."""
    kind = kind_of("answer_nll")
    lm = loading.load("tiny-llama", device="cpu")
    request = MeasureRequest(
        locate("tiny-llama"), lambda: lm, "docstrings", NEEDS, 9, 0, None, folder
    )
    planned = Collection.planned(kind, request, folder, progress=None)
    collection = replace(planned, plan=replace(planned.plan, shard_samples=3))
    assert len(collection.shards(collection.keys)) >= 3
    collection.measure(collection.keys)
    return rows_hash(kind.store(folder).read(), kind.schema)


def check_equal_rows(folder: Path) -> None:
    """Demand the same rows, bit for bit, whether shards are prepared ahead or in turn."""
    in_turn = hash_of_cell(Path(tempfile.mkdtemp(dir=folder)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect, "on_gpu", lambda _request: True)
        assert hash_of_cell(Path(tempfile.mkdtemp(dir=folder))) == in_turn


def test_rows_prepared_ahead_are_the_same(tmp_path: Path) -> None:
    """Would catch random prefixes or tokens that hang on the thread that makes them."""
    check_equal_rows(tmp_path)


def test_twin_rows_prepared_ahead(tmp_path: Path) -> None:
    """Would catch a check blind to random prefixes that are drawn by another seed."""
    right = answer_nll.tokenize_requests

    def by_thread(lm: Any, requests: Any, seed: int) -> Any:
        ahead = threading.current_thread() is not threading.main_thread()
        return right(lm, requests, seed + ahead)

    must_see(
        lambda patch: patch.setattr(answer_nll, "tokenize_requests", by_thread),
        check_equal_rows,
        tmp_path,
    )
