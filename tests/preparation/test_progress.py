"""Progress on a terminal, silence elsewhere."""

from __future__ import annotations

import io
from typing import Any

import pytest

from rechub_ray.preparation import prepare, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_rows_bytes_and_passes(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("sys.stderr", terminal)
    shown: list[str] = []
    over = progress.Progress.over

    def seen(self: Any, what: str, results: Any, sizes: list[int]) -> Any:
        for result in over(self, what, results, sizes):
            self._display.refresh()
            shown.append(what)
            yield result

    monkeypatch.setattr(progress.Progress, "over", seen)
    lab.write(train__csv="x,y\n" + "1,1\n2,0\n" * 500)
    prepare(lab.single(features=[{"kind": "categorical", "name": "x"}]))
    assert shown == ["fitting", "encoding"]
    text = terminal.getvalue()
    assert "fitting" in text
    assert "1,000 rows" in text
    assert "4.0/4.0 kB" in text


def test_elsewhere_there_is_silence(lab: Any, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(train__csv="x,y\n1,1\n2,0\n")
    prepare(lab.single(features=[{"kind": "categorical", "name": "x"}]))
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_an_error_ends_the_display(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", Terminal())
    lab.write(train__csv="x,y\n1,1\n2,3\n")
    with pytest.raises(Exception, match="expected 0 or 1"):
        prepare(lab.single(features=[{"kind": "categorical", "name": "x"}]))
    assert progress._listener is None
