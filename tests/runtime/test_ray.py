"""Runs on Ray Train workers: the numbers of one process, recovery from a killed worker, errors that end at once."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from rechub_ray import config as config_module
from rechub_ray.checkpoint import Store, read
from rechub_ray.data.synthetic import write_click_logs
from rechub_ray.errors import CheckpointError, DataError, ResourceError, TrainingError
from rechub_ray.runtime.inference import evaluate
from rechub_ray.runtime.launch import RunResult, train
from rechub_ray.runtime.preflight import check
from rechub_ray.runtime.separate import RayEvaluator, open_evaluator
from rechub_ray.tracking import Tracker, read_history
from tests.worlds import train_in_processes

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(280)]

BASE: dict[str, Any] = {
    "name": "t",
    "data": {"batch_size": 128, "eval_batch_size": 512},
    "model": {"name": "deepfm", "embedding_dim": 4, "init_std": 0.05, "hidden_units": [16, 8]},
    "optimizers": [
        {"name": "rowwise_adagrad", "params": ["embedding.*", "linear.embedding.*"], "lr": 0.05},
        {"name": "adam", "lr": 0.01},
    ],
    "train": {"epochs": 1, "log_every_steps": 2, "threads": 1},
    "trackers": ["jsonl"],
    "scaling": {"num_workers": 2},
    "export": {"onnx": False},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clicks")
    write_click_logs(root, rows=6000, seed=3, files=3, row_group_rows=512)
    return root


def settings(data: Path, model_dir: Path, **overrides: Any) -> config_module.RunConfig:
    given = {"data.root": str(data), "model_dir": str(model_dir)}
    return config_module.load(BASE, {**given, **{k.replace("__", "."): v for k, v in overrides.items()}})


def history(model_dir: Path) -> list[dict[str, Any]]:
    return read_history(model_dir / "metrics.jsonl")


def weights(model_dir: Path) -> dict[str, torch.Tensor]:
    return read(f"{model_dir}/checkpoints/{Store(str(model_dir)).newest()}").model


# small steps, many of them: the run must still be going when a worker dies
EPOCHS: dict[str, Any] = {"train__epochs": 12, "train__evaluate_every_epochs": 4}
STEPS = 12 * 18
EACH_EPOCH = {"checkpoint__every_steps": 18, "checkpoint__keep": 12}


@pytest.fixture(scope="module")
def here(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    """The folder of a run in this process with as many rows a step as on two workers, and its result."""
    folder = tmp_path_factory.mktemp("runs") / "here"
    return folder, train(settings(data, folder, scaling__num_workers=0, data__batch_size=256, **EPOCHS, **EACH_EPOCH))


class _SpoilTheFiles(Tracker):
    """Makes the training files unreadable at the first log from `step` on."""

    def __init__(self, step: int, files: list[Path]) -> None:
        self.step, self.files, self.logged = step, files, 0

    def log(self, metrics: Any, *, step: int) -> None:
        self.logged = step
        if step >= self.step:
            for file in self.files:
                file.write_bytes(b"not parquet")


def train_without_files(data: Path, folder: Path, **overrides: Any) -> RunResult:
    """A run whose training files cannot be read any more from its second epoch on."""
    root = folder.parent / "data"
    shutil.copytree(data, root)
    spoil = _SpoilTheFiles(18 + 2, sorted((root / "train").glob("*.parquet")))
    result = train(settings(root, folder, **EPOCHS, **EACH_EPOCH, **overrides), trackers=[spoil])
    assert spoil.logged == STEPS
    return result


@pytest.fixture(scope="module")
def two(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of an undisturbed run in two processes without Ray, which read every epoch anew, and its result."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    run = settings(data, folder, **EPOCHS, **EACH_EPOCH)
    return folder, train_in_processes(2, folder.parent / "meet", run)


@pytest.fixture(scope="module")
def beside(ray_cluster: None, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    """The folder of an undisturbed run on two workers, which read their files once, and whose checkpoints an actor
    evaluates; and its result.
    """
    folder = tmp_path_factory.mktemp("runs") / "beside"
    return folder, train_without_files(data, folder, train__eval_method="separate")


def test_two_workers_give_the_numbers_of_this_process(
    here: tuple[Path, RunResult], beside: tuple[Path, RunResult]
) -> None:
    (place, alone), (folder, shared) = here, beside
    assert alone.details["rows"] == shared.details["rows"] == STEPS * 256
    assert alone.details["warnings"] == shared.details["warnings"]
    for split in (shared.metrics, shared.test_metrics):
        assert split["rows_seen"] == split["rows_expected"] == 600
    assert shared.test_metrics["auc"] == pytest.approx(alone.test_metrics["auc"], abs=1e-3)
    in_process = {"scaling.num_workers": 0}  # on workers: the trainer's predictions, and a long test below
    found = evaluate(folder, overrides=in_process)
    assert found["auc"] == pytest.approx(shared.test_metrics["auc"], abs=1e-6)
    a, b = (run / "checkpoints" / "step_0000000018" for run in (place, folder))  # one epoch: rounding has not added up
    for name, weight in read(str(a)).model.items():
        torch.testing.assert_close(read(str(b)).model[name], weight, rtol=2e-4, atol=2e-5)
    assert abs(evaluate(b, overrides=in_process)["auc"] - evaluate(a)["auc"]) < 1e-4


@pytest.mark.long  # of two workers `beside` is such a run
def test_one_worker_that_reads_its_files_once_gives_the_numbers_of_this_process(
    here: tuple[Path, RunResult], ray_cluster: None, data: Path, tmp_path: Path
) -> None:
    folder, alone = here
    kept = train_without_files(data, tmp_path / "kept", scaling__num_workers=1, data__batch_size=256)
    assert kept.metrics == alone.metrics
    assert kept.test_metrics == alone.test_metrics
    a, b = weights(folder), weights(tmp_path / "kept")
    assert all(torch.equal(a[name], b[name]) for name in a)


class _KillOne(Tracker):
    """Kills a Ray Train worker process, or another one, once, at the first log from `step` on."""

    def __init__(
        self, step: int, own_processes: Callable[[str], list[int]], title: str = "ray::RayTrainWorker", which: int = -1
    ) -> None:
        self.step, self.killed, self.own_processes = step, False, own_processes
        self.title, self.which = title, which

    def log(self, metrics: Any, *, step: int) -> None:
        found = self.own_processes(self.title) if step >= self.step and not self.killed else []
        if found:
            self.killed = True
            os.kill(found[self.which], signal.SIGKILL)


@pytest.mark.long  # of the default tests, that of two tasks kills a worker too
def test_a_worker_killed_in_the_middle_of_an_epoch_costs_no_row(
    two: tuple[Path, dict[str, Any]], data: Path, tmp_path: Path, own_processes: Callable[[str], list[int]]
) -> None:
    folder, whole = two
    killer = _KillOne(21, own_processes)
    saving = {"checkpoint__every_steps": 5}
    survived = train(settings(data, tmp_path / "killed", **EPOCHS, **saving), trackers=[killer])
    assert killer.killed
    assert survived.details["rows"] == whole["rows"] == STEPS * 256
    assert survived.test_metrics == whole["test_metrics"]
    a, b = weights(folder), weights(tmp_path / "killed")
    assert all(torch.equal(a[name], b[name]) for name in a)
    steps = [line["step"] for line in history(tmp_path / "killed") if "train/loss" in line]
    assert steps == sorted(set(steps)), "a step was logged twice"


class _StopOne(Tracker):
    """Stops a Ray Train worker process, or another one, once, at the first log from `step` on."""

    def __init__(
        self, step: int, own_processes: Callable[[str], list[int]], title: str = "ray::RayTrainWorker"
    ) -> None:
        self.step, self.stopped, self.own_processes, self.title = step, 0, own_processes, title

    def log(self, metrics: Any, *, step: int) -> None:
        found = self.own_processes(self.title) if step >= self.step and not self.stopped else []
        if found:
            self.stopped = found[-1]
            os.kill(self.stopped, signal.SIGSTOP)


def ends(process: int, seconds: float = 10) -> bool:
    """Return whether a process ends in this time: one that is killed is there until its parent has seen it."""
    start = time.monotonic()
    while Path(f"/proc/{process}").exists() and time.monotonic() - start < seconds:
        time.sleep(0.1)
    return not Path(f"/proc/{process}").exists()


@pytest.mark.long
def test_a_worker_that_hangs_is_named_and_costs_no_row(
    two: tuple[Path, dict[str, Any]],
    data: Path,
    tmp_path: Path,
    own_processes: Callable[[str], list[int]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, whole = two
    stopper = _StopOne(21, own_processes)
    bound = {"scaling__collective_timeout_seconds": 8, "checkpoint__every_steps": 5}
    survived = train(settings(data, tmp_path / "stopped", **EPOCHS, **bound), trackers=[stopper])
    assert stopper.stopped
    assert ends(stopper.stopped), "it was not ended"
    said = rf"worker \d of 2 \(host [\d.]+, process {stopper.stopped}\) did not take part for 8 s"
    assert len(re.findall(said, caplog.text)) == 1
    assert survived.details["rows"] == whole["rows"] == STEPS * 256
    assert survived.test_metrics == whole["test_metrics"]
    a, b = weights(folder), weights(tmp_path / "stopped")
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.long
def test_hangs_beyond_what_may_fail_are_one_line(
    ray_cluster: None, data: Path, tmp_path: Path, own_processes: Callable[[str], list[int]]
) -> None:
    stopper = _StopOne(3, own_processes)
    bound = {"scaling__collective_timeout_seconds": 5, "scaling__max_failures": 0}
    with pytest.raises(TrainingError) as caught:
        train(settings(data, tmp_path / "r", **EPOCHS, **bound), trackers=[stopper])
    assert "at most 0 (scaling.max_failures)" in str(caught.value)
    assert f"process {stopper.stopped}) did not take part for 5 s" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ends(stopper.stopped), "it was not ended"


def test_a_bad_file_ends_the_run_at_once_and_is_named(
    ray_cluster: None, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "data"
    write_click_logs(root, rows=6000, seed=3, files=3, row_group_rows=512)
    file = sorted((root / "train").glob("*.parquet"))[1]
    table = pq.read_table(file)
    ids = table["city"].to_numpy().copy()
    ids[7] = 999
    pq.write_table(table.set_column(table.column_names.index("city"), "city", [ids]), file, row_group_size=512)
    with pytest.raises(DataError) as caught:
        train(settings(root, tmp_path / "r"))
    assert file.name in str(caught.value)
    assert "city" in str(caught.value)
    assert "999" in str(caught.value)
    assert "lost" not in caplog.text, "it was tried again"


def test_a_request_that_does_not_fit_fails_before_anything_starts(
    ray_cluster: None, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ResourceError, match=r"2 workers x 1\.5 CPU \+ 1 CPU for reading = 4 CPU"):
        train(settings(data, tmp_path / "r", scaling__cpus_per_worker=1.5))


# --- evaluation beside the workers ----------------------------------------------------------------------------------

ACTOR = "ray::CheckpointEvaluator"
BESIDE: dict[str, Any] = {**EPOCHS, "train__eval_method": "separate"}


def scores(model_dir: Path) -> dict[int, float]:
    return {line["step"]: line["val/auc"] for line in history(model_dir) if "val/auc" in line}


def assert_nothing_is_left(own_processes: Callable[[str], list[int]]) -> None:
    """Wait until no actor of that kind is there, and all CPUs are free; the test's own timeout bounds it."""
    import ray

    while own_processes(ACTOR) or ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        time.sleep(0.1)


def assert_same_run(folder: Path, other: Path) -> None:
    a, b = weights(folder), weights(other)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert scores(folder) == scores(other)
    assert Store(str(folder)).best() == Store(str(other)).best()


def test_an_actor_evaluates_checkpoints_while_workers_train_on_what_they_read_once(
    two: tuple[Path, dict[str, Any]], beside: tuple[Path, RunResult], own_processes: Callable[[str], list[int]]
) -> None:
    (theirs, whole), (ours, apart) = two, beside
    a, b = weights(theirs), weights(ours)
    assert all(torch.equal(a[name], b[name]) for name in a)
    expected = {line["step"]: line["val/auc"] for line in whole["log"] if "val/auc" in line}
    assert list(expected) == [0, 72, 144, 216]
    assert scores(ours) == pytest.approx(expected, abs=1e-6)
    assert Path(apart.best_checkpoint).name == Path(whole["best_checkpoint"]).name
    assert apart.metrics == pytest.approx(whole["best_metrics"], abs=1e-6)
    assert apart.test_metrics == pytest.approx(whole["test_metrics"], abs=1e-6)
    assert_nothing_is_left(own_processes)


@pytest.mark.long
@pytest.mark.parametrize(
    ("title", "which"), [("ray::RayTrainWorker", 0), ("ray::RayTrainWorker", -1), (ACTOR, 0)], ids=["a", "b", "actor"]
)
def test_a_process_killed_beside_the_other_ones_changes_nothing(
    beside: tuple[Path, RunResult],
    data: Path,
    tmp_path: Path,
    own_processes: Callable[[str], list[int]],
    title: str,
    which: int,
) -> None:
    killer = _KillOne(80, own_processes, title, which)
    saving = {"checkpoint__every_steps": 10, "data__keep_bytes": 0}
    survived = train(settings(data, tmp_path / "r", **BESIDE, **saving), trackers=[killer])
    assert killer.killed
    assert survived.details["rows"] == STEPS * 256
    assert survived.metrics == beside[1].metrics
    assert_same_run(beside[0], tmp_path / "r")
    assert_nothing_is_left(own_processes)


@pytest.mark.long
def test_an_actor_that_hangs_is_one_line_and_the_run_goes_on_with_its_evaluation(
    beside: tuple[Path, RunResult], data: Path, tmp_path: Path, own_processes: Callable[[str], list[int]]
) -> None:
    stopper = _StopOne(80, own_processes, ACTOR)
    bound = {"scaling__collective_timeout_seconds": 20, "data__keep_bytes": 0}
    with pytest.raises(TrainingError) as caught:
        train(settings(data, tmp_path / "r", **BESIDE, **bound), trackers=[stopper])
    assert re.search(r"evaluation of step (72|144) beside training has not ended in 10 s", str(caught.value))
    assert "\n" not in str(caught.value)
    assert_nothing_is_left(own_processes)
    train(settings(data, tmp_path / "r", **BESIDE, **bound), resume="must")
    assert_same_run(beside[0], tmp_path / "r")


@pytest.mark.long
def test_early_stopping_goes_by_the_scores_of_the_actor(ray_cluster: None, data: Path, tmp_path: Path) -> None:
    patience = {"train__early_stopping": {"metric": "auc", "patience": 2}, "train__evaluate_every_epochs": 1}
    given = {**BESIDE, **patience, "train__epochs": 30, "optimizers__1__lr": 0.3}
    here = train(settings(data, tmp_path / "here", **given, scaling__num_workers=0, data__batch_size=256))
    result = train(settings(data, tmp_path / "r", **given))
    for folder, run in ((tmp_path / "here", here), (tmp_path / "r", result)):
        found = {step: score for step, score in scores(folder).items() if step > 0}
        best = max(found, key=lambda step: found[step])
        assert run.details["stopped_early"]
        assert Path(run.best_checkpoint).name == f"step_{best:010d}"
        assert run.details["steps"] == best + 3 * 18  # two without a gain; the second is heard of at the third


@pytest.mark.long
def test_an_evaluation_whose_actor_is_lost_is_done_once_more(
    beside: tuple[Path, RunResult], data: Path, tmp_path: Path, own_processes: Callable[[str], list[int]]
) -> None:
    job = check(settings(data, tmp_path / "r", **BESIDE))
    evaluator = open_evaluator(job)
    assert isinstance(evaluator, RayEvaluator)
    hanging = tmp_path / "hanging" / "checkpoints" / "index.json"
    hanging.parent.mkdir(parents=True)
    os.mkfifo(hanging)  # who opens it to read waits for one who writes

    def kill_at_work() -> None:
        while not (found := own_processes(f"{ACTOR}.evaluate")):
            time.sleep(0.05)
        os.kill(found[0], signal.SIGKILL)
        while found[0] in own_processes(ACTOR):
            time.sleep(0.05)

    evaluator.start(str(tmp_path / "hanging"))
    kill_at_work()
    assert evaluator.result(1) is None
    kill_at_work()
    with pytest.raises(TrainingError, match="lost twice in one evaluation") as caught:
        evaluator.result(60)
    assert "\n" not in str(caught.value)
    evaluator.start(beside[1].best_checkpoint)
    found = evaluator.result(60)
    assert found == pytest.approx(evaluate(beside[0], split="valid"), abs=1e-6)
    evaluator.start(str(tmp_path / "nothing"))
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        evaluator.result(60)
    evaluator.start(str(tmp_path / "hanging"))
    assert evaluator.result(1) is None
    evaluator.close()
    assert_nothing_is_left(own_processes)
