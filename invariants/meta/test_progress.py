"""How far a run is: counted by batch, shown at a terminal, in a log, and from the controller."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from claims.harness import display
from claims.harness.display import Display, FileListener, in_words, joined, read_progress
from invariants.support.comparing import must_see
from kvcore import progress
from kvcore.progress import Progress

ROOT = Path(__file__).parents[2]


def told_of(work: Callable[[], None]) -> list[Progress]:
    """Return what is told while some work is done."""
    told: list[Progress] = []
    with progress.listening(told.append):
        work()
    return told


# --- counting ------------------------------------------------------------------------------------


def two_parts() -> None:
    """Measure ten rows: four of two texts, six in batches of scores."""
    with progress.task("a model", 10) as task:
        with task.part(4, 2):
            progress.batch_done(1, "texts")
        with task.part(6):
            progress.batch_done(2, "scores")
            progress.batch_done(9, "scores")


def check_counted() -> None:
    """Demand every step of two parts, none beyond its part."""
    assert [each.done for each in told_of(two_parts)] == [0, 2, 4, 6, 10, 10, 10]
    assert [each.ended for each in told_of(two_parts)] == [False] * 6 + [True]


def test_batches_count_at_most_their_part() -> None:
    """Catches a rate that is told once a shard, and one that runs beyond what there is to do."""
    check_counted()


def test_twin_unbounded_batches_are_seen() -> None:
    """If batches counted as they came, the part would be overrun."""

    def overrun(self: progress.Task, items: int, rows_per_item: float | None = None) -> None:
        del rows_per_item
        self._done += items
        self.tell()

    must_see(lambda patch: patch.setattr(progress.Task, "batch", overrun), check_counted)


def parts_of_several_passes() -> None:
    """Measure two shards of four rows, each read twice."""
    with progress.task("a model", 8) as task:
        for _ in range(2):
            with task.part(4):
                for _ in range(4):
                    progress.batch_done(2)


def check_several_passes() -> None:
    """Demand that the second shard's batches count for half, and no end told before the end."""
    told = told_of(parts_of_several_passes)
    assert [each.done for each in told] == [0, 2, 4, 4, 4, 4, 5, 6, 7, 8, 8, 8]
    goes_on = [each for each in told if each.done == 8 and not each.ended]
    assert all(in_words(each).endswith("(100%), not ended yet") for each in goes_on)


def test_rows_that_are_read_several_times() -> None:
    """Catches a line that says that all is done, or nearly, while most of the time is to come."""
    check_several_passes()


def test_twin_nothing_learned_of_a_part_is_seen() -> None:
    """If every part's batches counted whole, the second would be done after half of them."""

    def whole(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(progress.Part, "done", property(lambda part: min(part.rows, part.told)))

    must_see(whole, check_several_passes)


def test_what_broke_is_not_counted() -> None:
    """Catches a shard that is told as kept although Ctrl-C took it."""

    def work() -> None:
        with progress.task("a model", 10) as task, task.part(10):
            progress.batch_done(3, "scores")
            raise KeyboardInterrupt

    told: list[Progress] = []
    with progress.listening(told.append), pytest.raises(KeyboardInterrupt):
        work()
    assert (told[-1].ended, told[-1].done) == (True, 0)


def test_a_task_inside_another_is_a_piece_of_it() -> None:
    """Catches a phase over several cells of which each cell begins at nothing again."""

    def work() -> None:
        with progress.task("all cells", 4):
            for cell in ("one", "two"):
                with progress.task(cell, 2) as task, task.part(2):
                    pass
                with progress.task("other things", 9, "texts") as task, task.part(9):
                    pass

    told = told_of(work)
    assert [(each.label, each.done, each.total) for each in told] == [
        ("all cells", 0, 4), ("one", 2, 4), ("two", 4, 4), ("all cells", 4, 4),
    ]  # fmt: skip


# --- showing -------------------------------------------------------------------------------------

FAR = Progress("smollm2-135m on docstrings", "rows", 120, 900, 60.0)


def shown(terminal: bool, told: list[tuple[float, Progress]]) -> str:
    """Return what a display writes, told of progress at some seconds."""
    stream, now = io.StringIO(), [0.0]
    show = Display(stream, terminal, clock=lambda: now[0])
    for now[0], each in told:
        show(each)
    return stream.getvalue()


def check_log() -> None:
    """Demand a line at once, one in thirty seconds, and one at the end."""
    steps = [(float(t), replace(FAR, done=2 * t, seconds=float(t))) for t in range(70)]
    end = (70.0, replace(FAR, done=900, seconds=70.0, ended=True))
    lines = shown(False, [*steps, end]).splitlines()
    assert lines == [
        "smollm2-135m on docstrings: 0 of 900 rows (0%), begun",
        "smollm2-135m on docstrings: 60 of 900 rows (7%), 2 a second, 7 min left",
        "smollm2-135m on docstrings: 120 of 900 rows (13%), 2 a second, 6 min left",
        "smollm2-135m on docstrings: 900 of 900 rows (100%), took 70 s",
    ]


def test_a_log_gets_a_plain_line_every_thirty_seconds() -> None:
    """Catches a log that is silent, full of lines, or full of control characters."""
    check_log()


def test_twin_a_line_for_each_batch_is_seen() -> None:
    """If every batch had a line, the log would be full of them."""
    must_see(lambda patch: patch.setattr(display, "LOG_SECONDS", 0.0), check_log)


@pytest.mark.parametrize("columns", [40, 80, 100, 200])
def test_a_terminal_gets_one_line_that_fits(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a line that wraps, so that every batch takes a new one."""
    monkeypatch.setenv("COLUMNS", str(columns))
    text = shown(True, [(1.0, FAR), (2.0, replace(FAR, done=140)), (3.0, replace(FAR, ended=True))])
    first, second, last = text.split("\r\x1b[2K")[1:]
    assert last == "", "the line is taken away at the end"
    assert "\n" not in text
    assert max(len(first), len(second)) < columns
    assert "120/900" in first or columns == 40
    assert "6:30" in first.replace("06:30", "6:30") or columns == 40, "the time left"


def test_the_progress_of_workers_is_joined() -> None:
    """Catches two workers of one cell that count it twice, and of two cells that hide one."""
    other = Progress("tiny-llama on docstrings", "rows", 10, 100, 20.0)
    both = joined([FAR, replace(FAR, done=100), other])
    assert both is not None
    assert (both.label, both.done, both.total) == ("2 cells", 130, 1000)
    assert joined([replace(FAR, ended=True)]) is None


def test_a_workers_file_is_read_back(tmp_path: Path) -> None:
    """Catches progress that is lost between the processes, and a half-written file that ends it."""
    FileListener(tmp_path / "gw0.json")(FAR)
    (tmp_path / "gw1.json").write_text("{")
    (tmp_path / "gw2.json").write_text(json.dumps({**asdict(FAR), "more": 1}))
    assert read_progress(tmp_path) == [FAR]


# --- in a session of pytest ----------------------------------------------------------------------

SLOW = """
    import time

    import pytest
    from kvcore import progress

    @pytest.fixture
    def measured():
        with progress.task("a slow model", 4) as task:
            for _ in range(4):
                with task.part(1):
                    print("captured")
                    time.sleep(0.7)

    def test_slow(measured):
        pass
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make a project whose only claim takes three seconds to measure."""
    (tmp_path / "conftest.py").write_text(
        'pytest_plugins = ["claims.harness.plugin", "reports.plugin"]\n'
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "claims").mkdir()
    lines = (line.removeprefix("    ") for line in SLOW.splitlines())
    (tmp_path / "claims" / "test_slow.py").write_text("\n".join(lines))
    return tmp_path


def command(*options: str) -> list[str]:
    """Return how the project's claim is run."""
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "claims", *options]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a run that finds this code."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **more}


@pytest.mark.parametrize("options", [(), ("-n", "1")], ids=["alone", "workers"])
def test_progress_is_seen_in_a_log(project: Path, options: tuple[str, ...]) -> None:
    """Catches a run that is silent while its fixtures measure, as captured output is."""
    done = subprocess.run(
        command(*options), cwd=project, env=environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert "a slow model: 0 of 4 rows (0%), begun" in done.stderr or options
    assert "a slow model: " in done.stderr
    assert "captured" not in done.stdout + done.stderr
    assert "measured: 4 rows in " in done.stdout


def written_to(master: int) -> Iterator[bytes]:
    """Yield what comes out of a terminal until its other end is closed."""
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:
            return
        if not data:
            return
        yield data


def test_progress_is_seen_at_a_terminal(project: Path) -> None:
    """Catches a bar that pytest captures where somebody sits and waits."""
    master, slave = pty.openpty()
    seen: list[bytes] = []
    reader = threading.Thread(target=lambda: seen.extend(written_to(master)))
    reader.start()
    child = subprocess.run(
        command(),
        cwd=project,
        env=environment(TERM="xterm"),
        stdout=slave,
        stderr=slave,
        check=False,
    )
    os.close(slave)
    reader.join(30)
    os.close(master)
    text = b"".join(seen).decode("utf-8", "replace")
    assert child.returncode == 1, "no claim was judged"
    assert "\r\x1b[2Ka slow model:  25%" in text
    assert "\r\x1b[2Ka slow model:  75%" in text
