"""The sentences and words that word problems are made of.

A table holds a sentence a line, its role and operator before it. ``{0}`` and ``{1}`` stand for its
numbers, names such as ``{thing}`` for whom and what it is about.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

NAMES = (
    "Ada Ben Carla Dev Elena Farid Grace Hugo Ines Jonas Kira Liam Mona Nils Olga Pavel Quinn Rosa "
    "Sami Tessa Umar Vera Wim Xenia Yusuf Zoe Amina Boris Celia Dario"
).split()
THINGS = (
    "stickers marbles apples shells pencils cards buttons stamps beads candles tulips oranges "
    "walnuts postcards pebbles badges ribbons eggs plums keys lemons bulbs acorns feathers crayons "
    "magnets figs pears pinecones tiles"
).split()
ADJECTIVES = "red blue green yellow small large old new plain striped bright dark".split()
PLACES = (
    "at home, in the garden shed, on the kitchen table, in a drawer, at school, in the attic, "
    "by the window, in the car, under the stairs, at the beach hut, in the workshop, on the balcony"
).split(", ")
HOLDERS = "boxes bags jars baskets crates tins trays drawers pouches buckets".split()
GROUPS = "friends cousins neighbours classmates children visitors".split()
STUFFS = tuple(
    (unit, stuff)
    for unit, stuffs in (
        ("litres", "juice paint milk"),
        ("kilograms", "flour rice clay sand"),
        ("metres", "rope cloth wire"),
        ("pounds", "sugar"),
        ("grams", "saffron"),
    )
    for stuff in stuffs.split()
)


@dataclass(frozen=True)
class NumberRange:
    """The numbers from low to high; where amounts are measured, quarters among them or not."""

    low: int
    high: int
    whole: bool = False


@dataclass(frozen=True)
class Sentence:
    """One sentence or two, and what they do to the number of things so far."""

    text: str  # with ``{0}`` (and ``{1}``) where its numbers stand, and names such as ``{thing}``
    operator: str  # one of ``+ - * /``, or empty where it leaves the number as it is
    # One for each of its numbers: an opening has one number, or two where it has an operator.
    ranges: tuple[NumberRange, ...]


@dataclass(frozen=True)
class TemplateSet:
    """The sentences that go together, for things that are counted or amounts that are measured."""

    openings: tuple[Sentence, ...]
    changes: tuple[Sentence, ...]
    closings: tuple[Sentence, ...]
    counted: bool


_ANY = NumberRange(3, 90)
_SUBTRAHEND = NumberRange(2, 40)
_FACTOR = NumberRange(2, 12, whole=True)
RANGES: Mapping[str, Mapping[str, tuple[NumberRange, ...]]] = {
    "opening": {
        "": (_ANY,),
        "+": (_ANY, _ANY),
        "-": (NumberRange(2, 90), _SUBTRAHEND),
        "*": (_FACTOR, NumberRange(2, 12)),
    },
    "change": {"+": (_ANY,), "-": (_SUBTRAHEND,), "*": (NumberRange(2, 5, whole=True),)},
    "closing": {"": (), "*": (_FACTOR,), "/": (_FACTOR,)},
}


def _template_set(table: str, *, counted: bool) -> TemplateSet:
    sentences: dict[str, list[Sentence]] = {role: [] for role in RANGES}
    for line in table.strip().splitlines():
        head, text = line.split(" | ")
        role, operator = head[:-1].strip(), head[-1].strip()
        sentences[role].append(Sentence(text.strip(), operator, RANGES[role][operator]))
    openings, changes, closings = map(tuple, sentences.values())
    return TemplateSet(openings, changes, closings, counted)


COUNTED = _template_set(
    """
opening   | {name} has {0} {thing} {place}.
opening   | {name} keeps {0} {thing} {place}.
opening   | {name} owns {0} {thing}, all of them {place}.
opening   | {name} starts the week with {0} {thing}.
opening + | {name} has {0} {adjective} {thing} and {1} {adjective2} {thing}.
opening + | {name} picked out {0} {thing} in the morning and {1} in the afternoon.
opening + | {name} has {0} {thing} {place} and another {1} {where}.
opening - | {name} had {0} {thing}, but {1} of them were lost {place}.
opening - | Of the {0} {thing} that {name} brought along, {1} were broken and thrown out.
opening * | {name} has {0} {holder} with {1} {thing} in each.
opening * | {name} bought {0} {holder}, each of them holding {1} {thing}.
opening * | {place_first} {name} keeps {0} {holder}, and every one of them holds {1} {thing}.
change  + | {other} gives {name} {0} more {thing}.
change  + | Then {name} finds {0} more {where}.
change  + | Later {name} buys another {0} {thing}.
change  - | {name} gives {0} of them to {other}.
change  - | Then {0} of the {thing} go missing.
change  - | {name} sells {0} of the {thing} at the market.
change  * | After a month there are {0} times as many {thing}.
change  * | {other} brings so many that {name} now has {0} times as many {thing}.
closing   | How many {thing} does {name} have now?
closing   | How many {thing} does {name} have in the end?
closing / | {name} shares all of the {thing} equally among {0} {group}. \
How many {thing} does each of them get?
closing / | {name} packs all of the {thing} into {holder2} of {0}. \
How many {holder2} does {name} fill?
closing * | In the end {name} sells all {thing} that are left at {0} cents each. \
How many cents does {name} get for these?
""",
    counted=True,
)
MEASURED = _template_set(
    """
opening   | {name} has {0} {unit} of {stuff} {place}.
opening   | {name} starts the week with {0} {unit} of {stuff}.
opening + | {name} has {0} {unit} of {stuff} {place} and another {1} {unit} {where}.
opening + | {name} bought {0} {unit} of {stuff} on Monday and {1} {unit} on Friday.
opening - | {name} had {0} {unit} of {stuff}, but {1} {unit} of it were lost {place}.
opening * | {name} has {0} {holder} with {1} {unit} of {stuff} in each.
change  + | {other} gives {name} {0} {unit} more.
change  + | Later {name} buys another {0} {unit}.
change  - | {name} gives {0} {unit} of it to {other}.
change  - | Then {name} sells {0} {unit} of it.
change  * | After a month there is {0} times as much {stuff}.
closing   | How many {unit} of {stuff} does {name} have now?
closing   | How many {unit} of {stuff} does {name} have in the end?
closing / | {name} shares all of the {stuff} equally among {0} {group}. \
How many {unit} does each of them get?
closing * | In the end {name} sells all {stuff} that is left at {0} dollars for each of the \
{unit}. How many dollars does {name} get for this?
""",
    counted=False,
)
