"""What is shown while a run waits."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rechub_ray import waiting
from rechub_ray.evaluation import _shown
from rechub_ray.waiting import Waiting


def until(read: object, text: str) -> None:
    """Waits until a file holds a text; the test's own timeout bounds it."""
    while text not in Path(str(read)).read_text():
        time.sleep(0.01)


def test_without_a_terminal_it_is_one_line_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "err").open("w") as file:
        monkeypatch.setattr(sys, "stderr", file)
        with Waiting("starting Ray", quiet_seconds=0.05):
            until(tmp_path / "err", "\n")
        with Waiting("starting workers", quiet_seconds=1000):
            pass
    assert (tmp_path / "err").read_text() == "starting Ray: 0.05 s so far\n"


def test_a_terminal_shows_it_and_is_left_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_DRAW_SECONDS", 0.01)
    reading, writing = pty.openpty()
    with os.fdopen(writing, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        shown = b""
        with Waiting("starting Ray") as shows:
            while shown.count(b"starting Ray ... ") < 2:
                shown += os.read(reading, 4096)
            shows.done()
        while not shown.endswith(b"\r\x1b[K"):
            shown += os.read(reading, 4096)
    os.close(reading)
    assert shown.startswith(b"\r\x1b[Kstarting Ray ... 0 s")
    assert b"\n" not in shown


def shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch, work: Callable[[], None], columns: int = 0) -> str:
    """What a terminal got, without the signs that move its cursor."""
    monkeypatch.setattr(waiting, "_DRAW_SECONDS", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    reading, writing = pty.openpty()
    fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(writing, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        work()
        monkeypatch.undo()
        os.write(terminal.fileno(), b"end")
        shown = b""
        while not shown.endswith(b"end"):
            shown += os.read(reading, 4096)
    os.close(reading)
    assert b"\n" not in shown
    return shown.decode().replace("\r\x1b[K", "|")


def test_how_far_it_is_within_the_width_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        with Waiting("exporting", detail=lambda: "being translated into something else", quiet_seconds=None):
            time.sleep(0.1)

    assert "|exporting ... 0 s, being tran|" in shown_on_a_terminal(monkeypatch, work, columns=30)


def test_an_evaluation_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Source:
        rows_expected = 3000

        def batches(self) -> Iterator[Any]:
            for _ in range(3):
                time.sleep(0.1)
                yield SimpleNamespace(rows=1000)

    shown = shown_on_a_terminal(monkeypatch, lambda: [*_shown(Source())] and None)  # type: ignore[arg-type]
    assert "|evaluating ... 0 s, 0 of 3,000 rows" in shown
    assert "2,000 of 3,000 rows" in shown
    assert shown.endswith("|end")


def test_without_a_terminal_some_waits_say_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with Waiting("evaluating", quiet_seconds=None) as shows:
        assert shows._thread is None
    assert capfd.readouterr().err == ""
