"""Sweeps on Ray: every scheduler does what its name says, nothing stays reserved, and an interruption loses nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from rechub_ray import config as config_module
from rechub_ray.checkpoint import Store, read
from rechub_ray.data.catalogue import Catalogue
from rechub_ray.data.synthetic import write_click_logs
from rechub_ray.errors import CheckpointError, ConfigError, TrainingError
from rechub_ray.interrupt import processes_below
from rechub_ray.models.matching.base import Retriever
from rechub_ray.runtime.inference import evaluate
from rechub_ray.runtime.launch import train
from rechub_ray.sweeps import SweepResult, tune
from rechub_ray.sweeps.schedulers import Asha, rungs
from rechub_ray.tracking import read_history
from tests import test_retrieval
from tests.small_retrieval import write_retrieval
from tests.worlds import command_of

pytestmark = [pytest.mark.ray, pytest.mark.timeout(280)]

RATE = "optimizers.1.lr"
BASE: dict[str, Any] = {
    "name": "t",
    "data": {"batch_size": 128, "eval_batch_size": 512},
    "model": {"name": "deepfm", "embedding_dim": 4, "init_std": 0.05, "hidden_units": [8]},
    "optimizers": [
        {"name": "rowwise_adagrad", "params": ["embedding.*", "linear.embedding.*"], "lr": 0.05},
        {"name": "adam", "lr": 0.01},
    ],
    "metrics": ["auc", "log_loss"],
    "train": {"epochs": 4, "threads": 1},
    "trackers": ["jsonl"],
    "export": {"onnx": False},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clicks")
    write_click_logs(root, rows=6000, seed=3, files=3, row_group_rows=512)
    return root


@pytest.fixture(autouse=True)
def everything_is_free_again(ray_cluster: None) -> Iterator[None]:
    import ray

    handler = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is handler, "Ctrl-C would be Ray Tune's"
    for _ in range(100):
        if ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]:
            return
        time.sleep(0.1)
    pytest.fail(f"still reserved: {ray.available_resources()}")


@pytest.fixture(autouse=True)
def reports(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps draw no report, which takes as long as their trials, but in a test marked with `usefixtures("drawn")`."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("rechub_ray.sweeps.launch.write_report", lambda directory: f"{directory}/report.html")


@pytest.fixture
def drawn() -> None:
    """The sweep draws its report."""


def settings(data: Path, folder: Path, **given: Any) -> dict[str, Any]:
    overrides = {"data.root": str(data), **given.pop("overrides", {})}
    space = given.pop("space", {RATE: {"loguniform": [1e-5, 1e-1]}})
    return {"base": BASE, "overrides": overrides, "space": space, "sweep_dir": str(folder), **given}


def points(*rates: float) -> dict[str, Any]:
    return {"trials": len(rates), "points_to_evaluate": [{RATE: rate} for rate in rates]}


def records(result: SweepResult) -> list[dict[str, Any]]:
    lines = Path(result.directory, "trials.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == result.trials
    return result.trials


def evaluations(result: SweepResult, trial: str) -> list[float]:
    history = read_history(Path(result.directory, "trials", trial, "metrics.jsonl"))
    return [line["val/auc"] for line in history if "val/auc" in line and line["epoch"] >= 0]


@pytest.mark.usefixtures("drawn")
def test_asha_stops_at_rungs_and_the_best_model_is_ready_to_ship(data: Path, tmp_path: Path) -> None:
    given = points(0.05, 0.03, 1e-5, 2e-5)
    asha = {"name": "asha", "grace_epochs": 1, "reduction_factor": 2}
    # one after the other, so that who stops does not depend on who is faster
    result = tune(
        settings(
            data,
            tmp_path / "s",
            **given,
            scheduler=asha,
            max_concurrent=1,
            keep=1,
            overrides={"export.onnx": True, "trackers": ["tensorboardx"]},
        )
    )
    passed: dict[int, list[float]] = {1: [], 2: []}
    for r in records(result):  # the rule, played again on the trials' own logs
        scores, stops_at = evaluations(result, r["trial_id"]), None
        for epoch, score in enumerate(scores[:2], start=1):
            if passed[epoch] and score < np.percentile(passed[epoch], 50):
                stops_at = epoch
            passed[epoch].append(score)
        assert len(scores) == r["epochs"] == (stops_at or 4)
        assert r["status"] == ("stopped_early" if stops_at else "finished")
        assert r["rung"] == (stops_at or 2)
    stopped = [r for r in result.trials if r["status"] == "stopped_early"]
    assert len(stopped) >= 2
    assert all("asha stopped it at" in r["reason"] for r in stopped)
    for r in result.trials:  # also who was stopped told its trackers how it ended
        (events,) = Path(result.directory, "trials", r["trial_id"], "tensorboard").iterdir()
        assert b"session_end_info" in events.read_bytes()
    best = Path(result.directory, "best")
    assert {p.name for p in best.iterdir()} == {
        "checkpoint", "config.yaml", "metrics.json", "model.onnx", "model.onnx.parity.json",
    }  # fmt: skip
    told = json.loads((best / "metrics.json").read_text())
    again = evaluate(best / "checkpoint", split="valid")
    assert again["auc"] == pytest.approx(told["score"], abs=1e-9)
    assert told["score"] == max(r["score"] for r in result.trials)
    assert evaluate(best / "checkpoint")["auc"] == pytest.approx(told["test_metrics"]["auc"], abs=1e-9)
    assert read(best / "checkpoint").config.optimizers[1]["lr"] == told["best_params"][RATE]
    for r in result.trials:  # those that were stopped too
        file = Path(result.directory, "trials", r["trial_id"], "model.onnx")
        assert file.exists()
        assert json.loads(Path(f"{file}.parity.json").read_text())["max_abs_difference"] < 1e-5
        assert r["onnx"]["max_abs_difference"] < 1e-5
    kept = [r["trial_id"] for r in result.trials if Store(f"{result.directory}/trials/{r['trial_id']}").names()]
    assert kept == [result.best["trial_id"]]
    assert result.grid.get_best_result().metrics["score"] == told["score"]
    summary = json.loads(Path(result.directory, "sweep.json").read_text())
    assert summary["finished"]
    assert summary["rungs"] == rungs(Asha(reduction_factor=2), 4)
    assert all(r["trial_id"] in (tmp_path / "s" / "report.html").read_text() for r in result.trials)


def test_hyperband_pauses_promotes_and_stops(data: Path, tmp_path: Path) -> None:
    hyperband = {"name": "hyperband", "reduction_factor": 2}
    # the first bracket takes 3 trials to the end; the second halves at 2 epochs
    result = tune(
        settings(
            data, tmp_path / "s", **points(1e-3, 1e-3, 1e-3, 0.05, 2e-5, 1e-5), scheduler=hyperband, max_concurrent=1
        )
    )
    promoted = [r for r in records(result) if r["starts"] > 1]
    stopped = [r for r in result.trials if r["status"] == "stopped_early"]
    assert promoted, "nobody was paused"
    assert stopped, "nobody was stopped"
    assert {r["params"][RATE] for r in stopped} <= {2e-5, 1e-5}
    assert 0.05 in {r["params"][RATE] for r in promoted} | {
        r["params"][RATE] for r in result.trials if r["epochs"] == 4
    }
    for record in result.trials:  # a pause costs no row and repeats none
        assert record["rows"] == record["epochs"] * 37 * 128
        assert len(evaluations(result, record["trial_id"])) == record["epochs"]


def test_bohb_pauses_at_its_budgets_and_stops(data: Path, tmp_path: Path) -> None:
    for package in ("ConfigSpace", "hpbandster"):
        pytest.importorskip(package)
    bohb = {"name": "bohb", "reduction_factor": 2}
    result = tune(settings(data, tmp_path / "s", trials=7, search="bohb", scheduler=bohb, max_concurrent=2))
    assert len(records(result)) == 7
    assert any(r["starts"] > 1 for r in result.trials), "nobody was promoted"
    stopped = [r for r in result.trials if r["status"] == "stopped_early"]
    assert stopped
    assert max(r["epochs"] for r in stopped) < 4
    assert len({r["params"][RATE] for r in result.trials}) == 7


@pytest.mark.long  # of the default tests, asha stops trials, and seeds are averaged without Ray
def test_median_stops_who_is_behind_and_points_are_ranked_by_the_mean_over_their_seeds(
    data: Path, tmp_path: Path
) -> None:
    median = {"name": "median", "grace_epochs": 1, "min_trials": 2}
    result = tune(settings(data, tmp_path / "s", **points(0.05, 1e-5), seeds=2, scheduler=median, max_concurrent=1))
    assert [r["status"] for r in records(result)] == ["finished"] * 2 + ["stopped_early"] * 2
    assert [r["epochs"] for r in result.trials] == [4.0, 4.0, 1.0, 1.0]
    assert [r["seed"] for r in result.trials] == [2026, 2027, 2026, 2027]
    assert result.trials[0]["score"] != result.trials[1]["score"]
    assert result.best["params"][RATE] == 0.05


@pytest.mark.parametrize("name", ["pbt", pytest.param("pb2", marks=pytest.mark.long)])
def test_a_population_clones_weights_and_changes_hyperparameters(data: Path, tmp_path: Path, name: str) -> None:
    if name == "pb2":
        pytest.importorskip("GPy")
    quantile, rates = {"pbt": (0.5, (0.03, 1e-5)), "pb2": (0.34, (0.03, 0.02, 1e-5))}[name]
    result = tune(
        settings(
            data,
            tmp_path / "s",
            **points(*rates),
            space={RATE: {"uniform": [1e-5, 1e-1]}},
            # they wait for each other: a trial that starts late finds nobody to copy otherwise
            scheduler={"name": name, "quantile": quantile, "interval_epochs": 1, "synchronous": True},
            overrides={"train.epochs": 3, "checkpoint.keep": 100},
            keep=None,
        )
    )
    exploits = [(r["trial_id"], e) for r in records(result) for e in r["exploits"]]
    assert exploits, "nobody exploited"
    for _, exploit in exploits:
        assert exploit["new"][RATE] != exploit["donor"][RATE], "a plain copy"
        assert exploit["score"] <= exploit["donor_score"]
        assert 1e-5 <= exploit["new"][RATE] <= 1e-1
    compared = 0
    for r in result.trials:
        if not r["exploits"]:
            continue
        own, donor = (Store(f"{result.directory}/trials/{n}") for n in (r["trial_id"], r["exploits"][-1]["from_trial"]))
        first = own.names()[0]  # what the last exploit left: the copy, and what was trained from it
        copy = read(f"{own.location}/{first}")
        assert copy.config.name == r["trial_id"]
        assert copy.config.optimizers[1]["lr"] == r["params"][RATE]
        if first in donor.names():
            original = read(f"{donor.location}/{first}")
            assert original.config.optimizers[1]["lr"] != copy.config.optimizers[1]["lr"]
            assert all(torch.equal(original.model[k], copy.model[k]) for k in original.model)
            compared += 1
    assert compared, "no donor kept the checkpoint that was cloned"
    assert all(1e-5 <= r["params"][RATE] <= 1e-1 for r in result.trials)
    assert all(r["status"] == "finished" and r["epochs"] == 3 for r in result.trials)


@pytest.mark.parametrize("name", ["optuna", "hyperopt"])
def test_searches_with_a_model(data: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip(name)
    deepfm = {"name": "deepfm", "embedding_dim": 4, "space": {"dropout": {"uniform": [0.0, 0.5]}}}
    space = {RATE: {"loguniform": [1e-4, 1e-1]}, "model": {"choice": ["lr", deepfm]}}
    search = {"name": name, "initial_points": 3}
    overrides = {"train.epochs": 1, "optimizers.0.params": ["*embedding.*"]}  # of both models
    given = settings(data, tmp_path / "s", space=space, search=search, trials=6, overrides=overrides, max_concurrent=1)
    result = tune(given)
    assert [r["status"] for r in records(result)] == ["finished"] * 6
    for r in result.trials:
        assert ("model.dropout" in r["params"]) == (r["params"]["model"] != "lr")


def test_several_objectives_leave_a_front(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    space = {"model.embedding_dim": {"choice": [1, 2, 8]}, RATE: {"loguniform": [1e-4, 1e-1]}}
    objectives = ["auc", "num_parameters"]
    overrides = {"train.epochs": 2, "train.early_stopping.patience": 1}
    given = {"space": space, "search": {"name": "optuna", "initial_points": 3}, "objectives": objectives, "keep": 1}
    given["max_concurrent"] = 1
    first = tune(settings(data, tmp_path / "s", **given, trials=5, overrides=overrides))
    result = tune(resume=tmp_path / "s", overrides=["trials=6"])
    assert result.trials[:5] == first.trials
    values = {r["trial_id"]: (r["score"], r["num_parameters"]) for r in records(result)}
    assert len(values) == 6
    beaten = {
        name for name, (auc, size) in values.items()
        if any(a >= auc and s <= size and (a, s) != (auc, size) for a, s in values.values())
    }  # fmt: skip
    assert {r["trial_id"] for r in result.front} == values.keys() - beaten
    assert result.front[0] == result.best
    assert result.best["score"] == max(auc for auc, _ in values.values())
    assert sum(p.numel() for p in result.model.parameters()) == result.best["num_parameters"]
    kept = {path.parent.name for path in Path(result.directory).glob("trials/*/checkpoints")}
    assert kept == values.keys() - beaten
    summary = json.loads(Path(result.directory, "sweep.json").read_text())
    assert summary["front"] == [r["trial_id"] for r in result.front]


def test_a_failing_trial_is_reported_and_the_sweep_goes_on(data: Path, tmp_path: Path) -> None:
    space = {RATE: {"grid": [1e-3, 1e30, 1e-2]}}
    given: dict[str, Any] = {"search": "grid", "max_concurrent": 1, "overrides": {"train.epochs": 1}}
    result = tune(settings(data, tmp_path / "s", space=space, **given))
    assert [r["status"] for r in records(result)] == ["finished", "failed", "finished"]
    assert "not finite" in result.trials[1]["reason"]
    failed = [{**result.trials[1], "trial_id": r["trial_id"], "number": r["number"]} for r in result.trials]
    Path(result.directory, "trials.jsonl").write_text("".join(json.dumps(r) + "\n" for r in failed))
    with pytest.raises(TrainingError, match=r"no trial of the sweep came to an evaluation.*not finite"):
        tune(resume=tmp_path / "s")


def _kill_a_peer(trials: Path, own_processes: Callable[[str], list[int]]) -> None:
    """The second worker of the trial, once it has been evaluated."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        time.sleep(0.02)
        if not trials.exists() or json.loads(trials.read_text().splitlines()[0])["epochs"] < 1:
            continue
        peers = own_processes("ray::_Peer")
        if peers:
            os.kill(peers[0], signal.SIGKILL)
            return


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_trial_of_two_workers_has_the_numbers_of_a_run_and_outlives_a_worker(
    data: Path, tmp_path: Path, own_processes: Callable[[str], list[int]]
) -> None:
    overrides = {"scaling.num_workers": 2, "train.epochs": 80}
    killer = threading.Thread(target=_kill_a_peer, args=(tmp_path / "s" / "trials.jsonl", own_processes))
    killer.start()
    result = tune(settings(data, tmp_path / "s", **points(1e-3), overrides=overrides))
    killer.join()
    (record,) = records(result)
    assert (record["status"], record["starts"], record["epochs"]) == ("finished", 2, 80)
    assert record["rows"] == 80 * 18 * 256
    assert len(evaluations(result, record["trial_id"])) == 80, "an epoch was lost or repeated"
    alone = {"data.root": str(data), "train.epochs": 80, "data.batch_size": 256, RATE: 1e-3}
    run = train(config_module.load(BASE, {**alone, "model_dir": str(tmp_path / "alone")}))
    assert record["test_metrics"]["rows_seen"] == run.test_metrics["rows_seen"] == 600
    assert record["test_metrics"]["auc"] == pytest.approx(run.test_metrics["auc"], abs=1e-4)


def test_a_budget_ends_the_sweep_and_a_larger_one_continues_it(data: Path, tmp_path: Path) -> None:
    given = settings(data, tmp_path / "s", **points(1e-3, 1e-2, 2e-2), stop={"budget_epochs": 5}, max_concurrent=1)
    first = tune(given)
    summary = json.loads(Path(first.directory, "sweep.json").read_text())
    assert summary["ended_because"] == "the sweep's budget of 5 epochs is used up"
    assert sum(r["epochs"] for r in records(first)) == 5
    assert [r["status"] for r in first.trials] == ["finished", "stopped_early", "pending"]
    again = tune(resume=tmp_path / "s")
    assert len(again.grid) == 3
    assert sum(r["epochs"] for r in again.trials) == 5
    last = tune(resume=tmp_path / "s", overrides={"stop.budget_epochs": 100})
    assert [(r["status"], r["epochs"], r["starts"]) for r in records(last)] == [
        ("finished", 4.0, 1), ("finished", 4.0, 2), ("finished", 4.0, 1),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="cannot change when a sweep is resumed"):
        tune(resume=tmp_path / "s", overrides={"seed": 1})
    Path(first.directory, "trials.jsonl").write_text("{")
    with pytest.raises(CheckpointError, match="list of trials"):
        tune(resume=tmp_path / "s")


def test_the_winner_is_trained_again_on_train_and_validation(data: Path, tmp_path: Path) -> None:
    two = {"train.epochs": 2, "scaling.num_workers": 2}
    first = tune(settings(data, tmp_path / "s", **points(0.03), overrides=two))
    assert first.refit is None
    again = tune(resume=tmp_path / "s", overrides=["refit=true"]).refit
    assert again is not None
    assert (again.trial_id, again.error) == (first.best["trial_id"], None)
    in_process = {"scaling.num_workers": 0}
    assert evaluate(str(again.checkpoint), overrides=in_process)["auc"] == pytest.approx(again.test_metrics["auc"])
    state = read(str(again.checkpoint)).state
    assert (state["rows"], state["world_size"]) == (again.epochs * (5400 // 256 * 256), 2)
    summary = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert summary["refit"]["test_metrics"] == again.test_metrics


@pytest.mark.slow
def test_a_killed_driver_loses_no_trial_and_repeats_none(data: Path, tmp_path: Path) -> None:
    rates = points(1e-3, 1e-2, 2e-2)
    given = settings(data, tmp_path / "s", **rates, overrides={"train.epochs": 20}, max_concurrent=1)
    file = tmp_path / "sweep.json"
    file.write_text(json.dumps(given))
    code = (
        "import json, sys, ray; from rechub_ray import tune\n"
        "ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=10**8)\n"
        "tune(json.load(open(sys.argv[1])))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    driver = subprocess.Popen([sys.executable, "-c", code, str(file)], env=environment, start_new_session=True)
    trials = tmp_path / "s" / "trials.jsonl"

    def is_under_way() -> bool:
        """One trial is finished, and the next one has been evaluated."""
        assert driver.poll() is None, "the sweep ended before it could be killed"
        found = [json.loads(line) for line in trials.read_text().splitlines()] if trials.exists() else []
        running = any(r["status"] == "running" and r["epochs"] >= 1 for r in found)
        return running and any(r["status"] == "finished" for r in found)

    while not is_under_way():  # the test's own timeout bounds it
        time.sleep(0.05)
    # all but Ray's own agents, which stay for a minute and write nothing of the sweep
    processes = [pid for pid, _ in processes_below(driver.pid) if not re.match(rb"ray::\w+Agent", command_of(pid))]
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait(timeout=30)
    while any(map(command_of, processes)):  # they notice that it is gone
        time.sleep(0.05)
    before = [json.loads(line) for line in trials.read_text().splitlines()]
    after = tune(resume=tmp_path / "s").trials
    assert [r["status"] for r in after] == ["finished"] * 3
    for old, new in zip(before, after, strict=True):
        assert new["rows"] == 20 * 37 * 128
        if old["status"] == "finished":
            assert new == {**old, "test_metrics": new["test_metrics"]}
        if old["status"] == "running" and old["epochs"] >= 1:
            history = read_history(tmp_path / "s" / "trials" / new["trial_id"] / "metrics.jsonl")
            epochs = [line["epoch"] for line in history if "val/auc" in line and line["epoch"] >= 0]
            assert epochs == list(range(20)), "an epoch was lost or repeated"
            assert new["starts"] == 2


@pytest.mark.long  # what a trial exports is tested without Ray
@pytest.mark.usefixtures("drawn")
def test_every_trial_of_a_model_for_retrieval_leaves_its_towers(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    data, changes = write_retrieval(tmp_path / "data"), {"train.epochs": 4, "train.initial_evaluation": False}
    given = {
        "base": test_retrieval.BASE,
        "overrides": {"data.root": str(data), **changes, "export.onnx": True, "export.index": "flat"},
        "space": {RATE: {"loguniform": [1e-5, 1e-1]}},
        "scheduler": {"name": "asha", "grace_epochs": 1, "reduction_factor": 2},
        "max_concurrent": 1,
        "sweep_dir": str(tmp_path / "s"),
        **points(0.01, 1e-5),
    }
    result = tune(given)
    assert result.metric == "recall@10"
    assert [r["epochs"] for r in records(result)] == [4, 1], "asha stops the second one"
    files = {"user.onnx", "item.onnx", "items.parquet", "index.faiss", "serving.json", "schema.json"}
    for r in result.trials:  # that which was stopped too
        assert r["onnx"]["max_abs_difference"] < 1e-4
        assert files <= {p.name for p in Path(result.directory, "trials", r["trial_id"], "serving").iterdir()}
    best = Path(result.directory, "best")
    assert files <= {p.name for p in (best / "serving").iterdir()}
    assert result.onnx == str(best / "serving" / "user.onnx")
    told = json.loads((best / "metrics.json").read_text())
    assert evaluate(best / "checkpoint", split="valid")["recall@10"] == pytest.approx(told["score"], abs=1e-9)
    items = pq.read_table(best / "serving" / "items.parquet")
    model, catalogue = result.model, Catalogue.read(str(data), read(best / "checkpoint").schema)
    assert isinstance(model, Retriever)
    vectors = model.item_vectors(catalogue.features).detach()
    torch.testing.assert_close(torch.tensor(np.stack(items["vector"].to_numpy())), vectors, rtol=0, atol=1e-5)
    assert all(r["trial_id"] in (tmp_path / "s" / "report.html").read_text() for r in result.trials)
