"""What axe-core finds on a finished page, in a browser, with everything unfolded.

Needs Chromium on the PATH, and the package ``axe-core-python``, which holds axe-core's script.
"""

from __future__ import annotations

import html
import importlib.resources
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from markupsafe import Markup

from invariants.support import check_page

SERIOUS = ("serious", "critical")
DARK = ("--blink-settings=preferredColorScheme=0",)
_FOUND = re.compile(r'id="axe-found">(.*?)</p>', re.DOTALL)


def browser() -> str:
    """Return Chromium's path; skips, and says how to get it, where there is none."""
    found = next(filter(None, map(shutil.which, check_page.BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium on the PATH, so no page was looked at: apt-get install chromium")
    pytest.importorskip("axe_core_python", reason="no axe-core: pip install axe-core-python")
    return found


def serious(page: Path, browser: str, width: int, *flags: str) -> list[str]:
    """Return what axe-core calls serious or critical, a line each; light, or dark by `DARK`."""
    axe = importlib.resources.files("axe_core_python").joinpath("axe.min.js").read_text("utf-8")
    script = check_page.TEMPLATES.get_template("axe.html").render(axe=Markup(axe))
    before, end, after = page.read_text(encoding="utf-8").rpartition("</body>")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "page.html")
        place.write_text(before + script + end + after, encoding="utf-8")
        size = f"--window-size={width},900"
        time = "--virtual-time-budget=60000"
        profile = f"--user-data-dir={folder}/profile"
        done = subprocess.run(
            [browser, *check_page.FLAGS, size, time, profile, *flags, "--dump-dom", place.as_uri()],
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
    found = _FOUND.search(done.stdout)
    if found is None:
        return [f"axe-core did not finish; the browser ended with {done.returncode}"]
    violations = json.loads(html.unescape(found.group(1)))
    return [f"{impact}: {name}: {e[:200]}" for impact, name, e in violations if impact in SERIOUS]
