"""Blocks: slices, concatenation, and the way through Arrow."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from rechub_ray.data.block import Block, Ragged, id_type
from rechub_ray.data.collate import block_from_table
from rechub_ray.schema import Label, Schema, SequenceFeature, SparseFeature


def rows_of(block: Block) -> list[tuple]:
    """Every row as plain Python, so that blocks can be compared however their memory is laid out."""
    rows = []
    for i in range(block.rows):
        lists = tuple(tuple(s.values[s.offsets[i] : s.offsets[i + 1]].tolist()) for s in block.sequences)
        rest = [None if x is None else x[i].item() for x in (block.weight, block.group)]
        row_id = None if block.row_id is None else block.row_id[i].as_py()
        matrices = [tuple(x[i].tolist()) for x in (block.sparse, block.dense, block.labels)]
        rows.append((*matrices, lists, *rest, row_id))
    return rows


@pytest.fixture
def block(tmp_path, schema, write_shards) -> Block:
    return block_from_table(write_shards(tmp_path, schema, rows=40), schema)


def test_slice_and_concat_are_inverse(block):
    parts = [block.slice(0, 7), block.slice(7, 7), block.slice(7, 39), block.slice(39, 40)]
    assert [part.rows for part in parts] == [7, 0, 32, 1]
    assert rows_of(Block.concat(parts)) == rows_of(block)
    assert rows_of(Block.concat([parts[2].slice(3, 9), parts[0]])) == rows_of(block)[10:16] + rows_of(block)[:7]


def test_slice_copies_nothing(block):
    part = block.slice(3, 9)
    assert np.shares_memory(part.sparse, block.sparse)
    assert part.sequences[0].values is block.sequences[0].values
    assert Block.concat([part]) is part


def test_table_round_trip(block, schema):
    for part in (block, block.slice(5, 11), block.slice(3, 3)):
        assert rows_of(Block.from_table(part.to_table(), schema)) == rows_of(part)
    chunked = pa.concat_tables([block.slice(0, 4).to_table(), block.slice(4, 40).to_table()])
    assert rows_of(Block.from_table(chunked, schema)) == rows_of(block)
    assert rows_of(Block.from_table(chunked.slice(2, 30), schema)) == rows_of(block)[2:32]


def test_table_shares_memory(block, schema):
    again = Block.from_table(block.to_table(), schema)
    assert np.shares_memory(again.sparse, block.sparse)
    assert np.shares_memory(again.dense, block.dense)
    assert np.shares_memory(again.sequences[0].values, block.sequences[0].values)


def test_table_round_trip_without_optional_parts():
    schema = Schema((SequenceFeature("history", 9),), (Label("click"),))
    table = pa.table({"history": pa.array([[1, 2], []], pa.list_(pa.int64())), "click": [0, 1]})
    block = block_from_table(table, schema)
    again = Block.from_table(block.to_table(), schema)
    assert rows_of(again) == rows_of(block)
    assert rows_of(block) == [((), (), (0.0,), ((1, 2),), None, None, None), ((), (), (1.0,), ((),), None, None, None)]
    assert again.sparse.shape == (2, 0)
    assert again.sparse.dtype == block.sparse.dtype == np.int32


def test_ragged_concat_by_hand():
    first = Ragged(np.array([1, 2, 3, 4]), np.array([0, 1, 1, 4])).slice(1, 3)
    second = Ragged(np.array([5, 6]), np.array([0, 2]))
    joined = Ragged.concat([first, second])
    assert joined.values.tolist() == [2, 3, 4, 5, 6]
    assert joined.offsets.tolist() == [0, 0, 3, 5]


def test_ids_are_narrow_unless_a_vocabulary_needs_more(schema):
    assert id_type(schema) is np.int32
    assert id_type(dataclasses.replace(schema, features=(SparseFeature("big", 2**31 - 1),))) is np.int32
    assert id_type(dataclasses.replace(schema, features=(SparseFeature("big", 2**31),))) is np.int64
