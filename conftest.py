"""Plugins and the profiles of hypothesis."""

from __future__ import annotations

import os

import hypothesis

pytest_plugins = ["claims.harness.plugin", "reports.plugin"]

# A failing example is told as it was found: shrinking one on models takes minutes, and the texts of
# samples are cut anyway. The nightly run shrinks.
AS_FOUND = (hypothesis.Phase.explicit, hypothesis.Phase.reuse, hypothesis.Phase.generate)

hypothesis.settings.register_profile("dev", deadline=None, max_examples=25, phases=AS_FOUND)
hypothesis.settings.register_profile(
    "ci", deadline=None, max_examples=25, phases=AS_FOUND, derandomize=True, print_blob=True
)
hypothesis.settings.register_profile("quick", deadline=None, max_examples=5, phases=AS_FOUND)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=400)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")
)
