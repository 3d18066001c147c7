"""The page of what is covered: each item once, and every file, claim and count in it as it is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Set
from pathlib import Path

import pytest

from claims.harness import registry

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "coverage.md"
ITEMS = 241
STATES = ("complete", "partial", "missing", "out of scope")
FILE = re.compile(r"`((?:kvcore|claims|invariants|reports|benchmarks|docs)/[^`]+)`")
CLAIM = re.compile(r"`([a-z0-9]+(?:-[a-z0-9]+)+)`")


def rows_of(text: str) -> list[list[str]]:
    """Return the cells of every numbered row."""
    rows = (re.split(r" ?(?<!\\)\| ?", line)[1:-1] for line in text.splitlines())
    return [row for row in rows if row and row[0].isdigit()]


def check_page(text: str, claims: Set[str]) -> None:
    """Demand each item once with a known state, and that what it names exists."""
    rows = rows_of(text)
    assert [int(row[0]) for row in rows] == list(range(1, ITEMS + 1))
    states = [row[4].partition(":")[0] for row in rows]
    assert {*states} <= {*STATES}
    for row, state in zip(rows, states, strict=True):
        _, item, where, tested, said = row
        assert item
        assert (state == "partial") == (": " in said), row
        if state in ("missing", "out of scope"):
            continue
        assert FILE.findall(where), row
        assert FILE.findall(tested) + CLAIM.findall(tested), row
        for name in FILE.findall(f"{where} {tested}"):
            assert (ROOT / name).exists(), (row[0], name)
        absent = {*CLAIM.findall(tested)} - claims
        assert not absent, (row[0], absent)
    counted = Counter(states)
    head = " ".join(text.split("## ")[0].split())
    for number, word in (
        (counted["complete"], "are complete"),
        (counted["partial"], "partial"),
        (counted["missing"], "missing"),
        (counted["out of scope"], "out of scope"),
    ):
        assert f"{number} {word}" in head, (number, word)


@pytest.fixture(scope="module")
def claims() -> set[str]:
    """Return the ids of all claims."""
    return {spec.claim.id for spec in registry.all_specs()}


def test_the_page_names_what_exists(claims: set[str]) -> None:
    """An item that is lost, a file or claim that is gone, a count that is old."""
    check_page(PAGE.read_text("utf-8"), claims)


def test_what_is_out_of_scope_is_said_to_readers() -> None:
    """Something left out of scope that the README does not say."""
    readme = (ROOT / "README.md").read_text("utf-8")
    for words in ("process-reward", "web interface"):
        assert words in readme
        assert words in PAGE.read_text("utf-8").split("## ")[0]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("`kvcore/io.py`", "`kvcore/gone.py`"),
        ("`invariants/store/test_store.py`", "`invariants/store/test_gone.py`"),
        ("`framing-hurts`", "`framing-gone`"),
        ("| 17 |", "| 18 |"),
        ("| complete |", "| done |"),
        ("| complete |", "| missing |"),
        ("| complete |", "| partial |"),
    ],
)
def test_twin_a_page_that_is_off_is_seen(old: str, new: str, claims: set[str]) -> None:
    """A page whose names, numbers and states nobody compares."""
    text = PAGE.read_text("utf-8")
    check_page(text, claims)
    assert old in text
    with pytest.raises(AssertionError):
        check_page(text.replace(old, new, 1), claims)
