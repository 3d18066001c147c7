"""Options, markers and fixtures; every hook calls one function."""

from __future__ import annotations

import os
from typing import Any

import hypothesis
import pytest

from claims.harness import hooks, judging, options

pytest_plugins = ["reports.plugin"]

hypothesis.settings.register_profile("dev", deadline=None, max_examples=25)
hypothesis.settings.register_profile(
    "ci", deadline=None, max_examples=25, derandomize=True, print_blob=True
)
hypothesis.settings.register_profile("quick", deadline=None, max_examples=5)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=400)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")
)


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    hooks.configure(config)


def pytest_report_header(config: pytest.Config) -> list[str]:
    return hooks.header(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    hooks.parametrize(metafunc)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    hooks.collected(config, items)


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    return hooks.resources_lines(config)


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    return hooks.before_tests(session)


@pytest.fixture(name="judge")
def judge_fixture(request: pytest.FixtureRequest, cell: Any) -> judging.Conclusion:
    """Measure, compute and judge the claim: whatever breaks here is an error."""
    return hooks.judged(request, cell)


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    return hooks.tell(pyfuncitem)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    hooks.summarize(terminalreporter, config)
