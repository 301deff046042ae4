"""Evaluation and prediction in shares: ranks give together what one process gives."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rechub_ray import config
from rechub_ray.checkpoint import read
from rechub_ray.data.manifest import Manifest
from rechub_ray.data.source import ThreadReader
from rechub_ray.data.synthetic import write_click_logs
from rechub_ray.runtime.inference import InferenceJob, evaluate, infer, predict
from rechub_ray.runtime.launch import train
from rechub_ray.runtime.parts import Parts
from rechub_ray.runtime.predictions import PredictJob, ShardRows, write_parts
from tests.worlds import on_ranks


def test_a_label_that_is_missing_is_null_beside_the_predictions(two_tasks: Path, tmp_path: Path) -> None:
    places = {"data.root": str(two_tasks), "model_dir": str(tmp_path / "run")}
    short = {"train": {"steps": 1, "threads": 1}, "trackers": [], "export": {"onnx": False}}
    train(
        config.load(
            {"model": {"name": "shared_bottom", "embedding_dim": 4}, "data": {"batch_size": 64}, **short}, places
        )
    )
    predict(tmp_path / "run", tmp_path / "out", keep=["stay", "click"])
    found = pq.read_table(tmp_path / "out")
    shards = pa.concat_tables(pq.read_table(file) for file in sorted((two_tasks / "test").glob("*.parquet")))
    assert found["stay"].null_count > 0
    assert found["stay"].to_pylist() == shards["stay"].to_pylist()
    assert found["click"].to_pylist() == shards["click"].to_pylist()


def test_two_ranks_give_what_one_gives(tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    write_click_logs(data, rows=1500, seed=3, files=3, row_group_rows=128)
    short = {"steps": 3, "threads": 1}
    train(
        config.load(
            {
                "data": {"root": str(data), "batch_size": 128, "eval_batch_size": 32}, "model": "lr", "train": short,
                "optimizers": ["adam"], "trackers": [], "export": {"onnx": False}, "model_dir": str(run),
            }
        )
    )  # fmt: skip
    saved = read(run, weights=False)
    manifest = Manifest.scan(data / "test", saved.schema)
    job = InferenceJob(checkpoint=saved.path, config=saved.config, schema=saved.schema, manifest=manifest)
    whole = evaluate(run)
    for part in on_ranks(2, lambda world: infer(job, world=world, device=torch.device("cpu"), reader=ThreadReader())):
        assert part == pytest.approx(whole, abs=1e-6)
        assert part["rows_seen"] == 150
    rows = ShardRows(manifest, saved.schema, {}, targets=False)
    parts = Parts.begin(str(tmp_path / "two"), 4, {})
    work = PredictJob(saved.path, saved.config, rows, parts)
    on_ranks(2, lambda world: write_parts(work, world=world, device=torch.device("cpu"), reader=ThreadReader()))
    assert parts.finish() == (150, 0)
    assert predict(run, tmp_path / "one") == 150
    tables = [pq.read_table(file) for file in sorted((tmp_path / "two").iterdir())]
    assert [table.num_rows for table in tables] == [37, 38, 37, 38]
    one, two = pq.read_table(tmp_path / "one")["probability"], pa.concat_tables(tables)["probability"]
    assert two.to_pylist() == pytest.approx(one.to_pylist(), abs=1e-6)
