"""A store in a bucket holds what a folder would: shared, killed, damaged, or half refused.

The server is a real one on this machine; every process has a mirror of its own, as on several
machines. Rows are made up, as those of `test_store`.
"""

from __future__ import annotations

import random
import re
import signal
import subprocess
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from invariants.support import store_worker
from invariants.support.comparing import must_see
from invariants.support.patching import Fault, patched
from invariants.support.s3_server import S3Server, s3_server
from invariants.support.store_processes import go, start
from kvcore import io
from kvcore.errors import KvError, StoreWarning
from kvcore.store import claiming, folder, remote, texts
from kvcore.store import fill as store_fill
from kvcore.store.keys import rows_hash
from kvcore.store.schema import KEY
from kvcore.store.shards import Store

pytestmark = pytest.mark.filterwarnings("error::kvcore.errors.StoreWarning")
ROOT = Path(__file__).parents[2]
SCHEMA = store_worker.SCHEMA
SAMPLES = 24


@pytest.fixture
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running
        running.refused_share = 0.0
        claiming.end_all()  # before the server is gone


def store_in(server: S3Server, mirrors: Path, name: str = "a/b") -> Store:
    """Return the store in a folder of the bucket, as a machine with this mirror sees it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KVCORE_CACHE", str(mirrors))
        return Store(remote.open_store(server.url(name), ROOT), SCHEMA)


def fill(target: Store, wanted: pd.DataFrame) -> None:
    """Fill a store the way the worker does."""
    store_fill.measure_missing(
        target,
        wanted,
        store_worker.score,
        code=store_worker.CODE,
        meta=store_worker.META,
        shard_samples=store_worker.SHARD_SAMPLES,
        progress=None,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Return the rows of a store in a folder."""
    target = Store(tmp_path_factory.mktemp("folder"), SCHEMA)
    fill(target, store_worker.wanted(SAMPLES))
    return target.read()


def check_bucket(server: S3Server, mirrors: Path, expected: pd.DataFrame) -> None:
    """What one machine stores another one reads, and measures nothing of it again."""
    name = f"bucket-{time.monotonic_ns()}"
    first = store_in(server, mirrors / f"{name}-1", name)
    fill(first, store_worker.wanted(SAMPLES))
    second = store_in(server, mirrors / f"{name}-2", name)
    pd.testing.assert_frame_equal(second.read(), expected)
    shards = len(second.shards())
    fill(second, store_worker.wanted(SAMPLES))
    assert len(first.shards()) == shards


def test_what_one_machine_stores_another_one_reads(
    server: S3Server, tmp_path: Path, undisturbed: pd.DataFrame
) -> None:
    """Catches rows that stay in one machine's mirror, or are measured once a machine."""
    check_bucket(server, tmp_path, undisturbed)


def _mirror_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(folder, "put", io.write_atomically)
    patch.setattr(store_fill, "see_written", lambda *_: None)  # which would say so after a while


def test_twin_rows_in_the_mirror_alone_are_seen(
    server: S3Server, tmp_path: Path, undisturbed: pd.DataFrame
) -> None:
    """Would catch two mirrors that are one."""
    must_see(_mirror_alone, check_bucket, server, tmp_path, undisturbed)


def test_one_request_in_five_refused_changes_nothing(
    server: S3Server, tmp_path: Path, undisturbed: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a request that is given up at its first refusal, and one that is not repeatable."""
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.005)
    server.refused_share = 0.2
    check_bucket(server, tmp_path, undisturbed)
    assert server.refused > 20


def test_twin_a_request_given_up_at_once_is_seen(
    server: S3Server, tmp_path: Path, undisturbed: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a server that refuses less than the library repeats by itself."""
    monkeypatch.setattr(remote, "TRIES", 1)
    server.refused_share = 1.0
    with pytest.raises(KvError, match="cannot"):
        check_bucket(server, tmp_path, undisturbed)


# --- damaged -------------------------------------------------------------------------------------


def damaged_in_bucket(server: S3Server, mirrors: Path) -> Store:
    """Return a store of which the first shard's bytes in the bucket are not those written."""
    target = store_in(server, mirrors)
    fill(target, store_worker.wanted(SAMPLES))
    there = remote.remote_of(target.root)
    assert there is not None
    there.put(target.shards()[0].name, b"damaged")
    return store_in(server, mirrors.with_name("other"))


def test_a_damaged_shard_gets_a_tombstone_and_is_measured_again(
    server: S3Server, tmp_path: Path, undisturbed: pd.DataFrame
) -> None:
    """Catches wrong rows from a bucket, and a shard that every machine finds damaged anew."""
    target = damaged_in_bucket(server, tmp_path / "one")
    with pytest.warns(StoreWarning, match=r"s3://rows/a/b: part-.* is damaged"):
        assert len(target.read()) < len(undisturbed)
    third = store_in(server, tmp_path / "third")
    assert len(third.read()) < len(undisturbed)  # without a warning: its tombstone is read
    fill(third, store_worker.wanted(SAMPLES))
    pd.testing.assert_frame_equal(third.read(), undisturbed)


def test_twin_without_tombstones_damage_is_found_anew(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: pd.DataFrame
) -> None:
    """Would catch a tombstone that nobody reads."""
    monkeypatch.setattr(folder, "without_damaged", list)
    with pytest.raises(StoreWarning):
        test_a_damaged_shard_gets_a_tombstone_and_is_measured_again(server, tmp_path, undisturbed)


def check_mirror_heals(server: S3Server, mirrors: Path, expected: pd.DataFrame) -> None:
    name = f"healed-{time.monotonic_ns()}"
    target = store_in(server, mirrors / name, name)
    fill(target, store_worker.wanted(SAMPLES))
    target.shards()[0].write_bytes(b"damaged")
    pd.testing.assert_frame_equal(target.read(), expected)
    names = remote.remote_of(target.root)
    assert names is not None
    assert not [name for name in names.names() if name.endswith(".damaged")]


def test_damage_in_the_mirror_alone_costs_nothing(
    server: S3Server, tmp_path: Path, undisturbed: pd.DataFrame
) -> None:
    """Catches one machine's broken disk that takes rows from all others."""
    check_mirror_heals(server, tmp_path, undisturbed)


def test_texts_and_looks_lie_in_the_bucket_too(server: S3Server, tmp_path: Path) -> None:
    """Catches what lies beside the rows and is left in one machine's mirror."""
    one, two = (store_in(server, tmp_path / name).root for name in ("one", "two"))
    texts.save(one, {"abc": {"query": "q"}})
    assert texts.load(two, ["abc"]) == {"abc": {"query": "q"}}
    folder.put(one / "_looks-x.json", "first")
    folder.put(one / "_looks-x.json", "second")
    assert folder.read_newest(two / "_looks-x.json") == b"second"


# --- shared --------------------------------------------------------------------------------------


def check_shared(url: str, where: Path, count: int, how: str) -> None:
    """Several processes measure each row once, and each sees all of them."""
    logs = [where / f"log{i}" for i in range(count)]
    processes = [
        start(url, log, 0.05, how, KVCORE_CACHE=str(where / f"m{i}")) for i, log in enumerate(logs)
    ]
    for process in processes:
        go(process)
    ends = [process.communicate(timeout=240)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0] * count
    assert len(set(ends)) == 1
    measured = [line for log in logs if log.exists() for line in log.read_text().splitlines()]
    assert sorted(measured) == sorted(set(measured)), "a row was measured twice"
    assert len(measured) == len(store_worker.wanted())


def test_four_processes_on_one_bucket_share_the_work(server: S3Server, tmp_path: Path) -> None:
    """Catches claims that do not exclude where there are no locks."""
    check_shared(server.url("shared"), tmp_path, 4, "none")


def test_four_processes_without_locks_share_the_work(tmp_path: Path) -> None:
    """Catches a file system without locks that ends a run, or is measured once a process."""
    check_shared(str(tmp_path / "store"), tmp_path, 4, "no locks")


def test_twin_claims_that_do_not_look_again_are_seen(server: S3Server, tmp_path: Path) -> None:
    """Would catch processes that never meet."""
    with pytest.raises(AssertionError, match="measured twice"):
        check_shared(server.url("twin"), tmp_path, 4, "claim nothing")


def check_kills(url: str, where: Path, how: str, kills: int, rows_a_shard: int) -> int:
    """Kill one of four processes at random moments; each kill costs a shard at most.

    Returns how many rows were measured twice altogether.
    """
    chance = random.Random(3)
    logs: list[Path] = []
    alive: list[subprocess.Popen[str]] = []

    def begin() -> None:
        log = where / f"log{len(logs)}"
        logs.append(log)
        alive.append(start(url, log, 0.1, how, KVCORE_CACHE=str(where / f"m{len(logs)}")))
        go(alive[-1])

    for _ in range(4):
        begin()
    for _ in range(kills):
        time.sleep(chance.uniform(0, 0.25))
        victim = alive.pop(chance.randrange(len(alive)))
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        begin()
    ends = {process.communicate(timeout=240)[0].strip() for process in alive}
    assert len(ends) == 1
    measured = [line for log in logs if log.exists() for line in log.read_text().splitlines()]
    again = len(measured) - len(set(measured))
    assert set(measured) == {
        f"{sample} {condition}"
        for sample, condition in store_worker.wanted()[["sample_id", "condition"]].to_numpy()
    }
    assert again <= kills * rows_a_shard
    return again


@pytest.mark.parametrize(
    "place",
    ["folder", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("bucket", "no locks"))],
)
def test_thirty_kills_cost_a_shard_each_at_most(
    place: str, server: S3Server, tmp_path: Path
) -> None:
    """Catches a kill that loses stored rows, or leaves a shard claimed for ever."""
    url = server.url("killed") if place == "bucket" else str(tmp_path / "store")
    rows_a_shard = store_worker.SHARD_SAMPLES * len(store_worker.CONDITIONS)
    how = "no locks" if place == "no locks" else "none"
    check_kills(url, tmp_path, how, 30, rows_a_shard)
    target = store_in(server, tmp_path / "m", "killed")
    if place != "bucket":
        target = Store(tmp_path / "store", SCHEMA)
    expected = Store(tmp_path / "expected", SCHEMA)
    fill(expected, store_worker.wanted())
    rows = target.read()
    assert rows_hash(rows, SCHEMA) == rows_hash(expected.read(), SCHEMA)
    assert not rows.duplicated(list(KEY)).any()


# --- claims by files -----------------------------------------------------------------------------


def leases(place: Path, own: str) -> claiming.Leases:
    place.mkdir(exist_ok=True)
    return claiming.Leases(claiming.Folder(place), own)


def check_dead_are_passed_over(place: Path) -> None:
    """A claim whose process stands still is free after the lease, and not before."""
    there, here = leases(place, "elsewhere-1-a"), leases(place, "elsewhere-2-b")
    with there.taken("x") as first:
        assert first
        with here.taken("x") as second:
            assert not second
        there.end()
        with here.taken("x") as third:
            assert not third
        monkeypatched = pytest.MonkeyPatch()
        monkeypatched.setattr(claiming, "LEASE_SECONDS", -1.0)
        with here.taken("x") as fourth:
            assert fourth
            assert not there.is_mine("x")
        monkeypatched.undo()
    here.end()
    for file in place.iterdir():
        file.unlink()


def test_a_claim_of_a_dead_process_is_free_after_its_lease(tmp_path: Path) -> None:
    """Catches a shard that stays claimed for ever, or is taken from one that lives."""
    check_dead_are_passed_over(tmp_path / "claims")


@pytest.mark.parametrize("dead", [True, False])
def test_twin_the_wrong_taken_for_dead_are_seen(tmp_path: Path, dead: bool) -> None:
    """Would catch a check of one of the two."""
    fault = patched(claiming.Leases, "_is_dead", lambda *_: dead)
    must_see(fault, check_dead_are_passed_over, tmp_path / "claims")


def test_locks_that_do_nothing_are_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a file system without locks that crashes a run, or is taken for one with them."""
    assert claiming.why_no_locks(tmp_path) is None
    monkeypatch.setattr(claiming, "lock_at_once", lambda *_: None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with claiming.claim(tmp_path / "s", "x") as claimed:
            assert claimed
    (warning,) = caught
    assert "no locks that exclude (two hold one lock)" in str(warning.message)
    assert len(str(warning.message).splitlines()) == 1


# --- what is written and never shows -------------------------------------------------------------


def check_unshown_is_told(server: S3Server, mirrors: Path, hidden: str) -> None:
    """Files that are written without error and never listed end the filling in one line."""
    name = f"unshown-{time.monotonic_ns()}"
    target = store_in(server, mirrors / name, name)
    asked: list[int] = []

    def score(todo: pd.DataFrame) -> pd.DataFrame:
        asked.append(len(todo))
        assert sum(asked) <= len(store_worker.wanted(SAMPLES)), "measured time and again"
        return store_worker.score(todo)

    right = remote.Remote.names
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claiming, "SHOWN_SECONDS", 0.2)
        patch.setattr(
            remote.Remote, "names", lambda own: [n for n in right(own) if hidden not in n]
        )
        try:
            store_fill.measure_missing(
                target,
                store_worker.wanted(SAMPLES),
                score,
                code=store_worker.CODE,
                meta=store_worker.META,
                shard_samples=store_worker.SHARD_SAMPLES,
                progress=None,
            )
        except KvError as error:
            said = str(error)
        else:
            raise AssertionError("nothing was said")
    assert re.search(r"s3://rows/\S+: .* not show in its list", said)
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("hidden", ["@", "part-"])
def test_what_never_shows_in_a_bucket_is_told_in_one_line(
    server: S3Server, tmp_path: Path, hidden: str
) -> None:
    """Catches a run that waits without end for its claim, or takes lost rows for stored ones."""
    check_unshown_is_told(server, tmp_path, hidden)


@pytest.mark.parametrize(
    ("hidden", "fault"),
    [
        ("@", patched(claiming.Leases, "_names_with_own", lambda *_: [])),
        ("part-", patched(store_fill, "see_written", lambda *_: None)),
    ],
)
def test_twin_waiting_without_end_is_seen(
    server: S3Server, tmp_path: Path, hidden: str, fault: Fault
) -> None:
    """Would catch a check of a bucket in which everything shows."""
    must_see(fault, check_unshown_is_told, server, tmp_path, hidden)


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s4://rows/a", "no store has the scheme 's4'"),
        ("s3:/rows", "name a bucket"),
        ("http://rows/a", "no store has the scheme 'http'"),
        ("s3://key:secret@rows/a", "leave out the credentials"),
    ],
)
def test_what_is_no_store_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    """Catches a local folder of the name ``s3:``, and a secret in a message."""
    with pytest.raises(KvError, match=said) as error:
        remote.open_store(text, tmp_path)
    assert "secret" not in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_folders_are_stores(tmp_path: Path) -> None:
    """Catches a URL of a folder that is taken for a name."""
    assert remote.open_store(f"file://{tmp_path}/x", ROOT) == tmp_path / "x"
    assert remote.open_store("x", tmp_path) == tmp_path / "x"


def test_a_bucket_that_is_not_there_is_one_line(server: S3Server, tmp_path: Path) -> None:
    """Catches a traceback of hours later."""
    url = server.url("x").replace("s3://rows", "s3://absent")
    with pytest.raises(KvError, match="cannot be listed"):
        store_in_url(url, tmp_path)


def store_in_url(url: str, mirrors: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KVCORE_CACHE", str(mirrors))
        return remote.open_store(url, ROOT)
