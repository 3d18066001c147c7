"""A stand-in for the module ray: actors in this process, of which some calls are lost."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from kvcore.ray_workers import Worker


class RayError(Exception):
    """What every error of Ray is."""


class ActorDiedError(RayError):
    """An actor that Ray restarts no more, or one that was lost with what it did."""


class ActorUnavailableError(RayError):
    """An actor that is restarting."""


@dataclass(eq=False)
class Ref:
    """An answer that is still to be computed."""

    actor: Actor
    name: str
    arguments: tuple[Any, ...]


@dataclass(eq=False)
class Actor:
    """An actor: its calls are done when their answer is asked for."""

    ray: StandInRay
    worker: Worker = field(default_factory=Worker)
    gone: bool = False

    def __getattr__(self, name: str) -> Any:
        """Return a method that gives a reference."""
        if name not in ("apply", "ready"):
            raise AttributeError(name)
        return SimpleNamespace(remote=lambda *arguments: self.ray.called(self, name, arguments))


class StandInRay:
    """A cluster with some CPUs on one node.

    - `lost`: which calls of `Worker.apply`, counted from 0, are lost with their actor.
    - `for_good`: whether an actor that was lost never comes back.
    - `open`: answers that nobody has taken yet.
    """

    def __init__(self, cpus: int, lost: Iterable[int] = (), *, for_good: bool = False) -> None:
        self.exceptions = SimpleNamespace(RayError=RayError, ActorDiedError=ActorDiedError)
        self.lost, self.for_good, self.cpus = frozenset(lost), for_good, cpus
        self.calls = 0
        self.open: list[Ref] = []
        self.connected = False

    def init(self, **_: Any) -> None:
        """Begin."""
        self.connected = True

    def is_initialized(self) -> bool:
        """Whether it has begun."""
        return self.connected

    def shutdown(self) -> None:
        """End."""
        self.connected = False

    def nodes(self) -> list[dict[str, Any]]:
        """Return the one node."""
        return [{"Alive": True, "Resources": {"CPU": float(self.cpus)}}]

    def remote(self, _: type[Worker]) -> Any:
        """Return what makes actors."""
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda: Actor(self)))

    def put(self, value: Any) -> Any:
        """Return a reference to a value."""
        return SimpleNamespace(value=value)

    def kill(self, actor: Actor) -> None:
        """End an actor."""
        actor.gone = True

    def called(self, actor: Actor, name: str, arguments: tuple[Any, ...]) -> Ref:
        """Note a call."""
        self.open.append(Ref(actor, name, arguments))
        return self.open[-1]

    def wait(
        self, refs: Sequence[Ref], num_returns: int, timeout: float
    ) -> tuple[list[Ref], list[Ref]]:
        """Say that the last answer is there, as if the first ones took longer."""
        del num_returns, timeout
        return [refs[-1]], list(refs[:-1])

    def get(self, ref: Any) -> Any:
        """Return a value, or compute an answer."""
        if not isinstance(ref, Ref):
            return ref.value
        self.open.remove(ref)
        if ref.name == "ready":
            if ref.actor.gone:
                raise ActorDiedError("it is gone")
            return True
        number, self.calls = self.calls, self.calls + 1
        if number in self.lost:
            ref.actor.worker, ref.actor.gone = Worker(), self.for_good
            raise ActorUnavailableError("the node is lost")
        name, boxed, payload = ref.arguments
        done = ref.actor.worker.apply(name, boxed, pickle.loads(pickle.dumps(payload)))
        return pickle.loads(pickle.dumps(done))
