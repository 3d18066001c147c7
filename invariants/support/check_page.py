"""Look at a finished page as a browser does: ``python -m invariants.support.check_page page.html``.

Fails, with one line each, on a page that is too large, loads something from elsewhere, is wider
than a phone, or has anything to say on the browser's console. Needs Chromium on the PATH.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

LARGEST = 3_000_000
"""Bytes."""
PHONE = 390
"""Width of a phone in CSS pixels."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=5000",
)
EXTERNAL = re.compile(
    r"<\s*(?:link|script|img|iframe|source)\b[^>]*\b(?:src|href)=[\"'](?:https?:)?//"
)
"""An element that loads something from elsewhere."""
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("check_page_templates")),
    autoescape=True,
    undefined=StrictUndefined,
)
_FINDING = re.compile(r"\sid=.found.>(.*?)<[/]p>")


def problems(page: Path, browser: str) -> Iterator[str]:
    """Yield what is wrong with a page, one line each.

    Parameters
    ----------
    page : Path
        An HTML file.
    browser : str
        Path of Chromium or a browser that takes its flags.
    """
    size = page.stat().st_size
    if size > LARGEST:
        yield f"{size:,} bytes; allowed are {LARGEST:,}"
    text = page.read_text(encoding="utf-8")
    yield from (f"loads from elsewhere: {element}" for element in EXTERNAL.findall(text))
    with tempfile.TemporaryDirectory() as folder:
        # A headless window cannot be as narrow as a phone, a frame in it can: the page in the frame
        # reports what sticks out, and the page around it writes that down for --dump-dom.
        Path(folder, "page.html").write_text(
            text + TEMPLATES.get_template("probe.html").render(), encoding="utf-8"
        )
        around = Path(folder, "around.html")
        around.write_text(
            TEMPLATES.get_template("phone.html").render(width=PHONE), encoding="utf-8"
        )
        for name, place in (("page", page.resolve()), ("page on a phone", around)):
            done = _open(browser, place, Path(folder, "profile"))
            if done.returncode:
                yield f"{name}: the browser ended with {done.returncode}"
                continue
            console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
            yield from (f"{name}, console: {line}" for line in console)
            finding = _FINDING.search(done.stdout)
            excess = finding.group(1) if finding else "unknown"
            if place == around and excess != "0 px":
                yield f"{PHONE} px wide, sticks out by {excess}"


def height(page: Path, browser: str, width: int) -> int:
    """Return the height of a page in CSS pixels in a frame so wide; 0 where it did not say."""
    with tempfile.TemporaryDirectory() as folder:
        probe = TEMPLATES.get_template("height.html").render()
        Path(folder, "page.html").write_text(page.read_text(encoding="utf-8") + probe, "utf-8")
        around = Path(folder, "around.html")
        around.write_text(TEMPLATES.get_template("phone.html").render(width=width), "utf-8")
        done = _open(browser, around, Path(folder, "profile"))
    finding = _FINDING.search(done.stdout)
    said = finding.group(1).removesuffix(" px") if finding else ""
    return int(said) if said.isdigit() else 0


def _open(browser: str, place: Path, profile: Path) -> subprocess.CompletedProcess[str]:
    """Open a page: standard output is the document after its scripts ran, error the console."""
    return subprocess.run(
        [browser, *FLAGS, f"--user-data-dir={profile}", "--dump-dom", place.as_uri()],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def main(arguments: list[str]) -> int:
    """Check the pages named on the command line; return how many are wrong, or 2 without one."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None or not arguments:
        print(f"usage: check_page PAGE... (and one of {', '.join(BROWSERS)} on the PATH)")
        return 2
    wrong = [f"{page}: {line}" for page in arguments for line in problems(Path(page), browser)]
    print("\n".join(wrong) or f"{len(arguments)} page(s), nothing wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
