"""From rows to a frame."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd


def frame_of(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], texts: Collection[str]
) -> pd.DataFrame:
    """Return rows as a frame with the columns named, those of texts and of lists as objects.

    pandas' own type for texts refuses lone surrogates, which an id may hold.
    """
    data = {name: [row[name] for row in rows] for name in columns}
    return pd.DataFrame(
        {
            name: pd.Series(values, dtype=object)
            if name in texts or any(isinstance(value, list) for value in values)
            else values
            for name, values in data.items()
        }
    )
