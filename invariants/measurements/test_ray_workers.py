"""Parts of work come back once each, whichever actors are lost.

All but one test have a stand-in for ray; `test_ray` has a cluster.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariants.support.comparing import must_see
from invariants.support.patching import patched
from invariants.support.stand_in_ray import StandInRay
from kvcore import ray_workers
from kvcore.errors import KvError, MissingResource, StoreWarning
from kvcore.ray_workers import RayWorkers

PARTS = 9


@contextmanager
def on(ray: StandInRay) -> Iterator[RayWorkers]:
    """Return workers on a stand-in, which never sleep."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "ray", ray)
        patch.setattr(ray_workers, "find_spec", lambda _: True)
        patch.setattr(ray_workers, "POLL_SECONDS", 0.0)
        workers = RayWorkers()
        yield workers
        workers.close()
    assert not ray.connected


def parts(count: int = PARTS) -> Iterator[tuple[str, int]]:
    """Return named numbers."""
    return ((f"part {n}", n) for n in range(count))


def square(number: int) -> int:
    """Return a number's square."""
    return number**2


def cube(number: int) -> int:
    """Return a number's cube."""
    return number**3


def refuse(number: int) -> int:
    """Raise what is said in a line."""
    raise KvError(f"refused {number}")


def lack(_number: int) -> int:
    """Raise what is lacking."""
    raise MissingResource("no model here")


def break_down(number: int) -> float:
    """Raise an error that is nobody's own."""
    return number / 0


def warn(number: int) -> int:
    """Warn of a number."""
    warnings.warn(f"number {number}", StoreWarning, stacklevel=1)
    return number


def check_each_once(cpus: int, lost: frozenset[int]) -> None:
    """Every part comes back once with its own result; what is lost is begun again."""
    with on(StandInRay(cpus, lost)) as workers:
        came = list(workers.run(square, parts()))
        assert sorted(came) == [(f"part {n}", n**2) for n in range(PARTS)]
        assert workers.losses == len(lost)


# Far enough apart that no part is lost three times: others are begun between.
@given(cpus=st.integers(1, 4), lost=st.frozensets(st.integers(0, PARTS - 1), max_size=2))
def test_each_part_comes_back_once(cpus: int, lost: frozenset[int]) -> None:
    """Catches a part that is lost with its actor, one that comes twice, and one of another name."""
    check_each_once(cpus, lost)


def test_twin_another_part_in_place_of_a_lost_one_is_seen() -> None:
    """Would catch a check of names alone."""
    other = patched(ray_workers, "once_more", lambda part, _: dataclasses.replace(part, payload=99))
    must_see(other, check_each_once, 2, frozenset({0}))


def check_actors_are_never_idle() -> None:
    """While this process writes what came, every actor has something to do."""
    ray = StandInRay(3)
    with on(ray) as workers:
        for number, _ in enumerate(workers.run(square, parts())):
            assert len(ray.open) >= min(3, PARTS - number - 1)


def test_actors_have_work_while_rows_are_written() -> None:
    """Catches actors that wait until the process that writes has written."""
    check_actors_are_never_idle()


def test_twin_an_actor_that_waits_is_seen() -> None:
    """Would catch a check of the parts at work when nothing has come yet."""
    right = ray_workers.next_part

    def late(given: Iterator[tuple[Any, Any]]) -> Any:
        frame = inspect.currentframe()
        assert frame is not None
        assert frame.f_back is not None
        return None if frame.f_back.f_locals["answers"] else right(given)

    must_see(patched(ray_workers, "next_part", late), check_actors_are_never_idle)


def test_a_part_that_costs_three_actors_is_given_up() -> None:
    """Catches a part that ends one worker after another without end."""
    with on(StandInRay(1, range(100))) as workers:
        with pytest.raises(KvError, match="3 workers were lost over the same shard") as error:
            list(workers.run(square, parts()))
        assert len(str(error.value).splitlines()) == 1


def test_without_any_actor_left_a_run_ends() -> None:
    """Catches a run that waits for actors which Ray restarts no more."""
    with (
        on(StandInRay(2, (0, 1), for_good=True)) as workers,
        pytest.raises(KvError, match="no worker is left"),
    ):
        list(workers.run(square, parts()))


def check_forgotten_parts_stay_away() -> None:
    """What was at work when a cell broke is not taken for a part of the next cell."""
    with on(StandInRay(3)) as workers:
        for _ in workers.run(square, parts()):
            break
        came = list(workers.run(cube, ((f"other {n}", n) for n in range(PARTS))))
        assert sorted(came) == [(f"other {n}", n**3) for n in range(PARTS)]


def test_parts_of_a_broken_cell_stay_away() -> None:
    """Catches rows of one cell that come back in the next."""
    check_forgotten_parts_stay_away()


def test_twin_an_actor_that_goes_on_as_before_is_seen() -> None:
    """Would catch two cells that are measured alike."""
    right = ray_workers.Worker.apply
    same_name = patched(
        ray_workers.Worker, "apply", lambda own, _, boxed, given: right(own, "a", boxed, given)
    )
    must_see(same_name, check_forgotten_parts_stay_away)


@pytest.mark.parametrize(
    ("do", "kind", "said"),
    [
        (refuse, KvError, "refused"),
        (lack, MissingResource, "no model here"),
        (break_down, RuntimeError, "ZeroDivisionError: division by zero"),
    ],
)
def test_errors_come_back(do: Callable[[int], int], kind: type[Exception], said: str) -> None:
    """Catches an error that ends as one of Ray's, or as a lost worker that is tried again."""
    with on(StandInRay(2)) as workers:
        with pytest.raises(kind, match=said) as error:
            list(workers.run(do, parts()))
        assert type(error.value) is kind
        assert workers.losses == 0


def test_warnings_come_back() -> None:
    """Catches damage that is told on another machine alone."""
    with on(StandInRay(1)) as workers, pytest.warns(StoreWarning, match="number"):
        list(workers.run(warn, parts(3)))


@pytest.mark.parametrize(
    ("cpus", "gpus", "error", "said"),
    [
        (8, None, KvError, "the largest has 4"),
        (1, True, MissingResource, "has no GPU"),
    ],
)
def test_a_cluster_that_is_too_small_is_one_line(
    cpus: int, gpus: bool | None, error: type[Exception], said: str
) -> None:
    """Catches actors that wait for ever for what no node has."""
    ray = StandInRay(4)
    with on(ray), pytest.raises(error, match=said):
        len(RayWorkers(cpus=cpus, gpus=gpus))
    assert not ray.connected


@pytest.mark.filterwarnings("default")  # what Ray leaves open
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_a_cluster_is_begun_and_ended() -> None:
    """Catches a stand-in unlike Ray, and a cluster that goes on when its run has ended."""
    import ray

    workers = RayWorkers(most=1)
    try:
        came = sorted(workers.run(abs, ((f"part {n}", -n) for n in range(PARTS))))
        assert len(workers) == 1
    finally:
        workers.close()
    assert came == [(f"part {n}", n) for n in range(PARTS)]
    assert not ray.is_initialized()
