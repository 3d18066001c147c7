"""Pictures of what each token may attend to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from reports.text import escape, one_line

Mask = Sequence[Sequence[int]]

_NAME_LINES = 2
_SIZE = 300  # units of the picture's longer side; the page scales it


def mask_text(mask: Mask) -> str:
    """Return a mask as text: one line a query, a full block where it may attend."""
    return "\n".join("".join("█" if cell else "·" for cell in row) for row in mask)


def mask_svg(mask: Mask, slots: Sequence[str], label: str) -> str:
    """Draw a mask as an SVG of one path, the slots' names under it.

    Parameters
    ----------
    mask : sequence of sequences of 0 / 1, (queries, slots)
        1 where the query (row) may attend to the slot (column); rows of equal length.
    slots : sequence of str, (slots,)
        Name of each column; a run of equal names is labelled once. Empty: no names.
    label : str
        What the picture shows, for those who cannot see it.

    Returns
    -------
    str
        An ``<svg>`` element, or "" for a mask without rows or columns.
    """
    rows, columns = len(mask), len(mask[0]) if mask else 0
    if not rows or not columns:
        return ""
    unit = _SIZE / max(rows, columns)
    width, height = columns * unit, rows * unit
    cells = "".join(_runs(mask))
    bands = _bands(slots, unit, width, height)
    foot = 6 + 11 * _NAME_LINES if bands else 2
    return (
        f'<svg role="img" aria-label="{escape(one_line(label))}" class="kv-mask" '
        f'viewBox="-1 -1 {width + 2:.2f} {height + foot:.2f}" xmlns="http://www.w3.org/2000/svg">'
        f'<rect width="{width:.2f}" height="{height:.2f}" fill="#f3f4f6" stroke="#b8bec8" '
        f'stroke-width="0.6"/><path fill="#2f5d84" transform="scale({unit:.4f})" d="{cells}"/>'
        f"{bands}</svg>"
    )


def _runs(mask: Mask) -> Iterator[str]:
    """Yield one rectangle for each run of ones in a row."""
    for y, row in enumerate(mask):
        x = 0
        for value, run in groupby(row, key=bool):
            length = len(list(run))
            if value:
                yield f"M{x} {y}h{length}v1h-{length}z"
            x += length


def _bands(slots: Sequence[str], unit: float, width: float, height: float) -> str:
    """Return a line and a name for each run of equally named slots, as far as names fit."""
    parts, x, free = [], 0, [0.0] * _NAME_LINES
    for name, run in groupby(one_line(slot, 24) for slot in slots):
        length = len(list(run))
        if x:
            parts.append(f'<path d="M{x * unit:.2f} 0V{height + 4:.2f}" stroke="#8a93a0" '
                         'stroke-width="0.6" stroke-dasharray="2 2"/>')
        # 10 units of type are about 5.6 wide a letter
        half = 2.8 * len(name)
        place = max(min((x + length / 2) * unit, width - half), half)
        line = next((i for i, end in enumerate(free) if place - half >= end), None)
        if line is not None:
            parts.append(f'<text x="{place:.2f}" y="{height + 13 + 11 * line:.2f}" font-size="10" '
                         f'text-anchor="middle" fill="#1c2430">{escape(name)}</text>')
            free[line] = place + half + 4
        x += length
    return "".join(parts)
