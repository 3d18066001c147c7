"""Files that several users share: what may be read of them is the umask's to say."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from invariants.support.comparing import must_see
from kvcore import io


def check_permissions(folder: Path) -> None:
    """Demand a written file with the permissions that the umask leaves, whichever it is."""
    for mask in (0o022, 0o002, 0o077):
        path = folder / f"{mask}.json"
        before = os.umask(mask)
        try:
            io.write_atomically(path, "{}\n")
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_a_file_has_the_permissions_that_the_umask_leaves(tmp_path: Path) -> None:
    """Catches a store that its group cannot read, or that everybody can."""
    check_permissions(tmp_path)

    def private(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(Path, "chmod", lambda *_: None)

    must_see(private, check_permissions, tmp_path)
