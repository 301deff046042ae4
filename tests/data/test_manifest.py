"""Manifest: what lies under a path, and the errors for what should not."""

from __future__ import annotations

import json
import pickle
import shutil

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rechub_ray.data.manifest import Manifest, remarks
from rechub_ray.data.shard import SealedWriter
from rechub_ray.errors import DataError
from rechub_ray.schema import Label, Schema, SparseFeature


@pytest.fixture
def shards(tmp_path, schema, write_shards):
    write_shards(tmp_path / "train", schema, rows=230, files=2, row_group_rows=50)
    return tmp_path / "train"


def test_lists_row_groups_in_order_of_names(shards, schema):
    (shards / "_SUCCESS").write_text("")
    (shards / "_old.parquet").write_bytes(b"not parquet")
    (shards / ".part.parquet").write_bytes(b"not parquet")
    manifest = Manifest.scan(shards, schema)
    assert manifest.rows == 230
    assert [file.path for file in manifest.files] == [str(shards / f"part-0000{i}.parquet") for i in range(2)]
    assert [(g.index, g.rows) for g in manifest.row_groups] == [(0, 50), (1, 50), (2, 15)] * 2


def test_survives_json_and_pickle(shards, schema):
    manifest = Manifest.scan(shards, schema)
    for copy in (
        Manifest.from_dict(json.loads(json.dumps(manifest.to_dict()))),
        pickle.loads(pickle.dumps(manifest)),
    ):
        assert copy == manifest
        assert copy.fingerprint == manifest.fingerprint


def test_fingerprint_ignores_the_place_and_sees_the_rows(shards, schema, tmp_path):
    before = Manifest.scan(shards, schema).fingerprint
    moved = tmp_path / "elsewhere"
    shutil.copytree(shards, moved)
    assert Manifest.scan(moved, schema).fingerprint == before
    (moved / "part-00001.parquet").unlink()
    assert Manifest.scan(moved, schema).fingerprint != before


def test_one_file_a_list_and_a_relative_path(shards, schema, monkeypatch):
    monkeypatch.chdir(shards.parent)
    one = Manifest.scan("train/part-00001.parquet", schema)
    assert [file.path for file in one.files] == [str(shards / "part-00001.parquet")]
    both = Manifest.scan(["train/part-00001.parquet", "train/part-00000.parquet"], schema)
    assert [file.path for file in both.files] == [str(shards / f"part-0000{i}.parquet") for i in (1, 0)]
    assert both.rows == 230


def test_uris_of_pyarrow_and_of_fsspec(shards, schema):
    local = Manifest.scan(f"file://{shards}", schema)
    assert local.rows == 230
    assert local.files[0].path == f"file://{shards}/part-00000.parquet"
    memory = fsspec.filesystem("memory")
    memory.put(str(shards), "/bucket/train", recursive=True)
    try:
        manifest = Manifest.scan("memory://bucket/train", schema)
        assert [file.path for file in manifest.files] == [f"memory://bucket/train/part-0000{i}.parquet" for i in (0, 1)]
        assert manifest.rows == 230
    finally:
        memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("trian", ["'data.train'", "trian", "Did you mean 'train'?"]),
        ("no/such/folder", ["no/such/folder"]),
        (".", ["no *.parquet file", "train"]),
        ("empty", ["no *.parquet file", "an empty folder"]),
    ],
)
def test_nothing_there(shards, schema, place, words):
    (shards.parent / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        Manifest.scan(shards.parent / place, schema, key="data.train")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(("uri", "word"), [("nosuch://bucket/x", "nosuch"), ("gs2://b/x", "gs2")])
def test_unknown_uri(schema, uri, word):
    with pytest.raises(DataError, match=word):
        Manifest.scan(uri, schema)


def test_truncated_and_foreign_files_are_named(shards, schema):
    path = shards / "part-00001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"part-00001\.parquet is not a readable parquet file"):
        Manifest.scan(shards, schema)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"part-00001\.parquet"):
        Manifest.scan(shards, schema)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"part-00001\.parquet"):
        Manifest.scan(shards, schema)


def test_missing_column_is_named_with_its_neighbour(shards, schema):
    path = shards / "part-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.rename_columns(["usr" if n == "user" else n for n in table.column_names]), path)
    with pytest.raises(DataError, match=r"part-00001\.parquet has no column 'user'\. Did you mean 'usr'\?"):
        Manifest.scan(shards, schema)


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("user", [0.5], "an integer type"),
        ("age", ["old"], "a number"),
        ("vector", [1.0], "a list of 3 numbers"),
        ("vector", [["a"]], "a list of 3 numbers"),
        ("vector", pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)), "a list of 3 numbers"),
        ("history", [3], "a list of an integer type"),
        ("history", [[0.5]], "a list of an integer type"),
        ("click", ["yes"], "a number"),
        ("importance", ["high"], "a number"),
        ("session", ["s1"], "an integer type"),
    ],
)
def test_wrong_types_are_named(tmp_path, schema, write_shards, column, values, expected):
    table = write_shards(tmp_path / "x", schema, rows=1, files=1)
    index = table.column_names.index(column)
    pq.write_table(table.set_column(index, column, pa.array(values)), tmp_path / "x" / "part-00000.parquet")
    with pytest.raises(DataError) as caught:
        Manifest.scan(tmp_path / "x", schema)
    assert "part-00000.parquet" in str(caught.value)
    assert f"column '{column}'" in str(caught.value)
    assert expected in str(caught.value)


def test_targets_may_be_missing_for_prediction(shards, schema):
    path = shards / "part-00000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["click", "rating", "importance", "session"]), path)
    assert Manifest.scan(shards, schema, targets=False).rows == 230
    with pytest.raises(DataError, match="click"):
        Manifest.scan(shards, schema)


def test_files_without_rows(tmp_path):
    schema = Schema((SparseFeature("user", 3),), (Label("click"),))
    empty = pa.table({"user": np.array([], np.int32), "click": np.array([], np.float32)})
    pq.write_table(empty, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no rows"):
        Manifest.scan(tmp_path, schema)
    pq.write_table(
        pa.table({"user": np.array([1], np.int32), "click": np.array([1], np.float32)}), tmp_path / "b.parquet"
    )
    assert [group.file for group in Manifest.scan(tmp_path, schema).row_groups] == [str(tmp_path / "b.parquet")]


@pytest.mark.parametrize(
    ("places", "words"),
    [
        (["train", "train/part-00001.parquet"], "part-00001.parquet twice."),
        (["train/part-00000.parquet", "train/../train/part-00000.parquet"], "part-00000.parquet twice."),
        (["train", "link.parquet"], "link.parquet twice, once as "),
    ],
)
def test_a_file_that_is_named_twice(shards, schema, places, words):
    (shards.parent / "link.parquet").symlink_to(shards / "part-00000.parquet")
    with pytest.raises(DataError) as caught:
        Manifest.scan([shards.parent / place for place in places], schema, key="data.train")
    assert str(caught.value).startswith("'data.train' has ")
    assert words in str(caught.value)


def test_shards_that_cannot_be_read_are_not_left_out(shards, schema):
    (shards / "part-00002.parquet").symlink_to(shards / "nowhere")
    with pytest.raises(DataError, match=r"'data': .*part-00002\.parquet is a folder, or a link to nothing"):
        Manifest.scan(shards, schema)
    (shards / "part-00002.parquet").unlink()
    (shards / "part-00002.parquet").mkdir()
    with pytest.raises(DataError, match=r"'data': .*part-00002\.parquet is a folder.* Name the folder in 'data'"):
        Manifest.scan(shards, schema)


def test_a_file_without_permission(shards, schema, monkeypatch):
    def refuse(stream):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("rechub_ray.data.manifest.read_footer", refuse)  # root may read everything
    with pytest.raises(DataError, match=r"part-0000\d\.parquet cannot be read.* Permission denied"):
        Manifest.scan(shards, schema)


def sealed(folder, table, number=0):
    folder.mkdir(exist_ok=True)
    with SealedWriter(folder / f"part-0000{number}.parquet", table.schema) as writer:
        writer.write_table(table, 50)
    return folder


def unsealed(folder):
    for path in folder.glob("*.parquet"):
        pq.write_table(pq.read_table(path), path)
    return folder


def test_files_without_checksums_are_said_in_one_line(shards, schema, tmp_path):
    valid = Manifest.scan(sealed(tmp_path / "valid", pq.read_table(shards / "part-00000.parquet")), schema)
    unsealed(shards)
    (line,) = remarks({"data.train": Manifest.scan(shards, schema), "data.valid": valid, "data.test": None})
    assert line.startswith("2 of 3 data files have no checksums (")
    assert "part-00000.parquet and 1 more" in line
    assert remarks({"data.train": valid, "data.valid": None}) == []


def test_one_file_in_two_splits_is_said_also_where_it_is_a_copy(shards, schema, tmp_path):
    table = pq.read_table(shards)
    train, other = sealed(tmp_path / "a", table), sealed(tmp_path / "b", table.slice(100))
    sealed(other, table, 1)
    splits = {"data.train": Manifest.scan(train, schema), "data.test": Manifest.scan(other, schema)}
    (line,) = remarks(splits)
    assert line.startswith(f"'data.train' and 'data.test' have the same rows ({other}/part-00001.parquet):")
    (line,) = remarks({**splits, "data.test": splits["data.train"]})
    assert "'data.train' and 'data.test' have the same rows" in line
    sealed(other, table.slice(100), 2)
    (line,) = remarks({"data.train": Manifest.scan(other, schema)})
    assert line.startswith(f"'data.train' has the rows of {other}/part-00002.parquet twice")
    unsealed(shards)
    plain = {"data.train": Manifest.scan(shards, schema), "data.test": Manifest.scan(shards, schema)}
    assert len(remarks(plain)) == 2
    empty = table.slice(0, 0)
    some, rest = sealed(sealed(tmp_path / "c", table.slice(0, 9)), empty, 1), sealed(tmp_path / "d", table.slice(9))
    apart = {"data.train": Manifest.scan(some, schema), "data.test": Manifest.scan(sealed(rest, empty, 1), schema)}
    assert remarks(apart) == []
