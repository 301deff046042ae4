"""cluster.yaml on two hosts: `ray up`, `ray submit`, training with one worker on each, and the loss of one.

The tests build on each other, in the order of the file: the last three destroy hosts.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rechub_ray.data.synthetic import write_click_logs
from rechub_ray.tracking import read_history

from .conftest import HEAD, ROOT, WORKER, Hosts

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

PROBE = """
import socket, sys
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

@ray.remote
def where():
    import rechub_ray.errors
    return socket.gethostname(), rechub_ray.errors.__file__

ray.init(address="auto", log_to_driver=False)
nodes = {node["NodeManagerAddress"]: node["NodeID"] for node in ray.nodes() if node["Alive"]}
for address, node in sorted(nodes.items()):
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    print("HOST", address, *ray.get(where.options(scheduling_strategy=strategy).remote(), timeout=120))
print("ARGUMENTS", sys.argv[1:])
"""


@pytest.fixture(scope="module")
def data(hosts: Hosts) -> Path:
    return write_click_logs(hosts.folder / "data", rows=200_000).out


def result(model_dir: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((model_dir / "result.json").read_text())
    return content


def workers_of(hosts: Hosts, host: int, run: str) -> int:
    """Train workers of a run that have lived on a host, by the logs that Ray keeps there."""
    logs = "/tmp/ray/session_latest/logs/train/ray-train-sys-worker-*"
    return len(hosts.on(host, f"""grep -l '"run_name": "{run}"' {logs} || true""").splitlines())


def test_up_returns_when_every_host_has_joined(hosts: Hosts) -> None:
    assert "2 of 2 hosts have joined" in (hosts.folder / "up.log").read_text()


def test_hosts_share_a_token_that_only_the_user_reads(hosts: Hosts) -> None:
    tokens = [hosts.on(host, "cat ~/.ray/auth_token") for host in (1, 2)]
    assert tokens[0] == tokens[1]
    assert len(tokens[0].strip()) >= 32
    assert [hosts.on(host, "stat -c %a ~/.ray/auth_token").strip() for host in (1, 2)] == ["600", "600"]


def test_ray_refuses_a_caller_without_the_token(hosts: Hosts) -> None:
    with pytest.raises(RuntimeError, match="InvalidAuthToken"):
        hosts.on(2, f"RAY_AUTH_MODE=disabled ray status --address {HEAD}:6379")


def test_submit_reaches_every_host_with_the_package(hosts: Hosts) -> None:
    script = hosts.folder / "probe.py"
    script.write_text(PROBE)
    # the launcher does not quote arguments: one with a space needs quotes of its own
    output = hosts.ray("submit", str(script), "--", "a=[1,2]", "'b c'", timeout=200)
    home = hosts.on(1, "echo ~").strip()
    assert f"HOST {HEAD} host1 {home}/rechub_ray/errors.py" in output
    assert f"HOST {WORKER} host2 {home}/rechub_ray/errors.py" in output
    assert "ARGUMENTS ['a=[1,2]', 'b c']" in output


def test_an_error_in_the_configuration_reaches_the_user(hosts: Hosts) -> None:
    with pytest.raises(RuntimeError, match=r"unknown key 'train\.epoch'"):
        hosts.ray("submit", str(ROOT / "train.py"), "--", "configs/demo.yaml", "train.epoch=1", timeout=200)


def test_training_runs_one_worker_on_each_host(hosts: Hosts, data: Path) -> None:
    model_dir = hosts.folder / "spread"
    arguments = [f"data.root={data}", f"model_dir={model_dir}", "train.epochs=2", "train.threads=1"]
    hosts.ray("submit", str(ROOT / "train.py"), "--", "configs/demo.yaml", *arguments, timeout=500)
    run = result(model_dir)
    assert run["details"]["workers"] == 2
    assert run["details"]["rows"] == run["details"]["steps"] * 2 * 1024
    assert run["test_metrics"]["rows_seen"] == run["test_metrics"]["rows_expected"] == 20_000
    assert run["test_metrics"]["auc"] > 0.6
    assert Path(run["onnx"]).is_file()
    assert [workers_of(hosts, host, "spread") for host in (1, 2)] == [1, 1]


USE = """
import sys
from rechub_ray import evaluate, predict

run, out = sys.argv[1:]
print("METRICS", sorted(evaluate(run).items()))
print("ROWS", predict(run, out))
"""


def test_evaluation_and_prediction_run_on_both_hosts(hosts: Hosts, data: Path) -> None:
    """Ray's own files of such a run lie in a folder of the driver's host, which workers do not need."""
    run, script = hosts.folder / "spread", hosts.folder / "use.py"
    script.write_text(USE)
    output = hosts.ray("submit", str(script), "--", str(run), str(hosts.folder / "predicted"), timeout=500)
    metrics = result(run)["test_metrics"]
    assert f"METRICS {sorted(metrics.items())}" in output
    assert "ROWS 20000" in output
    parts = [pq.read_table(hosts.folder / "predicted" / f"part-{rank:05d}.parquet") for rank in (0, 1)]
    assert sum(part.num_rows for part in parts) == 20_000
    assert min(part.num_rows for part in parts) > 0


def test_a_model_dir_that_is_not_shared_is_refused(hosts: Hosts, data: Path) -> None:
    arguments = [f"data.root={data}", "model_dir=runs/private", "train.epochs=1"]
    with pytest.raises(RuntimeError, match="not the same folder on every host"):
        hosts.ray("submit", str(ROOT / "train.py"), "--", "configs/demo.yaml", *arguments, timeout=300)


def test_a_run_survives_the_loss_of_a_host(hosts: Hosts, data: Path) -> None:
    model_dir = hosts.folder / "lost"
    arguments = [
        *("configs/demo.yaml", f"data.root={data}", f"model_dir={model_dir}", "export.onnx=false"),
        *("train.epochs=20", "train.early_stopping.patience=null", "train.threads=1", "checkpoint.every_steps=20"),
    ]
    process = hosts.start("submit", str(ROOT / "train.py"), "--", *arguments)
    try:
        deadline = time.monotonic() + 300
        while not list(model_dir.glob("checkpoints/step_*[1-9]*")):
            assert time.monotonic() < deadline, "no checkpoint in 300 s"
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        hosts.lab("kill", "2")
        assert not (model_dir / "result.json").exists(), "the run ended before the host was lost"
        output, _ = process.communicate(timeout=500)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert "workers were lost" in output
    run = result(model_dir)
    assert run["details"]["rows"] == run["details"]["steps"] * 2 * 1024
    assert run["test_metrics"]["rows_seen"] == 20_000
    assert workers_of(hosts, 1, "lost") == 3  # one at first, both after the loss


def test_a_sweep_survives_the_loss_of_a_host(hosts: Hosts, data: Path) -> None:
    hosts.lab("up", "2", "--env", sys.prefix)  # the one that the test before destroyed, as a new machine
    hosts.ray("up", "--yes", timeout=400)
    folder = hosts.folder / "sweep"
    sweep = [
        *("tune_configs/smoke.yaml", f"base.data.root={data}", "scheduler=fifo", "trials=6", "max_concurrent=4"),
        *("overrides.train.epochs=6", "--sweep-dir", str(folder)),
    ]
    process = hosts.start("submit", str(ROOT / "train.py"), "--", "tune", *sweep)
    try:
        deadline = time.monotonic() + 400
        while sum(trial["status"] == "running" and trial["epochs"] >= 1 for trial in trials_of(folder)) < 4:
            assert time.monotonic() < deadline, "no four trials side by side in 400 s"
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        hosts.lab("kill", "2")
        output, _ = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, output
    trials = trials_of(folder)
    assert [trial["status"] for trial in trials] == ["finished"] * 6
    assert [bool(trial["lost"]) for trial in trials].count(True) == 2, "both trials of the lost host, and no other"
    assert {trial["rows"] for trial in trials} == {trials[0]["rows"]}
    assert_each_epoch_once(folder, 6)
    assert (folder / "best" / "model.onnx").is_file()


def test_a_sweep_goes_on_when_all_hosts_lost_their_power(hosts: Hosts, data: Path) -> None:
    folder = hosts.folder / "dark"
    sweep = ["tune_configs/smoke.yaml", f"base.data.root={data}", "scheduler=fifo", "overrides.train.epochs=6"]
    process = hosts.start("submit", str(ROOT / "train.py"), "--", "tune", *sweep, "--sweep-dir", str(folder))
    try:
        deadline = time.monotonic() + 400
        while not any(trial["status"] == "finished" for trial in trials_of(folder)):
            assert time.monotonic() < deadline, "no trial is over in 400 s"
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        hosts.lab("kill", "1")  # the driver's; the other one went in the test before
        process.communicate(timeout=120)
    finally:
        process.kill()
    before = trials_of(folder)
    assert not (folder / "best").exists()
    hosts.lab(
        "up", "2", "--env", sys.prefix
    )  # with empty homes: new machines, which the launcher takes for the old ones
    hosts.ray("down", "--yes", timeout=100)
    hosts.ray("up", "--yes", timeout=400)
    hosts.ray("submit", str(ROOT / "train.py"), "--", "tune", "--resume", str(folder), timeout=500)
    after = trials_of(folder)
    assert [trial["status"] for trial in after] == ["finished"] * 4
    for old, new in zip(before, after, strict=True):
        assert old["status"] != "finished" or new["rows"] == old["rows"]
        assert new["starts"] == old["starts"] + (old["status"] != "finished")
    assert_each_epoch_once(folder, 6)
    assert (folder / "best" / "model.onnx").is_file()


def assert_each_epoch_once(folder: Path, epochs: int) -> None:
    """That no trial lost or repeated an epoch."""
    for trial in trials_of(folder):
        history = read_history(folder / "trials" / trial["trial_id"] / "metrics.jsonl")
        seen = [line["epoch"] for line in history if "val/auc" in line and line["epoch"] >= 0]
        assert seen == list(range(epochs)), trial["trial_id"]


def trials_of(folder: Path) -> list[dict[str, Any]]:
    file = folder / "trials.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
