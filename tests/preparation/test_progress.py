"""Progress on a terminal, silence elsewhere."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rechub_ray.preparation import prepare, progress, sources, text


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


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_half_a_task_is_half_the_bar(form: str, lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A single file is a single task, so a bar of whole tasks would stand still."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setattr(text, "BLOCK_BYTES", 400)
    monkeypatch.setattr(sources, "PARQUET_BATCH_ROWS", 100)
    frame = pd.DataFrame({"x": np.arange(1000), "y": np.arange(1000) % 2})
    frame.to_csv(lab.raw / "a.csv", index=False)
    frame.to_parquet(lab.raw / "a.parquet")
    seen: list[float] = []
    update = progress.Display.update

    def spy(self: Any, bar: Any, **fields: Any) -> None:
        seen.append(fields["completed"] / self.tasks[0].total)
        update(self, bar, **fields)

    monkeypatch.setattr(progress.Display, "update", spy)
    node = lab.single(files=f"a.{form}", format={"type": form}, features=[{"kind": "numeric", "name": "x"}])
    prepare(node)
    assert seen == sorted(seen)
    assert len({round(share, 1) for share in seen}) == 10
    assert seen[-1] == 1.0


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


def test_tasks_that_run_elsewhere_count_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("sys.stderr", terminal)
    with progress.Progress() as display:
        for _ in display.over("fitting", (SimpleNamespace(rows=500) for _ in range(3)), [1000] * 3):
            progress.waits_for("starting Ray")
            display._display.refresh()  # type: ignore[union-attr]
            progress.waits_for(None)
    shown = terminal.getvalue()
    assert "starting Ray" in shown
    assert "1,000 rows" in shown
    assert progress._described is None
