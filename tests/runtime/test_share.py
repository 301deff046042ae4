"""Data that is read once: the same batches for all trials, whatever becomes of those who keep it; what a run keeps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rechub_ray import config as config_module
from rechub_ray.batch import Batch
from rechub_ray.data.manifest import Manifest
from rechub_ray.data.plan import EpochPlan, Piece, Position
from rechub_ray.data.reader import read_piece, read_whole
from rechub_ray.data.source import EvalSource, ReadPiece, ThreadReader, TrainSource
from rechub_ray.errors import DataError
from rechub_ray.runtime import share
from rechub_ray.schema import Schema
from rechub_ray.world import World

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]


@pytest.fixture
def manifest(tmp_path: Path, schema: Schema, write_shards: Any) -> Manifest:
    write_shards(tmp_path, schema, rows=600, files=3, row_group_rows=40)
    return Manifest.scan(tmp_path, schema)


@pytest.fixture
def job(manifest: Manifest, schema: Schema) -> Any:
    return SimpleNamespace(train=manifest, valid=manifest, test=None, groups=None, schema=schema)


def batches(manifest: Manifest, schema: Schema, read: ReadPiece) -> Iterator[Batch]:
    """Training from the middle of an epoch into the next one, and an evaluation."""
    reader = ThreadReader(read=read)
    source = TrainSource(manifest, schema, batch_size=16, seed=1, world=World(), reader=reader)
    yield from source.epoch(source.advance(Position(), 20))
    yield from source.epoch(Position(epoch=1))
    yield from EvalSource(manifest, schema, batch_size=50, world=World(), reader=reader).batches()


def assert_same_as_from_files(manifest: Manifest, schema: Schema, read: ReadPiece) -> None:
    for found, wanted in zip(batches(manifest, schema, read), batches(manifest, schema, read_piece), strict=True):
        assert found.features.sparse.equal(wanted.features.sparse)
        assert found.features.dense.equal(wanted.features.dense)
        assert found.features.sequences is not None
        assert wanted.features.sequences is not None
        assert found.features.sequences.values.equal(wanted.features.sequences.values)
        assert found.features.sequences.offsets.equal(wanted.features.sequences.offsets)
        assert found.labels.equal(wanted.labels)
        assert found.weight is not None
        assert wanted.weight is not None
        assert found.weight.equal(wanted.weight)


def test_each_row_group_is_read_once_as_long_as_somebody_keeps_it(
    ray_cluster: None, job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    said: list[str] = []
    with share.kept(share.room_for_trials(job, say=said.append)) as read:
        assert read is not None
        assert_same_as_from_files(job.train, job.schema, read)
        assert said[0].endswith("read once for all trials")
        monkeypatch.setattr(share, "read_piece", None)  # this process reads nothing by itself
        kept = [ray.get(ref) for ref in read._known.values()]
        assert all(not block.sparse.flags.owndata for block in kept), "mapped, not copied"
        other = share.SharedBlocks(read._keeper)
        list(batches(job.train, job.schema, other))
        assert {k: v.hex() for k, v in other._known.items()} == {k: v.hex() for k, v in read._known.items()}
        assert len(other._known) == len(job.train.row_groups), "training and evaluation read the same columns"
        ray.kill(read._keeper)
        monkeypatch.undo()
        assert_same_as_from_files(job.train, job.schema, read)


def test_a_keeper_that_is_full_or_meets_an_error_is_no_loss(ray_cluster: None, job: Any) -> None:
    import ray

    keeper = ray.remote(num_cpus=0)(share.Keeper).remote(5000)
    read = share.SharedBlocks(keeper)
    assert_same_as_from_files(job.train, job.schema, read)
    assert {ref is None for ref in read._known.values()} == {True, False}
    Path(job.train.files[0].path).write_bytes(b"not parquet")
    for asks in (share.SharedBlocks(keeper), read):
        with pytest.raises(DataError, match="cannot read"):
            list(batches(job.train, job.schema, asks))
    ray.kill(keeper)


def test_what_does_not_fit_is_not_shared(ray_cluster: None, job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "SHARE", 1e-9)
    said: list[str] = []
    with share.kept(share.room_for_trials(job, say=said.append)) as read:
        assert read is None
    assert "each trial reads for itself" in said[0]


def run_of(job: Any, **overrides: Any) -> Any:
    given = {
        k.replace("__", "."): v
        for k, v in {"scaling__num_workers": 2, "data__batch_size": 8, "train__epochs": 2, **overrides}.items()
    }
    job.config = config_module.load({"model": {"name": "lr"}}, given)
    return job


def test_a_keeper_that_does_not_answer_is_not_waited_for(
    ray_cluster: None, job: Any, caplog: pytest.LogCaptureFixture
) -> None:
    import ray

    class Busy(share.Keeper):
        def whole(self, *_: Any) -> list[Any]:
            time.sleep(60)
            return [None]

    keeper = ray.remote(num_cpus=0)(Busy).remote(10**9)
    assert_same_as_from_files(job.train, job.schema, share.SharedBlocks(keeper, wait_seconds=0.5))
    assert "kept data is gone" in caplog.text
    ray.kill(keeper)


def test_those_who_ask_at_once_get_one_row_group(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Piece] = []

    def slowly(piece: Piece, schema: Schema, *, targets: bool) -> Any:
        read.append(piece)
        time.sleep(0.2)
        return read_whole(piece, schema, targets=targets)

    monkeypatch.setattr(share, "read_whole", slowly)
    monkeypatch.setattr("ray.put", lambda block: block)
    keeper = share.Keeper(10**9)
    piece = EpochPlan(job.train, seed=1, epoch=0, lanes=8, global_batch=16).pieces(0, 1)[0].whole
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: keeper.whole(("a", 0, "b", True), piece, job.schema, True)[0], range(6)))
    assert len(read) == 1
    assert all(block is found[0] for block in found)


def test_a_run_keeps_nothing_where_it_would_not_fit(
    ray_cluster: None, job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = share.decoded_bytes(job)
    assert share.bytes_to_keep(run_of(job, data__keep_bytes=2 * needed)) == 2 * needed
    assert not share.bytes_to_keep(run_of(job, data__keep_bytes=needed))
    assert not share.bytes_to_keep(run_of(job, data__keep_bytes=0))
    assert not share.bytes_to_keep(run_of(job, train__epochs=1)), "nothing would be read a second time"
    monkeypatch.setattr(share, "SHARE", 1e-9)
    assert not share.bytes_to_keep(run_of(job))
