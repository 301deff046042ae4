"""Rows that the recipe's `where` leaves out are in no split, vocabulary or history; numbers of rows stay the file's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest

from rechub_ray.errors import ConfigError, DataError
from rechub_ray.preparation import prepare

LOG = "u,i,t,y\na,1,10,1\na,2,20,0\nb,3,10,\na,4,30,1\nb,5,20,0\nb,6,30,1\n"
KEPT = {
    "i != 2": [1, 3, 4, 5, 6],
    "u == 'a' and t >= 20": [2, 4],
    "y == 1": [1, 4, 6],  # the row without y is not among them
    "not (y == 1)": [2, 5],
    "t - 10": [2, 4, 5, 6],
    "i in (3, 5)": [3, 5],
}


def node(lab: Any, **changes: Any) -> dict[str, Any]:
    features = [{"kind": "numeric", "name": "i"}, {"kind": "categorical", "name": "u"}]
    labels = [{"name": "one", "expression": "1"}]
    result: dict[str, Any] = lab.recipe(
        **{"files": "log.csv", "split": None, "features": features, "labels": labels, "overwrite": True, **changes}
    )
    return result


def items(lab: Any, split: str = "train") -> list[int]:
    return sorted(int(i) for i in lab.split(name=split)["i"])


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("where", KEPT)
def test_the_rows_for_which_it_is_true_are_kept(lab: Any, where: str, form: str) -> None:
    (lab.raw / "log.csv").write_text(LOG)
    if form == "parquet":
        table = pc.read_csv(lab.raw / "log.csv")
        pq.write_table(table, lab.raw / "log.parquet", row_group_size=2)
    prepare(node(lab, where=where, files=f"log.{form}", format={"type": form}))
    assert items(lab) == KEPT[where]


def test_what_is_left_out_is_in_no_history_vocabulary_or_split(lab: Any) -> None:
    (lab.raw / "log.csv").write_text(LOG)
    features = [
        {"kind": "numeric", "name": "i"},
        {"kind": "sequence", "name": "history", "hash_buckets": 1 << 30},
        {"kind": "categorical", "name": "y"},
    ]
    history = {"user": "u", "item": "i", "order": "t"}
    split = {"by": "leave_last_out", "user": "u", "order": "t", "valid": 0}
    prepare(node(lab, where="i != 4 and i != 5", features=features, history=history, split=split))
    assert items(lab) == [1, 3]
    assert items(lab, "test") == [2, 6]
    assert sorted(len(row) for row in lab.split(name="test")["history"]) == [1, 1]
    assert pq.read_table(Path(lab.out) / "vocab" / "y.parquet")["value"].to_pylist() == ["1"]


def test_a_split_by_time_goes_by_the_rows_that_are_left(lab: Any) -> None:
    (lab.raw / "log.csv").write_text("u,i,t\n" + "".join(f"a,{i},{i}\n" for i in range(100)))
    split = {"by": "time", "column": "t", "fractions": {"train": 0.5, "test": 0.5}}
    prepare(node(lab, where="i >= 90", split=split))
    assert items(lab) == [90, 91, 92, 93, 94]


def test_keys_of_folders(lab: Any) -> None:
    for day in (1, 2, 3):
        folder = lab.raw / f"dt=2026-01-0{day}"
        folder.mkdir()
        (folder / "log.csv").write_text(f"u,i\na,{day}\n")
    prepare(node(lab, files="dt=*", where="dt >= '2026-01-02'"))
    assert items(lab) == [2, 3]


def test_a_bad_row_keeps_its_number(lab: Any) -> None:
    (lab.raw / "log.csv").write_text("u,i\na,1\na,2\na,nothing\n")
    with pytest.raises(DataError, match=r"log\.csv, row 4"):
        prepare(node(lab, where="u == 'a'"))
    (lab.raw / "log.csv").write_text("u,i\na,1\na,0\n")
    with pytest.raises(DataError, match=r"log\.csv, row 3"):
        prepare(node(lab, where="1 / i > 0"))


def test_nothing_is_left(lab: Any) -> None:
    (lab.raw / "log.csv").write_text(LOG)
    with pytest.raises(DataError, match=r"'train' has no rows.*'where: i > 100'"):
        prepare(node(lab, where="i > 100"))


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("i >", "'i >' is not an expression"),
        ("open('x')", "expression"),
        ("'u'", "is a text, not a number or a truth value"),
        ("nothing == 1", "nothing"),
        ("age > 3", "'where' reads 'age', which is no column of the input files"),
    ],
)
def test_what_cannot_be_one_is_refused(lab: Any, where: str, message: str) -> None:
    (lab.raw / "log.csv").write_text(LOG)
    (lab.raw / "users.csv").write_text("u,age\na,3\nb,4\n")
    joins = [{"file": "users.csv", "key": "u", "columns": ["age"]}]
    features = [{"kind": "numeric", "name": "age"}, {"kind": "numeric", "name": "i"}]
    with pytest.raises((ConfigError, DataError), match=message):
        prepare(node(lab, where=where, joins=joins, features=features))
