"""A failing invariant says what broke in few lines."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from invariants.support.comparing import must_see
from kvcore.models.lm import LM

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[2]
MOST_LINES = 40
FAILING = """
    import pytest
    from hypothesis import given

    import kvcore
    from invariants.support import strategies
    from invariants.support.strategies import few

    @pytest.fixture(scope="module")
    def tiny():
        return kvcore.load("tiny-llama", device="cpu")

    @few
    @given(batch=strategies.batches(4))
    def test_scores(tiny, batch):
        cache = kvcore.prime(tiny, batch[0].passage, "random", query=batch[0].query)
        scores = kvcore.score(tiny, batch, ["bare", "random"])
        assert cache.slots < 0 or (scores["nll"] < 0).all(), f"{tiny}, {cache}, {scores}"
"""


def lines_of_a_failure(pytester: pytest.Pytester) -> list[str]:
    """Return what is told of an invariant that fails, under the project's settings."""
    shutil.copy(ROOT / "pyproject.toml", pytester.path)
    pytester.makeconftest((ROOT / "conftest.py").read_text(encoding="utf-8"))
    test = pytester.makepyfile(FAILING)
    done = pytester.runpytest_inprocess("-p", "no:cacheprovider", str(test))
    done.assert_outcomes(failed=1)
    text = done.stdout.str().split("= FAILURES =")[1]
    return re.split(r"=+ (?:short test summary info|1 failed)", text)[0].splitlines()


def check_short(pytester: pytest.Pytester) -> None:
    """Demand few lines, with the assertion, the model and the example among them."""
    told = lines_of_a_failure(pytester)
    text = "\n".join(told)
    assert len(told) <= MOST_LINES, f"{len(told)} lines"
    for part in ("AssertionError", "<LM tiny-llama", "<KVCache of 1 rows", "Sample(query="):
        assert part in text


def test_a_failing_invariant_is_told_in_few_lines(
    llama: LM, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches thousands of lines of weights and settings in which the reason is lost."""
    del llama  # loaded once here, so that the session inside finds its modules again
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    check_short(pytester)


def test_twin_a_model_told_whole_is_seen(
    llama: LM, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a model showed its layers, the failure would be longer."""
    del llama
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    must_see(
        lambda patch: patch.setattr(LM, "__repr__", lambda lm: f"<LM {lm.name} {lm.model}>\n" * 2),
        check_short, pytester,
    )  # fmt: skip
