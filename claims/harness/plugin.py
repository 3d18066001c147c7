"""Options, markers and fixtures of the claims: a plugin of pytest whose hooks call one function.

PYTEST_DONT_REWRITE: nothing here asserts, and a conftest may import it before it registers it.
"""

from __future__ import annotations

from typing import Any

import pytest

from claims.harness import hooks, judging, options


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    hooks.configure(config)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    hooks.tell_worker(node)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    hooks.worker_finished(node)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    hooks.session_finished(session.config)


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


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    hooks.summarize(terminalreporter, config)
