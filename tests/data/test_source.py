"""Sources: exact continuation, equal global batches on any world size, every evaluation row once; threads that end."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import threading

import pytest
import torch

from rechub_ray.batch import Batch
from rechub_ray.data.manifest import Manifest
from rechub_ray.data.plan import EpochPlan, Position
from rechub_ray.data.reader import read_piece
from rechub_ray.data.source import EvalSource, ThreadReader, TrainSource
from rechub_ray.errors import DataError
from rechub_ray.world import World

ROWS = 500


@pytest.fixture
def schema(schema):
    """The row id is the group too, so that a batch tells which rows it holds."""
    return dataclasses.replace(schema, group="row")


@pytest.fixture
def data(tmp_path, schema, write_shards):
    table = write_shards(tmp_path, schema, rows=ROWS, files=3, row_group_rows=40)
    return Manifest.scan(tmp_path, schema), table


def train_source(manifest, schema, *, batch_size=16, rank=0, size=1, seed=7, reader=None) -> TrainSource:
    world = World(rank, size)
    return TrainSource(
        manifest, schema, batch_size=batch_size, seed=seed, world=world, reader=reader or ThreadReader(prefetch=2)
    )


def tensors(batch: Batch) -> list[torch.Tensor]:
    features = batch.features
    sequences = [features.sequences.values, features.sequences.offsets]
    return [features.sparse, features.dense, *sequences, batch.labels, batch.weight, batch.group]


def same(first: Batch, second: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second), strict=True))


def rows_of(batches) -> list[int]:
    return [row for batch in batches for row in batch.group.tolist()]


def test_an_epoch_has_the_rows_of_the_file(data, schema):
    manifest, table = data
    source = train_source(manifest, schema)
    batches = list(source.epoch(Position()))
    assert source.steps_per_epoch == len(batches) == ROWS // 16
    assert {batch.rows for batch in batches} == {16}
    rows = rows_of(batches)
    assert len(set(rows)) == len(rows) == ROWS // 16 * 16
    by_row = {row["row"]: row for row in table.to_pylist()}
    for batch in batches:
        found = zip(batch.group.tolist(), batch.features.sparse.tolist(), batch.labels.tolist(), strict=True)
        for row, sparse, labels in found:
            expected = by_row[row]
            assert sparse == [expected["user"], expected["item"]]
            assert labels == [expected["click"], expected["rating"]]


def test_epochs_are_shuffled_anew_and_seeds_matter(data, schema):
    manifest, _ = data
    source = train_source(manifest, schema)
    first, again, second = (rows_of(source.epoch(Position(epoch=epoch))) for epoch in (0, 0, 1))
    other = rows_of(train_source(manifest, schema, seed=8).epoch(Position()))
    assert first == again
    assert len({tuple(first), tuple(second), tuple(other), tuple(sorted(first))}) == 4


def test_two_workers_side_by_side_are_one_worker_with_twice_the_batch(data, schema):
    manifest, _ = data
    one = train_source(manifest, schema, batch_size=12).epoch(Position(epoch=1))
    ranks = [train_source(manifest, schema, batch_size=6, rank=r, size=2).epoch(Position(epoch=1)) for r in (0, 1)]
    for whole, *halves in zip(one, *ranks, strict=True):
        assert rows_of([whole]) == rows_of(halves)
        assert torch.equal(whole.features.dense, torch.cat([half.features.dense for half in halves]))


def test_resuming_anywhere_continues_bit_for_bit(data, schema):
    manifest, _ = data
    source = train_source(manifest, schema)
    whole = list(source.epoch(Position(epoch=2)))
    position = Position(epoch=2)
    for step in range(0, len(whole), 5):
        saved = Position.from_dict(json.loads(json.dumps(position.to_dict())))
        rest = list(train_source(manifest, schema).epoch(saved))
        assert source.steps_left(saved) == len(rest) == len(whole) - step
        assert all(same(a, b) for a, b in zip(rest, whole[step:], strict=True))
        position = source.advance(position, 5)


def test_the_end_of_an_epoch_is_the_start_of_the_next(data, schema):
    source = train_source(data[0], schema)
    steps = source.steps_per_epoch
    assert source.advance(Position(), steps) == source.normalise(Position(epoch=1))
    assert source.advance(Position(), 0) == source.normalise(Position())
    assert source.advance(Position(), 2 * steps + 3) == source.advance(Position(epoch=2), 3)
    assert source.advance(Position(), steps - 1).step == steps - 1


def test_changed_numbers_of_workers_within_an_epoch(data, schema):
    manifest, _ = data
    position, rows = Position(), []
    for size, batch_size, steps in ((2, 8, 7), (1, 24, 3), (4, 4, 6), (3, 5, None)):
        sources = [train_source(manifest, schema, batch_size=batch_size, rank=r, size=size) for r in range(size)]
        ends = {source.advance(position, steps or 0) for source in sources}
        assert len(ends) == 1
        for source in sources:
            rows += rows_of(itertools.islice(source.epoch(position), steps))
        if steps:
            position = ends.pop()
            assert position.rows_done == len(rows)
    assert position.steps_done == 7 + 3 + 6
    assert len(set(rows)) == len(rows)
    assert ROWS - 15 < len(rows) <= ROWS


def test_a_changed_geometry_can_leave_less_than_a_batch(data, schema):
    manifest, _ = data
    small = train_source(manifest, schema, batch_size=16)
    large = train_source(manifest, schema, batch_size=64)
    almost = small.advance(Position(), 30)
    assert large.normalise(almost) == large.normalise(Position(epoch=1))


def test_too_few_rows(data, schema):
    with pytest.raises(DataError, match=r"500 rows.* 2 workers x 300 rows = 600"):
        train_source(data[0], schema, batch_size=300, size=2)


def test_changed_data_or_seed_in_the_middle_of_an_epoch(data, schema, tmp_path):
    manifest, _ = data
    source = train_source(manifest, schema)
    middle, start = source.advance(Position(), 3), source.normalise(Position(epoch=1))
    (tmp_path / "part-00002.parquet").unlink()
    for other in (
        train_source(manifest, schema, seed=8),
        train_source(Manifest.scan(tmp_path, schema), schema),
    ):
        with pytest.raises(DataError, match="the data or the seed changed"):
            other.normalise(middle)
        assert other.normalise(start).epoch == 1


def test_a_position_of_an_earlier_version_knows_names_and_rows_only(data, schema):
    manifest, _ = data
    source = train_source(manifest, schema)
    position = dataclasses.replace(source.advance(Position(), 3), data=source._earlier)
    assert source.normalise(position) == source.advance(Position(), 3)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_evaluation_sees_every_row_once(data, schema, size):
    manifest, _ = data
    rows = []
    for rank in range(size):
        source = EvalSource(manifest, schema, batch_size=64, world=World(rank, size), reader=ThreadReader())
        batches = list(source.batches())
        assert [batch.rows for batch in batches[:-1]] == [64] * (len(batches) - 1)
        assert source.rows_expected == ROWS
        rows += rows_of(batches)
    assert rows == list(range(ROWS))


def test_evaluation_with_more_workers_than_rows(tmp_path, schema, write_shards):
    write_shards(tmp_path, schema, rows=2, files=1)
    manifest = Manifest.scan(tmp_path, schema)
    found = [
        rows_of(EvalSource(manifest, schema, batch_size=8, world=World(r, 3), reader=ThreadReader()).batches())
        for r in range(3)
    ]
    assert sorted(found) == [[], [0], [1]]


def test_blocks_know_their_row_ids_in_prediction(data, schema):
    manifest, _ = data
    source = EvalSource(manifest, schema, batch_size=128, world=World(), reader=ThreadReader(), targets=False)
    blocks = list(source.blocks())
    assert [block.rows for block in blocks] == [128, 128, 128, 116]
    assert [row for block in blocks for row in block.row_id.to_pylist()] == list(range(ROWS))


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("rechub-reader")]


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_keep_the_order_and_stay_within_bounds(data, schema, monkeypatch, threads):
    manifest, _ = data
    pieces = EpochPlan(manifest, seed=0, epoch=0, lanes=8, global_batch=16).pieces(0, 1)
    started = collections.Counter()

    def counting(piece, *args, **kwargs):
        started["pieces"] += 1
        return read_piece(piece, *args, **kwargs)

    monkeypatch.setattr("rechub_ray.data.source.read_piece", counting)
    blocks = ThreadReader(prefetch=4, threads=threads)(pieces, schema)
    for taken, (piece, block) in enumerate(zip(pieces, blocks, strict=True)):
        assert started["pieces"] <= taken + 1 + 4
        expected = read_piece(piece, schema)
        assert block.row_id.equals(expected.row_id)
    assert not reading_threads()


def test_errors_of_threads_reach_the_loop(data, schema, tmp_path):
    manifest, _ = data
    (tmp_path / "part-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"part-00001\.parquet"):
        list(train_source(manifest, schema).epoch(Position()))
    assert not reading_threads()


def test_abandoned_iterators_end_their_threads(data, schema):
    batches = train_source(data[0], schema, batch_size=4).epoch(Position())
    next(batches)
    assert reading_threads()
    batches.close()
    assert not reading_threads()
    for _ in train_source(data[0], schema, batch_size=4).epoch(Position()):
        break
    assert not reading_threads()
