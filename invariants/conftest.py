"""The tiny models that many invariants run on, loaded once a session; axes are checked."""

from __future__ import annotations

import pytest

from invariants.support.axes import check_axes
from kvcore import loading
from kvcore.cache import batch, hf_cache, kv_cache, masks, rope
from kvcore.engine import attention_shares
from kvcore.models import attention, tiny_configs
from kvcore.models.lm import LM

for module in (batch, hf_cache, kv_cache, masks, rope, attention, attention_shares):
    check_axes(module)


@pytest.fixture(scope="session", params=tiny_configs.NAMES)
def lm(request: pytest.FixtureRequest) -> LM:
    """Every tiny model, one per architecture and rope type, probed."""
    return loading.load(request.param, device="cpu")


@pytest.fixture(scope="session")
def llama() -> LM:
    """The plainest of them, for properties that do not depend on the architecture."""
    return loading.load("tiny-llama", device="cpu")
