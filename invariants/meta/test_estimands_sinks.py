"""Attention shares: what a claim shows beside its mean."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from claims.harness.estimands import sinks
from claims.harness.estimands.sinks import attention_plot, mean_share
from claims.harness.rows import Rows
from invariants.support.comparing import must_see, replaced
from invariants.support.estimand_rows import computed


def rows(condition: str, shares: Mapping[str, float | None]) -> Rows:
    """Return rows of samples with a share on a sink in the prefix; None was not measured."""
    frame = pd.DataFrame(
        {
            "status": ["ok" if x is not None else None for x in shares.values()],
            "sink_share": list(shares.values()),
            "prefix_share": list(shares.values()),
            "sink_part": ["prefix" if x is not None else None for x in shares.values()],
            "sink_norm": 100.0,
            "median_norm": 10.0,
            "profile": [
                [0.1, *[0.0] * 8, x or 0.0, *[0.0] * 8, 0.4 - (x or 0.0), 0.0, 0.5]
                for x in shares.values()
            ],
        },
        index=list(shares),
    ).astype({"sink_share": float, "prefix_share": float})
    return Rows(condition, "sink_share", frame, tuple(frame.index), tuple)


SEEN = {f"s{i}": 0.2 + 0.01 * i for i in range(6)}
BARE = {f"s{i}": 0.0 if i < 4 else None for i in range(6)}


def check_beside() -> None:
    """Demand the mean over all samples, and bars over those that every condition has."""
    found = computed(mean_share, rows("full_context(random)", SEEN), rows("bare", BARE))
    assert round(found.estimate.value, 6) == 0.225
    bars = found.plot["bars"]
    assert [bar["label"] for bar in bars] == ["bare", "primed, in sight"]
    assert bars[0]["y"] == [0.1, 0.0, 0.0, 0.0, 0.4, 0.5]
    assert bars[1]["y"] == [0.1, 0.215, 0.0, 0.0, 0.185, 0.5]
    assert found.plot["x_label"].endswith("mean of 4 samples")


def test_bars_stand_for_the_same_samples() -> None:
    """Fault: bars over unlike samples, in another order, or a mean over the bars' samples."""
    check_beside()


def test_twin_bars_of_unlike_samples_are_seen() -> None:
    """Fault: a check blind to the samples behind a bar."""

    def alone(real: object, frames: dict[str, pd.DataFrame]) -> object:
        both = [real({name: frame}) for name, frame in frames.items()]  # type: ignore[operator]
        return {**both[0], "bars": [bar for each in both[::-1] for bar in each["bars"]]}

    must_see(replaced(sinks, "attention_plot", alone), check_beside)


def test_without_rows_a_bar_says_so() -> None:
    """Fault: a bar of zeros in place of what was not measured."""
    plot = attention_plot({"bare": rows("bare", BARE).frame, "keep_sink(random)": None})
    assert [bool(bar["y"]) for bar in plot["bars"]] == [True, False]
    assert plot["bars"][1]["missing"] == "no rows stored yet"
