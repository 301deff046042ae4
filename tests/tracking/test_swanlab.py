from __future__ import annotations

import importlib.util
import logging
import math
import signal
import sys

import pytest
import yaml

from rechub_ray.errors import ConfigError
from rechub_ray.tracking import SwanlabTracker, Trackers, check_trackers


@pytest.fixture
def offline(monkeypatch, tmp_path):
    pytest.importorskip("swanlab")
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    monkeypatch.setenv("SWANLAB_SAVE_DIR", str(tmp_path / "config"))


def folders(info):
    return sorted((info.directory / "swanlab").glob("run-*"))


def scalars(folder):
    """What the offline run in `folder` holds for `swanlab sync`."""
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record
    from swanlab.sdk.internal.core_python.store import DataStoreReader

    (path,) = folder.glob("*.swanlab")
    reader = DataStoreReader()
    reader.open(path)
    records = [Record.FromString(data) for data in reader]
    reader.close()
    assert records[-1].HasField("finish")
    found = [record.scalar for record in records if record.HasField("scalar")]
    return [(scalar.key, scalar.step, scalar.value.number) for scalar in found]


def test_offline_run_holds_the_numbers(run, offline):
    info = run(group="sweep")
    tracker = SwanlabTracker(info, project="shop", tags=["a", "b"])
    tracker.log({"train/loss": 0.5, "epoch": 0}, step=10)
    tracker.log({"val/auc": 0.75, "val/log_loss": math.inf}, step=10)
    tracker.log({"train/loss": math.nan}, step=20)
    tracker.hyperparameters({"model.name": "deepfm", "optimizers.0.lr": 0.01}, {"val/auc": 0.75})
    tracker.close()

    (folder,) = folders(info)
    assert folder.name.endswith((info.directory / "swanlab_run_id.txt").read_text().strip())
    assert sorted(scalars(folder)) == [
        ("best/val/auc", 20, 0.75),
        ("epoch", 10, 0.0),
        ("train/loss", 10, 0.5),
        ("val/auc", 10, 0.75),
    ]
    config = yaml.safe_load((folder / "files" / "config.yaml").read_text())
    assert config["model.name"]["value"] == "deepfm"
    assert config["optimizers.0.lr"]["value"] == 0.01


def test_a_resumed_run_keeps_its_id_and_a_new_one_does_not(run, offline):
    ids = []
    for info in (run(), run(resumed=True, start_step=5), run()):
        SwanlabTracker(info, mode="disabled").close()
        ids.append((info.directory / "swanlab_run_id.txt").read_text())
    assert ids[0] == ids[1] != ids[2]


def test_keeps_out_of_the_way(run, offline, capsys):
    handler, hook = signal.getsignal(signal.SIGINT), sys.excepthook
    with Trackers("swanlab", run()) as trackers:  # closed by another thread than the one that opened it
        assert signal.getsignal(signal.SIGINT) is handler
        trackers.log({"train/loss": 0.5}, step=1)
    assert (signal.getsignal(signal.SIGINT), sys.excepthook) == (handler, hook)
    assert scalars(folders(run())[0]) == [("train/loss", 1, 0.5)]
    assert capsys.readouterr().out == ""


def test_another_open_run_is_left_alone(run, offline, tmp_path, caplog):
    first = SwanlabTracker(run())
    with Trackers("swanlab", run(directory=tmp_path / "second")) as trackers:
        trackers.log({"train/loss": 1.0}, step=1)
    first.log({"train/loss": 0.5}, step=1)
    first.close()
    assert scalars(folders(run())[0]) == [("train/loss", 1, 0.5)]
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "tracker 'swanlab' could not be opened and is left out" in warning.getMessage()


def test_local_mode_says_what_it_needs(run, offline, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "swanboard" else find_spec(name))
    with pytest.raises(ConfigError, match=r"swanboard.*swanlab\[dashboard\]"):
        SwanlabTracker(run(), mode="local")


def test_without_the_package_the_driver_says_so(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"'trackers.1': tracker 'swanlab' needs .*pip install .rechub_ray\[swanlab"):
        check_trackers(["jsonl", "swanlab"])
