"""What a person sees of a sweep, without Ray: the console writes beside the sweep, and never instead of it."""

from __future__ import annotations

import io
import json
import os
import pickle
import pty
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rechub_ray.space import Space
from rechub_ray.sweeps import console as console_module
from rechub_ray.sweeps.console import Row, SweepConsole, View, table
from rechub_ray.sweeps.ledger import Ledger
from rechub_ray.sweeps.objectives import SIZES, Objective
from rechub_ray.sweeps.watch import Watch

RATE = "optimizers.0.lr"


def view(**given: Any) -> View:
    rows = tuple(Row(f"trial_{i:05d}", 1.0, 0.5, 0.75 - i / 100, f"{RATE}=0.{i}") for i in range(6))
    now = time.monotonic()
    fields: dict[str, Any] = {
        "metric": "auc", "epochs": 4.0, "counts": {"running": 6, "waiting": 0, "failed": 1}, "running": rows,
        "best": rows[0], "seconds_left": 75.0, "at": now, "began": now - 5,
    }  # fmt: skip
    return View(**{**fields, **given})


def until(condition: Callable[[], bool]) -> None:
    while not condition():  # the test's own timeout bounds it
        time.sleep(0.01)


def test_a_file_gets_a_line_an_event_and_one_when_it_is_quiet(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+") as file, SweepConsole(file, quiet_seconds=0.5) as console:
        console.say("two\nlines")
        console.say("x" * 1000)
        console.show(view())
        until(lambda: "passed" in (tmp_path / "log").read_text())
        console.show(None)
        console.say("the end")
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0] == "two lines"
    assert len(lines[1]) == 300
    assert re.fullmatch(r"6 running, 1 failed, 0:\d\d passed, about [01]:\d\d to go", lines[2])
    assert lines[-1] == "the end"
    assert not any("\x1b" in line for line in lines)


def test_what_is_no_file_gets_the_lines_too() -> None:
    stream = io.StringIO()
    with SweepConsole(stream) as console:
        console.say("hello")
    assert stream.getvalue() == "hello\n"


def test_a_terminal_gets_a_table_that_is_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    seen = bytearray()

    def read() -> None:
        while not seen.endswith(b"goodbye"):
            seen.extend(os.read(ours, 4096))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with os.fdopen(theirs, "w") as terminal:
        with SweepConsole(terminal) as console:
            console.show(view())
            until(lambda: b"trial_00000" in seen)
            console.say("an event")
            until(lambda: b"an event" in seen)
        terminal.write("goodbye")
    reader.join(timeout=20)
    text = seen.decode()
    assert "6 running, 1 failed" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1, (
        "the cursor is hidden for the table, and shown again"
    )
    os.close(ours)


def test_nobody_has_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's own timeout bounds it."""
    monkeypatch.setattr(console_module, "_CLOSE_SECONDS", 0.2)
    for is_closed in (True, False):
        theirs, ours = os.pipe()
        if is_closed:
            os.close(theirs)
        with os.fdopen(ours, "w") as stream, SweepConsole(stream) as console:
            for _ in range(3000):  # more than a pipe takes, and than is kept
                console.say("x" * 200)
            console.show(view())
        if not is_closed:
            os.close(theirs)  # the thread that is stuck ends


@pytest.mark.usefixtures("default_signals")
def test_a_closed_terminal_does_not_end_the_sweep(tmp_path: Path) -> None:
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    with (tmp_path / "log").open("w") as file, SweepConsole(file):
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


def test_long_tables_are_cut() -> None:
    from rich.console import Console

    output = Console(file=io.StringIO(), width=60)
    with output.capture() as caught:
        output.print(table(view(), time.monotonic(), most_rows=2))
    lines = caught.get().splitlines()
    assert lines[1].split() == ["best", "auc", "0.750000", "trial_00000", f"{RATE}=0.0"]
    assert lines[3].split() == ["trial_00000", "1/4", "0.500000", "0.750000", f"{RATE}=0.0"]
    assert [line.split()[0] for line in lines[3:5]] == ["trial_00000", "trial_00001"]
    assert lines[5] == "... and 4 more"
    assert all(len(line) <= 60 for line in lines)


class Told:
    """Stands where the console stands."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.views: list[View | None] = []
        self.say, self.show = self.lines.append, self.views.append


class Sweeping:
    """A sweep of 4 trials of 10 epochs, played by hand."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **stop: Any) -> None:
        self.now = 1000.0
        monkeypatch.setattr("rechub_ray.sweeps.watch.time", SimpleNamespace(monotonic=lambda: self.now))
        space = Space.parse({RATE: {"choice": [0.1, 0.2, 0.3, 0.4]}})
        self.ledger = Ledger(str(folder), space, objectives=[Objective(metric="auc", mode="max")], rungs=[])
        for i in range(3):  # the fourth one's point is not known yet
            self.ledger.open(space.encode({RATE: (i + 1) / 10}, where=""), seed=0, group=i)
        stopping = {"plateau_trials": None, "min_delta": 0.0, "seconds": None, "budget_epochs": None, **stop}
        checked: Any = SimpleNamespace(
            metric="auc",
            epochs=10.0,
            sweep=SimpleNamespace(stop=SimpleNamespace(**stopping), scheduler=SimpleNamespace(name="asha")),
        )
        self.console: Any = Told()
        self.watch = Watch(checked, self.ledger, total=4, console=self.console)

    def report(self, number: int, score: float, epochs: float, warnings: str = "") -> None:
        name = f"trial_{number:05d}"
        result = {"score": score, "epochs": epochs, "val/auc": score, "warnings": warnings}
        result |= dict.fromkeys(("step", "rows", "busy_seconds", "train_seconds", *SIZES), 1)
        self.watch.result(name, {**result, "point": json.dumps(self.ledger.records[name]["point"])})

    def look(self, *states: str) -> View:
        self.now += 1
        self.watch.look({f"trial_{i:05d}": state for i, state in enumerate(states)})
        seen: View = self.console.views[-1]
        return seen


def test_the_view_counts_every_trial_and_tells_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Sweeping(tmp_path, monkeypatch)
    for number in (0, 1):
        sweep.watch.started(f"trial_{number:05d}")
    assert sweep.look("RUNNING", "RUNNING", "PENDING").seconds_left is None
    sweep.now = 1010.0
    sweep.report(0, 0.6, 4.0)
    sweep.report(1, 0.7, 1.0, "tracker 'x' failed\ntracker 'y' failed")
    sweep.report(1, 0.65, 2.0, "tracker 'x' failed")
    assert sweep.console.lines == [
        "trial_00000: auc 0.600000 after 4 epochs, the best so far",
        "trial_00001: tracker 'x' failed",
        "trial_00001: tracker 'y' failed",
        "trial_00001: auc 0.700000 after 1 epochs, the best so far",
    ]
    seen = sweep.look("RUNNING", "RUNNING", "PENDING")
    assert {k: v for k, v in seen.counts.items() if v} == {"running": 2, "waiting": 2}
    assert [(r.trial, r.epochs, r.last, r.best) for r in seen.running] == [
        ("trial_00001", 2.0, 0.65, 0.7), ("trial_00000", 4.0, 0.6, 0.6),
    ]  # fmt: skip
    assert seen.best is not None
    assert (seen.best.trial, seen.best.params) == ("trial_00001", f"{RATE}=0.2")
    # 6 epochs in 11 s; 6 + 8 of those that run and 2 x 10 of the others are missing
    assert seen.seconds_left == pytest.approx(34 * 11 / 6)
    sweep.watch.ended("trial_00000", None)
    assert sweep.console.lines[-1] == (
        "(1/4, about 0:18 to go) trial_00000 stopped early: asha stopped it at 4 epochs with auc 0.600000"
    )  # a trial takes 4 epochs, then: 2 + 4 + 4 are missing
    sweep.watch.ended("trial_00001", "its process was lost")
    assert sweep.console.lines[-1].endswith("trial_00001 failed: its process was lost")
    seen = sweep.look("TERMINATED", "ERROR", "PAUSED")
    assert {k: v for k, v in seen.counts.items() if v} == {"waiting": 1, "paused": 1, "stopped early": 1, "failed": 1}
    assert sum(seen.counts.values()) == 4
    sweep.watch.leave()
    assert sweep.console.views[-1] is None


def test_stop_criteria_bound_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for stop, left in (({"budget_epochs": 5}, 3.0 * 11 / 2), ({"seconds": 20}, 9.0)):
        sweep = Sweeping(tmp_path / str(left), monkeypatch, **stop)
        sweep.watch.started("trial_00000")
        sweep.now = 1010.0
        sweep.report(0, 0.6, 2.0)
        assert sweep.look("RUNNING").seconds_left == pytest.approx(left)


def test_a_console_stays_here_when_tune_writes_its_callbacks_to_disk() -> None:
    assert pickle.loads(pickle.dumps([SweepConsole()])) == [None]


def test_a_lost_trial_goes_on_and_a_failed_one_is_over_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Sweeping(tmp_path, monkeypatch)
    for name in ("trial_00000", "trial_00001"):
        sweep.watch.started(name)
    sweep.watch.recovered("trial_00000", "its process was lost")
    sweep.watch.started("trial_00000")
    (tmp_path / "trials" / "trial_00001").mkdir(parents=True)
    (tmp_path / "trials" / "trial_00001" / "failure.json").write_text('{"reason": "NaN"}')
    sweep.watch.recovered("trial_00001", "TrainingError")
    sweep.watch.started("trial_00001")  # Ray Tune starts it again all the same
    sweep.watch.ended("trial_00001", "TrainingError")
    lost, failed, _ = sweep.ledger
    assert (lost["status"], lost["starts"], lost["lost"]) == ("running", 2, ["its process was lost"])
    assert (failed["status"], failed["starts"], failed["reason"]) == ("failed", 1, "NaN")
    assert len(sweep.console.lines) == 2


@pytest.mark.parametrize(
    ("stop", "ended"),
    [
        ({"plateau_trials": 2}, "2 trials in a row ended without a better score"),
        ({"plateau_trials": 3, "min_delta": 0.5}, None),
        ({"plateau_trials": 3}, None),
        ({"seconds": 60.0}, "the sweep's time of 60 s is over"),
        ({"seconds": 61.0}, None),
        ({"budget_epochs": 9}, "the sweep's budget of 9 epochs is used up"),
        ({"budget_epochs": 9.5}, None),
    ],
)
def test_what_ends_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: dict[str, Any], ended: str | None
) -> None:
    sweep = Sweeping(tmp_path, monkeypatch, **stop)
    began = sweep.now
    for number, score in enumerate((0.6, 0.6, 0.5)):
        assert not sweep.watch.is_over()
        sweep.watch.started(f"trial_{number:05d}")
        sweep.report(number, score, 3.0)
        sweep.watch.ended(f"trial_{number:05d}", None)
    sweep.now = began + 60.0
    assert sweep.watch.is_over() is (ended is not None)
    assert sweep.watch.ending == ended
