"""How much is stored together: much on a GPU, about a minute's work on a CPU, whole samples.

How rows are divided into shards is no part of what they are: a store whose rows came in shards of
another size is gone on with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from invariants.support import store_worker
from invariants.support.comparing import must_see
from kvcore import loading
from kvcore.measurements import shard_size
from kvcore.measurements.base import MeasurementKind, MeasureRequest
from kvcore.measurements.collect import Collection
from kvcore.measurements.kinds import answer_nll
from kvcore.measurements.registry import all_kinds, kind_of
from kvcore.models.files import locate
from kvcore.store import fill as store_fill
from kvcore.store.keys import row_keys, rows_hash
from kvcore.store.shards import Store

MODEL = "tiny-llama"
NEEDS = ("bare", "oracle", "random", "values_only(random)")


def request(folder: Path, device: str = "cpu", limit: int = 430) -> MeasureRequest:
    """Return what a cell on docstrings is asked for."""
    return MeasureRequest(
        locate(MODEL),
        lambda: loading.load(MODEL, device="cpu"),
        "docstrings",
        NEEDS,
        limit,
        0,
        None,
        folder,
        device,
    )


def shard_counts(folder: Path, device: str) -> list[int]:
    """Return how many samples the shards of a planned cell have."""
    kind = kind_of("answer_nll")
    collection = Collection.planned(kind, request(folder, device), folder, progress=None)
    return [shard.rows["sample_id"].nunique() for shard in collection.shards(collection.keys)]


def check_gpu_shards(folder: Path) -> None:
    """Demand 400 samples or more of every shard but the last, and fewer of them on a CPU."""
    on_gpu, on_cpu = (sorted(shard_counts(folder, device)) for device in ("cuda", "cpu"))
    assert sum(on_gpu) == sum(on_cpu) == 430
    assert on_gpu[-1] >= shard_size.GPU_SAMPLES, f"shards on a GPU have {on_gpu} samples"
    assert on_cpu[-1] <= 50, f"shards on a CPU have {on_cpu} samples"


def test_shards_are_large_on_a_gpu_and_small_on_a_cpu(tmp_path: Path) -> None:
    """Would catch passes of a GPU that are cut short by shards of ten samples."""
    check_gpu_shards(tmp_path)


def test_twin_shards_on_a_gpu(tmp_path: Path) -> None:
    """Would catch a check blind to shards that are everywhere those of a CPU."""

    def as_on_cpu(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(shard_size, "on_gpu", lambda _request: False)

    must_see(as_on_cpu, check_gpu_shards, tmp_path)


def weighing(parameters: int) -> Callable[[pytest.MonkeyPatch], None]:
    """Make what gives the model so many parameters."""
    return lambda patch: patch.setattr(shard_size, "parameters", lambda _files: parameters)


def minutes(folder: Path, parameters: int) -> list[float]:
    """Return how many minutes each shard on a CPU takes, by operations alone, of full passes."""
    kind = kind_of("answer_nll")
    with pytest.MonkeyPatch.context() as patch:
        weighing(parameters)(patch)
        collection = Collection.planned(kind, request(folder), folder, progress=None)
        shards = collection.shards(collection.keys)
    prefills = 4  # document alone, behind the query, behind random tokens; and the control's
    taken = []
    for shard in shards:
        read = float(shard.rows["length"].sum()) / 4 * min(1, prefills / len(NEEDS))
        tokens = read + 60 * len(shard.rows)
        taken.append(2 * parameters * tokens / shard_size.MINUTE)
    return taken


@pytest.mark.parametrize("parameters", [135_000_000, 500_000_000])
def test_a_shard_on_a_cpu_takes_about_a_minute(tmp_path: Path, parameters: int) -> None:
    """Would catch a run of a larger model that loses many minutes when it is killed."""
    taken = sorted(minutes(tmp_path, parameters))
    assert taken[-1] <= 2.5, f"a shard takes {taken[-1]:.1f} minutes"
    assert taken[len(taken) // 2] >= 0.2, f"shards take {taken} minutes"


def test_every_kind_has_larger_shards_on_a_gpu(tmp_path: Path) -> None:
    """Would catch a kind whose passes on a GPU stay as small as a CPU's shards."""
    asked = request(tmp_path)
    assert shard_size.samples_on(asked, 20) == 20
    for device in ("cuda", "cuda:1"):
        assert shard_size.samples_on(replace(asked, device=device), 20) == shard_size.GPU_SAMPLES
    assert shard_size.samples_on(replace(asked, device="cuda"), 900) == 900
    assert {kind.name for kind in all_kinds().values()} >= {"divergence", "hidden_states"}


# --- shards of lengths ----------------------------------------------------------------------------


def check_lengths(rows: pd.DataFrame, samples: int, length: float) -> None:
    """Demand whole samples, each in one shard, and shards within their bounds."""
    shards = store_fill.plan(rows, samples, length)
    assert sorted(key for shard in shards for key in shard.keys) == sorted(set(row_keys(rows)))
    held = [set(shard.rows["sample_id"]) for shard in shards]
    assert sum(map(len, held)) == len(set().union(*held)), "a sample is divided"
    for shard, own in zip(shards, held, strict=True):
        together = float(shard.rows["length"].sum())
        assert len(own) <= samples
        assert len(own) == 1 or together <= length, f"{together} characters in a shard"


@pytest.mark.parametrize(("samples", "length"), [(7, 1e9), (50, 500.0), (3, 2000.0), (50, 0.0)])
def test_shards_keep_to_their_length(samples: int, length: float) -> None:
    """Would catch a sample that is divided, lost or doubled, or a shard longer than allowed."""
    check_lengths(store_worker.wanted(), samples, length)


def test_twin_shards_keep_to_their_length() -> None:
    """Would catch a check blind to shards that are cut by samples alone."""

    def by_samples(patch: pytest.MonkeyPatch) -> None:
        right = store_fill.plan
        patch.setattr(store_fill, "plan", lambda rows, samples, _length: right(rows, samples))

    must_see(by_samples, check_lengths, store_worker.wanted(), 50, 500.0)


# --- stores of other shards -----------------------------------------------------------------------


def check_resumed(folder: Path) -> None:
    """Demand that a store of ten-sample shards is gone on with: no row again, none another."""
    wanted, measured = store_worker.wanted(), list[pd.DataFrame]()

    def score(rows: pd.DataFrame) -> pd.DataFrame:
        measured.append(rows)
        return store_worker.score(rows)

    def fill(target: Store, rows: pd.DataFrame, **size: Any) -> None:
        store_fill.measure_missing(
            target, rows, score, code=store_worker.CODE, meta={}, progress=None, **size
        )

    folder.mkdir()
    whole, resumed = (Store(folder / name, store_worker.SCHEMA) for name in ("whole", "resumed"))
    fill(whole, wanted, shard_samples=200)
    measured.clear()
    samples = sorted(set(wanted["sample_id"]))
    first = wanted[wanted["sample_id"].isin(samples[: len(samples) // 2])]
    fill(resumed, first, shard_samples=10)
    fill(resumed, wanted, shard_samples=200)
    fill(resumed, wanted, shard_samples=200, shard_length=500.0)
    keys = row_keys(pd.concat(measured))
    assert len(keys) == len(set(keys)), f"{len(keys) - len(set(keys))} rows are measured twice"
    assert set(keys) == set(row_keys(wanted))
    left, right = (rows_hash(store.read(), store_worker.SCHEMA) for store in (whole, resumed))
    assert left == right, "the rows hang on the size of their shards"


def test_a_store_of_ten_sample_shards_is_gone_on_with(tmp_path: Path) -> None:
    """Would catch rows that are measured again, or are others, where shards have another size."""
    check_resumed(tmp_path / "store")


def test_twin_a_shard_is_whole_or_missing(tmp_path: Path) -> None:
    """Would catch a check blind to shards that are measured anew where a part is stored."""

    def all_or_nothing(patch: pytest.MonkeyPatch) -> None:
        def broken(self: store_fill.Shard, present: frozenset[Any]) -> pd.DataFrame:
            return self.rows[[not present.issuperset(self.keys)] * len(self.rows)]

        patch.setattr(store_fill.Shard, "missing", broken)

    folders = iter([tmp_path / "sound", tmp_path / "broken"])
    must_see(all_or_nothing, lambda: check_resumed(next(folders)))


def scores(kind: MeasurementKind, asked: MeasureRequest) -> pd.DataFrame:
    """Measure a cell into a store of its own and return its rows."""
    collection = Collection.planned(kind, asked, asked.store, progress=None).adopting()
    collection.measure(collection.keys)
    rows = collection.rows().rows
    return rows.sort_values(["sample_id", "condition"]).reset_index(drop=True)


def test_scores_do_not_hang_on_the_size_of_the_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a score that is another one in a shard of a GPU's size.

    1. A cell in shards of ten samples.
    2. The same cell in shards of a GPU: the same keys in the same order, scores within rounding.
    """
    monkeypatch.setattr(answer_nll, "SHARD_ROWS", 1)
    kind = kind_of("answer_nll")
    on_cpu, on_gpu = (
        scores(kind, request(tmp_path / device, device, limit=24)) for device in ("cpu", "cuda")
    )
    assert row_keys(on_cpu) == row_keys(on_gpu)
    apart = (on_cpu["nll"] - on_gpu["nll"]).abs() / on_cpu["nll"].clip(lower=1)
    assert float(apart.max()) <= 1e-6
