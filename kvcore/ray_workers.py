"""Work divided between the actors of a Ray cluster. Nothing else imports ray, and this only late.

An actor keeps what it was told to do, so that this is sent to it once. Tries are counted here and
not by Ray, which would wait for a lost node to come back: a part whose actor is lost goes to the
next that is free, and the actor is used again once Ray has restarted it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import time
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, TypeVar

from kvcore.errors import KvError, MissingResource, one_line

Part = TypeVar("Part")
Payload = TypeVar("Payload")
Result = TypeVar("Result")
RESTARTS = 5
"""How often Ray restarts an actor."""
TRIES = 3
"""Actors that may be lost over one part before it is given up."""
WAIT_SECONDS = 300.0
"""How long nothing may be at work for want of an actor."""
POLL_SECONDS = 1.0
BEGIN_TRIES = 3
"""How often it is tried to begin a cluster here."""
STORE_BYTES = 256 * 2**20
"""Shared memory of a cluster of one's own: what is sent is megabytes."""
OWN_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
}
"""In the environment of a run that names none of them: nothing is reported home, an actor without a
GPU sees none."""


def check_installed() -> None:
    """Raise KvError, with the command that installs it, where ray cannot be imported."""
    if find_spec("ray") is None:
        raise KvError(
            "--kv-executor ray: ray is not installed here; run pip install 'kvclaims[ray]', or "
            "leave the option out to measure in this process."
        )


@dataclass(frozen=True)
class Lost:
    """What became of a part whose actor or node is gone."""

    why: str


@dataclass(frozen=True)
class Done:
    """What came of a part: its result or the error that it ended in, and what was warned of."""

    result: Any
    error: Exception | None
    warned: tuple[tuple[type[Warning], str], ...]


class Worker:
    """What an actor is: it applies a function that it is given once to one part after another."""

    def __init__(self) -> None:
        self._name = ""
        self._do: Callable[[Any], Any] = _nothing

    def ready(self) -> bool:
        """Return True."""
        return True

    def apply(self, name: str, boxed: list[Any], payload: Any) -> Done:
        """Apply a function of some name to a part.

        - `boxed`: where the function lies, in a list: it is fetched only if it is a new one.
        """
        import ray

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            try:
                if name != self._name:
                    self._do, self._name = _nothing, ""  # let go of the last one first
                    self._do, self._name = pickle.loads(ray.get(boxed[0])), name
                result, error = self._do(payload), None
            except Exception as raised:
                result, error = None, _lasting(raised)
        return Done(result, error, tuple({_warning(w): None for w in caught}))


def _nothing(payload: Any) -> None:
    """Do nothing: what an actor does that was told nothing yet."""


def _lasting(error: Exception) -> Exception:
    """Return an error that any process can read."""
    if type(error) in (KvError, MissingResource):
        return type(error)(str(error))
    if isinstance(error, KvError):
        return KvError(str(error))
    return RuntimeError(f"{one_line(error)} (on node {os.uname().nodename})")


def _warning(warned: warnings.WarningMessage) -> tuple[type[Warning], str]:
    ours = warned.category.__module__.split(".")[0] in ("builtins", "kvcore")
    return (warned.category if ours else UserWarning), str(warned.message)


@dataclass(frozen=True, eq=False)
class _Part:
    """What one actor does at a time: what it is called here, and how many were lost over it."""

    called: Any
    payload: Any
    losses: int = 0


@dataclass(eq=False)
class _Slot:
    """An actor and what is awaited of it.

    - `answer`: of the part at work, or of the question whether it is ready; None where it is idle.
    - `part`: which part that is; None where nobody waits for the answer.
    """

    actor: Any
    answer: Any
    part: _Part | None = None


class RayWorkers:
    """Actors of a Ray cluster, which is joined or begun at the first use.

    Parameters
    ----------
    address : str, optional
        Of a cluster to join, ``"auto"`` for the one of this machine; without it one is begun here
        and ended at the end.
    cpus : int
        CPUs of each actor, from 1.
    gpus : bool, optional
        Whether each actor has a GPU; None where the cluster has any.
    most : int, optional
        How many actors there may be; as many as the cluster has room for without it.

    Notes
    -----
    `losses` counts the parts that were begun again because their actor or its node was lost.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        cpus: int = 1,
        gpus: bool | None = None,
        most: int | None = None,
    ) -> None:
        self._address, self._cpus, self._gpus, self._most = address, cpus, gpus, most
        self._slots: list[_Slot] | None = None
        self._failure: Exception | None = None
        self._is_ours = False
        self.losses = 0

    def run(
        self, do: Callable[[Payload], Result], parts: Iterator[tuple[Part, Payload]]
    ) -> Generator[tuple[Part, Result], None, None]:
        """Apply a function to the payloads of parts, as many at a time as there are actors.

        A part is taken as soon as an actor is free. Closed early, the generator forgets the parts
        at work.

        Parameters
        ----------
        do : callable
            Of a module that the actors can import.
        parts : iterator
            What a part is called here, and its payload.

        Yields
        ------
        tuple
            What the part is called, and its result, in the order in which they are done.

        Raises
        ------
        KvError
            Where a cluster cannot be reached or has not what is asked for, and for a part over
            which `TRIES` actors were lost.
        MissingResource, RuntimeError
            What the function raised; errors of other types become RuntimeError.
        """
        import ray

        slots = self._begun()
        # By its name, so that actors run the code of their own machine.
        name, box = uuid.uuid4().hex, [ray.put(pickle.dumps(do))]
        again: deque[_Part] = deque()
        answers: deque[tuple[_Part, Done]] = deque()
        at_work: set[_Slot] = set()
        since = time.monotonic()
        try:
            while True:
                # First of all every actor gets something to do, then this process goes on.
                for slot in [slot for slot in slots if slot.answer is None]:
                    part = again.popleft() if again else next_part(parts)
                    if part is None:
                        break
                    slot.part, slot.answer = part, slot.actor.apply.remote(name, box, part.payload)
                    at_work.add(slot)
                if answers:
                    part, done = answers.popleft()
                    yield part.called, _result(done)
                    continue
                if not at_work and not again:
                    if (part := next_part(parts)) is None:
                        return
                    again.append(part)
                if at_work:
                    since = time.monotonic()
                elif not slots or time.monotonic() - since > WAIT_SECONDS:
                    raise KvError(
                        f"--kv-executor ray: no worker is left, or was free for {WAIT_SECONDS:.0f} "
                        "s; see `ray status`. What was measured is kept."
                    )
                for slot in self._answered():
                    part, answer = slot.part, self._taken(slot)
                    if part is None or slot not in at_work:  # it was asked whether it is ready
                        continue
                    at_work.discard(slot)
                    if isinstance(answer, Lost):
                        self.losses += 1
                        again.append(once_more(part, answer))
                    else:
                        answers.append((part, answer))
        finally:
            for slot in at_work:
                slot.part = None

    def ask(self, do: Callable[[None], Result]) -> Result:
        """Have one actor call a function with None, and return what it returns; errors as `run`."""
        ((_, result),) = self.run(do, iter([(None, None)]))
        return result

    @property
    def actors(self) -> list[Any]:
        """The actors that can be told to do something, as Ray has them."""
        return [slot.actor for slot in self._begun()]

    @property
    def have_gpus(self) -> bool:
        """Whether each actor has a GPU."""
        self._begun()
        return bool(self._gpus)

    def __len__(self) -> int:
        """How many actors there are."""
        return len(self._begun())

    def close(self) -> None:
        """End the actors, and the cluster where it was begun here."""
        if self._slots is None:
            return
        import ray

        slots, self._slots = self._slots, None
        for slot in slots:
            with contextlib.suppress(Exception):  # of a cluster that is gone
                ray.kill(slot.actor)
        if self._is_ours:
            ray.shutdown()

    # --- actors ----------------------------------------------------------------------------------

    def _begun(self) -> list[_Slot]:
        if self._failure is not None:
            raise self._failure  # once is enough: a cell that cannot be measured follows another
        if self._slots is None:
            check_installed()
            try:
                self._is_ours = _begin(self._address)
                self._gpus, count = _division(self._cpus, self._gpus)
                self._slots = [
                    _slot(self._cpus, self._gpus) for _ in range(min(count, self._most or count))
                ]
            except BaseException as error:
                self._slots = self._slots or []
                self.close()
                self._failure = error if isinstance(error, KvError | MissingResource) else None
                raise
        return self._slots

    def _answered(self) -> list[_Slot]:
        """Wait a moment for answers, and return the slots that have one."""
        import ray

        awaited = {slot.answer: slot for slot in self._begun() if slot.answer is not None}
        if not awaited:
            time.sleep(POLL_SECONDS)
            return []
        done, _ = ray.wait([*awaited], num_returns=len(awaited), timeout=0)
        if not done:
            done, _ = ray.wait([*awaited], num_returns=1, timeout=POLL_SECONDS)
        return [awaited[answer] for answer in done]

    def _taken(self, slot: _Slot) -> Any:
        """Take a slot's answer, and make it idle, or ask for its actor where that was lost."""
        import ray

        asked_for_itself = slot.part is None
        answer, slot.answer, slot.part = slot.answer, None, None
        try:
            return ray.get(answer)
        except ray.exceptions.RayError as error:
            if asked_for_itself and isinstance(error, ray.exceptions.ActorDiedError):
                self._begun().remove(slot)  # Ray restarts it no more
            else:
                time.sleep(POLL_SECONDS / 10)  # one that is restarting says so at once
                slot.answer = slot.actor.ready.remote()
            return Lost(one_line(error))


def next_part(parts: Iterator[tuple[Any, Any]]) -> _Part | None:
    """Return the next part, None at the end."""
    for called, payload in parts:
        return _Part(called, payload)
    return None


def once_more(part: _Part, lost: Lost) -> _Part:
    if part.losses + 1 >= TRIES:
        raise KvError(
            f"--kv-executor ray: {TRIES} workers were lost over the same shard, the last by "
            f"{lost.why}; a smaller --kv-batch-tokens may help where memory ran out. What was "
            "measured is kept."
        )
    return replace(part, losses=part.losses + 1)


def _result(done: Done) -> Any:
    for category, text in done.warned:
        warnings.warn(text, category, stacklevel=4)
    if done.error is not None:
        raise done.error
    return done.result


def _begin(address: str | None) -> bool:
    """Join a cluster, or begin one; say whether the connection is ours to end."""
    for name, value in OWN_SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return False
    settings: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        settings |= {"include_dashboard": False, "object_store_memory": STORE_BYTES}
    attempt = 1
    while True:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # advice on settings of Ray's own
                # "local": not the cluster that RAY_ADDRESS or this machine has
                ray.init(address=address or "local", **settings)
            return True
        except Exception as error:  # a machine that is busy: Ray waits 30 s for its own processes
            ray.shutdown()
            if address is not None or attempt >= BEGIN_TRIES:
                where = f"cluster {address!r} cannot be joined" if address else "none begins here"
                raise KvError(f"--kv-executor ray: {where} ({one_line(error)}).") from error
        attempt += 1


def _division(cpus: int, gpus: bool | None) -> tuple[bool, int]:
    """Return whether actors have a GPU each, and how many there can be."""
    import ray

    listed: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    nodes = [node["Resources"] for node in listed if node["Alive"]]
    cards = int(sum(node.get("GPU", 0) for node in nodes))
    if gpus or (gpus is None and cards):
        if not cards:
            raise MissingResource(
                "the Ray cluster has no GPU; leave out --kv-device cuda, or add a node with one."
            )
        fitting = (min(node.get("GPU", 0), node.get("CPU", 0) // cpus) for node in nodes)
        with_gpus, count = True, int(sum(fitting))
    else:
        with_gpus, count = False, int(sum(node.get("CPU", 0) // cpus for node in nodes))
    if not count:
        raise KvError(
            f"--kv-ray-cpus {cpus}: no node of the Ray cluster has as many CPUs for a worker; the "
            f"largest has {max((node.get('CPU', 0) for node in nodes), default=0):.0f}."
        )
    return with_gpus, count


def _slot(cpus: int, gpus: bool) -> _Slot:
    """Start an actor."""
    import ray

    options = {"num_cpus": cpus, "num_gpus": int(gpus), "max_restarts": RESTARTS}
    actor: Any = ray.remote(Worker).options(max_task_retries=0, **options).remote()
    return _Slot(actor, actor.ready.remote())
