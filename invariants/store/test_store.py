"""The store keeps what was measured: killed, shared, damaged or full, no wrong row comes out.

The rows measured here are made up, by a pure function of sample and condition, so that every
disturbed run has an undisturbed one to equal. Each invariant is stated once, as a helper that
raises; its test shows that it holds, and its twin breaks the production code and sees it raise.
"""

from __future__ import annotations

import ast
import errno
import hashlib
import itertools
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from invariants.support import store_worker
from invariants.support.comparing import must_see
from invariants.support.store_processes import go, start
from kvcore import progress as told_progress
from kvcore.errors import KvError, StoreWarning
from kvcore.store import agreement, claiming, keys, schema, shard_file
from kvcore.store import fill as store_fill
from kvcore.store import shards as store_shards
from kvcore.store.code_hash import code_hash
from kvcore.store.schema import CODE, KEY, Key
from kvcore.store.shard_file import VERSION
from kvcore.store.shards import Store

# the claims go on past a damaged shard; here it must not pass unseen
pytestmark = pytest.mark.filterwarnings("error::kvcore.errors.StoreWarning")

ROOT = Path(__file__).parents[2]
SCHEMA = store_worker.SCHEMA
VALUES = SCHEMA.values
MISSED = (AssertionError, pytest.fail.Exception)


def store_at(folder: Path) -> Store:
    """Return the store in a folder, of rows as the worker makes them."""
    return Store(folder, SCHEMA)


def fill(
    target: Store,
    wanted: pd.DataFrame,
    score: store_fill.Measure = store_worker.score,
    progress: str | None = None,
) -> None:
    """Fill a store the way the worker does."""
    store_fill.measure_missing(
        target,
        wanted,
        score,
        code=store_worker.CODE,
        meta=store_worker.META,
        shard_samples=store_worker.SHARD_SAMPLES,
        progress=progress,
    )


def missing(target: Store, wanted: pd.DataFrame) -> pd.DataFrame:
    """Return the wanted rows that the worker's code has not measured."""
    present = target.keys(target.shards(), store_worker.CODE)
    absent = [key not in present for key in keys.row_keys(wanted)]
    asked = wanted[np.array(absent, dtype=bool)]
    return asked[~asked[list(KEY)].duplicated()]


def rows_hash(rows: pd.DataFrame) -> str:
    """Return the hash of rows as the worker makes them."""
    return keys.rows_hash(rows, SCHEMA)


def rows_of(wanted: pd.DataFrame) -> pd.DataFrame:
    """Return scored rows with their keys, without a store."""
    return store_fill.with_keys(store_worker.score(wanted), wanted, SCHEMA, store_worker.CODE)


def names(folder: Path) -> list[str]:
    """List a folder, hidden files included."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Return the rows of one run that nothing disturbed."""
    target = store_at(tmp_path_factory.mktemp("undisturbed"))
    fill(target, store_worker.wanted())
    return target.read()


def assert_rows(target: Store, expected: pd.DataFrame) -> None:
    """Pass if a store holds exactly the expected rows and nothing in it is damaged."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", StoreWarning)
        pd.testing.assert_frame_equal(target.read(), expected)


# --- told ------------------------------------------------------------------------------------


def check_never_told_too_much(folder: Path) -> None:
    """No more rows are told to be done than are stored, also where claims are taken away."""
    target = store_at(folder)
    taken_away = iter([True, False, True])

    def is_held(*_: Any) -> bool:
        return not next(taken_away, False)

    told: list[tuple[int, int]] = []

    def listen(progress: told_progress.Progress) -> None:
        told.append((progress.done, len(target.read())))

    with pytest.MonkeyPatch.context() as patch, told_progress.listening(listen):
        patch.setattr(claiming, "is_held", is_held)
        fill(target, store_worker.wanted(12), progress="rows")
    assert next(taken_away, None) is None
    assert all(done <= stored for done, stored in told)
    assert told[-1][0] == len(store_worker.wanted(12))


def test_a_shard_whose_claim_was_taken_away_is_told_once(tmp_path: Path) -> None:
    """Catches rows that are told to be done before anybody has stored them."""
    check_never_told_too_much(tmp_path)


def test_twin_a_shard_that_is_told_twice_is_seen(tmp_path: Path) -> None:
    """Would catch a check of the last line alone."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(told_progress.Part, "drop", lambda _: None)

    def check() -> None:
        check_never_told_too_much(Path(tempfile.mkdtemp(dir=tmp_path)))

    must_see(fault, check)


# --- killed ----------------------------------------------------------------------------------


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a worker's end; return its exit status and what it printed."""
    printed, _ = process.communicate(timeout=120)
    return process.returncode, printed.strip()


def kill_after(process: subprocess.Popen[str], target: Store, shards: int, seconds: float) -> None:
    """Kill a worker some time after it has stored some more shards."""
    go(process)
    enough = len(target.shards()) + shards
    while len(target.shards()) < enough and process.poll() is None:
        time.sleep(0.001)
    time.sleep(seconds)
    process.kill()
    finish(process)


def test_killed_at_random_points_and_resumed_the_rows_are_those_of_one_run(
    tmp_path: Path, undisturbed: pd.DataFrame
) -> None:
    """SIGKILL at any moment costs the shard at work and nothing else."""
    target, log, chance = store_at(tmp_path / "store"), tmp_path / "log", random.Random(7)
    interrupted = 0
    for _ in range(6):
        process = start(target.root, log, pause=0.05)
        kill_after(process, target, chance.randrange(2), chance.uniform(0, 0.07))
        interrupted += not missing(target, store_worker.wanted()).empty
        stored = undisturbed.merge(target.read()[list(KEY)], on=list(KEY))
        assert_rows(target, stored.sort_values(list(KEY), ignore_index=True))
    assert interrupted, "every kill came too late"
    fill(target, store_worker.wanted())
    assert_rows(target, undisturbed)


def assert_survives(breakage: str, folder: Path, undisturbed: pd.DataFrame) -> None:
    """Pass if a worker killed at a point shows no half shard, and the rest can be resumed."""
    target = store_at(folder / "store")
    process = start(target.root, folder / "log", pause=0, breakage=breakage)
    go(process)
    assert finish(process)[0] == -signal.SIGKILL
    assert_rows(target, undisturbed.merge(target.read()[list(KEY)], on=list(KEY)))
    fill(target, store_worker.wanted())
    assert_rows(target, undisturbed)


@pytest.mark.parametrize("point", ["die before sync", "die before rename", "die after rename"])
def test_killed_between_two_steps_of_writing_no_half_shard_shows(
    point: str, tmp_path: Path, undisturbed: pd.DataFrame
) -> None:
    """The steps of a write are such that a reader sees all of a shard or nothing."""
    assert_survives(point, tmp_path, undisturbed)


def test_twin_a_copy_in_place_of_the_rename_is_caught(
    tmp_path: Path, undisturbed: pd.DataFrame
) -> None:
    """Killed while copying under the final name, half a shard shows."""
    with pytest.raises(StoreWarning, match="is damaged"):
        assert_survives("die while copying", tmp_path, undisturbed)


# --- shared ----------------------------------------------------------------------------------


def assert_shared(folder: Path, undisturbed: pd.DataFrame, count: int, breakage: str) -> None:
    """Pass if several processes at once store the rows of one, measuring each row once."""
    target, logs = store_at(folder / "store"), [folder / f"log{i}" for i in range(count)]
    processes = [start(target.root, log, 0.05, breakage) for log in logs]
    for process in processes:
        go(process)
    ends = [finish(process) for process in processes]
    assert ends == [(0, rows_hash(undisturbed))] * count
    assert_rows(target, undisturbed)
    measured = [line for log in logs if log.exists() for line in log.read_text().splitlines()]
    assert sorted(measured) == sorted(set(measured)), "a row was measured twice"


def test_four_processes_on_one_store_share_the_work(
    tmp_path: Path, undisturbed: pd.DataFrame
) -> None:
    """Four writers at once store what one would have, and measure nothing twice."""
    assert_shared(tmp_path, undisturbed, 4, "none")


def test_twin_without_claims_rows_are_measured_twice(
    tmp_path: Path, undisturbed: pd.DataFrame
) -> None:
    """With claims switched off, the rows are still right, but work is done twice."""
    with pytest.raises(AssertionError, match="measured twice"):
        assert_shared(tmp_path, undisturbed, 2, "claim nothing")


def assert_left_for_last(folder: Path) -> None:
    """Pass if a shard that another process holds comes last and is not measured again."""
    target, wanted = store_at(folder), store_worker.wanted(12)
    first, *others = store_fill.plan(wanted, store_worker.SHARD_SAMPLES)
    (folder / ".claims").mkdir()
    other_process = FileLock(folder / ".claims" / f"{first.name}.lock")
    other_process.acquire()
    asked: list[int] = []

    def score(rows: pd.DataFrame) -> pd.DataFrame:
        asked.append(len(rows))
        if len(asked) == len(others):
            target.write(rows_of(first.rows), store_worker.META)
            other_process.release()
        return store_worker.score(rows)

    try:
        fill(target, wanted, score)
    finally:
        other_process.release()
    assert len(asked) == len(others)
    assert missing(target, wanted).empty


def test_a_shard_held_by_another_process_is_looked_up_again_at_the_end(tmp_path: Path) -> None:
    """What the other process has stored meanwhile is not measured again."""
    assert_left_for_last(tmp_path)


def test_twin_not_looking_again_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Had the loop trusted its first look, the held shard would be measured twice."""
    monkeypatch.setattr(store_fill.PresentRows, "updated", lambda present, _: present)
    with pytest.raises(AssertionError):
        assert_left_for_last(tmp_path)


# --- damaged ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store of two shards, never to be changed (copy it)."""
    target = store_at(tmp_path_factory.mktemp("small"))
    fill(target, store_worker.wanted(8, ("bare",)))
    assert len(target.shards()) == 2
    return target


def damage(data: bytes, place: float, bit: int | None) -> bytes:
    """Flip a bit at a place (0 ... 1 of the length), or cut there."""
    offset = min(int(place * len(data)), len(data) - 1)
    if bit is None:
        return data[:offset]
    return data[:offset] + bytes([data[offset] ^ (1 << bit)]) + data[offset + 1 :]


def assert_detected(small: Store, broken: Callable[[bytes], bytes]) -> None:
    """Pass if a damaged shard is named, set aside, counted as missing and measured again."""
    with tempfile.TemporaryDirectory() as folder:
        target = store_at(Path(shutil.copytree(small.root, folder, dirs_exist_ok=True)))
        expected = small.read()
        victim, other = target.shards()
        intact = [key[KEY.index("sample_id")] for key in target.keys([other], store_worker.CODE)]
        victim.write_bytes(broken(victim.read_bytes()))
        with pytest.warns(StoreWarning, match=f"{victim.name} is damaged"):
            rows = target.read()
        left = expected[expected["sample_id"].isin(intact)].reset_index(drop=True)
        pd.testing.assert_frame_equal(rows, left)
        assert f"_{victim.name}.damaged" in names(target.root)
        fill(target, store_worker.wanted(8, ("bare",)))
        assert_rows(target, expected)


@given(place=st.floats(0, 1), bit=st.none() | st.integers(0, 7))
@settings(max_examples=80, deadline=None)
def test_a_cut_or_flipped_shard_is_detected_and_measured_again(
    small: Store, place: float, bit: int | None
) -> None:
    """Whatever byte is hit, rows of a damaged shard are missing, never wrong."""
    assert_detected(small, lambda data: damage(data, place, bit))


def test_twin_without_its_hash_a_shard_s_header_goes_unchecked(
    small: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page checksums alone do not see that the first byte is wrong."""
    monkeypatch.setattr(shard_file, "check_bytes", lambda *_: None)
    with pytest.raises(MISSED):
        assert_detected(small, lambda data: damage(data, 0.0, 0))


def nll_pages(path: Path) -> range:
    """Return the offsets of the bytes in which a shard holds its NLLs, page headers left out."""
    group = pq.ParquetFile(path).metadata.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    chunk = next(column for column in columns if column.path_in_schema == "nll")
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    end = start + chunk.total_compressed_size
    return range(end - 8, end)


def flips(small: Store) -> Iterator[Callable[[bytes], bytes]]:
    """Flip each bit of the last bytes of the NLLs, one after the other."""
    victim = small.shards()[0]
    size = victim.stat().st_size
    for offset in nll_pages(victim):
        for bit in range(8):
            yield lambda data, at=offset, bit=bit: damage(  # type: ignore[misc]
                data, (at + 0.5) / size, bit
            )


def test_page_checksums_detect_a_flip_on_their_own(
    small: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers that know nothing of our hash are warned too, if they verify page checksums."""
    monkeypatch.setattr(shard_file, "check_bytes", lambda *_: None)
    for flip in flips(small):
        assert_detected(small, flip)


def test_twin_without_any_checksum_wrong_numbers_come_out(
    small: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With both checks off, some flip of the same bits passes unnoticed."""
    monkeypatch.setattr(shard_file, "check_bytes", lambda *_: None)
    trusting = pq.ParquetFile

    def unverified(source: Any, **_: Any) -> pq.ParquetFile:
        return trusting(source, page_checksum_verification=False)

    monkeypatch.setattr(pq, "ParquetFile", unverified)

    def all_detected() -> None:
        for flip in flips(small):
            assert_detected(small, flip)

    with pytest.raises(MISSED):
        all_detected()


def test_twin_rows_wrongly_counted_as_present_are_caught(
    small: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If missing rows counted as present, a damaged shard would never be measured again."""
    everything = frozenset(keys.row_keys(store_worker.wanted()))
    real = Store.keys

    def too_many(target: Store, shards: tuple[Path, ...], code: str) -> frozenset[Key]:
        return real(target, shards, code) if target.root == small.root else everything

    monkeypatch.setattr(Store, "keys", too_many)
    with pytest.raises(AssertionError):
        assert_detected(small, lambda data: data[:-1])


def test_a_shard_that_another_process_set_aside_first_is_passed_over(
    small: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listed, then gone: no error and no second warning; its rows are missing."""
    target = store_at(Path(shutil.copytree(small.root, tmp_path, dirs_exist_ok=True)))
    listed = target.shards()
    listed[0].rename(tmp_path / f"_{listed[0].name}.damaged")
    monkeypatch.setattr(Store, "shards", lambda _: listed)
    assert len(target.read()) == len(small.keys([listed[1]], store_worker.CODE))


def test_twin_a_vanished_shard_that_counts_as_an_error_is_caught(
    small: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a shard that is gone were an error, one process would stop another."""
    real = shard_file.read

    def strict(path: Path, *arguments: Any) -> shard_file.ShardFile:
        try:
            return real(path, *arguments)
        except shard_file.Vanished as gone:
            raise KvError(f"{gone} is gone") from gone

    monkeypatch.setattr(shard_file, "read", strict)
    with pytest.raises(KvError, match="is gone"):
        test_a_shard_that_another_process_set_aside_first_is_passed_over(
            small, tmp_path, monkeypatch
        )


def test_a_damaged_shard_in_a_folder_that_cannot_be_changed_is_still_not_read(
    small: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Setting aside may fail; the warning says so, and the rows are missing."""
    target = store_at(Path(shutil.copytree(small.root, tmp_path, dirs_exist_ok=True)))
    target.shards()[0].write_bytes(b"")
    monkeypatch.setattr(os, "replace", refuse(errno.EROFS))
    with pytest.warns(StoreWarning, match="could not be set aside"):
        assert len(target.read()) == len(target.keys([target.shards()[1]], store_worker.CODE))


# --- full, forbidden, foreign ----------------------------------------------------------------


def refuse(code: int) -> Callable[..., Any]:
    """Return a function that fails as the file system does."""

    def refusing(*_args: Any, **_kwargs: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return refusing


@contextmanager
def patched(monkeypatch: pytest.MonkeyPatch, call: str, to: Callable[..., Any]) -> Iterator[None]:
    """Replace a call of ``os`` for a while."""
    with monkeypatch.context() as patch:
        patch.setattr(os, call, to)
        yield


def assert_refused_cleanly(folder: Path, broken: Callable[[], AbstractContextManager[None]]) -> str:
    """Pass if a failing write is one line, leaves nothing behind and harms nothing."""
    target = store_at(folder)
    fill(target, store_worker.wanted(4))
    before, rows = names(folder), target.read()
    with broken(), pytest.raises(KvError) as refused:
        target.write(rows_of(store_worker.wanted(60)), store_worker.META)
    assert "\n" not in str(refused.value)
    assert str(folder) in str(refused.value)
    assert names(folder) == before
    assert_rows(target, rows)
    return str(refused.value)


@pytest.mark.parametrize(
    ("call", "code", "advice"),
    [
        ("fsync", errno.ENOSPC, "free some space"),
        ("fsync", errno.EDQUOT, "free some space"),
        ("replace", errno.EACCES, "choose another one"),
    ],
)
def test_a_write_that_fails_is_one_line_and_harms_nothing(
    call: str, code: int, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Disk full, quota, no permission: what to do is said, earlier shards are intact."""
    message = assert_refused_cleanly(tmp_path, lambda: patched(monkeypatch, call, refuse(code)))
    assert advice in message


@contextmanager
def little_space() -> Iterator[None]:
    """Limit how long a file may become, for a real half write, and only as long as it lasts.

    The limit holds for the whole process: pytest's own output may be a file, too.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_shard_that_the_system_stops_half_way_leaves_nothing(tmp_path: Path) -> None:
    """A real short write ends like a full disk: in one line."""
    assert "cannot write 180 rows" in assert_refused_cleanly(tmp_path, little_space)


def test_twin_a_temporary_file_left_behind_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a failing write did not clean up, its half shard would stay."""
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    with pytest.raises(AssertionError):
        assert_refused_cleanly(
            tmp_path, lambda: patched(monkeypatch, "fsync", refuse(errno.ENOSPC))
        )


def test_a_store_under_a_file_is_one_line(tmp_path: Path) -> None:
    """A path that can be no folder is refused, in reading and in writing."""
    (tmp_path / "file").write_text("")
    target = store_at(tmp_path / "file" / "store")
    with pytest.raises(KvError, match="cannot list the shards"):
        target.read()
    with pytest.raises(KvError, match="cannot write 12 rows"):
        target.write(rows_of(store_worker.wanted(4)), {})


def test_a_store_that_does_not_exist_yet_is_empty(tmp_path: Path) -> None:
    """Before the first write everything is missing and nothing is made."""
    target = store_at(tmp_path / "new")
    assert list(target.read().columns) == [*KEY, CODE, *VALUES]
    assert len(missing(target, store_worker.wanted(4))) == 12
    assert not target.root.exists()


def test_a_rename_that_failed_only_in_name_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over NFS a repeated rename reports that the file is gone, and it is where it should be."""
    real = os.replace

    def twice(source: Path, target: Path) -> None:
        real(source, target)
        real(source, target)

    monkeypatch.setattr(os, "replace", twice)
    target = store_at(tmp_path)
    target.write(rows_of(store_worker.wanted(4)), {})
    assert len(target.read()) == 12


def test_twin_a_temporary_file_that_is_really_gone_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename that did not happen is not taken for one that did."""
    monkeypatch.setattr(os, "replace", refuse(errno.ENOENT))
    with pytest.raises(KvError, match="cannot write 12 rows"):
        store_at(tmp_path).write(rows_of(store_worker.wanted(4)), {})


def assert_other_version_refused(folder: Path) -> None:
    """Pass if a shard of the next version is refused in one line, and nothing is touched."""
    target = store_at(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_file, "VERSION", VERSION + 1)
        target.write(rows_of(store_worker.wanted(4)), {})
    before = names(folder)
    with pytest.raises(KvError, match=f"has store version {VERSION + 1}") as refused:
        target.read()
    assert f"reads versions 1 to {VERSION}" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert names(folder) == before


def test_a_store_of_another_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    """What another version wrote is neither read nor set aside."""
    assert_other_version_refused(tmp_path)


def test_twin_not_checking_the_version_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the check the rows would be read as if they were ours."""
    monkeypatch.setattr(shard_file, "check_version", lambda *_: None)
    with pytest.raises(MISSED):
        assert_other_version_refused(tmp_path)


def assert_only_old_leftovers_swept(folder: Path) -> None:
    """Pass if filling removes temporary files of days ago and no younger ones."""
    old, young = folder / ".tmp-part-1-old.parquet", folder / ".tmp-part-2-young.parquet"
    for path in (old, young):
        path.write_bytes(b"half")
    two_days_ago = time.time() - 2 * 86_400
    os.utime(old, (two_days_ago, two_days_ago))
    fill(store_at(folder), store_worker.wanted(4))
    assert not old.exists()
    assert young.exists()


def test_old_leftovers_are_swept_and_young_ones_may_be_another_s_work(tmp_path: Path) -> None:
    """A temporary file of today may be being written, on this machine or another."""
    assert_only_old_leftovers_swept(tmp_path)


@pytest.mark.parametrize("age", [math.inf, -math.inf])
def test_twin_sweeping_nothing_or_everything_is_caught(
    age: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The age that counts as old decides."""
    monkeypatch.setattr(store_shards, "STALE_SECONDS", age)
    with pytest.raises(AssertionError):
        assert_only_old_leftovers_swept(tmp_path)


def assert_readable_by_pandas(small: Store, folder: Path) -> None:
    """Pass if pandas alone reads a store with leftovers and a damaged shard in it."""
    target = store_at(Path(shutil.copytree(small.root, folder, dirs_exist_ok=True)))
    (folder / ".tmp-part-1-half.parquet").write_bytes(b"PAR1")
    victim = target.shards()[0]
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.warns(StoreWarning, match=victim.name):
        target.read()
    fill(target, store_worker.wanted(8, ("bare",)))
    plain = pd.read_parquet(folder).sort_values(list(KEY), ignore_index=True)
    pd.testing.assert_frame_equal(plain, small.read())


def test_pandas_reads_a_store_without_this_project(small: Store, tmp_path: Path) -> None:
    """Whatever else lies in the folder, readers of Parquet folders pass it over."""
    assert_readable_by_pandas(small, tmp_path)


def test_twin_a_damaged_shard_under_a_plain_name_is_caught(
    small: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the underscore, pandas would stumble over what was set aside."""
    real = os.replace

    def plainly(source: Path, target: Path) -> None:
        real(source, target.with_name(target.name.removeprefix("_")))

    monkeypatch.setattr(os, "replace", plainly)
    with pytest.raises(ValueError, match="Could not open Parquet"):
        assert_readable_by_pandas(small, tmp_path)


def test_files_that_are_no_shards_are_left_alone(tmp_path: Path) -> None:
    """A folder that holds other Parquet files by mistake loses none of them."""
    (tmp_path / "mine.parquet").write_bytes(b"not a shard")
    assert store_at(tmp_path).read().empty
    assert names(tmp_path) == ["mine.parquet"]


def test_where_rows_were_measured_is_recorded(small: Store) -> None:
    """A shard's metadata say which device and backend made its rows."""
    record = pq.read_schema(small.shards()[0]).metadata[b"kvcore"].decode()
    assert ast.literal_eval(record)["meta"] == store_worker.META


# --- keys, duplicates, filters ---------------------------------------------------------------


def changed(rows: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """Return rows with some columns set."""
    return rows.assign(**values)


@pytest.mark.parametrize("name", KEY)
def test_a_row_is_missing_if_any_part_of_its_key_differs(name: str, small: Store) -> None:
    """Another model, seed, template, method, ...: each asks for a measurement of its own."""
    wanted = store_worker.wanted(8, ("bare",))
    assert missing(small, wanted).empty
    other = changed(wanted, **{name: 1 if name == "seed" else "another"})
    expected = other.drop_duplicates(list(KEY))
    pd.testing.assert_frame_equal(missing(small, other), expected)


def test_twin_a_part_left_out_of_the_key_is_caught(
    small: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the method did not count, stale rows would pass for new ones."""
    monkeypatch.setattr(schema, "KEY", tuple(name for name in KEY if name != "method"))
    with pytest.raises(AssertionError):
        test_a_row_is_missing_if_any_part_of_its_key_differs("method", small)


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_missing_is_what_was_wanted_less_what_is_there(data: st.DataObject) -> None:
    """Any subset stored, in any order asked, the rest is missing, in the order asked."""
    wanted = store_worker.wanted(6)
    places = st.lists(st.integers(0, len(wanted) - 1), unique=True)
    stored = wanted.iloc[data.draw(places, label="stored")]
    asked = wanted.iloc[data.draw(places, label="asked")]
    with tempfile.TemporaryDirectory() as folder:
        target = store_at(Path(folder))
        target.write(rows_of(stored) if len(stored) else target.read(), {})
        still_missing = missing(target, asked)
    pd.testing.assert_frame_equal(still_missing, asked[~asked.index.isin(stored.index)])


def written_twice(folder: Path, dtype: str, shift: float) -> Store:
    """Return a store in which every row was measured twice, the second time shifted."""
    target, rows = store_at(folder), changed(rows_of(store_worker.wanted(4)), dtype=dtype)
    target.write(rows, {})
    target.write(changed(rows, nll=rows["nll"] + shift), {})
    return target


def assert_disagreement_named(folder: Path, dtype: str, shift: float) -> None:
    """Pass if two measurements too far apart are refused, with key, values and shards."""
    target = written_twice(folder, dtype, shift)
    with pytest.raises(KvError, match="two measurements of one key disagree") as refused:
        target.read()
    message = str(refused.value)
    assert "\n" not in message
    assert "sample_id=s-0" in message
    assert all(path.name in message for path in target.shards())


@pytest.mark.parametrize(
    ("dtype", "same", "different"),
    [("float32", 5e-6, 1e-3), ("float16", 0.01, 0.3), ("nf4-bfloat16", 0.1, 2.0)],
)
def test_duplicates_agree_to_the_dtype_s_tolerance_or_are_refused(
    dtype: str, same: float, different: float, tmp_path: Path
) -> None:
    """Rounding is tolerated, another result is not."""
    agreeing = written_twice(tmp_path / "same", dtype, same)
    expected = changed(rows_of(store_worker.wanted(4)), dtype=dtype)
    assert rows_hash(agreeing.read()) == rows_hash(expected), "the earlier written are kept"
    assert_disagreement_named(tmp_path / "different", dtype, different)


def test_duplicates_with_another_status_are_refused(tmp_path: Path) -> None:
    """A row cannot be both scored and dropped."""
    target, rows = store_at(tmp_path), rows_of(store_worker.wanted(4))
    target.write(rows, {})
    target.write(changed(rows, status="no memory", nll=None), {})
    with pytest.raises(KvError, match="disagree: status is ok in"):
        target.read()


def test_twin_a_tolerance_without_bound_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If anything agreed with anything, contradictory rows would be read."""
    monkeypatch.setattr(agreement, "tolerance", lambda _: math.inf)
    with pytest.raises(MISSED):
        assert_disagreement_named(tmp_path, "float32", 1e-3)


def test_filters_keep_what_they_name(small: Store, undisturbed: pd.DataFrame) -> None:
    """A value keeps the rows that have it, a list those that have one of its values."""
    ids = ["s-003", "s-006"]
    read = small.read(sample_id=ids, condition="bare", seed=0)
    chosen = undisturbed["sample_id"].isin(ids) & (undisturbed["condition"] == "bare")
    pd.testing.assert_frame_equal(read, undisturbed[chosen].reset_index(drop=True))
    assert small.read(seed=1).empty
    with pytest.raises(KvError, match="did you mean 'sample_id'"):
        small.read(sampleid="s-003")


# --- rows in, rows out -----------------------------------------------------------------------

HOSTILE = (
    "\ud800 alone", "nul \x00 in it", "\u202eright to left", "<script>alert('x')</script>", "",
    "line\nbreak", "nan", "None", "\U0001f600", "x" * 5000, "'; --", "\\ud83d written out",
)  # fmt: skip


def assert_ids_survive(ids: list[str]) -> None:
    """Pass if samples of any name are measured once and found again."""
    wanted = store_worker.keys_of(ids, ("bare", "a \udfff condition"))
    with tempfile.TemporaryDirectory() as folder:
        target = store_at(Path(folder))
        fill(target, wanted)
        assert missing(target, wanted).empty
        rows = target.read()
        assert len(target.read(sample_id=ids[0])) == 2
    assert sorted(set(rows["sample_id"])) == sorted(schema.clean(name) for name in ids)
    assert rows_hash(rows) == rows_hash(rows_of(wanted))


def test_hostile_ids_survive() -> None:
    """Control characters, markup, lone surrogates, emptiness: each is an id like any other."""
    assert_ids_survive(list(HOSTILE))


texts = st.text(st.characters(exclude_categories=()), max_size=8)


@given(ids=st.lists(texts, min_size=1, max_size=4, unique_by=schema.clean))
@settings(max_examples=25, deadline=None)
def test_ids_of_any_text_survive(ids: list[str]) -> None:
    """No string that Python can hold loses its rows."""
    assert_ids_survive(ids)


def test_twin_without_cleaning_a_lone_surrogate_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No file can hold a lone surrogate as it is."""
    monkeypatch.setattr(schema, "clean", lambda text: text)
    with pytest.raises(UnicodeEncodeError):
        assert_ids_survive(["\ud800 alone"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": "x"}, "no column 'query'"),
        ({"sample_id": None}, "'sample_id' has an empty value"),
        ({"n_answer_tokens": "many"}, "'n_answer_tokens' must hold int32"),
        ({"cache_len": 2**40}, "'cache_len' must hold int32"),
        ({"status": "ok", "nll": math.nan}, "has status 'ok' and nll None"),
        ({"status": "ok", "nll": math.inf}, "has status 'ok' and nll inf"),
    ],
)
def test_rows_that_do_not_fit_are_refused_in_one_line(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """A row is stored as the schema says, or not at all."""
    with pytest.raises(KvError, match=message) as refused:
        store_at(tmp_path).write(changed(rows_of(store_worker.wanted(4)), **change), {})
    assert "\n" not in str(refused.value)
    assert names(tmp_path) == []


def test_a_column_left_out_is_named(tmp_path: Path) -> None:
    """The message says which column is missing."""
    with pytest.raises(KvError, match="column 'nll_tail' is missing"):
        store_at(tmp_path).write(rows_of(store_worker.wanted(4)).drop(columns="nll_tail"), {})


def test_a_count_never_taken_is_minus_one(tmp_path: Path) -> None:
    """Integer columns stay integers where a dropped sample has no count."""
    target = store_at(tmp_path)
    target.write(changed(rows_of(store_worker.wanted(4)), doc_len=None), {})
    assert target.read()["doc_len"].tolist() == [-1] * 12


def assert_order_does_not_count(folder: Path, undisturbed: pd.DataFrame) -> None:
    """Pass if each score ends up with its own sample, in whatever order samples come."""

    def shuffled(asked: pd.DataFrame) -> pd.DataFrame:
        return store_worker.score(asked).sample(frac=1, random_state=len(asked))

    fill(store_at(folder), store_worker.wanted().iloc[:9])
    fill(store_at(folder), store_worker.wanted().sample(frac=1, random_state=3), shuffled)
    assert_rows(store_at(folder), undisturbed)


def test_scores_in_another_order_reach_their_own_samples(
    tmp_path: Path, undisturbed: pd.DataFrame
) -> None:
    """Resumed, reordered, returned in any order: rows are matched by key."""
    assert_order_does_not_count(tmp_path, undisturbed)


def test_twin_matching_scores_by_place_is_caught(
    tmp_path: Path, undisturbed: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were scores matched by their place, they would land on other samples."""

    def by_place(
        rows: pd.DataFrame, asked: pd.DataFrame, _schema: schema.RowSchema, code: str
    ) -> pd.DataFrame:
        parts = (asked[list(KEY)].assign(code=code), rows[list(VALUES)])
        return pd.concat([part.reset_index(drop=True) for part in parts], axis=1)

    monkeypatch.setattr(store_fill, "with_keys", by_place)
    with pytest.raises((AssertionError, KvError)):
        assert_order_does_not_count(tmp_path, undisturbed)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda rows: rows.iloc[1:],
        lambda rows: pd.concat([rows, rows.iloc[:1]]),
        lambda rows: rows.assign(condition="unasked"),
    ],
    ids=["one short", "one twice", "another condition"],
)
def test_scores_for_other_rows_than_asked_are_refused(
    wrong: Callable[[pd.DataFrame], pd.DataFrame], tmp_path: Path
) -> None:
    """A scorer that loses, repeats or invents rows is told so, and nothing is stored."""
    with pytest.raises(KvError, match="were asked for"):
        fill(
            store_at(tmp_path),
            store_worker.wanted(4),
            lambda asked: wrong(store_worker.score(asked)),
        )
    assert store_at(tmp_path).read().empty


def test_a_failing_scorer_loses_only_its_shard(tmp_path: Path, undisturbed: pd.DataFrame) -> None:
    """Shards before the failure are kept, and its claim is given back."""
    target, calls = store_at(tmp_path), []

    def failing(asked: pd.DataFrame) -> pd.DataFrame:
        calls.append(len(asked))
        if len(calls) == 3:
            raise ZeroDivisionError
        return store_worker.score(asked)

    with pytest.raises(ZeroDivisionError):
        fill(target, store_worker.wanted(), failing)
    assert len(target.shards()) == 2
    fill(target, store_worker.wanted())
    assert_rows(target, undisturbed)


# --- the plan --------------------------------------------------------------------------------


def test_shards_hold_whole_samples_of_one_configuration_and_similar_length() -> None:
    """A sample's conditions stay together; lengths of shards of a configuration do not overlap."""
    wanted = pd.concat([store_worker.wanted(), changed(store_worker.wanted(), seed=1)])
    shards = store_fill.plan(wanted, store_worker.SHARD_SAMPLES)
    for seed in (0, 1):
        frames = [shard.rows for shard in shards if set(shard.rows["seed"]) == {seed}]
        assert len(frames) == 96 / store_worker.SHARD_SAMPLES
        assert all(len(frame) == store_worker.SHARD_SAMPLES * 3 for frame in frames)
        spans = sorted((frame["length"].min(), frame["length"].max()) for frame in frames)
        assert all(low[1] <= high[0] for low, high in itertools.pairwise(spans))
    means = [shard.rows["length"].mean() for shard in shards]
    assert means != sorted(means), "shards come shuffled"


def test_a_plan_does_not_hang_on_the_order_of_the_rows() -> None:
    """Processes that list the same rows in another order name the same shards."""
    shuffled = store_worker.wanted().sample(frac=1, random_state=0)
    one, two = (store_fill.plan(rows, 7) for rows in (store_worker.wanted(), shuffled))
    assert [shard.name for shard in one] == [shard.name for shard in two]
    assert [shard.keys for shard in one] == [shard.keys for shard in two]


def test_one_id_for_two_texts_is_refused() -> None:
    """Scores are matched by id, so an id must stand for one text."""
    wanted = store_worker.wanted(4)
    twice = pd.concat([wanted, changed(wanted, sample_hash="another text")])
    with pytest.raises(KvError, match="'s-000' stands for two texts"):
        store_fill.plan(twice, 50)
    with pytest.raises(KvError, match="shard_samples must be at least 1"):
        store_fill.plan(wanted, 0)


def test_progress_is_told_to_who_listens(tmp_path: Path) -> None:
    """Rows are told by shard; without a label, or with nothing to do, nothing is."""
    wanted = store_worker.wanted(4)
    told: list[told_progress.Progress] = []
    with told_progress.listening(told.append):
        fill(store_at(tmp_path / "a"), wanted, progress=None)
        assert told == []
        fill(store_at(tmp_path / "b"), wanted, progress="tiny-llama")
        assert {(each.label, each.total, each.unit) for each in told} == {
            ("tiny-llama", len(wanted), "rows")
        }
        assert (told[0].done, told[-1].done, told[-1].ended) == (0, len(wanted), True)
        told.clear()
        fill(store_at(tmp_path / "b"), wanted, progress="measuring")
        assert told == []


# --- hashes ----------------------------------------------------------------------------------


def assert_hash_is_of_the_set(rows: pd.DataFrame) -> None:
    """Pass if the hash of rows hangs on their values alone."""
    columns = [*rows.columns[::-1]]
    assert rows_hash(rows.sample(frac=1, random_state=1)[columns]) == rows_hash(rows)


def test_the_hash_of_rows_does_not_hang_on_their_order(undisturbed: pd.DataFrame) -> None:
    """Rows and columns in any order, and columns that are none of ours, hash alike."""
    assert_hash_is_of_the_set(undisturbed)
    assert rows_hash(changed(undisturbed, note="x")) == rows_hash(undisturbed)


def test_twin_hashing_rows_as_they_come_is_caught(
    undisturbed: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without sorting, the order would show."""
    monkeypatch.setattr(keys, "sorted", list, raising=False)
    with pytest.raises(AssertionError):
        assert_hash_is_of_the_set(undisturbed)


@pytest.mark.parametrize("name", [*KEY, *VALUES])
def test_the_hash_of_rows_hangs_on_every_value(name: str, undisturbed: pd.DataFrame) -> None:
    """One value changed in the last bit, in any column, is another hash."""
    cells = undisturbed[name].tolist()
    change: dict[type, Callable[[Any], Any]] = {
        str: lambda x: x + " ",
        int: lambda x: x + 1,
        float: lambda x: math.nextafter(x, 0),
        np.ndarray: lambda x: [*x[:-1], math.nextafter(x[-1], 0)],
    }
    cells[5] = change[type(cells[5])](cells[5])
    assert rows_hash(changed(undisturbed, **{name: cells})) != rows_hash(undisturbed)


def test_the_hash_of_rows_is_of_their_json() -> None:
    """Spelled out, since reports name rows by it: no version of any package may change it."""
    row = dict.fromkeys((*KEY, CODE), "x") | {
        "seed": 0,
        "status": "\u00e9",
        "cluster": "c",
        "nll": 0.1,
    }
    row |= {"nll_tail": None, "token_nlls": [0.1, 2.0]} | dict.fromkeys(VALUES[5:], 1)
    keys = '"x", ' * 8 + '0, "x", "x"'
    spelled = f'[{keys}, "\\u00e9", "c", 0.1, null, [0.1, 2.0], 1, 1, 1, 1, 1]'
    expected = hashlib.sha256(hashlib.sha256(spelled.encode()).digest()).hexdigest()
    assert rows_hash(pd.DataFrame([row])) == expected


SOURCE = '''
"""What it is."""
import math


class Area:
    """A class."""

    def of(self, r: float, scale: float = 1.0) -> float:
        """Return it."""
        # a comment
        return scale * math.pi * r**2
'''


def code_of(source: str, folder: Path, name: str = "area.py") -> str:
    """Return the code hash of one file."""
    (folder / name).write_text(source)
    return code_hash([folder / name])


def assert_only_code_counts(folder: Path) -> None:
    """Pass if rewording and relaying out leave a hash as it is."""
    for old, new in [
        ('"""Return it."""\n', ""),
        ("What it is.", "Anything else."),
        ("A class.", "One\n\n    more."),
        ("# a comment", "# another"),
        ("scale * math.pi * r**2", "(scale*math.pi\n            * r ** 2)"),
    ]:
        assert old in SOURCE
        assert code_of(SOURCE.replace(old, new), folder) == code_of(SOURCE, folder)


def test_words_and_layout_do_not_change_the_hash_of_code(tmp_path: Path) -> None:
    """Comments, docstrings and line breaks make no number."""
    assert_only_code_counts(tmp_path)


def test_twin_counting_docstrings_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If docstrings counted, rewording one would measure everything anew."""
    monkeypatch.setattr(ast, "get_docstring", lambda *_, **__: None)
    with pytest.raises(AssertionError):
        assert_only_code_counts(tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [("r**2", "r**3"), ("1.0", "1"), ("scale *", "scale /"), ("self, r", "self, q"), ("Area", "A")],
)
def test_any_change_of_code_changes_its_hash(old: str, new: str, tmp_path: Path) -> None:
    """A number, its type, an operator, a name: each counts."""
    assert code_of(SOURCE.replace(old, new), tmp_path) != code_of(SOURCE, tmp_path)


def test_an_empty_piece_of_a_format_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.12.1 parses a nested format with an empty piece at its end, others do not."""
    source = 'f"{x:>{y}}"'
    expected = code_of(source, tmp_path)
    tree = ast.parse(source)
    spec = next(node for node in ast.walk(tree) if isinstance(node, ast.FormattedValue)).format_spec
    assert isinstance(spec, ast.JoinedStr)
    spec.values = [v for v in spec.values if ast.unparse(v) != "''"] + [ast.Constant("")]
    monkeypatch.setattr(ast, "parse", lambda _: tree)
    assert code_of(source, tmp_path) == expected
    spec.values.append(ast.Constant("!"))
    assert code_of(source, tmp_path) != expected


def test_the_hash_of_code_is_of_a_set_of_named_files(tmp_path: Path) -> None:
    """Neither order nor folder counts; a name does; what cannot be read is one line."""
    here, there = tmp_path / "a", tmp_path / "b"
    for folder in (here, there):
        folder.mkdir()
        code_of(SOURCE, folder)
        code_of("x = 1", folder, "other.py")
    paths = [here / "area.py", here / "other.py"]
    assert code_hash(paths) == code_hash([there / "other.py", there / "area.py"])
    assert code_of(SOURCE, here, "renamed.py") != code_of(SOURCE, here)
    with pytest.raises(KvError, match="no readable Python source"):
        code_of("def (", here, "broken.py")
    with pytest.raises(KvError, match="no readable Python source"):
        code_hash([here / "absent.py"])


# --- other kinds of measurement -----------------------------------------------------------------

STEPS = schema.RowSchema(
    {"ce": schema.NUMBER, "steps": schema.NUMBERS, "n_tokens": schema.COUNT}, "ce"
)


def test_another_kind_of_measurement_is_stored_alike(tmp_path: Path) -> None:
    """Its own columns come back; a row without a finite score is refused by its name."""
    target = Store(tmp_path, STEPS)
    row = dict.fromkeys((*KEY, CODE), "x") | {"seed": 0, "status": "ok", "cluster": "c"}
    rows = pd.DataFrame([row | {"ce": 2.5, "steps": [1.0, 2.0], "n_tokens": 3}])
    target.write(rows, {})
    found = target.read()
    assert list(found.columns) == [*KEY, CODE, *STEPS.values]
    assert found["steps"].iloc[0].tolist() == [1.0, 2.0]
    with pytest.raises(KvError, match="has status 'ok' and ce None"):
        target.write(rows.assign(ce=math.nan), {})


def test_a_folder_of_another_kind_is_refused_and_left_alone(tmp_path: Path) -> None:
    """Read as scores, a sound shard of another kind is not taken for a damaged one."""
    row = dict.fromkeys((*KEY, CODE), "x") | {"seed": 0, "status": "ok", "cluster": "c"}
    path = Store(tmp_path, STEPS).write(
        pd.DataFrame([row | {"ce": 2.5, "steps": [1.0], "n_tokens": 3}]), {}
    )
    with pytest.raises(KvError, match="rows of another kind of measurement"):
        store_at(tmp_path).read()
    assert path.exists()
