"""What a run says at its end: of its scores, and of the data that it had."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rechub_ray.config import load
from rechub_ray.data.synthetic import write_click_logs
from rechub_ray.runtime.doubts import of_run, of_scores
from rechub_ray.runtime.launch import train
from rechub_ray.runtime.preflight import check


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.503, "0.5030, that of a guess, 0.5"), (0.31, "0.3100, worse than a guess"), (0.53, None), (math.nan, None)],
)
def test_a_score_that_is_no_better_than_a_guess(value: float, words: str | None) -> None:
    lines = of_scores({"click/auc": value, "log_loss": 0.4, "gauc": 0.5, "mse": 0.0})
    assert len(lines) == (words is not None)
    assert all(line.startswith(f"val/click/auc is {words}") and "learning rates" in line for line in lines)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Click logs whose labels are drawn anew, so that nothing is to be learned, with a feature that has one value."""
    folder = tmp_path_factory.mktemp("data")
    write_click_logs(folder, rows=1500, seed=3, row_group_rows=256)
    rng = np.random.default_rng(0)
    for file in folder.glob("*/*.parquet"):
        table = pq.read_table(file)
        schema = json.loads((folder / "schema.json").read_text())
        first = schema["features"][0]["name"]
        for name, values in ((first, np.ones(len(table), int)), ("click", rng.integers(0, 2, len(table)))):
            place = table.schema.get_field_index(name)
            table = table.set_column(place, name, [values.astype(table[name].to_numpy().dtype)])
        pq.write_table(table, file, row_group_size=256)
    return folder


def settings(data: Path, folder: Path, **changes: Any) -> Any:
    node = {
        "model_dir": str(folder),
        "data": {"root": str(data), "batch_size": 128},
        "model": {"name": "lr"},
        "train": {"threads": 1, **changes},
        "trackers": [],
        "export": {"onnx": False},
    }
    return load(node)


def test_a_run_ends_with_its_doubts(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = train(settings(data, tmp_path / "run"))
    said = result.details["warnings"]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["details"]["warnings"] == said
    assert len(said) == (2 if result.metrics["auc"] < 0.52 else 1)
    assert said[-1].startswith("one value in all 1,200 rows of train that were looked at: 'user'")
    assert all(caplog.text.count(line) == 1 for line in said)
    caplog.clear()
    quiet = train(settings(data, tmp_path / "quiet", warnings=False))
    assert quiet.details["warnings"] == []
    assert "one value" not in caplog.text


def test_a_run_whose_files_are_gone_says_what_it_can(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    job = check(settings(tmp_path / "data", tmp_path / "run"))
    shutil.rmtree(tmp_path / "data" / "valid")
    (line,) = of_run(job, {"auc": 0.5})
    assert line.startswith("val/auc is 0.5000")
