"""Ray Data gives what the threads give, bit for bit; its failures come out as ours."""

from __future__ import annotations

import logging
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rechub_ray.data.groups import Groups
from rechub_ray.data.ingest import RayReader
from rechub_ray.data.manifest import Manifest
from rechub_ray.data.plan import EpochPlan, Position
from rechub_ray.data.source import EvalSource, ThreadReader, TrainSource
from rechub_ray.errors import DataError, ResourceError
from rechub_ray.world import World

pytestmark = pytest.mark.ray

SMALL = {"segment_bytes": 20_000, "task_bytes": 5_000, "prefetch": 2}


@pytest.fixture
def manifest(tmp_path, schema, write_shards) -> Manifest:
    write_shards(tmp_path, schema, rows=600, files=3, row_group_rows=40)
    return Manifest.scan(tmp_path, schema)


def ingest_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "rechub-ingest"]


def assert_same(batch, expected) -> None:
    pairs = [
        (batch.features.sparse, expected.features.sparse),
        (batch.features.dense, expected.features.dense),
        (batch.features.sequences.values, expected.features.sequences.values),
        (batch.features.sequences.offsets, expected.features.sequences.offsets),
        (batch.labels, expected.labels),
        (batch.weight, expected.weight),
        (batch.group, expected.group),
    ]
    assert all(found.dtype == wanted.dtype and found.equal(wanted) for found, wanted in pairs)


@pytest.mark.parametrize("options", [{}, SMALL], ids=["one task", "many segments"])
def test_training_batches_equal_those_of_threads(ray_cluster, manifest, schema, options):
    def source(reader):
        return TrainSource(manifest, schema, batch_size=16, seed=1, world=World(1, 2), reader=reader)

    position = source(ThreadReader()).advance(Position(epoch=1), 3)
    expected = list(source(ThreadReader()).epoch(position))
    found = list(source(RayReader(**options)).epoch(position))
    assert len(found) == len(expected) == 600 // 32 - 3
    for batch, wanted in zip(found, expected, strict=True):
        assert_same(batch, wanted)
    assert not ingest_threads()


def test_whole_groups_equal_those_of_threads(ray_cluster, tmp_path, schema, write_shards):
    table = write_shards(tmp_path / "raw", schema, rows=600, files=1)
    session = np.repeat(np.arange(150)[::-1], 4)
    table = table.set_column(table.column_names.index("session"), "session", pa.array(session))
    (tmp_path / "train").mkdir()
    pq.write_table(table, tmp_path / "train" / "part-0.parquet", row_group_size=40)
    manifest = Manifest.scan(tmp_path / "train", schema)
    groups = Groups.scan(manifest, "session")
    found = []
    for reader in (ThreadReader(), RayReader(**SMALL)):
        source = TrainSource(manifest, schema, batch_size=16, seed=1, world=World(1, 2), reader=reader, groups=groups)
        found.append(list(source.epoch(source.advance(Position(epoch=1), 3))))
    assert len(found[0]) == 600 // 32 - 3
    for wanted, batch in zip(*found, strict=True):
        assert (wanted.group.unique(return_counts=True)[1] == 4).all()
        assert_same(batch, wanted)


def test_evaluation_and_prediction_equal_those_of_threads(ray_cluster, manifest, schema):
    def blocks(reader, targets):
        world = World(0, 2)
        source = EvalSource(manifest, schema, batch_size=100, world=world, reader=reader, targets=targets)
        assert source.rows_expected == 600
        return list(source.batches()), [block.row_id for block in source.blocks()]

    batches, _ = blocks(RayReader(**SMALL), True)
    expected, _ = blocks(ThreadReader(), True)
    for batch, wanted in zip(batches, expected, strict=True):
        assert_same(batch, wanted)
    _, row_ids = blocks(RayReader(**SMALL), False)
    assert [row for ids in row_ids for row in ids.to_pylist()] == list(range(300))


def test_a_bad_file_is_named_without_a_wall_of_traces(ray_cluster, manifest, schema, tmp_path, caplog):
    path = tmp_path / "part-00001.parquet"
    data = bytearray(path.read_bytes())
    data[4:1500] = bytes(1496)
    path.write_bytes(data)
    source = EvalSource(manifest, schema, batch_size=50, world=World(), reader=RayReader(**SMALL))
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(DataError, match=r"part-00001\.parquet, row group 0") as caught,
    ):
        list(source.batches())
    assert "Traceback" not in str(caught.value)
    assert not caplog.records
    assert not ingest_threads()


def test_abandoned_iterators_end_their_threads(ray_cluster, manifest, schema):
    source = TrainSource(manifest, schema, batch_size=8, seed=1, world=World(), reader=RayReader(**SMALL))
    batches = source.epoch(Position())
    next(batches)
    assert ingest_threads()
    batches.close()
    assert not ingest_threads()


def test_no_free_cpu_is_an_error_and_not_a_hang(ray_cluster, manifest, schema):
    import ray

    @ray.remote(num_cpus=3)
    class Hog:
        def ready(self):
            return True

    hog = Hog.remote()
    ray.get(hog.ready.remote())
    try:
        pieces = EpochPlan(manifest, seed=0, epoch=0, lanes=8, global_batch=8).pieces(0, 1)
        with pytest.raises(ResourceError, match=r"no data arrived for 2 s.* 0 of 3 CPUs free"):
            list(RayReader(timeout_seconds=2)(pieces, schema))
    finally:
        ray.kill(hog)
