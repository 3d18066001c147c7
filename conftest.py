"""Options, markers and fixtures; every hook calls one function."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest

from claims import options
from claims.harness import hooks as harness

pytest_plugins = ["reports.plugin"]

hypothesis.settings.register_profile("dev", deadline=None, max_examples=25)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=25, derandomize=True,
                                     print_blob=True)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=400)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or (
    "ci" if os.environ.get("CI") else "dev"))


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    harness.configure(config)


def pytest_report_header(config: pytest.Config) -> list[str]:
    return harness.header(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    harness.parametrize(metafunc)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    harness.collected(config, items)


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    return harness.explain_only(session)


@pytest.fixture(name="rows")
def rows_fixture(request: pytest.FixtureRequest, cell: Any) -> Callable[[str], Any]:
    """The cell's rows of one condition: ``rows("bare")``."""
    return harness.rows_of(request, cell)


@pytest.fixture(name="layers")
def layers_fixture(request: pytest.FixtureRequest, cell: Any) -> Callable[[str], Any]:
    """The cell's rows of one condition for every layer: ``layers("values_layer(random,*)")``."""
    return harness.layers_of(request, cell)


@pytest.fixture(name="judge")
def judge_fixture(request: pytest.FixtureRequest, cell: Any) -> Callable[[Any], None]:
    """Judge a finding: pass, fail, skip or xfail by its verdict."""
    return harness.judge_of(request, cell)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    harness.summarize(terminalreporter, config)
