"""What is shown while a run waits."""

from __future__ import annotations

import os
import pty
import sys
import time
from pathlib import Path

import pytest

from rechub_ray import waiting
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
