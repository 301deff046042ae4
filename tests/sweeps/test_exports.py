"""A trial's ONNX file: of its best checkpoint, and never a reason to fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rechub_ray import config as config_module
from rechub_ray.data.synthetic import write_click_logs
from rechub_ray.models import MODELS
from rechub_ray.models.ranking.lr import LR
from rechub_ray.runtime.launch import train
from rechub_ray.sweeps.exports import export_trial


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    write_click_logs(folder / "data", rows=1000, seed=3)
    settings = {
        "model": "lr",
        "model_dir": str(folder / "run"),
        "data": {"root": str(folder / "data"), "batch_size": 128},
        "train": {"threads": 1},
        "trackers": [],
        "export": {"onnx": False},
    }
    return train(config_module.load(settings)).best_checkpoint


def test_the_parity_report_lies_beside_the_file(checkpoint: str, tmp_path: Path) -> None:
    (tmp_path / "model.onnx.data").write_text("weights of an earlier, larger model")
    told = export_trial(checkpoint, tmp_path, probabilities=True)
    assert {p.name for p in tmp_path.iterdir()} == {"model.onnx", "model.onnx.parity.json"}
    report = json.loads((tmp_path / "model.onnx.parity.json").read_text())
    assert report["source"].startswith(checkpoint)
    assert told["max_abs_difference"] == report["max_abs_difference"] < 1e-6


def test_an_error_is_recorded_and_leaves_no_earlier_file(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.onnx").write_text("of an earlier checkpoint")

    def refuses(*given: object) -> None:
        raise RuntimeError("no such operator")

    assert MODELS.get("lr") is LR
    monkeypatch.setattr(LR, "forward", refuses)
    assert "no such operator" in export_trial(checkpoint, tmp_path, probabilities=True)["error"]
    assert "no complete checkpoint" in export_trial(tmp_path / "nothing", tmp_path, probabilities=True)["error"]
    assert not list(tmp_path.iterdir())
