"""Workers of pytest-xdist: a GPU each, and as few models each as there can be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from claims.harness import workers
from invariants.support.claim_runs import NO_PAGE, run
from invariants.support.settings import settings

WATCH = """
import os, sys
from pathlib import Path

WORKER = os.environ.get("PYTEST_XDIST_WORKER")


def pytest_sessionstart():
    if WORKER:
        said = f"{os.environ.get('CUDA_VISIBLE_DEVICES')} {'torch' in sys.modules}"
        Path(r"FOLDER", WORKER).write_text(said)


def pytest_collection_finish(session):
    if WORKER:
        groups = {item.nodeid.rsplit("]", 1)[-1] for item in session.items}
        Path(r"FOLDER", f"{WORKER}-groups").write_text(" ".join(sorted(groups)))
"""


@pytest.mark.parametrize(
    ("variable", "gpus"),
    [
        ("0,1,2", ("0", "1", "2")),
        (" 3 , 5", ("3", "5")),
        ("GPU-8932f937, MIG-d1c2", ("GPU-8932f937", "MIG-d1c2")),
        ("1,-1,0", ("1",)),
        ("", ()),
        ("-1", ()),
    ],
)
def test_visible_gpus_are_read_as_cuda_reads_them(variable: str, gpus: Sequence[str]) -> None:
    """Would catch a worker that is given a GPU which the caller has hidden."""
    assert workers.visible_gpus(variable) == gpus


def check_turns(worker_count: int, gpus: Sequence[str]) -> None:
    taken = [workers.own_gpu(worker, gpus) for worker in range(worker_count)]
    each = {gpu: taken.count(gpu) for gpu in gpus}
    assert max(each.values()) - min(each.values()) <= 1


@pytest.mark.parametrize("worker_count", [1, 2, 3, 5, 8])
def test_workers_take_turns(worker_count: int) -> None:
    """Would catch two workers on one GPU while another is idle."""
    check_turns(worker_count, ("4", "7", "GPU-9"))


def test_twin_all_on_the_first_gpu_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a check of turns that counts nothing."""
    monkeypatch.setattr(workers, "own_gpu", lambda _, gpus: gpus[0])
    with pytest.raises(AssertionError):
        check_turns(3, ("4", "7"))


@pytest.mark.parametrize(
    ("changed", "before", "after"),
    [
        ({}, "4,7", "7"),
        ({"device": "cuda"}, "4", "4"),
        ({"device": "cpu"}, "4,7", "4,7"),
        ({"device": "cuda:1"}, "4,7", "4,7"),
        ({"no_measure": True}, "4,7", "4,7"),
        ({}, "", ""),
        ({}, None, "1"),
    ],
)
def test_a_worker_takes_its_gpu(
    changed: dict[str, object],
    before: str | None,
    after: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Would catch a device that the user named being hidden, or GPUs not counted where unset."""
    monkeypatch.setattr(workers, "every_gpu", lambda: ("0", "1"))
    environment = {} if before is None else {workers.VISIBLE: before}
    workers.take_own_gpu(1, settings(**({"device": "auto"} | changed)), environment)
    assert environment[workers.VISIBLE] == after


def test_gpus_are_counted_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a count that imports torch, or takes a line about MIG for a GPU."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\necho 'GPU 0: A (UUID: GPU-a)'\necho '  MIG 1g: x'\necho 'GPU 1: B'\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert workers.every_gpu() == ("0", "1")


def check_groups(models: Sequence[str], count: int) -> None:
    named = workers.groups(models, count)
    groups_of = {
        model: {g for m, g in zip(models, named, strict=True) if m == model} for model in models
    }
    if len(groups_of) >= count:
        assert all(len(groups) == 1 for groups in groups_of.values())
    else:
        assert sum(map(len, groups_of.values())) >= count
    assert sum(map(len, groups_of.values())) == len(set(named))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("models", ["a" * 9, "aaaabbbb", "aaaabbbbcccc"])
def test_a_model_stays_with_its_worker_or_is_spread(models: str, count: int) -> None:
    """Would catch a model in two workers without need, or a worker without anything to do."""
    check_groups(list(models), count)


@pytest.mark.parametrize("count", [1, 2])
def test_twin_groups(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a check blind to one group for all, and to one for every test."""
    broken = [
        lambda models, _: ["all"] * len(models),
        lambda models, _: list(map(str, range(len(models)))),
    ]
    monkeypatch.setattr(workers, "groups", broken[count % 2])
    with pytest.raises(AssertionError):
        check_groups(list("aaaabbbb"), count)


def test_two_workers_share_one_model(tmp_path: Path) -> None:
    """Would catch workers on one GPU, one that came too late for torch, or one without tests."""
    (tmp_path / "watching.py").write_text(WATCH.replace("FOLDER", str(tmp_path)))
    data = tmp_path / "data.jsonl"
    lines = [
        {"query": f"what is {i}", "passage": f"It is number {i} of them.", "answer": f"it is {i}"}
        for i in range(8)
    ]
    data.write_text("\n".join(map(json.dumps, lines)))
    done = run(
        "claims/test_priming.py",
        *("-n", "2", "--dist", "loadgroup", "-p", "watching", "-k", "a_random_prefix_helps"),
        *("--kv-models", "tiny-llama", "--kv-datasets", str(data)),
        *("--kv-store", str(tmp_path / "store"), f"--junitxml={tmp_path / 'junit.xml'}"),
        *NO_PAGE,
        PYTHONPATH=str(tmp_path),
        CUDA_VISIBLE_DEVICES="GPU-a,GPU-b",
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert " error" not in done.stdout.splitlines()[-1]
    said = {(tmp_path / f"gw{worker}").read_text() for worker in range(2)}
    assert said == {"GPU-a False", "GPU-b False"}
    assert (tmp_path / "gw0-groups").read_text() == "@tiny-llama#0 @tiny-llama#1"
