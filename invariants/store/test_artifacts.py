"""Texts that a model wrote: written once, and by other code only where it writes the same."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from invariants.support.comparing import must_see
from kvcore.errors import StoreWarning
from kvcore.store import artifact_names, artifacts
from kvcore.store.artifacts import ArtifactKind, Key

pytestmark = pytest.mark.filterwarnings("error::kvcore.errors.StoreWarning")
KIND = ArtifactKind("texts", ("model", "method", "sample"), "text", {"method": "m/1"})
KEYS: list[Key] = [("model", "m/1", f"s{i}") for i in range(10)]


class Writer:
    """A model that writes, and the samples it was asked for."""

    def __init__(self, text: str = "text") -> None:
        self.text = text
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, indices: Sequence[int]) -> list[str]:
        self.asked.append(tuple(KEYS[i][-1] for i in indices))
        return [f"{self.text} of {KEYS[i][-1]}" for i in indices]


def obtain(folder: Path, write: Callable[..., list[str]], code: str, count: int = 10) -> list[str]:
    """Obtain the first texts, four a file."""
    return artifacts.obtain(
        folder, KIND, KEYS[:count], write, code=code, setting=("model", "m/1"), per_file=4
    )


def texts(word: str, numbers: Iterable[int] = range(10)) -> list[str]:
    """Return the texts that a writer of a word writes."""
    return [f"{word} of s{i}" for i in numbers]


def test_texts_are_written_once_a_file_at_a_time(tmp_path: Path) -> None:
    """Catches texts that are written again, or files that depend on what is there already."""
    writer = Writer()
    assert obtain(tmp_path, writer, "a", 3) == texts("text", range(3))
    assert obtain(tmp_path, writer, "a") == texts("text")
    assert writer.asked == [("s0", "s1", "s2"), ("s3",), ("s4", "s5", "s6", "s7"), ("s8", "s9")]
    assert obtain(tmp_path, writer, "a") == texts("text")
    assert len(writer.asked) == 4
    assert len(list(tmp_path.glob("texts-*.jsonl"))) == 4


def check_same_by_other_code(folder: Path) -> None:
    """Let other code write the same; demand three texts again, and no more the next time."""
    obtain(folder, Writer(), "a")
    writer = Writer()
    assert obtain(folder, writer, "b") == texts("text")
    assert [len(asked) for asked in writer.asked] == [3]
    assert obtain(folder, writer, "b") == texts("text")
    assert len(writer.asked) == 1


def test_texts_of_other_code_count_if_some_are_written_again_alike(tmp_path: Path) -> None:
    """Catches a rename that makes every text be written anew, or none compared."""
    check_same_by_other_code(tmp_path)


def check_other_texts(folder: Path) -> None:
    """Let other code write otherwise; demand its own texts and one warning."""
    obtain(folder, Writer("old"), "a")
    writer = Writer("new")
    with pytest.warns(StoreWarning, match="differ from those that code a wrote") as warned:
        assert obtain(folder, writer, "b") == texts("new")
    assert len(warned) == 1
    assert sum(map(len, writer.asked)) == 10
    assert obtain(folder, writer, "b") == texts("new")
    assert sum(map(len, writer.asked)) == 10
    assert obtain(folder, Writer("old"), "a") == texts("old"), "each code has its own"


def test_texts_that_other_code_would_not_write_are_written_anew(tmp_path: Path) -> None:
    """Catches stale texts under a new code, and new ones under the code of before."""
    check_other_texts(tmp_path)


def test_twin_texts_of_any_code_are_seen(tmp_path: Path) -> None:
    """If nothing were compared, stale texts would count."""
    folders = iter((tmp_path / "a", tmp_path / "b"))

    def check() -> None:
        try:
            check_other_texts(next(folders))
        except pytest.fail.Exception as no_warning:
            raise AssertionError from no_warning

    must_see(lambda patch: patch.setattr(artifacts, "COMPARED_TEXTS", 0), check)


def test_texts_of_before_the_method_had_a_column_are_read(tmp_path: Path) -> None:
    """Catches files of before that are lost: their code stood in the key, the method nowhere."""
    old = ArtifactKind("texts", ("model", "code", "sample"), "text")
    record = {"time": 1.0, "id": "x"}
    lines = [json.dumps({"model": "model", "code": "a", "sample": key[-1],
                         "text": f"text of {key[-1]}", **record}) for key in KEYS]  # fmt: skip
    assert old.stem == KIND.stem
    data = "".join(f"{line}\n" for line in lines).encode()
    path = tmp_path / f"texts-1-{artifact_names.fingerprint(data)}.jsonl"
    path.write_bytes(data)
    writer = Writer()
    assert obtain(tmp_path, writer, "a") == texts("text")
    assert writer.asked == []


def check_damage(folder: Path) -> None:
    """Change a file's bytes; demand a warning, the file aside, and its texts again."""
    obtain(folder, Writer(), "a")
    victim = min(folder.glob("texts-*"))
    victim.write_bytes(victim.read_bytes().replace(b"text of", b"bad of"))
    with pytest.warns(StoreWarning, match="is damaged"):
        assert obtain(folder, Writer(), "a") == texts("text")
    assert victim.with_name(f"_{victim.name}.damaged").exists()


def test_a_damaged_file_is_set_aside_and_written_again(tmp_path: Path) -> None:
    """Catches a changed file whose texts are taken for the model's."""
    check_damage(tmp_path)


def test_of_two_that_want_the_same_texts_one_writes(tmp_path: Path) -> None:
    """Catches a lock that is not held while texts are written."""
    writer = Writer()

    def slow(indices: Sequence[int]) -> list[str]:
        time.sleep(0.05)
        return writer(indices)

    threads = [threading.Thread(target=obtain, args=(tmp_path, slow, "a")) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(map(len, writer.asked)) == 10
