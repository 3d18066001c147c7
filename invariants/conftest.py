"""The tiny models that many invariants run on, loaded once a session."""

from __future__ import annotations

import pytest

from kvcore import loading
from kvcore.models import tiny_configs
from kvcore.models.lm import LM


@pytest.fixture(scope="session", params=tiny_configs.NAMES)
def lm(request: pytest.FixtureRequest) -> LM:
    """Every tiny model, one per architecture and rope type, probed."""
    return loading.load(request.param, device="cpu")


@pytest.fixture(scope="session")
def llama() -> LM:
    """The plainest of them, for properties that do not depend on the architecture."""
    return loading.load("tiny-llama", device="cpu")
