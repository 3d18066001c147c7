"""What measuring will take, told before it begins: shards, rows, passes, time and memory.

Counted exactly are shards, samples and rows. Passes, time and memory are estimates: every row is
taken to read its whole document, where in fact conditions share prefills, so that passes and time
are upper bounds; memory is that of weights and one pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvcore.measurements.shard_size import TOKENS_BESIDE, TOKENS_PER_CHARACTER
from kvcore.progress import duration

if TYPE_CHECKING:
    from kvcore.measurements.collect import Collection
    from kvcore.models.files import ModelFiles

SHARE_OF_PRODUCTS = 0.6
"""The part of the rate of matrix products that a pass reaches, about."""


@dataclass(frozen=True)
class CellForecast:
    """What is missing of one cell.

    - `name`: of the cell.
    - `shards`, `samples`, `rows`: how many are to be measured.
    - `stored`: rows that are there already.
    - `tokens`: that are read at most.
    - `why_not`: why nothing is known of it yet, or why it cannot be measured, "" otherwise.
    """

    name: str
    shards: int = 0
    samples: int = 0
    rows: int = 0
    stored: int = 0
    tokens: int = 0
    why_not: str = ""


@dataclass(frozen=True)
class ModelForecast:
    """What is missing of the cells of one model, and what it takes to measure it.

    - `budget`: most tokens of a pass.
    - `seconds`: at most; None where the rate of the device is not known.
    - `memory`: bytes of the weights and of one pass; None where it cannot be told.
    """

    model: str
    cells: tuple[CellForecast, ...]
    budget: int
    seconds: float | None
    memory: int | None

    @property
    def passes(self) -> int:
        """How many passes of the model there are at most."""
        return sum(math.ceil(cell.tokens / self.budget) for cell in self.cells)

    def lines(self) -> list[str]:
        """Spell it out: a line for the model, and one for each of its cells."""
        shards, samples, rows = (
            sum(getattr(cell, name) for cell in self.cells)
            for name in ("shards", "samples", "rows")
        )
        parts = [f"{shards:,} shards", f"{samples:,} samples", f"{rows:,} rows"]
        parts += [f"at most {self.passes:,} passes"] if rows else []
        if self.seconds is not None and rows:
            minutes = math.ceil(self.seconds / 60)
            bound = 60 * minutes if self.seconds >= 90 else max(1, self.seconds)
            parts.append(f"at most {duration(bound)}")
        if self.memory is not None:
            parts.append(f"about {self.memory / 2**30:.1f} GiB")
        return [f"{self.model}: {', '.join(parts)}", *(f"  {_cell(cell)}" for cell in self.cells)]


def _cell(cell: CellForecast) -> str:
    if cell.why_not:
        return f"{cell.name}: {cell.why_not}"
    counts = f"{cell.shards:,} shards, {cell.samples:,} samples, {cell.rows:,} rows"
    return f"{cell.name}: {counts} to measure, {cell.stored:,} rows stored"


def cell_forecast(name: str, collection: Collection) -> CellForecast:
    """Count what is missing of a cell that is planned."""
    missing = collection.missing()
    shards = collection.shards(missing)
    tokens = (missing["length"].astype(float) * TOKENS_PER_CHARACTER + TOKENS_BESIDE).sum()
    samples = missing[["dataset", "seed", "sample_id"]].drop_duplicates()
    stored = len(collection.keys) - len(missing)
    return CellForecast(name, len(shards), len(samples), len(missing), stored, int(tokens))


def model_forecast(
    files: ModelFiles, cells: Iterable[CellForecast], device: str, batch_tokens: int | None
) -> ModelForecast:
    """Estimate what measuring cells of a model takes; its weights are not loaded.

    - `device`: as the option spells it.
    - `batch_tokens`: most tokens of a pass; None leaves it to the device.

    Raises KvError for an unknown device.
    """
    from kvcore.engine.limits import BATCH_TOKENS
    from kvcore.models.device import resolve_device
    from kvcore.models.size import products_per_second, size_of

    where = resolve_device(device)
    some = tuple(cells)
    budget = batch_tokens or BATCH_TOKENS.get(where.type, 4096)
    size = size_of(files, budget)
    if size is None:
        return ModelForecast(files.name, some, budget, None, None)
    rate = products_per_second(where, files.dtype)
    tokens = sum(cell.tokens for cell in some)
    seconds = tokens * 2 * size.parameters / (rate * SHARE_OF_PRODUCTS)
    return ModelForecast(files.name, some, budget, seconds, size.memory)
