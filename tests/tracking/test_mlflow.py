from __future__ import annotations

import importlib.util
import math
import subprocess
import sys

import pytest

from rechub_ray.errors import ConfigError
from rechub_ray.tracking import MlflowTracker, Trackers, check_trackers
from rechub_ray.tracking.mlflow import allowed_name


@pytest.fixture(autouse=True)
def local(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def client_of():
    """Reads what a run has left in its database, by MLflow's own client."""
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from mlflow import MlflowClient

    return lambda run: MlflowClient(tracking_uri=f"sqlite:///{run.directory}/mlflow.db")


def test_names_have_the_characters_that_it_takes():
    assert allowed_name("val/recall@10_without_seen") == "val/recall_at_10_without_seen"
    assert allowed_name("train/loss: a-b.c") == "train/loss_ a-b.c"


def history(client, run_id, name):
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]


def test_the_database_holds_the_numbers(run, client_of):
    info = run(group="sweep")
    tracker = MlflowTracker(info, tags={"team": "ads"})
    tracker.log({"train/loss": 0.5, "epoch": 0}, step=10)
    tracker.log({"train/loss": 0.25, "val/auc": 0.75}, step=20)
    tracker.log({"train/loss": math.inf, "val/auc": math.nan}, step=30)
    config = {f"optimizers.{i}.lr": 0.01 for i in range(150)}  # more than fit one call
    tracker.hyperparameters({"model.name": "deepfm", "long": "x" * 9000, **config}, {"val/auc": 0.75})
    tracker.close()

    client = client_of(info)
    experiment = client.get_experiment_by_name("sweep")
    (stored,) = client.search_runs([experiment.experiment_id])
    assert stored.info.run_id == (info.directory / "mlflow_run_id.txt").read_text().strip()
    assert (stored.info.run_name, stored.info.status, stored.data.tags["team"]) == ("demo", "FINISHED", "ads")
    assert history(client, stored.info.run_id, "train/loss")[:2] == [(10, 0.5), (20, 0.25)]
    assert [math.isnan(value) for _, value in history(client, stored.info.run_id, "train/loss")] == [False, False, True]
    assert history(client, stored.info.run_id, "best/val/auc") == [(30, 0.75)]
    assert stored.data.params["model.name"] == "deepfm"
    assert stored.data.params["optimizers.149.lr"] == "0.01"
    assert len(stored.data.params) == 152


def test_a_resumed_run_goes_on_and_a_new_one_does_not(run, client_of):
    ids = []
    for info, epochs in ((run(), 1), (run(resumed=True, start_step=5), 2), (run(), 1)):
        with Trackers({"name": "mlflow"}, info) as trackers:
            trackers.log({"train/loss": 0.5}, step=info.start_step + 1)
            trackers.hyperparameters({"train.epochs": epochs}, {})
        ids.append((info.directory / "mlflow_run_id.txt").read_text().strip())
    assert ids[0] == ids[1] != ids[2]
    client = client_of(run())
    assert history(client, ids[0], "train/loss") == [(1, 0.5), (6, 0.5)]
    assert client.get_run(ids[0]).data.params == {"train.epochs": "1"}  # MLflow's never change
    assert client.get_run(ids[0]).info.status == "FINISHED"


def test_runs_share_one_store(run, client_of, tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    from mlflow import MlflowClient

    trackers = [MlflowTracker(run(directory=tmp_path / name), experiment="both") for name in ("a", "b")]  # at once
    for tracker in trackers:
        tracker.log({"val/auc": 0.5}, step=1)
        tracker.close()
    client = MlflowClient(tracking_uri=uri)
    assert len(client.search_runs([client.get_experiment_by_name("both").experiment_id])) == 2
    assert not (tmp_path / "a" / "mlflow.db").exists()


def test_the_trials_of_a_sweep_share_its_store_also_when_it_does_not_exist_yet(client_of, tmp_path):
    code = """
import sys
from pathlib import Path
from rechub_ray.tracking import MlflowTracker, RunInfo
sweep, name = Path(sys.argv[1]), sys.argv[2]
tracker = MlflowTracker(RunInfo(name, sweep / "trials" / name, group="shop", group_directory=sweep))
tracker.hyperparameters({"model.name": "lr"}, {})
tracker.hyperparameters({"model.name": "lr"}, {"val/auc": 0.5})
tracker.close()
"""
    trials = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in ("a", "b")]
    assert [trial.wait(timeout=60) for trial in trials] == [0, 0]
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("shop").experiment_id])
    assert sorted(item.info.run_name for item in found) == ["a", "b"]
    for item in found:
        assert (item.data.params, item.data.metrics) == ({"model.name": "lr"}, {"best/val/auc": 0.5})


def test_an_error_of_the_store_is_raised_by_the_next_call(run, client_of):
    tracker = MlflowTracker(run())
    tracker.log({"a name with a | in it": 1.0}, step=1)
    tracker._queue.put(None)
    tracker._thread.join()
    with pytest.raises(Exception, match="a name with a"):
        tracker.log({"train/loss": 1.0}, step=2)


def test_without_the_package_the_driver_says_so(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"'trackers.1': tracker 'mlflow' needs mlflow.*pip install 'rechub_ray\[ml"):
        check_trackers(["jsonl", "mlflow"])


def test_the_package_is_not_imported_before_it_is_needed():
    code = "import rechub_ray.tracking, sys; print({'mlflow', 'swanlab', 'sqlalchemy'} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
