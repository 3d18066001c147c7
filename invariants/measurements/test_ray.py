"""Rows that actors of a Ray cluster measured are those of this process, whatever is lost meanwhile.

The cluster has two nodes of one CPU each, on this machine.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from invariants.support import cells_elsewhere as cells
from kvcore import ray_workers
from kvcore.errors import KvError
from kvcore.measurements.errands import Sender
from kvcore.ray_workers import OWN_SETTINGS, RayWorkers

# Ray is imported by tests that run alone. What it leaves open or warns of is no fault of ours.
pytestmark = [
    pytest.mark.nightly,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed"),
]
SAMPLES = 40
HEAD = {"num_cpus": 0, "include_dashboard": False}


class SlowClock:
    """A clock for Ray's own patience with its processes, which is 30 s: a busy machine gets 300."""

    def monotonic(self) -> float:
        """Return a tenth of the seconds that passed."""
        return time.monotonic() / 10

    def __getattr__(self, name: str) -> Any:
        """Return whatever else clocks have."""
        return getattr(time, name)


class TwoNodes:
    """A cluster of two nodes with a CPU each, beside a head without any."""

    def __init__(self) -> None:
        import ray
        from ray.cluster_utils import Cluster

        self.cluster: Any = Cluster(initialize_head=True, head_node_args=HEAD)
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(2)]
        self.cluster.wait_for_nodes(timeout=300)
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level=logging.ERROR)

    def close(self) -> None:
        """End the cluster."""
        import ray

        ray.shutdown()
        self.cluster.shutdown()


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[TwoNodes]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in OWN_SETTINGS.items():
            patch.setenv(name, value)
        patch.setenv("RAY_worker_niceness", "0")  # as this process has it
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        patch.setattr("ray._private.node.time", SlowClock())
        nodes = TwoNodes()
        yield nodes
        nodes.close()


@pytest.fixture
def workers(two_nodes: TwoNodes) -> Iterator[RayWorkers]:
    own = RayWorkers(two_nodes.cluster.address)
    yield own
    own.close()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return cells.questions(tmp_path_factory.mktemp("questions"), SAMPLES)


@pytest.fixture(scope="module")
def undisturbed(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the rows that this process measures."""
    return cells.collected(cells.request(tmp_path_factory.mktemp("local"), dataset))


def no_model() -> Any:
    """Stand for a model in a process that only writes."""
    raise AssertionError("the process that writes loaded a model")


def check_ray(
    workers: RayWorkers,
    dataset: str,
    undisturbed: Any,
    folder: Path,
    after_first: Callable[[], Any],
) -> None:
    """The actors' rows are this process's, which loads no model, whatever is lost meanwhile."""
    right = RayWorkers.run

    def run(self: RayWorkers, do: Any, parts: Any) -> Generator[Any, None, None]:
        for number, answer in enumerate(right(self, do, parts)):
            if number == 0:
                after_first()
            yield answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RayWorkers, "run", run)
        store = Path(tempfile.mkdtemp(dir=folder))
        asked = cells.request(store, dataset, load=no_model)
        rows = cells.collected(asked, Sender(workers, "cpu"))
    cells.check_same_rows(undisturbed, rows)


def nothing() -> None:
    """Disturb nothing."""


def kill(actors: Iterable[Any]) -> None:
    """Kill the processes of actors, which Ray starts again."""
    import ray

    for actor in actors:
        ray.kill(actor, no_restart=False)


def test_rows_of_two_nodes_are_those_of_this_process(
    workers: RayWorkers, dataset: str, undisturbed: Any, tmp_path: Path
) -> None:
    """Catches rows of another sample, twice or not at all, and a model in this process."""
    assert len(workers) == 2
    check_ray(workers, dataset, undisturbed, tmp_path, nothing)
    assert workers.losses == 0


def test_rows_are_the_same_where_an_actor_is_killed(
    workers: RayWorkers, dataset: str, undisturbed: Any, tmp_path: Path
) -> None:
    """Catches a shard that is lost with its actor, and a run that ends with it."""
    check_ray(workers, dataset, undisturbed, tmp_path, lambda: kill(workers.actors[:1]))
    assert workers.losses >= 1


def test_twin_a_shard_that_is_not_begun_again_is_seen(
    workers: RayWorkers,
    dataset: str,
    undisturbed: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Would catch a kill that comes too late to cost anything."""
    monkeypatch.setattr(ray_workers, "TRIES", 1)
    with pytest.raises(KvError, match="workers were lost"):
        check_ray(workers, dataset, undisturbed, tmp_path, lambda: kill(workers.actors))


def test_rows_are_the_same_where_a_node_is_removed(
    two_nodes: TwoNodes, workers: RayWorkers, dataset: str, undisturbed: Any, tmp_path: Path
) -> None:
    """Catches a run that waits for a node which will not come back."""

    def remove() -> None:
        two_nodes.cluster.remove_node(two_nodes.nodes.pop(), allow_graceful=False)

    assert len(workers) == 2
    check_ray(workers, dataset, undisturbed, tmp_path, remove)
    assert workers.losses >= 1
    two_nodes.nodes.append(two_nodes.cluster.add_node(num_cpus=1))
