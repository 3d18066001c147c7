"""Of a docstring only what a person would read aloud is read."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvcore.data.docstrings import prose

FULL = """f(x, *, out=None) -> array

Turn a row of `numbers` into a *shorter* row. More of the summary is prose.

The rows are read by :func:`~numpy.fft.fft` and ``np.sum``, see [1]_ for
the proof. It keeps :math:`\\alpha` small. It was shown before [2]_, e.g. Knuth did it.
It is of unit length in :ref:`this part <there>`.

.. note::
    Rows that are empty are kept.

.. code-block:: python

    # Forget the code.

For example:

>>> forget.me()
3

where z is forgotten. The end (of it) stays.

- a list item, forgotten.

Note:
    Rows that are long are cut.

Parameters
----------
x : array
    Forget this description.

Args:
    y: Forget this one too.

Notes
-----
Rows are independent of each other. As shown below::

    forget.this()

**Array API Standard Support**

`f` has experimental support. Forget CuPy.

References
----------
.. [1] Forget the book.
"""


def assert_only_prose(doc: str) -> None:
    """The reading of ``FULL`` is exactly what a person would read aloud."""
    assert prose.read(doc) == prose.Prose(
        "Turn a row of numbers into a shorter row.",
        (
            "More of the summary is prose.",
            "It was shown before, e.g. Knuth did it.",
            "It is of unit length in this part.",
            "Rows that are empty are kept.",
            "The end (of it) stays.",
            "Rows that are long are cut.",
            "Rows are independent of each other.",
        ),
    )


def test_only_prose_is_read() -> None:
    """Catches signature, code, lists, parameters, citations, formulas or markup read as prose."""
    assert_only_prose(FULL)


NEVER = re.compile(r"(?!)")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ARRAY_API", NEVER),
        ("SIGNATURE", NEVER),
        ("BULLET", NEVER),
        ("UNDERLINE", NEVER),
        ("GOOGLE", NEVER),
        ("CITED", NEVER),
        ("MARKUP", NEVER),
        ("INLINE", ()),
        ("ABBREVIATION", NEVER),
        ("PROSE_DIRECTIVES", frozenset()),
        ("PROSE_DIRECTIVES", frozenset({"note", "code-block"})),
        ("PROSE_SECTIONS", frozenset()),
        ("stands_alone", lambda _sentence: True),
        ("is_prose", lambda _block: True),
    ],
)
def test_a_reader_that_lost_a_rule_is_noticed(
    name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twin: catches each rule switched off in turn."""
    monkeypatch.setattr(prose, name, value)
    with pytest.raises(AssertionError):
        assert_only_prose(FULL)


@given(doc=st.text(st.sampled_from(" \n.:`*-=>[]_()|ax1A\\%\ud800\x00"), max_size=80))
def test_any_text_can_be_read(doc: str) -> None:
    """Catches a crash on odd text, and a sentence that does not stand alone."""
    assert all(prose.stands_alone(sentence) for sentence in prose.read(doc).sentences)
