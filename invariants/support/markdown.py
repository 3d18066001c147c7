"""Code blocks and names in Markdown files, as the tests of the documentation read them.

A block's fence may say more than its language::

    ```python file=claims/test_mine.py    saved under that name in a copy of the project
    ```python run                         run there, by this Python
    ```sh run                             its commands, run there one after the other
    ```sh run exit=0,1                    the same, where the last may end with either status
    ```text output                        lines that the command before must have printed, where
                                          `…` stands for anything
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\((?P<target>[^)#\s]+)(?:#[^)]*)?\)")
PATH = re.compile(r"(?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:toml|cff|md|txt)")
DOTTED = re.compile(r"(?:kvcore|claims|reports|invariants|benchmarks)(?:\.\w+)+")
TARGET = re.compile(r"\bmake ((?:[a-z-]+[ ]?)+)")
OPTION = re.compile(r"--kv-[a-z-]+")
VARIABLE = re.compile(r"\bKVCORE_[A-Z_]+\b")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes
    ----------
    language : str
        The first word of the fence.
    words : tuple of str
        The others.
    line : int
        Of the fence, from 1.
    """

    language: str
    words: tuple[str, ...]
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The path under which it is to be saved."""
        return self._option("file=")

    @property
    def exits(self) -> tuple[int, ...]:
        """The exit statuses with which it may end."""
        return tuple(int(status) for status in (self._option("exit=") or "0").split(","))

    def _option(self, name: str) -> str | None:
        return next((w.removeprefix(name) for w in self.words if w.startswith(name)), None)


def blocks(text: str) -> list[Block]:
    """Return every fenced block in order."""
    found = []
    for match in FENCE.finditer(text):
        language, *words = match["info"].split() or [""]
        found.append(
            Block(language, tuple(words), match["text"], text[: match.start()].count("\n") + 1)
        )
    return found


def prose(text: str) -> str:
    """Return the text without its fenced blocks."""
    return FENCE.sub("", text)


def spans(text: str) -> list[str]:
    """Return what stands between single backticks, blocks left out."""
    return CODE.findall(prose(text))


def missing_paths(text: str, folder: Path, root: Path, created: Iterable[str] = ()) -> list[str]:
    """Return the links and the paths between backticks that lead to no file.

    Parameters
    ----------
    folder : Path
        Of the document: links count from there.
    root : Path
        Of the project: paths between backticks count from there, or from `folder`.
    created : iterable of str
        Paths that the document itself has the reader make.
    """
    links = [m["target"] for m in LINK.finditer(prose(text)) if "://" not in m["target"]]
    absent = [link for link in links if not (folder / link).exists()]
    for span in spans(text):
        path = span.split("::")[0]
        if not PATH.fullmatch(path) or path in created or _is_foreign(path):
            continue
        if not any((base / path).exists() for base in (root, folder)):
            absent.append(path)
    return absent


def _is_foreign(path: str) -> bool:
    """Whether a path is no file of the project: an id of the hub, or what a run makes."""
    return path.startswith(("org/", "reports/out", ".kvstore", ".venv"))


def missing_names(text: str) -> list[str]:
    """Return dotted names of the project, in blocks or between backticks, that do not resolve."""
    code = [*spans(text), *(b.text for b in blocks(text) if b.language == "python")]
    names = dict.fromkeys(name for part in code for name in DOTTED.findall(_without_files(part)))
    return [name for name in names if not resolves(name)]


def _without_files(code: str) -> str:
    """Leave out file names such as ``claims.toml``, which look like dotted names."""
    return re.sub(r"[\w./-]+\.(?:py|toml|md|html|json|jsonl|parquet|css)\b", "", code)


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(value, part) and part not in getattr(value, "__annotations__", {}):
                return False
            value = getattr(value, part, None)
        return True
    return False


def unresolved_imports(code: str) -> list[str]:
    """Return what a Python block imports from the project and does not exist."""
    absent = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        absent += [name for name in names if DOTTED.fullmatch(name) and not resolves(name)]
    return absent


def make_targets(makefile: str) -> set[str]:
    """Return the targets of a Makefile that are words."""
    return {
        target
        for line in re.findall(r"^([a-z][a-z -]*):(?!=)", makefile, re.MULTILINE)
        for target in line.split()
    }


def named_targets(text: str) -> Iterator[str]:
    """Yield every target of a ``make`` command, in blocks of shell or between backticks."""
    code = [*spans(text), *(b.text for b in blocks(text) if b.language == "sh")]
    for part in code:
        for line in part.splitlines():
            for match in TARGET.finditer(line.split("#")[0]):
                yield from match[1].split()


def table_rows(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the table below a heading, its own head left out."""
    section = text.split(f"{heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
