"""The same run on a GPU: every family of losses, rows and balancing, against the CPU; resuming; the export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rechub_ray import config as config_module
from rechub_ray.checkpoint import Store, read
from rechub_ray.runtime.inference import evaluate, predict
from rechub_ray.runtime.launch import train
from rechub_ray.tracking import read_history

pytestmark = pytest.mark.gpu

TABLES = {"params": ["embedding.*"], "lr": 0.05}
CASES: dict[str, dict[str, Any]] = {
    "deepfm": {
        "model": {"name": "deepfm", "embedding_dim": 4, "hidden_units": [16, 8], "init_std": 0.05, "batch_norm": True},
        "data": {"labels": ["click"]},
        "optimizers": [{**TABLES, "name": "rowwise_adagrad", "params": ["*embedding.*"]}, {"name": "adam", "lr": 0.01}],
    },
    "uwl": {"balancing": "uwl", "optimizers": [{**TABLES, "name": "rowwise_adagrad"}, {"name": "adam", "lr": 0.01}]},
    "pcgrad": {"balancing": "pcgrad", "optimizers": [{**TABLES, "name": "lazy_adam"}, {"name": "adam", "lr": 0.01}]},
    "points": {
        "losses": [
            {"name": "binary_focal", "ohem_ratio": 0.7},
            {"name": "f1_reweighted", "f1_beta_square": 0.6, "weight": 0.5},
            {"name": "ziln", "label": "stay"},
            {"name": "distillation", "label": "click", "teacher": "stay", "teacher_kind": "logit", "weight": 0.01},
        ],
        "train": {"accumulate_steps": 1},
        "optimizers": [{"name": "adam", "lr": 0.01}],
    },
    "pairs": {
        "losses": ["bce", {"name": "mse", "label": "stay"}, {"name": "pairwise_logistic", "weight": 0.5}],
        "train": {"accumulate_steps": 1},
        "optimizers": [{"name": "adam", "lr": 0.01}],
    },
}
BASE: dict[str, Any] = {
    "name": "t",
    "data": {"batch_size": 64, "eval_batch_size": 512},
    "model": {"name": "shared_bottom", "embedding_dim": 4, "bottom_units": [16], "tower_units": [8], "init_std": 0.05},
    "train": {"epochs": 2, "accumulate_steps": 2, "log_every_steps": 5, "evaluate_every_epochs": 1},
    "trackers": ["jsonl"],
    "export": {"onnx": False},
}


def settings(data: Path, model_dir: Path, case: str, device: str, **overrides: Any) -> config_module.RunConfig:
    content = {**BASE, **{key: value for key, value in CASES[case].items() if key not in ("train", "data")}}
    for key in ("train", "data"):
        content[key] = {**BASE[key], **CASES[case].get(key, {})}
    places = {"data.root": str(data), "model_dir": str(model_dir), "train.device": device}
    return config_module.load(content, {**places, **{k.replace("__", "."): v for k, v in overrides.items()}})


def weights(model_dir: Path) -> dict[str, torch.Tensor]:
    checkpoint = read(f"{model_dir}/checkpoints/{Store(str(model_dir)).newest()}")
    return {**checkpoint.model, **checkpoint.objective}


@pytest.mark.parametrize("case", CASES)
def test_a_gpu_gives_the_cpus_numbers_and_resumes_exactly(case: str, two_tasks: Path, tmp_path: Path) -> None:
    here = train(settings(two_tasks, tmp_path / "cpu", case, "cpu"))
    there = train(settings(two_tasks, tmp_path / "gpu", case, "cuda"))
    for key, value in here.test_metrics.items():
        assert there.test_metrics[key] == pytest.approx(value, abs=2e-3, rel=2e-3), key
    curves = [[x["train/loss"] for x in read_history(tmp_path / name / "metrics.jsonl") if "train/loss" in x]
              for name in ("cpu", "gpu")]  # fmt: skip
    assert curves[1][0] == pytest.approx(curves[0][0], rel=1e-3)
    # a sum of losses may pass zero
    assert curves[1] == pytest.approx(curves[0], rel=2e-2, abs=2e-2)
    assert weights(tmp_path / "gpu").keys() == weights(tmp_path / "cpu").keys()
    first = settings(two_tasks, tmp_path / "halves", case, "cuda", train__epochs=1)
    train(first)
    again = train(settings(two_tasks, tmp_path / "halves", case, "cuda"), resume="must")
    for key, value in there.test_metrics.items():
        assert again.test_metrics[key] == pytest.approx(value, abs=1e-4), key
    assert evaluate(tmp_path / "gpu")["rows_seen"] == 400
    assert predict(tmp_path / "gpu", tmp_path / "predictions") == 400
