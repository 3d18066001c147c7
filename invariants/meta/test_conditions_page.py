"""The page of conditions is what the code explains, and has every condition and prefix."""

from __future__ import annotations

import pytest

from invariants.support import conditions_page
from invariants.support.comparing import must_see
from kvcore.conditions import registry
from kvcore.measurements import explain


def check_page() -> None:
    """The page is written from the explanations of the code at hand."""
    assert conditions_page.PAGE.read_text(encoding="utf-8") == conditions_page.page(), (
        "write docs/conditions.md anew: python -m invariants.support.conditions_page"
    )


def test_the_page_of_conditions_is_what_the_code_explains() -> None:
    """Catches a condition that was changed, or a page that was edited by hand."""
    check_page()

    def see_one_slot_less(patch: pytest.MonkeyPatch) -> None:
        right = explain.visible_line
        patch.setattr(explain, "visible_line", lambda cache, slots: right(cache, ("?", *slots[1:])))

    must_see(see_one_slot_less, check_page)


def test_every_condition_and_prefix_has_an_example() -> None:
    """Catches a condition or a prefix that was added and is not on the page."""
    conditions_page.check_complete()

    def add_a_condition(patch: pytest.MonkeyPatch) -> None:
        patch.setitem(registry.CONDITIONS, "new", registry.CONDITIONS["bare"])

    must_see(add_a_condition, conditions_page.check_complete)
