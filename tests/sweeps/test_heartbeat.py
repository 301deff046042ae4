"""Processes of a sweep that hang: who counts as hanging; on Ray, stopped ones are killed, and named in a line."""

from __future__ import annotations

import os
import pickle
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
from rechub_ray.sweeps.heartbeat import Heartbeat, Heartbeats, ProcessPlace, Watchdog

HERE, THERE = ProcessPlace("10.0.0.1", 71, "a", 5), ProcessPlace("10.0.0.2", 71, "b", 6)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    now = [100.0]
    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_who_was_not_heard_for_the_time_is_silent_once(clock: list[float]) -> None:
    beats = Heartbeats()
    beats.beat("a", HERE)
    beats.beat("b", THERE)
    for clock[0] in (104.0, 108.0):
        beats.beat("b", THERE)
        assert beats.silent(10) == {}
    clock[0] = 111.0
    assert beats.silent(10) == {"a": HERE}
    assert beats.silent(10) == {}
    clock[0] = 113.0
    beats.leave("b", THERE)
    for clock[0] in (117.0, 121.0, 125.0):
        assert beats.silent(10) == {}


def test_a_process_that_leaves_late_does_not_sign_off_its_successor(clock: list[float]) -> None:
    beats = Heartbeats()
    beats.beat("a", HERE)
    beats.beat("a", THERE)
    beats.leave("a", HERE)
    for clock[0] in (104.0, 108.0):
        assert beats.silent(10) == {}
    clock[0] = 112.0
    assert beats.silent(10) == {"a": THERE}


def test_who_was_stopped_itself_judges_nobody(clock: list[float]) -> None:
    beats = Heartbeats()
    beats.beat("a", HERE)
    clock[0] = 200.0  # nobody asked for 100 s: the beats of that time may not have been taken yet
    assert beats.silent(10) == {}
    for clock[0] in (204.0, 208.0):
        assert beats.silent(10) == {}
    clock[0] = 211.0
    assert beats.silent(10) == {"a": HERE}


def test_a_process_beats_until_its_work_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, str, ProcessPlace]] = []
    listener = SimpleNamespace(
        **{
            kind: SimpleNamespace(remote=lambda name, place, kind=kind: told.append((kind, name, place)))
            for kind in ("beat", "leave")
        }
    )
    monkeypatch.setattr(ProcessPlace, "here", lambda: HERE)

    def work() -> None:
        with Heartbeat(listener, 0.1).beating("a"):
            while len(told) < 3:
                time.sleep(0.01)
            raise SystemExit  # as Ray Tune stops a trial

    with pytest.raises(SystemExit):
        work()
    assert set(told[:-1]) == {("beat", "a", HERE)}
    assert told[-1] == ("leave", "a", HERE)
    before = len(told)
    time.sleep(0.05)
    assert len(told) == before


def test_a_watchdog_stays_here_when_tune_writes_its_callbacks_to_disk() -> None:
    assert pickle.loads(pickle.dumps([Watchdog.__new__(Watchdog)])) == [None]


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
    monkeypatch: pytest.MonkeyPatch, own: Exception, ended: dict[int, Exception], expected: str, killed: str
) -> None:
    hit: list[str] = []
    monkeypatch.setattr(ProcessPlace, "kill", lambda self: hit.append(self.node))
    monkeypatch.setattr(group, "_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(group, "_error", ended.get)
    monkeypatch.setattr(group, "_kill", lambda peers: None)

    def wait(refs: list[int], *, num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        time.sleep(0.01)
        return [ref for ref in refs if ref in ended], [ref for ref in refs if ref not in ended]

    monkeypatch.setattr(ray, "wait", wait)
    with group._Watch([], [HERE, THERE], [1, 2]) as watch:
        assert str(watch.cause(own, 30)) == expected
    assert "".join(hit) == killed


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
    while not list(folder.glob("*/checkpoints/step_*/manifest.json")) or not own_processes(title):
        time.sleep(0.02)
    stopped.append(own_processes(title)[-1])
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
