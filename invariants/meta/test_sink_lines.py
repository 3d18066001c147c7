"""What a run says of a model's attention sink as it is loaded: once, and with no effect on rows."""

from __future__ import annotations

import io
import re
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from claims.harness import sink_lines
from claims.harness.display import Display
from claims.harness.sink_lines import SinkLines
from invariants.support.comparing import must_see, replaced
from invariants.support.samples import LONG, SHORT
from kvcore import progress
from kvcore.conditions.parse import condition
from kvcore.measurements.registry import kind_of
from kvcore.measurements.sinks import measure_sinks
from kvcore.models.lm import LM
from kvcore.progress import Progress

FIGURES = (
    r"  bare: slot \d+ \((BOS|document)\) 0\.\d\d, BOS 0\.\d\d; "
    r"primed: slot \d+ \((BOS|prefix|document)\) 0\.\d\d, BOS 0\.\d\d"
)
ANSWERS = kind_of("answer_nll")


def lines_of(lm: LM, *kinds: str) -> list[str]:
    """Return what is said while some cells of a model load it."""
    said: list[str] = []
    own = SinkLines()
    with progress.listening(lambda _: None, said.append):
        for name in kinds:
            kind = kind_of(name)
            own.tell(lm.name, lm, kind, kind.dataset, 0)
    return said


def check_once(lm: LM) -> None:
    """Demand two lines of three cells, the first of which has no questions."""
    lines = lines_of(lm, "hidden_states", "answer_nll", "attention_sinks")
    assert len(lines) == 1
    words, figures = lines[0].splitlines()
    assert words.startswith("tiny-llama: the sink is not BOS (")
    assert re.fullmatch(FIGURES, figures), figures
    assert max(len(words), len(figures)) < 90


def test_a_model_s_sink_is_told_once(llama: LM) -> None:
    """Would catch a line a cell, or none where the first cell has texts alone."""
    check_once(llama)


def forgetful(real: object, own: SinkLines, *arguments: object) -> None:
    """Fault: forget what was told and read."""
    own.__init__()  # type: ignore[misc]
    real(own, *arguments)  # type: ignore[operator]


def test_twin_a_line_per_cell_is_seen(llama: LM) -> None:
    """Would catch a check that counts no lines."""
    must_see(replaced(SinkLines, "tell", forgetful), check_once, llama)


def check_texts_are_read_once(lm: LM) -> None:
    """Demand one reading of texts, however often their model is asked for."""
    kind, reads = kind_of("hidden_states"), list[str]()

    def read(dataset: str) -> Any:
        reads.append(dataset)
        return kind.load_data(dataset)

    own = SinkLines()
    with progress.listening(lambda _: None, lambda _: None):
        for _ in range(3):
            own.tell(lm.name, lm, replace(kind, load_data=read), kind.dataset, 0)
    assert reads == [kind.dataset]


def test_texts_are_read_once(llama: LM) -> None:
    """Would catch texts that are read again with every shard, which asks for the model."""
    check_texts_are_read_once(llama)


def test_twin_texts_read_again_are_seen(llama: LM) -> None:
    """Would catch a count of readings that never rises."""
    must_see(replaced(SinkLines, "tell", forgetful), check_texts_are_read_once, llama)


def test_nothing_is_looked_at_where_nobody_is_shown_it(
    llama: LM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch passes that every worker of a run takes for a line that nobody sees."""
    monkeypatch.setattr(sink_lines, "line", lambda *_: pytest.fail("looked at"))
    SinkLines().tell(llama.name, llama, ANSWERS, "docstrings", 0)


def test_a_model_that_breaks_there_is_told_of(llama: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a line that is no result ending a run of hours."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no such\nkernel")

    monkeypatch.setattr(sink_lines, "diagnose_sinks", broken)
    (line,) = lines_of(llama, "answer_nll")
    assert line == (
        "tiny-llama: where its attention sink is cannot be told (RuntimeError: no such kernel)"
    )


def rows(lm: LM) -> pd.DataFrame:
    names = [condition(name) for name in ("bare", "random", "keep_sink(random)")]
    return measure_sinks(lm, [(sample, names) for sample in (LONG, SHORT)])


def test_rows_are_the_same_with_it_and_without(llama: LM) -> None:
    """Would catch a model left with another attention, or random draws that it moved."""
    before, attention = rows(llama), llama.config._attn_implementation
    lines_of(llama, "answer_nll")
    assert llama.config._attn_implementation == attention
    pd.testing.assert_frame_equal(rows(llama), before, check_exact=True)


def check_uncounted(lm: LM) -> None:
    """Demand that a task's rows are counted as they are without the line."""
    told: list[Progress] = []
    with progress.listening(told.append, lambda _: None), progress.task("a model", 10) as task:
        with task.part(10):
            SinkLines().tell(lm.name, lm, ANSWERS, "docstrings", 0)
            progress.batch_done(3)
    assert [each.done for each in told] == [0, 3, 10, 10]


def test_its_passes_are_not_counted_as_rows(llama: LM) -> None:
    """Would catch a bar that runs ahead of what is measured."""
    check_uncounted(llama)


def test_twin_counted_passes_are_seen(llama: LM) -> None:
    """Would catch a check blind to batches counted as rows."""
    must_see(replaced(progress, "uncounted", lambda _real: nullcontext()), check_uncounted, llama)


@pytest.mark.parametrize(
    ("terminal", "shown"),
    [(True, "\r\x1b[2Kwhere it is\n"), (False, "where it is\n")],
    ids=["terminal", "log"],
)
def test_a_line_stands_apart_from_progress(terminal: bool, shown: str) -> None:
    """Would catch a line written behind the bar, or one that the next bar overwrites."""
    stream = io.StringIO()
    display = Display(stream, terminal, clock=lambda: 0.0)
    display(Progress("a model", "rows", 0, 10, 0.0))
    before = stream.getvalue()
    display.say("where it is")
    assert stream.getvalue() == before + shown
