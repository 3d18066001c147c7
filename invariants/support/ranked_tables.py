"""Made-up tables of ranked lists."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import strategies as st


@st.composite
def ranked_tables(draw: st.DrawFn, scores: int = 1, max_queries: int = 5) -> list[pd.DataFrame]:
    """The same lists under one or several scores; scores are few small integers, so ties abound."""
    sizes = draw(
        st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=max_queries)
    )
    rows = [
        (f"q{q}", f"p{q}-{i}", i < relevant)
        for q, (relevant, others) in enumerate(sizes)
        for i in range(relevant + others)
    ]
    number = st.integers(-3, 3).map(float)
    vector = st.lists(number, min_size=len(rows), max_size=len(rows))
    frame = pd.DataFrame(rows, columns=["query_id", "passage_id", "relevant"])
    return [frame.assign(score=draw(vector)) for _ in range(scores)]


def ranked_table(seed: int, queries: int = 30, size: int = 6, relevant: int = 1) -> pd.DataFrame:
    """Return random lists, the relevant passages scored higher by 1 SD on average."""
    rng = np.random.default_rng(seed)
    good = np.tile(np.arange(size) < relevant, queries)
    return pd.DataFrame(
        {
            "query_id": np.repeat([f"q{i:03}" for i in range(queries)], size),
            "passage_id": [f"p{i:04}" for i in range(queries * size)],
            "relevant": good,
            "score": rng.normal(size=queries * size) + good,
            "overlap": rng.uniform(size=queries * size),
        }
    )
