"""Files of MAWPS and FairytaleQA as the hub has them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset, Features, Value

CAKE = {
    "Question": "Mary bakes . She wants N_00 cups of flour and has N_01 . How many more ?",
    "Numbers": "8.0 2.0",
    "Equation": "N_00 - N_01",
    "Answer": "6.0",
}
MAWPS_GOOD = [
    *[
        CAKE | {"Numbers": f"{8 + i}.0 {2 + i % 3}.0", "Answer": f"{6 + i - i % 3}.0"}
        for i in range(30)
    ],
    *[
        {
            "Question": "A waiter had N_00 customers . If N_01 left and the rest had N_02 people "
            "at each table , how many tables did he have ?",
            "Numbers": f"{22 + 4 * i}.0 14.0 4.0",
            "Equation": "( N_00 - N_01 ) / N_02",
            "Answer": f"{2 + i}.0",
        }
        for i in range(10)
    ],
    *[
        {
            "Question": 'Tom paid N_00 dollars , then N_01 , "all told" .\nHow much ?',
            "Numbers": f"28.3 {i}.25",
            "Equation": "N_00 + N_01",
            "Answer": f"{28 + i}.549999999999997",
        }
        for i in range(2, 8)
    ],
]
MAWPS_COLUMNS = ["Question", "Numbers", "Equation", "Answer"]


def mawps_file(
    folder: Path, rows: Sequence[dict[str, str]], columns: Sequence[str] = MAWPS_COLUMNS
) -> Path:
    """Write a file as mwpt5/MAWPS has it: comma-separated, quoted where needed."""
    path = folder / f"MAWPS-{len(list(folder.iterdir()))}.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


TEXT = Value("string")
# WorkInTheDark/FairytaleQA, config plain_text
FAIRYTALE_FEATURES = Features(
    {
        "story_name": TEXT,
        "story_section": TEXT,
        "question": TEXT,
        "answer1": TEXT,
        "answer2": TEXT,
        "local-or-sum": TEXT,
        "attribute": TEXT,
        "ex-or-im": TEXT,
        "ex-or-im2": TEXT,
    }
)


def tale(
    story: str, section: str, question: str, answer: str | None, **more: str | None
) -> dict[str, str | None]:
    """Return a row about a character, whose answer stands in the text."""
    return {
        "story_name": story,
        "story_section": section,
        "question": question,
        "answer1": answer,
        "answer2": "",
        "local-or-sum": "local",
        "attribute": "character",
        "ex-or-im": "explicit",
        "ex-or-im2": "",
    } | more


WHO = ("fox", "old woman", "king of the hills", "miller", "golden bird", "Hans", "giant", "smith")
FAIRYTALES = [
    tale(
        f"story-{i % 8 // 4}",
        f"one day the {name} went out, far away.  the {name}'s horse was gone. "
        f"{name} wept for {i} days .",
        f"who lost a horse on day {i} ?",
        f"The {name}.",
    )
    for i, name in enumerate(WHO * 5)
]


def fairytale_file(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write a file in the schema of the dataset's card."""
    path = folder / f"{len(list(folder.iterdir()))}.parquet"
    Dataset.from_list(list(rows), features=FAIRYTALE_FEATURES).to_parquet(path)
    assert Features.from_arrow_schema(pq.read_schema(path)) == FAIRYTALE_FEATURES
    return path
