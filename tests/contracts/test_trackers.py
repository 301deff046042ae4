"""What every registered tracker owes: it opens from its name alone, hears the loop's numbers, and closes."""

from __future__ import annotations

import inspect
import logging
import math

import pytest

from rechub_ray.errors import ConfigError
from rechub_ray.tracking import TRACKERS, RunInfo, Trackers, check_trackers

NAMES = TRACKERS.names()


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    monkeypatch.setenv("SWANLAB_SAVE_DIR", str(tmp_path / "config"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def skip_without_package(name):
    try:
        TRACKERS.get(name).available()
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", NAMES)
def test_a_run_and_its_resumption(name, tmp_path, caplog, capsys):
    skip_without_package(name)
    for info in (
        RunInfo(name="demo", directory=tmp_path / "run", total_steps=4),
        RunInfo(name="demo", directory=tmp_path / "run", total_steps=4, resumed=True, start_step=2),
    ):
        with Trackers(name, info) as trackers:
            trackers.log({"val/auc": math.nan, "val/rows_seen": 5, "epoch": -1.0}, step=info.start_step)
            for step in range(info.start_step + 1, 5):
                trackers.log({"train/loss": 0.5, "learning_rate": 1e-3, "data/rows": 8.0 * step}, step=step)
            trackers.log({"val/auc": 0.75, "val/log_loss": math.inf, "epoch": 0}, step=4)
            trackers.hyperparameters(
                {"model.name": "fm", "seed": 1, "data.test": None, "amp": False}, {"val/auc": 0.75}
            )
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", NAMES)
def test_a_check_opens_nothing(name, tmp_path, monkeypatch):
    skip_without_package(name)
    monkeypatch.chdir(tmp_path)
    (node,) = check_trackers(name)
    assert node["name"] == name
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_name_is_the_file(name):
    assert inspect.getmodule(TRACKERS.get(name)).__name__ == f"rechub_ray.tracking.{name}"
