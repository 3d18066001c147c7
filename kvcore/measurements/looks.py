"""Looks at a cell while it is measured: which samples belong to which, and the record of it.

A need's samples are those that the limit chooses, whatever the number of looks. They are taken in
whole clusters, in the order of a hash of (seed, cluster): look k has the clusters that fit into k /
N of the samples, and the last one has all. So every look's samples are also those of the next.

What was declared (limit, number of looks, samples of every look) is recorded beside the rows, in
``_looks-<hash of the cell>.json``: judged again from the store alone, the rows are looked at as
they were when they were measured. A run with another limit is a plan of its own beside the earlier
ones, which stay for the needs that it does not have. A store without a record is a fixed design on
all its rows.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kvcore import io
from kvcore.errors import KvError
from kvcore.store import claiming, folder
from kvcore.store.remote import shown
from kvcore.store.shards import Store

LEAST_STEP = 0.001
"""Looks whose shares of a claim's samples differ by less are one."""


class Schedule(NamedTuple):
    """The looks that are taken at one claim.

    - `looks`: their numbers, rising; the last is the number of looks declared.
    - `fractions`: the share of its samples that each has; the last is 1.
    """

    looks: tuple[int, ...]
    fractions: tuple[float, ...]

    def until(self, look: int) -> tuple[float, ...]:
        """Return the fractions of the looks up to one of them."""
        return self.fractions[: self.looks.index(look) + 1]


@dataclass(frozen=True)
class Pool:
    """Needs that are measured on the same samples.

    - `needs`: as claims spell them.
    - `samples`: those that each look adds, sorted: their ids as in `CollectedRows.rows`.
    - `clusters`: how many clusters each look has, the earlier looks' included.
    """

    needs: tuple[str, ...]
    samples: tuple[tuple[str, ...], ...]
    clusters: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """How many samples each look has, the earlier looks' included."""
        added = [len(names) for names in self.samples]
        return tuple(sum(added[: k + 1]) for k in range(len(added)))


class Design(NamedTuple):
    """How some needs were looked at: their limit and number of looks."""

    limit: int
    looks: int
    needs: tuple[str, ...]


@dataclass(frozen=True)
class LookPlan:
    """What is declared before a cell is measured.

    - `limit`: samples of the cell at most.
    - `looks`: how many, from 1: the fixed design.
    - `pools`: every need of the cell in one of them.
    - `looked`: whether a verdict may have been read since.
    - `earlier`: other designs of the cell that were looked at before it, the first first.
    """

    limit: int
    looks: int
    pools: tuple[Pool, ...]
    looked: bool = False
    earlier: tuple[Design, ...] = ()

    @property
    def design(self) -> Design:
        """Limit, looks and needs."""
        return Design(self.limit, self.looks, self.needs)

    def warning(self, needs: Iterable[str]) -> str:
        """Return that a claim on some needs was looked at in another way before, "" where not."""
        own = set(needs)
        designs = [design for design in (*self.earlier, self.design) if own <= set(design.needs)]
        changes = [words for pair in itertools.pairwise(designs) if (words := _change(*pair))]
        return f"{'; '.join(changes)}: a new analysis" if changes else ""

    @property
    def keys(self) -> frozenset[tuple[str, str]]:
        """Need and sample of every row at the limit."""
        return frozenset(
            (need, sample) for need, looks in self._look_of.items() for sample in looks
        )

    @functools.cached_property
    def _pool_of(self) -> Mapping[str, Pool]:
        return {need: pool for pool in self.pools for need in pool.needs}

    @functools.cached_property
    def _look_of(self) -> Mapping[str, Mapping[str, int]]:
        """The first look of every sample, by need; needs of one pool share a mapping."""
        by_pool = [
            {name: k for k, names in enumerate(pool.samples, 1) for name in names}
            for pool in self.pools
        ]
        return {
            need: looks
            for pool, looks in zip(self.pools, by_pool, strict=True)
            for need in pool.needs
        }

    def count(self, need: str, look: int) -> int:
        """Return how many rows of a declared need there are up to a look, 0 for look 0."""
        return self._pool_of[need].counts[look - 1] if look else 0

    def looks_of(self, need: str) -> Mapping[str, int]:
        """Return the first look of every sample of a declared need."""
        return self._look_of[need]

    def has(self, needs: Iterable[str]) -> bool:
        """Whether all of some needs were declared."""
        return self._pool_of.keys() >= set(needs)

    @property
    def needs(self) -> tuple[str, ...]:
        """Every need that was declared."""
        return tuple(self._pool_of)

    def within(self, rows: pd.DataFrame, look: int) -> pd.DataFrame:
        """Return the rows that belong to a look or an earlier one, of declared needs alone.

        `rows`: columns ``need`` and ``sample``, as `CollectedRows.rows`.
        """
        nothing: Mapping[str, int] = {}
        looks = [
            self._look_of.get(need, nothing).get(sample, self.looks + 1)
            for need, sample in zip(rows["need"], rows["sample"], strict=True)
        ]
        taken = np.array([number <= look for number in looks], dtype=bool)  # of no rows too
        return rows[taken].reset_index(drop=True)

    def missing(self, there: Container[tuple[str, str]], needs: Iterable[str], look: int) -> int:
        """Return how many rows of some declared needs are not there up to a look.

        `there`: the (need, sample) of the rows that are.
        """
        return sum(
            (need, sample) not in there
            for need in set(needs)
            for sample, number in self._look_of[need].items()
            if number <= look
        )

    def schedule(self, needs: Iterable[str], least_clusters: int) -> Schedule:
        """Return the looks that are taken at a claim on some declared needs.

        A look with too few clusters, or with hardly a sample more than the one before, is left
        out; the last one is always taken. Where needs have several pools, the smallest counts: no
        claim has more complete samples.
        """
        pools = {id(pool): pool for pool in (self._pool_of[need] for need in needs)}.values()
        smallest = min(pools, key=lambda pool: pool.counts[-1])
        total = smallest.counts[-1]
        looks: list[int] = []
        fractions: list[float] = []
        for look in range(1, self.looks):
            fraction = smallest.counts[look - 1] / total
            clusters = min(pool.clusters[look - 1] for pool in pools)
            step = fraction - (fractions[-1] if fractions else 0.0)
            if clusters >= least_clusters and step >= LEAST_STEP and 1 - fraction >= LEAST_STEP:
                looks.append(look)
                fractions.append(fraction)
        return Schedule((*looks, self.looks), (*fractions, 1.0))


def planned(keys: pd.DataFrame, limit: int, looks: int, seed: int) -> LookPlan:
    """Divide the samples of every need among the looks.

    `keys`: columns ``need``, ``sample`` and ``cluster``, each need with each sample once.
    """
    needs_of: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for need, own in keys.groupby("need", sort=True):
        names = tuple(sorted(zip(own["sample"], own["cluster"], strict=True)))
        needs_of.setdefault(names, []).append(str(need))
    pools = tuple(_pool(tuple(needs), names, looks, seed) for names, needs in needs_of.items())
    return LookPlan(limit, looks, pools)


def _pool(needs: tuple[str, ...], names: Sequence[tuple[str, str]], looks: int, seed: int) -> Pool:
    """Divide samples, each with its cluster, among looks of whole clusters."""
    members: dict[str, list[str]] = {}
    for sample, cluster in names:
        members.setdefault(cluster, []).append(sample)
    order = sorted(members, key=lambda cluster: (io.digest(str(seed), cluster), cluster))
    added: list[list[str]] = [[] for _ in range(looks)]
    clusters = [0] * looks
    taken = 0
    for number, cluster in enumerate(order, 1):
        taken += len(members[cluster])
        # The first look that holds it whole; the first cluster of all is in the first look.
        look = 0 if number == 1 else -(-taken * looks // len(names)) - 1
        added[look] += members[cluster]
        clusters[look] += 1
    return Pool(
        needs,
        tuple(tuple(sorted(new)) for new in added),
        tuple(sum(clusters[: k + 1]) for k in range(looks)),
    )


# --- the record --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """Where the looks at one cell are recorded.

    - `folder`: the kind's rows.
    - `cell`: what tells the cell apart within them: model, dtype, dataset, seed.
    """

    folder: Store
    cell: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder.root / f"_looks-{io.digest(*self.cell)[:32]}.json"

    def read(self) -> tuple[LookPlan, ...]:
        """Return every plan that was declared, the latest first; none where nothing was.

        Raises KvError for a file that cannot be read, or is no such record.
        """
        with io.disk_errors(shown(self.folder.root), "read its looks"):
            data = folder.read_newest(self.path)
        if data is None:
            return ()
        try:
            content = json.loads(data)
            if "plans" not in content:  # written when a record had one plan, without designs
                content = {"plans": [{**content, "earlier": []}]}
            return tuple(map(_read_plan, content["plans"]))
        except (ValueError, KeyError, TypeError) as error:
            raise KvError(
                f"{self.path.name} is no record of looks ({type(error).__name__}: {error}); remove "
                "it: the rows are then judged as a fixed design."
            ) from error

    def declare(self, plan: LookPlan) -> LookPlan:
        """Record what is to be measured, and return it with what was looked at before it.

        Needs that were declared for the same limit and looks stay declared in the same plan. Other
        plans stay as they are, but for one whose needs the new one has all.
        """
        with self._lock():
            plans = with_declared(self.read(), plan)
            self._write(plans)
        return plans[0]

    def mark_looked(self) -> None:
        """Record that rows have been looked at: another limit is a new analysis from now on."""
        with self._lock():
            plans = self.read()
            if not all(plan.looked for plan in plans):
                self._write([replace(plan, looked=True) for plan in plans])

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        root = self.folder.root
        with (
            io.disk_errors(shown(root), "record its looks"),
            claiming.exclusive(root, self.path.stem),
        ):
            yield

    def _write(self, plans: Sequence[LookPlan]) -> None:
        content = {"cell": self.cell, "plans": [asdict(plan) for plan in plans]}
        folder.put(self.path, json.dumps(content, ensure_ascii=True) + "\n")


def _read_plan(content: Mapping[str, Any]) -> LookPlan:
    return LookPlan(
        int(content["limit"]),
        int(content["looks"]),
        tuple(map(_read_pool, content["pools"])),
        bool(content["looked"]),
        tuple(Design(limit, looks, tuple(needs)) for limit, looks, needs in content["earlier"]),
    )


def _read_pool(content: Mapping[str, Any]) -> Pool:
    samples = tuple(map(tuple, content["samples"]))
    return Pool(tuple(content["needs"]), samples, tuple(content["clusters"]))


def with_declared(before: Sequence[LookPlan], plan: LookPlan) -> list[LookPlan]:
    """Return every plan once another one is declared, that one first.

    A plan of the same design is joined to it; one whose needs it has all is remembered as a design.
    """
    if before:
        latest = before[0]
        new = latest.looked and not _same_design(latest, plan)
        plan = replace(plan, earlier=(*latest.earlier, *((latest.design,) if new else ())))
    alike = next((own for own in before if _same_design(own, plan)), None)
    if alike is not None:
        plan = replace(plan, pools=_joined(plan, alike), looked=alike.looked)
    kept = [own for own in before if own is not alike and not plan.has(own.needs)]
    return [plan, *kept]


def _joined(plan: LookPlan, other: LookPlan) -> tuple[Pool, ...]:
    """Return the pools of a plan and, of another one, those of the needs that it lacks."""
    own = set(plan.needs)
    others = (
        replace(pool, needs=tuple(need for need in pool.needs if need not in own))
        for pool in other.pools
    )
    return (*plan.pools, *(pool for pool in others if pool.needs))


def _same_design(before: LookPlan, plan: LookPlan) -> bool:
    """Whether both look alike at what both declare: data may have less than either limit."""
    if (before.limit, before.looks) == (plan.limit, plan.looks):
        return True
    shared = set(before.needs) & set(plan.needs)
    return bool(shared) and all(before.looks_of(need) == plan.looks_of(need) for need in shared)


def _change(before: Design, after: Design) -> str:
    """Return how a design differs from the one before, in words; "" where it does not."""
    if before.limit != after.limit:
        moved = "raised" if after.limit > before.limit else "lowered"
        return f"limit {moved} from {before.limit} to {after.limit} after a look"
    if before.looks != after.looks:
        return f"looks changed from {before.looks} to {after.looks} after a look"
    return ""
