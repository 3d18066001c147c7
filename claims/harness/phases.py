"""What a run does before its first test: explain, measure alone, or measure and go on to judge."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from claims.harness import judging, measuring
from claims.harness.options import Settings
from claims.harness.session import Session

NOTHING_IS_AN_ERROR: Literal["default"] = "default"
"""The filter of warnings in a run of the claims: shown once, at its end, and never raised.

A library's deprecation must not end a run of hours, nor the note that a pass was halved.
"""


def before_tests(session: pytest.Session, settings: Settings, own: Session) -> bool | None:
    """Do what comes before the tests; return True where none is to run."""
    config = session.config
    if session.testscollected == 0 or session.testsfailed or config.option.collectonly:
        return None
    if settings.explain:
        with _uncaptured(config):
            print("\n" + own.explain_all())
        return True
    if settings.measure_only:
        with _uncaptured(config), _warnings_shown(config), contextlib.closing(own):
            outcome = measuring.measure_all(own, _tell)
        session.testsfailed += len(outcome.broken)
        return True
    if not settings.no_measure and not _is_divided(config):
        with _warnings_shown(config), contextlib.closing(own):
            own.measure_first(judging.judge_of(own))
    return None


def refuse_workers(config: pytest.Config, settings: Settings) -> None:
    """Raise UsageError where workers of pytest-xdist are to measure without tests, or by Ray."""
    if settings.executor == "ray" and getattr(config.option, "numprocesses", None):
        raise pytest.UsageError(
            f"--kv-executor ray with -n {config.option.numprocesses}: pass one of the two."
        )
    if settings.measure_only and getattr(config.option, "numprocesses", None):
        raise pytest.UsageError(
            f"--kv-measure-only with -n {config.option.numprocesses}: start several runs with "
            "--kv-measure-only on one --kv-store; they divide the shards between them."
        )


def _tell(line: str) -> None:
    print(line, flush=True)


def _uncaptured(config: pytest.Config) -> Any:
    capture: Any = config.pluginmanager.get_plugin("capturemanager")
    return capture.global_and_fixture_disabled() if capture else contextlib.nullcontext()


def _is_divided(config: pytest.Config) -> bool:
    """Whether workers of pytest-xdist run the tests, each measuring for its own."""
    return hasattr(config, "workerinput") or config.pluginmanager.has_plugin("dsession")


@contextlib.contextmanager
def _warnings_shown(config: pytest.Config) -> Iterator[None]:
    """Show at the end of the run, and never raise, what is warned of outside of any test."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(NOTHING_IS_AN_ERROR)
        yield
    for message in caught:
        config.hook.pytest_warning_recorded.call_historic(
            kwargs={
                "warning_message": message,
                "when": "collect",
                "nodeid": "",
                "location": None,
            }
        )
