from __future__ import annotations

import json
import math

import pytest

from rechub_ray.errors import DataError
from rechub_ray.tracking import JsonlTracker, read_history


def lines(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_lines_are_there_at_once(run):
    info = run()
    tracker = JsonlTracker(info)
    tracker.log({"train/loss": 0.5, "epoch": 0}, step=10)
    path = info.directory / "metrics.jsonl"
    first = lines(path)  # not closed yet
    assert first == [{"step": 10, "time": first[0]["time"], "train/loss": 0.5, "epoch": 0}]
    tracker.log({"val/auc": 0.75}, step=10)
    tracker.close()
    assert [record["step"] for record in lines(path)] == [10, 10]
    assert read_history(path)[1]["val/auc"] == 0.75


def test_nan_and_infinity_are_null(run):
    tracker = JsonlTracker(run())
    tracker.log({"val/auc": math.nan, "train/loss": math.inf, "ok": -1.5}, step=1)
    tracker.close()
    path = run().directory / "metrics.jsonl"
    record = lines(path)[0]
    assert (record["val/auc"], record["train/loss"], record["ok"]) == (None, None, -1.5)
    history = read_history(path)[0]
    assert math.isnan(history["val/auc"])
    assert math.isnan(history["train/loss"])


def test_tensors_and_numpy_numbers_become_plain(run):
    import numpy as np
    import torch

    tracker = JsonlTracker(run())
    tracker.log({"a": np.float32(0.5), "b": torch.tensor(2.0), "c": np.int64(3)}, step=1)
    tracker.close()
    assert {**read_history(run().directory / "metrics.jsonl")[0], "time": 0} == {
        "step": 1, "time": 0, "a": 0.5, "b": 2.0, "c": 3.0,
    }  # fmt: skip


def test_resume_drops_the_steps_that_are_trained_again(run):
    tracker = JsonlTracker(run())
    for step in (10, 20, 30, 40):
        tracker.log({"train/loss": 1 / step}, step=step)
    tracker.close()
    path = run().directory / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"step": 50, "time')  # killed while writing

    tracker = JsonlTracker(run(resumed=True, start_step=20))
    assert [record["step"] for record in read_history(path)] == [10, 20]
    tracker.log({"train/loss": 9.0}, step=30)
    tracker.close()
    assert [(record["step"], record["train/loss"]) for record in lines(path)] == [(10, 0.1), (20, 0.05), (30, 9.0)]
    assert [file.name for file in path.parent.iterdir()] == ["metrics.jsonl"]


def test_resume_without_a_file_starts_one(run):
    JsonlTracker(run(resumed=True, start_step=5)).close()
    assert read_history(run().directory / "metrics.jsonl") == []


def test_a_new_run_replaces_the_file(run):
    for loss in (1.0, 2.0):
        tracker = JsonlTracker(run())
        tracker.log({"train/loss": loss}, step=1)
        tracker.close()
    assert [record["train/loss"] for record in read_history(run().directory / "metrics.jsonl")] == [2.0]


def test_a_line_cut_off_is_left_out_but_a_damaged_one_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 2}\n{"step": 2, "a"')
    assert read_history(path) == [{"step": 1, "a": 2}]
    path.write_text('{"step": 1, "a": 2}\n{"step": 2, "a"\n{"step": 3}\n')
    with pytest.raises(DataError, match=r"line 2 of .*metrics.jsonl is not a JSON object"):
        read_history(path)
    with pytest.raises(DataError, match=r"cannot read the history .*missing.jsonl"):
        read_history(tmp_path / "missing.jsonl")
