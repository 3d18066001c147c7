"""The picture of attention over the slots of a cache in `docs/sinks.md`, from rows of sinks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from claims.harness.estimands.sinks import bar_label, common_samples
from kvcore.measurements.sink_parts import PARTS, SINGLE
from reports.plots.svg import AREAS, MUTED, standalone, style, to_svg
from reports.text import number

SLOTS = tuple(name for name in PARTS if name == "BOS" or name[-1].isdigit())
"""Parts of one slot each, in the order of the cache: BOS, then the first of prefix and document."""
SUMS = tuple(name for name in PARTS if name not in SLOTS and name != "behind the document")
"""Parts of many slots, whose share is written and not drawn."""
COLOURS = {"BOS": AREAS[0], "prefix": AREAS[2], "document": AREAS[1]}
NUMBERED_FROM = 0.04
"""Smallest share that has its number above it."""
_SMALL: dict[str, Any] = {"fontsize": 6.5}


def picture(cells: Mapping[str, Mapping[str, pd.DataFrame]], conditions: Sequence[str]) -> str:
    """Return a panel for each condition (down) and model (across), as an SVG that stands alone.

    Parameters
    ----------
    cells
        Per model, measured rows by condition, indexed by sample. Shares are means over the samples
        that every condition with rows has.
    """
    with style("slots"):
        figure = Figure(figsize=(3.1 * len(cells), 1.35 * len(conditions)), layout="constrained")
        grid = figure.subplots(len(conditions), len(cells), squeeze=False, sharex=True, sharey=True)
        for column, (model, own) in enumerate(cells.items()):
            for line, (name, profile) in enumerate(mean_profiles(own, conditions).items()):
                _panel(grid[line, column], profile)
                head = f"{model}\n" if line == 0 else ""
                grid[line, column].set_title(f"{head}{bar_label(name)}", loc="left", fontsize=8)
        figure.supylabel("share of an answer's attention", fontsize=8, color=MUTED)
        return standalone(to_svg(figure, alternative(cells, conditions)))


def mean_profiles(
    own: Mapping[str, pd.DataFrame], conditions: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return the mean share of each part by condition, none where nothing is stored."""
    stored = {name: own[name] for name in conditions if name in own}
    common = common_samples(stored.values())
    means = {
        name: np.mean(rows.loc[common, "profile"].tolist(), axis=0).tolist()
        for name, rows in stored.items()
        if common
    }
    return {name: dict(zip(PARTS, means.get(name, ()), strict=False)) for name in conditions}


def alternative(cells: Mapping[str, Mapping[str, pd.DataFrame]], conditions: Sequence[str]) -> str:
    """Return which slot gets most in each panel, in a line."""
    parts = []
    for model, own in cells.items():
        tops = []
        for name, profile in mean_profiles(own, conditions).items():
            if profile:
                top = max(SLOTS, key=profile.__getitem__)
                tops.append(f"{top} {number(profile[top], 2)} ({bar_label(name)})")
        parts.append(f"{model}: {', '.join(tops) or 'no rows stored yet'}")
    return f"Attention of answers over the slots of a cache; the slot with most: {'; '.join(parts)}"


def _panel(axes: Axes, profile: Mapping[str, float]) -> None:
    """Draw the shares of single slots as bars, and write those of the rest."""
    axes.set(xlim=(-0.7, len(SLOTS) - 0.3), ylim=(0, 0.5))
    middle = (SINGLE + 1) / 2
    axes.set_xticks(
        [0, 1, middle, SINGLE, SINGLE + 1, SINGLE + middle, 2 * SINGLE],
        ["\nBOS", "1", "\nprefix", str(SINGLE), "1", "\ndocument", str(SINGLE)],
        fontsize=6.5,
    )
    axes.tick_params(axis="x", length=0)
    if not profile:
        axes.text(0.5, 0.5, "no rows stored yet", transform=axes.transAxes, ha="center", **_SMALL)
        return
    for place, name in enumerate(SLOTS):
        share = profile[name]
        axes.bar(place, share, 0.8, color=COLOURS[name.split()[0]])
        if share >= NUMBERED_FROM:
            axes.text(place, share + 0.01, number(share, 2), ha="center", va="bottom", **_SMALL)
    rest = "\n".join(f"{name} {number(profile[name], 2)}" for name in SUMS)
    axes.text(0.99, 0.98, rest, transform=axes.transAxes, ha="right", va="top", **_SMALL)
