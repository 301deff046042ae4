"""Rows from memory as shards, against the same rows taken apart by hand."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rechub_ray.data import convert
from rechub_ray.data.convert import write_rows
from rechub_ray.data.manifest import Manifest
from rechub_ray.errors import DataError
from rechub_ray.schema import DenseFeature, Label, Schema, SequenceFeature, SparseFeature

SCHEMA = Schema(
    (
        SparseFeature("item", 10),
        DenseFeature("price"),
        DenseFeature("vector", dim=2),
        SequenceFeature("history", 10, max_length=4),
    ),
    (Label("click"),),
)
ROWS: dict[str, Any] = {
    "item": [3, 0, 9],
    "price": [0.5, -1.0, 2.0],
    "vector": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
    "history": [[1, 2], [], [7, 8, 9]],
    "click": [1, 0, 1],
}


def read_back(folder: Path) -> dict[str, Any]:
    return pq.read_table(folder / "part-00000.parquet").to_pydict()


def a_loader() -> list[Any]:
    x = {
        "item": torch.tensor([3, 0, 9]),
        "price": torch.tensor([0.5, -1.0, 2.0]),
        "vector": torch.tensor(ROWS["vector"]),
        "history": torch.tensor([[1, 2, -1], [-1, -1, -1], [7, 8, 9]]),
    }
    return [({k: v[:2] for k, v in x.items()}, torch.tensor([1, 0])), ({k: v[2:] for k, v in x.items()}, [1.0])]


@pytest.mark.parametrize("form", ["frame", "table", "loader"])
def test_every_form_gives_the_same_typed_shard(tmp_path: Path, form: str) -> None:
    data = {"frame": lambda: pd.DataFrame(ROWS, index=[7, 7, 7]), "table": lambda: pa.table(ROWS), "loader": a_loader}
    assert write_rows(data[form](), str(tmp_path), SCHEMA) == 3
    assert read_back(tmp_path) == {**ROWS, "click": [1.0, 0.0, 1.0]}
    schema = pq.read_schema(tmp_path / "part-00000.parquet")
    assert schema.field("item").type == pa.int32()
    assert schema.field("history").type == pa.list_(pa.int32())
    assert schema.field("vector").type == pa.list_(pa.float32(), 2)
    assert Manifest.scan(tmp_path, SCHEMA).rows == 3


def test_many_small_batches_become_full_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "ROW_GROUP_ROWS", 8)
    schema = Schema((SparseFeature("item", 1000),), (Label("click"),))
    batches = [({"item": torch.arange(i * 3, i * 3 + 3)}, torch.zeros(3)) for i in range(7)]
    assert write_rows(batches, str(tmp_path), schema) == 21
    (file,) = Manifest.scan(tmp_path, schema).files
    assert file.row_groups == (8, 8, 5)
    assert file.is_sealed
    assert read_back(tmp_path)["item"] == list(range(21))


def test_the_id_that_pads_is_dropped_wherever_it_stands(tmp_path: Path) -> None:
    schema = Schema((SequenceFeature("history", 10),), (Label("click"),))
    rectangle = torch.tensor([[0, 0, 3, 4], [5, 0, 0, 0], [0, 0, 0, 0]])
    write_rows([({"history": rectangle}, torch.zeros(3))], str(tmp_path), schema, padding={"history": 0})
    assert read_back(tmp_path)["history"] == [[3, 4], [5], []]
    write_rows(
        pd.DataFrame({"history": [[0, 3], None], "click": [0, 1]}), str(tmp_path), schema, padding={"history": 0}
    )
    assert read_back(tmp_path)["history"] == [[3], []]


def test_ids_that_a_loader_made_floats(tmp_path: Path) -> None:
    schema = Schema((SparseFeature("item", 2**25),), (Label("click"),))
    write_rows([({"item": np.array([16777217.0, 2.0])}, [0, 1])], str(tmp_path), schema)
    assert read_back(tmp_path)["item"] == [16777217, 2]
    with pytest.raises(DataError, match=r"2\.5"):
        write_rows([({"item": np.array([2.5])}, [0])], str(tmp_path), schema)


def test_predictions_need_no_labels(tmp_path: Path) -> None:
    schema = Schema((SparseFeature("item", 10),), (Label("click"),))
    for data in ([{"item": torch.tensor([1, 2])}], pd.DataFrame({"item": [1, 2]})):
        assert write_rows(data, str(tmp_path), schema, targets=False) == 2
        assert read_back(tmp_path) == {"item": [1, 2]}


def test_what_was_in_the_folder_is_gone(tmp_path: Path) -> None:
    (tmp_path / "old.parquet").write_bytes(b"old")
    write_rows(pa.table(ROWS), str(tmp_path), SCHEMA)
    assert [path.name for path in tmp_path.iterdir()] == ["part-00000.parquet"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pd.DataFrame({**ROWS, "item": ["a", "b", "c"]}), "column 'item', row 0,.*whole numbers.*'a'.*factorize"),
        (pd.DataFrame({k: v for k, v in ROWS.items() if k != "price"}).assign(prize=1.0), "'price'.*'prize'"),
        (pd.DataFrame({**ROWS, "vector": [[1.0], [2.0], [3.0]]}), "column 'vector' does not fit"),
        (pd.DataFrame({**ROWS, "history": [["a"], [], []]}), "column 'history' does not fit.*lists of integers"),
        (pd.DataFrame(ROWS).iloc[:0], "no rows"),
        (7, "cannot read rows.*DataLoader.*int"),
        ([torch.zeros(2)], "a batch is not"),
        ([({k: np.array(ROWS[k]) for k in ("item", "price", "vector")}, [0, 1, 1])], "no column 'history'"),
        ([(a_loader()[0][0], torch.zeros(2, 3))], "wrong number of labels.*1 .click.*3"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, data: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"(?s)the clicks.*{message}"):
        write_rows(data, str(tmp_path), SCHEMA, what="the clicks")


def test_ids_too_large_for_the_column_are_refused(tmp_path: Path) -> None:
    schema = Schema((SparseFeature("item", 10),), (Label("click"),))
    with pytest.raises(DataError, match="column 'item' does not fit"):
        write_rows(pa.table({"item": [2**40], "click": [0]}), str(tmp_path), schema)


INDEX = ["x", "y", "z"]


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("item", [3, None, 9], ["column 'item', row 1 (index 'y')", "null", "frame['item'].fillna(0)", "id 0"]),
        ("item", [3, 4.5, 9], ["column 'item', row 1 (index 'y')", "4.5", "whole numbers"]),
        ("item", [3, 4, 10], ["column 'item', row 2 (index 'z')", "10", "an id in [0, 10)"]),
        ("item", [3, 4, -1], ["column 'item', row 2 (index 'z')", "-1", "an id in [0, 10)"]),
        ("item", ["3", "x7", "9"], ["column 'item', row 1 (index 'y')", "'x7'", "factorize"]),
        ("item", pd.Categorical(["a", "b", "a"]), ["column 'item', row 0 (index 'x')", "'a'", "factorize"]),
        ("price", [0.5, None, 2], ["column 'price', row 1 (index 'y')", "null", "frame['price'].fillna(0)"]),
        ("price", ["1", "", "cheap"], ["column 'price', row 1 (index 'y')", "a number", "''"]),
        ("price", [0.5, np.inf, 2], ["column 'price', row 1 (index 'y')", "inf"]),
        ("vector", [[1.0, 2.0], [3.0, None], [5.0, 6.0]], ["column 'vector', row 1 (index 'y')", "null"]),
        ("history", [[1], None, [3, 12]], ["column 'history', row 2 (index 'z')", "12"]),
        ("history", [[1], [None], [3]], ["column 'history', row 1 (index 'y')", "null"]),
        ("click", [1, None, 0], ["column 'click', row 1 (index 'y')", "null", "optional: true"]),
        ("click", [1, -1, 1], ["column 'click', row 1 (index 'y')", "-1", "(frame['click'] > 0) * 1"]),
        ("click", [1, 2, 1], ["column 'click', row 1 (index 'y')", "2", "0 or 1"]),
        ("click", ["1", "no", "0"], ["column 'click', row 1 (index 'y')", "'no'", "a number"]),
    ],
)
def test_a_bad_value_is_named_with_the_row_of_the_users_frame(
    tmp_path: Path, column: str, values: Any, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "ROW_GROUP_ROWS", 1)
    frame = pd.DataFrame({**ROWS, column: values}, index=INDEX)
    with pytest.raises(DataError) as caught:
        write_rows(frame, str(tmp_path / "data"), SCHEMA, what="the clicks")
    message = str(caught.value)
    assert message.startswith("the clicks")
    assert "\n" not in message
    for word in words:
        assert word in message, message
    assert caught.value.__suppress_context__
    assert not list(tmp_path.rglob("*.parquet"))


def test_the_row_counts_over_all_batches(tmp_path: Path) -> None:
    schema = Schema((SparseFeature("item", 10),), (Label("click"),))
    batches = [({"item": torch.tensor([1, 2])}, torch.zeros(2)), ({"item": torch.tensor([1, 99])}, torch.zeros(2))]
    with pytest.raises(DataError, match="column 'item', row 3, holds a bad value"):
        write_rows(batches, str(tmp_path), schema)


@pytest.mark.parametrize(
    "values",
    [[3.0, 0.0, 9.0], ["3", "0", "9"], ["3.0", " 0", "9"], pd.Categorical([3, 0, 9]), pd.Categorical(["3", "0", "9"]),
     pd.array([3, 0, 9], dtype="Int64"), pd.array([3, 0, 9], dtype="Float32"), np.array([3, 0, 9], np.uint8),
     pd.array([3, 0, 9], dtype="int64[pyarrow]"), pd.Series([3, 0, 9], dtype=object).to_numpy()],
)  # fmt: skip
def test_ids_in_any_form_are_taken(tmp_path: Path, values: Any) -> None:
    write_rows(pd.DataFrame({**ROWS, "item": values}), str(tmp_path), SCHEMA)
    assert read_back(tmp_path)["item"] == [3, 0, 9]


@pytest.mark.parametrize("values", [[True, False, True], ["1", "0", "1.0"], pd.Categorical([1, 0, 1]), [1.0, 0.0, 1.0]])
def test_labels_in_any_form_are_taken(tmp_path: Path, values: Any) -> None:
    write_rows(pd.DataFrame({**ROWS, "click": values}), str(tmp_path), SCHEMA)
    assert read_back(tmp_path)["click"] == [1, 0, 1]


def test_an_optional_label_may_be_missing(tmp_path: Path) -> None:
    schema = Schema((SparseFeature("item", 10),), (Label("click", optional=True),))
    write_rows(pd.DataFrame({"item": [1, 2, 3], "click": [1, None, np.nan]}), str(tmp_path), schema)
    assert read_back(tmp_path)["click"] == [1, None, None]


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    frame = pd.DataFrame(ROWS)
    frame = pd.concat([frame, frame[["item"]]], axis=1)
    with pytest.raises(DataError, match=r"has 2 columns 'item'"):
        write_rows(frame, str(tmp_path), SCHEMA)
    table = pa.Table.from_arrays([pa.array([1]), pa.array([1]), pa.array([0])], names=["item", "item", "click"])
    with pytest.raises(DataError, match=r"has 2 columns 'item'"):
        write_rows(table, str(tmp_path), Schema((SparseFeature("item", 10),), (Label("click"),)))
    # one that nothing uses may be there as often as it likes
    frame = pd.concat(
        [pd.DataFrame(ROWS), pd.DataFrame({"more": [1, 2, 3]}), pd.DataFrame({"more": [1, 2, 3]})], axis=1
    )
    assert write_rows(frame, str(tmp_path), SCHEMA) == 3


def test_columns_that_are_not_called_by_texts(tmp_path: Path) -> None:
    schema = Schema((SparseFeature("0", 10),), (Label("1"),))
    write_rows(pd.DataFrame(np.array([[3, 1], [4, 0]])), str(tmp_path), schema)
    assert read_back(tmp_path) == {"0": [3, 4], "1": [1, 0]}


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(DataError, match=r"the clicks: cannot write into .*No space left on device"):
        write_rows(pa.table(ROWS), str(tmp_path / "data"), SCHEMA, what="the clicks")
    assert not list(tmp_path.rglob("*.parquet"))
