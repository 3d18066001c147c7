"""Where a run's reports lie: a folder for each run, and a link to the latest good one.

``reports/out/2026-11-29T03-47-25/`` holds one run; ``reports/out/latest`` points to the last that
judged claims and came to its end, so that no empty or broken off run takes a report away.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

LATEST = "latest"
"""Name of the link."""


def new_folder(out: Path, now: datetime | None = None) -> Path:
    """Return the folder of a run that begins now, which no other run has; nothing is made."""
    name = (now or datetime.now().astimezone()).strftime("%Y-%m-%dT%H-%M-%S")
    number = 1
    folder = out / name
    while folder.exists():
        number += 1
        folder = out / f"{name}-{number}"
    return folder


def publish(folder: Path) -> Path:
    """Make a run's folder the latest one and return the link, or the folder where none can be."""
    link = folder.parent / LATEST
    if link.exists() and not link.is_symlink():
        return folder
    temporary = folder.parent / f".{LATEST}-{os.getpid()}"
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(folder.name, target_is_directory=True)
        os.replace(temporary, link)
    except OSError:  # a file system without links
        return folder
    return link
