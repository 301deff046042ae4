"""A run goes on with the files it began with, or says which is another one."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from rechub_ray import config as config_module
from rechub_ray.data.manifest import Manifest
from rechub_ray.data.plan import Position
from rechub_ray.data.shard import SealedWriter
from rechub_ray.errors import CheckpointError, DataError, RechubError
from rechub_ray.runtime.same_data import FILE, check_same, note
from rechub_ray.schema import Schema

MIDDLE, START = Position(epoch=1, step=3), Position(epoch=1)


@pytest.fixture
def job(tmp_path: Path, schema: Schema, write_shards: Any) -> Any:
    for number, split in enumerate(("train", "valid")):
        write_shards(tmp_path / "data" / split, schema, rows=230, files=2, seed=number)
    (tmp_path / "run").mkdir()
    config = config_module.load({"model": {"name": "lr"}}, {"model_dir": str(tmp_path / "run")})
    return at(SimpleNamespace(config=config, schema=schema), tmp_path / "data")


def at(job: Any, root: Path, **more: Any) -> Any:
    """The job with what the files are now."""
    splits = {split: Manifest.scan(root / split, job.schema) for split in ("train", "valid")}
    return SimpleNamespace(**vars(job) | splits | {"test": None} | more)


def rewrite(path: Path, *, is_sealed: bool = True) -> None:
    """The same rows in reverse: equal numbers of rows, and equal minima and maxima."""
    table = pq.read_table(path)
    table = table.take(list(range(table.num_rows))[::-1])
    if is_sealed:
        with SealedWriter(path, table.schema) as writer:
            writer.write_table(table, 50)
    else:
        pq.write_table(table, path, row_group_size=50)


@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize("position", [MIDDLE, START])
def test_a_file_with_its_rows_reversed_is_refused(job: Any, tmp_path: Path, split: str, position: Position) -> None:
    note(job)
    check_same(job, position)
    rewrite(tmp_path / "data" / split / "part-00001.parquet")
    with pytest.raises(DataError, match=rf"'data.{split}': .*part-00001.parquet is not the file .*Bring that"):
        check_same(at(job, tmp_path / "data"), position)


def test_without_checksums_sizes_and_statistics_tell(job: Any, tmp_path: Path, schema: Schema) -> None:
    path = tmp_path / "data" / "train" / "part-00000.parquet"
    pq.write_table(pq.read_table(path), path, row_group_size=50)
    job = at(job, tmp_path / "data")
    note(job)
    rewrite(path, is_sealed=False)
    with pytest.raises(DataError, match=r"part-00000.parquet is not the file"):
        check_same(at(job, tmp_path / "data"), MIDDLE)


@pytest.mark.parametrize("change", ["gone", "new"])
def test_files_may_come_and_go_between_epochs(
    job: Any, tmp_path: Path, schema: Schema, write_shards: Any, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    note(job)
    path = tmp_path / "data" / "train" / ("part-00001.parquet" if change == "gone" else "part-00002.parquet")
    if change == "gone":
        path.unlink()
    else:
        write_shards(tmp_path / "more", schema, rows=60, files=1, seed=9)
        shutil.move(tmp_path / "more" / "part-00000.parquet", path)
    with pytest.raises(DataError, match=rf"'data.train': {path} is {change}, but .* in the middle of an epoch"):
        check_same(at(job, tmp_path / "data"), MIDDLE)
    assert not caplog.records
    check_same(at(job, tmp_path / "data"), START)
    assert [record.getMessage() for record in caplog.records] == [
        f"'data.train': {path} is {change}: the run goes on with the files that are there now"
    ]


def test_data_that_was_moved_is_the_same(job: Any, tmp_path: Path) -> None:
    note(job)
    shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    check_same(at(job, tmp_path / "elsewhere"), MIDDLE)


def test_files_of_one_name_in_two_folders(job: Any, tmp_path: Path, schema: Schema) -> None:
    def both(split: str = "train") -> Any:
        places = [tmp_path / "data" / folder for folder in ("train", "valid")]
        return at(job, tmp_path / "data", **{split: Manifest.scan(places, schema)})

    note(both())
    check_same(both(), MIDDLE)
    rewrite(tmp_path / "data" / "train" / "part-00000.parquet")
    with pytest.raises(DataError, match=r"data/train/part-00000.parquet is not the file"):
        check_same(both(), MIDDLE)


def test_a_run_of_an_earlier_version_has_no_note(job: Any) -> None:
    check_same(job, MIDDLE)


@pytest.mark.parametrize("text", ["", "[]", '{"train": {}}', '{"train": {"files": [{"path": 3}]}}'])
def test_a_damaged_note_is_one_line(job: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / "run" / FILE).write_text(text)
    with pytest.raises(RechubError) as caught:
        check_same(job, MIDDLE)
    assert isinstance(caught.value, CheckpointError)
    assert f"{FILE} is damaged" in str(caught.value)
