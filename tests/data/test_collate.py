"""Batches against rows put together by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from rechub_ray.data.collate import batch_from_table, block_from_table, collate
from rechub_ray.errors import DataError
from rechub_ray.schema import Label, Schema, SparseFeature


@pytest.fixture
def table(tmp_path, schema, write_shards) -> pa.Table:
    return write_shards(tmp_path, schema, rows=30)


def check(batch, rows: list[dict]) -> None:
    """The batch holds these rows of the `schema` fixture, in this order."""
    features = batch.features
    assert batch.rows == features.rows == len(rows)
    assert features.sparse.tolist() == [[row["user"], row["item"]] for row in rows]
    assert features.dense.tolist() == [[row["age"], *row["vector"]] for row in rows]
    assert batch.labels.tolist() == [[row["click"], row["rating"]] for row in rows]
    assert batch.weight.tolist() == [row["importance"] for row in rows]
    assert batch.group.tolist() == [row["session"] for row in rows]
    lists = [row[name] for name in ("history", "tags") for row in rows]
    assert features.sequences.values.tolist() == [i for ids in lists for i in ids]
    assert features.sequences.offsets.tolist() == [0, *np.cumsum([len(ids) for ids in lists])]
    kinds = [t.dtype for t in (features.sparse, features.dense, features.sequences.values, features.sequences.offsets)]
    assert kinds == [torch.int64, torch.float32, torch.int64, torch.int64]
    assert [t.dtype for t in (batch.labels, batch.weight, batch.group)] == [torch.float32, torch.float32, torch.int64]


def test_slices_of_blocks_one_after_the_other(table, schema):
    block = block_from_table(table, schema)
    rows = table.to_pylist()
    check(collate([block]), rows)
    check(collate([block.slice(20, 30), block.slice(0, 3), block.slice(5, 5)]), rows[20:] + rows[:3])
    assert collate([block.slice(4, 4)]).rows == 0


def test_batches_own_their_memory(table, schema):
    block = block_from_table(table, schema)
    before = block.dense.copy()
    collate([block]).features.dense.zero_()
    assert np.array_equal(block.dense, before)


def test_tables_and_frames_in_memory(table, schema):
    rows = table.to_pylist()
    check(batch_from_table(table, schema), rows)
    check(batch_from_table(pa.concat_tables([table.slice(0, 7), table.slice(7)]), schema), rows)
    check(batch_from_table(table.to_pandas(), schema), rows)
    check(batch_from_table(table.to_pandas().iloc[::-1], schema), rows[::-1])


def test_in_memory_without_targets(table, schema):
    batch = batch_from_table(table.drop_columns(["click", "rating", "importance", "session"]), schema, targets=False)
    assert batch.labels.isnan().all()
    assert batch.weight is None
    assert batch.group is None


def test_only_sparse():
    schema = Schema((SparseFeature("u", 5),), (Label("y"),))
    batch = batch_from_table(pd.DataFrame({"u": [1, 2], "y": [0, 1]}), schema)
    assert batch.features.dense.shape == (2, 0)
    assert batch.features.sequences is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"user": [99] * 30}, ["the frame", "column 'user', row 0", "[0, 50)"]),
        ({"user": ["a"] * 30}, ["the frame: column 'user' has a wrong type"]),
        ({"age": [None, *[1.0] * 29]}, ["column 'age', row 0", "null"]),
        ({"user": [1, "a"] * 15}, ["the frame"]),
    ],
)
def test_bad_frames(table, schema, change, words):
    frame = table.to_pandas().assign(**change)
    with pytest.raises(DataError) as caught:
        batch_from_table(frame, schema, where="the frame")
    for word in words:
        assert word in str(caught.value)


def test_missing_column(table, schema):
    frame = table.to_pandas().rename(columns={"history": "histroy"})
    with pytest.raises(DataError, match=r"the data has no column 'history'\. Did you mean 'histroy'\?"):
        batch_from_table(frame, schema)
