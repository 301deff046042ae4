"""Progress on standard error: one line that is renewed, and a line for each evaluation."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from rechub_ray.tracking.base import TRACKERS, RunInfo, Tracker

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

_LIVE_SECONDS = 0.1
_SPLITS = ("val/", "test/")
_COUNTS = ("rows_expected", "rows_seen", "rows_of_unknown_items")


@TRACKERS.register("console")
class ConsoleTracker(Tracker):
    """Writes to standard error: a live line with a bar on a terminal, elsewhere a plain line now and then.

    Args:
        every_seconds: least time between two plain lines, >= 0; evaluations are always written.
    """

    def __init__(self, run: RunInfo, *, every_seconds: Annotated[float, Ge(0)] = 10.0) -> None:
        super().__init__(run)
        self.every_seconds = every_seconds
        self._live = _live_display()
        self._numbers: dict[str, float] = {}
        self._first: tuple[int, float] | None = None  # step and time, for the ETA
        self._written_at = float("-inf")
        self._unwritten: str | None = None

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        self._numbers.update(metrics)
        if "train/loss" in metrics:
            self._progress(step)
        scores = [
            f"{name} {value:.5g}"
            for name, value in metrics.items()
            if name.startswith(_SPLITS) and not name.endswith(_COUNTS)
        ]
        if scores:
            self._write("  ".join([*self._place(step), *scores]))

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._unwritten is not None:
            self._write(self._unwritten)
            self._unwritten = None

    def _progress(self, step: int) -> None:
        now = time.monotonic()
        line = "  ".join([*self._place(step), *self._state(step, now)])
        if now - self._written_at < (self.every_seconds if self._live is None else _LIVE_SECONDS):
            self._unwritten = line
            return
        self._written_at, self._unwritten = now, None
        if self._live is None:
            self._write(line)
        else:
            self._live.start()
            self._live.update(_bar(line, step, self.run.total_steps), refresh=True)

    def _place(self, step: int) -> list[str]:
        total = self.run.total_steps
        epoch = [f"epoch {self._numbers['epoch']:.0f}"] if "epoch" in self._numbers else []
        return [*epoch, f"step {step:,}/{total:,} ({step / total:.0%})" if total else f"step {step:,}"]

    def _state(self, step: int, now: float) -> list[str]:
        parts = [f"loss {self._numbers['train/loss']:.5g}"]
        if "rows_per_second" in self._numbers:
            parts.append(f"{self._numbers['rows_per_second']:,.0f} rows/s")
        if self._first is None:
            self._first = step, now
        first_step, first_time = self._first
        if self.run.total_steps and step > first_step:
            left = (self.run.total_steps - step) * (now - first_time) / (step - first_step)
            parts.append(f"ETA {clock(left)}")
        return parts

    def _write(self, line: str) -> None:
        if self._live is not None and self._live.is_started:
            self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)


def _live_display() -> Live | None:
    """Return a display that is not started, or None where lines cannot be renewed."""
    if not sys.stderr.isatty():
        return None
    from rich.console import Console
    from rich.live import Live

    console = Console(file=sys.stderr)
    if console.is_dumb_terminal:
        return None
    return Live(console=console, auto_refresh=False, transient=True)


def _bar(line: str, step: int, total: int | None) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    text = Text(line, no_wrap=True, overflow="ellipsis")
    if not total:
        return text
    row = Table.grid(padding=(0, 1))
    row.add_row(ProgressBar(total=total, completed=step, width=20), text)
    return row


def clock(seconds: float) -> str:
    minutes, seconds = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
