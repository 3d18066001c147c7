"""Rows that share texts and name no cluster: seen, counted and said in one line."""

from __future__ import annotations

import pytest

from invariants.support.comparing import must_see
from kvcore.data import repeats
from kvcore.data.sample import Sample


def rows(answers: int, *, clustered: bool = False) -> list[Sample]:
    """Return 30 samples with so many different answers, each with a passage of its own."""
    return [
        Sample(
            query=f"where is animal {i}",
            passage=f"Animal {i} is by a lake.",
            answer=f"by  the lake {i % answers}" if i % 2 else f"By the lake {i % answers}",
            id=str(i),
            cluster=f"lake {i % answers}" if clustered else None,  # type: ignore[arg-type]
        )
        for i in range(30)
    ]


def check_repeats() -> None:
    assert repeats.repeated_texts(rows(6)) == {"answers": 6}
    assert repeats.repeated_texts(rows(30)) == {}
    assert repeats.repeated_texts(rows(6, clustered=True)) == {}
    line = repeats.repeats_line("my.jsonl", rows(6))
    assert line.startswith("my.jsonl: 30 rows have only 6 different answers")
    assert "cluster" in line
    assert "\n" not in line
    assert repeats.repeats_line("my.jsonl", rows(6, clustered=True)) == ""


def test_repeated_answers_without_clusters_are_seen() -> None:
    """Catches repeated answers that go unsaid, a wrong count, or a warning in spite of clusters."""
    check_repeats()


@pytest.mark.parametrize("parts", [("query", "passage", "passage"), ("answer",) * 3])
def test_repeats_twin(parts: tuple[str, ...]) -> None:
    """Another part of a sample that is looked at in place of its answer is seen."""
    must_see(lambda patch: patch.setattr(repeats, "PARTS", parts), check_repeats)
