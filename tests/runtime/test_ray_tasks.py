"""Two tasks on Ray Train workers: balanced losses and gradients, in parts, with a worker killed on the way."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rechub_ray import config as config_module
from rechub_ray.checkpoint import Checkpoint, Store, read
from rechub_ray.runtime.launch import train
from rechub_ray.tracking import Tracker, read_history
from tests.worlds import train_in_processes

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

BASE: dict[str, Any] = {
    "name": "t",
    "data": {"batch_size": 32, "eval_batch_size": 512},
    "model": {"name": "shared_bottom", "embedding_dim": 4, "bottom_units": [16], "tower_units": [8], "init_std": 0.05},
    "optimizers": [{"name": "rowwise_adagrad", "params": "embedding.*", "lr": 0.05}, {"name": "adam", "lr": 0.01}],
    "train": {"epochs": 8, "accumulate_steps": 2, "log_every_steps": 2, "threads": 1, "evaluate_every_epochs": 4},
    "trackers": ["jsonl"],
    "scaling": {"num_workers": 2},
    "export": {"onnx": False},
}


class KillOne(Tracker):
    """Kills a Ray Train worker process, once, at the first log from `step` on."""

    def __init__(self, step: int, own_processes: Callable[[str], list[int]]) -> None:
        self.step, self.killed, self.own_processes = step, False, own_processes

    def log(self, metrics: Any, *, step: int) -> None:
        if step >= self.step and not self.killed:
            self.killed = True
            os.kill(self.own_processes("ray::RayTrainWorker")[-1], signal.SIGKILL)


def newest(model_dir: Path) -> Checkpoint:
    return read(f"{model_dir}/checkpoints/{Store(str(model_dir)).newest()}")


@pytest.mark.parametrize("balancing", ["uwl", pytest.param("pcgrad", marks=pytest.mark.long)])
def test_a_killed_worker_leaves_no_trace(
    balancing: str, ray_cluster: None, two_tasks: Path, tmp_path: Path, own_processes: Callable[[str], list[int]]
) -> None:
    def settings(name: str) -> config_module.RunConfig:
        places = {"data.root": str(two_tasks), "model_dir": str(tmp_path / name), "checkpoint.every_steps": 10}
        return config_module.load(BASE, {**places, "balancing": balancing})

    # without Ray, and reads every epoch anew; the other run keeps what it read
    whole = train_in_processes(2, tmp_path / "meet", settings("whole"))
    killer = KillOne(31, own_processes)
    survived = train(settings("killed"), trackers=[killer])
    assert killer.killed
    assert survived.details["rows"] == whole["rows"]
    assert survived.test_metrics == whole["test_metrics"]
    assert set(survived.test_metrics) > {"click/auc", "stay/rmse"}
    a, b = newest(tmp_path / "whole"), newest(tmp_path / "killed")
    for name, value in {**a.model, **a.objective}.items():
        assert torch.equal(value, {**b.model, **b.objective}[name]), name
    lines = [line for line in read_history(tmp_path / "killed" / "metrics.jsonl") if "train/loss" in line]
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps)), "a step was logged twice"
    if balancing == "uwl":
        assert list(a.objective) == ["balancing.log_variance"]
        assert a.objective["balancing.log_variance"].abs().min() > 0.01
        assert lines[-1]["loss_weight/task_0"] != lines[-1]["loss_weight/task_1"]
    else:
        assert not a.objective
