"""The tiny models that many invariants run on, loaded once a session."""

from __future__ import annotations

import pytest

import kvcore
from kvcore import tiny
from kvcore.models import LM


@pytest.fixture(scope="session", params=tiny.NAMES)
def lm(request: pytest.FixtureRequest) -> LM:
    """Every tiny model, one per architecture and rope type, probed."""
    return kvcore.load(request.param, device="cpu")


@pytest.fixture(scope="session")
def llama() -> LM:
    """The plainest of them, for properties that do not depend on the architecture."""
    return kvcore.load("tiny-llama", device="cpu")
