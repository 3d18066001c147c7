"""What is wrong with a run's settings that can be known before anything is collected."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from claims.harness.options import Settings
from kvcore.errors import KvError
from kvcore.models import folder_checks
from kvcore.models.registry import entry_of

_DEVICE = re.compile(r"auto|cpu|mps|(cuda|xpu)(:\d+)?")


def check(settings: Settings) -> None:
    """Raise KvError, one line, for a device that is none and a store that cannot be used.

    Also for a model's folder that is asked for by its path and whose files are not a whole model.
    """
    if not _DEVICE.fullmatch(settings.device):
        raise KvError(f"--kv-device {settings.device!r}: pass auto, cpu, cuda or cuda:<n>.")
    check_store(settings.store, reads_only=settings.no_measure)
    if not settings.no_measure:  # stored rows are judged without their model
        for name in settings.models:
            check_folder(name)


def check_folder(name: str) -> None:
    """Raise KvError for a local folder whose files are not a whole model; weights are not read."""
    if entry_of(name).source == "folder":
        folder_checks.check_files(name, Path(name))


def check_store(store: Any, *, reads_only: bool) -> None:
    """Raise KvError for a store on this machine that is no folder, or lacks the rights it takes.

    - `reads_only`: whether rows are read from it alone, so that it must be there.
    """
    if not isinstance(store, Path):  # somebody else's, who checks it
        return
    if store.exists() and not store.is_dir():
        raise KvError(f"--kv-store {store}: that is a file; pass a folder.")
    if reads_only and not store.is_dir():
        raise KvError(
            f"--kv-store {store}: there is no such folder, and --kv-no-measure judges what is "
            "stored; measure first, or pass reports/reference."
        )
    if not reads_only:
        nearest = next(folder for folder in (store, *store.parents) if folder.exists())
        if not os.access(nearest, os.W_OK):
            raise KvError(f"--kv-store {store}: {nearest} cannot be written; pass another folder.")
