from __future__ import annotations

import io
import re
import sys

import pytest

from rechub_ray.tracking import ConsoleTracker, Trackers
from rechub_ray.tracking import console as module


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is set."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_come_now_and_then(run, clock, capsys):
    tracker = ConsoleTracker(run(total_steps=1000), every_seconds=10)
    for step, seconds in [(10, 0), (20, 4), (30, 8), (110, 12), (120, 13)]:
        clock[0] = 100 + seconds
        tracker.log({"train/loss": 1 / step, "epoch": 0, "rows_per_second": 12345.6}, step=step)
    assert capsys.readouterr().err.splitlines() == [
        "epoch 0  step 10/1,000 (1%)  loss 0.1  12,346 rows/s",
        # 100 steps in 12 s: 890 more take 106.8 s
        "epoch 0  step 110/1,000 (11%)  loss 0.0090909  12,346 rows/s  ETA 1:47",
    ]
    tracker.close()
    assert capsys.readouterr().err.startswith("epoch 0  step 120/1,000 (12%)")  # the last one is always written


def test_evaluations_are_always_written(run, clock, capsys):
    tracker = ConsoleTracker(run())
    tracker.log({"val/auc": 0.5, "val/rows_expected": 7, "val/rows_seen": 7, "epoch": -1}, step=0)
    tracker.log({"val/auc": 0.78125, "val/log_loss": 0.4321987, "epoch": 2}, step=3000)
    tracker.close()
    out, err = capsys.readouterr()
    assert out == ""  # standard output is for results
    assert err.splitlines() == [
        "epoch -1  step 0  val/auc 0.5",
        "epoch 2  step 3,000  val/auc 0.78125  val/log_loss 0.4322",
    ]


def test_without_a_total_there_is_no_eta(run, clock, capsys):
    tracker = ConsoleTracker(run(), every_seconds=0)
    tracker.log({"train/loss": 0.5}, step=1)
    clock[0] += 60
    tracker.log({"train/loss": 0.25}, step=2)
    assert capsys.readouterr().err.splitlines() == ["step 1  loss 0.5", "step 2  loss 0.25"]


def test_a_terminal_has_one_live_line(run, clock, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for name, value in {"TERM": "xterm", "COLUMNS": "120"}.items():
        monkeypatch.setenv(name, value)
    with Trackers("console", run(total_steps=100)) as trackers:
        for step in range(10, 60, 10):
            clock[0] += 1
            trackers.log({"train/loss": 1 / step, "epoch": 0, "rows_per_second": 1000.0}, step=step)
        trackers.log({"val/auc": 0.75, "epoch": 0}, step=50)
    written = terminal.getvalue()
    for step in range(10, 60, 10):
        assert f"step {step}/100" in written
    assert "ETA 0:05" in written
    assert "\x1b[2K" in written  # the line is erased before it is written again
    visible = [re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", line.split("\r")[-1]) for line in written.split("\n")]
    assert any(line.strip() == "epoch 0  step 50/100 (50%)  val/auc 0.75" for line in visible)
    assert sys.stderr is terminal  # not left redirected


def test_many_log_points_do_not_flood_a_terminal(run, clock, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    tracker = ConsoleTracker(run(total_steps=1000))
    for step in range(1000):
        clock[0] += 0.001
        tracker.log({"train/loss": 0.5}, step=step)
    tracker.close()
    assert terminal.getvalue().count("loss 0.5") < 15


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01")])
def test_clock(seconds, text):
    assert module.clock(seconds) == text
