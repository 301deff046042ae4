"""Rows from memory as shards, against the same rows taken apart by hand."""

from __future__ import annotations

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
        (pd.DataFrame({**ROWS, "item": ["a", "b", "c"]}), "column 'item' has a wrong type.*integer"),
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
