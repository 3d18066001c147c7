"""A kind of measurement that needs no model: what adding one takes, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch

from kvcore.io import digest
from kvcore.measurements.base import MeasurementKind, MeasurePlan, MeasureRequest, RowSpec
from kvcore.models.files import ModelFiles
from kvcore.store.schema import COUNT, NUMBER, NUMBERS, RowSchema

SCHEMA = RowSchema({"letters": NUMBER, "by_word": NUMBERS, "words": COUNT}, "letters")
FILES = ModelFiles("tiny-llama", None, "id", "byte-level-x", "built in code", "float32", None)


@dataclass
class Toy:
    """A toy kind, the rows it was asked to measure, and what it adds to every number."""

    source: Path
    version: int = 1
    shift: Callable[[str, str], float] = lambda _sample, _condition: 0.0
    asked: list[tuple[str, str]] = field(default_factory=list)

    def kind(self) -> MeasurementKind:
        """Return the kind as its source file is now."""
        return MeasurementKind(
            name="letters",
            version=self.version,
            schema=SCHEMA,
            folder="_letters",
            sources=(str(self.source),),
            plan=self.plan,
            dataset="words",
            datasets=lambda: ("words",),
            prefix="words:",
        )

    def plan(self, request: MeasureRequest) -> MeasurePlan:
        """Plan every line of a file by every multiple that is needed."""
        lines = Path(request.dataset).read_text("utf-8").splitlines()[: request.limit]
        texts = {json.loads(line)["id"]: json.loads(line)["text"] for line in lines}
        rows = [
            RowSpec(name, digest(text)[:32], need, "letters:1", len(text))
            for name, text in texts.items()
            for need in request.needs
        ]

        def measure(todo: pd.DataFrame) -> pd.DataFrame:
            return pd.DataFrame(
                [
                    self._row(name, condition, texts[name])
                    for name, condition in zip(todo["sample_id"], todo["condition"], strict=True)
                ]
            )

        keys = self.kind().keys(request.files, Path(request.dataset).stem, request.seed, rows)
        return MeasurePlan(keys, measure, {"lines": len(texts)}, shard_samples=4)

    def _row(self, name: str, condition: str, text: str) -> dict[str, Any]:
        self.asked.append((name, condition))
        counts = [float(len(word)) * int(condition) for word in text.split()]
        return {
            "sample_id": name,
            "condition": condition,
            "template": "letters:1",
            "status": "ok",
            "cluster": name,
            "letters": sum(counts) / len(counts) + self.shift(name, condition),
            "by_word": counts,
            "words": len(counts),
        }


def request(folder: Path, needs: tuple[str, ...] = ("1", "2"), limit: int = 20) -> MeasureRequest:
    """Return a request for a file of twenty lines, which is written first."""
    path = folder / "lines.jsonl"
    path.write_text(
        "".join(
            json.dumps({"id": f"l{i:02d}", "text": " ".join("ab" * k for k in range(1, i + 2))})
            + "\n"
            for i in range(20)
        )
    )
    return MeasureRequest(FILES, no_model, str(path), needs, limit, 0, None, folder)


def no_model() -> Any:
    """Return what provenance is read from, in place of a model."""
    config = SimpleNamespace(_attn_implementation="none")
    return SimpleNamespace(device=torch.device("cpu"), config=config, has_bos=False)
