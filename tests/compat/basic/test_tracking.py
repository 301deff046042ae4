from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rechub_ray.compat.basic.tracking import SwanLabLogger, TensorBoardXLogger, WandbLogger
from rechub_ray.errors import ConfigError
from rechub_ray.tracking import RunInfo, Trackers


def test_tensorboard_files(tmp_path: Path) -> None:
    logger = TensorBoardXLogger(log_dir=str(tmp_path / "log"))
    with Trackers([logger], RunInfo(name="run", directory=tmp_path)) as trackers:
        trackers.log({"train/loss": 0.5}, step=3)
        trackers.hyperparameters({"model.name": "deepfm"}, {"val/auc": 0.7})
    content = b"".join(file.read_bytes() for file in (tmp_path / "log").iterdir())
    for text in (b"train/loss", b"model.name: deepfm", b"best/val/auc: 0.7"):
        assert text in content


class FakeRun:
    def __init__(self, **arguments: Any) -> None:
        self.arguments, self.logged, self.finished = arguments, [], False
        self.config: dict[str, Any] = {}

    def log(self, metrics: dict[str, Any], step: int | None = None) -> None:
        self.logged.append((metrics, step))

    def finish(self) -> None:
        self.finished = True


@pytest.mark.parametrize(("kind", "package"), [(WandbLogger, "wandb"), (SwanLabLogger, "swanlab")])
def test_services_hear_everything(monkeypatch: pytest.MonkeyPatch, kind: Any, package: str) -> None:
    fake = ModuleType(package)
    fake.init = FakeRun  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, package, fake)
    logger = kind(project="demo", mode="offline")
    logger.log_metrics({"val/auc": 0.7}, step=2)
    logger.finish()
    assert logger.run.arguments["project"] == "demo"
    assert logger.run.arguments["mode"] == "offline"
    assert logger.run.logged == [({"val/auc": 0.7}, 2)]
    assert logger.run.finished


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "swanlab", None)
    with pytest.raises(ConfigError, match="pip install swanlab"):
        SwanLabLogger(project="demo")
