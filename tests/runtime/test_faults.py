"""A run in a process of its own, on a Ray of its own: Ctrl-C at many moments, and a raylet that dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rechub_ray.checkpoint import Store, read
from rechub_ray.data.synthetic import write_click_logs
from rechub_ray.interrupt import CODE, Process, end_processes, processes_below
from tests.worlds import command_of

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(280)]

ROOT = Path(__file__).resolve().parents[2]
CONFIG: dict[str, Any] = {
    "name": "t",
    "data": {"batch_size": 128, "eval_batch_size": 512},
    "model": {"name": "lr"},
    "optimizers": [{"name": "adam", "lr": 0.01}],
    "train": {"epochs": 400, "log_every_steps": 5, "threads": 1, "evaluate_every_epochs": 200},
    "checkpoint": {"every_steps": 5},
    "trackers": ["jsonl"],
    "scaling": {"num_workers": 2},
    "export": {"onnx": False},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clicks")
    write_click_logs(root, rows=3000, seed=3, files=2, row_group_rows=512)
    return root


class Run:
    """`train` in a process of its own.

    Args:
        folder: the run's. data: its shards.
        overrides: `path=value` strings.
    """

    def __init__(self, folder: Path, data: Path, *overrides: str) -> None:
        self.folder = folder
        folder.parent.mkdir(exist_ok=True)
        config = folder.parent / "c.yaml"
        config.write_text(yaml.safe_dump(CONFIG))
        # a shell may have started these tests with the signal ignored
        script = (
            "import signal, sys\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "from rechub_ray.cli import entry\n"
            "entry()\n"
        )
        arguments = ["train", str(config), f"data.root={data}", f"model_dir={folder}", *overrides]
        self.log = folder.parent / "log"
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", script, *arguments],
                stdout=file, stderr=file, env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        self.seen: set[Process] = set()

    def processes(self, title: str) -> list[int]:
        """Ids of the processes below it whose command line has `title` in it."""
        found = processes_below(self.process.pid)
        self.seen |= set(found)
        return [pid for pid, _ in found if title.encode() in command_of(pid)]

    def steps(self) -> list[int]:
        """The steps logged so far."""
        file = self.folder / "metrics.jsonl"
        lines = file.read_text().splitlines() if file.is_file() else []
        return [line["step"] for line in map(json.loads, lines) if "train/loss" in line]

    def reach(self, moment: Callable[[Run], object]) -> None:
        """Wait for a moment; the test's own timeout bounds it."""
        while not moment(self):
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)
        self.processes("")

    def left(self) -> list[str]:
        """What of its processes is still there."""
        return [command_of(pid).decode() for pid, _ in self.seen if command_of(pid)]


@pytest.fixture
def start(data: Path, tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def begin(*overrides: str, name: str = "run") -> Run:
        runs.append(Run(tmp_path / name / "r", data, *overrides))
        return runs[-1]

    yield begin
    for run in runs:
        if run.process.poll() is None:
            end_processes(processes_below(run.process.pid))
            run.process.kill()
            run.process.wait()
        end_processes(list(run.seen))


def trains(run: Run) -> bool:
    return len(run.steps()) > 2


def hangs(run: Run) -> bool:
    """One of the workers is stopped, and the other one waits for it."""
    if not trains(run):
        return False
    os.kill(run.processes("ray::RayTrainWorker")[-1], signal.SIGSTOP)
    return True


def waits_for_scores(run: Run) -> bool:
    """The actor that evaluates beside training is stopped, and the workers wait for it."""
    found = run.processes("ray::CheckpointEvaluator")
    if found:
        os.kill(found[0], signal.SIGSTOP)
    return bool(found) and "waiting for the evaluation" in run.log.read_text()


@pytest.mark.parametrize(
    "moment",
    [
        lambda run: run.processes("gcs_server"),
        # between the first one and `hangs`, and easier than that
        pytest.param(lambda run: run.processes("ray::RayTrainWorker"), marks=pytest.mark.long),
        pytest.param(trains, marks=pytest.mark.long),
        hangs,
        pytest.param(waits_for_scores, marks=pytest.mark.long),
    ],
    ids=["ray starts", "workers start", "trains", "hangs", "waits for scores"],
)
def test_ctrl_c_says_how_to_go_on_and_leaves_nothing_behind(
    moment: Callable[[Run], object], start: Callable[..., Run]
) -> None:
    beside = ["train.eval_method=separate", "train.evaluate_every_epochs=20", "scaling.cpus_per_worker=0.25"]
    run = start(*(beside if moment is waits_for_scores else []))
    run.reach(moment)
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(timeout=60) == CODE
    lines = run.log.read_text().splitlines()
    assert lines[-1] == "rechub-ray: interrupted; the same command goes on from the last checkpoint"
    assert sum("interrupted" in line for line in lines) == 1
    assert "Traceback" not in run.log.read_text()
    while run.left():  # killed, but not yet gone; the test's own timeout bounds it
        time.sleep(0.05)


@pytest.mark.long
def test_a_raylet_that_dies_is_one_line_and_the_run_goes_on_exactly(start: Callable[..., Run]) -> None:
    short = ["train.epochs=null", "train.steps=600", "train.evaluate_every_epochs=0"]
    whole = start(*short, name="whole")
    assert whole.process.wait() == 0, whole.log.read_text()
    run = start(*short)
    run.reach(trains)
    (raylet,) = run.processes("raylet/raylet")
    os.kill(raylet, signal.SIGKILL)
    assert run.process.wait(timeout=120) == 2
    said = run.log.read_text()
    (line,) = [line for line in said.splitlines() if line.startswith("rechub-ray: ")]
    assert "has died (the raylet). The same command goes on from the last checkpoint." in line
    assert "(raylet) " not in said
    assert "Traceback" not in said
    again = start(*short)
    assert again.process.wait() == 0, again.log.read_text()
    a, b = (read(f"{r.folder}/checkpoints/{Store(str(r.folder)).newest()}").model for r in (whole, again))
    assert all(torch.equal(a[name], b[name]) for name in a)
