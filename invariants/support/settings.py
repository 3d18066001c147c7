"""Settings of a run of the claims, for tests of what is done with them."""

from __future__ import annotations

from typing import Any

from claims.harness.options import Settings


def settings(**changed: Any) -> Settings:
    """Return settings that are None or False but for those changed."""
    values: dict[str, Any] = dict.fromkeys(Settings.__dataclass_fields__)
    flags = dict.fromkeys(("strict", "record", "no_measure", "explain"), False)
    return Settings(**(values | flags | changed))
