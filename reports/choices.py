"""How much a conclusion hangs on the choices behind it: a specification curve for each claim.

A specification is one way of measuring what a claim is about: the model, the dataset, the metric,
and what else a plot of kind ``specifications`` varied (wording, seed, sample size).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kvcore.verdict import Judgement, Verdict, judge
from reports.canvas import BROAD, Data, numbers
from reports.elements import tally
from reports.figures import parts
from reports.svg import BAND, GRID, INK, MUTED, style, to_svg
from reports.text import markup, number, one_line
from reports.words import LOOKS, is_signed

FACTORS = ("model", "dataset", "metric", "way")
AS_JUDGED = "as judged"

_TOP, _LEVEL = 0.95, 0.165  # inches of the curve, and of one line of dots under it


@dataclass(frozen=True)
class Specification:
    """One way of measuring, with its estimate and what that says of the claim."""

    choices: Mapping[str, str]
    value: float
    low: float
    high: float
    verdict: Verdict


def specifications(group: Sequence[Judgement]) -> list[Specification]:
    """Return every way in which one claim was measured.

    Parameters
    ----------
    group : sequence of Judgement
        All of one claim. Each is a specification; so is each further row of its plots of kind
        ``specifications`` in the same unit, judged by the same rule.
    """
    found = [each for judgement in group for each in (_judged(judgement), *_further(judgement))]
    return [each for each in found if np.isfinite(each.value)]


def by_value(found: Sequence[Specification]) -> list[Specification]:
    """Return specifications in the order of a specification curve: the smallest value first."""
    return sorted(found, key=lambda each: each.value)


def _judged(judgement: Judgement) -> Specification:
    cell, estimate = judgement.cell, judgement.estimate
    labels = [row["label"] for row in _rows(judgement) if row["judged"]]
    way, metric = _way(labels[0], cell.metric) if labels else (AS_JUDGED, cell.metric)
    choices = {"model": cell.model, "dataset": cell.dataset, "metric": metric, "way": way}
    return Specification(choices, estimate.value, estimate.ci_low, estimate.ci_high,
                         judgement.verdict)


def _further(judgement: Judgement) -> list[Specification]:
    return [_read(judgement, row) for row in _rows(judgement) if not row["judged"]]


def _read(judgement: Judgement, row: Data) -> Specification:
    """Judge another way of measuring by the rule of the one that was judged."""
    value, low, high = map(float, numbers([row["value"], row["low"], row["high"]]))
    estimate = replace(judgement.estimate, value=value, ci_low=low, ci_high=high)
    way, metric = _way(row["label"], judgement.cell.metric)
    choices = {"model": judgement.cell.model, "dataset": judgement.cell.dataset,
               "metric": metric, "way": way}
    return Specification(choices, value, low, high,
                         judge(estimate, judgement.claim.prediction, judgement.floor))


def _rows(judgement: Judgement) -> list[Data]:
    return [row for part in parts(judgement.plot)
            if part["kind"] == "specifications" and part["unit"] == judgement.estimate.unit
            for row in part["rows"]]


def _way(label: object, metric: str) -> tuple[str, str]:
    """Split ``wording, nll_tail`` into what was varied and the metric, which may be missing."""
    way, _, last = str(label).rpartition(", ")
    return (way, last) if way and last in ("nll", "nll_tail") else (str(label), metric)


def hangs_on(found: Sequence[Specification]) -> dict[str, tuple[int, int]]:
    """Return for each choice how often changing it alone changes the verdict, out of how often.

    Parameters
    ----------
    found : sequence of Specification
        Of one claim.

    Returns
    -------
    dict
        Choice to (groups with more than one verdict, groups); a group holds the specifications
        that differ in that choice alone. A choice that nothing varied alone is left out.
    """
    counts = {}
    for factor in FACTORS:
        groups = _alike_but_for(factor, found)
        if groups:
            changed = sum(len({each.verdict for each in group}) > 1 for group in groups)
            counts[factor] = (changed, len(groups))
    return counts


def _alike_but_for(factor: str, found: Sequence[Specification]) -> list[list[Specification]]:
    def others(each: Specification) -> list[str]:
        return [each.choices[name] for name in FACTORS if name != factor]

    groups = [list(group) for _, group in groupby(sorted(found, key=others), key=others)]
    return [group for group in groups if len({each.choices[factor] for each in group}) > 1]


# --- picture -----------------------------------------------------------------------------------


def levels(found: Sequence[Specification]) -> list[tuple[str, str]]:
    """Return every (choice, value) of the choices that were varied, as they first appear."""
    pairs = [(name, each.choices[name]) for name in FACTORS for each in found]
    varied = {name for name in FACTORS if len({each.choices[name] for each in found}) > 1}
    return [pair for pair in dict.fromkeys(pairs) if pair[0] in varied]


def curve(group: Sequence[Judgement]) -> str:
    """Draw the specification curve of one claim: estimates by size, their choices under them.

    Parameters
    ----------
    group : sequence of Judgement
        All of one claim, with at least one finite estimate.
    """
    rows = levels(specifications(group))
    found = by_value(specifications(group))
    height = _TOP + _LEVEL * len(rows) + 0.2
    with style(f"choices-{group[0].claim.id}"):
        figure = Figure(figsize=(BROAD, height))
        left, width = 1.42 / BROAD, (BROAD - 1.5) / BROAD
        top = figure.add_axes((left, 1 - (_TOP + 0.06) / height, width, _TOP / height))
        _draw_estimates(top, found, group[0])
        low = figure.add_axes((left, 0.05 / height, width, _LEVEL * len(rows) / height)
                              ) if rows else None
        if low is not None:
            _draw_choices(low, found, rows)
        said = f"Specification curve of {group[0].claim.id}, {len(found)} ways of measuring"
        return to_svg(figure, said)


def _draw_estimates(axes: Axes, found: Sequence[Specification], judgement: Judgement) -> None:
    ends = [end for each in found for end in (each.low, each.high, each.value)]
    null = judgement.claim.prediction.null
    known = [end for end in (*ends, null) if np.isfinite(end)]
    room = 0.06 * (max(known) - min(known)) or 1.0
    limits = (min(known) - room, max(known) + room)
    for region in judgement.claim.prediction.supported:
        axes.axhspan(*np.clip([region.low, region.high], *limits), color=BAND, linewidth=0)
    axes.axhline(null, color=INK, linewidth=0.8)
    for place, each in enumerate(found):
        look = LOOKS[each.verdict]
        axes.plot([place, place], np.clip([each.low, each.high], *limits), color=look.colour,
                  linewidth=1.4)
        axes.plot([place], [each.value], marker=look.marker, markersize=4, color=look.colour,
                  markerfacecolor=look.colour if look.filled else "white", linestyle="none")
    _frame(axes, len(found))
    axes.set_ylim(*limits)
    axes.locator_params(axis="y", nbins=4)
    axes.set_ylabel(one_line(judgement.estimate.unit, 16))
    axes.spines["bottom"].set_visible(False)


def _draw_choices(axes: Axes, found: Sequence[Specification], rows: Sequence[tuple[str, str]]
                  ) -> None:
    for place, each in enumerate(found):
        for row, (factor, level) in enumerate(rows):
            if each.choices[factor] == level:
                axes.plot([place], [row], marker="s", markersize=3.4, color=MUTED,
                          linestyle="none")
    for row in range(1, len(rows)):
        if rows[row][0] != rows[row - 1][0]:
            axes.axhline(row - 0.5, color=GRID, linewidth=0.8)
    _frame(axes, len(found))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [one_line(level, 24) for _, level in rows], fontsize=7.5,
                    color=INK)
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "bottom"]].set_visible(False)


def _frame(axes: Axes, count: int) -> None:
    # few ways stand on the left instead of far apart
    axes.set_xlim(-0.6, max(count, 8) - 0.4)
    axes.set_xticks([])


# --- section -----------------------------------------------------------------------------------


def section(groups: Sequence[Sequence[Judgement]]) -> str:
    """Return the part of the page on choices, or "" where nothing was measured in two ways."""
    cards = "".join(_card(index, group) for index, group in enumerate(groups)
                    if len(specifications(group)) > 1)
    if not cards:
        return ""
    return (
        '<h2 id="kv-choices">How much hangs on the choices</h2>'
        '<p class="kv-note">Each claim in every way it was measured, the smallest estimate first; '
        "the squares below say which way. The pale band is where the claim is supported.</p>"
        f'<div class="kv-plots kv-choices">{cards}</div>'
    )


def _card(index: int, group: Sequence[Judgement]) -> str:
    found = by_value(specifications(group))
    unit = group[0].estimate.unit
    low, high = (number(found[at].value, 2, sign=is_signed(unit)) for at in (0, -1))
    return (
        f'<figure class="kv-breadth-broad"><a href="#kv-claim-{index}">'
        f"{markup(group[0].claim.id)}</a>"
        f"<p>{tally(each.verdict for each in found)} · {low} to {high} {markup(unit)}</p>"
        f"{curve(group)}<figcaption>{_hangs(found)}</figcaption></figure>"
    )


def _hangs(found: Sequence[Specification]) -> str:
    said = [f"with the {factor} alone in {changed} of {groups}"
            for factor, (changed, groups) in hangs_on(found).items()]
    return f"The verdict changes {', '.join(said)}." if said else ""
