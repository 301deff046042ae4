"""Reading one piece, against a row-by-row reading of the same file; and every value that must be refused."""

from __future__ import annotations

import dataclasses
import os

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rechub_ray.data.block import Block
from rechub_ray.data.plan import Piece, permutation
from rechub_ray.data.reader import pick, read_piece, read_whole
from rechub_ray.errors import DataError
from rechub_ray.schema import DenseFeature, Label, Schema, SequenceFeature, SparseFeature


def expected_row(row: dict) -> tuple:
    """What a row of the `schema` fixture must become."""
    return (
        [row["user"], row["item"]],
        [row["age"], *row["vector"]],
        [(row["history"] or [])[-4:], (row["tags"] or [])[-3:]],
        [row["click"], row["rating"]],
        (row["importance"], row["session"], row["row"]),
    )


def found_rows(block) -> list[tuple]:
    return [
        (
            block.sparse[i].tolist(),
            block.dense[i].tolist(),
            [s.values[s.offsets[i] : s.offsets[i + 1]].tolist() for s in block.sequences],
            block.labels[i].tolist(),
            (block.weight[i].item(), block.group[i].item(), block.row_id[i].as_py()),
        )
        for i in range(block.rows)
    ]


@pytest.fixture
def shard(tmp_path, schema, write_shards):
    table = write_shards(tmp_path, schema, rows=120, files=1, row_group_rows=60)
    return tmp_path / "part-00000.parquet", table.slice(60).to_pylist()


def piece(path, *, index=0, rows=60, start=0, stop=None, key=None) -> Piece:
    return Piece(0, str(path), index, rows, start, rows if stop is None else stop, key)


def test_pieces_of_a_whole_row_group_are_those_of_the_file(tmp_path, schema, write_shards):
    def parts(block):
        block = Block.concat([block, block.slice(0, 0)])  # a slice shares its sequences' values with the whole
        arrays = [block.sparse, block.dense, block.labels, block.weight, block.group]
        arrays += [array for s in block.sequences for array in (s.values, s.offsets)]
        return [(a.dtype, a.shape, a.tobytes()) for a in arrays if a is not None] + [block.row_id]

    table = write_shards(tmp_path, schema, rows=60, files=1, row_group_rows=60)
    longer = pa.array([list(range(i % 9)) if i % 7 else None for i in range(60)], pa.list_(pa.int64()))
    place = table.schema.get_field_index("history")  # some are longer than what is kept, some are null
    pq.write_table(table.set_column(place, "history", longer), tmp_path / "part-00000.parquet")
    for targets in (True, False):
        for start, stop, key in ((0, 60, None), (7, 31, None), (0, 60, (1, 2)), (7, 31, (1, 2)), (5, 5, (1, 2))):
            one = piece(tmp_path / "part-00000.parquet", start=start, stop=stop, key=key)
            whole = read_whole(one, schema, targets=targets)
            assert whole.rows == 60
            assert parts(pick(whole, one)) == parts(read_piece(one, schema, targets=targets))
    assert whole.num_bytes == sum(len(data) for _, _, data in parts(whole)[:-1]) + whole.row_id.nbytes


def test_rows_as_they_stand(shard, schema):
    path, rows = shard
    block = read_piece(piece(path, index=1), schema)
    assert found_rows(block) == [expected_row(row) for row in rows]
    assert (block.sparse.dtype, block.dense.dtype, block.labels.dtype) == (np.int32, np.float32, np.float32)
    assert (block.weight.dtype, block.group.dtype) == (np.float32, np.int64)
    assert block.sparse.flags.c_contiguous
    assert found_rows(read_piece(piece(path, index=1, start=7, stop=9), schema)) == [expected_row(r) for r in rows[7:9]]


def test_permuted_shares_cover_the_row_group(shard, schema):
    path, rows = shard
    key = (4, 2, 1)
    parts = [read_piece(piece(path, index=1, start=a, stop=b, key=key), schema) for a, b in ((0, 25), (25, 60))]
    order = permutation(60, *key)
    assert [row for part in parts for row in found_rows(part)] == [expected_row(rows[i]) for i in order]
    assert [part.rows for part in parts] == [25, 35]


def test_long_lists_keep_their_end_and_null_lists_are_empty(tmp_path):
    schema = Schema((SequenceFeature("h", 100, max_length=3),), (Label("y"),))
    lists = [[1, 2, 3, 4, 5], None, [], [6], [7, 8, 9, 10], [11, 12]]
    for kind in (pa.list_(pa.int64()), pa.large_list(pa.int32())):
        pq.write_table(pa.table({"h": pa.array(lists, kind), "y": [0] * 6}), tmp_path / "a.parquet")
        for key, order in ((None, range(6)), ((1, 2), permutation(6, 1, 2))):
            block = read_piece(piece(tmp_path / "a.parquet", rows=6, key=key), schema)
            h = block.sequences[0]
            found = [h.values[h.offsets[i] : h.offsets[i + 1]].tolist() for i in range(6)]
            assert found == [(lists[i] or [])[-3:] for i in order]
            assert h.values.dtype == np.int32


def test_wide_ids_stay_exact(tmp_path):
    schema = Schema((SparseFeature("u", 2**60), SequenceFeature("h", 2**60)), (Label("y"),))
    big = 2**60 - 1
    pq.write_table(pa.table({"u": [big], "h": [[big, 3]], "y": [1]}), tmp_path / "a.parquet")
    block = read_piece(piece(tmp_path / "a.parquet", rows=1), schema)
    assert block.sparse.tolist() == [[big]]
    assert block.sequences[0].values.tolist() == [big, 3]


def test_any_number_type_and_lists_of_any_kind(tmp_path):
    schema = Schema((DenseFeature("x"), DenseFeature("v", dim=2)), (Label("y"),))
    for numbers, kind in ((pa.int16(), pa.list_(pa.float64())), (pa.float64(), pa.large_list(pa.int8()))):
        table = pa.table(
            {"x": pa.array([1, 2], numbers), "v": pa.array([[1, 2], [3, 4]], kind), "y": pa.array([True, False])}
        )
        pq.write_table(table, tmp_path / "a.parquet")
        block = read_piece(piece(tmp_path / "a.parquet", rows=2), schema)
        assert block.dense.tolist() == [[1, 1, 2], [2, 3, 4]]
        assert block.labels.tolist() == [[1], [0]]


def test_reads_no_other_column(shard, schema, monkeypatch):
    path, _ = shard
    asked = []
    read = pq.ParquetFile.read_row_group

    def spy(self, i, columns, **rest):
        asked.extend(columns)
        return read(self, i, columns=columns, **rest)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", spy)
    small = Schema((SparseFeature("item", 20),), (Label("click"),))
    assert read_piece(piece(path), small).sparse.shape == (60, 1)
    assert asked == ["item", "click"]


def test_without_targets(shard, schema):
    path, rows = shard
    pq.write_table(pa.table(pq.read_table(path).drop_columns(["click", "rating", "importance", "session"])), path)
    block = read_piece(piece(path, rows=120), schema, targets=False)
    assert np.isnan(block.labels).all()
    assert block.labels.shape == (120, 2)
    assert block.weight is None
    assert block.group is None
    assert block.row_id.to_pylist() == list(range(120))
    assert block.sparse[60:, 0].tolist() == [row["user"] for row in rows]


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("user", 50, ["an id in [0, 50)", "Got: 50"]),
        ("user", -1, ["an id in [0, 50)", "Got: -1"]),
        ("user", None, ["null"]),
        ("item", 2**31 + 1, ["an id in [0, 20)"]),
        ("age", float("nan"), ["a finite number", "nan"]),
        ("age", float("inf"), ["a finite number", "inf"]),
        ("age", None, ["null"]),
        ("age", 1e300, ["a finite number"]),
        ("vector", [1.0, 2.0], ["a list of 3 numbers", "2 numbers"]),
        ("vector", None, ["a list of 3 numbers", "null"]),
        ("vector", [1.0, None, 2.0], ["null"]),
        ("vector", [1.0, 2.0, float("nan")], ["a finite number"]),
        ("history", [1, 20], ["an id in [0, 20)", "Got: 20"]),
        ("history", [-3], ["an id in [0, 20)"]),
        ("history", [1, None], ["null in a list"]),
        ("click", 0.5, ["0 or 1", "0.5"]),
        ("click", float("nan"), ["0 or 1"]),
        ("click", None, ["null"]),
        ("rating", float("nan"), ["a finite number"]),
        ("importance", -0.5, ["a weight >= 0"]),
        ("importance", float("inf"), ["a finite number"]),
        ("session", None, ["null"]),
    ],
)
def test_refused_values_name_file_row_group_column_and_row(shard, schema, column, value, words):
    path, _ = shard
    table = pq.read_table(path)
    values = table.column(column).to_pylist()
    values[60 + 13] = value
    kind = pa.float64() if value == 1e300 else pa.int64() if value == 2**31 + 1 else table.field(column).type
    if column == "vector":
        kind = pa.list_(pa.float32())
    index = table.column_names.index(column)
    pq.write_table(table.set_column(index, column, pa.array(values, kind)), path, row_group_size=60)
    read_piece(piece(path, index=0), schema)
    with pytest.raises(DataError) as caught:
        read_piece(piece(path, index=1, start=0, stop=5, key=(1,)), schema)
    assert f"{path}, row group 1: column '{column}', row 13," in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_file_that_changed_is_named(shard, schema):
    path, _ = shard
    with pytest.raises(DataError, match=r"part-00000\.parquet, row group 0 changed"):
        read_piece(piece(path, rows=59), schema)
    with pytest.raises(DataError, match=r"row group 2 changed .* a file with 2 row groups"):
        read_piece(piece(path, index=2), schema)
    known = dataclasses.replace(piece(path), checksum="0" * 16)
    with pytest.raises(DataError, match=r"row group 0 changed .* another file of that name"):
        read_piece(known, schema)
    path.unlink()
    with pytest.raises(DataError, match=r"part-00000\.parquet, row group 0 changed .* no such file"):
        read_piece(piece(path), schema)


def test_a_file_written_anew_is_read_anew(shard, schema):
    path, _ = shard
    read_piece(piece(path), schema)
    old = pq.read_table(path)
    pq.write_table(old.slice(60), path, row_group_size=60)
    os.utime(path, ns=(1, 1))
    assert found_rows(read_piece(piece(path), schema)) == [expected_row(r) for r in old.slice(60).to_pylist()]


def test_damaged_pages_are_named(shard, schema):
    path, _ = shard
    data = bytearray(path.read_bytes())
    data[4:2000] = bytes(1996)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"cannot read .*part-00000\.parquet, row group 0"):
        read_piece(piece(path), schema)


def test_remote_files(shard, schema):
    path, rows = shard
    memory = fsspec.filesystem("memory")
    memory.put(str(path), "/bucket/x.parquet")
    try:
        block = read_piece(piece("memory://bucket/x.parquet", index=1), dataclasses.replace(schema))
        assert found_rows(block) == [expected_row(row) for row in rows]
    finally:
        memory.rm("/bucket", recursive=True)


LABELS = (
    Label("click", optional=True),
    Label("stars", "multiclass", num_classes=5),
    Label("price", "regression", optional=True),
)
TARGETS = {"click": [1, None, 0, None], "stars": [4, 0, 2, 1], "price": [None, 2.5, float("nan"), -1.0]}


def test_labels_of_all_kinds_and_missing_ones(tmp_path):
    pq.write_table(pa.table({"a": [0, 1, 1, 0], **TARGETS}), tmp_path / "a.parquet")
    schema = Schema((SparseFeature("a", 2),), LABELS)
    block = read_piece(piece(tmp_path / "a.parquet", rows=4), schema)
    nan = np.nan
    np.testing.assert_array_equal(block.labels, [[1, 4, nan], [nan, 0, 2.5], [0, 2, nan], [nan, 1, -1]])


@pytest.mark.parametrize("values", [pa.nulls(4), pa.array([None] * 4, pa.float64()), pa.array([None] * 4, pa.int8())])
def test_an_optional_label_may_be_missing_everywhere(tmp_path, values):
    pq.write_table(pa.table({"a": [0, 1, 1, 0], "y": values}), tmp_path / "a.parquet")
    schema = Schema((SparseFeature("a", 2),), (Label("y", optional=True),))
    assert np.isnan(read_piece(piece(tmp_path / "a.parquet", rows=4), schema).labels).all()


@pytest.mark.parametrize(
    ("label", "values", "words"),
    [
        (Label("y"), [0, None, 1, 1], ["row 1", "null", "optional: true"]),
        (Label("y"), [0, 1, float("nan"), 1], ["row 2", "0 or 1"]),
        (Label("y", optional=True), [None, 0, 1, 2], ["row 3", "0 or 1"]),
        (Label("y", "regression", optional=True), [None, 0, float("inf"), 2], ["row 2", "a finite number"]),
        (Label("y", "regression"), [0.5, float("nan"), 1.0, 2.0], ["row 1", "a finite number"]),
        (Label("y", "multiclass", num_classes=3), [0, 1, 3, 2], ["row 2", "a class id in [0, 3)"]),
        (Label("y", "multiclass", num_classes=3), [0, 1, 0.5, 2], ["row 2", "a class id in [0, 3)"]),
        (Label("y", "multiclass", num_classes=3), [0, -1, 0, 2], ["row 1", "a class id in [0, 3)"]),
    ],
)
def test_labels_that_are_not_of_their_kind_are_refused(tmp_path, label, values, words):
    pq.write_table(pa.table({"a": [0, 1, 1, 0], "y": values}), tmp_path / "a.parquet")
    with pytest.raises(DataError) as caught:
        read_piece(piece(tmp_path / "a.parquet", rows=4), Schema((SparseFeature("a", 2),), (label,)))
    assert all(word in str(caught.value) for word in ["'y'", *words]), caught.value


def test_a_schema_without_labels_keeps_its_rows(tmp_path):
    pq.write_table(pa.table({"a": [0, 1, 1, 0]}), tmp_path / "a.parquet")
    schema = Schema((SparseFeature("a", 2),), ())
    block = read_piece(piece(tmp_path / "a.parquet", rows=4), schema)
    again = Block.from_table(block.to_table(), schema)
    assert (block.rows, block.labels.shape, again.rows) == (4, (4, 0), 4)
    assert again.sparse.tolist() == block.sparse.tolist()
