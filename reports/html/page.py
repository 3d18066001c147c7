"""The page a reader opens: HTML fragments made from judgements, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

from markupsafe import Markup

from kvcore.errors import KvError
from kvcore.verdict import Judgement
from reports import multiple, words
from reports.grouping import Groups, grouped
from reports.html import matrix, pictures, tests_table
from reports.html.facets import Facets
from reports.html.templates import FOLDER, render, trusted
from reports.plots.alternatives import PlotTable
from reports.plots.forest import forest
from reports.plots.masks import mask_svg
from reports.plots.specification_curve import specification_curve
from reports.specifications import (
    Specification,
    by_value,
    further_ways,
    hangs_on,
    specifications,
)
from reports.text import number
from reports.topics import Topic, in_short, topics

Explanation = Mapping[str, Any]
"""``condition``, ``text``, ``masks`` (each with ``title``, ``mask``: queries × slots, 0 / 1, and
``slots``: a name a column) and optionally ``model``."""

MAX_CHARACTERS = 2_530_000
"""Of the report and the table of tests; with styles and libraries a page stays below 3 MB."""
REPOSITORY = "https://github.com/kvclaims/kvclaims/blob/main"
SOURCES = f"{REPOSITORY}/docs/findings.md"
"""Where the documentation says what the sources of claims are."""
VENDOR = FOLDER.parent / "vendor"
"""Libraries that pages carry inside, as published."""
DRAWN_UP_TO = 120
"""Estimates up to which the forest plot has them all, and is drawn once more for a phone."""
FOLDED_FROM = 60
"""Claims from which on they are folded topic by topic."""
TABLE_FOLDED_FROM = 40
"""Verdicts from which on their table is folded: on a phone each takes a tenth of a screen."""
MASK_CHARACTERS = 60_000
"""Of the pictures of masks; a condition beyond that is explained by its text alone."""
HASH_DIGITS = 12
"""Of a hash that the page shows."""
_SMALL_PICTURE = 6_000
_MASK_COST = 4_000  # about one picture of a mask
# what pytest-html writes, which is only looked for
_END = re.compile("(?=[<]/body>)")
_SECTION_TITLES = {
    "forest": "All estimates",
    "matrix": "Verdicts",
    "choices": "Choices",
    "claims": "Claims",
    "conditions": "Conditions",
    "unjudged": "Not judged",
    "provenance": "Provenance",
}


@dataclass(frozen=True)
class Links:
    """Where a claim's links lead, by claim and cell: its test on the page, its samples' page.

    `code`: file and line of the test, as ``claims/test_priming.py:45``.
    """

    tests: Mapping[multiple.Key, str] = field(default_factory=dict)
    samples: Mapping[multiple.Key, str] = field(default_factory=dict)
    code: Mapping[multiple.Key, str] = field(default_factory=dict)


def page(
    judgements: Sequence[Judgement],
    explanations: Sequence[Explanation],
    provenance: Mapping[str, Any],
    environment: Mapping[str, Any],
    links: Links = Links(),
    unjudged: Mapping[str, Sequence[str]] = MappingProxyType({}),
    characters: int | None = None,
) -> str:
    """Return the whole report as one HTML fragment, pictures inside; `document` adds the style.

    Every text from outside is inert, escaped and isolated. The provenance may hold ``command``
    (str), ``configuration`` (mapping) and ``cells`` (a mapping for each model and dataset).
    ``unjudged`` has the tests without a verdict by the reason they gave; pictures are left out
    where they take more than so many characters, by default `MAX_CHARACTERS`.
    """
    room = MAX_CHARACTERS if characters is None else characters
    by_topic = topics(judgements)
    judgements = [judgement for topic in by_topic for judgement in topic.judgements]
    groups = [group for topic in by_topic for group in topic.groups]
    facets = Facets.of(by_topic)
    long = len(judgements) > TABLE_FOLDED_FROM
    few = len(judgements) <= DRAWN_UP_TO
    drawn = judgements if few else [j for topic in by_topic for j in topic.primary]
    units = grouped(drawn, lambda judgement: judgement.estimate.unit)
    facts = [*provenance.get("cells", ()), provenance.get("configuration", {}), environment]
    sections = {
        "forest": render("forest.html", units=units, forest=forest, all_drawn=few, narrow=few),
        "matrix": matrix.section(judgements, groups, facets, folded=long) if judgements else "",
        "choices": choices(groups),
        "claims": "",
        "conditions": _explained(explanations),
        "unjudged": _unjudged(unjudged),
        "provenance": render(
            "provenance.html",
            rows=[_rows_behind(judgement) for judgement in judgements],
            facts=facts,
            command=provenance.get("command"),
            floors=words.floor_words(judgements),
        ),
    }
    qs = multiple.primary_q_values(judgements)
    shown = _Shown(groups, facets, qs, links)
    sections["claims"] = _claims(shown, room - sum(map(len, sections.values())))
    return render(
        "page.html",
        sections=sections,
        titles=_SECTION_TITLES,
        counts=words.counts(judgements),
        in_short=in_short(judgements),
        topics=[_topic(topic) for topic in by_topic],
        filters=render("filters.html", verdicts=words.VERDICT_STYLES, **facets.choices),
        samples=next(iter(links.samples.values()), "").split("#")[0],
        standing=multiple.standing(judgements).sentence,
        hanging=sum(judgement.hangs_on_method for judgement in judgements),
        claims=len(groups),
        by_topic=_many(groups),
        verdicts=len(judgements),
        models=len({j.cell.model for j in judgements}),
        datasets=len({j.cell.dataset for j in judgements}),
    )


def _rows_behind(judgement: Judgement) -> list[str]:
    """Return where the rows of an estimate are and what they are; results.json has hashes whole."""
    store = PurePath(judgement.store).name  # no page names a folder of the machine
    cell = words.cell_words(judgement)
    revision, rows = judgement.model_revision[:HASH_DIGITS], judgement.rows_hash[:HASH_DIGITS]
    return [judgement.claim.id, cell, revision, store, rows]


def _topic(topic: Topic) -> dict[str, Any]:
    verdicts = [judgement.verdict for judgement in topic.judgements]
    return {"title": topic.title, "sentence": topic.sentence, "verdicts": verdicts}


def by_frequency(tests: Mapping[str, Sequence[str]]) -> list[tuple[str, Sequence[str]]]:
    """Return reasons with their tests, the most frequent first."""
    return sorted(tests.items(), key=lambda each: -len(each[1]))


def _unjudged(tests: Mapping[str, Sequence[str]]) -> str:
    """Return the part on tests without a verdict, the most frequent reason first."""
    if not tests:
        return ""
    ordered = by_frequency(tests)
    rows = [[reason, len(names), ", ".join(names)] for reason, names in ordered]
    return render("unjudged.html", rows=rows, count=sum(map(len, tests.values())))


def _explained(explanations: Sequence[Explanation]) -> str:
    """Return the part on conditions: masks as long as there is room for them, every text."""
    if not explanations:
        return ""
    left, shown = MASK_CHARACTERS, []
    for each in explanations:
        cost = _MASK_COST * len(each.get("masks", ()))
        shown.append({**each, "masks": each.get("masks", ()) if cost <= left else ()})
        left -= cost
    return render("conditions.html", explanations=shown, mask_svg=mask_svg)


def document(html: str) -> str:
    """Return a page by pytest-html with what its head lacks: language, viewport, our style.

    Raises KvError for a text without a head, which is no page by pytest-html.
    """
    parts = re.split(r"<[/]?head>", html, maxsplit=2)
    if len(parts) != 3:
        raise KvError(
            "the page by pytest-html must have one head; got none, so this version of "
            "pytest-html writes another page: install the version of constraints.txt."
        )
    _, head, rest = map(Markup, parts)
    return render(
        "document.html",
        head=head,
        rest=_with_scripts(tests_table.folded(rest)),
        style=trusted(FOLDER / "report.css", VENDOR / "uPlot.min.css"),
    )


def _with_scripts(rest: Markup) -> Markup:
    """Return a page's body with our scripts at its end, where they find all of it."""
    *before, after = _END.split(str(rest))
    ours = (VENDOR / "uPlot.iife.min.js", FOLDER / "report.js", VENDOR / "alpine.min.js")
    scripts = render("scripts.html", scripts=map(trusted, ours))
    return Markup("".join(before)) + scripts + Markup(after)


def choices(groups: Groups) -> str:
    """Return the part of the page on choices, or "" where no cell was measured in two ways."""
    varied = [group for group in groups if any(map(further_ways, group))]
    ways = [(group, by_value(specifications(group))) for group in varied]
    cards = [_card(group, each) for group, each in ways if len(each) > 1]
    return render("choices.html", cards=cards) if cards else ""


def _card(group: Sequence[Judgement], ways: Sequence[Specification]) -> dict[str, Any]:
    unit = group[0].estimate.unit
    rows = [[", ".join(w.choices.values()), w.value, w.low, w.high, w.verdict] for w in ways]
    table = PlotTable(("way", unit, "low", "high", "verdict"), rows)
    return {
        "claim": group[0].claim,
        "unit": unit,
        "verdicts": [way.verdict for way in ways],
        "low": ways[0].value,
        "high": ways[-1].value,
        "curve": specification_curve(group),
        "numbers": pictures.numbers_table(table),
        "hangs_on": hangs_on(ways),
    }


# --- one block a claim -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shown:
    """What the blocks of all claims are made from."""

    groups: Groups
    facets: Facets
    qs: Mapping[multiple.Key, float]
    links: Links


def _claims(shown: _Shown, characters: int) -> str:
    text = len(_blocks(shown, {}))
    return _blocks(shown, _drawings(shown.groups, characters - text))


def _blocks(shown: _Shown, drawings: Mapping[tuple[int, int], str]) -> str:
    """Return a block for each claim, with these pictures: (claim, cell) to what is shown there."""
    claims = [
        _claim(shown, [(j, drawings.get((index, at), "")) for at, j in enumerate(group)])
        for index, group in enumerate(shown.groups)
    ]
    left_out = sum(map(len, shown.groups)) - len(drawings)
    titles = shown.facets.titles
    folds = [[c for c in claims if c["topic"] == name] for name in shown.facets.topics]
    by_topic = list(zip(titles, folds, strict=True)) if _many(claims) else [("", claims)]
    return render("claims.html", topics=by_topic, pictures_left_out=left_out, sources=SOURCES)


def _many(claims: Sequence[object]) -> bool:
    """Whether so many claims are folded topic by topic."""
    return len(claims) > FOLDED_FROM


def _drawings(groups: Groups, characters: int) -> dict[tuple[int, int], str]:
    """Draw the first cell of every claim, then the second, ... as long as characters are left.

    Returns (number of the claim, number of the cell) to what is shown there, which may be "".
    """
    places = [(index, at) for index, group in enumerate(groups) for at in range(len(group))]
    drawings: dict[tuple[int, int], str] = {}
    for index, at in sorted(places, key=itemgetter(1)):
        if characters < _SMALL_PICTURE:
            break
        drawing = pictures.with_numbers(groups[index][at])
        if len(drawing) <= characters:
            characters -= len(drawing)
            drawings[index, at] = drawing
    return drawings


def _claim(shown: _Shown, cells: Sequence[tuple[Judgement, str]]) -> dict[str, Any]:
    group = [j for j, _ in cells]
    keys = [multiple.key_of(j) for j in group]
    drawn = [(j, drawing) for j, drawing in cells if drawing]
    captions = dict.fromkeys(caption for j, _ in drawn for caption in pictures.captions(j))
    samples, tests = shown.links.samples, shown.links.tests
    places = [shown.links.code[key] for key in keys if key in shown.links.code]
    return {
        "claim": group[0].claim,
        "topic": group[0].claim.family,
        "judgements": group,
        "verdicts": [j.verdict for j in group],
        "facets": shown.facets.attributes(group),
        "tests": [tests[key] for key in keys if key in tests],
        "code": [(place, _link_to(place)) for place in dict.fromkeys(places)],
        "samples": list({_place(key): samples[key] for key in keys if key in samples}.items()),
        "pictures": [
            {
                "width": pictures.width(j),
                "cell": words.cell_words(j),
                "drawing": drawing,
                "samples": samples.get(multiple.key_of(j)) if pictures.of_samples(j) else None,
            }
            for j, drawing in drawn
        ],
        "captions": " ".join(captions),
        "details_head": ["number", *map(words.cell_words, group)],
        "details": _details(group, shown.qs),
    }


def _link_to(place: str) -> str:
    file, _, line = place.rpartition(":")
    return f"{REPOSITORY}/{file}#L{line}"


def _place(key: multiple.Key) -> str:
    return f"{key[1].model} × {key[1].dataset}"


_LOW, _HIGH = ", CI low", ", CI high"


def _end(value: float | str | None) -> str:
    return value if isinstance(value, str) else number(value, 4)


def _numbers(group: Sequence[Judgement]) -> list[list[object]]:
    """Return the numbers that came with the estimates; the ends of an interval share a row."""
    names = list(dict.fromkeys(name for j in group for name in j.details))
    rows: list[list[object]] = []
    for name in names:
        of, end = name.removesuffix(_LOW), name.removesuffix(_LOW) + _HIGH
        if name.endswith(_LOW) and end in names:  # two numbers, which come together
            ends = [[_end(j.details.get(each)) for each in (name, end)] for j in group]
            rows.append([f"{of}, CI", *(f"[{low}, {high}]" for low, high in ends)])
        elif not (name.endswith(_HIGH) and name.removesuffix(_HIGH) + _LOW in names):
            rows.append([name, *(j.details.get(name) for j in group)])
    return rows


def _details(group: Sequence[Judgement], qs: Mapping[multiple.Key, float]) -> list[list[object]]:
    """Return the secondary numbers of every cell: a row a number, a column a cell."""
    q = [
        words.probability_words(qs[multiple.key_of(j)]) if j.primary else "not the primary metric"
        for j in group
    ]
    settling: list[object] = ["what would settle it", *map(words.planning_words, group)]
    return [
        *([settling] if set(settling[1:]) != {"–"} else []),
        *_numbers(group),
        ["p value of the verdict", *(words.probability_words(j.p) for j in group)],
        ["q-value, over all primary verdicts", *q],
        ["interval", *(j.estimate.method for j in group)],
        ["by the other method", *(map(words.beside_words, group))],
        ["clusters that tell of it", *(map(words.cluster_words, group))],
        ["conditions", *(", ".join(j.conditions) for j in group)],
        ["seed", *(str(j.seed) for j in group)],
        ["test outcome", *(j.outcome for j in group)],
    ]
