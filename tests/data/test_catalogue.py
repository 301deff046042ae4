"""The item table: rows put together by hand, and files that are none."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from rechub_ray.batch import RaggedSequences
from rechub_ray.data.catalogue import Catalogue
from rechub_ray.data.shard import SealedWriter
from rechub_ray.errors import DataError, SchemaError
from rechub_ray.schema import DenseFeature, Items, Schema, SequenceFeature, SparseFeature

SCHEMA = Schema(
    (SparseFeature("user", 9), SparseFeature("item", 10), SequenceFeature("history", 10, shared_with="item")),
    (),
    items=Items(
        "item",
        (
            SequenceFeature("tags", 6, max_length=2),
            SparseFeature("kind", 4),
            DenseFeature("size", dim=2),
            SequenceFeature("alike", 10, shared_with="item"),
        ),
    ),
)
ITEMS: dict[str, Any] = {
    "item": [1, 2, 4, 7, 9],
    "tags": [[1, 2, 3], [], [5], [4, 4], []],
    "kind": [3, 0, 1, 2, 3],
    "size": [[0.5, 1.0], [0.0, 0.0], [2.0, -1.0], [3.0, 4.0], [5.0, 6.0]],
    "alike": [[2], [9, 7, 4], [], [1], [1, 2]],
    "count": [6, 0, 3, 1, 0],
}


def write(root: Path, *, files: int = 1, row_group_rows: int = 10, **changes: Any) -> Path:
    table = pa.table({**ITEMS, **changes})
    (root / "items").mkdir()
    for number in range(files):
        part = table.slice(number * 3, 3 if number < files - 1 else None)
        with SealedWriter(root / "items" / f"part-{number:05d}.parquet", table.schema) as writer:
            writer.write_table(part, row_group_size=row_group_rows)
    return root


def rows_of(features: Any) -> list[dict[str, Any]]:
    """The features row by row; lists are feature-major, tags before alike."""
    lists, count = features.sequences, features.rows
    assert isinstance(lists, RaggedSequences)
    values = [part.tolist() for part in lists.values.split(lists.offsets.diff().tolist())]
    return [
        {"item": s[0], "kind": s[1], "size": d, "tags": values[i], "alike": values[count + i]}
        for i, (s, d) in enumerate(zip(features.sparse.tolist(), features.dense.tolist(), strict=True))
    ]


def expected(*rows: int) -> list[dict[str, Any]]:
    made = [{name: ITEMS[name][row] for name in ("item", "kind", "size", "tags", "alike")} for row in rows]
    return [{**one, "tags": one["tags"][-2:]} for one in made]


@pytest.mark.parametrize(("files", "row_group_rows"), [(1, 10), (2, 1), (2, 2)])
def test_the_whole_table(tmp_path: Path, files: int, row_group_rows: int) -> None:
    found = Catalogue.read(str(write(tmp_path, files=files, row_group_rows=row_group_rows)), SCHEMA)
    assert (found.rows, found.ids.tolist(), found.count.tolist()) == (5, ITEMS["item"], ITEMS["count"])
    assert (found.ids.dtype, found.count.dtype) == (torch.int64, torch.int64)
    assert rows_of(found.features) == expected(0, 1, 2, 3, 4)
    assert found.schema == SCHEMA.item_side
    assert found.to(torch.device("cpu")) is found
    moved = found.to(torch.device("meta"))
    assert {t.device.type for t in (moved.ids, moved.count, moved.features.dense, moved.features.sequences.values)} == {
        "meta"
    }  # type: ignore[union-attr]


def test_rows_in_any_order_and_often(tmp_path: Path) -> None:
    found = Catalogue.read(f"file://{write(tmp_path)}", SCHEMA)
    rows = [3, 0, 3, 1, 4, 2, 2]
    assert rows_of(found.take(torch.tensor(rows))) == expected(*rows)
    nothing = found.take(torch.tensor([], dtype=torch.int64))
    assert (nothing.rows, nothing.dense.shape, nothing.sequences.offsets.tolist()) == (0, (0, 2), [0])  # type: ignore[union-attr]
    assert found.rows_of(torch.tensor([[9, 1, 0], [3, 7, 10]])).tolist() == [[4, 0, -1], [-1, 3, -1]]
    assert rows_of(found.take(found.rows_of(found.ids))) == expected(0, 1, 2, 3, 4)


def test_an_item_table_of_ids_alone(tmp_path: Path) -> None:
    schema = dataclasses.replace(SCHEMA, items=Items("item"))
    found = Catalogue.read(str(write(tmp_path)), schema)
    taken = found.take(torch.tensor([4, 4]))
    assert (taken.sparse.tolist(), taken.dense.shape, taken.sequences) == ([[9], [9]], (2, 0), None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"item": [1, 2, 2, 7, 9]}, "column 'item', row 2, holds a bad value. Expected: ids from 1 on, ascending"),
        ({"item": [0, 2, 4, 7, 9]}, "column 'item', row 0, holds a bad value. Expected: ids from 1 on"),
        ({"item": [1, 2, 4, 9, 7]}, "column 'item', row 4"),
        ({"item": [1, 2, 4, 7, 10]}, "Expected: an id in [0, 10). Got: 10"),
        ({"kind": [3, 0, 1, 2, 4]}, "column 'kind', row 4, holds a bad value"),
        ({"count": [1, 2, -3, 4, 5]}, "column 'count', row 2, holds a bad value. Expected: a number of rows >= 0"),
        (
            {"count": [1, 2, None, 4, 5]},
            "column 'count'. Expected: a whole number in every row. Got: int64, with nulls",
        ),
        ({"count": [1.0, 2.0, 3.0, 4.0, 5.0]}, "column 'count'. Expected: a whole number in every row. Got: double"),
    ],
)
def test_what_is_no_item_table(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    write(tmp_path, **changes)
    with pytest.raises(DataError, match=rf"part-00000\.parquet.*{re.escape(words)}"):
        Catalogue.read(str(tmp_path), SCHEMA)


def test_ids_ascend_over_row_groups_and_files(tmp_path: Path) -> None:
    write(tmp_path, files=2, item=[1, 2, 4, 3, 9])
    with pytest.raises(DataError, match=r"part-00001\.parquet, row group 0: column 'item', row 0"):
        Catalogue.read(str(tmp_path), SCHEMA)


def test_a_missing_table_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no item table.*`items` in the recipe of `rechub-ray prepare`"):
        Catalogue.read(str(tmp_path), SCHEMA)
    (tmp_path / "items").mkdir()
    with pytest.raises(DataError, match=r"'items': no \*\.parquet file"):
        Catalogue.read(str(tmp_path), SCHEMA)
    with pytest.raises(SchemaError, match="has no items"):
        Catalogue.read(str(tmp_path), SCHEMA.joined)
