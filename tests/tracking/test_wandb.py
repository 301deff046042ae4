from __future__ import annotations

import importlib.util
import json
import struct
import subprocess
import sys
import time

import pytest

from rechub_ray.errors import ConfigError
from rechub_ray.tracking import Trackers, WandbTracker, check_trackers

wandb = pytest.importorskip("wandb")


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))


def finished(directory):
    """The records of the offline run in `directory`; W&B's own process writes the last ones a moment after `finish`."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = records(directory)
        if any(record.HasField("exit") for record in found):
            return found
        time.sleep(0.05)
    raise AssertionError("the run has no end")


def records(directory):
    """What the one offline run in `directory` holds for `wandb sync`."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = directory.glob("run-*.wandb")
    data, place, found, body = path.read_bytes(), 7, [], b""
    assert data[:4] == b":W&B"  # and 3 bytes more
    while place + 7 <= len(data):  # LevelDB's log format: blocks of 32 KiB, records cut at their ends
        left = -place % 32768
        if 0 < left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        body += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(Record.FromString(body))
            body = b""
    return found


def items(updates):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in updates}


def test_offline_run_holds_the_numbers(run):
    info = run(group="sweep")
    tracker = WandbTracker(info, project="shop", tags=["a", "b"])
    tracker.log({"train/loss": 0.5, "epoch": 0}, step=10)
    tracker.log({"val/auc": 0.75}, step=10)
    tracker.log({"train/loss": 0.25}, step=20)
    tracker.hyperparameters({"model.name": "deepfm", "optimizers.0.lr": 0.01}, {"val/auc": 0.75})
    tracker.close()

    (directory,) = (info.directory / "wandb").glob("offline-run-*")
    found = finished(directory)
    runs = [record.run for record in found if record.HasField("run")]
    assert (runs[0].project, runs[0].display_name, runs[0].run_group) == ("shop", "demo", "sweep")
    assert list(runs[0].tags) == ["a", "b"]
    assert runs[0].run_id == (info.directory / "wandb_run_id.txt").read_text().strip()
    history = [items(record.history.item) for record in found if record.HasField("history")]
    history = [{k: v for k, v in row.items() if not k.startswith("_") or k == "_step"} for row in history]
    assert history == [
        {"train/loss": 0.5, "epoch": 0, "val/auc": 0.75, "_step": 10},
        {"train/loss": 0.25, "_step": 20},
    ]
    config = {k: v for r in found if r.HasField("config") for k, v in items(r.config.update).items()}
    assert config["model.name"] == "deepfm"
    assert config["optimizers.0.lr"] == 0.01
    summary = {k: v for r in found if r.HasField("summary") for k, v in items(r.summary.update).items()}
    assert summary["best/val/auc"] == 0.75


def test_a_resumed_run_keeps_its_id_and_a_new_one_does_not(run):
    ids = []
    for info in (run(), run(resumed=True, start_step=5), run()):
        WandbTracker(info, mode="disabled").close()
        ids.append((info.directory / "wandb_run_id.txt").read_text())
    assert ids[0] == ids[1] != ids[2]


def test_a_trial_that_starts_again_without_a_checkpoint_is_the_same_run(run):
    ids = []
    for _ in range(2):
        WandbTracker(run(group="sweep"), mode="disabled").close()
        ids.append((run().directory / "wandb_run_id.txt").read_text())
    assert ids[0] == ids[1]


def test_offline_by_argument_without_the_variable(run, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    tracker = WandbTracker(run(), mode="offline")
    tracker.close()
    assert list((run().directory / "wandb").glob("offline-run-*"))


def test_scores_of_an_earlier_step_are_not_lost(run):
    tracker = WandbTracker(run(), mode="offline")
    for step, metrics in ((1, {"train/loss": 0.5}), (5, {"train/loss": 0.4}), (3, {"val/auc": 0.75}), (6, {"x": 1.0})):
        tracker.log(metrics, step=step)
    tracker.close()
    (folder,) = (run().directory / "wandb").glob("offline-run-*")
    histories = [record.history for record in finished(folder) if record.HasField("history")]
    rows = [
        {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in history.item}
        for history in histories
    ]
    (scored,) = (row for row in rows if "val/auc" in row)
    assert (scored["val/auc"], scored["checkpoint_step"], scored["_step"]) == (0.75, 3, 5)


def test_is_quiet(run, capfd):
    with Trackers({"name": "wandb", "mode": "offline"}, run()) as trackers:
        trackers.log({"train/loss": 0.5}, step=1)
    assert capfd.readouterr() == ("", "")


def test_without_the_package_the_driver_says_so(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else find_spec(name))
    with pytest.raises(ConfigError, match=r"'trackers.1': tracker 'wandb' needs .*pip install 'rechub_ray\[wandb\]'"):
        check_trackers(["jsonl", "wandb"])


def test_the_package_is_not_imported_before_it_is_needed():
    code = "import rechub_ray.tracking, sys; print([m for m in ('wandb', 'tensorboardX', 'rich') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
