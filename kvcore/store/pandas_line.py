"""The one line of pandas that reads a cell's rows out of a store."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from kvcore.store.remote import remote_of, shown
from kvcore.store.schema import KEY

CELL = ("model", "dtype", "tokenizer", "dataset", "seed", "template", "method")
"""The columns of the key that a cell's rows have few values of."""


def pandas_line(folder: Path, rows: pd.DataFrame) -> str:
    """Return the line that reads rows from the store's folder in which they lie.

    The line needs pandas alone and runs in the working directory. It reads at least the rows: every
    condition of their model and dataset that the store holds, each key once.

    - `rows`: with the columns of `CELL`, one row or more.
    """
    kept = [(name, "in", sorted(set(rows[name].tolist()))) for name in CELL]
    return (
        f"import pandas; rows = pandas.read_parquet({spelled(folder)!r}, filters={kept!r})"
        f".drop_duplicates({list(KEY)!r})"
    )


def spelled(folder: Path) -> str:
    """Spell a folder as it is found from the working directory, in full where it lies elsewhere.

    What lies in an object store is spelled by its URL.
    """
    if remote_of(folder) is not None:
        return shown(folder)
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)
