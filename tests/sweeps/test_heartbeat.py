"""Processes of a sweep that hang: who counts as hanging; on Ray, stopped ones are killed, and named in a line."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from rechub_ray.data.synthetic import write_click_logs
from rechub_ray.errors import DataError
from rechub_ray.runtime.inference import evaluate
from rechub_ray.sweeps import group, heartbeat, tune
from rechub_ray.sweeps.heartbeat import ProcessPlace, Watchdog

HERE, THERE = ProcessPlace("10.0.0.1", 71, "a", 5), ProcessPlace("10.0.0.2", 71, "b", 6)


class Clock:
    """The time, and the process of one trial, played by hand."""

    def __init__(self, folder: Path) -> None:
        self.now, self.file = 100.0, folder / "a" / heartbeat.FILE
        self.file.parent.mkdir()

    def beat(self, place: ProcessPlace = HERE) -> None:
        self.file.write_text(json.dumps(dataclasses.asdict(place)))
        os.utime(self.file, ns=(0, int(self.now * 1e9)))


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(tmp_path)
    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def hit(monkeypatch: pytest.MonkeyPatch) -> list[ProcessPlace]:
    """The processes that were killed."""
    found: list[ProcessPlace] = []
    monkeypatch.setattr(ProcessPlace, "kill", lambda self: found.append(self))
    return found


def test_who_does_not_touch_its_file_for_the_time_is_killed_once(
    tmp_path: Path, clock: Clock, hit: list[ProcessPlace]
) -> None:
    watchdog = Watchdog(str(tmp_path), 10)
    for clock.now in (101.0, 105.0, 109.0):
        clock.beat()
        assert watchdog.look(["a", "not yet there"]) == {}
    for clock.now in (113.0, 117.0, 118.9):
        assert watchdog.look(["a"]) == {}
    clock.now = 120.0
    told = watchdog.look(["a"])
    assert told == {"a": "its process (host 10.0.0.1, process 71) did not answer for 10 s, and was killed"}
    for clock.now in (124.0, 128.0, 132.0):
        assert watchdog.look(["a"]) == {}
    assert hit == [HERE]


def test_only_trials_that_run_are_looked_at(tmp_path: Path, clock: Clock, hit: list[ProcessPlace]) -> None:
    watchdog = Watchdog(str(tmp_path), 10)
    clock.beat()
    for clock.now in (101.0, 105.0, 109.0, 113.0):
        assert watchdog.look([]) == {}
    assert not hit


def test_who_was_stopped_itself_judges_nobody(tmp_path: Path, clock: Clock, hit: list[ProcessPlace]) -> None:
    watchdog = Watchdog(str(tmp_path), 10)
    clock.beat()
    clock.now = 101.0
    assert watchdog.look(["a"]) == {}
    for clock.now in (200.0, 204.0, 208.0):  # the machine slept
        assert watchdog.look(["a"]) == {}
    assert not hit
    clock.now = 211.0
    assert list(watchdog.look(["a"])) == ["a"]


def test_a_process_beats_until_its_work_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProcessPlace, "here", lambda: HERE)
    file = tmp_path / "a" / heartbeat.FILE

    def work() -> None:
        with heartbeat.beating(str(tmp_path / "a"), 0.1):
            assert ProcessPlace(**json.loads(file.read_text())) == HERE
            before = file.stat().st_mtime_ns
            while file.stat().st_mtime_ns == before:  # the test's own timeout bounds it
                time.sleep(0.01)
            raise SystemExit  # as Ray Tune stops a trial

    with pytest.raises(SystemExit):
        work()
    assert not file.exists()
    with heartbeat.beating(str(tmp_path / "a"), 0.1):
        file.write_text(json.dumps(dataclasses.asdict(THERE)))  # another process has taken over
    assert file.exists()


WAITED, TOO = TimeoutError("rank 0 waited"), TimeoutError("rank 2 waited")
FIRST, DID = "worker 1 of 3 (host 10.0.0.1, process 71)", "did not take part for 30 s, and was killed"


@pytest.mark.parametrize(
    ("own", "ended", "expected", "killed"),
    [
        (WAITED, {}, f"{FIRST} and worker 2 of 3 (host 10.0.0.2, process 71) {DID}", "ab"),
        (WAITED, {2: TOO}, f"{FIRST} {DID}", "a"),
        (WAITED, {2: DataError("null")}, "null.", ""),
        (ConnectionError("rank 2 is gone"), {}, "rank 2 is gone", ""),
        (WAITED, {1: TOO, 2: TOO}, "rank 0 waited", ""),
    ],
)
def test_a_worker_that_hangs_is_named_and_killed(
    monkeypatch: pytest.MonkeyPatch,
    hit: list[ProcessPlace],
    own: Exception,
    ended: dict[int, Exception],
    expected: str,
    killed: str,
) -> None:
    monkeypatch.setattr(group, "_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(group, "_error", ended.get)
    monkeypatch.setattr(group, "_kill", lambda peers: None)

    def wait(refs: list[int], *, num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        time.sleep(0.01)
        return [ref for ref in refs if ref in ended], [ref for ref in refs if ref not in ended]

    monkeypatch.setattr(ray, "wait", wait)
    with group._Watch([], [HERE, THERE], [1, 2]) as watch:
        assert str(watch.cause(own, 30)) == expected
    assert "".join(place.node for place in hit) == killed


# --- on Ray ---------------------------------------------------------------------------------------------------------

BASE: dict[str, Any] = {
    "data": {"batch_size": 128},
    "model": {"name": "lr"},
    "optimizers": ["adam"],
    "train": {"epochs": 30, "threads": 1},
    "trackers": ["jsonl"],
    "scaling": {"collective_timeout_seconds": 8},
    "export": {"onnx": False},
}


def _stop(folder: Path, title: str, own_processes: Callable[[str], list[int]], stopped: list[int]) -> None:
    """Stop the newest process of a title once there is a checkpoint below a folder."""
    while not list(folder.glob("*/checkpoints/step_*/manifest.json")):
        time.sleep(0.02)
    while not (found := own_processes(title)):  # Ray writes titles anew for each call, and one is gone meanwhile
        time.sleep(0.02)
    stopped.append(found[-1])
    os.kill(stopped[0], signal.SIGSTOP)


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(280)
@pytest.mark.parametrize(
    ("workers", "title", "said"),
    [
        (0, "ray::Trial", r"its process \(host [\d.]+, process {}\) did not answer for 8 s, and was killed"),
        (2, "ray::Trial", r"its process \(host [\d.]+, process {}\) did not answer for 8 s, and was killed"),
        (2, "ray::_Peer", r"worker 1 of 2 \(host [\d.]+, process {}\) did not take part for 8 s, and was killed"),
    ],
    ids=["alone", "first of two", "second of two"],
)
def test_a_stopped_process_is_killed_and_named_and_the_trial_goes_on(
    ray_cluster: None,
    tmp_path: Path,
    own_processes: Callable[[str], list[int]],
    capfd: pytest.CaptureFixture[str],
    workers: int,
    title: str,
    said: str,
) -> None:
    write_click_logs(tmp_path / "data", rows=6000, seed=3, files=3, row_group_rows=512)
    stopped: list[int] = []
    given = (tmp_path / "s" / "trials", title, own_processes, stopped)
    stopper = threading.Thread(target=_stop, args=given, daemon=True)
    stopper.start()
    overrides = {"data.root": str(tmp_path / "data"), "scaling.num_workers": workers}
    space = {"optimizers.0.lr": {"grid": [1e-3]}}
    sweep = {"base": BASE, "overrides": overrides, "space": space, "search": "grid", "sweep_dir": str(tmp_path / "s")}
    result = tune(sweep, verbose=True)
    stopper.join()
    (record,) = result.trials
    assert not Path(f"/proc/{stopped[0]}").exists()
    (reason,) = record["lost"]
    assert re.fullmatch(rf"(ConnectionError: )?{said.format(stopped[0])}", reason)
    assert f"trial_00000 goes on from its last checkpoint: {reason}" in capfd.readouterr().err
    assert (record["status"], record["starts"], record["epochs"]) == ("finished", 2, 30)
    assert record["rows"] == 30 * (4800 // (128 * max(workers, 1)) * 128 * max(workers, 1))


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(280)
def test_a_refit_whose_process_is_stopped_starts_again(
    ray_cluster: None, tmp_path: Path, own_processes: Callable[[str], list[int]]
) -> None:
    write_click_logs(tmp_path / "data", rows=6000, seed=3, files=3, row_group_rows=512)
    space = {"optimizers.0.lr": {"grid": [1e-3]}}
    overrides = {"data.root": str(tmp_path / "data"), "train.epochs": 60}
    sweep = {"base": BASE, "overrides": overrides, "space": space, "search": "grid", "sweep_dir": str(tmp_path / "s")}
    stopped: list[int] = []
    given = (tmp_path / "s" / "refit", "ray::_train", own_processes, stopped)
    stopper = threading.Thread(target=_stop, args=given, daemon=True)
    stopper.start()
    again = tune({**sweep, "refit": True}).refit
    stopper.join()
    assert not Path(f"/proc/{stopped[0]}").exists()
    assert again is not None
    assert again.error is None
    assert evaluate(str(again.checkpoint))["auc"] == pytest.approx(again.test_metrics["auc"])
