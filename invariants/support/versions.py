"""What the oldest transformers that is supported does not have yet."""

from __future__ import annotations

import pytest
import transformers
from packaging.version import Version

VERSION = Version(transformers.__version__)


def needs_config(name: str) -> pytest.MarkDecorator:
    """Skip a test of an architecture that this version of transformers does not have."""
    return pytest.mark.skipif(
        not hasattr(transformers, name), reason=f"transformers {VERSION} has no {name}"
    )
