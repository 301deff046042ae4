"""A sealed file: any tool reads it, and no damaged byte of it becomes a value."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rechub_ray.data.block import Block
from rechub_ray.data.manifest import Manifest
from rechub_ray.data.plan import EvalPlan
from rechub_ray.data.reader import read_piece
from rechub_ray.data.shard import SealedWriter, read_footer, read_row_group
from rechub_ray.errors import DataError
from rechub_ray.files import open_filesystem
from rechub_ray.schema import Schema


def random_table(schema: Schema, write_shards: Any, folder: Path, rows: int) -> pa.Table:
    return write_shards(folder / "plain", schema, rows=rows, files=1)


def seal(table: pa.Table, path: Path, row_group_rows: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with SealedWriter(path, table.schema) as writer:
        writer.write_table(table, row_group_rows)
    return path


def values(place: Path, schema: Schema) -> list[bytes]:
    """All that a run would see of the files, as bytes."""
    found = []
    for piece in EvalPlan(Manifest.scan(place, schema)).pieces(0, 1):
        block = read_piece(piece, schema)
        block = Block.concat([block, block.slice(0, 0)])
        arrays = [block.sparse, block.dense, block.labels, block.weight, block.group]
        arrays += [array for s in block.sequences for array in (s.values, s.offsets)]
        found += [array.tobytes() for array in arrays if array is not None] + [repr(block.row_id.to_pylist()).encode()]
    return found


def flip(data: bytearray, draw: random.Random) -> None:
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def blank(data: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(data) - 64)
    data[at : at + 64] = bytes(64)


def cut(data: bytearray, draw: random.Random) -> None:
    del data[draw.randrange(len(data)) :]


@pytest.mark.parametrize("part", ["anywhere", "its end"])
def test_of_80_damages_none_changes_a_value_in_silence(
    tmp_path: Path, schema: Schema, write_shards: Any, part: str
) -> None:
    whole = seal(random_table(schema, write_shards, tmp_path, 3000), tmp_path / "whole.parquet", 500).read_bytes()
    wanted = values(tmp_path / "whole.parquet", schema)
    # row groups take most of the file: half of the damages go into footer and checksums alone
    start = 0 if part == "anywhere" else len(whole) - int.from_bytes(whole[-8:-4], "little") - 60
    draw, right, harmless = random.Random(7), 0, 0
    for number in range(80):
        damage = (flip, blank, cut)[number % 3]
        data = bytearray(whole[start:])
        damage(data, draw)
        path = tmp_path / f"{number}.parquet"
        path.write_bytes(whole[:start] + data)
        try:
            found = values(path, schema)
        except DataError as error:
            right += str(path) in str(error) and "\n" not in str(error)
        else:
            assert found == wanted, f"{damage.__name__}, number {number}"
            right += 1
            harmless += 1
    assert right == 80
    assert harmless < 10


def test_every_bit_of_a_page_header_counts(tmp_path: Path, schema: Schema, write_shards: Any) -> None:
    """Parquet's own page checksums leave them out: some flipped bits there change values."""
    path = seal(random_table(schema, write_shards, tmp_path, 60), tmp_path / "a.parquet", 60)
    whole = path.read_bytes()
    chunk = pq.read_metadata(path).row_group(0).column(0)
    start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
    for bit in range(8 * start, 8 * (start + 12)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        damaged = tmp_path / f"{bit}.parquet"
        damaged.write_bytes(data)
        with pytest.raises(DataError, match=rf"cannot read .*{bit}\.parquet, row group 0.*checksum.*write it again"):
            values(damaged, schema)


def test_any_tool_reads_it_and_writing_it_anew_takes_the_seal_off(
    tmp_path: Path, schema: Schema, write_shards: Any
) -> None:
    table = random_table(schema, write_shards, tmp_path, 200)
    path = seal(table, tmp_path / "a.parquet", 70)
    assert pq.read_table(path).equals(table)
    assert pq.read_metadata(path).num_row_groups == 3
    pq.write_table(pq.read_table(path), tmp_path / "b.parquet")
    sealed = {Path(f.path).name: f.is_sealed for f in Manifest.scan([path, tmp_path / "b.parquet"], schema).files}
    assert sealed == {"a.parquet": True, "b.parquet": False}


@pytest.mark.parametrize("rows", [1, 1000, 60_000])
@pytest.mark.parametrize("columns", [["b"], ["a", "c"], ["c", "a", "b", "d.e"], ["d.e"]])
def test_some_columns_of_some_row_group(tmp_path: Path, rows: int, columns: list[str]) -> None:
    draw = np.random.default_rng(0)
    table = pa.table(
        {
            "a": draw.integers(0, 2**31, rows),
            "b": draw.normal(size=rows),
            "c": pa.array([list(range(i % 4)) if i % 5 else None for i in range(rows)], pa.list_(pa.int32())),
            "d.e": pa.array([f"row {i}" for i in range(rows)]),
        }
    )
    path = seal(table, tmp_path / "a.parquet", -(-rows // 3))
    with pa.OSFile(str(path)) as stream:
        footer = read_footer(stream)
        found = [read_row_group(stream, footer, i, columns) for i in range(footer.metadata.num_row_groups)]
    assert pa.concat_tables(found).select(columns).equals(table.select(columns))
    assert footer.is_sealed


def test_into_a_stream_and_from_an_object_store(tmp_path: Path, schema: Schema, write_shards: Any) -> None:
    table = random_table(schema, write_shards, tmp_path, 200)
    filesystem, inside = open_filesystem("memory://sealed/a.parquet")
    try:
        filesystem.create_dir("sealed")
        with filesystem.open_output_stream(inside) as sink, SealedWriter(sink, table.schema) as writer:
            writer.write_table(table, 70)
        assert Manifest.scan("memory://sealed", schema).files[0].is_sealed
        path = seal(table, tmp_path / "a.parquet", 70)
        assert values("memory://sealed/a.parquet", schema) == values(path, schema)  # type: ignore[arg-type]
    finally:
        fsspec.filesystem("memory").rm("/sealed", recursive=True)


def test_what_was_not_finished_is_no_parquet_file(tmp_path: Path, schema: Schema, write_shards: Any) -> None:
    table = random_table(schema, write_shards, tmp_path, 200)

    def fail() -> None:
        with SealedWriter(tmp_path / "a.parquet", table.schema) as writer:
            writer.write_table(table, 70)
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fail()
    with pytest.raises(DataError, match=r"a\.parquet is not a readable parquet file"):
        Manifest.scan(tmp_path / "a.parquet", schema)


def test_page_checksums_of_other_tools_are_verified(tmp_path: Path, schema: Schema, write_shards: Any) -> None:
    path = tmp_path / "a.parquet"
    table = random_table(schema, write_shards, tmp_path, 60)
    pq.write_table(table, path, write_page_checksum=True, use_dictionary=False, compression="none")
    data = bytearray(path.read_bytes())
    data[data.index(table["rating"].to_numpy()[30].tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"cannot read .*a\.parquet, row group 0.*CRC"):
        values(path, schema)


def test_the_checksum_sees_the_order_of_rows_that_statistics_do_not(
    tmp_path: Path, schema: Schema, write_shards: Any
) -> None:
    table = random_table(schema, write_shards, tmp_path, 200)
    marks = [
        Manifest.scan(seal(some, tmp_path / place / "a.parquet", 70), schema).fingerprint
        for place, some in {"a": table, "b": table, "c": table.take(list(range(199, -1, -1)))}.items()
    ]
    assert marks[0] == marks[1] != marks[2]
