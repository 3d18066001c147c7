"""Rows that other code measured: a few are measured again, and the rest is adopted or replaced."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from invariants.support.comparing import must_see
from invariants.support.toy_kind import Toy, request
from kvcore import io
from kvcore.errors import KvError, StoreWarning
from kvcore.measurements.collect import CollectedRows, collect_rows, stored_rows
from kvcore.measurements.registry import all_kinds
from kvcore.store import adoption, agreement, shard_file
from kvcore.store.schema import CODE, KEY

pytestmark = pytest.mark.filterwarnings("error::kvcore.errors.StoreWarning")
NEEDS = ("1", "2")


def toy_in(folder: Path) -> Toy:
    """Return a toy kind whose source is in a folder, and the first rows measured by it."""
    source = folder / "toy.py"
    source.write_text("x = 1")
    return Toy(source)


def run(toy: Toy, folder: Path, needs: tuple[str, ...] = NEEDS, limit: int = 20) -> CollectedRows:
    """Collect the toy's rows, and forget what was asked before."""
    toy.asked.clear()
    return collect_rows(toy.kind(), request(folder, needs, limit), folder, progress=None)


def judge(toy: Toy, folder: Path) -> CollectedRows:
    """Return the toy's rows from the store alone."""
    return stored_rows(toy.kind(), model="tiny-llama", dtype="float32", dataset="lines", seed=0,
                       store=folder)  # fmt: skip


def change_code(toy: Toy) -> None:
    """Change the toy's source: its hash is another one."""
    toy.source.write_text(toy.source.read_text() + "\ny = 2")


def records(folder: Path) -> list[Path]:
    """Return the adoption records of the toy's store."""
    return sorted((folder / "_letters").glob("_adopted-*.json"))


def check_adopted(folder: Path) -> None:
    """Change the code but no number; demand three measurements per condition and the old rows."""
    folder.mkdir()
    toy = toy_in(folder)
    first = run(toy, folder)
    change_code(toy)
    again = run(toy, folder)
    assert len(toy.asked) == 3 * len(NEEDS)
    assert {n for _, n in toy.asked} == set(NEEDS)
    assert len({sample for sample, _ in toy.asked}) == 3, "the same samples for every condition"
    pd.testing.assert_frame_equal(again.rows, first.rows)  # the hash of most rows is the old one
    run(toy, folder)
    assert toy.asked == [], "adopted rows were measured again"


def test_rows_of_changed_code_that_agree_are_adopted(tmp_path: Path) -> None:
    """Catches a rename that costs a night: all rows measured again, or none compared."""
    check_adopted(tmp_path / "a")


def test_twin_no_adoption_is_seen(tmp_path: Path) -> None:
    """If nothing were adopted, everything would be measured anew."""
    folders = iter((tmp_path / "a", tmp_path / "b"))
    must_see(
        lambda patch: patch.setattr(adoption, "compare", lambda *_: adoption.Comparison((), {})),
        lambda: check_adopted(next(folders)),
    )


def test_an_adoption_is_recorded_beside_the_rows(tmp_path: Path) -> None:
    """Catches an adoption without evidence: hashes, model, rows, distance and date are named."""
    toy = toy_in(tmp_path)
    old = toy.kind().code
    run(toy, tmp_path)
    change_code(toy)
    toy.shift = lambda _sample, _condition: 1e-5
    facts = run(toy, tmp_path).facts
    (path,) = records(tmp_path)
    record = json.loads(path.read_text())
    assert (record["old"], record["new"]) == (old, toy.kind().code)
    assert record["rows compared"] == 6
    assert 0 < record["largest difference"] < agreement.tolerance("float32")
    assert len(record["date"]) == 10
    (group,) = record["groups"]
    assert {name: group[name] for name in ("model", "model_id", "dtype", "method")} == {
        "model": "tiny-llama", "model_id": "id", "dtype": "float32", "method": "letters/1",
    }  # fmt: skip
    assert group["rows compared"] == {"1": 3, "2": 3}
    assert "6 measured again, at most" in facts["rows by code"]
    assert f"40 rows of {old} (adopted: " in facts["rows by code"]


def check_rejected(folder: Path) -> None:
    """Let one condition's numbers move; demand its rows anew, the others', and one warning."""
    folder.mkdir()
    toy = toy_in(folder)
    first = run(toy, folder)
    change_code(toy)
    toy.shift = lambda _sample, condition: 1e-2 * (condition == "2")
    with pytest.warns(StoreWarning, match="measured again differ") as warned:
        again = run(toy, folder)
    assert len(warned) == 1
    assert "\n" not in str(warned[0].message)
    assert "letters of l" in str(warned[0].message)
    assert len(toy.asked) == 3 + 20
    changed = again.rows["condition"] == "2"
    assert (again.rows.loc[changed, CODE] == toy.kind().code).all()
    apart = (again.rows["letters"] - first.rows["letters"]).abs()
    assert apart[changed].between(0.9e-2, 1.1e-2).all()
    assert (apart[~changed] == 0).all()
    run(toy, folder)
    assert toy.asked == []


def test_rows_that_do_not_agree_are_measured_anew(tmp_path: Path) -> None:
    """Catches numbers of other code that are kept though this code gives others."""
    check_rejected(tmp_path / "a")


def test_twin_a_tolerance_without_bound_is_seen(tmp_path: Path) -> None:
    """If anything agreed with anything, stale rows would be adopted."""
    folders = iter((tmp_path / "a", tmp_path / "b"))

    def check() -> None:
        try:
            check_rejected(next(folders))
        except pytest.fail.Exception as no_warning:
            raise AssertionError from no_warning

    must_see(lambda patch: patch.setitem(agreement.TOLERANCES, "float32", 1.0), check)


def test_a_list_that_moves_is_a_difference(tmp_path: Path) -> None:
    """Catches a comparison of scores alone: here they agree, and numbers per word do not."""
    toy = toy_in(tmp_path)
    run(toy, tmp_path, ("1",))
    change_code(toy)
    row_of = toy._row

    def moved(name: str, condition: str, text: str) -> dict[str, object]:
        row = row_of(name, condition, text)
        return row | {"by_word": [x + 1e-2 for x in row["by_word"]]}

    toy._row = moved  # type: ignore[method-assign]
    with pytest.warns(StoreWarning, match="by_word of l"):
        run(toy, tmp_path, ("1",))


def test_a_status_that_changes_is_a_difference(tmp_path: Path) -> None:
    """Catches rows that this code cannot measure and that stay as other code measured them."""
    toy = toy_in(tmp_path)
    run(toy, tmp_path, ("1",))
    change_code(toy)
    row_of = toy._row
    toy._row = lambda *args: row_of(*args) | {"status": "no"}  # type: ignore[method-assign]
    with pytest.warns(StoreWarning, match="status of l"):
        rows = run(toy, tmp_path, ("1",)).rows
    assert set(rows["status"]) == {"no"}


def test_rows_of_two_older_codes_cost_three_samples_each_condition(tmp_path: Path) -> None:
    """Catches a draw that depends on the hash: every older code would cost measurements."""
    toy = toy_in(tmp_path)
    run(toy, tmp_path, ("1",))
    change_code(toy)
    run(toy, tmp_path)  # adopts "1", measures "2"
    assert len(toy.asked) == 3 + 20
    change_code(toy)
    rows = run(toy, tmp_path).rows
    assert len(toy.asked) == 6
    assert len(rows) == 40
    run(toy, tmp_path)
    assert toy.asked == []


def test_further_samples_of_an_adopted_condition_are_measured(tmp_path: Path) -> None:
    """Catches an adoption that passes for rows which nobody measured."""
    toy = toy_in(tmp_path)
    run(toy, tmp_path, limit=10)
    change_code(toy)
    run(toy, tmp_path, limit=10)
    assert len(run(toy, tmp_path).rows) == 40
    assert len(toy.asked) == 20


def test_a_damaged_record_counts_for_nothing(tmp_path: Path) -> None:
    """Catches a record that was edited by hand: its name is the hash of what it says."""
    toy = toy_in(tmp_path)
    run(toy, tmp_path)
    change_code(toy)
    run(toy, tmp_path)
    (path,) = records(tmp_path)
    path.write_text(path.read_text().replace('"2": 3', '"3": 3'))
    assert adoption.load(toy.kind().store(tmp_path)) == ()
    run(toy, tmp_path)
    assert toy.asked == [], "the three samples are there, only the record is written anew"
    assert len(adoption.load(toy.kind().store(tmp_path))) == 1


def test_a_record_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a full disk that ends in a traceback, or in an adoption that nobody knows of."""
    toy = toy_in(tmp_path)
    run(toy, tmp_path)
    change_code(toy)

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(io, "write_atomically", full_for_json(refuse))
    with pytest.raises(KvError, match="cannot record an adoption: No space left"):
        run(toy, tmp_path)


def full_for_json(refuse: Callable[..., None]) -> Callable[..., None]:
    """Return a writer that fails for records alone."""
    real = io.write_atomically
    return lambda path, data, **more: (refuse if path.suffix == ".json" else real)(
        path, data, **more
    )


# --- judging alone ------------------------------------------------------------------------------


def test_judging_alone_measures_nothing_and_says_what_it_knows(tmp_path: Path) -> None:
    """Catches a judgement that hides which code measured its rows, or that measures."""
    toy = toy_in(tmp_path)
    old = toy.kind().code
    run(toy, tmp_path)
    assert judge(toy, tmp_path).facts["rows by code"] == f"40 rows of {old} (this code)"
    change_code(toy)
    facts = judge(toy, tmp_path).facts["rows by code"]
    assert facts == f"40 rows of {old} (not compared with this code)"
    run(toy, tmp_path)
    toy.asked.clear()
    judged = judge(toy, tmp_path)
    assert f"40 rows of {old} (adopted: 6 measured again" in judged.facts["rows by code"]
    assert f"6 rows of {toy.kind().code} (this code)" in judged.facts["rows by code"]
    assert judged.facts["versions of the code"].startswith("1; 0 rows of")
    new = toy.kind().code
    change_code(toy)
    facts = judge(toy, tmp_path).facts["rows by code"]
    assert f"not compared with this code; adopted by {new}: 6 measured again" in facts
    assert toy.asked == []


# --- rows of store version 1 ----------------------------------------------------------------------


def as_version_1(folder: Path) -> None:
    """Rewrite a store's shards as version 1 wrote them: no method, the code in its place."""
    for path in folder.glob("part-*.parquet"):
        table = pq.read_table(path)
        record = json.loads(table.schema.metadata[b"kvcore"]) | {"version": 1}
        table = table.drop_columns("method").replace_schema_metadata(
            {b"kvcore": json.dumps(record).encode()}
        )
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, write_page_checksum=True)
        data = sink.getvalue().to_pybytes()
        path.unlink()
        (folder / shard_file.name_of(data)).write_bytes(data)


def test_rows_of_store_version_1_are_read_and_adopted(tmp_path: Path) -> None:
    """Catches rows of before that are refused, lost, or taken for those of another method."""
    toy = toy_in(tmp_path)
    first = run(toy, tmp_path)
    as_version_1(tmp_path / "_letters")
    pd.testing.assert_frame_equal(judge(toy, tmp_path).rows, first.rows)
    run(toy, tmp_path)
    assert toy.asked == [], "the same code measured them"
    change_code(toy)
    pd.testing.assert_frame_equal(run(toy, tmp_path).rows, first.rows)
    assert len(toy.asked) == 6


def test_rows_of_store_version_1_are_not_those_of_a_second_version(tmp_path: Path) -> None:
    """Catches a raised version to which older rows count."""
    toy = toy_in(tmp_path)
    run(toy, tmp_path)
    as_version_1(tmp_path / "_letters")
    toy.version = 2
    run(toy, tmp_path)
    assert len(toy.asked) == 40


def test_the_shipped_rows_are_read_whole_under_their_method() -> None:
    """Catches shipped rows that are lost, doubled, or read under another method."""
    shipped = Path(__file__).parents[2] / "reports" / "reference"
    for kind in all_kinds().values():
        store = kind.store(shipped)
        rows = store.read()
        assert len(rows), kind.name
        assert set(rows["method"]) == {kind.method()}
        assert set(rows["code"].str.len()) == {16}
        assert not rows.duplicated([*KEY, CODE]).any()


def check_shipped_rows_are_adopted(shipped: Path) -> None:
    """Demand that one and the same code of each kind measured or adopted all rows of a store."""
    for kind in all_kinds().values():
        store = kind.store(shipped)
        rows, adoptions = store.read(), adoption.load(store)
        newest = {adopted.new for adopted in adoptions}
        assert rows.empty or any(
            adoption.is_accepted(rows, adoptions, new).all() for new in newest
        ), kind.name
        assert all(count > 0 for adopted in adoptions for count in adopted.groups.values())


def test_the_shipped_rows_are_adopted(tmp_path: Path) -> None:
    """Catches shipped rows that no code has measured some of again; with its twin."""
    shipped = Path(__file__).parents[2] / "reports" / "reference"
    check_shipped_rows_are_adopted(shipped)
    copied = tmp_path / "reference"
    shutil.copytree(shipped, copied)
    next(iter(copied.rglob("_adopted-*.json"))).unlink()
    with pytest.raises(AssertionError):
        check_shipped_rows_are_adopted(copied)


def test_the_shipped_rows_are_of_this_version() -> None:
    """Catches shards that are read by rules of an older version alone."""
    shipped = Path(__file__).parents[2] / "reports" / "reference"
    for path in shipped.rglob("part-*.parquet"):
        meta = json.loads(pq.read_schema(path).metadata[b"kvcore"])
        assert meta["version"] == shard_file.VERSION, path.name
