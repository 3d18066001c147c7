"""The tiny models that many invariants run on, loaded once a session; axes are checked.

The default run takes every property on a model of each kind of cache and rotation, and what has
the marker ``every_model`` on all of them. Twins, which hang on the tests alone, and the other
models are left to the nightly run.
"""

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


REPRESENTATIVE = ("tiny-llama", "tiny-mistral", "tiny-gemma3", "tiny-phi3", "tiny-longrope")
"""Full and sliding caches, one and two rotations, a part rotated, a rotation that depends on the
length; with and without SentencePiece."""


def is_twin(item: pytest.Item) -> bool:
    """Whether a test breaks what another checks, and demands that it is seen."""
    return "twin" in getattr(item, "originalname", item.name).split("_")


def is_further_model(item: pytest.Item) -> bool:
    """Whether a test is the instance of a tiny model that is represented by another."""
    values = getattr(getattr(item, "callspec", None), "params", {}).values()
    named = {value for value in values if isinstance(value, str) and value in tiny_configs.NAMES}
    return bool(named) and not named & set(REPRESENTATIVE) and not is_marked(item)


def is_marked(item: pytest.Item) -> bool:
    """Whether a test asks for all models in the default run."""
    return item.get_closest_marker("every_model") is not None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave twins and further models to the nightly run."""
    for item in items:
        if is_twin(item) or is_further_model(item):
            item.add_marker(pytest.mark.nightly)


@pytest.fixture(scope="session", params=tiny_configs.NAMES)
def lm(request: pytest.FixtureRequest) -> LM:
    """Every tiny model, one per architecture and rope type, probed."""
    return loading.load(request.param, device="cpu")


@pytest.fixture(scope="session")
def llama() -> LM:
    """The plainest of them, for properties that do not depend on the architecture."""
    return loading.load("tiny-llama", device="cpu")
